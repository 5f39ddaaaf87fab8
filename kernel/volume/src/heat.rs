//! Where a volume was used lately: what is fetched first when it moves.
//!
//! A volume is divided into a number of parts, however large it is, and each part has a counter; all of them are halved when one is full, so
//! that what was long ago counts less and less. Only in memory: after a restart nothing was used.

use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

/// Parts of a volume.
const PARTS: usize = 256;
/// Parts are not smaller than this, as a power of two: 1 MiB.
const SHIFT_MIN: u32 = 20;
/// Parts of an answer.
const HOT_MAX: usize = 64;

/// Counts where operations begin.
#[derive(Debug)]
pub struct Heat {
    counters: [Cell<u16>; PARTS],
    /// Bytes of a part, as a power of two.
    shift: Cell<u32>,
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            counters: [const { Cell::new(0) }; PARTS],
            shift: Cell::new(SHIFT_MIN),
        }
    }
}

impl Heat {
    /// Counts an operation at byte `offset`.
    pub(crate) fn note(&self, offset: u64) {
        let mut part = offset >> self.shift.get();
        while part >= PARTS as u64 {
            self.coarsen();
            part >>= 1;
        }
        let counter = &self.counters[part as usize];
        if counter.get() == u16::MAX {
            for counter in &self.counters {
                counter.set(counter.get() / 2);
            }
        }
        counter.set(counter.get() + 1);
    }

    /// Parts become twice as large.
    fn coarsen(&self) {
        for index in 0..PARTS {
            let sum = match index < PARTS / 2 {
                true => [0, 1].map(|half| self.counters[2 * index + half].get()),
                false => [0; 2],
            };
            self.counters[index].set(sum[0].saturating_add(sum[1]));
        }
        self.shift.set(self.shift.get() + 1);
    }

    /// The parts that were used most, the hottest first.
    #[must_use]
    pub fn hottest(&self) -> Vec<Range<u64>> {
        let counted = self.counters.iter().map(Cell::get).zip(0_u64..);
        let mut used: Vec<(u16, u64)> = counted.filter(|(count, _)| *count > 0).collect();
        used.sort_unstable_by(|one, other| other.cmp(one));
        used.truncate(HOT_MAX);
        let shift = self.shift.get();
        let parts = used.into_iter().map(|(_, part)| part);
        parts
            .map(|part| part << shift..(part + 1) << shift)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_was_used_most_comes_first() {
        let heat = Heat::default();
        for (at, count) in [(0, 3), (7 * MIB + 5, 9), (200 * MIB, 1)] {
            for _ in 0..count {
                heat.note(at);
            }
        }
        let hottest = [7 * MIB..8 * MIB, 0..MIB, 200 * MIB..201 * MIB];
        assert_eq!(heat.hottest(), hottest);
    }

    #[test]
    fn a_large_volume_has_larger_parts() {
        let heat = Heat::default();
        for _ in 0..10 {
            heat.note(5 * MIB);
        }
        for _ in 0..3 {
            heat.note(16 << 40);
        }
        let hottest = heat.hottest();
        assert_eq!(hottest.len(), 2);
        assert!(hottest[0].contains(&(5 * MIB)) && hottest[1].contains(&(16 << 40)));
    }

    #[test]
    fn counters_do_not_overflow() {
        let heat = Heat::default();
        heat.note(3 * MIB);
        for _ in 0..200_000 {
            heat.note(0);
        }
        assert_eq!(heat.hottest()[0], 0..MIB);
    }
}
