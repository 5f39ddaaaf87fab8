//! The device header: block 0 and again at the start of the last 64 blocks. Written once, at format.

use world::BLOCK_SIZE;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Domain, metadata_tag};

const MAGIC: [u8; 8] = *b"FERRITE\0";

/// The version of the format that this code writes and reads.
const VERSION: u32 = 1;

/// Blocks of a label: header, crash record, superblock ring.
pub const LABEL_BLOCKS: u64 = 64;

/// Tag algorithm 1: the multiply hash of `tag`.
const TAG_ALGORITHM: u32 = crate::tag::ALGORITHM as u32;

/// Where the parts of a device are, in blocks.
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
pub struct Regions {
    /// Blocks of the device that are used at all.
    pub blocks: U64,
    /// First block of the two checkpoint areas.
    pub table: [U64; 2],
    /// Blocks of each checkpoint area.
    pub table_blocks: U64,
    /// First block of the journal ring.
    pub journal: U64,
    /// Blocks of the journal ring.
    pub journal_blocks: U64,
    /// First block of chunk 0.
    pub chunks_start: U64,
    /// Number of chunks.
    pub chunks: U64,
}

impl Regions {
    /// First block of label B, a mirror of label A at block 0.
    #[must_use]
    pub fn label_b(&self) -> u64 {
        self.blocks.get() - LABEL_BLOCKS
    }

    /// The copies of superblock slot `slot`.
    #[must_use]
    pub fn superblocks(&self, slot: u64) -> [u64; 2] {
        [32 + slot, self.label_b() + 32 + slot]
    }

    /// Whether the parts follow each other without overlap.
    fn is_sound(&self, group_shift: u32) -> bool {
        let table = self.table_blocks.get();
        let chunk_blocks = 1_u64 << group_shift;
        let ends = [
            (LABEL_BLOCKS, self.table[0].get()),
            (
                self.table[0].get().saturating_add(table),
                self.table[1].get(),
            ),
            (
                self.table[1].get().saturating_add(table),
                self.journal.get(),
            ),
            (
                self.journal.get().saturating_add(self.journal_blocks.get()),
                self.chunks_start.get(),
            ),
            (
                self.chunks
                    .get()
                    .saturating_mul(chunk_blocks)
                    .saturating_add(self.chunks_start.get()),
                self.blocks.get().saturating_sub(LABEL_BLOCKS),
            ),
        ];
        ends.iter().all(|(end, next)| end <= next)
            && self.chunks.get() > 0
            && self.journal_blocks.get() >= 256
    }
}

/// The device header.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    /// log2 of the blocks of a group.
    pub group_shift: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    /// The pool.
    pub pool_uuid: [u8; 16],
    /// This drive.
    pub device_uuid: [u8; 16],
    /// Position in the member table.
    pub index: U32,
    /// Drives of the pool.
    pub members: U32,
    tag_algorithm: U32,
    /// 1 while the pool is being made: nothing was ever stored in it.
    forming: U32,
    /// Where things are.
    pub regions: Regions,
    reserved: [u8; BLOCK_SIZE - 168],
    tag: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == BLOCK_SIZE);

/// What block 0 says.
#[derive(Debug)]
pub enum HeaderState {
    /// Not a header of ours.
    None,
    /// A header of ours.
    Valid(alloc::boxed::Box<Header>),
    /// A header of ours, of a format that this version does not know; the text says which.
    Newer(alloc::string::String),
    /// Begins like ours, but is damaged.
    Damaged,
}

impl Header {
    /// The header of member `index` of a new pool.
    #[must_use]
    pub fn new(
        pool_uuid: [u8; 16],
        device_uuid: [u8; 16],
        (index, members): (u32, u32),
        group_shift: u32,
        regions: Regions,
    ) -> Self {
        let mut header = Self::new_zeroed();
        header.magic = MAGIC;
        header.version = VERSION.into();
        header.group_shift = group_shift.into();
        header.pool_uuid = pool_uuid;
        header.device_uuid = device_uuid;
        header.index = index.into();
        header.members = members.into();
        header.tag_algorithm = TAG_ALGORITHM.into();
        header.regions = regions;
        header.tag = header.compute_tag();
        header
    }

    /// Whether the pool is still being made.
    #[must_use]
    pub fn is_forming(&self) -> bool {
        self.forming.get() != 0
    }

    /// Notes that the pool is being made, or that it is complete.
    pub fn set_forming(&mut self, forming: bool) {
        self.forming = u32::from(forming).into();
        self.tag = self.compute_tag();
    }

    fn compute_tag(&self) -> [u8; 16] {
        let bytes = &self.as_bytes()[..BLOCK_SIZE - 16];
        metadata_tag(self.pool_uuid, Domain::Header, 0, 0, bytes).0
    }

    /// Reads a header block.
    #[must_use]
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> HeaderState {
        let Ok(header) = Self::read_from_bytes(block) else {
            return HeaderState::None;
        };
        if header.magic != MAGIC {
            return HeaderState::None;
        }
        // The version comes first: a later format may compute the tag differently.
        if header.version.get() != VERSION {
            let version = header.version.get();
            return HeaderState::Newer(alloc::format!(
                "a Ferrite pool of format version {version} (this program knows version {VERSION})"
            ));
        }
        if header.tag != header.compute_tag() {
            return HeaderState::Damaged;
        }
        let unknown = header.incompat.get() | header.ro_compat.get();
        if unknown != 0 || header.tag_algorithm.get() != TAG_ALGORITHM {
            return HeaderState::Newer(alloc::format!(
                "a Ferrite pool with features that this program does not know ({unknown:#x})"
            ));
        }
        let shift = header.group_shift.get();
        let sound = (8..=15).contains(&shift)
            && header.regions.is_sound(shift)
            && (1..=32).contains(&header.members.get())
            && header.index.get() < header.members.get();
        if sound {
            HeaderState::Valid(alloc::boxed::Box::new(header))
        } else {
            HeaderState::Damaged
        }
    }
}
