//! Faults on purpose. Only tests ask for them.

use crate::BootInfo;

/// Breaks in the way that the word `test.fault=` on the command line names, and returns without one. Whoever finds the report
/// of a crash at the start does not call this, so a machine that restarts breaks once:
///
/// | word | what happens |
/// |---|---|
/// | `panic` | a panic |
/// | `page` | a read from page zero |
/// | `write` | a write to the image's constants |
/// | `execute` | a jump to memory that is data |
/// | `ud` | an invalid instruction |
/// | `overflow` | a recursion that runs out of stack |
/// | `df` | a double fault: a page fault without a handler |
/// | `oom` | more memory asked for than there is |
/// | `hang` | nothing, for ever: a case for the watchdog |
pub fn test_fault(info: &BootInfo) {
    match info.word("test.fault") {
        None => {}
        Some("panic") => panic!("asked to panic"),
        Some("page") => read(0x18),
        Some("write") => write(NAME.as_ptr() as u64),
        Some("execute") => execute(),
        Some("ud") => undefined(),
        Some("overflow") => {
            let depth = overflow(1);
            panic!("survived {depth} levels of recursion");
        }
        Some("df") => double_fault(),
        Some("oom") => exhaust(),
        Some("hang") => hang(),
        Some(other) => panic!("test.fault={other}: no such fault"),
    }
}

static NAME: &str = "a constant";

#[inline(never)]
fn read(address: u64) {
    // SAFETY: it is meant to fault; nothing is read.
    let value = unsafe { (address as *const u64).read_volatile() };
    panic!("read {value:#x} at {address:#x}");
}

#[inline(never)]
fn write(address: u64) {
    // SAFETY: it is meant to fault; nothing is written.
    unsafe { (address as *mut u8).write_volatile(0) };
    panic!("wrote at {address:#x}");
}

#[inline(never)]
fn execute() {
    let code = [0xc3_u8; 16];
    // SAFETY: it is meant to fault; even if it did not, the code only returns.
    unsafe { core::arch::asm!("call {}", in(reg) code.as_ptr(), clobber_abi("sysv64")) };
    panic!("executed data");
}

#[inline(never)]
fn undefined() {
    // SAFETY: it raises an exception that does not come back.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "what it is for")]
fn overflow(depth: u64) -> u64 {
    core::hint::black_box([depth; 64]);
    core::hint::black_box(overflow(depth + 1)) + depth
}

#[inline(never)]
fn double_fault() {
    let mut table = [0_u16; 5];
    // SAFETY: the table of handlers ends behind that of double faults, so the page fault that follows has none.
    unsafe {
        core::arch::asm!("sidt [{}]", in(reg) &mut table, options(nostack));
        table[0] = 9 * 16 - 1;
        core::arch::asm!("lidt [{}]", in(reg) &table, options(nostack));
    }
    read(0x18);
}

#[inline(never)]
fn exhaust() {
    let bytes = 1_usize << 46;
    let memory = alloc::vec![1_u8; bytes];
    panic!("got {} bytes", memory.len());
}

#[inline(never)]
fn hang() {
    loop {
        core::hint::spin_loop();
    }
}
