//! Requests for data: what they do to the model, and whether their answers can be true.

use store::StoreError;
use world::BLOCK_SIZE;

use super::history::{Certainty, Effect, Entry, Observed, SECTORS, Sight};
use super::origin::ORIGIN;
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
    /// Blocks of which only a part changes and that may be absent, and the least state that the request may meet there.
    needed: Vec<(u64, usize)>,
}

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    volume: u64,
    lineage: u64,
    offset: u64,
    len: u64,
    floors: Vec<usize>,
    /// For each block whether it may be absent.
    unsure: Vec<bool>,
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
        let mut needed = Vec::new();
        if let Some(known) = self.volumes.get_mut(&volume) {
            let size = BLOCK_SIZE as u64;
            let (first, last) = (offset / size, (offset + len - 1) / size);
            // What was never written is a hole before and after a discard.
            let blocks: Vec<u64> = if is_write {
                (first..=last).collect()
            } else {
                let adopted = known.origin.map_or(0, |origin| origin.blocks());
                let others = known.blocks.range(first.max(adopted)..=last.max(adopted));
                let others = others.map(|(block, _)| *block);
                let others = others.filter(|block| *block <= last);
                (first..adopted.min(last + 1)).chain(others).collect()
            };
            let base = self.bases.get(&known.lineage);
            for block in blocks {
                let mask = mask_of(block, offset, len);
                let effect = Effect::Change {
                    mask,
                    write,
                    version,
                };
                let entry = Entry { operation, effect };
                if mask != u8::MAX && base.is_some_and(|base| !base.is_here(block)) {
                    needed.push((block, known.block(block).floor()));
                }
                touched.push((block, known.block(block).push(entry), mask));
            }
        }
        Change {
            operation,
            volume,
            write,
            end: offset + len,
            touched,
            needed,
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
        if result == Err(StoreError::Absent) {
            return self.end_needy_change(change);
        }
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
        let blocks = offset / size..(offset + len - 1) / size + 1;
        if let Some(known) = self.volumes.get_mut(&volume) {
            for block in blocks.clone() {
                floors.push(known.block(block).begin_read());
            }
        }
        Reading {
            unsure: self.unsure(self.lineage(volume), blocks),
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
            Err(StoreError::Absent) => {
                self.check_absent(reading)?;
                None
            }
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
                self.check_arrived(reading, block, *floor)?;
                self.check_block(reading.volume, block, &Sight::Sectors(observed), *floor)?;
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

    /// Whether an origin has data in a sector of a block.
    fn is_origins_data(&self, lineage: u64, block: u64, sector: usize) -> bool {
        let base = self.bases.get(&lineage);
        base.is_some_and(|base| base.origin.state(block).sectors[sector] == ORIGIN)
    }

    /// Something that a read wanted is absent.
    fn check_absent(&mut self, reading: &Reading) -> Result<(), String> {
        let (volume, lineage) = (reading.volume, reading.lineage);
        let first = reading.offset / BLOCK_SIZE as u64;
        let Some(known) = self.volumes.get(&volume) else {
            return Ok(());
        };
        let is_possible = |(block, (floor, unsure)): (u64, (&usize, &bool))| {
            let (Some(sight), true) = (self.absent(lineage, block), *unsure) else {
                return false;
            };
            known.blocks.get(&block).is_none_or(|history| {
                history.certainty > Certainty::Exact
                    || history.matching(&sight, *floor, &self.operations).is_some()
            })
        };
        let mut blocks = (first..).zip(reading.floors.iter().zip(&reading.unsure));
        if self.trust == Trust::DrivesLie || blocks.any(is_possible) {
            return Ok(());
        }
        Err(format!(
            "volume {volume} from block {first} on: something is absent, and nothing can be"
        ))
    }

    /// A block could be read: if nobody changed what the origin has, it arrived.
    fn check_arrived(&mut self, reading: &Reading, block: u64, floor: usize) -> Result<(), String> {
        let Some(known) = self.volumes.get(&reading.volume) else {
            return Ok(());
        };
        let history = known.blocks.get(&block);
        if history.is_some_and(|history| history.is_origins(floor, &self.operations)) {
            return self.saw_arrived(reading.lineage, block);
        }
        Ok(())
    }

    /// The store says of each block that a look at it would find it absent, or not.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn end_presence(
        &mut self,
        reading: &Reading,
        absent: Result<&[bool], StoreError>,
    ) -> Result<(), String> {
        let first = reading.offset / BLOCK_SIZE as u64;
        let absent = match absent {
            Ok(absent) => absent,
            Err(error) => return self.end_read(reading, Err(error)),
        };
        for (index, (floor, is_absent)) in reading.floors.iter().zip(absent).enumerate() {
            let block = first + index as u64;
            if !is_absent {
                self.check_arrived(reading, block, *floor)?;
                continue;
            }
            let (Some(sight), true) = (self.absent(reading.lineage, block), reading.unsure[index])
            else {
                if self.trust == Trust::DrivesLie {
                    continue;
                }
                return Err(format!(
                    "volume {} block {block} is absent, and cannot be",
                    reading.volume
                ));
            };
            if self.trust != Trust::DrivesLie {
                self.check_block(reading.volume, block, &sight, *floor)?;
            }
        }
        self.tick += 1;
        self.lose_read(reading);
        Ok(())
    }

    /// A change that needs a part of what is there was refused since that is absent.
    ///
    /// # Errors
    /// When nothing that it needs can be absent.
    fn end_needy_change(&mut self, change: &Change) -> Result<(), String> {
        let lineage = self.lineage(change.volume);
        let Some(known) = self.volumes.get(&change.volume) else {
            return Ok(());
        };
        let is_possible = |(block, floor): &(u64, usize)| {
            let sight = self.absent(lineage, *block);
            let history = known.blocks.get(block);
            sight.zip(history).is_some_and(|(sight, history)| {
                history.certainty > Certainty::Exact
                    || history.matching(&sight, *floor, &self.operations).is_some()
            })
        };
        if self.trust != Trust::DrivesLie && !change.needed.iter().any(is_possible) {
            return Err(format!(
                "{change:?} was refused for something absent, and nothing can be"
            ));
        }
        // A discard has made holes of whole blocks by then, and perhaps zeros of one of its ends.
        let is_refused = change.write > 0 || change.touched.len() == 1;
        let outcome = if is_refused {
            Outcome::Refused
        } else {
            Outcome::Done
        };
        let ended = self.end(change.operation, outcome);
        let Some(volume) = self.volumes.get_mut(&change.volume).filter(|_| !is_refused) else {
            return Ok(());
        };
        for &(block, position, mask) in &change.touched {
            let Some(history) = volume.blocks.get_mut(&block) else {
                continue;
            };
            if mask == u8::MAX {
                history.acknowledge(position, mask);
                let place = (ended, change.volume, block, position);
                self.unflushed.push_back(place);
            } else {
                history.certainty = history.certainty.max(Certainty::UntilWritten);
            }
        }
        Ok(())
    }

    fn check_block(
        &mut self,
        number: u64,
        block: u64,
        sight: &Sight,
        floor: usize,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let history = volume.block(block);
        if history.certainty > Certainty::Exact {
            return Ok(());
        }
        match history.matching(sight, floor, &self.operations) {
            Some(matching) => {
                history.saw(matching.first);
                Ok(())
            }
            None => Err(format!(
                "volume {number} block {block}: read {sight:?}, expected a state from {floor} on of\n{}",
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
                Found::Written(stamp)
                    if (stamp.volume, stamp.sector, stamp.write) == (lineage, sector, ORIGIN)
                        && self.is_origins_data(lineage, block, index) =>
                {
                    ORIGIN
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
