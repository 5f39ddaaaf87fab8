//! Volumes that are adopted from a server nobody here wrote.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use guest::nbd::Nbd;
use guest::reference::Reference;
use guest::{HOST, READY_LIMIT, Scratch, Station};
use serde_json::json;

use crate::snapshots::{tool, wait_for};

const MIB: u64 = 1 << 20;
/// Size of what is adopted, most of it holes.
const SIZE: u64 = 512 * MIB;
/// Each sixteenth MiB has data.
const STEP: u64 = 16;

/// What the MiB `index` of the origin is filled with.
fn byte(index: u64) -> u8 {
    match index % STEP {
        0 => (index / STEP) as u8 + 1,
        _ => 0,
    }
}

/// A file with holes, and a server of it.
fn origin(path: &Path) -> Result<Reference> {
    let file = File::create(path)?;
    file.set_len(SIZE)?;
    for index in (0..SIZE / MIB).step_by(STEP as usize) {
        file.write_all_at(&[byte(index); MIB as usize], index * MIB)?;
    }
    Reference::of_file(path, qemu::probe::free_port()?)
}

fn uri(address: SocketAddr) -> String {
    format!("nbd://{HOST}:{}/", address.port())
}

/// Whether each MiB begins as it should.
fn compare(station: &Station, export: &str, expected: impl Fn(u64) -> u8) -> Result<()> {
    let mut nbd = Nbd::connect(station.options.nbd, export, READY_LIMIT)?;
    let mut block = [0; 4096];
    for index in 0..SIZE / MIB {
        nbd.read(index * MIB + 8192, &mut block)?;
        let (found, expected) = (block[99], expected(index));
        ensure!(
            found == expected,
            "{export}, MiB {index}: {found} instead of {expected}"
        );
    }
    Ok(())
}

#[test]
fn a_volume_is_adopted_at_once_and_outlives_its_origin() -> Result<()> {
    let scratch = Scratch::new("origin");
    let server = origin(&scratch.file("disk"))?;
    let station = Station::with_drive("adoption", 1 << 30)?;
    let appliance = station.start()?;
    tool(
        &station,
        &format!("volume adopt db {}", uri(server.address())),
    )?;
    let job = station.api().get("/v1/volumes/db")?["hydration"]["job"].clone();
    // Slowly, so that most of it is not here when the power goes.
    tool(&station, &format!("jobs rate {job} 2MiB"))?;
    let mut nbd = Nbd::connect(station.options.nbd, "db", READY_LIMIT)?;
    let mut block = [0; 4096];
    let last = SIZE / MIB - STEP;
    nbd.read(last * MIB, &mut block)?;
    ensure!(
        block == [byte(last); 4096],
        "what is read first is not what it should be"
    );
    nbd.write(last * MIB + 8192, &[0xaa; 512], 0)?;
    nbd.flush()?;
    tool(&station, "snapshot create db@early")?;
    nbd.write((last - STEP) * MIB + 8192, &[0xbb; 4096], 0)?;
    nbd.flush()?;
    let volume = station.api().get("/v1/volumes/db")?;
    let known = volume["hydration"]["known"].as_u64().unwrap_or(u64::MAX);
    ensure!(known < SIZE / 2, "{volume}");

    station.cut_power(appliance)?;
    station.check()?;
    let appliance = station.start()?;
    tool(&station, &format!("jobs rate {job} 0"))?;
    wait_for(&station, "/v1/volumes/db", |volume| {
        // What is used may be that of two seconds ago.
        let allocated = volume["allocated"].as_u64().unwrap_or(0);
        let data = SIZE / STEP;
        volume["hydration"].is_null() && (data..data + MIB).contains(&allocated)
    })?;
    let ended = station.api().get(&format!("/v1/jobs/{job}"))?;
    ensure!(ended["state"] == "done", "{ended}");
    // Each block once, with the last seconds before the power went again.
    let fetched = ended["result"]["fetched"].as_u64().unwrap_or(u64::MAX);
    ensure!(fetched <= SIZE / STEP + 16 * MIB, "{ended}");

    drop(server);
    let early = |index| if index == last { 0xaa } else { byte(index) };
    let now = |index| {
        if index == last - STEP {
            0xbb
        } else {
            early(index)
        }
    };
    compare(&station, "db", now)?;
    compare(&station, "db@early", early)?;
    let mut nbd = Nbd::connect(station.options.nbd, "db", READY_LIMIT)?;
    nbd.read(last * MIB + 8192, &mut block)?;
    ensure!(block[..512] == [0xaa; 512] && block[512..] == [byte(last); 3584]);
    station.power_down(appliance)?;
    station.check()
}

#[test]
fn paused_jobs_leave_their_places_to_others() -> Result<()> {
    let scratch = Scratch::new("places-origin");
    let server = origin(&scratch.file("disk"))?;
    let station = Station::with_drive("places", 1 << 30)?;
    let appliance = station.start()?;
    for name in ["a", "b", "c", "d", "e"] {
        let line = format!("volume adopt {name} {}", uri(server.address()));
        tool(&station, &line)?;
        if name != "e" {
            let path = format!("/v1/volumes/{name}");
            let job = station.api().get(&path)?["hydration"]["job"].clone();
            tool(&station, &format!("jobs pause {job}"))?;
        }
    }
    wait_for(&station, "/v1/volumes/e", |volume| {
        volume["hydration"].is_null()
    })?;
    let first = station.api().get("/v1/volumes/a")?;
    ensure!(!first["hydration"].is_null(), "{first}");
    station.power_down(appliance)
}

#[test]
fn what_cannot_be_adopted_is_refused_by_name() -> Result<()> {
    let scratch = Scratch::new("odd-origin");
    let path = scratch.file("disk");
    File::create(&path)?.set_len(1_000_001)?;
    let server = Reference::of_file(&path, qemu::probe::free_port()?)?;
    let station = Station::with_drive("refusals", 256 << 20)?;
    let _appliance = station.start()?;
    let nobody = format!("nbd://{HOST}:{}/", qemu::probe::free_port()?.port());
    for (origin, status, what) in [
        (uri(server.address()), 502, "1000001 bytes"),
        (nobody, 404, "does not answer"),
        ("nbd://nas/db".into(), 404, "by its address"),
        ("http://nas/db".into(), 422, "nbd://10.0.0.5:10809/disk"),
    ] {
        let wanted = json!({"name": "db", "origin": {"nbd": origin}});
        let answer = station.api().post("/v1/volumes", &wanted);
        let refused = format!("{:?}", answer.err());
        ensure!(
            refused.contains(what) && refused.contains(&status.to_string()),
            "{origin}: {refused}"
        );
    }
    let volumes = station.api().get("/v1/volumes")?;
    ensure!(
        volumes["volumes"]
            .as_array()
            .is_some_and(|list| list.len() == 1),
        "{volumes}"
    );
    Ok(())
}
