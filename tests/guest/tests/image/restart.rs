//! Ends and new beginnings.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest::workload::Workload;
use guest::{READY_LIMIT, Rider, Station, clients};
use serde_json::json;

/// Bytes of the volume that the killed workload writes to.
const WORKLOAD_BYTES: u64 = 48 << 20;
/// How often the plug is pulled.
const KILLS: u64 = 20;
/// How often the appliance restarts under a client.
const RESTARTS: usize = 20;

#[test]
fn the_power_button_ends_cleanly() -> Result<()> {
    let station = Station::with_drive("button", 1 << 30)?;
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["write -P 8 0 32M"])?;
    let start = Instant::now();
    station.power_down(appliance)?;
    station.check()?;
    ensure!(
        start.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        start.elapsed()
    );
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["read -P 8 0 32M"])?;
    station.power_down(appliance)
}

#[test]
fn twenty_power_cuts_lose_no_flushed_write() -> Result<()> {
    let station = Station::with_drive("cuts", 1 << 30)?;
    let mut workload = Workload::new(0xfe44, 4, WORKLOAD_BYTES);
    let mut appliance = station.start()?;
    station.api().post(
        "/v1/volumes",
        &json!({"name": "work", "size": WORKLOAD_BYTES}),
    )?;
    for cut in 0..KILLS {
        workload
            .run(station.options.nbd, "work", |flushes| {
                // Later and later: from the first writes to many checkpoints.
                let wanted = 1 + cut * 4;
                let deadline = Instant::now() + Duration::from_secs(30);
                while flushes.load(Ordering::Relaxed) < wanted {
                    ensure!(
                        Instant::now() < deadline,
                        "only {flushes:?} of {wanted} flushes"
                    );
                    std::thread::sleep(Duration::from_millis(2));
                }
                appliance.running.kill()
            })
            .with_context(|| format!("cut {cut}"))?;
        station
            .check()
            .with_context(|| format!("after cut {cut}"))?;
        appliance = station
            .start()
            .with_context(|| format!("start after cut {cut}"))?;
        workload
            .verify(station.options.nbd, "work")
            .with_context(|| format!("after cut {cut} at {} flushes", workload.flushes()))?;
    }
    eprintln!(
        "{KILLS} power cuts, {} flushes, nothing lost",
        workload.flushes()
    );
    station.power_down(appliance)
}

#[test]
fn a_panic_is_shown_and_followed_by_a_restart() -> Result<()> {
    let station = Station::with_drive("panic", 1 << 30)?;
    let mut appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["write -P 4 0 4M", "flush"])?;
    panic_now(&appliance)?;
    appliance.running.wait_for("backtrace", READY_LIMIT)?;
    appliance
        .wait_ready(READY_LIMIT)
        .context("no restart after the panic")?;
    clients::qemu_io(&station.uri("demo"), &["read -P 4 0 4M"])?;
    station.power_down(appliance)
}

/// A non-maskable interrupt, which nothing in the appliance expects: as good as any bug.
fn panic_now(appliance: &qemu::Appliance) -> Result<()> {
    appliance
        .running
        .qmp()?
        .execute("inject-nmi", json!({}))
        .map(drop)
}

#[test]
fn a_client_rides_through_twenty_restarts() -> Result<()> {
    let station = Station::with_drive("ride", 1 << 30)?;
    let mut appliance = station.start()?;
    let mut client = Rider::connect(station.options.nbd, "demo")?;
    let mut stalls = Vec::new();
    for round in 0..RESTARTS {
        let (pattern, at) = (round + 1, round * 4);
        client.run(&format!("write -P {pattern} {at}M 1M"))?;
        client.run("flush")?;
        let start = Instant::now();
        match round % 3 {
            0 => {
                station.power_down(appliance)?;
                appliance = station.start()?;
            }
            1 => {
                station.cut_power(appliance)?;
                appliance = station.start()?;
            }
            _ => {
                panic_now(&appliance)?;
                appliance.wait_ready(READY_LIMIT)?;
            }
        }
        client
            .run(&format!("read -P {pattern} {at}M 1M"))
            .with_context(|| format!("round {round}"))?;
        stalls.push(start.elapsed());
    }
    for round in 0..RESTARTS {
        client.run(&format!("read -P {} {}M 1M", round + 1, round * 4))?;
    }
    stalls.sort();
    eprintln!(
        "stalls: median {:?}, longest {:?}",
        stalls[RESTARTS / 2],
        stalls[RESTARTS - 1]
    );
    client.end()?;
    station.power_down(appliance)
}
