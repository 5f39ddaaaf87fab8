//! What clients see of an appliance that runs.

use anyhow::{Context, Result, ensure};
use guest::{Scratch, Station, clients};
use qemu::Bus;

/// The volume that the first boot makes.
const DEMO_BYTES: u64 = 1 << 30;

#[test]
fn nbdinfo_describes_the_demo_volume() -> Result<()> {
    let station = Station::with_drive("info", 8 << 30)?;
    let _appliance = station.start()?;
    let info = clients::info(&station.uri("demo"))?;
    ensure!(info["export-size"] == DEMO_BYTES, "{info}");
    for ability in [
        "can_multi_conn",
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
    ] {
        ensure!(info[ability] == true, "{ability} is missing: {info}");
    }
    ensure!(info["is_read_only"] == false, "{info}");
    ensure!(
        info["block_size_minimum"] == 512 && info["block_size_preferred"] == 4096,
        "{info}"
    );
    ensure!(clients::list(&station.uri(""))? == ["demo"]);
    // The empty name is the demo volume.
    ensure!(clients::info(&station.uri(""))?["export-size"] == DEMO_BYTES);
    ensure!(
        clients::info(&station.uri("nosuch")).is_err(),
        "an export that is not there"
    );
    Ok(())
}

#[test]
fn nbdcopy_round_trip() -> Result<()> {
    let station = Station::with_drive("copy", 8 << 30)?;
    let _appliance = station.start()?;
    small_volume(&station, "copy", 96 << 20)?;
    clients::copy_round_trip(&station.uri("copy"), 64 << 20, &station.scratch)
}

#[test]
fn qemu_io_patterns() -> Result<()> {
    let station = Station::with_drive("patterns", 8 << 30)?;
    let _appliance = station.start()?;
    clients::patterns(&station.uri("demo"))
}

#[test]
fn fio_verify_mixed_sizes() -> Result<()> {
    let station = Station::with_drive("fio", 8 << 30)?;
    let _appliance = station.start()?;
    clients::fio_verify(&station.uri("demo"), 64, &station.scratch)
}

#[test]
fn sectors_of_4_kib() -> Result<()> {
    let mut station = Station::with_drive("sectors", 8 << 30)?;
    station.options.machine.drives[0].sector_bytes = 4096;
    writes_survive_a_power_cycle(&station)
}

#[test]
fn virtio_blk_drive() -> Result<()> {
    let mut station = Station::with_drive("virtio", 8 << 30)?;
    station.options.machine.drives[0].bus = Bus::Virtio;
    writes_survive_a_power_cycle(&station)
}

#[test]
fn virtio_blk_drive_with_sectors_of_4_kib() -> Result<()> {
    let mut station = Station::with_drive("virtio4k", 8 << 30)?;
    let drive = &mut station.options.machine.drives[0];
    drive.bus = Bus::Virtio;
    drive.sector_bytes = 4096;
    writes_survive_a_power_cycle(&station)
}

#[test]
fn drive_of_256_mib() -> Result<()> {
    let station = Station::with_drive("tiny", 256 << 20)?;
    let appliance = station.start()?;
    small_volume(&station, "small", 128 << 20)?;
    clients::fio_verify(&station.uri("small"), 32, &station.scratch)?;
    station.power_down(appliance)
}

#[test]
fn memory_of_64_mib_serves_1_tib() -> Result<()> {
    let mut station = Station::with_drive("large", 1 << 40)?;
    station.options.machine.memory_mib = 64;
    let appliance = station.start()?;
    // Nearly the whole drive as one volume, written at both ends.
    small_volume(&station, "huge", 1000 << 30)?;
    clients::fio_verify(&station.uri("huge"), 64, &station.scratch)?;
    clients::qemu_io(&station.uri("huge"), &["write -P 7 999G 1M", "flush"])?;
    station.cut_power(appliance)?;
    let appliance = station.start()?;
    clients::qemu_io(
        &station.uri("huge"),
        &["read -P 7 999G 1M", "read -P 0 500G 1M"],
    )?;
    station.power_down(appliance)
}

#[test]
fn two_drives_and_two_volumes() -> Result<()> {
    let mut station = Station::with_drive("two", 2 << 30)?;
    station.add_drive(3 << 30)?;
    let appliance = station.start()?;
    let drives = station.api().get("/v1/drives")?;
    let listed = ferrite::items(&drives, "drives").len();
    ensure!(listed == 2, "two drives, not {listed}: {drives}");
    small_volume(&station, "second", 512 << 20)?;
    clients::qemu_io(&station.uri("demo"), &["write -P 1 0 64M", "flush"])?;
    clients::qemu_io(&station.uri("second"), &["write -P 2 0 64M", "flush"])?;
    station.power_down(appliance)?;
    // The order of the slots does not matter: drives are known by what is on them.
    let mut station = station;
    station.options.machine.drives.reverse();
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["read -P 1 0 64M"])?;
    clients::qemu_io(&station.uri("second"), &["read -P 2 0 64M"])?;
    station.power_down(appliance)
}

#[test]
fn sixty_four_connections_at_once() -> Result<()> {
    let station = Station::with_drive("many", 8 << 30)?;
    let _appliance = station.start()?;
    let limit = std::time::Duration::from_secs(30);
    // One after the other: QEMU's user network lets one connection wait, and forgets others without a word.
    let mut all = (0..64)
        .map(|_| guest::nbd::Nbd::connect(station.options.nbd, "demo", limit))
        .collect::<Result<Vec<_>>>()?;
    for (index, nbd) in (0u64..).zip(&mut all) {
        nbd.write(index * 4096, &[index as u8; 4096], 0)?;
    }
    all[0].flush()?;
    let mut block = [0; 4096];
    for index in 0..64u64 {
        all[63 - index as usize].read(index * 4096, &mut block)?;
        ensure!(block == [index as u8; 4096], "block {index}");
    }
    Ok(())
}

fn small_volume(station: &Station, name: &str, bytes: u64) -> Result<()> {
    let body = serde_json::json!({"name": name, "size": bytes});
    station
        .api()
        .post("/v1/volumes", &body)
        .context("a volume cannot be created")?;
    Ok(())
}

/// Verified writes, an orderly restart, a power cut: everything is still there.
fn writes_survive_a_power_cycle(station: &Station) -> Result<()> {
    let appliance = station.start()?;
    clients::fio_verify(&station.uri("demo"), 32, &Scratch::new("fio"))?;
    clients::qemu_io(
        &station.uri("demo"),
        &["write -P 5 100M 8M", "write -P 6 100M 512", "flush"],
    )?;
    station.power_down(appliance)?;
    let there = ["read -P 6 100M 512", "read -P 5 104858112 1M"];
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &there)?;
    station.cut_power(appliance)?;
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &there)?;
    station.power_down(appliance)
}
