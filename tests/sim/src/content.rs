//! Self-describing sectors: every 512 bytes ever written say who wrote them and where they belong.

use crate::random::mix;

/// Bytes of a sector, the unit of client requests.
pub const SECTOR: usize = 512;

const MAGIC: u64 = 0x7265_7474_6365_5321;
const WORDS: usize = SECTOR / 8;

/// Where a sector belongs and which write produced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The model's number of the volume.
    pub volume: u64,
    /// Sector number within the volume.
    pub sector: u64,
    /// Number of the write, from 1 on.
    pub write: u64,
}

/// What 512 bytes turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All zeros.
    Zeros,
    /// Exactly what a write produced.
    Written(Stamp),
    /// The head of a written sector with a damaged rest.
    Torn(Stamp),
    /// Anything else.
    Garbage,
}

fn words(seed: u64, stamp: Stamp) -> impl Iterator<Item = u64> {
    let head = [MAGIC ^ seed, stamp.volume, stamp.sector, stamp.write];
    let mut state = mix(seed ^ mix(stamp.volume ^ mix(stamp.sector ^ mix(stamp.write))));
    head.into_iter().chain((4..WORDS).map(move |_| {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        state ^ (state >> 29)
    }))
}

/// Produces the contents of one sector.
pub fn fill(seed: u64, stamp: Stamp, into: &mut [u8]) {
    for (chunk, word) in into
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(words(seed, stamp))
    {
        *chunk = word.to_le_bytes();
    }
}

/// Tells what a sector is.
#[must_use]
pub fn identify(seed: u64, bytes: &[u8]) -> Found {
    let read = |index: usize| u64::from_le_bytes(bytes.as_chunks::<8>().0[index]);
    if read(0) != MAGIC ^ seed {
        let zeros = bytes.iter().all(|byte| *byte == 0);
        return if zeros { Found::Zeros } else { Found::Garbage };
    }
    let stamp = Stamp {
        volume: read(1),
        sector: read(2),
        write: read(3),
    };
    if words(seed, stamp)
        .enumerate()
        .all(|(i, word)| read(i) == word)
    {
        Found::Written(stamp)
    } else {
        Found::Torn(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_itself_and_its_damage() {
        let stamp = Stamp {
            volume: 3,
            sector: 99,
            write: 7,
        };
        let mut bytes = [0; SECTOR];
        assert_eq!(identify(5, &bytes), Found::Zeros);
        fill(5, stamp, &mut bytes);
        assert_eq!(identify(5, &bytes), Found::Written(stamp));
        assert_eq!(identify(6, &bytes), Found::Garbage);
        bytes[500] ^= 1;
        assert_eq!(identify(5, &bytes), Found::Torn(stamp));
    }
}
