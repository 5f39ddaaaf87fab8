//! The ends of a run: power button, switching off, restarting, and what follows a crash.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::acpi::{self, Fixed, Place};
use crate::reg::Registers;
use crate::{Mmio, clock, cpu, pci_config, port};

/// Bit of the power button in status and enable registers (ACPI 6.5, 4.8.3.1).
const POWER_BUTTON: u16 = 1 << 8;
/// Control register (ACPI 6.5, 4.8.3.2).
const ACPI_MODE: u16 = 1;
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// How long firmware may take to switch to ACPI mode, and the machine to switch off.
const PATIENCE_NANOS: u64 = 1_000_000_000;
/// What QEMU's isa-debug-exit is given after a crash: the process ends with status 3.
const EXIT_CRASHED: u8 = 1;
const DEBUG_EXIT: u16 = 0xf4;

static CRASH_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static UNDER_TEST: AtomicBool = AtomicBool::new(false);

/// Makes the power button an event that [`power_button_pressed`] sees. Without ACPI it does nothing.
pub fn init() {
    let Some(fixed) = acpi::fixed() else {
        return;
    };
    let (port, value) = fixed.enable;
    if port != 0 && value != 0 && port::read16(fixed.control[0]) & ACPI_MODE == 0 {
        port::write8(port, value);
        let start = clock::now_nanos();
        while port::read16(fixed.control[0]) & ACPI_MODE == 0 {
            if clock::now_nanos() - start > PATIENCE_NANOS {
                log::warn!("the firmware does not switch to ACPI mode: no power button");
                return;
            }
        }
    }
    for status in events(&fixed) {
        port::write16(status, POWER_BUTTON);
        port::write16(status + u16::from(fixed.event_bytes) / 2, POWER_BUTTON);
    }
}

fn events(fixed: &Fixed) -> impl Iterator<Item = u16> {
    fixed.event.into_iter().filter(|port| *port != 0)
}

/// Whether the power button was pressed since the last call. Cheap enough to ask some times per second.
#[must_use]
pub fn power_button_pressed() -> bool {
    let Some(fixed) = acpi::fixed() else {
        return false;
    };
    let mut pressed = false;
    for status in events(&fixed) {
        if port::read16(status) & POWER_BUTTON != 0 {
            port::write16(status, POWER_BUTTON);
            pressed = true;
        }
    }
    pressed
}

/// Switches the machine off; halts where that is not possible.
pub fn shutdown() -> ! {
    let facts = acpi::facts();
    if let (Some(fixed), Some(types)) = (facts.fixed, facts.soft_off) {
        for (port, kind) in fixed.control.into_iter().zip(types) {
            if port != 0 {
                let other = port::read16(port) & !(SLEEP_TYPE | SLEEP_ENABLE);
                port::write16(port, other | u16::from(kind) << 10 | SLEEP_ENABLE);
            }
        }
        clock::spin_nanos(PATIENCE_NANOS);
    }
    log::error!("this machine cannot be switched off by software");
    cpu::halt_forever()
}

/// Restarts the machine.
pub fn reboot() -> ! {
    if let Some((place, value)) = acpi::fixed().and_then(|fixed| fixed.reset) {
        match place {
            Place::Port(port) => port::write8(port, value),
            Place::Memory(address) => {
                if let Some(register) = Mmio::try_map(address, 1) {
                    register.write8(0, value);
                }
            }
            Place::Config(device, function, offset) => {
                pci_config::write8(device, function, offset, value);
            }
        }
        pause();
    }
    // The reset control register of Intel chip sets: prepare, then a full reset.
    port::write8(0xcf9, 0x02);
    port::write8(0xcf9, 0x06);
    pause();
    // The keyboard controller's reset line.
    port::write8(0x64, 0xfe);
    pause();
    let nothing = [0_u16; 5];
    // SAFETY: without a table of handlers the exception becomes a triple fault, which resets the processor.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &nothing, options(nostack)) };
    cpu::halt_forever()
}

/// Gives a reset some time to happen. Counts port accesses: the clock may be what is broken.
fn pause() {
    for _ in 0..10_000 {
        let _ = port::read8(0x80);
    }
}

/// Says that a crash shall end QEMU (through isa-debug-exit) instead of restarting. For tests.
pub fn set_under_test(under_test: bool) {
    UNDER_TEST.store(under_test, Ordering::Relaxed);
}

/// Sets what is shown the report of a crash before the restart. It must not rely on anything: the heap may be locked.
pub fn set_crash_hook(hook: fn(&str)) {
    CRASH_HOOK.store(hook as *mut (), Ordering::Release);
}

/// What [`set_crash_hook`] was given.
#[must_use]
pub fn crash_hook() -> Option<fn(&str)> {
    let hook = CRASH_HOOK.load(Ordering::Acquire);
    // SAFETY: (1) the only store puts such a function there; (2) function and data pointers have one size on x86-64.
    (!hook.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), fn(&str)>(hook) })
}

/// What follows the report of a crash: a restart, or the end of QEMU with status 3 under test.
pub fn after_crash() -> ! {
    if UNDER_TEST.load(Ordering::Relaxed) {
        port::write8(DEBUG_EXIT, EXIT_CRASHED);
    }
    reboot()
}
