//! From the firmware to `main(&BootInfo)`: entry, page tables, traps, panics.
//!
//! The image's binary writes `boot::entry!(main);` and is entered with everything below it working: all of memory
//! mapped and on the heap, exceptions reported with a backtrace, console and log, ACPI tables read, clock and
//! interrupts running. Words introduced here:
//!
//! - **hand-over**: what PVH or multiboot2 told us, before it is copied into [`BootInfo`];
//! - **guard**: the page under a stack that is never mapped, so that an overflow is a fault and not damage.
//!
//! Invariants:
//! - no page is both writable and executable; page zero and guards are never mapped;
//! - interrupts are unmasked only in `hal::irq::wait_for_interrupt`;
//! - traps run on stacks of their own, because compiled code uses the red zone.
//!
//! A backtrace has names only in an image that `symbols::pack` made out of the linked one; without it, addresses.
//!
//! Words on the command line that are read here: `log.level=LEVEL`; for tests only, `test.exit=1`: a crash ends QEMU
//! through isa-debug-exit instead of rebooting.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    expect(
        dead_code,
        reason = "tests leave out the code that runs on the machine"
    )
)]

extern crate alloc;

mod handover;
mod info;
mod mem;
mod memory;
mod multiboot2;
mod paging;
mod pvh;

#[cfg(not(test))]
mod backtrace;
#[cfg(not(test))]
mod fault;
#[cfg(not(test))]
mod image;
#[cfg(not(test))]
mod panic;
#[cfg(not(test))]
mod start;
#[cfg(not(test))]
mod traps;

#[cfg(not(test))]
pub use fault::test_fault;
pub use info::{BootInfo, Loader, MemoryKind, MemoryRange, Module};

/// Names the function that is entered once the machine is ready: `fn(&'static BootInfo) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            extern "Rust" fn appliance_main(info: &'static $crate::BootInfo) -> ! {
                let main: fn(&'static $crate::BootInfo) -> ! = $main;
                main(info)
            }
        };
    };
}
