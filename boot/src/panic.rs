//! The end of everything: a report on the console and in the crash record, then a new start.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use hal::crash::Record;
use hal::serial::Console;
use hal::{cpu, power};

use crate::backtrace;

/// How many crashes have begun: a crash while another is reported must not report for ever.
static DEPTH: AtomicU32 = AtomicU32::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crash(|out| {
        writeln!(out, "{info}")?;
        let (address, stack_pointer): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            core::arch::asm!("lea {}, [rip]", "mov {}, rsp", out(reg) address, out(reg) stack_pointer, options(nomem, nostack));
        }
        backtrace::print(out, address, stack_pointer)
    })
}

/// Prints `report` on the console and into the crash record, then restarts (or ends QEMU, under test).
pub fn crash(report: impl FnOnce(&mut dyn Write) -> fmt::Result) -> ! {
    // SAFETY: masking interrupts touches no memory. They are masked nearly always anyway.
    unsafe { core::arch::asm!("cli", options(nomem, nostack)) };
    match DEPTH.fetch_add(1, Ordering::SeqCst) {
        0 => {
            // Nothing is left to do about a console that fails.
            let _ = Console.write_str("\n*** CRASH: ");
            let mut out = Both {
                record: Record::begin(),
            };
            let _ = report(&mut out);
            if let Some(record) = out.record {
                record.finish(power::crash_hook());
            }
        }
        1 => {
            let _ = Console.write_str("\n*** crash while reporting a crash: ");
            let _ = report(&mut Console);
        }
        2 => {}
        _ => cpu::halt_forever(),
    }
    power::after_crash()
}

struct Both {
    record: Option<Record>,
}

impl Write for Both {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(record) = &mut self.record {
            record.push(text);
        }
        Console.write_str(text)
    }
}
