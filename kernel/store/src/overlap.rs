//! The in-flight table: changes of one volume that touch the same block run in the order of their arrival.
//!
//! So births of a block grow in the order in which changes complete, and a partial write reads what the one before it wrote.

use alloc::vec::Vec;
use core::cell::RefCell;

use exec::Notify;

use crate::mutant::Mutants;

#[derive(Clone, Copy)]
struct Entry {
    ticket: u64,
    tree: u64,
    start: u64,
    end: u64,
}

/// All changes that are under way.
#[derive(Default)]
pub struct InFlight {
    entries: RefCell<(u64, Vec<Entry>)>,
    changed: Notify,
}

impl InFlight {
    /// Enters a range of blocks at once and waits until nothing that came earlier overlaps it.
    pub async fn enter(&self, tree: u64, start: u64, end: u64, mutants: Mutants) -> Turn<'_> {
        let ticket = {
            let (next, entries) = &mut *self.entries.borrow_mut();
            *next += 1;
            entries.push(Entry {
                ticket: *next,
                tree,
                start,
                end,
            });
            *next
        };
        let turn = Turn {
            table: self,
            ticket,
        };
        while !mutants.no_overlap_rule() && self.is_blocked(ticket, tree, start, end) {
            self.changed.wait().await;
        }
        turn
    }

    fn is_blocked(&self, ticket: u64, tree: u64, start: u64, end: u64) -> bool {
        let overlaps = |other: &Entry| {
            other.ticket < ticket && other.tree == tree && other.start < end && start < other.end
        };
        self.entries.borrow().1.iter().any(overlaps)
    }

    /// Waits until no change of `tree` is under way.
    pub async fn drained(&self, tree: u64) {
        while self
            .entries
            .borrow()
            .1
            .iter()
            .any(|entry| entry.tree == tree)
        {
            self.changed.wait().await;
        }
    }

    /// Waits until no change at all is under way.
    pub async fn all_drained(&self) {
        while !self.entries.borrow().1.is_empty() {
            self.changed.wait().await;
        }
    }
}

/// A range that is being changed; leaves the table when dropped.
pub struct Turn<'a> {
    table: &'a InFlight,
    ticket: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.table
            .entries
            .borrow_mut()
            .1
            .retain(|entry| entry.ticket != self.ticket);
        self.table.changed.notify();
    }
}
