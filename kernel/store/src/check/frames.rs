//! The frames of the journal: where the chain ends, and how much of it was durable.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Disk};

use super::Checker;
use crate::layout::{FRAME_BLOCKS_MAX, FRAME_HEADER, FrameHeader, JournalTail, Record};

/// A whole frame.
pub struct Frame {
    pub header: FrameHeader,
    records: Vec<u8>,
    pub after: JournalTail,
    /// Drives that do not have it.
    pub missing: Vec<usize>,
}

impl<D: Disk> Checker<'_, D> {
    /// The newest frame at `tail` that any drive has.
    pub async fn next_frame(&mut self, tail: JournalTail) -> Option<Frame> {
        let ring = self.ring_blocks();
        let position = tail.position.get();
        let left = ring - position % ring;
        let mut places = alloc::vec![position];
        // What does not fit before the ring's end starts over at its beginning.
        if left < FRAME_BLOCKS_MAX as u64 {
            places.extend(position.checked_add(left));
        }
        let mut here: Vec<Option<Frame>> = Vec::new();
        for drive in 0..self.drives.len() {
            let mut found = None;
            for place in &places {
                let frame = self.frame_at(drive, *place).await;
                found = found.or(frame.filter(|frame| frame.header.follows(&tail)));
            }
            here.push(found);
        }
        // Of different ones only the newest counts.
        let mount = |frame: &Frame| frame.header.mount_gen.get();
        let newest = here.iter().flatten().max_by_key(|frame| mount(frame))?;
        let tag = newest.header.tag;
        let has_it = |frame: &Option<Frame>| frame.as_ref().is_some_and(|f| f.header.tag == tag);
        let missing = (0..here.len()).filter(|drive| !has_it(&here[*drive]));
        let missing = missing.collect();
        let found = here.into_iter().flatten().find(|f| f.header.tag == tag);
        found.map(|frame| Frame { missing, ..frame })
    }

    fn ring_blocks(&self) -> u64 {
        let rings = self
            .drives
            .iter()
            .map(|drive| drive.header.regions.journal_blocks.get());
        rings.min().unwrap_or(1).max(1)
    }

    /// A whole frame that was written at this position, whatever comes before it.
    async fn frame_at(&self, drive: usize, position: u64) -> Option<Frame> {
        let ring = self.ring_blocks();
        let drive = &self.drives[drive];
        let within = position % ring;
        let at = drive.header.regions.journal.get() + within;
        let first = drive.read(at).await?;
        let header = FrameHeader::decode(first.block(0), self.pool_uuid)?;
        let blocks = u64::from(header.blocks.get());
        if header.position.get() != position || within + blocks > ring {
            return None;
        }
        let mut all = alloc::vec![first];
        for next in at + 1..at + blocks {
            all.push(drive.read(next).await?);
        }
        let tag = header.compute_tag(self.pool_uuid, all.iter().map(|buf| buf.block(0)));
        if tag.0 != header.tag {
            return None;
        }
        let mut records = Vec::with_capacity(all.len() * BLOCK_SIZE);
        for buf in &all {
            records.extend_from_slice(buf.block(0));
        }
        records.drain(..FRAME_HEADER);
        records.truncate(header.record_bytes.get() as usize);
        let after = JournalTail {
            seq: header.seq.get().checked_add(1)?.into(),
            position: position.checked_add(blocks)?.into(),
            prev_tag: header.tag,
        };
        Some(Frame {
            header,
            records,
            after,
            missing: Vec::new(),
        })
    }

    /// The highest frame that any frame says was durable; frames behind the end of the chain have a say as well.
    pub async fn durable_frames(&mut self, frames: &[Frame], end: JournalTail) -> u64 {
        let own = frames
            .iter()
            .map(|frame| frame.header.durable_seq.get())
            .max();
        let mut durable = own.unwrap_or(0);
        let live = self.superblock.live_max.get().min(self.ring_blocks());
        let last = self.superblock.tails[0].position.get().saturating_add(live);
        for drive in 0..self.drives.len() {
            for position in end.position.get()..last {
                if let Some(frame) = self.frame_at(drive, position).await
                    && frame.header.seq >= end.seq
                {
                    durable = durable.max(frame.header.durable_seq.get());
                }
            }
        }
        durable
    }

    pub fn decode(&mut self, frame: &Frame) -> Vec<Record> {
        let mut records = Vec::new();
        let mut rest = &frame.records[..];
        while !rest.is_empty() {
            let Some((record, len)) = Record::decode(rest) else {
                self.record(frame.header.seq.get(), "a record is malformed".into());
                break;
            };
            records.push(record);
            rest = &rest[len..];
        }
        records
    }
}
