//! Inner loops in instructions that only some processors have.
//!
//! One of the few rooms with `unsafe`. Each loop here has its portable twin where it is used, which gives the same
//! result on every processor; what is here says `false` where it cannot run, and has changed nothing then.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(target_arch = "x86_64")]
mod mulx;

/// States that run beside each other.
pub const LANES: usize = 5;

/// Bytes that all states take together, in two rounds.
pub const PAIR: usize = 2 * LANES * 16;

/// Takes 128 bits after the other into the states, in turn: `(a, b)` and the words `(v, w)` become
/// `(b ^ w ^ low(p), a ^ v ^ high(p))`, where `p` is the 128-bit product of `a ^ v` and `b ^ w`.
///
/// False when the processor has no `mulx`.
#[must_use]
pub fn absorb(states: &mut [(u64, u64); LANES], pairs: &[[u8; PAIR]]) -> bool {
    #[cfg(target_arch = "x86_64")]
    return mulx::absorb(states, pairs);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
