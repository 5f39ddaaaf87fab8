//! Verified map nodes in memory, replaced by the clock algorithm.
//!
//! An entry is found by the whole pointer, tag included: a block that was freed and used again cannot be mistaken for what it
//! was before.

use alloc::boxed::Box;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Page};

use crate::layout::{Pointer, PoolAddr};
use crate::numbers::NumberMap;
use crate::tag::Tag;

struct Slot {
    addr: PoolAddr,
    tag: Tag,
    page: Box<Page>,
    used: bool,
}

/// The cache.
pub struct NodeCache {
    slots: Vec<Slot>,
    by_addr: NumberMap<PoolAddr, u32>,
    hand: usize,
    limit: usize,
    /// How often a node was looked for and was here, and was not.
    pub hits: u64,
    pub misses: u64,
}

/// The address of an empty slot; no node is ever in block 0 of group 0.
const EMPTY: PoolAddr = 0;

impl NodeCache {
    pub fn new(limit: usize) -> Self {
        let by_addr = NumberMap::with_capacity_and_hasher(limit, Default::default());
        Self {
            slots: Vec::with_capacity(limit),
            by_addr,
            hand: 0,
            limit,
            hits: 0,
            misses: 0,
        }
    }

    /// How many nodes are here, and the most that can be.
    pub fn filling(&self) -> (usize, usize) {
        (self.slots.len(), self.limit)
    }

    /// The node that `pointer` leads to, if it is here.
    pub fn get(&mut self, pointer: &Pointer) -> Option<&[u8; BLOCK_SIZE]> {
        let index = self.find(pointer)?;
        Some(self.node(index))
    }

    /// Where the node is that `pointer` leads to, if it is here; it stays there until the next [`insert`](Self::insert).
    pub fn find(&mut self, pointer: &Pointer) -> Option<usize> {
        if let Some(index) = self.by_addr.get(&pointer.addr()) {
            let index = *index as usize;
            let slot = &mut self.slots[index];
            if slot.tag == pointer.tag() {
                slot.used = true;
                self.hits += 1;
                return Some(index);
            }
        }
        self.misses += 1;
        None
    }

    /// The node in a place that [`find`](Self::find) named.
    pub fn node(&self, index: usize) -> &[u8; BLOCK_SIZE] {
        &self.slots[index].page.bytes
    }

    /// Keeps a verified node; takes the page and leaves another one in its place.
    pub fn insert(&mut self, pointer: &Pointer, page: &mut Box<Page>) {
        let addr = pointer.addr();
        let index = match self.by_addr.get(&addr) {
            Some(index) => *index as usize,
            None => self.vacate(),
        };
        let slot = &mut self.slots[index];
        core::mem::swap(&mut slot.page, page);
        slot.addr = addr;
        slot.tag = pointer.tag();
        slot.used = true;
        self.by_addr
            .insert(addr, u32::try_from(index).unwrap_or(u32::MAX));
    }

    fn vacate(&mut self) -> usize {
        if self.slots.len() < self.limit {
            self.slots.push(Slot {
                addr: EMPTY,
                tag: Tag::default(),
                page: Page::new_box(),
                used: false,
            });
            return self.slots.len() - 1;
        }
        loop {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[index];
            if !core::mem::take(&mut slot.used) {
                self.by_addr.remove(&slot.addr);
                return index;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(addr: u64) -> Pointer {
        Pointer::node(addr, 1, Tag([addr as u8; 16]))
    }

    #[test]
    fn keeps_what_is_used_and_never_more_than_the_limit() {
        let mut cache = NodeCache::new(2);
        for addr in 1..=2_u8 {
            let mut page = Page::new_box();
            page.bytes[0] = addr;
            cache.insert(&pointer(addr.into()), &mut page);
        }
        cache.slots[0].used = false;
        cache.slots[1].used = false;
        assert_eq!(cache.get(&pointer(1)).unwrap()[0], 1);
        cache.insert(&pointer(3), &mut Page::new_box());
        assert!(cache.get(&pointer(2)).is_none(), "the unused one had to go");
        assert!(cache.get(&pointer(1)).is_some() && cache.get(&pointer(3)).is_some());
        assert_eq!(cache.slots.len(), 2);
    }

    #[test]
    fn a_reused_address_is_another_node() {
        let mut cache = NodeCache::new(2);
        cache.insert(&pointer(1), &mut Page::new_box());
        let new = Pointer::node(1, 1, Tag([9; 16]));
        assert!(cache.get(&new).is_none());
        cache.insert(&new, &mut Page::new_box());
        assert!(cache.get(&new).is_some() && cache.get(&pointer(1)).is_none());
        assert_eq!((cache.hits, cache.misses), (1, 2));
        assert_eq!(cache.filling(), (1, 2));
    }
}
