//! A hardware watchdog: restarts the machine when nobody has kicked it for a while.
//!
//! Two kinds are known, both in QEMU: the Intel 6300ESB (`-device i6300esb`) and the one in the ICH9 south bridge (iTCO,
//! part of the q35 machine; QEMU wants `-global ICH9-LPC.noreboot=false` before it lets it restart anything).

use spin::Mutex;

use crate::reg::Registers;
use crate::{Mmio, pci_config, port};

/// Which watchdog is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Intel 6300ESB.
    I6300esb,
    /// Intel TCO timer of an ICH9.
    Tco,
}

enum Watchdog {
    I6300esb(Mmio),
    /// First port of its registers.
    Tco(u16),
}

// SAFETY: registers of the machine are the same from everywhere.
unsafe impl Send for Watchdog {}

static RUNNING: Mutex<Option<Watchdog>> = Mutex::new(None);

/// Starts the watchdog to restart the machine `seconds` after the last [`kick`]; `None` where there is none.
pub fn start(seconds: u32) -> Option<Kind> {
    let (watchdog, kind) = start_i6300esb(seconds)
        .map(|registers| (Watchdog::I6300esb(registers), Kind::I6300esb))
        .or_else(|| start_tco(seconds).map(|base| (Watchdog::Tco(base), Kind::Tco)))?;
    *RUNNING.lock() = Some(watchdog);
    kick();
    Some(kind)
}

/// Says that all is well. Does nothing without a watchdog.
pub fn kick() {
    match &*RUNNING.lock() {
        Some(Watchdog::I6300esb(registers)) => {
            unlock(registers);
            registers.write16(ESB_RELOAD, ESB_RELOAD_KICK);
        }
        Some(Watchdog::Tco(base)) => port::write16(base + TCO_RELOAD, 1),
        None => {}
    }
}

/// Stops the watchdog, for an orderly end that may take long.
pub fn stop() {
    match RUNNING.lock().take() {
        Some(Watchdog::I6300esb(_)) => {
            if let Some((device, function)) = pci_config::find(is_i6300esb) {
                pci_config::write8(device, function, ESB_LOCK, 0);
            }
        }
        Some(Watchdog::Tco(base)) => {
            port::write16(
                base + TCO_CONTROL,
                port::read16(base + TCO_CONTROL) | TCO_HALT,
            );
        }
        None => {}
    }
}

/// Registers of the 6300ESB (Intel 6300ESB I/O Controller Hub data sheet, chapter 16): in configuration space …
const ESB_CONFIG: u8 = 0x60;
const ESB_LOCK: u8 = 0x68;
/// … and in memory.
const ESB_TIMER_1: usize = 0x00;
const ESB_TIMER_2: usize = 0x04;
const ESB_RELOAD: usize = 0x0c;

/// Configuration: no interrupt at the first stage; a slow clock and restarting are the zeros.
const ESB_NO_INTERRUPT: u16 = 3;
const ESB_ENABLE: u8 = 1 << 1;
const ESB_RELOAD_KICK: u16 = 1 << 8;
/// Timer counts per second: 33 MHz / 2^15.
const ESB_HZ: u32 = 1007;
const ESB_COUNT_MAX: u32 = 0xf_ffff;

fn is_i6300esb(vendor: u16, device: u16) -> bool {
    (vendor, device) == (0x8086, 0x25ab)
}

/// The timer runs twice, in two stages, before it restarts the machine.
fn start_i6300esb(seconds: u32) -> Option<Mmio> {
    let (device, function) = pci_config::find(is_i6300esb)?;
    let base = pci_config::read32(device, function, 0x10) & !0xf;
    let command = pci_config::read32(device, function, 4) as u16;
    pci_config::write16(device, function, 4, command | 2);
    let registers = Mmio::try_map(base.into(), 16)?;
    pci_config::write8(device, function, ESB_LOCK, 0);
    pci_config::write16(device, function, ESB_CONFIG, ESB_NO_INTERRUPT);
    let count = esb_count(seconds);
    for timer in [ESB_TIMER_1, ESB_TIMER_2] {
        unlock(&registers);
        registers.write32(timer, count);
    }
    pci_config::write8(device, function, ESB_LOCK, ESB_ENABLE);
    Some(registers)
}

/// Every write to the registers must follow these two.
fn unlock(registers: &Mmio) {
    registers.write16(ESB_RELOAD, 0x80);
    registers.write16(ESB_RELOAD, 0x86);
}

fn esb_count(seconds: u32) -> u32 {
    (u64::from(seconds) * u64::from(ESB_HZ) / 2).clamp(1, ESB_COUNT_MAX.into()) as u32
}

/// Registers of the TCO timer, from its base port on (Intel ICH9 data sheet, 13.9).
const TCO_RELOAD: u16 = 0x00;
const TCO_STATUS_1: u16 = 0x04;
const TCO_STATUS_2: u16 = 0x06;
const TCO_CONTROL: u16 = 0x08;
const TCO_TIMER: u16 = 0x12;

const TCO_HALT: u16 = 1 << 11;
/// Where the south bridge keeps the base of its power management ports, and of its chip set registers.
const PM_BASE: u8 = 0x40;
const CHIPSET_BASE: u8 = 0xf0;
/// Power management: may the timer raise system management interrupts?
const SMI_ENABLE: u16 = 0x30;
const SMI_TCO: u32 = 1 << 13;
/// Chip set registers: general control and status, and its bit that forbids the restart.
const GENERAL_CONTROL: u64 = 0x3410;
const NO_REBOOT: u32 = 1 << 5;

/// The timer must run out twice before it restarts the machine.
fn start_tco(seconds: u32) -> Option<u16> {
    const DEVICE: u8 = 31;
    let id = pci_config::read32(DEVICE, 0, 0);
    if id != 0x2918_8086 {
        return None;
    }
    let power = (pci_config::read32(DEVICE, 0, PM_BASE) & 0xff80) as u16;
    let chipset = pci_config::read32(DEVICE, 0, CHIPSET_BASE);
    if power == 0 || chipset & 1 == 0 {
        return None;
    }
    let control = Mmio::try_map(u64::from(chipset & 0xffff_c000) + GENERAL_CONTROL, 4)?;
    control.write32(0, control.read32(0) & !NO_REBOOT);
    if control.read32(0) & NO_REBOOT != 0 {
        return None; // the board forbids it
    }
    port::write32(
        power + SMI_ENABLE,
        port::read32(power + SMI_ENABLE) & !SMI_TCO,
    );
    let base = power + 0x60;
    let halted = port::read16(base + TCO_CONTROL) | TCO_HALT;
    port::write16(base + TCO_CONTROL, halted);
    port::write16(base + TCO_STATUS_1, 8);
    port::write16(base + TCO_STATUS_2, 6);
    port::write16(base + TCO_TIMER, tco_count(seconds));
    port::write16(base + TCO_RELOAD, 1);
    port::write16(base + TCO_CONTROL, halted & !TCO_HALT);
    Some(base)
}

/// Ticks of 0.6 s for half the time; the timer has ten bits and takes no less than two.
fn tco_count(seconds: u32) -> u16 {
    (u64::from(seconds) * 5 / 6).clamp(2, 0x3ff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_stages_together_take_the_time_asked_for() {
        assert_eq!(esb_count(30) * 2 / ESB_HZ, 30);
        assert_eq!(esb_count(u32::MAX), ESB_COUNT_MAX);
        assert_eq!(u32::from(tco_count(30)) * 2 * 6 / 10, 30);
        assert_eq!((tco_count(0), tco_count(100_000)), (2, 0x3ff));
    }
}
