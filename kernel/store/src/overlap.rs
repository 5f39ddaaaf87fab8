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
    volume: u64,
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
    pub async fn enter(&self, volume: u64, start: u64, end: u64, mutants: Mutants) -> Turn<'_> {
        let turn = self.stand(volume, start, end);
        turn.reached(mutants).await;
        turn
    }

    /// Enters a range of blocks; its turn comes later.
    pub fn stand(&self, volume: u64, start: u64, end: u64) -> Turn<'_> {
        let (last, entries) = &mut *self.entries.borrow_mut();
        *last += 1;
        let entry = Entry {
            ticket: *last,
            volume,
            start,
            end,
        };
        entries.push(entry);
        Turn { table: self, entry }
    }

    fn is_blocked(&self, entry: &Entry) -> bool {
        let overlaps = |other: &Entry| {
            other.ticket < entry.ticket
                && other.volume == entry.volume
                && other.start < entry.end
                && entry.start < other.end
        };
        self.entries.borrow().1.iter().any(overlaps)
    }

    /// Waits until no change of `volume` is under way.
    pub async fn drained(&self, volume: u64) {
        while self
            .entries
            .borrow()
            .1
            .iter()
            .any(|entry| entry.volume == volume)
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
    entry: Entry,
}

impl Turn<'_> {
    /// Waits until nothing that came earlier overlaps.
    pub async fn reached(&self, mutants: Mutants) {
        while !mutants.no_overlap_rule() && self.table.is_blocked(&self.entry) {
            self.table.changed.wait().await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.table
            .entries
            .borrow_mut()
            .1
            .retain(|entry| entry.ticket != self.entry.ticket);
        self.table.changed.notify();
    }
}
