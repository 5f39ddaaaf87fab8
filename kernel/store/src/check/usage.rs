//! The checker's own account of which blocks are referred to.

use alloc::boxed::Box;

use hashbrown::HashMap;

use crate::layout::{GROUP_BITS, PoolAddr};

/// Words of 64 bits for a group of the largest size.
const WORDS: usize = 1 << GROUP_BITS >> 6;

/// What [`Usage::mark`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The block was not referred to so far.
    First,
    /// It was.
    Again,
    /// No block can be there: beyond the pool, or one of a group's two bitmaps.
    Bad,
}

/// One bit for each block of groups that have any.
pub struct Usage {
    shift: u32,
    groups: usize,
    used: HashMap<u32, Box<[u64; WORDS]>>,
}

impl Usage {
    pub fn new(shift: u32, groups: usize) -> Self {
        Self {
            shift,
            groups,
            used: HashMap::new(),
        }
    }

    /// Notes that something refers to `addr`.
    pub fn mark(&mut self, addr: PoolAddr) -> Mark {
        let block = addr & ((1 << GROUP_BITS) - 1);
        let group = match u32::try_from(addr >> GROUP_BITS) {
            Ok(group) if (group as usize) < self.groups => group,
            _ => return Mark::Bad,
        };
        if !(2..1 << self.shift).contains(&block) {
            return Mark::Bad;
        }
        let words = self
            .used
            .entry(group)
            .or_insert_with(|| Box::new([0; WORDS]));
        let word = &mut words[block as usize / 64];
        let before = *word;
        *word |= 1 << (block % 64);
        if *word == before {
            Mark::Again
        } else {
            Mark::First
        }
    }

    /// Which of the 64 blocks from `64 * index` on of `group` something refers to, the first in the lowest bit.
    pub fn word(&self, group: u32, index: usize) -> u64 {
        self.used.get(&group).map_or(0, |words| words[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_remembered_and_places_checked() {
        let mut usage = Usage::new(8, 2);
        assert_eq!(usage.mark(1 << 15 | 255), Mark::First);
        assert_eq!(usage.mark(1 << 15 | 255), Mark::Again);
        assert_eq!(usage.mark(255), Mark::First);
        assert_eq!((usage.word(1, 3), usage.word(1, 2)), (1 << 63, 0));
        for bad in [0, 1, 256, 2 << 15 | 5, 1 << 47] {
            assert_eq!(usage.mark(bad), Mark::Bad, "{bad:#x}");
        }
    }
}
