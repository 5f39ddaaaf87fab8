//! The journal: records wait in a buffer, go to the drives in frames, and are durable after a FLUSH.
//!
//! ```text
//! pushed ─► (buffer) ─► taken ─► (frames under way) ─► written ─► FLUSH ─► durable
//! ```
//! All four are counted in bytes of records since the pool was opened, so "everything up to here" is one number.
//!
//! The ring's position counts blocks since format; a frame never wraps, it starts over at the ring's beginning instead.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf};
use zerocopy::IntoBytes;

use crate::layout::{FRAME_BLOCKS_MAX, FRAME_HEADER, FrameHeader, JournalTail, Record};
use crate::tag::Tag;

/// Bytes of records that fit in the largest frame.
const FRAME_ROOM: usize = FRAME_BLOCKS_MAX * BLOCK_SIZE - FRAME_HEADER;

/// The journal's state.
pub struct Journal {
    pool_uuid: [u8; 16],
    fork_id: u64,
    pub mount_gen: u64,
    /// Blocks of the ring.
    ring_blocks: u64,
    /// The most blocks from tail to head.
    pub live_max: u64,
    /// The next frame.
    seq: u64,
    position: u64,
    prev_tag: Tag,
    /// Every frame up to this one is durable.
    durable_seq: u64,
    /// The last durable checkpoint.
    pub checkpoint: u64,
    /// Where replay would begin now.
    pub tail: JournalTail,
    records: Vec<u8>,
    pub pushed: u64,
    taken: u64,
    pub written: u64,
    pub durable: u64,
    /// Blocks of data written since the last FLUSH began.
    pub blocks_since_flush: u64,
    /// Where the running checkpoint cuts: frames do not straddle it.
    cut: Option<u64>,
    /// The frame boundary at the cut, once everything before has been taken.
    cut_tail: Option<JournalTail>,
}

impl Journal {
    /// A journal that goes on behind `tail`; everything before it is durable.
    pub fn new(
        pool_uuid: [u8; 16],
        fork_id: u64,
        mount_gen: u64,
        (ring_blocks, live_max): (u64, u64),
        tail: JournalTail,
    ) -> Self {
        Self {
            pool_uuid,
            fork_id,
            mount_gen,
            ring_blocks,
            live_max,
            seq: tail.seq.get(),
            position: tail.position.get(),
            prev_tag: Tag(tail.prev_tag),
            durable_seq: tail.seq.get().saturating_sub(1),
            checkpoint: 0,
            tail,
            records: Vec::new(),
            pushed: 0,
            taken: 0,
            written: 0,
            durable: 0,
            blocks_since_flush: 0,
            cut: None,
            cut_tail: None,
        }
    }

    /// Moves the head to where replay has come.
    pub fn set_head(&mut self, head: JournalTail) {
        self.seq = head.seq.get();
        self.position = head.position.get();
        self.prev_tag = Tag(head.prev_tag);
        self.durable_seq = self.seq - 1;
    }

    /// Where the next frame goes.
    pub fn head(&self) -> JournalTail {
        JournalTail {
            seq: self.seq.into(),
            position: self.position.into(),
            prev_tag: self.prev_tag.0,
        }
    }

    /// Appends records through `write`.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.records.len();
        write(&mut self.records);
        self.pushed += (self.records.len() - before) as u64;
    }

    /// Bytes of records that are in no frame yet.
    pub fn waiting(&self) -> usize {
        self.records.len()
    }

    /// Blocks from tail to head.
    pub fn live_blocks(&self) -> u64 {
        self.position - self.tail.position.get()
    }

    /// Whether a frame fits with `reserve` blocks left; it may skip the ring's end, which costs as much again.
    pub fn has_room(&self, reserve: u64) -> bool {
        self.live_blocks() + 2 * FRAME_BLOCKS_MAX as u64 + reserve <= self.live_max
    }

    /// Everything pushed so far belongs to the checkpoint that begins now.
    pub fn begin_cut(&mut self) -> u64 {
        self.cut = Some(self.pushed);
        self.cut_tail = (self.taken == self.pushed).then(|| self.head());
        self.pushed
    }

    /// Whether records before the cut wait.
    pub fn is_cutting(&self) -> bool {
        self.cut.is_some_and(|cut| self.taken < cut)
    }

    /// The frame boundary of the cut; known once everything before it has been written.
    pub fn end_cut(&mut self) -> Option<JournalTail> {
        self.cut = None;
        self.cut_tail.take()
    }

    /// Builds the next frame from waiting records: its place on the ring and the count of bytes up to its end.
    /// `buf` supplies pages; returns how many of them the frame uses.
    pub fn build_frame(&mut self, pages: &mut Buf, off_by_one: bool) -> Option<Frame> {
        let take = self.next_frame_bytes();
        if take == 0 {
            return None;
        }
        let blocks = (FRAME_HEADER + take).div_ceil(BLOCK_SIZE);
        let spare = pages.split_off(blocks);
        let ring_block = self.place(blocks as u64);
        let mut header = FrameHeader::new(self.pool_uuid, self.fork_id);
        header.blocks = u16::try_from(blocks).unwrap_or(u16::MAX).into();
        header.mount_gen = self.mount_gen.into();
        header.seq = self.seq.into();
        header.position = self.position.into();
        header.checkpoint = self.checkpoint.into();
        header.durable_seq = if off_by_one {
            self.seq
        } else {
            self.durable_seq
        }
        .into();
        header.prev_tag = self.prev_tag.0;
        header.record_bytes = u32::try_from(take).unwrap_or(u32::MAX).into();
        pages.zero();
        pages.copy_from(FRAME_HEADER, &self.records[..take]);
        let tag = header.compute_tag(self.pool_uuid, (0..blocks).map(|index| pages.block(index)));
        header.tag = tag.0;
        pages.copy_from(0, header.as_bytes());
        self.records.drain(..take);
        self.taken += take as u64;
        let frame = Frame {
            ring_block,
            end: self.taken,
            spare,
        };
        self.seq += 1;
        self.position += blocks as u64;
        self.prev_tag = tag;
        if self.cut == Some(self.taken) {
            self.cut_tail = Some(self.head());
        }
        Some(frame)
    }

    /// Whole records up to the room of a frame and up to the cut.
    fn next_frame_bytes(&self) -> usize {
        let until_cut = self
            .cut
            .filter(|cut| *cut > self.taken)
            .map_or(usize::MAX, |cut| {
                usize::try_from(cut - self.taken).unwrap_or(usize::MAX)
            });
        let limit = FRAME_ROOM.min(until_cut).min(self.records.len());
        let mut take = 0;
        while take < limit {
            let len = Record::len_of(&self.records[take..]);
            if take + len > limit {
                break;
            }
            take += len;
        }
        take
    }

    /// Moves to the ring's beginning when a frame of `blocks` would wrap; returns its block on the ring.
    fn place(&mut self, blocks: u64) -> u64 {
        let within = self.position % self.ring_blocks;
        if within + blocks > self.ring_blocks {
            self.position += self.ring_blocks - within;
            return 0;
        }
        within
    }

    /// All frames up to `seq`, and what they describe, are durable.
    pub fn set_durable(&mut self, seq: u64, bytes: u64) {
        self.durable_seq = self.durable_seq.max(seq);
        self.durable = self.durable.max(bytes);
    }

    /// The last frame that was built.
    pub fn last_seq(&self) -> u64 {
        self.seq - 1
    }
}

/// A frame on its way.
pub struct Frame {
    /// Block of the ring where it goes.
    pub ring_block: u64,
    /// Bytes of records up to its end, since the pool was opened.
    pub end: u64,
    /// Pages that were not needed.
    pub spare: Buf,
}
