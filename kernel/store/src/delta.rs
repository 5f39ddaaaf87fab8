//! Changes of the maps that are in memory: points (one block was written) and holes (a range was discarded).
//!
//! There are two tables: the active one takes changes, the frozen one is being merged into the maps. A table is a slab of entries
//! with an open-addressing index, allocated once, so that taking a change never allocates.

use alloc::vec;
use alloc::vec::Vec;

use crate::layout::{Pointer, PoolAddr};
use crate::tag::Tag;

const LBA_BITS: u32 = 36;
const VACANT: u32 = u32::MAX;

/// Tree and block as one number, ordered by tree and then by block.
pub fn key(tree: u64, lba: u64) -> u64 {
    tree << LBA_BITS | lba
}

/// The parts of a [`key`].
pub fn split_key(key: u64) -> (u64, u64) {
    (key >> LBA_BITS, key & ((1 << LBA_BITS) - 1))
}

/// One block was written.
#[derive(Clone, Copy)]
pub struct Point {
    pub key: u64,
    pub addr: PoolAddr,
    pub birth: u64,
    pub tag: Tag,
}

/// A range became a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub start: u64,
    pub end: u64,
    pub birth: u64,
}

/// One half of the deltas.
pub struct DeltaTable {
    index: Vec<u32>,
    points: Vec<Point>,
    points_max: usize,
    /// Disjoint and sorted; bounds are keys.
    holes: Vec<Hole>,
}

/// The most hole ranges of a table.
pub const HOLES_MAX: usize = 1024;

impl DeltaTable {
    pub fn new(points_max: usize) -> Self {
        Self {
            index: vec![VACANT; (points_max * 2).next_power_of_two()],
            points: Vec::with_capacity(points_max),
            points_max,
            holes: Vec::with_capacity(HOLES_MAX),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.holes.is_empty()
    }

    /// Points that can still be added.
    pub fn room(&self) -> usize {
        self.points_max - self.points.len()
    }

    /// Whether another hole (which may cut an older one in two) can be added.
    pub fn has_hole_room(&self) -> bool {
        self.hole_room() > 2
    }

    /// Holes that can still be added.
    pub fn hole_room(&self) -> usize {
        HOLES_MAX - self.holes.len()
    }

    /// Whether a point can be added for this block: there is room, or it replaces one.
    pub fn takes(&self, key: u64) -> bool {
        self.room() > 0 || self.index[self.slot_of(key)] != VACANT
    }

    /// How full it is, in percent.
    pub fn fill_percent(&self) -> usize {
        (self.points.len() * 100 / self.points_max).max(self.holes.len() * 100 / HOLES_MAX)
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// What this table says of a block: a data pointer, a hole, or nothing.
    pub fn find(&self, key: u64) -> Option<Pointer> {
        let point = match self.index[self.slot_of(key)] {
            VACANT => None,
            at => Some(&self.points[at as usize]),
        };
        let hole = self.hole_at(key);
        match (point, hole) {
            (Some(point), Some(hole)) if hole.birth > point.birth => {
                Some(Pointer::hole(hole.birth))
            }
            (Some(point), _) => Some(Pointer::data(point.addr, point.birth, point.tag)),
            (None, Some(hole)) => Some(Pointer::hole(hole.birth)),
            (None, None) => None,
        }
    }

    fn hole_at(&self, key: u64) -> Option<&Hole> {
        if self.holes.is_empty() {
            return None;
        }
        let after = self.holes.partition_point(|hole| hole.start <= key);
        self.holes[..after].last().filter(|hole| key < hole.end)
    }

    /// Adds a point. Returns the block of this table that it replaces; nothing refers to that one any more.
    ///
    /// # Panics
    /// When the table is full, or births of a block go back: bugs of the caller.
    pub fn insert(&mut self, point: Point) -> Option<PoolAddr> {
        let slot = self.slot_of(point.key);
        match self.index[slot] {
            VACANT => {
                assert!(
                    self.points.len() < self.points_max,
                    "a change beyond the delta table"
                );
                self.index[slot] = u32::try_from(self.points.len()).unwrap_or(VACANT);
                self.points.push(point);
                None
            }
            at => {
                let old = core::mem::replace(&mut self.points[at as usize], point);
                assert!(old.birth < point.birth, "births of a block must grow");
                Some(old.addr)
            }
        }
    }

    /// The slot of `key`, or the vacant one where it belongs.
    fn slot_of(&self, key: u64) -> usize {
        let mask = self.index.len() - 1;
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Only the low bits are used, so nothing is lost on a machine of 32 bits either.
        let mut slot = (hash >> 29) as usize & mask;
        loop {
            match self.index[slot] {
                VACANT => return slot,
                at if self.points[at as usize].key == key => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Adds a hole; it is newer than all holes before, which lose what it covers.
    ///
    /// # Panics
    /// When there is no room (see [`has_hole_room`](Self::has_hole_room)).
    pub fn insert_hole(&mut self, new: Hole) {
        assert!(self.has_hole_room(), "a hole beyond the delta table");
        let first = self.holes.partition_point(|hole| hole.end <= new.start);
        let last = self.holes.partition_point(|hole| hole.start < new.end);
        let mut parts = [None; 3];
        if first < last {
            let (left, right) = (self.holes[first], self.holes[last - 1]);
            parts[0] = (left.start < new.start).then_some(Hole {
                end: new.start,
                ..left
            });
            parts[2] = (right.end > new.end).then_some(Hole {
                start: new.end,
                ..right
            });
        }
        parts[1] = Some(new);
        self.holes.splice(first..last, parts.into_iter().flatten());
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if !self.points.is_empty() {
            self.index.fill(VACANT);
        }
        self.points.clear();
        self.holes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(lba: u64, birth: u64) -> Point {
        Point {
            key: key(16, lba),
            addr: birth + 1000,
            birth,
            tag: Tag::default(),
        }
    }

    #[test]
    fn the_newest_of_point_and_hole_counts() {
        let mut table = DeltaTable::new(64);
        assert_eq!(table.insert(point(5, 1)), None);
        assert_eq!(table.insert(point(5, 2)), Some(1001));
        table.insert_hole(Hole {
            start: key(16, 0),
            end: key(16, 10),
            birth: 3,
        });
        assert_eq!(table.find(key(16, 5)), Some(Pointer::hole(3)));
        table.insert(point(5, 4));
        assert_eq!(
            table.find(key(16, 5)),
            Some(Pointer::data(1004, 4, Tag::default()))
        );
        assert_eq!(table.find(key(16, 10)), None);
        assert_eq!(table.find(key(17, 5)), None);
    }

    #[test]
    fn holes_stay_disjoint() {
        let mut table = DeltaTable::new(64);
        let hole = |start, end, birth| Hole { start, end, birth };
        table.insert_hole(hole(10, 20, 1));
        table.insert_hole(hole(30, 40, 2));
        table.insert_hole(hole(12, 14, 3));
        assert_eq!(
            table.holes(),
            [
                hole(10, 12, 1),
                hole(12, 14, 3),
                hole(14, 20, 1),
                hole(30, 40, 2)
            ]
        );
        table.insert_hole(hole(13, 35, 4));
        assert_eq!(
            table.holes(),
            [
                hole(10, 12, 1),
                hole(12, 13, 3),
                hole(13, 35, 4),
                hole(35, 40, 2)
            ]
        );
        table.insert_hole(hole(0, 100, 5));
        assert_eq!(table.holes(), [hole(0, 100, 5)]);
    }

    #[test]
    fn finds_what_was_inserted_up_to_the_limit() {
        let mut table = DeltaTable::new(1000);
        for lba in 0..1000 {
            table.insert(point(lba * 7919, lba + 1));
        }
        assert_eq!(table.room(), 0);
        for lba in 0..1000 {
            assert_eq!(table.find(key(16, lba * 7919)).unwrap().birth(), lba + 1);
            assert!(table.find(key(16, lba * 7919 + 1)).is_none());
        }
        table.clear();
        assert!(table.find(key(16, 0)).is_none());
    }
}
