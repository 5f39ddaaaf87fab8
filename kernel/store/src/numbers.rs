//! Hash maps by numbers of our own making: catalog ids, groups, pool addresses.
//!
//! Nobody outside chooses these, so they need no hash that resists being guessed, only one that spreads.

use core::hash::{BuildHasherDefault, Hasher};

/// A map by number.
pub type NumberMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<Spread>>;

/// A set of numbers.
pub type NumberSet = hashbrown::HashSet<u64, BuildHasherDefault<Spread>>;

/// One multiplication, both halves of which count.
#[derive(Clone, Copy, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(number ^ self.0) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses in a row, one a group apart, and multiples of large powers of two use all buckets and all control bytes.
    #[test]
    fn neighbours_are_spread() {
        for step in [1, 128, 1 << 20, 1 << 32, 1 << 40] {
            let (mut low, mut high) = ([0_u32; 256], [0_u32; 128]);
            for index in 1..=4096_u64 {
                let mut hasher = Spread::default();
                hasher.write_u64(index * step);
                low[hasher.finish() as usize % 256] += 1;
                high[(hasher.finish() >> 57) as usize] += 1;
            }
            assert!(low.iter().all(|count| *count < 64), "step {step}: {low:?}");
            assert!(
                high.iter().all(|count| *count < 128),
                "step {step}: {high:?}"
            );
        }
    }
}
