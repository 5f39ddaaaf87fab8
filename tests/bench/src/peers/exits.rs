//! How often a guest leaves its processor for a device: what costs most under hardware virtualisation, and does not show in
//! instructions.
//!
//! QEMU's trace events tell: a kick of a virtio queue and a doorbell of an NVMe queue are exits, an interrupt is one at least
//! on hosts that do not post interrupts. Events go to QEMU's messages, whose new lines are counted; writing them takes time,
//! so nothing else is measured meanwhile.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use qemu::Running;
use serde_json::json;

/// Events, and what they are counted as. Patterns: both doorbells are one.
const EVENTS: [(&str, &str); 4] = [
    ("virtio_queue_notify", "virtio kicks"),
    ("virtio_notify", "virtio interrupts"),
    ("pci_nvme_mmio_doorbell_", "NVMe doorbells"),
    ("pci_nvme_irq_", "NVMe interrupts"),
];
/// Events as QEMU is told them.
const SWITCHES: [&str; 6] = [
    "virtio_queue_notify",
    "virtio_notify",
    "pci_nvme_mmio_doorbell_sq",
    "pci_nvme_mmio_doorbell_cq",
    "pci_nvme_irq_msix",
    "pci_nvme_irq_pin",
];

/// Counts while `work` runs; by name, in the order in which they are shown.
///
/// # Errors
/// Those of `work`, or when QEMU has no such events.
pub fn count(
    running: &Running,
    messages: &Path,
    work: impl FnOnce() -> Result<()>,
) -> Result<Vec<(&'static str, u64)>> {
    let before = fs::read(messages).map_or(0, |text| text.len());
    switch(running, true)?;
    let result = work();
    switch(running, false)?;
    result?;
    let text = fs::read(messages).context("QEMU's messages are gone")?;
    let new = String::from_utf8_lossy(&text[before.min(text.len())..]).into_owned();
    Ok(tally(&new))
}

fn switch(running: &Running, is_on: bool) -> Result<()> {
    let mut qmp = running.qmp()?;
    for name in SWITCHES {
        qmp.execute(
            "trace-event-set-state",
            json!({"name": name, "enable": is_on}),
        )
        .context("QEMU cannot trace its devices")?;
    }
    Ok(())
}

fn tally(text: &str) -> Vec<(&'static str, u64)> {
    // A line may have a time or a process id in front of its event.
    let count = |event: &str| {
        let is_event = |word: &str| match event.ends_with('_') {
            true => word.starts_with(event),
            false => word == event,
        };
        let lines = text.lines();
        lines
            .filter(|line| line.split([' ', ':']).any(is_event))
            .count() as u64
    };
    EVENTS
        .iter()
        .map(|(event, name)| (*name, count(event)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let text = "7@1.5:virtio_queue_notify vdev 0x1 n 1 vq 0x2\nvirtio_notify vdev 0x1 vq 0x2\n\
                    pci_nvme_mmio_doorbell_sq sqid 1 new_tail 5\npci_nvme_mmio_doorbell_cq cqid 1 new_head 5\nother\n";
        let counts: Vec<u64> = tally(text).into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 1, 2, 0]);
    }
}
