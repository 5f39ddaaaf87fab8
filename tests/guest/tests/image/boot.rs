//! Ways to boot.

use std::fs;

use anyhow::{Result, ensure};
use guest::{Station, clients};
use qemu::{Bus, Chipset, Firmware};

#[test]
fn seabios_from_nvme() -> Result<()> {
    boots_from_disk("bios-nvme", Bus::Nvme, Firmware::SeaBios)
}

#[test]
fn ovmf_from_nvme() -> Result<()> {
    boots_from_disk("uefi-nvme", Bus::Nvme, Firmware::Ovmf)
}

#[test]
fn seabios_from_virtio_blk() -> Result<()> {
    boots_from_disk("bios-virtio", Bus::Virtio, Firmware::SeaBios)
}

#[test]
fn plain_pci_board() -> Result<()> {
    let mut station = Station::with_drive("i440fx", 1 << 30)?;
    station.options.machine.chipset = Chipset::Pc;
    let appliance = station.start()?;
    clients::patterns(&station.uri("demo"))?;
    station.power_down(appliance)
}

#[test]
fn memory_beyond_4_gib() -> Result<()> {
    let mut station = Station::with_drive("roomy", 1 << 30)?;
    station.options.machine.memory_mib = 6144;
    let appliance = station.start()?;
    clients::patterns(&station.uri("demo"))?;
    station.power_down(appliance)
}

/// The boot medium has a partition table, so it can never be taken for a blank drive; and only the other one is used.
fn boots_from_disk(name: &str, bus: Bus, firmware: Firmware) -> Result<()> {
    let mut station = Station::with_drive(name, 1 << 30)?;
    station.boot_from_disk(bus, firmware)?;
    // A copy of its own, which it could write.
    let copy = station.scratch.file("boot.img");
    if let qemu::Boot::Disk { medium, .. } = &mut station.options.machine.boot {
        fs::copy(&medium.source, &copy)?;
        medium.source = copy.to_string_lossy().into_owned();
    }
    let before = fs::read(&copy)?;
    let appliance = station.start()?;
    let drives = station.api().get("/v1/drives")?;
    let serving = ferrite::items(&drives, "drives")
        .iter()
        .filter(|drive| drive["state"] == "serving");
    ensure!(serving.count() == 1, "the pool is on one drive: {drives}");
    clients::patterns(&station.uri("demo"))?;
    station.power_down(appliance)?;
    ensure!(fs::read(&copy)? == before, "the boot medium was written");
    Ok(())
}
