//! Snapshots, clones, jobs and schedules of the real image, as people and outside clients use them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ferrite::Failure;
use ferrite::cli::{self, Arguments};
use guest::nbd::{Nbd, NbdError};
use guest::{READY_LIMIT, Station, clients};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// How long what happens by itself may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// `EPERM` of the protocol.
const EPERM: u32 = 1;

/// Does what `ferrite LINE` does.
pub fn tool(station: &Station, line: &str) -> Result<(), Failure> {
    let api = format!("http://{}", station.options.api);
    let words = ["ferrite", "--api", &api, "--token", &station.options.token];
    let words = words.into_iter().chain(line.split(' '));
    cli::run(Arguments::try_parse_from(words).expect("a good command line"))
}

/// The refusal of `ferrite LINE`.
fn refusal(station: &Station, line: &str) -> Result<String> {
    match tool(station, line) {
        Err(failure) => Ok(failure.to_string()),
        Ok(()) => bail!("`{line}` was done"),
    }
}

/// One byte of each MiB of an export, from the first on.
fn bytes<const N: usize>(station: &Station, export: &str) -> Result<[u8; N]> {
    let mut nbd = Nbd::connect(station.options.nbd, export, READY_LIMIT)?;
    let (mut bytes, mut block) = ([0; N], [0; 4096]);
    for (at, byte) in (0..).step_by(1 << 20).zip(&mut bytes) {
        nbd.read(at, &mut block)?;
        *byte = block[99];
    }
    Ok(bytes)
}

/// Waits until `path` of the API says what is wanted.
pub fn wait_for(station: &Station, path: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = station.api().get(path)?;
        if is_so(&answer) {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{path} is still {answer}");
        std::thread::sleep(INTERVAL);
    }
}

#[test]
fn a_snapshot_stays_what_it_was_through_everything() -> Result<()> {
    let station = Station::with_drive("snapshots", 2 << 30)?;
    let appliance = station.start()?;
    let demo = station.uri("demo");
    clients::qemu_io(&demo, &["write -P 1 0 4M", "flush"])?;
    tool(&station, "snapshot create demo@monday")?;
    clients::qemu_io(&demo, &["write -P 2 0 1M", "discard 1M 1M", "flush"])?;
    tool(&station, "clone demo@monday test")?;
    clients::qemu_io(&station.uri("test"), &["write -P 3 3M 1M", "flush"])?;
    let names = clients::list(&station.uri(""))?;
    ensure!(names == ["demo", "test", "demo@monday"], "{names:?}");
    let info = clients::info(&station.uri("demo@monday"))?;
    ensure!(info["is_read_only"] == true, "{info}");
    let mut reader = Nbd::connect(station.options.nbd, "demo@monday", READY_LIMIT)?;
    let refused = reader.write(0, &[9; 4096], 0);
    ensure!(
        matches!(refused, Err(NbdError::Refused(EPERM))),
        "{refused:?}"
    );

    // Volume and snapshot have 2 MiB each for themselves; the rest they share with each other or the clone.
    // An answer may be two seconds old.
    for (path, used) in [
        ("/v1/volumes/demo", [3, 1, 2]),
        ("/v1/volumes/test", [4, 1, 3]),
    ] {
        wait_for(&station, path, |shown| {
            let number = |key: &str| shown[key].as_u64().unwrap_or(u64::MAX) / MIB;
            ["allocated", "unique", "shared"].map(number) == used
        })?;
    }
    let diff = station.api().get("/v1/volumes/demo/diff?from=monday")?;
    let range = |at: u64, kind: &str| json!({"offset": at * MIB, "length": MIB, "kind": kind});
    ensure!(
        diff == json!({"ranges": [range(0, "data"), range(1, "zero")]}),
        "{diff}"
    );

    station.cut_power(appliance)?;
    station.check()?;
    let appliance = station.start()?;
    ensure!(bytes(&station, "demo")? == [2, 0, 1, 1]);
    ensure!(bytes(&station, "demo@monday")? == [1; 4]);
    ensure!(bytes(&station, "test")? == [1, 1, 1, 3]);

    // A client in the way is told, and only by force.
    let mut client = Nbd::connect(station.options.nbd, "demo", READY_LIMIT)?;
    let refused = refusal(&station, "rollback demo@monday")?;
    ensure!(refused.contains("a client is attached"), "{refused}");
    tool(&station, "rollback demo@monday --force")?;
    let deadline = Instant::now() + LIMIT;
    while !matches!(client.write(0, &[9; 4096], 0), Err(NbdError::Lost(_))) {
        ensure!(Instant::now() < deadline, "the client is not cut off");
    }
    ensure!(bytes(&station, "demo")? == [1; 4]);

    let refused = refusal(&station, "volume delete demo")?;
    ensure!(
        refused.contains("demo@monday") && refused.contains("--snapshots"),
        "{refused}"
    );
    tool(&station, "volume delete demo --snapshots")?;
    ensure!(clients::list(&station.uri(""))? == ["test"]);
    ensure!(bytes(&station, "test")? == [1, 1, 1, 3]);
    station.power_down(appliance)?;
    station.check()
}

#[test]
fn a_slip_of_the_hand_is_answered_with_what_was_meant() -> Result<()> {
    let station = Station::with_drive("slips", 1 << 30)?;
    let _appliance = station.start()?;
    tool(&station, "snapshot create demo@monday")?;
    for (line, answer) in [
        (
            "clone demo@mondya test",
            "no snapshot `mondya` of `demo`; did you mean `monday`?",
        ),
        (
            "rollback dmeo@monday",
            "no volume `dmeo`; did you mean `demo`?",
        ),
        (
            "snapshot delete demo@xyz",
            "no snapshot `xyz` of `demo` (HTTP 404)",
        ),
        (
            "diff demo@monday demo@monda",
            "no snapshot `monda` of `demo`; did you mean `monday`?",
        ),
        (
            "schedule get demos",
            "no volume `demos`; did you mean `demo`?",
        ),
        ("schedule get demo", "this volume has no snapshot schedule"),
        ("snapshot create demo@monday", "taken"),
    ] {
        let refused = refusal(&station, line)?;
        ensure!(refused.contains(answer), "{line}: {refused}");
    }
    tool(&station, "snapshot rename demo@monday demo@tuesday")?;
    tool(&station, "volume rename demo data")?;
    tool(&station, "snapshot list --space")?;
    tool(&station, "diff data@tuesday")?;
    Ok(())
}

#[test]
fn a_scrub_survives_a_power_cut_and_snapshots_come_by_the_clock() -> Result<()> {
    let station = Station::with_drive("upkeep", 1 << 30)?;
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["write -P 7 0 64M", "flush"])?;
    tool(&station, "scrub --rate 8MiB --detach")?;
    let progress = |job: &Value| job["progress"].as_f64().unwrap_or(0.0);
    wait_for(&station, "/v1/jobs/1", |job| progress(job) > 0.3)?;
    tool(&station, "jobs pause 1")?;
    station.cut_power(appliance)?;

    let appliance = station.start().context("after the cut")?;
    let job = station.api().get("/v1/jobs/1")?;
    ensure!(job["state"] == "paused" && progress(&job) > 0.2, "{job}");
    tool(&station, "jobs rate 1 0")?;
    tool(&station, "jobs resume 1")?;
    tool(&station, "jobs wait 1")?;
    let job = station.api().get("/v1/jobs/1")?;
    ensure!(
        job["progress"] == 1.0 && job["result"]["damaged"] == json!([]),
        "{job}"
    );
    // It did not begin again: what was verified is about what there is.
    let blocks = job["result"]["blocks"].as_u64().unwrap_or(0);
    ensure!((16_384..20_000).contains(&blocks), "{job}");

    let path = "/v1/volumes/demo/schedule";
    tool(&station, "schedule set demo --every 1s --keep last=3")?;
    let third = wait_for(&station, path, |shown| shown["snapshots"] == 3)?;
    station.cut_power(appliance)?;
    let appliance = station.start().context("after the second cut")?;
    let is_new = |shown: &Value| shown["newest"] != third["newest"] && shown["snapshots"] == 3;
    let shown = wait_for(&station, path, is_new)?;
    ensure!(shown["problem"] == Value::Null, "{shown}");
    tool(&station, "schedule delete demo")?;
    let listed = station.api().get("/v1/volumes/demo/snapshots")?;
    ensure!(
        listed["snapshots"]
            .as_array()
            .is_some_and(|all| all.len() <= 4),
        "{listed}"
    );
    station.power_down(appliance)?;
    station.check()
}
