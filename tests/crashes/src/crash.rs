//! The drive as a power cut leaves it.

use offline::{Image, Random};

use crate::write_log::{Operation, WriteLog};

/// Sectors are what a drive writes without tearing.
const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// What of the writes behind the last flush is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Some of them.
    Some,
    /// Some of them, and sectors of one more.
    Torn,
}

impl Loss {
    /// The one for crash point `number`: all of them in turn, those with more ways to happen more often.
    #[must_use]
    pub fn of_point(number: u64) -> Self {
        match number % 8 {
            0 | 4 => Self::Nothing,
            1 => Self::Everything,
            2 | 5 | 7 => Self::Some,
            _ => Self::Torn,
        }
    }
}

/// The drive on its way through the record. Moves forward only.
#[derive(Debug)]
pub struct Cursor<'a> {
    log: &'a WriteLog,
    /// What is durable.
    durable: Image,
    /// Entries that this includes.
    entries: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning: a blank drive of `bytes`.
    #[must_use]
    pub fn new(log: &'a WriteLog, bytes: u64) -> Self {
        Self {
            log,
            durable: Image::blank(bytes),
            entries: 0,
        }
    }

    /// The drive after the first `entries` entries of the record, without what is lost.
    ///
    /// # Panics
    /// When the cursor is beyond that already.
    #[must_use]
    pub fn crash(&mut self, entries: usize, loss: Loss, random: &Random) -> Image {
        assert!(entries >= self.entries, "back in time");
        let all = &self.log.entries()[..entries];
        let is_flush = |at: &usize| all[*at].operation == Operation::Flush;
        if let Some(flush) = (self.entries..entries).rev().find(is_flush) {
            for entry in &all[self.entries..=flush] {
                apply(&mut self.durable, self.log, &entry.operation, random);
            }
            self.entries = flush + 1;
        }
        let mut image = self.durable.clone();
        let pending = &all[self.entries..];
        let torn = match loss {
            Loss::Torn if !pending.is_empty() => Some(random.below(pending.len() as u64)),
            _ => None,
        };
        let share = [1, 4, 7][random.below(3) as usize];
        for (number, entry) in (0..).zip(pending) {
            let is_kept = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Some | Loss::Torn => random.below(8) < share,
            };
            if torn == Some(number) {
                tear(&mut image, self.log, &entry.operation, random);
            } else if is_kept {
                apply(&mut image, self.log, &entry.operation, random);
            }
        }
        image
    }
}

fn apply(image: &mut Image, log: &WriteLog, operation: &Operation, random: &Random) {
    match operation {
        Operation::Write { offset, data } => image.write(*offset, log.data(data)),
        Operation::Flush => {}
        // Anything may be there afterwards: what was, zeros, or nonsense.
        Operation::Discard { offset, len } => {
            let filler = match random.below(3) {
                0 => return,
                1 => [0; BLOCK],
                _ => [0xdc; BLOCK],
            };
            let end = offset + len;
            for at in (*offset..end).step_by(BLOCK) {
                let count = (end - at).min(BLOCK as u64) as usize;
                image.write(at, &filler[..count]);
            }
        }
    }
}

/// Applies some sectors of a write.
fn tear(image: &mut Image, log: &WriteLog, operation: &Operation, random: &Random) {
    if let Operation::Write { offset, data } = operation {
        for (number, sector) in (0..).zip(log.data(data).chunks(SECTOR)) {
            if random.once_in(2) {
                image.write(offset + number * SECTOR as u64, sector);
            }
        }
    }
}
