//! Two appliances that are paired, and part again.

use anyhow::{Context, Result, ensure};
use guest::nbd::{FUA, Nbd};
use guest::{READY_LIMIT, Station};
use serde_json::{Value, json};

use crate::snapshots::tool;

/// What it was paired with.
fn peers(station: &Station) -> Result<Vec<Value>> {
    let answer = station.api().get("/v1/peers")?;
    let peers = answer["peers"].as_array().context("no list of peers")?;
    Ok(peers.clone())
}

/// Why `one` is not paired with `other` by this token.
fn refusal(one: &Station, other: &Station, token: &Value) -> Result<String> {
    let wanted = json!({"address": other.peer_address(), "token": token});
    let refused = one.api().post("/v1/peers", &wanted).err();
    Ok(refused.context("they were paired")?.to_string())
}

#[test]
fn two_appliances_are_paired_once_and_part() -> Result<()> {
    let [a, b] = ["peer-a", "peer-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, b) = (a?, b?);
    let (in_a, in_b) = (a.start()?, b.start()?);
    let made = b.api().post("/v1/peers/tokens", &json!({}))?;
    let token = &made["token"];
    let wanted = json!({"address": b.peer_address(), "token": token});
    let peer = a.api().post("/v1/peers", &wanted)?;
    ensure!(peer["name"] == "peer-b", "{peer}");
    let b_key = b.api().get("/v1/peers")?["key"].clone();
    ensure!(peer["key"] == b_key && peer["address"] == b.peer_address());
    ensure!(peers(&a)? == [peer]);
    let known = peers(&b)?;
    ensure!(known.len() == 1, "{known:?}");
    // As others reach it, not as it knows itself.
    ensure!(
        known[0]["name"] == "peer-a" && known[0]["address"] == a.peer_address(),
        "{known:?}"
    );
    let again = refusal(&a, &b, token)?;
    ensure!(again.contains("was used"), "{again}");
    let itself = a.api().post("/v1/peers/tokens", &json!({}))?;
    let itself = refusal(&a, &a, &itself["token"])?;
    ensure!(itself.contains("itself"), "{itself}");

    // It is durable, and secrets are nowhere.
    drop(in_a);
    let in_a = a.start()?;
    ensure!(peers(&a)?.len() == 1 && peers(&b)?.len() == 1);
    let secret = token.as_str().context("no token")?;
    for (station, appliance) in [(&a, &in_a), (&b, &in_b)] {
        let audit = station.api().get("/v1/audit")?.to_string();
        ensure!(!audit.contains(secret), "the token is noted");
        ensure!(!appliance.running.serial().contains(secret), "it is logged");
    }

    tool(&b, "peer remove peer-a")?;
    ensure!(peers(&b)?.is_empty());
    // What `a` knows is its own affair, and a new pairing puts both right.
    ensure!(peers(&a)?.len() == 1);
    let made = b.api().post("/v1/peers/tokens", &json!({}))?;
    let file = a.scratch.file("token");
    std::fs::write(&file, made["token"].as_str().context("no token")?)?;
    let (file, address) = (file.display(), b.peer_address());
    tool(&a, &format!("peer add {address} --token-file {file}"))?;
    ensure!(peers(&a)?.len() == 1 && peers(&b)?.len() == 1);
    tool(&a, "peer set-address peer-b 10.0.2.2:9")?;
    ensure!(peers(&a)?[0]["address"] == "10.0.2.2:9");
    b.power_down(in_b)?;
    a.power_down(in_a)
}

#[test]
fn appliances_without_names_of_their_own_are_told_to_get_some() -> Result<()> {
    let mut stations = Vec::new();
    for name in ["nameless-a", "nameless-b"] {
        let mut station = Station::for_peers(name, 256 << 20)?;
        station.options.set("node.name", "ferrite");
        stations.push((station.start()?, station));
    }
    let [(_, a), (_, b)] = &stations[..] else {
        unreachable!("there are two");
    };
    let refused = a.pair_with(b).err().context("they were paired")?;
    let refused = refused.to_string();
    ensure!(refused.contains("node.name"), "{refused}");
    Ok(())
}

#[test]
fn a_removed_peer_reads_and_takes_nothing() -> Result<()> {
    let [a, b] = ["removed-a", "removed-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, b) = (a?, b?);
    let (in_a, in_b) = (a.start()?, b.start()?);
    a.pair_with(&b)?;
    a.api()
        .post("/v1/volumes", &json!({"name": "db", "size": 1 << 20}))?;
    let mut owner = Nbd::connect(a.options.nbd, "db", READY_LIMIT)?;
    owner.write(0, &[7; 8192], FUA)?;
    a.api()
        .post("/v1/volumes/db/snapshots", &json!({"name": "monday"}))?;
    tool(&a, "migrate db --to removed-b --prepare")?;
    let mut reader = Nbd::connect(b.options.nbd, "db", READY_LIMIT)?;
    let mut block = [0; 4096];
    reader.read(0, &mut block)?;
    ensure!(block == [7; 4096]);
    let snapshot = json!({"appliance": "removed-a", "volume": "db@monday"});
    let adopt = |name: &str| {
        let wanted = json!({"name": name, "origin": snapshot});
        b.api().post("/v1/volumes", &wanted)
    };
    adopt("first")?;

    tool(&a, "peer remove removed-b")?;
    // Nothing of what it read is kept, and nothing more comes.
    let late = reader.read(4096, &mut block);
    ensure!(late.is_err(), "a removed peer reads: {late:?}");
    let adopted = adopt("second");
    ensure!(adopted.is_err(), "a removed peer adopts: {adopted:?}");
    // Whatever becomes of the hand-over, it does not get there.
    let handed = a.api().post("/v1/volumes/db/hand-over", &json!({}));
    ensure!(handed.is_err(), "it was handed over: {handed:?}");
    let there = b.api().get("/v1/volumes/db")?;
    ensure!(there["move"]["state"] == "prepared", "{there}");
    let refused = reader.write(0, &[8; 4096], 0);
    ensure!(refused.is_err(), "a removed peer took it: {refused:?}");
    b.power_down(in_b)?;
    a.power_down(in_a)
}
