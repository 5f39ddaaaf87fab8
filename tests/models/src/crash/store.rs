//! Writes, flushes and checkpoints of the model `crash`, as steps between which the power may fail.

use std::collections::{BTreeMap, BTreeSet};

use super::Mutant;
use super::checkpoint::Checkpoint;
use super::drive::{Drive, Op};
use super::format::{
    BLOCKS, Birth, FAN, Frame, LBAS, NODES, Node, Place, RECORDS_MAX, RING, Record, Superblock,
    Tag, Value,
};
use crate::random::Random;

/// Frames from which on a checkpoint is wanted.
const RING_WANTED: u64 = 10;

/// Blocks that are kept for nodes.
const NODE_RESERVE: usize = 2 * NODES;

/// A write whose data is on its way.
struct Writing {
    op: Op,
    record: Record,
}

/// A client that waits for a flush.
struct Waiting {
    /// The frame that must be durable.
    seq: u64,
    /// How many writes were acknowledged when it asked.
    writes: usize,
}

/// The store while it runs.
pub struct Store {
    pub drive: Drive,
    pub mutant: Option<Mutant>,
    pub superblock: Superblock,
    /// What may not be handed out.
    pub used: BTreeSet<usize>,
    pub active: BTreeMap<usize, (usize, Birth)>,
    pub frozen: BTreeMap<usize, (usize, Birth)>,
    /// Blocks that a newer write of the same table replaced.
    pub replaced: Vec<usize>,
    pub replaced_frozen: Vec<usize>,
    /// Freed by the last checkpoint, to be handed out after the next.
    pub deferred: Vec<usize>,
    pub counter: u64,
    writing: Vec<Writing>,
    /// Records that are in no frame yet.
    pub buffer: Vec<Record>,
    pub next_seq: u64,
    pub prev: Tag,
    frames: BTreeMap<Op, u64>,
    done_frames: BTreeSet<u64>,
    /// All frames up to this one are on the drive, perhaps in its cache.
    pub written: u64,
    /// All frames up to this one are durable.
    pub durable: u64,
    flushes: BTreeMap<Op, u64>,
    waiting: Vec<Waiting>,
    pub checkpoint: Option<Checkpoint>,
    /// Acknowledged writes in order.
    pub history: Vec<(usize, Birth)>,
    /// How many of them there were when the pool was opened.
    pub opened_with: usize,
    /// Of these, those that a flush promised.
    pub promised: usize,
    pub flushed: u64,
    /// Whether a block was ever replaced by an older one.
    pub is_out_of_order: bool,
    pub checkpoints: u64,
}

impl Store {
    /// A store whose journal goes on after frame `end`, all of which is durable.
    pub fn new(
        drive: Drive,
        mutant: Option<Mutant>,
        superblock: Superblock,
        end: u64,
        prev: Tag,
    ) -> Self {
        Self {
            drive,
            mutant,
            used: superblock.used.clone(),
            superblock,
            active: BTreeMap::new(),
            frozen: BTreeMap::new(),
            replaced: Vec::new(),
            replaced_frozen: Vec::new(),
            deferred: Vec::new(),
            counter: 0,
            writing: Vec::new(),
            buffer: Vec::new(),
            next_seq: end + 1,
            prev,
            frames: BTreeMap::new(),
            done_frames: BTreeSet::new(),
            written: end,
            durable: end,
            flushes: BTreeMap::new(),
            waiting: Vec::new(),
            checkpoint: None,
            history: Vec::new(),
            opened_with: 0,
            promised: 0,
            flushed: 0,
            is_out_of_order: false,
            checkpoints: 0,
        }
    }

    /// Whether this deliberate bug is on.
    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// A free block.
    pub fn allocate(&mut self, random: &mut Random, reserve: usize) -> Option<usize> {
        let free = (0..BLOCKS)
            .filter(|addr| !self.used.contains(addr))
            .collect::<Vec<_>>();
        let addr = random.pick(&free).filter(|_| free.len() > reserve)?;
        self.used.insert(addr);
        Some(addr)
    }

    /// Whether a checkpoint should begin.
    pub fn wants_checkpoint(&self) -> bool {
        let free = BLOCKS - self.used.len();
        self.live_frames() >= RING_WANTED || free <= NODE_RESERVE + 4
    }

    fn live_frames(&self) -> u64 {
        self.next_seq - self.superblock.tail
    }

    /// Whether the ring has room for one more write. In the worst case each write in flight gets a frame of its own, since a
    /// flush may come after each; and frames of the old checkpoint must stay until the new one is published.
    fn has_ring_room(&self) -> bool {
        let to_come = self.writing.len() + self.buffer.len() + 1;
        self.live_frames() + to_come as u64 <= RING || self.has(Mutant::RingForgetsWrites)
    }

    /// A client writes a block. It waits while space is short, or the block is being written.
    pub fn write(&mut self, random: &mut Random, lba: usize) {
        let overlaps = self.writing.iter().any(|writing| writing.record.lba == lba);
        if overlaps || !self.has_ring_room() {
            return;
        }
        let Some(addr) = self.allocate(random, NODE_RESERVE) else {
            return;
        };
        self.counter += 1;
        let birth = (self.superblock.mount, self.counter);
        let record = Record { lba, addr, birth };
        let op = self
            .drive
            .write(Place::Block(addr), Value::Data { lba, birth });
        if self.has(Mutant::RecordBeforeData) {
            self.acknowledge(record);
        } else {
            self.writing.push(Writing { op, record });
        }
    }

    /// In one breath: the delta, the record, the acknowledgement.
    fn acknowledge(&mut self, record: Record) {
        if let Some((addr, _)) = self.active.insert(record.lba, (record.addr, record.birth)) {
            if self.has(Mutant::ReuseReplaced) {
                self.used.remove(&addr);
            }
            self.replaced.push(addr);
        }
        self.history.push((record.lba, record.birth));
        self.buffer.push(record);
        if self.buffer.len() >= RECORDS_MAX {
            self.end_frame();
        }
    }

    /// Puts waiting records into a frame.
    pub fn end_frame(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let durable = if self.has(Mutant::FrameVouchesForItself) {
            self.next_seq
        } else {
            self.durable
        };
        let frame = Frame {
            seq: self.next_seq,
            mount: self.superblock.mount,
            durable,
            prev: self.prev,
            records: std::mem::take(&mut self.buffer),
        };
        self.prev = frame.tag();
        let op = self
            .drive
            .write(Place::Frame(frame.seq % RING), Value::Frame(frame));
        self.frames.insert(op, self.next_seq);
        self.next_seq += 1;
    }

    /// A client asks for a flush.
    pub fn flush(&mut self) {
        self.end_frame();
        let seq = self.next_seq - 1;
        self.waiting.push(Waiting {
            seq,
            writes: self.history.len(),
        });
        self.settle_waiting();
    }

    /// The writer: begins a FLUSH if somebody waits for one.
    pub fn flush_drive(&mut self) {
        if !self.waiting.is_empty() || self.checkpoint.is_some() {
            self.begin_flush();
        }
    }

    /// Begins a FLUSH: it covers what has completed by now.
    pub fn begin_flush(&mut self) -> Op {
        let op = self.drive.flush();
        self.flushes.insert(op, self.written);
        op
    }

    /// The drive completed an operation.
    pub fn completed(&mut self, random: &mut Random, op: Op) {
        if let Some(index) = self.writing.iter().position(|writing| writing.op == op) {
            let writing = self.writing.swap_remove(index);
            self.acknowledge(writing.record);
        }
        if let Some(seq) = self.frames.remove(&op) {
            self.done_frames.insert(seq);
            while self.done_frames.remove(&(self.written + 1)) {
                self.written += 1;
            }
        }
        if let Some(covered) = self.flushes.remove(&op) {
            let late = self.has(Mutant::DurableAtCompletion);
            self.durable = self.durable.max(if late { self.written } else { covered });
            self.flushed += 1;
        }
        self.settle_waiting();
        self.advance_checkpoint(random, op);
    }

    fn settle_waiting(&mut self) {
        let durable = if self.has(Mutant::AckWithoutFlush) {
            self.written
        } else {
            self.durable
        };
        let done = self
            .waiting
            .extract_if(.., |waiting| waiting.seq <= durable);
        self.promised = done
            .map(|waiting| waiting.writes)
            .fold(self.promised, usize::max);
    }

    /// What a read returns: the birth of what was written, nothing where nothing was. An error if the block is not what the map
    /// says.
    pub fn read(&self, lba: usize) -> anyhow::Result<Option<Birth>> {
        let delta = self
            .active
            .get(&lba)
            .or_else(|| self.frozen.get(&lba))
            .copied();
        let Some((addr, birth)) = delta.or_else(|| self.node(lba / FAN)[lba % FAN]) else {
            return Ok(None);
        };
        let found = self.drive.read(Place::Block(addr));
        let right = found == Some(&Value::Data { lba, birth });
        anyhow::ensure!(right, "block {lba} is damaged: {found:?}");
        Ok(Some(birth))
    }

    /// A node of the published map.
    pub fn node(&self, index: usize) -> Node {
        let addr = self.superblock.nodes[index].map(|(addr, _)| addr);
        match addr.and_then(|addr| self.drive.read(Place::Block(addr))) {
            Some(Value::Node(node)) => *node,
            _ => Node::default(),
        }
    }

    /// All blocks that the published map refers to.
    pub fn reachable(&self) -> BTreeSet<usize> {
        let nodes = self
            .superblock
            .nodes
            .iter()
            .flatten()
            .map(|(addr, _)| *addr);
        let data = (0..LBAS).filter_map(|lba| self.node(lba / FAN)[lba % FAN]);
        nodes.chain(data.map(|(addr, _)| addr)).collect()
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.writing.is_empty() && self.waiting.is_empty() && self.checkpoint.is_none()
    }
}
