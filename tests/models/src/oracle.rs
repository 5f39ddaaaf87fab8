//! What reads must return: the contents of each map as a plain array.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::maps::pointer::{FAN, HEIGHT_MAX, Lba};
use crate::maps::{Content, MapId};

/// Blocks of the largest volume.
pub const BLOCKS_MAX: usize = FAN.pow(HEIGHT_MAX as u32);

/// One block, as a client would see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub content: Content,
    /// Whether a client of ours changed it since its volume was adopted (or made).
    pub is_ours: bool,
}

/// Contents of all visible maps. Cheap to copy: maps share what is equal.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    maps: BTreeMap<MapId, Rc<Vec<Block>>>,
}

impl Oracle {
    /// A map of zeros.
    pub fn create(&mut self, id: MapId) {
        self.maps
            .insert(id, Rc::new(vec![Block::default(); BLOCKS_MAX]));
    }

    /// Map `id` begins as `of` is now.
    pub fn copy(&mut self, of: MapId, id: MapId) {
        if let Some(blocks) = self.maps.get(&of).cloned() {
            self.maps.insert(id, blocks);
        }
    }

    /// A map is gone.
    pub fn remove(&mut self, id: MapId) {
        self.maps.remove(&id);
    }

    /// What is in a block.
    pub fn block(&self, id: MapId, lba: Lba) -> Block {
        self.maps
            .get(&id)
            .map_or(Block::default(), |blocks| blocks[lba as usize])
    }

    /// A client changed a block.
    pub fn change(&mut self, id: MapId, lba: Lba, content: Content) {
        self.put(
            id,
            lba,
            Block {
                content,
                is_ours: true,
            },
        );
    }

    /// A block is so without any client of ours.
    pub fn put(&mut self, id: MapId, lba: Lba, block: Block) {
        if let Some(blocks) = self.maps.get_mut(&id) {
            Rc::make_mut(blocks)[lba as usize] = block;
        }
    }
}

/// The oracle after each record that a power cut may take back.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Now.
    pub now: Oracle,
    /// At the cut of the last published checkpoint.
    base: Oracle,
    after: Vec<Oracle>,
    /// Records that a flush has made durable.
    flushed: usize,
}

impl History {
    /// All records up to `records` are made, the newest of them changed `now`.
    pub fn note(&mut self, records: usize) {
        self.after.resize(records, self.now.clone());
    }

    /// Everything so far is durable.
    pub fn flush(&mut self) {
        self.flushed = self.after.len();
    }

    /// Records that survive any power cut.
    pub fn flushed(&self) -> usize {
        self.flushed
    }

    /// A checkpoint made `records` superfluous.
    pub fn forget(&mut self, records: usize) {
        if let Some(last) = self.after.drain(..records).next_back() {
            self.base = last;
        }
        self.flushed = self.flushed.saturating_sub(records);
    }

    /// A power cut left `kept` records.
    pub fn cut(&mut self, kept: usize) {
        self.after.truncate(kept);
        self.now = self.after.last().unwrap_or(&self.base).clone();
        self.flushed = kept;
    }
}
