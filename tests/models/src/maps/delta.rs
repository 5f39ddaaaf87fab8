//! Changes of one map that are not in its tree yet.

use std::collections::BTreeMap;

use super::pointer::{Addr, Birth, Lba, Pointer};

/// A range that became zeros.
#[derive(Clone, Copy, Debug)]
pub struct Hole {
    pub start: Lba,
    pub end: Lba,
    pub birth: Birth,
}

/// Points and holes; the newer one counts.
#[derive(Clone, Debug, Default)]
pub struct Deltas {
    pub points: BTreeMap<Lba, Pointer>,
    /// In the order of their births.
    pub holes: Vec<Hole>,
}

impl Deltas {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.holes.is_empty()
    }

    /// What they say of a block.
    pub fn find(&self, lba: Lba) -> Option<Pointer> {
        let covers = |hole: &&Hole| (hole.start..hole.end).contains(&lba);
        let hole = self.holes.iter().rev().find(covers);
        let hole = hole.map(|hole| Pointer::Hole { birth: hole.birth });
        let point = self.points.get(&lba).copied();
        point
            .into_iter()
            .chain(hole)
            .max_by_key(|pointer| pointer.birth())
    }

    /// Notes a written block; returns the block that it replaces.
    pub fn add_point(&mut self, lba: Lba, pointer: Pointer) -> Option<Addr> {
        self.points.insert(lba, pointer).and_then(Pointer::data)
    }

    /// Notes a hole; returns the blocks that it replaces.
    pub fn add_hole(&mut self, hole: Hole) -> Vec<Addr> {
        let older = |lba: &Lba, pointer: &mut Pointer| {
            (hole.start..hole.end).contains(lba) && pointer.birth() < hole.birth
        };
        let dropped = self.points.extract_if(.., older).collect::<Vec<_>>();
        self.holes.push(hole);
        self.holes.sort_by_key(|hole| hole.birth);
        dropped
            .into_iter()
            .filter_map(|(_, pointer)| pointer.data())
            .collect()
    }

    /// The blocks that they name.
    pub fn blocks(&self) -> impl Iterator<Item = Addr> + '_ {
        self.points.values().filter_map(|pointer| pointer.data())
    }
}
