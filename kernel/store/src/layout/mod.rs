//! Bytes on a drive: every structure of the format, its size and its tag.
//!
//! All numbers are little-endian. Reserved bytes are zero when written and must be zero when read. `DESIGN.md` has the
//! tables; the tests print a sample of each structure, so that a change of the format is a readable diff.

mod catalog;
mod frame;
mod group;
mod header;
mod pointer;
mod record;
mod superblock;

pub use catalog::{
    BASES_MAX, CatalogEntry, CatalogKind, HEIGHT_MAX, IDS_MAX, MOUNTS_MAX, NAME_MAX,
};
pub use frame::{FRAME_BLOCKS_MAX, FRAME_HEADER, FrameHeader};
pub use group::{Class, GroupEntry, REPLICAS_MAX, Replica};
pub use header::{Header, HeaderState, LABEL_BLOCKS, Regions};
pub use pointer::{FAN, Kind, POINTER_SIZE, Pointer, get_pointer, get_pointer_in, set_pointer};
pub use record::{CONTROL_MAX, Record};
pub use superblock::{JournalTail, Member, SLOTS, SUPERBLOCK_FLAG_DEFERRED, Superblock};

use crate::tag::{Context, Tag, tag};

/// A block of the pool: group number in the upper bits, block within the group in the lower 15.
pub type PoolAddr = u64;

/// Bits of a [`PoolAddr`] below the group number, whatever the group's size is.
pub const GROUP_BITS: u32 = 15;

/// What kind of metadata a tag is for; part of the seed, so that one kind never passes for another.
#[derive(Clone, Copy)]
#[repr(u64)]
pub enum Domain {
    /// A device header.
    Header = 1,
    /// A superblock.
    Superblock = 2,
    /// A block of the group table.
    GroupTable = 3,
    /// A block of tags of the group table.
    GroupTags = 4,
    /// A group's bitmap.
    Bitmap = 5,
    /// A block of a journal frame.
    Frame = 6,
    /// The whole of a journal frame.
    FrameSum = 7,
    /// A node of a map; level and address follow.
    Node = 8,
}

/// The tag of a piece of metadata: the pool, what it is, and where it belongs.
#[must_use]
pub fn metadata_tag(pool: [u8; 16], domain: Domain, place: u64, version: u64, bytes: &[u8]) -> Tag {
    let words = [(domain as u64) << 56 | place, version];
    tag(
        &Context {
            identity: pool,
            words,
        },
        bytes,
    )
}

/// The tag of a block of a volume. It belongs to the lineage, not to the pool, so that a block can move.
#[must_use]
pub fn data_tag(lineage: [u8; 16], lba: u64, birth: u64, bytes: &[u8]) -> Tag {
    tag(
        &Context {
            identity: lineage,
            words: [lba, birth],
        },
        bytes,
    )
}

/// The tag of a map node.
#[must_use]
pub fn node_tag(pool: [u8; 16], level: u8, addr: PoolAddr, birth: u64, bytes: &[u8]) -> Tag {
    metadata_tag(
        pool,
        Domain::Node,
        u64::from(level) << 48 | addr,
        birth,
        bytes,
    )
}

/// A mount hands out fewer births than this.
pub const BIRTHS_MAX: u64 = 1 << 44;

/// The first generation of births of mount `mount_gen`: 20 bits of mount, 44 bits of counter.
#[must_use]
pub const fn first_birth(mount_gen: u64) -> u64 {
    mount_gen << 44
}
