//! Journal frames: up to 16 blocks of records behind a header.

use world::BLOCK_SIZE;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Domain, metadata_tag};
use crate::tag::Tag;

const MAGIC: [u8; 4] = *b"FJF\0";

/// The most blocks of a frame.
pub const FRAME_BLOCKS_MAX: usize = 16;

/// Bytes of the header.
pub const FRAME_HEADER: usize = 112;

/// The header of a frame.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FrameHeader {
    magic: [u8; 4],
    /// Blocks of the frame.
    pub blocks: U16,
    reserved_a: [u8; 2],
    pool_uuid: [u8; 16],
    fork_id: U64,
    /// The mount that wrote it.
    pub mount_gen: U64,
    /// One more than the frame before it.
    pub seq: U64,
    /// Blocks written to the ring before it.
    pub position: U64,
    /// The checkpoint that was current when it was written.
    pub checkpoint: U64,
    /// Every frame up to this one, and what it describes, was durable when this one was written.
    pub durable_seq: U64,
    /// Tag of the frame before it.
    pub prev_tag: [u8; 16],
    /// Bytes of records behind the header.
    pub record_bytes: U32,
    reserved: [u8; 4],
    /// Tag of the whole frame, computed with this field zero.
    pub tag: [u8; 16],
}

const _: () = assert!(size_of::<FrameHeader>() == FRAME_HEADER);

impl FrameHeader {
    /// Whether this is the next frame behind `tail`, going by number and chain.
    #[must_use]
    pub fn follows(&self, tail: &super::JournalTail) -> bool {
        self.seq == tail.seq && self.prev_tag == tail.prev_tag
    }

    /// A header without numbers, for `pool`.
    #[must_use]
    pub fn new(pool: [u8; 16], fork_id: u64) -> Self {
        let mut new = Self::new_zeroed();
        new.magic = MAGIC;
        new.pool_uuid = pool;
        new.fork_id = fork_id.into();
        new
    }

    /// Reads what may be the first block of a frame of `pool`. The tag is not verified yet.
    #[must_use]
    pub fn decode(block: &[u8; BLOCK_SIZE], pool: [u8; 16]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(block).ok()?;
        let blocks = usize::from(header.blocks.get());
        let room = (blocks * BLOCK_SIZE).checked_sub(FRAME_HEADER)?;
        let sound = header.magic == MAGIC
            && header.pool_uuid == pool
            && (1..=FRAME_BLOCKS_MAX).contains(&blocks)
            && header.record_bytes.get() as usize <= room;
        sound.then_some(header)
    }

    /// The tag of the frame that consists of `blocks`; the first one's tag field counts as zero.
    #[must_use]
    pub fn compute_tag<'a>(
        &self,
        pool: [u8; 16],
        blocks: impl Iterator<Item = &'a [u8; BLOCK_SIZE]>,
    ) -> Tag {
        let mut sums = [0; FRAME_BLOCKS_MAX * 16 + FRAME_HEADER];
        let mut used = 0;
        let seq = self.seq.get();
        for (index, block) in blocks.enumerate() {
            let skip = if index == 0 { FRAME_HEADER } else { 0 };
            let sum = metadata_tag(pool, Domain::Frame, index as u64, seq, &block[skip..]);
            sums[used..used + 16].copy_from_slice(&sum.0);
            used += 16;
        }
        let untagged = Self {
            tag: [0; 16],
            ..*self
        };
        sums[used..used + FRAME_HEADER].copy_from_slice(untagged.as_bytes());
        metadata_tag(pool, Domain::FrameSum, 0, seq, &sums[..used + FRAME_HEADER])
    }
}
