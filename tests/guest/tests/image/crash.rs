//! A crash, and what is told of it afterwards.

use anyhow::{Result, ensure};
use guest::Station;
use qemu::Boot;

#[test]
fn a_crash_is_told_by_the_next_run() -> Result<()> {
    let mut station = Station::with_drive("crash", 1 << 30)?;
    let Boot::Kernel { command_line, .. } = &mut station.options.machine.boot else {
        anyhow::bail!("not a kernel");
    };
    *command_line = "test.fault=panic".into();
    // It crashes, starts again by itself, and serves.
    let appliance = station.start()?;
    let console = appliance.running.serial();
    ensure!(console.contains("*** CRASH: "), "{console}");
    let api = station.api();
    let node = api.get("/v1/node")?;
    let report = node["crash"].as_str().unwrap_or_default();
    ensure!(report.contains("asked to panic"), "{node}");
    ensure!(report.contains("boot/src/fault.rs"), "{node}");
    let log = api.get("/v1/log?tail=200")?.to_string();
    ensure!(log.contains("the last run ended in a crash"), "{log}");
    ensure!(log.contains("asked to panic"), "{log}");
    let metrics = api.get_text("/metrics")?;
    ensure!(metrics.contains("ferrite_last_run_crashed 1"), "{metrics}");
    let audit = api.get("/v1/audit?limit=10")?;
    ensure!(audit.to_string().contains("asked to panic"), "{audit}");
    station.power_down(appliance)?;

    // Memory forgets with the power; the audit log does not.
    let Boot::Kernel { command_line, .. } = &mut station.options.machine.boot else {
        anyhow::bail!("not a kernel");
    };
    command_line.clear();
    let appliance = station.start()?;
    ensure!(api.get("/v1/node")?["crash"].is_null());
    let audit = api.get("/v1/audit?limit=10")?;
    ensure!(audit.to_string().contains("asked to panic"), "{audit}");
    station.power_down(appliance)
}
