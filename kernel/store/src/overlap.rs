//! The in-flight table: changes of one volume that touch the same block run in the order of their arrival.
//!
//! So births of a block grow in the order in which changes complete, and a partial write reads what the one before it wrote.
//!
//! Volumes are seen in *regions* of 64 blocks, and a change counts where the hash of its regions says. Where nothing counts yet,
//! nothing can overlap; only otherwise the whole table is looked through.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;

use exec::Notify;

use crate::mutant::Mutants;

/// log2 of the blocks of a region.
const REGION_BITS: u32 = 6;
/// log2 of the places that regions are counted in.
const PLACE_BITS: u32 = 10;

#[derive(Clone, Copy)]
struct Entry {
    ticket: u64,
    volume: u64,
    start: u64,
    end: u64,
}

impl Entry {
    /// The places of its first and its last region, if there are no others.
    fn places(&self) -> Option<(usize, usize)> {
        let last = self.end.saturating_sub(1).max(self.start);
        if last - self.start > 1 << REGION_BITS {
            return None;
        }
        let place = |block: u64| {
            let region = (block >> REGION_BITS) ^ self.volume.rotate_left(40);
            (region.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACE_BITS)) as usize
        };
        Some((place(self.start), place(last)))
    }
}

struct Table {
    last: u64,
    /// Slots; vacant ones are reused.
    entries: Vec<Option<Entry>>,
    vacant: Vec<usize>,
    /// Changes that have a region in this place.
    counts: Box<[u32; 1 << PLACE_BITS]>,
    /// Changes of more than two regions.
    wide: usize,
}

/// All changes that are under way.
pub struct InFlight {
    table: RefCell<Table>,
    changed: Notify,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            table: RefCell::new(Table {
                last: 0,
                entries: Vec::new(),
                vacant: Vec::new(),
                counts: Box::new([0; 1 << PLACE_BITS]),
                wide: 0,
            }),
            changed: Notify::default(),
        }
    }
}

impl InFlight {
    /// Enters a range of blocks at once and waits until nothing that came earlier overlaps it.
    pub async fn enter(&self, volume: u64, start: u64, end: u64, mutants: Mutants) -> Turn<'_> {
        let turn = self.stand(volume, start, end);
        turn.reached(mutants).await;
        turn
    }

    /// Enters a range of blocks; its turn comes later.
    pub fn stand(&self, volume: u64, start: u64, end: u64) -> Turn<'_> {
        let (slot, entry, is_alone) = self.table.borrow_mut().insert(volume, start, end);
        Turn {
            table: self,
            slot,
            entry,
            is_alone,
        }
    }

    fn has(&self, that: impl Fn(&Entry) -> bool) -> bool {
        self.table.borrow().entries.iter().flatten().any(that)
    }

    /// Waits until no change of `volume` is under way.
    pub async fn drained(&self, volume: u64) {
        while self.has(|entry| entry.volume == volume) {
            self.changed.wait().await;
        }
    }

    /// Waits until no change at all is under way.
    pub async fn all_drained(&self) {
        while self.has(|_| true) {
            self.changed.wait().await;
        }
    }
}

impl Table {
    /// Its slot, and whether nothing that is here can overlap it.
    fn insert(&mut self, volume: u64, start: u64, end: u64) -> (usize, Entry, bool) {
        self.last += 1;
        let entry = Entry {
            ticket: self.last,
            volume,
            start,
            end,
        };
        let is_alone = match entry.places() {
            Some((first, last)) => {
                let others = self.counts[first] | self.counts[last];
                self.counts[first] += 1;
                self.counts[last] += 1;
                others == 0 && self.wide == 0
            }
            None => {
                self.wide += 1;
                false
            }
        };
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[slot] = Some(entry);
        (slot, entry, is_alone)
    }

    fn remove(&mut self, slot: usize, entry: &Entry) {
        self.entries[slot] = None;
        self.vacant.push(slot);
        match entry.places() {
            Some((first, last)) => {
                self.counts[first] -= 1;
                self.counts[last] -= 1;
            }
            None => self.wide -= 1,
        }
    }
}

/// A range that is being changed; leaves the table when dropped.
pub struct Turn<'a> {
    table: &'a InFlight,
    slot: usize,
    entry: Entry,
    /// Nothing was here that could overlap.
    is_alone: bool,
}

impl Turn<'_> {
    /// Whether something that came earlier overlaps.
    pub fn is_blocked(&self, mutants: Mutants) -> bool {
        let overlaps = |other: &Entry| {
            other.ticket < self.entry.ticket
                && other.volume == self.entry.volume
                && other.start < self.entry.end
                && self.entry.start < other.end
        };
        !self.is_alone && !mutants.no_overlap_rule() && self.table.has(overlaps)
    }

    /// Waits until nothing that came earlier overlaps.
    pub async fn reached(&self, mutants: Mutants) {
        while self.is_blocked(mutants) {
            self.table.changed.wait().await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.table.table.borrow_mut().remove(self.slot, &self.entry);
        self.table.changed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table says of each pair what a comparison of their blocks says, whatever else is in it.
    #[test]
    fn who_overlaps_an_earlier_one_waits() {
        let mut state = 1_u64;
        let mut next = |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % limit
        };
        let table = InFlight::default();
        let mut turns: Vec<Turn<'_>> = Vec::new();
        let (mut blocked, mut free) = (0, 0);
        for _ in 0..5000 {
            if turns.len() > 20 {
                turns.swap_remove(next(20) as usize);
            }
            let (volume, start) = (next(2), next(1000));
            let len = [1, 1, 1, 8, 32, 64, 65, 66, 500][next(9) as usize];
            let turn = table.stand(volume, start, start + len);
            let overlaps = |other: &Turn<'_>| {
                let (a, b) = (&other.entry, &turn.entry);
                a.volume == b.volume && a.start < b.end && b.start < a.end
            };
            let expected = turns.iter().any(overlaps);
            assert_eq!(turn.is_blocked(Mutants::default()), expected);
            *if expected { &mut blocked } else { &mut free } += 1;
            turns.push(turn);
        }
        assert!(blocked > 500 && free > 500, "{blocked} {free}");
        turns.clear();
        let left = table.table.borrow();
        assert!(left.wide == 0 && left.counts.iter().all(|count| *count == 0));
    }
}
