//! Drives that are not as they should be.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrite::{Failure, Mode};
use guest::nbd::{EIO, Nbd, NbdError};
use guest::workload::pseudo_random;
use guest::{READY_LIMIT, Station, clients};

const BLOCK: usize = 4096;
/// Blocks that the test writes, and the one of them that it damages.
const BLOCKS: usize = 64;
const DAMAGED: usize = 29;

#[test]
fn a_corrupted_block_is_an_error_and_nothing_else_is() -> Result<()> {
    let station = Station::with_drive("corrupt", 512 << 20)?;
    let appliance = station.start()?;
    let data = pseudo_random(99, BLOCKS * BLOCK);
    let mut nbd = Nbd::connect(station.options.nbd, "demo", READY_LIMIT)?;
    for (index, block) in data.chunks(BLOCK).enumerate() {
        nbd.write((index * BLOCK) as u64, block, 0)?;
    }
    nbd.flush()?;
    drop(nbd);
    station.power_down(appliance)?;

    let wanted = &data[DAMAGED * BLOCK..(DAMAGED + 1) * BLOCK];
    ensure!(
        flip_a_bit_where(&station.drive_file(0), wanted)? > 0,
        "the block is not on the drive as it is"
    );

    let report = ferrite::check(&[station.drive_file(0)], Mode::WHOLE)?;
    ensure!(
        report.summary.damaged == 1,
        "`ferrite check` finds it:\n{}",
        report.text()
    );

    let appliance = station.start()?;
    let mut nbd = Nbd::connect(station.options.nbd, "demo", READY_LIMIT)?;
    let mut block = vec![0; BLOCK];
    for (index, expected) in data.chunks(BLOCK).enumerate() {
        let result = nbd.read((index * BLOCK) as u64, &mut block);
        if index == DAMAGED {
            ensure!(
                matches!(result, Err(NbdError::Refused(EIO))),
                "damaged block: {result:?}"
            );
        } else {
            result.with_context(|| format!("block {index} beside the damaged one"))?;
            ensure!(block == expected, "block {index} differs");
        }
    }
    // The place can be written again, and then it is well.
    nbd.write((DAMAGED * BLOCK) as u64, wanted, 0)?;
    nbd.read((DAMAGED * BLOCK) as u64, &mut block)?;
    ensure!(block == wanted);
    station.power_down(appliance)
}

/// Damages each copy of `wanted` on the drive; returns how many there were.
fn flip_a_bit_where(drive: &std::path::Path, wanted: &[u8]) -> Result<usize> {
    let file = fs::File::options().read(true).write(true).open(drive)?;
    let mut block = vec![0; BLOCK];
    let mut found = 0;
    for at in (0..file.metadata()?.len()).step_by(BLOCK) {
        file.read_exact_at(&mut block, at)?;
        if block == wanted {
            block[1234] ^= 0x10;
            file.write_all_at(&block, at)?;
            found += 1;
        }
    }
    Ok(found)
}

#[test]
fn a_foreign_drive_is_named_and_left_alone() -> Result<()> {
    let station = Station::with_drive("foreign", 256 << 20)?;
    let drive = station.drive_file(0);
    clients::run(
        "e2fsprogs",
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&drive),
    )?;
    let before = fs::read(&drive)?;
    let mut appliance = station.options.start()?;
    appliance
        .running
        .wait_for("ext4", READY_LIMIT)
        .context("what was found is not named")?;
    appliance.running.wait_for(" ready in ", READY_LIMIT)?;
    let listed = station.api().get("/v1/drives")?;
    let drives = ferrite::items(&listed, "drives");
    ensure!(
        drives.len() == 1 && drives[0]["state"] == "foreign",
        "{listed}"
    );
    ensure!(listed.to_string().contains("ext4"), "{listed}");
    let volumes = station.api().get("/v1/volumes");
    ensure!(
        matches!(volumes, Err(Failure::Refused { status: 503, .. })),
        "volumes without a pool: {volumes:?}"
    );
    station.power_down(appliance)?;
    ensure!(fs::read(&drive)? == before, "the foreign drive was written");
    Ok(())
}

#[test]
fn a_foreign_drive_beside_a_blank_one_is_left_alone() -> Result<()> {
    let mut station = Station::with_drive("beside", 256 << 20)?;
    let drive = station.drive_file(0);
    clients::run(
        "e2fsprogs",
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&drive),
    )?;
    let before = fs::read(&drive)?;
    station.add_drive(1 << 30)?;
    let appliance = station.start()?;
    clients::patterns(&station.uri("demo"))?;
    station.power_down(appliance)?;
    ensure!(fs::read(&drive)? == before, "the foreign drive was written");
    Ok(())
}

#[test]
fn a_pool_moves_to_another_machine_by_itself() -> Result<()> {
    let station = Station::with_drive("old", 1 << 30)?;
    let appliance = station.start()?;
    clients::qemu_io(&station.uri("demo"), &["write -P 3 0 8M", "flush"])?;
    station.power_down(appliance)?;
    let mut other = Station::new("new")?;
    let drive = qemu::Drive::new(station.drive_file(0))
        .sectors(512)
        .on(qemu::Bus::Virtio);
    other.options.machine.drives.push(drive);
    other.options.machine.memory_mib = 256;
    let appliance = other.start()?;
    clients::qemu_io(&other.uri("demo"), &["read -P 3 0 8M"])?;
    other.power_down(appliance)
}
