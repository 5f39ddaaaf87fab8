//! Reading the journal after a power cut.
//!
//! Frames are read from the tail on while each is whole and continues the one before. The first that is not ends the
//! journal, unless a later frame says that it was durable: then acknowledged data is lost, and the pool is not opened.
//! Frames that no later frame vouches for count only if the data they describe is there.
//!
//! Drives can hold different frames of one number, of different mounts. Only the newest counts, and what the journal does not
//! go on with is overwritten before anybody is served: a frame whose data is missing in part may find it there another time,
//! when a later write of the same block with much of the same contents is torn.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk, DiskError};

use crate::api::StoreError;
use crate::io::read_disk;
use crate::layout::{
    FRAME_BLOCKS_MAX, FRAME_HEADER, FrameHeader, JournalTail, Record, Regions, Superblock,
};

/// One frame, verified.
pub struct Frame {
    pub header: FrameHeader,
    /// Where the next one begins.
    pub after: JournalTail,
    bytes: Vec<u8>,
}

impl Frame {
    /// The records; an error for one that is malformed.
    pub fn records(&self) -> impl Iterator<Item = Result<Record, StoreError>> + '_ {
        let mut rest = &self.bytes[..];
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let Some((record, len)) = Record::decode(rest) else {
                rest = &[];
                return Some(Err(StoreError::DamagedPool));
            };
            rest = &rest[len..];
            Some(Ok(record))
        })
    }
}

/// Reads a ring, in large pieces.
pub struct Reader<'a, D> {
    disks: Vec<(&'a D, Regions)>,
    pool: [u8; 16],
    ring_blocks: u64,
    /// What is in memory of each drive's ring, and its first block there.
    windows: Vec<(u64, Buf)>,
    /// A drive that does not answer although nothing is known to be wrong with its medium.
    failure: Option<DiskError>,
}

impl<'a, D: Disk> Reader<'a, D> {
    /// A reader of the journal that these drives share; drives in member order.
    pub fn new(disks: Vec<(&'a D, Regions)>, pool: [u8; 16]) -> Self {
        let ring_blocks = disks
            .iter()
            .map(|disk| disk.1.journal_blocks.get())
            .min()
            .unwrap_or(1);
        let windows = disks.iter().map(|_| (0, Buf::default())).collect();
        Self {
            disks,
            pool,
            ring_blocks,
            windows,
            failure: None,
        }
    }

    /// What was found counts only if every drive answered: an error says nothing about what is there.
    pub fn verdict(&self) -> Result<(), StoreError> {
        self.failure.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn block(&mut self, device: usize, at: u64) -> Option<&[u8; BLOCK_SIZE]> {
        let (first, buf) = &self.windows[device];
        if !(*first..first + buf.blocks() as u64).contains(&at) {
            let count = (self.ring_blocks - at).min(Buf::PAGES_MAX as u64);
            let buf = Buf::from_heap(usize::try_from(count).unwrap_or(1));
            let (disk, regions) = &self.disks[device];
            let first = regions.journal.get() + at;
            let (mut buf, mut result) = read_disk(*disk, first, buf).await;
            if result == Err(DiskError::Media) {
                // One unreadable block must not take its neighbours with it.
                (buf, result) = read_disk(*disk, first, Buf::from_heap(1)).await;
            }
            if let Err(error) = result {
                self.windows[device] = (0, Buf::default());
                if error != DiskError::Media {
                    self.failure = Some(error);
                }
                return None;
            }
            self.windows[device] = (at, buf);
        }
        let (first, buf) = &self.windows[device];
        Some(buf.block(usize::try_from(at - first).unwrap_or(0)))
    }

    /// Where the frame at `tail` can begin.
    fn places(&self, tail: JournalTail) -> impl Iterator<Item = u64> + use<D> {
        let position = tail.position.get();
        let left = self.ring_blocks - position % self.ring_blocks;
        // A frame starts over at the ring's beginning when it does not fit before the end.
        let start_over = (left < FRAME_BLOCKS_MAX as u64).then_some(position + left);
        core::iter::once(position).chain(start_over)
    }

    /// The newest frame at `tail` that any drive has whole.
    pub async fn next(&mut self, tail: JournalTail) -> Option<Frame> {
        let mut found: Option<Frame> = None;
        for device in 0..self.disks.len() {
            for position in self.places(tail) {
                let wanted = |header: &FrameHeader| {
                    let older = |other: &Frame| other.header.mount_gen < header.mount_gen;
                    header.follows(&tail) && found.as_ref().is_none_or(older)
                };
                if let Some(frame) = self.frame_at(device, position, wanted).await {
                    found = Some(frame);
                }
            }
        }
        found
    }

    /// Drives and blocks where frames begin that would go on behind `end`, whole or not.
    pub async fn rejected(&mut self, end: JournalTail) -> Vec<(usize, u64)> {
        let mut found = Vec::new();
        for device in 0..self.disks.len() {
            for position in self.places(end) {
                let (pool, within) = (self.pool, position % self.ring_blocks);
                let block = self.block(device, within).await;
                let header = block.and_then(|block| FrameHeader::decode(block, pool));
                if header.is_some_and(|header| header.follows(&end)) {
                    found.push((device, self.disks[device].1.journal.get() + within));
                }
            }
        }
        found
    }

    /// The frame at `tail`, which was there before.
    pub async fn require(&mut self, tail: JournalTail) -> Result<Frame, StoreError> {
        match self.next(tail).await {
            Some(frame) => Ok(frame),
            None => Err(self.verdict().err().unwrap_or(StoreError::DamagedPool)),
        }
    }

    /// A whole frame at this position with a header that is wanted.
    async fn frame_at(
        &mut self,
        device: usize,
        position: u64,
        wanted: impl FnOnce(&FrameHeader) -> bool,
    ) -> Option<Frame> {
        let within = position % self.ring_blocks;
        let pool = self.pool;
        let header = FrameHeader::decode(self.block(device, within).await?, pool)?;
        let blocks = u64::from(header.blocks.get());
        let is_here = header.position.get() == position && within + blocks <= self.ring_blocks;
        if !is_here || !wanted(&header) {
            return None;
        }
        let mut all = Vec::with_capacity(FRAME_BLOCKS_MAX);
        for index in 0..blocks {
            all.push(*self.block(device, within + index).await?);
        }
        if header.compute_tag(pool, all.iter()).0 != header.tag {
            return None;
        }
        let mut bytes = all.concat();
        bytes.drain(..FRAME_HEADER);
        bytes.truncate(header.record_bytes.get() as usize);
        let after = JournalTail {
            seq: (header.seq.get() + 1).into(),
            position: (position + blocks).into(),
            prev_tag: header.tag,
        };
        Some(Frame {
            header,
            after,
            bytes,
        })
    }

    /// The highest frame number that any frame in the live window vouches for, and the newest checkpoint that one mentions.
    ///
    /// `end` is where the chain from the tail ends; what lies behind it is searched block by block.
    pub async fn vouched(
        &mut self,
        superblock: &Superblock,
        tail: JournalTail,
        end: JournalTail,
    ) -> (u64, u64) {
        let mut found = (0, 0);
        let last = tail.position.get() + superblock.live_max.get().min(self.ring_blocks);
        for device in 0..self.disks.len() {
            let mut position = end.position.get();
            while position < last {
                let later = |header: &FrameHeader| header.seq.get() >= end.seq.get();
                match self.frame_at(device, position, later).await {
                    Some(frame) => {
                        found.0 = found.0.max(frame.header.durable_seq.get());
                        found.1 = found.1.max(frame.header.checkpoint.get());
                        position = frame.after.position.get();
                    }
                    None => position += 1,
                }
            }
        }
        found
    }
}
