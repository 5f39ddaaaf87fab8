//! What the store must return: a plain model of volumes, records and the order of requests.
//!
//! **While running** a read of a block must match one of the states that were current during the read (I10 of the
//! store's design): at least the last one acknowledged before it arrived, at least what an earlier read already saw.
//!
//! **After a crash** the whole pool must be in a state that some prefix of the completed requests produced, at least
//! everything flushed (I9). The store's order is not visible from outside for requests that overlap in time, so the
//! check is the strongest one that is sound: every request has an interval of ticks from its arrival to its
//! acknowledgement; if one is present, each request that had ended before it began must be present too. A request
//! that changes several blocks counts once for each block. Creating, deleting and growing volumes and setting records
//! are part of the same order. A block as a whole must match one state: no mixture of sectors of several states.

mod bases;
mod family;
mod frozen;
mod history;
mod origin;
mod recovery;
mod requests;
mod snapshots;
#[cfg(test)]
mod tests;
mod verdict;
mod volumes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use store::{Source, StoreError, VolumeId};

pub use bases::{Base, Filling};
pub use family::{Member, Pair};
pub use frozen::mask_within;
use history::History;
pub use history::{Sight, State};
use origin::untouched;
pub use origin::{ORIGIN, Origin};
pub use requests::{Change, mask_of};
pub use snapshots::Snapshot;
pub use verdict::Verdict;

/// A point in the order of arrivals and acknowledgements.
pub type Tick = u64;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Refused without any effect.
    Refused,
    /// Not answered yet.
    Pending,
    /// Failed; it may have happened in part.
    Unclear,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub started: Tick,
    pub ended: Option<Tick>,
    pub outcome: Outcome,
    /// It happens as a whole or not at all, whatever it changes.
    pub is_whole: bool,
}

impl Operation {
    /// When it was acknowledged. One that failed may never have happened, so that it is missing says nothing.
    fn acknowledged(&self) -> Option<Tick> {
        self.ended.filter(|_| self.outcome == Outcome::Done)
    }
}

/// How much a drive's faults excuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: no errors, no losses.
    Full,
    /// Errors are excused, wrong or lost data is not.
    ErrorsHappen,
    /// Drives lie: after a restart any historical contents of a block are excused too.
    DrivesLie,
}

/// Whether a volume exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// Being created by this operation.
    Coming(usize),
    /// There.
    Live,
    /// Being deleted by this operation.
    Going(usize),
    /// A snapshot that was deleted, but that others are based on.
    Hidden,
}

/// A volume as the model knows it.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: Option<VolumeId>,
    pub name: String,
    pub size_bytes: u64,
    /// The first of its ancestors: all of them write its number into their sectors.
    pub lineage: u64,
    /// The snapshot that it is based on.
    pub parent: Option<u64>,
    /// A rollback that may or may not have happened before the last restart: its operation and that snapshot.
    pub doubt: Option<(usize, u64)>,
    /// A grow, rename or rollback under way.
    pub changing: Option<Changing>,
    pub existence: Existence,
    /// Snapshots being taken.
    pub freezing: usize,
    /// What it was adopted from, or the first of its ancestors.
    pub origin: Option<Origin>,
    blocks: BTreeMap<u64, History>,
}

/// What becomes of a volume by the operation, if it survives.
#[derive(Clone, Debug)]
pub struct Changing {
    pub operation: usize,
    pub name: Option<String>,
    pub size_bytes: Option<u64>,
    /// The snapshot that it is rolled back to.
    pub parent: Option<u64>,
}

impl Volume {
    fn new(number: u64, name: &str, size_bytes: u64, existence: Existence) -> Self {
        Self {
            id: None,
            name: name.to_string(),
            size_bytes,
            lineage: number,
            parent: None,
            doubt: None,
            changing: None,
            existence,
            freezing: 0,
            origin: None,
            blocks: BTreeMap::new(),
        }
    }

    /// The history of a block, which a snapshot under way also waits for.
    fn block(&mut self, block: u64) -> &mut History {
        let (freezing, origin) = (self.freezing, self.origin);
        let new = || History::begun(untouched(origin, block), freezing);
        self.blocks.entry(block).or_insert_with(new)
    }
}

/// See the module.
pub struct Model {
    seed: u64,
    trust: Trust,
    tick: Tick,
    writes: u64,
    operations: Vec<Operation>,
    volumes: BTreeMap<u64, Volume>,
    snapshots: BTreeMap<u64, Snapshot>,
    /// What arrived of origins, by lineage.
    bases: BTreeMap<u64, Base>,
    /// Volumes and snapshots are numbered together.
    next_number: u64,
    /// What the store called volumes and snapshots so far.
    used_ids: BTreeSet<Source>,
    /// Acknowledged and not promised: end, volume, block, position.
    unflushed: VecDeque<(Tick, u64, u64, usize)>,
    /// Values of records by write number: length of the value, 0 for none.
    record_lengths: BTreeMap<u64, usize>,
}

/// The volume number under which records are kept, one block each.
pub const RECORDS: u64 = 0;

impl Model {
    #[must_use]
    pub fn new(seed: u64, trust: Trust) -> Self {
        let records = Volume::new(RECORDS, "", u64::MAX, Existence::Live);
        Self {
            seed,
            trust,
            tick: 0,
            writes: 0,
            operations: Vec::new(),
            volumes: BTreeMap::from([(RECORDS, records)]),
            snapshots: BTreeMap::new(),
            bases: BTreeMap::new(),
            next_number: 1,
            used_ids: BTreeSet::new(),
            unflushed: VecDeque::new(),
            record_lengths: BTreeMap::new(),
        }
    }

    /// The seed of all contents.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How much the drives' faults excuse.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Numbers of volumes that can be used now.
    #[must_use]
    pub fn live(&self) -> Vec<u64> {
        let live = self
            .volumes
            .iter()
            .filter(|(number, volume)| **number != RECORDS && volume.existence == Existence::Live);
        live.map(|(number, _)| *number).collect()
    }

    /// The volume of that number.
    #[must_use]
    pub fn volume(&self, number: u64) -> Option<&Volume> {
        self.volumes.get(&number)
    }

    fn begin(&mut self) -> usize {
        self.tick += 1;
        self.operations.push(Operation {
            started: self.tick,
            ended: None,
            outcome: Outcome::Pending,
            is_whole: false,
        });
        self.operations.len() - 1
    }

    /// A request that happens as a whole arrives.
    fn begin_whole(&mut self) -> usize {
        let operation = self.begin();
        self.operations[operation].is_whole = true;
        operation
    }

    fn new_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn end(&mut self, operation: usize, outcome: Outcome) -> Tick {
        self.tick += 1;
        let operation = &mut self.operations[operation];
        operation.ended = Some(self.tick);
        operation.outcome = outcome;
        self.tick
    }

    /// A flush arrives.
    pub fn begin_flush(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// A flush that arrived at `started` was answered.
    ///
    /// # Errors
    /// When it failed without excuse.
    pub fn end_flush(
        &mut self,
        started: Tick,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        self.tick += 1;
        match result {
            Ok(()) => {
                self.promise_up_to(started);
                Ok(())
            }
            Err(_) if self.trust != Trust::Full => Ok(()),
            Err(error) => Err(format!("flush failed without reason: {error:?}")),
        }
    }

    fn promise_up_to(&mut self, tick: Tick) {
        while let Some(&(ended, volume, block, position)) = self.unflushed.front() {
            if ended > tick {
                break;
            }
            self.unflushed.pop_front();
            let volume = self.volumes.get_mut(&volume);
            if let Some(history) = volume.and_then(|known| known.blocks.get_mut(&block)) {
                history.promise(position, &self.operations);
            }
        }
        for base in self.bases.values_mut() {
            base.promise_up_to(tick);
        }
    }

    /// Control operations are durable when acknowledged, and they are part of the one order: so is all that had ended
    /// when they began.
    fn promise_before(&mut self, operation: usize) {
        let started = self.operations[operation].started;
        self.promise_up_to(started);
    }

    /// A change that is durable when answered (a record, a write with FUA) was answered.
    ///
    /// # Errors
    /// An unexcused refusal.
    pub fn end_durable_change(
        &mut self,
        change: &Change,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        self.end_change(change, result)?;
        if result.is_ok() {
            // Forgetting a record that there is not needs no place in the order.
            if change.write > 0 {
                self.promise_before(change.operation);
            }
            if let Some(volume) = self.volumes.get_mut(&change.volume) {
                for (block, position, _) in &change.touched {
                    if let Some(history) = volume.blocks.get_mut(block) {
                        history.promise(*position, &self.operations);
                    }
                }
            }
        }
        Ok(())
    }

    /// Remembers how long the record value of `change` is.
    pub fn note_record(&mut self, change: &Change, len: usize) {
        self.record_lengths.insert(change.write, len);
    }

    /// The length of the record value that a write set.
    #[must_use]
    pub fn record_len(&self, write: u64) -> usize {
        self.record_lengths.get(&write).copied().unwrap_or(0)
    }
}
