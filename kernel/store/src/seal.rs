//! Seals: by which a block that leaves the store for another one is known there.

use crate::layout::data_tag;

/// 128 bits that a block, and what it is, are known by. No defence against who wants to deceive.
pub type Seal = [u8; 16];

/// The seal of block `lba` of what `identity` was at `version`: the hash that the store has for blocks.
#[must_use]
pub fn seal(identity: [u8; 16], lba: u64, version: u64, block: &[u8]) -> Seal {
    data_tag(identity, lba, version, block).0
}
