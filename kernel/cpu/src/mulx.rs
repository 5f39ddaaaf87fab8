//! `mulx` (BMI2) writes its product to any two registers, so ten words of state, the product's lower half and the
//! pointer stay where they are; the compiler moves a third of them about, with and without it.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::{LANES, PAIR};

/// What is known of the processor.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const MISSING: u8 = 1;
const PRESENT: u8 = 2;

/// Leaf 7, EBX (Intel SDM volume 2, CPUID).
const BMI2: u32 = 1 << 8;

fn is_present() -> bool {
    match STATE.load(Relaxed) {
        UNKNOWN => {
            let has_leaf = __cpuid_count(0, 0).eax >= 7;
            let is_present = has_leaf && __cpuid_count(7, 0).ebx & BMI2 != 0;
            let state = if is_present { PRESENT } else { MISSING };
            STATE.store(state, Relaxed);
            is_present
        }
        state => state == PRESENT,
    }
}

/// One step of a state at `$offset`; what was `a` is `b` afterwards.
macro_rules! step {
    ($a:literal, $b:literal, $offset:literal) => {
        concat!(
            "mov rdx, [{at} + ",
            $offset,
            "]\n",
            "xor rdx, {",
            $a,
            "}\n",
            "xor {",
            $b,
            "}, [{at} + ",
            $offset,
            " + 8]\n",
            "mulx {",
            $a,
            "}, {low}, {",
            $b,
            "}\n",
            "xor {",
            $b,
            "}, {low}\n",
            "xor {",
            $a,
            "}, rdx\n",
        )
    };
}

/// See [`crate::absorb`].
pub fn absorb(states: &mut [(u64, u64); LANES], pairs: &[[u8; PAIR]]) -> bool {
    if !is_present() {
        return false;
    }
    if pairs.is_empty() {
        return true;
    }
    let [one, two, three, four, five] = states;
    let range = pairs.as_ptr_range();
    // SAFETY: `mulx` is there. The loop reads from `range.start` up to `range.end`, which it reaches exactly, as `PAIR`
    // bytes are taken each time and there is at least one; it writes registers that are named, and one word of stack,
    // which it takes back.
    unsafe {
        asm!(
            // One register is missing, and a comparison with memory costs no more.
            "push {low}",
            "2:",
            step!("a1", "b1", "0"),
            step!("a2", "b2", "16"),
            step!("a3", "b3", "32"),
            step!("a4", "b4", "48"),
            step!("a5", "b5", "64"),
            step!("b1", "a1", "80"),
            step!("b2", "a2", "96"),
            step!("b3", "a3", "112"),
            step!("b4", "a4", "128"),
            step!("b5", "a5", "144"),
            "add {at}, 160",
            "cmp {at}, [rsp]",
            "jne 2b",
            "pop {low}",
            at = inout(reg) range.start => _,
            low = inout(reg) range.end => _,
            a1 = inout(reg) one.0, b1 = inout(reg) one.1,
            a2 = inout(reg) two.0, b2 = inout(reg) two.1,
            a3 = inout(reg) three.0, b3 = inout(reg) three.1,
            a4 = inout(reg) four.0, b4 = inout(reg) four.1,
            a5 = inout(reg) five.0, b5 = inout(reg) five.1,
            out("rdx") _,
            options(readonly),
        );
    }
    true
}
