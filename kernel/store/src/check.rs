//! Verifies everything that must hold of a pool at rest, reading only.
//!
//! The checker shares the codecs of `layout` with the store and nothing else: it has its own way from the superblock
//! down, its own model of the journal and its own account of which block is used for what. So an error in the
//! engine does not hide itself.
//!
//! What is verified, in this order:
//! 1. drives: headers, copies of the header, the newest superblock whose group table can be read;
//! 2. groups: no chunk belongs to two, each has a replica, tags and counters of bitmaps are right;
//! 3. the catalog: which map came from which, names, numbers, clocks;
//! 4. maps of the checkpoint (volumes, snapshots, deleted ones, the store's own, what is still to be reclaimed): tags of all
//!    nodes on all replicas, births, no block used twice, what is shared is the same, counts, tags of data if wanted;
//! 5. bitmaps: what is in use is exactly what was reached;
//! 6. journal: the chain of frames, what they describe, and that they use only blocks that the checkpoint does not.

mod bitmaps;
mod blocks;
mod family;
mod finding;
mod frames;
mod journal;
mod load;
mod maps;
mod model;
#[cfg(test)]
mod tests;
mod tree;
mod usage;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use world::Disk;

use crate::api::StoreError;
use crate::layout::{GroupEntry, Superblock};
pub use finding::{Finding, Owner};
use load::{Drive, Loaded};
use usage::Usage;

/// Maps that a summary names.
const NAMED_MAX: usize = 1000;

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
    /// Snapshots, likewise.
    pub snapshots: u64,
    /// Maps of deleted volumes and snapshots that are still there.
    pub hidden: u64,
    /// Blocks of data in the maps of the checkpoint, shared ones once, those to be reclaimed included.
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
    /// The maps that findings are about, by number, and what they are: the first thousand.
    pub named: BTreeMap<u64, String>,
}

impl Summary {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings == 0
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
    let maps = checker.check_journal(maps).await;
    for (map, label) in &mut checker.summary.named {
        *label = maps.label(*map);
    }
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
        if let Some(map) = finding.map()
            && self.summary.named.len() < NAMED_MAX
        {
            self.summary.named.insert(map, String::new());
        }
        (self.report)(finding);
    }
}
