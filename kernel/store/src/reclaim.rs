//! Taking deleted maps apart, a bounded number of blocks with each checkpoint.
//!
//! A deleted volume or a discarded subtree is one item. Its cursor says which blocks are behind it; the cursor stops only at
//! ends of leaves and is written with the checkpoint that freed them, so nothing is lost or freed twice.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::api::StoreError;
use crate::layout::{FAN, HEIGHT_MAX, Kind, Pointer, get_pointer};
use crate::map::{Missing, index_in, span};
use crate::shared::Shared;

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
    boundary: U64,
}

const _: () = assert!(size_of::<Item>() == 64);

impl Item {
    pub fn new(root: Pointer, level: u8, tree: u64) -> Self {
        Self {
            root,
            level,
            reserved: [0; 7],
            tree: tree.into(),
            cursor: U64::ZERO,
            boundary: U64::ZERO,
        }
    }
}

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

    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// Notes how far the oldest item has come; it goes when it is done.
    fn advance(&mut self, item: Item) {
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

impl<D: Disk> Shared<D> {
    /// Frees about `budget` blocks of deleted maps; part of a checkpoint.
    pub async fn reclaim(&self, budget: usize) -> Result<(), StoreError> {
        let mut left = budget;
        while left > 0 {
            let item = self.state.borrow().reclaim.items.front().copied();
            let Some(mut item) = item else { break };
            let freed = self.reclaim_leaf(&mut item).await?;
            left = left.saturating_sub(freed.max(1));
            self.state.borrow_mut().reclaim.advance(item);
            self.environment.exec.yield_now().await;
        }
        Ok(())
    }

    /// Frees the next leaf of an item and every node that is finished with it. Returns how many blocks that were.
    async fn reclaim_leaf(&self, item: &mut Item) -> Result<usize, StoreError> {
        let mut cursor = item.cursor.get();
        let mut trail = arrayvec::ArrayVec::<Missing, 8>::new();
        let mut at = Missing {
            pointer: item.root,
            level: item.level,
        };
        let mut freed = 0;
        let next = loop {
            trail.push(at);
            let end = (cursor / span(at.level + 1) + 1) * span(at.level + 1);
            let mut node = Buf::from_heap(1);
            if self.copy_node(at, &mut node).await.is_err() {
                // What is below an unreadable node is lost space; the checker tells.
                log::error!(
                    "map node {:#x} is damaged: its blocks stay in use",
                    at.pointer.addr()
                );
                break end;
            }
            let node = node.block(0);
            if at.level == 0 {
                freed += self.free_leaf(node, index_in(0, cursor), item.tree.get());
                break end;
            }
            let first = index_in(at.level, cursor);
            let children = (first..FAN).map(|index| (index, get_pointer(node, index)));
            let Some((index, child)) = { children }.find(|(_, child)| child.kind() == Kind::Node)
            else {
                break end;
            };
            if index > first {
                cursor = end - (FAN - index) as u64 * span(at.level);
            }
            at = Missing {
                pointer: child,
                level: at.level - 1,
            };
        };
        item.cursor = next.into();
        let mut state = self.state.borrow_mut();
        for done in trail.iter().rev() {
            if !next.is_multiple_of(span(done.level + 1)) {
                break;
            }
            state.space.free(done.pointer.addr());
            freed += 1;
        }
        Ok(freed)
    }

    /// Copies a node from the cache, or from the drives into the cache and `into`.
    async fn copy_node(&self, missing: Missing, into: &mut Buf) -> Result<(), StoreError> {
        if self.copy_cached(missing, into) {
            return Ok(());
        }
        let mut buf = Buf::from_heap(1);
        self.read_node(missing, &mut buf).await?;
        into.block_mut(0).copy_from_slice(buf.block(0));
        if missing.level > 0 {
            // It is needed again for each of its leaves.
            let page = &mut buf.pages_mut()[0];
            self.state.borrow_mut().cache.insert(&missing.pointer, page);
        }
        Ok(())
    }

    fn copy_cached(&self, missing: Missing, into: &mut Buf) -> bool {
        let mut state = self.state.borrow_mut();
        let node = state.cache.get(&missing.pointer);
        if let Some(node) = node {
            into.block_mut(0).copy_from_slice(node);
        }
        node.is_some()
    }

    fn free_leaf(&self, leaf: &[u8; BLOCK_SIZE], from: usize, tree: u64) -> usize {
        let mut state = self.state.borrow_mut();
        let mut freed = 0;
        for index in from..FAN {
            let pointer = get_pointer(leaf, index);
            if pointer.kind() == Kind::Data {
                state.space.free(pointer.addr());
                freed += 1;
            }
        }
        if let Some(tree) = state.trees.get_mut(&tree) {
            let blocks = tree.entry.blocks.get().saturating_sub(freed as u64);
            tree.entry.blocks = blocks.into();
            tree.dirty = true;
        }
        freed
    }
}
