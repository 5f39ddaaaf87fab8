//! The superblock: the root of everything, one per checkpoint, in a ring of 32 slots in both labels of every drive.

use world::BLOCK_SIZE;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::catalog::HEIGHT_MAX;
use super::{Domain, Pointer, metadata_tag};
use crate::tag::Tag;

const MAGIC: [u8; 8] = *b"FERRSUP\0";

/// Slots of the ring.
pub const SLOTS: u64 = 32;

/// Blocks freed by the checkpoint before this one were not reused yet, so that one can still be opened.
pub const SUPERBLOCK_FLAG_DEFERRED: u32 = 1;

/// Where replay begins.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct JournalTail {
    /// Sequence number of the first frame that is not in the checkpoint.
    pub seq: U64,
    /// Its position: blocks written to the ring since format, so that the ring's block is the remainder.
    pub position: U64,
    /// Tag of the frame before it.
    pub prev_tag: [u8; 16],
}

/// State of a member that is complete; 0 is no drive in this place.
const IN_SYNC: u8 = 1;

/// One drive of the pool.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Member {
    /// The drive.
    pub uuid: [u8; 16],
    /// 0: no drive, 1: complete.
    pub state: u8,
    reserved: [u8; 3],
    /// Chunks on it.
    pub chunks: U32,
    failed_gen: U64,
}

impl Member {
    /// A complete member.
    #[must_use]
    pub fn in_sync(uuid: [u8; 16], chunks: u32) -> Self {
        Self {
            uuid,
            state: IN_SYNC,
            chunks: chunks.into(),
            ..Self::default()
        }
    }
}

/// The superblock.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    magic: [u8; 8],
    /// Grows with each superblock written; its slot is the remainder by 32.
    pub generation: U64,
    /// Grows with each checkpoint.
    pub checkpoint: U64,
    config_gen: U64,
    /// Changes when an operator forces an incomplete pool open.
    pub fork_id: U64,
    /// Grows with each opening for writing; the upper bits of births.
    pub mount_gen: U64,
    /// See [`SUPERBLOCK_FLAG_DEFERRED`].
    pub flags: U32,
    /// Which of the two checkpoint areas holds the group table.
    pub area: U32,
    /// The pool.
    pub pool_uuid: [u8; 16],
    cluster_uuid: [u8; 16],
    node_uuid: [u8; 16],
    heartbeat: [U64; 2],
    /// Tag of the superblock before this one.
    pub prev_tag: [u8; 16],
    /// Root of the catalog's map.
    pub catalog_root: Pointer,
    /// Levels of the catalog's map above its blocks.
    pub catalog_height: U32,
    /// Groups in the table.
    pub groups: U32,
    /// Where replay begins, for this checkpoint and the one before.
    pub tails: [JournalTail; 2],
    /// The most journal blocks between tail and head.
    pub live_max: U64,
    /// The next node id of the catalog.
    pub next_node: U64,
    reserve: [U64; 2],
    key_reference: [u8; 16],
    runs: U32,
    reserved_a: [u8; 4],
    /// The drives.
    pub members: [Member; 32],
    /// Tags of the blocks that hold the tags of the group table.
    pub table_tags: [[u8; 16]; 64],
    reserved: [u8; BLOCK_SIZE - 2360],
    tag: [u8; 16],
}

const _: () = assert!(size_of::<Superblock>() == BLOCK_SIZE);

impl Superblock {
    /// An empty superblock of a new pool.
    #[must_use]
    pub fn new(pool_uuid: [u8; 16]) -> Self {
        let mut new = Self::new_zeroed();
        new.magic = MAGIC;
        new.pool_uuid = pool_uuid;
        new
    }

    /// Its own tag.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(self.tag)
    }

    /// Writes itself, tag included, into a block.
    pub fn encode(&mut self, block: &mut [u8; BLOCK_SIZE]) {
        self.tag = self.compute_tag();
        block.copy_from_slice(self.as_bytes());
    }

    fn compute_tag(&self) -> [u8; 16] {
        let bytes = &self.as_bytes()[..BLOCK_SIZE - 16];
        metadata_tag(
            self.pool_uuid,
            Domain::Superblock,
            0,
            self.generation.get(),
            bytes,
        )
        .0
    }

    /// Reads a superblock of `pool`; `None` for anything else, damaged ones included.
    #[must_use]
    pub fn decode(block: &[u8; BLOCK_SIZE], pool: [u8; 16]) -> Option<Self> {
        let read = Self::read_from_bytes(block).ok()?;
        let sound = read.magic == MAGIC
            && read.pool_uuid == pool
            && read.tag == read.compute_tag()
            && read.area.get() < 2
            && read.runs.get() == 0
            && read.catalog_height.get() <= HEIGHT_MAX.into();
        sound.then_some(read)
    }
}
