//! Exceptions and interrupts: descriptor tables, and the report that every exception becomes.

use core::fmt::{self, Write};
use core::ptr::addr_of_mut;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use crate::{backtrace, image, panic};

core::arch::global_asm!(
    include_str!("../traps.s"),
    exception = sym exception,
    counts = sym hal::irq::COUNTS,
    end_of_interrupt = sym hal::irq::END_OF_INTERRUPT,
);

unsafe extern "C" {
    static exception_stubs: u8;
    static interrupt_stubs: u8;
}

/// Bytes from one stub to the next (traps.s).
const STUB_BYTES: u64 = 16;
const VECTORS: usize = 256;
const EXCEPTIONS: usize = 32;

const NMI: usize = 2;
const DOUBLE_FAULT: usize = 8;
const PAGE_FAULT: u64 = 14;
const MACHINE_CHECK: usize = 18;

/// Places in the interrupt stack table, counted from 1 as the processor does; `image::stacks` has the same order.
const STACK_TRAP: u64 = 1;
const STACK_INTERRUPT: u64 = 2;
const STACK_NMI: u64 = 3;
const STACK_DOUBLE_FAULT: u64 = 4;
const STACK_MACHINE_CHECK: u64 = 5;

/// An interrupt gate (Intel SDM volume 3, 7.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const EMPTY: Self = Self { low: 0, high: 0 };

    /// A present gate for ring 0 that masks interrupts and changes to stack `stack`.
    const fn new(target: u64, selector: u16, stack: u64) -> Self {
        let low = (target & 0xffff)
            | ((selector as u64) << 16)
            | (stack << 32)
            | (0x8e << 40)
            | ((target >> 16 & 0xffff) << 48);
        Self {
            low,
            high: target >> 32,
        }
    }
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

static mut GATES: [Gate; VECTORS] = [Gate::EMPTY; VECTORS];
static mut SEGMENTS: GlobalDescriptorTable = GlobalDescriptorTable::new();
static mut TASK: TaskStateSegment = TaskStateSegment::new();

/// Loads descriptor tables and interrupt stacks; from here on every exception is reported.
pub fn install() {
    // SAFETY: (1) called once, before anything else uses these; (2) the tables live for ever; (3) every gate leads to a
    // stub of traps.s on a mapped stack; (4) the new segments are as flat as the old ones.
    unsafe {
        let task = addr_of_mut!(TASK);
        for (index, stack) in image::stacks().iter().skip(1).enumerate() {
            (*task).interrupt_stack_table[index] = VirtAddr::new(stack.span.end);
        }
        let segments = &mut *addr_of_mut!(SEGMENTS);
        let code = segments.append(Descriptor::kernel_code_segment());
        let data = segments.append(Descriptor::kernel_data_segment());
        let task = segments.append(Descriptor::tss_segment(&*task));
        segments.load();
        CS::set_reg(code);
        for set in [SS::set_reg, DS::set_reg, ES::set_reg] as [unsafe fn(SegmentSelector); 3] {
            set(data);
        }
        load_tss(task);

        let gates = addr_of_mut!(GATES);
        for vector in 0..VECTORS {
            (*gates)[vector] = Gate::new(stub(vector), code.0, stack_of(vector));
        }
        let pointer = TablePointer {
            limit: (VECTORS * 16 - 1) as u16,
            base: gates as u64,
        };
        core::arch::asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags));
    }
}

fn stub(vector: usize) -> u64 {
    let exceptions = &raw const exception_stubs as u64;
    let interrupts = &raw const interrupt_stubs as u64;
    match vector.checked_sub(EXCEPTIONS) {
        None => exceptions + vector as u64 * STUB_BYTES,
        Some(index) => interrupts + index as u64 * STUB_BYTES,
    }
}

const fn stack_of(vector: usize) -> u64 {
    match vector {
        NMI => STACK_NMI,
        DOUBLE_FAULT => STACK_DOUBLE_FAULT,
        MACHINE_CHECK => STACK_MACHINE_CHECK,
        0..EXCEPTIONS => STACK_TRAP,
        _ => STACK_INTERRUPT,
    }
}

/// What traps.s leaves on the stack, lowest address first.
#[repr(C)]
struct Frame {
    /// R15 down to R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    registers: [u64; 15],
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

const REGISTER_NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
    "rax",
];

extern "C" fn exception(frame: &Frame) -> ! {
    panic::crash(|out| report(out, frame))
}

fn report(out: &mut dyn Write, frame: &Frame) -> fmt::Result {
    let address = Cr2::read_raw();
    write!(out, "exception {} ({})", frame.vector, name(frame.vector))?;
    if frame.vector == PAGE_FAULT {
        write!(out, ": {} {address:#x}", page_fault(frame.code))?;
        if let Some(stack) = image::stacks()
            .iter()
            .find(|stack| (stack.guard().start..stack.guard().end).contains(&address))
        {
            write!(out, ": the {} stack overflowed", stack.name)?;
        }
    } else if frame.vector == DOUBLE_FAULT as u64 {
        write!(out, ": last page fault at {address:#x}")?;
    }
    writeln!(out, ", error code {:#x}", frame.code)?;
    let (table, _) = Cr3::read_raw();
    writeln!(
        out,
        "rip {:#018x}  rsp {:#018x}  flags {:#x}  cs {:#x}  ss {:#x}  cr2 {address:#x}  cr3 {:#x}",
        frame.rip,
        frame.rsp,
        frame.flags,
        frame.cs,
        frame.ss,
        table.start_address()
    )?;
    for (index, (name, value)) in REGISTER_NAMES.iter().zip(frame.registers).rev().enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        write!(out, "{name:>3} {value:#018x}{end}")?;
    }
    writeln!(out)?;
    backtrace::print(out, frame.rip, frame.rsp)
}

/// Names of exceptions (Intel SDM volume 3, table 7-1).
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "no floating point",
        8 => "double fault",
        10 => "invalid task state",
        11 => "segment not present",
        12 => "stack segment",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SSE floating point",
        20 => "virtualization",
        21 => "control protection",
        _ => "reserved",
    }
}

/// What was tried (Intel SDM volume 3, figure 5-12).
const fn page_fault(code: u64) -> &'static str {
    match (code & 1 != 0, code & 2 != 0, code & 16 != 0) {
        (_, _, true) => "executing at",
        (true, true, _) => "writing to the read-only",
        (true, false, _) => "reading the protected",
        (false, true, _) => "writing to the unmapped",
        (false, false, _) => "reading the unmapped",
    }
}
