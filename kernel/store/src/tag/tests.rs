//! What makes a tag good: it is stable, every bit matters, and nothing shows in its output.

use alloc::vec;
use alloc::vec::Vec;
use hashbrown::{HashMap, HashSet};

use super::*;

const CONTEXT: Context = Context {
    identity: *b"0123456789abcdef",
    words: [7, 1 << 44 | 9],
};

/// A small generator, so that the tests need no crate and repeat exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn number(tag: Tag) -> u128 {
    u128::from_le_bytes(tag.0)
}

/// The format depends on these: they only change together with [`ALGORITHM`].
#[test]
fn golden_vectors() {
    assert_eq!(ALGORITHM, 1);
    let counting: Vec<u8> = (0..4096_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let null = Context {
        identity: [0; 16],
        words: [0; 2],
    };
    let cases: [(&Context, &[u8], u128); 8] = [
        (&null, b"", 0xad1c_a605_deef_43c0_913c_7d19_2ac0_e3f3),
        (&CONTEXT, b"", 0xc80a_644c_eb47_7fa3_0544_6911_0c86_e474),
        (&CONTEXT, b"a", 0xa373_b881_aa14_add4_a68a_928c_0dbb_638f),
        (
            &CONTEXT,
            &counting[..16],
            0xe25d_651e_42cf_3099_f47c_9794_7e96_03a0,
        ),
        (
            &CONTEXT,
            &counting[..81],
            0x6c87_a82c_179e_d9d4_12f2_8b7c_133e_12b3,
        ),
        (&null, &[0; 4096], 0x7434_fab4_f6e6_2080_2064_5dbb_c98b_5775),
        (
            &CONTEXT,
            &[0; 4096],
            0x00f4_033d_8c09_9c54_61ef_2e89_d26d_74e3,
        ),
        (
            &CONTEXT,
            &counting,
            0x77d8_d5be_2d7a_9c6d_fdf1_3fb9_511a_f764,
        ),
    ];
    let found = cases.map(|(context, bytes, _)| number(tag(context, bytes)));
    assert_eq!(found, cases.map(|case| case.2), "found {found:#034x?}");
}

/// Processors differ in how they come to it.
#[test]
fn every_processor_gives_the_same_tag() {
    let bytes = Random(3).bytes(4096);
    for len in (0..400).chain([4000, 4095, 4096]) {
        let bytes = &bytes[..len];
        let mut lanes = lanes(&CONTEXT);
        absorb_all(&mut lanes, bytes);
        let portable = finish(lanes, len as u64);
        assert_eq!(tag(&CONTEXT, bytes), portable, "{len} bytes");
    }
}

/// The description in the module's head, word for word, without regard to speed.
#[test]
fn the_description_gives_the_same_tag() {
    fn step((a, b): State, (x, y): State) -> State {
        let (a, b) = (a ^ x, b ^ y);
        let product = u128::from(a) * u128::from(b);
        (b ^ product as u64, a ^ (product >> 64) as u64)
    }
    fn plain(context: &Context, bytes: &[u8]) -> Tag {
        let word = |bytes: &[u8]| {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(all)
        };
        let mut seed = PI[5];
        let identity = &context.identity;
        seed = step(seed, (word(&identity[..8]), word(&identity[8..])));
        seed = step(seed, (context.words[0], context.words[1]));
        seed = step(seed, PI[6]);
        let mut lanes: Vec<State> = (0..5)
            .map(|i| (seed.0 ^ PI[i].0, seed.1 ^ PI[i].1))
            .collect();
        for (index, chunk) in bytes.chunks(16).enumerate() {
            let (low, high) = chunk.split_at(chunk.len().min(8));
            lanes[index % 5] = step(lanes[index % 5], (word(low), word(high)));
        }
        let mut state = lanes[0];
        for lane in &lanes[1..] {
            state = step(state, *lane);
        }
        state = step(state, (PI[7].0, PI[7].1 ^ bytes.len() as u64));
        state = step(step(state, PI[8]), PI[9]);
        let first = state.0 ^ state.1.rotate_left(32);
        let second = state.1.wrapping_add(first.rotate_left(23));
        Tag((u128::from(first) | u128::from(second) << 64).to_le_bytes())
    }
    let bytes = Random(1).bytes(4096);
    for len in (0..400).chain([4000, 4095, 4096]) {
        assert_eq!(tag(&CONTEXT, &bytes[..len]), plain(&CONTEXT, &bytes[..len]));
    }
}

#[test]
fn every_bit_of_a_block_matters_and_spreads() {
    for (name, mut block) in [
        ("random", Random(2).bytes(4096)),
        ("zero", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
    ] {
        let right = number(tag(&CONTEXT, &block));
        let mut seen = HashSet::new();
        let mut flips = [0_u32; 128];
        let mut total = 0;
        for bit in 0..4096 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            let wrong = number(tag(&CONTEXT, &block));
            block[bit / 8] ^= 1 << (bit % 8);
            let difference = right ^ wrong;
            assert!((30..=98).contains(&difference.count_ones()), "{name} {bit}");
            assert!(seen.insert(wrong));
            total += difference.count_ones();
            for (out, count) in flips.iter_mut().enumerate() {
                *count += (difference >> out) as u32 & 1;
            }
        }
        let samples = 4096 * 8;
        let mean = f64::from(total) / f64::from(samples);
        assert!((63.8..=64.2).contains(&mean), "{name}: mean {mean}");
        // Standard deviation of a fair bit over the samples is 90: none may be off by six of them.
        for count in flips {
            assert!(
                count.abs_diff(samples as u32 / 2) < 6 * 91,
                "{name}: {flips:?}"
            );
        }
    }
}

#[test]
fn every_bit_of_the_context_matters_and_spreads() {
    let mut random = Random(3);
    let mut total = 0;
    let mut flips = [0_u32; 128];
    let rounds = 64;
    for round in 0..rounds {
        let block = random.bytes(if round % 2 == 0 { 4096 } else { 0 });
        let mut context = CONTEXT;
        context.words[0] = round;
        let right = number(tag(&context, &block));
        for bit in 0..256 {
            let mut other = context;
            match bit {
                0..128 => other.identity[bit / 8] ^= 1 << (bit % 8),
                _ => other.words[(bit - 128) / 64] ^= 1 << (bit % 64),
            }
            let difference = right ^ number(tag(&other, &block));
            assert!((30..=98).contains(&difference.count_ones()));
            total += difference.count_ones();
            for (out, count) in flips.iter_mut().enumerate() {
                *count += (difference >> out) as u32 & 1;
            }
        }
    }
    let samples = rounds as u32 * 256;
    let mean = f64::from(total) / f64::from(samples);
    assert!((63.7..=64.3).contains(&mean), "mean {mean}");
    for count in flips {
        assert!(count.abs_diff(samples / 2) < 6 * 64);
    }
}

#[test]
fn every_bit_of_short_inputs_matters() {
    let mut random = Random(4);
    for len in 1..=200 {
        let mut bytes = random.bytes(len);
        let right = tag(&CONTEXT, &bytes);
        for bit in 0..len * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(tag(&CONTEXT, &bytes), right);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn the_length_matters() {
    for fill in [0, 0xff] {
        let bytes = [fill; 4200];
        let tags: HashSet<u128> = (0..=bytes.len())
            .map(|len| number(tag(&CONTEXT, &bytes[..len])))
            .collect();
        assert_eq!(tags.len(), bytes.len() + 1);
    }
}

/// Sets of inputs that differ in little. With 128 good bits even the halves of the tags hardly ever meet: of a million
/// tags two share 64 bits with a chance of 1 in 30 million.
#[test]
fn similar_inputs_share_no_half_of_a_tag() {
    fn expect_distinct(name: &str, tags: impl Iterator<Item = Tag>) {
        let mut halves = [HashSet::new(), HashSet::new()];
        let mut bits = [0_u32; 128];
        let mut count = 0;
        for tag in tags {
            let tag = number(tag);
            assert!(halves[0].insert(tag as u64), "{name}");
            assert!(halves[1].insert((tag >> 64) as u64), "{name}");
            for (out, ones) in bits.iter_mut().enumerate() {
                *ones += (tag >> out) as u32 & 1;
            }
            count += 1;
        }
        // Six standard deviations of `count` fair bits: 6 * sqrt(count / 4).
        for ones in bits {
            let off = u64::from(ones.abs_diff(count / 2));
            assert!(off * off < 9 * u64::from(count), "{name}: {bits:?}");
        }
    }
    expect_distinct(
        "counters",
        (0..1_000_000_u64).map(|i| tag(&CONTEXT, &i.to_le_bytes())),
    );
    expect_distinct(
        "big-endian counters",
        (0..200_000_u64).map(|i| tag(&CONTEXT, &i.to_be_bytes())),
    );
    expect_distinct(
        "births",
        (0..200_000_u64).map(|i| {
            let words = [i % 1000, i / 1000];
            tag(&Context { words, ..CONTEXT }, b"same")
        }),
    );
    expect_distinct(
        "births of zeros",
        (0..30_000_u64).map(|i| {
            let words = [0, i];
            tag(&Context { words, ..CONTEXT }, &[0; 4096])
        }),
    );
    let mut block = [0; 160];
    expect_distinct(
        "two bits of 160 bytes",
        (0..1280_usize)
            .flat_map(|one| (one + 1..1280).map(move |two| (one, two)))
            .map(|(one, two)| {
                for bit in [one, two] {
                    block[bit / 8] ^= 1 << (bit % 8);
                }
                let found = tag(&CONTEXT, &block);
                for bit in [one, two] {
                    block[bit / 8] ^= 1 << (bit % 8);
                }
                found
            }),
    );
    let mut block = [0; 4096];
    expect_distinct(
        "one sector of a block counts",
        (0..20_000_u32).map(|i| {
            block[512 * (i as usize % 8)..][..4].copy_from_slice(&i.to_le_bytes());
            tag(&CONTEXT, &block)
        }),
    );
}

/// Damage as drives do it: sectors of 512 bytes that are old, zero, or come from elsewhere in the block.
#[test]
fn torn_blocks_and_swapped_words_do_not_match() {
    let mut random = Random(5);
    let new = random.bytes(4096);
    let old = random.bytes(4096);
    let right = tag(&CONTEXT, &new);
    let mut seen = HashMap::new();
    for mask in 1..256_u32 {
        for (name, other) in [("old", &old[..]), ("zero", &[0; 4096])] {
            let mut torn = new.clone();
            for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
                let range = sector * 512..(sector + 1) * 512;
                torn[range.clone()].copy_from_slice(&other[range]);
            }
            let found = tag(&CONTEXT, &torn);
            assert_ne!(found, right);
            assert_eq!(seen.insert(found.0, (mask, name)), None);
        }
    }
    for size in [8, 16, 32, 64, 80, 128, 160, 512, 2048] {
        for one in (0..=4096 - 2 * size).step_by(size) {
            let mut swapped = new.clone();
            let (left, rest) = swapped.split_at_mut(one + size);
            left[one..].swap_with_slice(&mut rest[..size]);
            assert_ne!(tag(&CONTEXT, &swapped), right, "{size} at {one}");
        }
    }
}
