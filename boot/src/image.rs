//! The image's own memory: its sections, its stacks, its table of symbols.

use core::ptr::addr_of;

use symbols::{HEADER_BYTES, Table};

use crate::handover::Span;
use crate::memory::PAGE;

core::arch::global_asm!(include_str!("../entry.s"));

unsafe extern "C" {
    static entry64: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_end: u8;
    static __symbols: u8;
    static stack_main_guard: u8;
    static stack_main_top: u8;
    static stack_trap_guard: u8;
    static stack_trap_top: u8;
    static stack_interrupt_guard: u8;
    static stack_interrupt_top: u8;
    static stack_nmi_guard: u8;
    static stack_nmi_top: u8;
    static stack_double_fault_guard: u8;
    static stack_double_fault_top: u8;
    static stack_machine_check_guard: u8;
    static stack_machine_check_top: u8;
}

/// The address of a symbol of the linker script or of entry.s.
macro_rules! address {
    ($symbol:ident) => {
        addr_of!($symbol) as u64
    };
}

/// A stack, without the guard below it.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// What runs on it.
    pub name: &'static str,
    /// Its memory.
    pub span: Span,
}

impl Stack {
    /// The page below it, which is never mapped.
    pub const fn guard(&self) -> Span {
        Span {
            start: self.span.start - PAGE,
            end: self.span.start,
        }
    }
}

/// All stacks, the main one first, the others in the order of the interrupt stack table.
pub fn stacks() -> [Stack; 6] {
    let stack = |name, guard: u64, top| Stack {
        name,
        span: Span {
            start: guard + PAGE,
            end: top,
        },
    };
    [
        stack("main", address!(stack_main_guard), address!(stack_main_top)),
        stack("trap", address!(stack_trap_guard), address!(stack_trap_top)),
        stack(
            "interrupt",
            address!(stack_interrupt_guard),
            address!(stack_interrupt_top),
        ),
        stack("nmi", address!(stack_nmi_guard), address!(stack_nmi_top)),
        stack(
            "double fault",
            address!(stack_double_fault_guard),
            address!(stack_double_fault_top),
        ),
        stack(
            "machine check",
            address!(stack_machine_check_guard),
            address!(stack_machine_check_top),
        ),
    ]
}

/// Where the first frame of every backtrace ends: the code that called `boot_start`.
pub fn entry() -> u64 {
    address!(entry64)
}

/// Executable memory.
pub fn text() -> Span {
    Span {
        start: address!(__text_start),
        end: address!(__text_end),
    }
}

/// Constants.
pub fn rodata() -> Span {
    Span {
        start: address!(__text_end),
        end: address!(__rodata_end),
    }
}

/// Variables and stacks, guards included.
pub fn data() -> Span {
    Span {
        start: address!(__rodata_end),
        end: address!(__data_end),
    }
}

/// The table of symbols, as whole pages.
pub fn symbols_span() -> Span {
    let start = address!(__symbols);
    let end = start + symbol_bytes().len().max(1) as u64;
    Span {
        start: start / PAGE * PAGE,
        end: end.next_multiple_of(PAGE),
    }
}

/// Everything, from the first byte that is loaded to the last.
pub fn whole() -> Span {
    Span {
        start: text().start,
        end: symbols_span().end,
    }
}

/// The table of symbols, or `None` in an image that was not packed.
pub fn symbol_table() -> Option<Table<'static>> {
    Table::open(symbol_bytes())
}

fn symbol_bytes() -> &'static [u8] {
    let start = address!(__symbols) as *const u8;
    // SAFETY: (1) the linker script reserves 16 bytes there and the page they lie in is ours up to its end, so the
    // header can be read; (2) nobody writes to it.
    let header = unsafe { core::slice::from_raw_parts(start, HEADER_BYTES) };
    let len = Table::len_of(header).unwrap_or(0);
    // SAFETY: the packer put as many bytes there as the header says, and the loader loaded them.
    unsafe { core::slice::from_raw_parts(start, len) }
}
