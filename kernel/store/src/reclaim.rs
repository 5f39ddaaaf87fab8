//! Discarded subtrees on their way to be taken apart: a queue that is kept in a map of its own.
//!
//! An item's cursor says which blocks are behind it. What is not younger than its boundary belongs to snapshots.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use world::BLOCK_SIZE;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::{HEIGHT_MAX, Kind, Pointer};
use crate::map::span;

/// Items in a block.
pub const ITEMS_PER_BLOCK: usize = BLOCK_SIZE / size_of::<Item>();

/// A subtree that nobody refers to any more.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Item {
    /// Its root, a node.
    pub root: Pointer,
    /// Level of the root node.
    pub level: u8,
    reserved: [u8; 7],
    /// The map it was part of.
    pub tree: U64,
    /// Blocks below the subtree, from its first on, that are freed already.
    pub cursor: U64,
    /// What was born later is the item's; the rest belongs to others, who may have freed it.
    pub boundary: U64,
}

const _: () = assert!(size_of::<Item>() == 64);

impl Item {
    pub fn new(root: Pointer, level: u8, tree: u64, boundary: u64) -> Self {
        Self {
            root,
            level,
            reserved: [0; 7],
            tree: tree.into(),
            cursor: U64::ZERO,
            boundary: boundary.into(),
        }
    }
}

/// Discards wait from so many items on (512 KiB of them): all of them are written with each checkpoint that changes any.
const ITEMS_ENOUGH: usize = 8192;

/// All items, oldest first.
#[derive(Default)]
pub struct Reclaim {
    items: VecDeque<Item>,
    /// Items differ from those of the last checkpoint.
    pub dirty: bool,
    /// Blocks that the items of the last checkpoint take.
    pub blocks: usize,
}

impl Reclaim {
    pub fn push(&mut self, item: Item) {
        self.items.push_back(item);
        self.dirty = true;
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether discards have to wait until some of it is done.
    pub fn is_long(&self) -> bool {
        self.items.len() >= ITEMS_ENOUGH
    }

    pub fn first(&self) -> Option<Item> {
        self.items.front().copied()
    }

    /// Notes how far the oldest item has come; it goes when it is done.
    pub fn advance(&mut self, item: Item) {
        self.dirty = true;
        if item.cursor.get() >= span(item.level + 1) {
            self.items.pop_front();
        } else {
            self.items[0] = item;
        }
    }

    /// The items as blocks.
    pub fn encode(&self) -> Vec<[u8; BLOCK_SIZE]> {
        let items: Vec<Item> = self.items.iter().copied().collect();
        let block = |items: &[Item]| {
            let mut block = [0; BLOCK_SIZE];
            block[..size_of_val(items)].copy_from_slice(items.as_bytes());
            block
        };
        items.chunks(ITEMS_PER_BLOCK).map(block).collect()
    }

    /// Adds the items of a block.
    pub fn decode(&mut self, block: &[u8; BLOCK_SIZE]) {
        for chunk in block.chunks_exact(size_of::<Item>()) {
            if let Ok(item) = Item::read_from_bytes(chunk)
                && item.root.kind() == Kind::Node
                && item.level < HEIGHT_MAX
            {
                self.items.push_back(item);
            }
        }
        self.blocks += 1;
    }
}
