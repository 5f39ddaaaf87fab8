//! A drive that records: every write, flush and discard in order, so that a power cut can be put behind any of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use world::{BLOCK_SIZE, BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

type Block = Rc<[u8; BLOCK_SIZE]>;

/// What the drives of a pool hold: drive and block, blank ones left out.
#[derive(Clone, Default)]
pub struct Image {
    blocks: BTreeMap<(usize, BlockAddr), Block>,
    unreadable: BTreeSet<(usize, BlockAddr)>,
    drives: Vec<u64>,
}

/// What a drive was told.
#[derive(Clone)]
pub enum Event {
    /// One command's blocks, from this one on.
    Write(usize, BlockAddr, Vec<Block>),
    /// Everything before on this drive is durable.
    Flush(usize),
    /// The user's operation with this number is acknowledged, or (`false`) begins.
    Operation(usize, bool),
}

impl Image {
    /// Blank drives of these sizes, in blocks.
    pub fn blank(drives: &[u64]) -> Self {
        Self {
            drives: drives.to_vec(),
            ..Self::default()
        }
    }

    /// Does what the event says.
    pub fn apply(&mut self, event: &Event) {
        if let Event::Write(drive, at, blocks) = event {
            for (index, block) in (0..).zip(blocks) {
                self.blocks.insert((*drive, at + index), block.clone());
            }
        }
    }

    /// Places that are not blank.
    pub fn places(&self) -> impl Iterator<Item = (usize, BlockAddr)> + '_ {
        self.blocks.keys().copied()
    }

    /// What is there.
    pub fn get(&self, place: (usize, BlockAddr)) -> [u8; BLOCK_SIZE] {
        self.blocks
            .get(&place)
            .map_or([0; BLOCK_SIZE], |block| **block)
    }

    /// Puts something there.
    pub fn set(&mut self, place: (usize, BlockAddr), bytes: [u8; BLOCK_SIZE]) {
        self.blocks.insert(place, Rc::new(bytes));
    }

    /// Reads of this block fail until it is written.
    pub fn make_unreadable(&mut self, place: (usize, BlockAddr)) {
        self.unreadable.insert(place);
    }

    /// The drives.
    pub fn insert(self) -> Vec<TapeDisk> {
        let numbers = 0..self.drives.len();
        let shared = Rc::new(Shared {
            image: RefCell::new(self),
            tape: RefCell::default(),
        });
        let disk = |number| TapeDisk {
            shared: shared.clone(),
            number,
        };
        numbers.map(disk).collect()
    }
}

struct Shared {
    image: RefCell<Image>,
    tape: RefCell<Vec<Event>>,
}

/// One of the drives; all of a pool have one tape.
#[derive(Clone)]
pub struct TapeDisk {
    shared: Rc<Shared>,
    number: usize,
}

impl TapeDisk {
    /// Notes that a user's operation begins, or is acknowledged.
    pub fn mark(&self, operation: usize, is_done: bool) {
        self.record(Event::Operation(operation, is_done));
    }

    /// How long the tape is.
    pub fn tape_len(&self) -> usize {
        self.shared.tape.borrow().len()
    }

    /// The tape so far; a new one begins.
    pub fn take_tape(&self) -> Vec<Event> {
        self.shared.tape.take()
    }

    /// What the drives hold now.
    pub fn image(&self) -> Image {
        self.shared.image.borrow().clone()
    }

    fn record(&self, event: Event) {
        self.shared.image.borrow_mut().apply(&event);
        self.shared.tape.borrow_mut().push(event);
    }
}

impl Disk for TapeDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.shared.image.borrow().drives[self.number],
            sector_bytes: 4096,
            transfer_blocks_max: 32,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo {
            id: format!("tape{}", self.number),
            ..DiskInfo::default()
        }
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        let image = self.shared.image.borrow();
        for index in 0..into.blocks() {
            let place = (self.number, at + index as u64);
            if image.unreadable.contains(&place) {
                return (into, Err(DiskError::Media));
            }
            *into.block_mut(index) = image.get(place);
        }
        (into, Ok(()))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        let blocks: Vec<Block> = (0..from.blocks())
            .map(|index| Rc::new(*from.block(index)))
            .collect();
        {
            let mut image = self.shared.image.borrow_mut();
            for index in 0..blocks.len() as u64 {
                image.unreadable.remove(&(self.number, at + index));
            }
        }
        self.record(Event::Write(self.number, at, blocks));
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.record(Event::Flush(self.number));
        Ok(())
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        Ok(())
    }
}
