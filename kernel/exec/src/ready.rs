//! The set of ready tasks: one bit each, and a summary bit per word.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 64;

/// The most tasks that can exist at one time.
pub const TASKS_MAX: usize = WORDS * 64;

/// A set of task numbers below [`TASKS_MAX`].
pub struct ReadySet {
    words: Vec<AtomicU64>,
    summary: AtomicU64,
}

impl ReadySet {
    pub fn new() -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            summary: AtomicU64::new(0),
        }
    }

    pub fn insert(&self, task: usize) {
        self.words[task / 64].fetch_or(1 << (task % 64), Ordering::Release);
        self.summary.fetch_or(1 << (task / 64), Ordering::Release);
    }

    pub fn is_empty(&self) -> bool {
        self.summary.load(Ordering::Acquire) == 0
    }

    /// Empties the set into `into`, in ascending order.
    pub fn drain(&self, into: &mut Vec<usize>) {
        let mut summary = self.summary.swap(0, Ordering::AcqRel);
        while summary != 0 {
            let word = summary.trailing_zeros() as usize;
            summary &= summary - 1;
            let mut bits = self.words[word].swap(0, Ordering::AcqRel);
            while bits != 0 {
                into.push(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

/// The waker of one task slot.
pub struct Bit {
    pub task: usize,
    pub set: Arc<ReadySet>,
}

impl Wake for Bit {
    fn wake(self: Arc<Self>) {
        self.set.insert(self.task);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.insert(self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_what_was_inserted_once() {
        let set = ReadySet::new();
        for task in [0, 63, 64, TASKS_MAX - 1, 64] {
            set.insert(task);
        }
        let mut out = Vec::new();
        set.drain(&mut out);
        assert_eq!(out, [0, 63, 64, TASKS_MAX - 1]);
        assert!(set.is_empty());
    }
}
