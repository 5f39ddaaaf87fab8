//! Requests for data: what they do to the model, and whether their answers can be true.

use store::StoreError;
use world::BLOCK_SIZE;

use super::history::{Certainty, Effect, Entry, Observed, SECTORS};
use super::{Existence, Model, Outcome, Trust};
use crate::content::{Found, SECTOR, Stamp, identify};

/// A write or discard under way, or a set record.
#[derive(Debug)]
pub struct Change {
    pub operation: usize,
    pub volume: u64,
    pub write: u64,
    /// The byte behind its range.
    end: u64,
    pub(super) touched: Vec<(u64, usize, u8)>,
}

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    volume: u64,
    lineage: u64,
    offset: u64,
    len: u64,
    floors: Vec<usize>,
}

impl Model {
    /// The first ancestor of a volume, whose number its sectors hold.
    #[must_use]
    pub fn lineage(&self, volume: u64) -> u64 {
        self.volumes.get(&volume).map_or(0, |known| known.lineage)
    }

    /// What an answer means for a request that reaches up to byte `end` of a volume.
    pub(super) fn judge(
        &self,
        volume: u64,
        end: u64,
        result: Result<(), StoreError>,
    ) -> Result<Outcome, String> {
        let known = self.volumes.get(&volume);
        let gone = known.is_none_or(|volume| matches!(volume.existence, Existence::Going(_)));
        // A rollback may have made it smaller meanwhile.
        let shrunk = known.is_some_and(|volume| {
            let coming = volume
                .changing
                .as_ref()
                .and_then(|changing| changing.size_bytes);
            volume.size_bytes.min(coming.unwrap_or(u64::MAX)) < end
        });
        match result {
            Ok(()) => Ok(Outcome::Done),
            Err(StoreError::NoSpace) => Ok(Outcome::Refused),
            Err(StoreError::NoVolume) if gone => Ok(Outcome::Refused),
            Err(StoreError::OutOfRange) if shrunk => Ok(Outcome::Refused),
            Err(StoreError::NameTaken) if self.wants_taken_name(volume) => Ok(Outcome::Refused),
            Err(_) if self.trust != Trust::Full => Ok(Outcome::Unclear),
            Err(error) => Err(format!("refused without reason: {error} ({error:?})")),
        }
    }

    /// A write (or, without contents, a discard) of a range in units of sectors arrives.
    pub fn begin_change(&mut self, volume: u64, offset: u64, len: u64, is_write: bool) -> Change {
        let operation = self.begin();
        self.writes += 1;
        let version = self.writes;
        let write = if is_write { version } else { 0 };
        let mut touched = Vec::new();
        if let Some(known) = self.volumes.get_mut(&volume) {
            let size = BLOCK_SIZE as u64;
            let (first, last) = (offset / size, (offset + len - 1) / size);
            // What was never written is a hole before and after a discard.
            let blocks: Vec<u64> = if is_write {
                (first..=last).collect()
            } else {
                let touched = known.blocks.range(first..=last);
                touched.map(|(block, _)| *block).collect()
            };
            for block in blocks {
                let mask = mask_of(block, offset, len);
                let effect = Effect::Change {
                    mask,
                    write,
                    version,
                };
                let entry = Entry { operation, effect };
                touched.push((block, known.block(block).push(entry), mask));
            }
        }
        Change {
            operation,
            volume,
            write,
            end: offset + len,
            touched,
        }
    }

    /// The contents of a write for the sectors of its range.
    pub fn stamp(&self, change: &Change, sector: u64) -> Stamp {
        Stamp {
            volume: self.lineage(change.volume),
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
        let outcome = self.judge(change.volume, change.end, result)?;
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

    /// A write or discard that happens in parts was refused: some of them may have happened.
    ///
    /// # Errors
    /// When that answer is not excused.
    pub fn doubt_change(&mut self, change: &Change, error: StoreError) -> Result<(), String> {
        self.judge(change.volume, change.end, Err(error))?;
        self.end(change.operation, Outcome::Unclear);
        if let Some(volume) = self.volumes.get_mut(&change.volume) {
            for (block, ..) in &change.touched {
                if let Some(history) = volume.blocks.get_mut(block) {
                    history.certainty = history.certainty.max(Certainty::UntilWritten);
                }
            }
        }
        Ok(())
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

    /// A read of a range in units of sectors arrives.
    pub fn begin_read(&mut self, volume: u64, offset: u64, len: u64) -> Reading {
        self.tick += 1;
        let size = BLOCK_SIZE as u64;
        let mut floors = Vec::new();
        if let Some(known) = self.volumes.get_mut(&volume) {
            for block in offset / size..=(offset + len - 1) / size {
                floors.push(known.block(block).begin_read());
            }
        }
        Reading {
            volume,
            lineage: self.lineage(volume),
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
                self.judge(reading.volume, reading.offset + reading.len, Err(error))?;
                None
            }
        };
        let first = reading.offset / size;
        for (index, floor) in reading.floors.iter().enumerate() {
            let block = first + index as u64;
            let mask = mask_of(block, reading.offset, reading.len);
            if let Some(bytes) = verdict {
                let bytes = &bytes[index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE];
                let observed = self.observe(reading.lineage, block, mask, bytes)?;
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
        let history = volume.block(block);
        if history.certainty > Certainty::Exact {
            return Ok(());
        }
        match history.matching(observed, floor, &self.operations) {
            Some(matching) => {
                history.saw(matching.first);
                Ok(())
            }
            None => Err(format!(
                "volume {number} block {block}: read {observed:?}, expected a state from {floor} on of\n{}",
                history.describe(&self.operations)
            )),
        }
    }

    /// What the wanted sectors of a block hold, in a volume or snapshot of this lineage.
    ///
    /// # Errors
    /// When they hold something that was never written there.
    pub fn observe(
        &self,
        lineage: u64,
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
                    if (stamp.volume, stamp.sector) == (lineage, sector)
                        && stamp.write <= self.writes =>
                {
                    stamp.write
                }
                wrong => {
                    return Err(format!(
                        "lineage {lineage} sector {sector} (block {block}): wrong data: {wrong:?}"
                    ));
                }
            });
        }
        Ok(observed)
    }
}

/// The sectors of `block` that lie in the range.
#[must_use]
pub fn mask_of(block: u64, offset: u64, len: u64) -> u8 {
    let first = block * SECTORS as u64;
    let (low, high) = (offset / SECTOR as u64, (offset + len) / SECTOR as u64);
    (0..SECTORS as u64)
        .filter(|index| (low..high).contains(&(first + index)))
        .fold(0, |mask, index| mask | (1 << index))
}
