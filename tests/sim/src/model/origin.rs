//! What an adopted volume is before anybody writes to it: a pure function of the seed, the origin and the block.

use world::BLOCK_SIZE;

use super::frozen::mask_within;
use super::history::{SECTORS, State};
use crate::content::{self, SECTOR, Stamp};
use crate::random::mix;

/// The write that sectors of an origin come from, and the version of blocks that nobody changed since.
pub const ORIGIN: u64 = u64::MAX - 1;

/// Where the blocks of an adopted volume are that nobody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The seed of all contents.
    pub seed: u64,
    /// The lineage that began with its adoption.
    pub lineage: u64,
    pub size_bytes: u64,
}

impl Origin {
    /// Its blocks; the last one may be a part.
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_SIZE as u64)
    }

    /// Whether it has zeros there: half of it is, in runs of one length.
    pub fn is_zero(&self, block: u64) -> bool {
        let own = mix(self.seed ^ mix(self.lineage));
        let run = own % 6;
        block >= self.blocks() || mix(own ^ (block >> run)).is_multiple_of(2)
    }

    /// What a block of it is.
    pub fn state(&self, block: u64) -> State {
        if block >= self.blocks() {
            return State::default();
        }
        let within = mask_within(self.size_bytes, block);
        let has_data = |sector: usize| !self.is_zero(block) && within & (1 << sector) != 0;
        State {
            sectors: core::array::from_fn(|sector| if has_data(sector) { ORIGIN } else { 0 }),
            version: ORIGIN,
        }
    }

    /// The bytes of a block.
    pub fn fill(&self, block: u64, into: &mut [u8]) {
        for (index, write) in self.state(block).sectors.into_iter().enumerate() {
            let bytes = &mut into[index * SECTOR..(index + 1) * SECTOR];
            if write == 0 {
                bytes.fill(0);
                continue;
            }
            let stamp = Stamp {
                volume: self.lineage,
                sector: block * SECTORS as u64 + index as u64,
                write,
            };
            content::fill(self.seed, stamp, bytes);
        }
    }
}

/// What a block is that nobody changed since its volume was made.
pub fn untouched(origin: Option<Origin>, block: u64) -> State {
    origin.map_or_else(State::default, |origin| origin.state(block))
}
