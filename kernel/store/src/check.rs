//! Verifies everything that must hold of a pool at rest, reading only.
//!
//! The checker shares the codecs of `layout` with the store and nothing else: it has its own way from the superblock
//! down, its own model of the journal and its own account of which block is used for what. So an error in the
//! engine does not hide itself.
//!
//! What is verified, in this order:
//! 1. drives: headers, copies of the header, the newest superblock whose group table can be read;
//! 2. groups: no chunk belongs to two, each has a replica, tags and counters of bitmaps are right;
//! 3. maps of the checkpoint (catalog, its volumes, the store's own, what is still to be reclaimed): tags of all nodes on all
//!    replicas, births, no block used twice, tags of data if wanted;
//! 4. bitmaps: what is in use is exactly what was reached;
//! 5. journal: the chain of frames, what they describe, and that they use only blocks that the checkpoint does not.

mod journal;
mod load;
#[cfg(test)]
mod tests;
mod usage;
mod walk;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use world::Disk;

use crate::api::StoreError;
use crate::layout::{GroupEntry, PoolAddr, Superblock};
use load::{Drive, Loaded};
use usage::Usage;

/// How thorough a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read every block of data and compare its tag; else only those that recovery would look at.
    pub verify_data: bool,
}

/// What a check counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Volumes, those included that only the journal knows.
    pub volumes: u64,
    /// Blocks of data in the maps of the checkpoint, those to be reclaimed included.
    pub data_blocks: u64,
    /// Map nodes and blocks of the store's own maps.
    pub node_blocks: u64,
    /// Frames of the journal behind the checkpoint.
    pub frames: u64,
    /// Blocks that those frames wrote.
    pub journal_blocks: u64,
    /// Blocks whose tags were compared.
    pub verified: u64,
    /// Blocks in use that nothing refers to.
    pub leaked: u64,
    /// Blocks referred to that are not in use.
    pub dangling: u64,
    /// Blocks referred to from more than one place.
    pub used_twice: u64,
    /// Blocks whose tag does not match, or which cannot be read, on at least one replica.
    pub damaged: u64,
    /// Findings of any kind.
    pub findings: u64,
}

impl Summary {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings == 0
    }
}

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
    /// Two blocks of a volume have the same birth, or one was born later than its pool has lived.
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
    /// A volume's count of blocks is wrong.
    BlockCount {
        /// The volume.
        volume: u64,
        /// What the catalog says.
        catalog: u64,
        /// What its map holds.
        map: u64,
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
    /// A block of a volume (or of one of the store's own maps).
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

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { volume, block } => write!(out, "block {block} of volume {volume}"),
            Self::Node {
                volume,
                level,
                block,
            } => {
                write!(
                    out,
                    "the node of level {level} at block {block} of volume {volume}"
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
                write!(
                    out,
                    "volume {volume} has {map} blocks of data, not {catalog}"
                )
            }
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

/// Verifies the pool on `disks` (all of them, in any order) and tells `report` of everything that is wrong.
///
/// Nothing is written, and the pool must not be open. A pool that lost power is as sound as one that was closed.
///
/// # Errors
/// When it cannot even begin: no pool, drives missing, no usable superblock or catalog.
pub async fn check<D: Disk>(
    disks: &[D],
    options: CheckOptions,
    report: &mut dyn FnMut(Finding),
) -> Result<Summary, StoreError> {
    let Loaded {
        drives,
        superblock,
        groups,
        findings,
    } = load::load(disks).await?;
    let mut checker = Checker {
        usage: Usage::new(drives[0].header.group_shift.get(), groups.len()),
        pool_uuid: drives[0].header.pool_uuid,
        drives,
        superblock,
        groups,
        options,
        summary: Summary::default(),
        report,
    };
    findings
        .into_iter()
        .for_each(|finding| checker.find(finding));
    checker.check_groups();
    let maps = checker.walk_maps().await;
    checker.check_bitmaps().await;
    checker.check_journal(maps).await;
    Ok(checker.summary)
}

/// A check under way.
struct Checker<'a, D> {
    drives: Vec<Drive<'a, D>>,
    pool_uuid: [u8; 16],
    superblock: Superblock,
    groups: Vec<GroupEntry>,
    usage: Usage,
    options: CheckOptions,
    summary: Summary,
    report: &'a mut dyn FnMut(Finding),
}

impl<D: Disk> Checker<'_, D> {
    fn find(&mut self, finding: Finding) {
        self.summary.findings += 1;
        match finding {
            Finding::Damaged { .. } => self.summary.damaged += 1,
            Finding::UsedTwice { .. } => self.summary.used_twice += 1,
            Finding::Leaked { .. } => self.summary.leaked += 1,
            Finding::Dangling { .. } => self.summary.dangling += 1,
            _ => {}
        }
        (self.report)(finding);
    }
}
