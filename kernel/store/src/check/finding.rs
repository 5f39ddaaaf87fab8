//! What a check can find.

use alloc::string::String;
use core::fmt;

use crate::layout::PoolAddr;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A copy of a drive's header is missing or differs from the other.
    Header {
        /// Position of the drive in the pool.
        drive: usize,
    },
    /// The newest superblock cannot be used; an older one was taken.
    Fallback {
        /// Its checkpoint.
        unusable: u64,
        /// The checkpoint that was checked instead.
        used: u64,
    },
    /// A field of the superblock, the group table or the catalog has a value that cannot be.
    Malformed {
        /// Where, and what is wrong.
        what: String,
    },
    /// A block cannot be read, or its tag does not match.
    Damaged {
        /// What the block is.
        what: Owner,
        /// Where it is.
        addr: PoolAddr,
        /// On this drive; the other replicas, if there are any, may be sound.
        drive: usize,
    },
    /// The birth of a node is not the newest of its entries.
    Birth {
        /// The node.
        what: Owner,
        /// What its pointer says.
        found: u64,
        /// The newest birth in it.
        newest: u64,
    },
    /// A block has no birth, one later than its pool has lived, or one that another block of the journal has.
    ImpossibleBirth {
        /// One of the blocks.
        what: Owner,
        /// Its birth.
        birth: u64,
    },
    /// A block is referred to from two places.
    UsedTwice {
        /// The second of them.
        what: Owner,
        /// The block.
        addr: PoolAddr,
    },
    /// A pointer leads to a place where no block can be.
    BadAddress {
        /// What is said to be there.
        what: Owner,
        /// The place.
        addr: PoolAddr,
    },
    /// A block is in use, but nothing refers to it.
    Leaked {
        /// The block.
        addr: PoolAddr,
    },
    /// A block is referred to, but not in use: it can be overwritten at any time.
    Dangling {
        /// The block.
        addr: PoolAddr,
    },
    /// A group's count of free blocks is wrong.
    FreeCount {
        /// The group.
        group: u32,
        /// What the table says.
        table: u32,
        /// What the bitmap says.
        bitmap: u32,
    },
    /// A volume's or snapshot's count of blocks is wrong.
    BlockCount {
        /// The map.
        volume: u64,
        /// What the catalog says.
        catalog: u64,
        /// What its map holds.
        map: u64,
    },
    /// A pointer to a node of the lowest level counts its blocks of data wrong, or another pointer counts any.
    LeafCount {
        /// The node.
        what: Owner,
        /// What its pointer says.
        found: u64,
        /// Blocks of data in it.
        blocks: u64,
    },
    /// What a map did not change since it began must be what its parent has there, and is not.
    Unlike {
        /// The block or node.
        what: Owner,
        /// The map that it is compared with.
        parent: u64,
    },
    /// What the catalog says of a volume or snapshot and of those that it came from cannot all be.
    Relation {
        /// The map.
        map: u64,
        /// Which it is, by name, and what is wrong.
        what: String,
    },
    /// Two blocks of a lineage (a volume, its snapshots and clones) have the same birth.
    BirthTwice {
        /// A map of that lineage.
        map: u64,
        /// The birth.
        birth: u64,
    },
    /// Frames of the journal that were once durable are gone or damaged.
    JournalLost {
        /// The first frame that is missing.
        seq: u64,
        /// Frames up to this one were durable.
        durable: u64,
    },
    /// A frame of the journal is whole, but what it says cannot be.
    JournalRecord {
        /// The frame.
        seq: u64,
        /// What is wrong.
        what: String,
    },
    /// A durable frame is missing or damaged on one drive only.
    JournalReplica {
        /// The frame.
        seq: u64,
        /// The drive.
        drive: usize,
    },
}

/// What a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A block of a volume or snapshot (or of one of the store's own maps).
    Block {
        /// Number of the map.
        volume: u64,
        /// Block number within it.
        block: u64,
    },
    /// A node of a map.
    Node {
        /// Number of the map.
        volume: u64,
        /// 0 is the lowest.
        level: u8,
        /// First block below it.
        block: u64,
    },
    /// A group's bitmap.
    Bitmap {
        /// The group.
        group: u32,
    },
    /// A block of the group table; its address is that on the drive.
    Table {
        /// Block within the table.
        block: usize,
    },
}

impl Finding {
    /// The map that it is about, if it is about one.
    #[must_use]
    pub fn map(&self) -> Option<u64> {
        match self {
            Self::Damaged { what, .. }
            | Self::Birth { what, .. }
            | Self::ImpossibleBirth { what, .. }
            | Self::UsedTwice { what, .. }
            | Self::BadAddress { what, .. }
            | Self::LeafCount { what, .. }
            | Self::Unlike { what, .. } => what.map(),
            Self::BlockCount { volume: map, .. }
            | Self::Relation { map, .. }
            | Self::BirthTwice { map, .. } => Some(*map),
            _ => None,
        }
    }
}

impl Owner {
    fn map(&self) -> Option<u64> {
        match self {
            Self::Block { volume, .. } | Self::Node { volume, .. } => Some(*volume),
            Self::Bitmap { .. } | Self::Table { .. } => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { volume, block } => write!(out, "block {block} of map {volume}"),
            Self::Node {
                volume,
                level,
                block,
            } => {
                write!(
                    out,
                    "the node of level {level} at block {block} of map {volume}"
                )
            }
            Self::Bitmap { group } => write!(out, "the bitmap of group {group}"),
            Self::Table { block } => write!(out, "block {block} of the group table"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { drive } => {
                write!(
                    out,
                    "drive {drive}: a copy of the header is damaged or missing"
                )
            }
            Self::Fallback { unusable, used } => write!(
                out,
                "checkpoint {unusable} cannot be used; checkpoint {used} was checked instead"
            ),
            Self::Malformed { what } => out.write_str(what),
            Self::Damaged { what, addr, drive } => {
                write!(out, "{what} is damaged at {addr:#x} on drive {drive}")
            }
            Self::Birth {
                what,
                found,
                newest,
            } => {
                write!(
                    out,
                    "{what} has birth {found:#x}, but its newest entry has {newest:#x}"
                )
            }
            Self::ImpossibleBirth { what, birth } => {
                write!(
                    out,
                    "{what} has birth {birth:#x}, which is used twice or not reached yet"
                )
            }
            Self::UsedTwice { what, addr } => {
                write!(
                    out,
                    "{what} is at {addr:#x}, where something else is as well"
                )
            }
            Self::BadAddress { what, addr } => {
                write!(
                    out,
                    "{what} is said to be at {addr:#x}, where no block can be"
                )
            }
            Self::Leaked { addr } => {
                write!(out, "block {addr:#x} is in use, but nothing refers to it")
            }
            Self::Dangling { addr } => {
                write!(out, "block {addr:#x} is referred to, but marked as free")
            }
            Self::FreeCount {
                group,
                table,
                bitmap,
            } => {
                write!(out, "group {group} has {bitmap} free blocks, not {table}")
            }
            Self::BlockCount {
                volume,
                catalog,
                map,
            } => {
                write!(out, "map {volume} has {map} blocks of data, not {catalog}")
            }
            Self::LeafCount {
                what,
                found,
                blocks,
            } => {
                write!(
                    out,
                    "{what} has {blocks} blocks of data to be counted, its pointer says {found}"
                )
            }
            Self::Unlike { what, parent } => write!(
                out,
                "{what} was not changed since its map began, but map {parent} has something else there"
            ),
            Self::Relation { what, .. } => out.write_str(what),
            Self::BirthTwice { map, birth } => write!(
                out,
                "two blocks of map {map} or its relatives have birth {birth:#x}"
            ),
            Self::JournalLost { seq, durable } => write!(
                out,
                "frame {seq} of the journal is lost, though frames up to {durable} were durable"
            ),
            Self::JournalRecord { seq, what } => write!(out, "frame {seq} of the journal: {what}"),
            Self::JournalReplica { seq, drive } => {
                write!(out, "frame {seq} of the journal is lost on drive {drive}")
            }
        }
    }
}
