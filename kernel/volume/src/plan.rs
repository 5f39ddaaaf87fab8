//! What of an origin is fetched next.

use alloc::vec::Vec;
use core::ops::Range;

use world::BLOCK_SIZE;

use crate::OriginExtent;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What an origin said of a part of it: enough for many steps, as it does not change.
#[derive(Default)]
pub struct Told {
    at: u64,
    /// What lies there, one behind the other.
    pub extents: Vec<OriginExtent>,
}

impl Told {
    /// It said this of what lies at byte `at`.
    pub fn new(at: u64, extents: Vec<OriginExtent>) -> Self {
        Self { at, extents }
    }

    /// Forgets what lies before byte `at`; whether it says what lies there, of an origin of `size` bytes.
    pub fn pass(&mut self, at: u64, size: u64) -> bool {
        let told: u64 = self.extents.iter().map(|extent| extent.len).sum();
        // Of a block it has to say all.
        if at < self.at || self.at + told < (at + BLOCK).min(size) {
            return false;
        }
        let mut passed = 0;
        while let Some(extent) = self.extents.get_mut(passed) {
            let len = extent.len.min(at - self.at);
            extent.len -= len;
            self.at += len;
            if extent.len > 0 {
                break;
            }
            passed += 1;
        }
        self.extents.drain(..passed);
        true
    }
}

/// What is to be fetched of what an origin has at `at`, up to `max` bytes, and how far that is.
pub fn plan(extents: &[OriginExtent], at: u64, max: u64, size: u64) -> (u64, Vec<Range<u64>>) {
    let mut end = at;
    let mut parts = Vec::new();
    let mut wanted = 0;
    for extent in extents {
        let start = end;
        end += extent.len;
        if extent.is_zero {
            continue;
        }
        end = end.min(start + max.max(BLOCK) - wanted);
        wanted += end - start;
        // A block that is partly zeros is fetched whole.
        parts.push(start / BLOCK * BLOCK..end.next_multiple_of(BLOCK));
        if wanted >= max {
            break;
        }
    }
    if end >= size {
        return (size, parts);
    }
    let next = end / BLOCK * BLOCK;
    if next > at {
        return (next, parts);
    }
    (at + BLOCK, alloc::vec![at..at + BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn extents(lens: &[(u64, bool)]) -> Vec<OriginExtent> {
        let extents = lens.iter();
        extents
            .map(|&(len, is_zero)| OriginExtent { len, is_zero })
            .collect()
    }

    #[test]
    fn what_was_told_is_not_asked_again() {
        let mut told = Told::new(
            2 * BLOCK,
            extents(&[(BLOCK, true), (2 * BLOCK + 512, false)]),
        );
        let size = 9 * BLOCK;
        assert!(
            !told.pass(BLOCK, size),
            "it said nothing of what lies before"
        );
        assert!(told.pass(3 * BLOCK, size));
        assert_eq!(told.extents, extents(&[(2 * BLOCK + 512, false)]));
        assert!(told.pass(4 * BLOCK, size));
        assert_eq!(told.extents, extents(&[(BLOCK + 512, false)]));
        assert!(
            !told.pass(5 * BLOCK, size),
            "it said a part of a block only"
        );
        assert!(!told.pass(3 * BLOCK, size), "that is passed");
        assert!(!Told::default().pass(0, size));
        let mut end = Told::new(0, extents(&[(512, false)]));
        assert!(end.pass(0, 512));
    }

    #[test]
    fn a_plan_covers_all_data_and_ends_at_blocks() {
        let plan_of = |lens: &[(u64, bool)], at| {
            let (next, parts) = plan(&extents(lens), at, 4 * BLOCK, 100 * BLOCK);
            let parts = parts.into_iter().map(|part| (part.start, part.end));
            (next, parts.collect::<Vec<_>>())
        };
        assert_eq!(plan_of(&[(10 * BLOCK, true)], 0), (10 * BLOCK, vec![]));
        // Zeros that end within a block say nothing of the rest of it.
        assert_eq!(
            plan_of(&[(10 * BLOCK + 512, true)], 0),
            (10 * BLOCK, vec![])
        );
        assert_eq!(
            plan_of(&[(512, true)], BLOCK),
            (2 * BLOCK, vec![(BLOCK, 2 * BLOCK)])
        );
        // Data that begins and ends within blocks is fetched with them, and what ends early is looked at again.
        let mixed = [(512, true), (1024, false), (2 * BLOCK, true)];
        assert_eq!(
            plan_of(&mixed, BLOCK),
            (3 * BLOCK, vec![(BLOCK, 2 * BLOCK)])
        );
        let much = [(BLOCK, true), (50 * BLOCK, false)];
        assert_eq!(plan_of(&much, 0), (5 * BLOCK, vec![(BLOCK, 5 * BLOCK)]));
        let end = [(BLOCK / 2, true), (BLOCK / 2, false)];
        assert_eq!(
            plan_of(&end, 99 * BLOCK),
            (100 * BLOCK, vec![(99 * BLOCK, 100 * BLOCK)])
        );
    }
}
