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

mod history;
mod recovery;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use store::{StoreError, VolumeId};
use world::BLOCK_SIZE;

use crate::content::{Found, SECTOR, Stamp, identify};
pub use history::Observed;
use history::{Certainty, Entry, History, SECTORS};
pub use recovery::Verdict;

/// A point in the order of arrivals and acknowledgements.
pub type Tick = u64;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered yet.
    Pending,
    /// Acknowledged.
    Done,
    /// Refused without any effect.
    Refused,
    /// Failed; it may have happened in part.
    Unclear,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub started: Tick,
    pub ended: Option<Tick>,
    pub outcome: Outcome,
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
}

/// A volume as the model knows it.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: Option<VolumeId>,
    pub name: String,
    pub size_bytes: u64,
    /// A grow under way: its operation and the new size.
    pub growing: Option<(usize, u64)>,
    pub existence: Existence,
    blocks: BTreeMap<u64, History>,
}

/// A write or discard under way, or a set record.
#[derive(Debug)]
pub struct Change {
    pub operation: usize,
    pub volume: u64,
    pub write: u64,
    touched: Vec<(u64, usize, u8)>,
}

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    volume: u64,
    offset: u64,
    len: u64,
    floors: Vec<usize>,
}

/// See the module.
pub struct Model {
    seed: u64,
    trust: Trust,
    tick: Tick,
    writes: u64,
    operations: Vec<Operation>,
    volumes: BTreeMap<u64, Volume>,
    next_volume: u64,
    used_ids: BTreeSet<VolumeId>,
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
        let records = Volume {
            id: None,
            name: String::new(),
            size_bytes: u64::MAX,
            growing: None,
            existence: Existence::Live,
            blocks: BTreeMap::new(),
        };
        Self {
            seed,
            trust,
            tick: 0,
            writes: 0,
            operations: Vec::new(),
            volumes: BTreeMap::from([(RECORDS, records)]),
            next_volume: 1,
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
        });
        self.operations.len() - 1
    }

    fn end(&mut self, operation: usize, outcome: Outcome) -> Tick {
        self.tick += 1;
        let operation = &mut self.operations[operation];
        operation.ended = Some(self.tick);
        operation.outcome = outcome;
        self.tick
    }

    /// A write (or, without contents, a discard) of a range in units of sectors arrives.
    pub fn begin_change(&mut self, volume: u64, offset: u64, len: u64, is_write: bool) -> Change {
        let operation = self.begin();
        self.writes += 1;
        let write = if is_write { self.writes } else { 0 };
        let mut touched = Vec::new();
        if let Some(known) = self.volumes.get_mut(&volume) {
            let size = BLOCK_SIZE as u64;
            let (first, last) = (offset / size, (offset + len - 1) / size);
            // What was never written is zeros before and after a discard.
            let blocks: Vec<u64> = if is_write {
                (first..=last).collect()
            } else {
                let range = known.blocks.range(first..=last);
                range.map(|(block, _)| *block).collect()
            };
            for block in blocks {
                let mask = mask_of(block, offset, len);
                let history = known.blocks.entry(block).or_default();
                let entry = Entry {
                    operation,
                    mask,
                    write,
                };
                touched.push((block, history.push(entry), mask));
            }
        }
        Change {
            operation,
            volume,
            write,
            touched,
        }
    }

    /// The contents of a write for the sectors of its range.
    pub fn stamp(&self, change: &Change, sector: u64) -> Stamp {
        Stamp {
            volume: change.volume,
            sector,
            write: change.write,
        }
    }

    /// A write or discard was answered.
    ///
    /// # Errors
    /// When that answer is not excused.
    pub fn end_change(
        &mut self,
        change: &Change,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        let outcome = self.judge(change.volume, result)?;
        let ended = self.end(change.operation, outcome);
        let Some(volume) = self.volumes.get_mut(&change.volume) else {
            return Ok(());
        };
        for &(block, position, mask) in &change.touched {
            let Some(history) = volume.blocks.get_mut(&block) else {
                continue;
            };
            match outcome {
                Outcome::Done => {
                    history.acknowledge(position, mask);
                    self.unflushed
                        .push_back((ended, change.volume, block, position));
                }
                Outcome::Unclear => {
                    history.certainty = history.certainty.max(Certainty::UntilWritten);
                }
                Outcome::Refused | Outcome::Pending => {}
            }
        }
        Ok(())
    }

    /// The connection that carried a write or discard is gone: it may still happen.
    pub fn lose_change(&mut self, change: &Change) {
        self.operations[change.operation].outcome = Outcome::Unclear;
        if let Some(volume) = self.volumes.get_mut(&change.volume) {
            for (block, ..) in &change.touched {
                if let Some(history) = volume.blocks.get_mut(block) {
                    history.certainty = Certainty::UntilRestart;
                }
            }
        }
    }

    /// A write or discard that happens in parts was refused for lack of space: some of them may have happened.
    pub fn doubt_change(&mut self, change: &Change) {
        self.end(change.operation, Outcome::Unclear);
        if let Some(volume) = self.volumes.get_mut(&change.volume) {
            for (block, ..) in &change.touched {
                if let Some(history) = volume.blocks.get_mut(block) {
                    history.certainty = history.certainty.max(Certainty::UntilWritten);
                }
            }
        }
    }

    /// The connection that carried a read is gone.
    pub fn lose_read(&mut self, reading: &Reading) {
        let first = reading.offset / BLOCK_SIZE as u64;
        if let Some(volume) = self.volumes.get_mut(&reading.volume) {
            for block in (first..).take(reading.floors.len()) {
                if let Some(history) = volume.blocks.get_mut(&block) {
                    history.end_read(&self.operations);
                }
            }
        }
    }

    fn judge(&self, volume: u64, result: Result<(), StoreError>) -> Result<Outcome, String> {
        let gone = (self.volumes.get(&volume))
            .is_none_or(|volume| matches!(volume.existence, Existence::Going(_)));
        match result {
            Ok(()) => Ok(Outcome::Done),
            Err(StoreError::NoSpace) => Ok(Outcome::Refused),
            Err(StoreError::NoVolume) if gone => Ok(Outcome::Refused),
            Err(_) if self.trust != Trust::Full => Ok(Outcome::Unclear),
            Err(error) => Err(format!("refused without reason: {error} ({error:?})")),
        }
    }

    /// A read of a range in units of sectors arrives.
    pub fn begin_read(&mut self, volume: u64, offset: u64, len: u64) -> Reading {
        self.tick += 1;
        let size = BLOCK_SIZE as u64;
        let mut floors = Vec::new();
        if let Some(known) = self.volumes.get_mut(&volume) {
            for block in offset / size..=(offset + len - 1) / size {
                floors.push(known.blocks.entry(block).or_default().begin_read());
            }
        }
        Reading {
            volume,
            offset,
            len,
            floors,
        }
    }

    /// A read was answered with these bytes: those of the whole blocks that the range touches.
    ///
    /// # Errors
    /// When the bytes are not what they can be.
    pub fn end_read(
        &mut self,
        reading: &Reading,
        result: Result<&[u8], StoreError>,
    ) -> Result<(), String> {
        self.tick += 1;
        let size = BLOCK_SIZE as u64;
        let verdict = match result {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.judge(reading.volume, Err(error))?;
                None
            }
        };
        let first = reading.offset / size;
        for (index, floor) in reading.floors.iter().enumerate() {
            let block = first + index as u64;
            let mask = mask_of(block, reading.offset, reading.len);
            if let Some(bytes) = verdict {
                let bytes = &bytes[index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE];
                let observed = self.observe(reading.volume, block, mask, bytes)?;
                self.check_block(reading.volume, block, &observed, *floor)?;
            }
            let Some(volume) = self.volumes.get_mut(&reading.volume) else {
                return Ok(());
            };
            if let Some(history) = volume.blocks.get_mut(&block) {
                history.end_read(&self.operations);
            }
        }
        Ok(())
    }

    fn check_block(
        &mut self,
        number: u64,
        block: u64,
        observed: &Observed,
        floor: usize,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let history = volume.blocks.entry(block).or_default();
        if history.certainty > Certainty::Exact {
            return Ok(());
        }
        match history.matching(observed, floor, &self.operations) {
            Some((first, _)) => {
                history.saw(first);
                Ok(())
            }
            None => Err(format!(
                "volume {number} block {block}: read {observed:?}, expected a state from {floor} on of\n{}",
                history.describe(&self.operations)
            )),
        }
    }

    /// What the wanted sectors of a block hold.
    ///
    /// # Errors
    /// When they hold something that was never written there.
    pub fn observe(
        &self,
        volume: u64,
        block: u64,
        mask: u8,
        bytes: &[u8],
    ) -> Result<Observed, String> {
        let mut observed = [None; SECTORS];
        for (index, slot) in observed.iter_mut().enumerate() {
            if mask & (1 << index) == 0 {
                continue;
            }
            let sector = block * SECTORS as u64 + index as u64;
            let found = identify(self.seed, &bytes[index * SECTOR..(index + 1) * SECTOR]);
            *slot = Some(match found {
                Found::Zeros => 0,
                Found::Written(stamp)
                    if (stamp.volume, stamp.sector) == (volume, sector)
                        && stamp.write <= self.writes =>
                {
                    stamp.write
                }
                wrong => {
                    return Err(format!(
                        "volume {volume} sector {sector} (block {block}): wrong data: {wrong:?}"
                    ));
                }
            });
        }
        Ok(observed)
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

/// The sectors of `block` that lie in the range.
fn mask_of(block: u64, offset: u64, len: u64) -> u8 {
    let first = block * SECTORS as u64;
    let (low, high) = (offset / SECTOR as u64, (offset + len) / SECTOR as u64);
    (0..SECTORS as u64)
        .filter(|index| (low..high).contains(&(first + index)))
        .fold(0, |mask, index| mask | (1 << index))
}
