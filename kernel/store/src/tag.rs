//! The 128-bit tag that a pointer keeps of the block it points to (tag algorithm 1).
//!
//! A tag tells damage of any kind: flipped bits, torn or lost writes, and a right block in a wrong place, because what
//! the block *is* ([`Context`]) goes in before its bytes. It is no defence against someone who chooses the bytes in
//! order to forge one; sealed volumes carry the tag of their cipher instead.
//!
//! ```text
//! state    (a, b), two 64-bit words
//! step     a, b  ->  b ^ low(a * b), a ^ high(a * b)            128-bit product
//! seed     step over identity, then over words, then once more
//! lanes    5 states, seed ^ constants; 16-byte chunk i of each 80 goes into lane i:  step(a ^ chunk.0, b ^ chunk.1)
//! tail     whole chunks into lanes 0.., then what is left, filled up with zeros
//! finish   lane 0, stepped with lanes 1..4, with the length, and twice with constants; two rotations at the end
//! ```
//!
//! All words are little-endian. `DESIGN.md` has the reasons and the measurements; any change here is a new algorithm
//! number.

use cpu::LANES;

/// The number of this algorithm in the superblock.
pub const ALGORITHM: u8 = 1;

/// 128-bit tag.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tag(pub [u8; 16]);

/// What a block is, mixed into the seed: so that a right block in a wrong place does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Whose block it is: the lineage of a volume, or the pool.
    pub identity: [u8; 16],
    /// Which of its blocks: position and birth, or kind and position.
    pub words: [u64; 2],
}

// Lanes run independently of each other, so their multiplications overlap. Ten words of state and the two of a product
// are as much as x86-64 keeps in registers.
const CHUNK: usize = 16;
const STRIPE: usize = LANES * CHUNK;

type State = (u64, u64);

/// The first 64-bit words of the fraction of pi, with the lowest bit set.
const PI: [State; 10] = [
    (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345),
    (0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89),
    (0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6d),
    (0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917),
    (0x9216_d5d9_8979_fb1b, 0xd131_0ba6_98df_b5ad),
    (0x2ffd_72db_d01a_dfb7, 0xb8e1_afed_6a26_7e97),
    (0xba7c_9045_f12c_7f99, 0x24a1_9947_b391_6cf7),
    (0x0801_f2e2_858e_fc17, 0x6369_20d8_7157_4e69),
    (0xa458_fea3_f493_3d7f, 0x0d95_748f_728e_b659),
    (0x718b_cd58_8215_4aef, 0x7b54_a41d_c25a_59b5),
];

/// The tag of `bytes` in the place that `context` says. Any length; made for 4096.
#[must_use]
pub fn tag(context: &Context, bytes: &[u8]) -> Tag {
    let mut lanes = lanes(context);
    let (pairs, rest) = bytes.as_chunks();
    if cpu::absorb(&mut lanes, pairs) {
        absorb_all(&mut lanes, rest);
    } else {
        absorb_all(&mut lanes, bytes);
    }
    finish(lanes, bytes.len() as u64)
}

fn lanes(context: &Context) -> [State; LANES] {
    let seed = seed(context);
    core::array::from_fn(|lane| (seed.0 ^ PI[lane].0, seed.1 ^ PI[lane].1))
}

fn absorb_all(lanes: &mut [State; LANES], bytes: &[u8]) {
    let (stripes, tail) = bytes.as_chunks::<STRIPE>();
    for stripe in stripes {
        let (chunks, _) = stripe.as_chunks::<CHUNK>();
        for (lane, chunk) in lanes.iter_mut().zip(chunks) {
            *lane = absorb(*lane, words(chunk));
        }
    }
    let (chunks, rest) = tail.as_chunks::<CHUNK>();
    for (lane, chunk) in lanes.iter_mut().zip(chunks) {
        *lane = absorb(*lane, words(chunk));
    }
    if !rest.is_empty() {
        // The length goes in at the end, so filling up with zeros makes no two inputs equal.
        let mut chunk = [0; CHUNK];
        chunk[..rest.len()].copy_from_slice(rest);
        let lane = &mut lanes[chunks.len()];
        *lane = absorb(*lane, words(&chunk));
    }
}

fn seed(context: &Context) -> State {
    let state = absorb(PI[5], words(&context.identity));
    let state = absorb(state, (context.words[0], context.words[1]));
    absorb(state, PI[6])
}

fn finish(lanes: [State; LANES], length: u64) -> Tag {
    let mut state = lanes[0];
    for lane in &lanes[1..] {
        state = absorb(state, *lane);
    }
    state = absorb(state, (PI[7].0, PI[7].1 ^ length));
    state = absorb(state, PI[8]);
    let (a, b) = absorb(state, PI[9]);
    // The lowest bits of a product depend on few bits: hide them under bits from the middle, losing nothing.
    let first = a ^ b.rotate_left(32);
    let second = b.wrapping_add(first.rotate_left(23));
    let mut out = [0; 16];
    out[..8].copy_from_slice(&first.to_le_bytes());
    out[8..].copy_from_slice(&second.to_le_bytes());
    Tag(out)
}

/// Takes 128 bits into a state.
///
/// Both factors stay in the result, crosswise: a factor of zero, which a plain multiply-and-fold would turn into a state
/// that has forgotten the other factor, does no harm here; and no bit is only ever combined with itself, which
/// would clear low bits one after the other on long runs of zeros.
#[inline(always)]
fn absorb(state: State, words: State) -> State {
    let a = state.0 ^ words.0;
    let b = state.1 ^ words.1;
    let product = u128::from(a) * u128::from(b);
    (b ^ product as u64, a ^ (product >> 64) as u64)
}

#[inline(always)]
fn words(chunk: &[u8; CHUNK]) -> State {
    let both = u128::from_le_bytes(*chunk);
    (both as u64, (both >> 64) as u64)
}

#[cfg(test)]
mod tests;
