//! The record that QEMU's `blklogwrites` makes: the format of Linux' dm-log-writes (`drivers/md/dm-log-writes.c`).
//!
//! Little-endian, in sectors of one size. The first sector is a superblock: magic, version, number of entries, sector
//! size; it is renewed with each flush. Then come the entries, each a sector of head (first sector, sectors, flags,
//! length of a mark) and, unless it is a discard, its data. An entry is added when its operation has completed on the
//! drive and before the guest is told, so a prefix of the record is the drive at one moment.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A record in memory.
#[derive(Debug)]
pub struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// One operation of the guest on its drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Length of the record with this entry as its last, in bytes.
    pub end: u64,
    /// What was done.
    pub operation: Operation,
}

/// What a guest does to a drive. Offsets are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Data was written at `offset`; [`WriteLog::data`] has it.
    Write {
        /// First byte on the drive.
        offset: u64,
        /// Where the data is in the record.
        data: Range<usize>,
    },
    /// What completed before this was sent is durable.
    Flush,
    /// The contents of a range are of no interest any more.
    Discard {
        /// First byte on the drive.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl WriteLog {
    /// Reads a record.
    ///
    /// # Errors
    /// When it is none, is cut short, or has entries that no block device makes.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        ensure!(
            word(&bytes, 0)? == MAGIC && word(&bytes, 8)? == VERSION,
            "not a write log"
        );
        let count = word(&bytes, 16)?;
        let sector = word(&bytes, 24)? & 0xffff_ffff;
        ensure!(
            sector.is_power_of_two() && (512..=65536).contains(&sector),
            "sectors of {sector} bytes"
        );
        let mut entries = Vec::new();
        let mut at = sector;
        for index in 0..count {
            let entry = Self::parse_entry(&bytes, at, sector)
                .with_context(|| format!("entry {index} of {count}, at byte {at}"))?;
            at = entry.end;
            entries.push(entry);
        }
        Ok(Self { bytes, entries })
    }

    fn parse_entry(bytes: &[u8], at: u64, sector: u64) -> Result<Entry> {
        let head = usize::try_from(at)?;
        let scaled = |offset: usize| -> Result<u64> {
            let sectors = word(bytes, head + offset)?;
            sectors.checked_mul(sector).context("beyond any drive")
        };
        let (offset, len) = (scaled(0)?, scaled(8)?);
        let body = at + sector;
        let (operation, end) = match word(bytes, head + 16)? {
            FLUSH if len == 0 => (Operation::Flush, body),
            DISCARD => (Operation::Discard { offset, len }, body),
            0 | FUA => {
                let end = body.checked_add(len).context("beyond any file")?;
                let data = usize::try_from(body)?..usize::try_from(end)?;
                ensure!(data.end <= bytes.len(), "the record ends within it");
                (Operation::Write { offset, data }, end)
            }
            flags => bail!("flags {flags:#x} with {len} bytes"),
        };
        Ok(Entry { end, operation })
    }

    /// Takes each `nth` write out of the record, as a drive does that lies, and returns how many these were.
    pub fn lose_writes(&mut self, nth: usize) -> usize {
        let is_write = |entry: &&mut Entry| matches!(entry.operation, Operation::Write { .. });
        let writes = self.entries.iter_mut().filter(is_write);
        let mut lost = 0;
        for entry in writes.step_by(nth) {
            entry.operation = Operation::Flush;
            lost += 1;
        }
        lost
    }

    /// The operations in the order of their completion.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The data of a write.
    ///
    /// # Panics
    /// When the range is not one of an entry of this record.
    #[must_use]
    pub fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u64> {
    let part = bytes.get(at..at + 8).context("the record is cut short")?;
    Ok(u64::from_le_bytes(part.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with sectors of 512 bytes from heads and data.
    fn log(entries: &[([u64; 3], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let sector = |words: &[u64], bytes: &mut Vec<u8>| {
            let end = bytes.len() + 512;
            words
                .iter()
                .for_each(|word| bytes.extend(word.to_le_bytes()));
            bytes.resize(end, 0);
        };
        sector(&[MAGIC, VERSION, entries.len() as u64, 512], &mut bytes);
        for (head, data) in entries {
            sector(head, &mut bytes);
            bytes.extend_from_slice(data);
        }
        bytes
    }

    #[test]
    fn operations_come_with_their_data_and_places() {
        let bytes = log(&[
            ([8, 2, 0], &[7; 1024]),
            ([64, 8, DISCARD], &[]),
            ([0, 0, FLUSH], &[]),
            ([1, 1, FUA], &[9; 512]),
        ]);
        let log = WriteLog::parse(bytes).unwrap();
        let ends: Vec<u64> = log.entries().iter().map(|entry| entry.end).collect();
        assert_eq!(ends, [2048, 2560, 3072, 4096]);
        let operations: Vec<_> = log.entries().iter().map(|entry| &entry.operation).collect();
        let discard = Operation::Discard {
            offset: 64 << 9,
            len: 8 << 9,
        };
        assert_eq!(operations[1..3], [&discard, &Operation::Flush]);
        for (operation, place, first, length) in
            [(operations[0], 4096, 7, 1024), (operations[3], 512, 9, 512)]
        {
            let Operation::Write { offset, data } = operation else {
                panic!("{operation:?}")
            };
            assert_eq!((*offset, log.data(data)[0]), (place, first));
            assert_eq!(log.data(data).len(), length);
        }
    }

    #[test]
    fn what_is_not_counted_is_not_there_and_what_is_must_be_whole() {
        let whole = log(&[([8, 1, 0], &[7; 512]), ([0, 0, FLUSH], &[])]);
        // An entry that the superblock does not count yet.
        let longer = [&whole[..], &[1; 700]].concat();
        assert_eq!(WriteLog::parse(longer).unwrap().entries().len(), 2);
        for length in [0, 20, 600, 1500] {
            assert!(WriteLog::parse(whole[..length].to_vec()).is_err());
        }
        let strange = log(&[([0, 0, 8], &[])]);
        assert!(
            WriteLog::parse(strange).is_err(),
            "a mark, which no guest makes"
        );
    }
}
