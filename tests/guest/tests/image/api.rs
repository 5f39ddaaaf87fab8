//! The HTTP API and the command-line tool.

use anyhow::{Context, Result, bail, ensure};
use ferrite::{Client, Failure};
use guest::{Station, clients};
use serde_json::json;

#[test]
fn volumes_live_and_die_by_the_api() -> Result<()> {
    let station = Station::with_drive("api", 8 << 30)?;
    let appliance = station.start()?;
    let api = station.api();
    let made = api.post("/v1/volumes", &json!({"name": "db", "size": 256 << 20}))?;
    ensure!(made["name"] == "db" && made["size"] == 256 << 20, "{made}");
    clients::qemu_io(&station.uri("db"), &["write -P 9 0 16M", "flush"])?;
    let grown = api.patch("/v1/volumes/db", &json!({"size": 512 << 20}))?;
    ensure!(grown["size"] == 512 << 20, "{grown}");
    ensure!(clients::info(&station.uri("db"))?["export-size"] == 512 << 20);
    clients::qemu_io(
        &station.uri("db"),
        &["read -P 9 0 16M", "read -P 0 500M 1M"],
    )?;
    for (what, status) in [
        (json!({"name": "db", "size": 1 << 20}), 409),
        (json!({"name": "Bad Name", "size": 1 << 20}), 422),
        (json!({"name": "odd", "size": 1000}), 422),
    ] {
        refused(api.post("/v1/volumes", &what), status).with_context(|| what.to_string())?;
    }
    refused(api.patch("/v1/volumes/db", &json!({"size": 1 << 20})), 409).context("shrinking")?;
    refused(api.get("/v1/volumes/nosuch"), 404)?;
    // All of it is still so after a restart.
    station.power_down(appliance)?;
    let _appliance = station.start()?;
    ensure!(api.get("/v1/volumes/db")?["size"] == 512 << 20);
    api.delete("/v1/volumes/db")?;
    refused(api.get("/v1/volumes/db"), 404)?;
    ensure!(clients::list(&station.uri(""))? == ["demo"]);
    Ok(())
}

#[test]
fn nothing_is_told_without_the_token() -> Result<()> {
    let station = Station::with_drive("token", 1 << 30)?;
    let appliance = station.start()?;
    let stranger = Client::new(&appliance.api_url(), "guessed");
    for path in ["/v1/node", "/v1/volumes", "/v1/log?tail=5"] {
        refused(stranger.get(path), 401).context(path)?;
    }
    refused(stranger.delete("/v1/volumes/demo"), 401)?;
    station.api().get("/v1/volumes/demo")?;
    // The token came in over fw_cfg and must not come out on the console.
    ensure!(
        !appliance.running.serial().contains(&station.options.token),
        "the token is in the log"
    );
    Ok(())
}

/// An appliance that nobody configured: one token, on its console, once.
#[test]
fn tokens_outlive_a_power_cut_and_the_first_is_shown_once() -> Result<()> {
    const SHOWN: &str = "first token of this appliance: ";
    let mut station = Station::with_drive("first-token", 1 << 30)?;
    station.options.token.clear();
    let appliance = station.start()?;
    let console = appliance.running.serial();
    let first = console
        .lines()
        .find_map(|line| line.trim().strip_prefix(SHOWN));
    let first = first.context("no token on the console")?;
    let boss = Client::new(&appliance.api_url(), first);
    let made = boss.post("/v1/tokens", &json!({"name": "looks", "role": "read-only"}))?;
    let secret = made["token"].as_str().context("no secret")?;
    let looks = Client::new(&appliance.api_url(), secret);
    looks.get("/v1/volumes")?;
    refused(
        looks.post("/v1/volumes", &json!({"name": "x", "size": 4096})),
        403,
    )?;
    let log = looks.get("/v1/log?tail=1000")?.to_string();
    ensure!(
        !log.contains(first) && !log.contains(secret),
        "a secret is in the log"
    );
    drop(appliance);

    let appliance = station.start()?;
    ensure!(!appliance.running.serial().contains(SHOWN), "shown again");
    looks.get("/v1/volumes")?;
    boss.delete("/v1/tokens/looks")?;
    refused(looks.get("/v1/volumes"), 401)?;
    station.power_down(appliance)?;

    let appliance = station.start()?;
    refused(looks.get("/v1/volumes"), 401)?;
    let audit = boss.get("/v1/audit?limit=1")?;
    ensure!(
        audit["entries"][0]["what"] == "DELETE /v1/tokens/looks",
        "{audit}"
    );
    ensure!(audit["entries"][0]["who"] == "first", "{audit}");
    station.power_down(appliance)
}

#[test]
fn the_node_describes_itself_and_turns_off() -> Result<()> {
    let mut station = Station::with_drive("node", 1 << 30)?;
    station.options.set("node.name", "rack-7");
    let mut appliance = station.start()?;
    let node = station.api().get("/v1/node")?;
    ensure!(node["name"] == "rack-7", "{node}");
    let log = station.api().get("/v1/log?tail=100")?;
    ensure!(log.to_string().contains("ready in"), "{log}");
    station.api().post("/v1/node/shutdown", &json!({}))?;
    let status = appliance.running.wait(std::time::Duration::from_secs(30))?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn refused<T: std::fmt::Debug>(result: Result<T, Failure>, expected: u16) -> Result<()> {
    match result {
        Err(Failure::Refused { status, .. }) if status == expected => Ok(()),
        other => bail!("{expected} expected, got {other:?}"),
    }
}
