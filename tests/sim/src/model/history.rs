//! The history of one 4 KiB block: its possible states, oldest first.
//!
//! ```text
//!  position   first                durable        seen     acked          end
//!  states     base ── entry ── … ── entry ── … ── entry ── entry ── … ── entry
//!             older ones are folded   │                       │            └ not acknowledged yet
//!             into the base           └ a flush promised it   └ a read must see at least this
//! ```
//!
//! State *k* is the base with the first *k* entries applied. Entries are in arrival order, which is the order in which
//! the store runs overlapping requests.

use std::collections::VecDeque;

use super::{Operation, Outcome};

/// Sectors of a block.
pub const SECTORS: usize = 8;

/// For each sector the number of the write that produced it; 0 are zeros.
pub type State = [u64; SECTORS];

/// The sectors that were looked at, and what was there.
pub type Observed = [Option<u64>; SECTORS];

/// One request's effect on this block.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Index of the request among the operations of this life.
    pub operation: usize,
    /// Sectors it changes.
    pub mask: u8,
    /// What it puts there; 0 are zeros.
    pub write: u64,
}

/// How far the history of a block can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Exactly.
    #[default]
    Exact,
    /// A request failed half-way, or a drive lied: any earlier contents, until the whole block is written again.
    UntilWritten,
    /// A request was sent and its connection lost: it may still happen at any time before the next restart.
    UntilRestart,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct History {
    base: State,
    first: usize,
    entries: VecDeque<Entry>,
    acked: usize,
    seen: usize,
    durable: usize,
    readers: usize,
    pub certainty: Certainty,
}

impl History {
    /// Position behind the last entry.
    pub fn end(&self) -> usize {
        self.first + self.entries.len()
    }

    pub fn durable(&self) -> usize {
        self.durable
    }

    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        (self.first..).zip(&self.entries)
    }

    /// Adds a request that arrived now; returns its position.
    pub fn push(&mut self, entry: Entry) -> usize {
        self.entries.push_back(entry);
        self.end() - 1
    }

    /// The request at `position` was acknowledged.
    pub fn acknowledge(&mut self, position: usize, mask: u8) {
        self.acked = self.acked.max(position + 1);
        // A read that began before may still show what was there then, which nobody knows.
        let is_settled = mask == u8::MAX && self.acked == self.end() && self.readers == 0;
        if is_settled && self.certainty == Certainty::UntilWritten {
            self.certainty = Certainty::Exact;
        }
    }

    /// A flush promised everything up to and with `position`.
    pub fn promise(&mut self, position: usize, operations: &[Operation]) {
        self.durable = self.durable.max(position + 1);
        self.fold(operations);
    }

    /// Older states can matter to nobody: not after a crash, and no read is under way.
    fn fold(&mut self, operations: &[Operation]) {
        if self.readers > 0 {
            return;
        }
        while self.first < self.durable {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            apply(&mut self.base, &entry, operations);
            self.first += 1;
        }
    }

    /// A read arrived; returns the least state it may return.
    pub fn begin_read(&mut self) -> usize {
        self.readers += 1;
        self.acked.max(self.seen).max(self.first)
    }

    pub fn end_read(&mut self, operations: &[Operation]) {
        self.readers = self.readers.saturating_sub(1);
        self.fold(operations);
    }

    /// Later reads must not be older than this.
    pub fn saw(&mut self, state: usize) {
        self.seen = self.seen.max(state);
    }

    /// The first and the last state from `floor` on that agree with what was observed.
    pub fn matching(
        &self,
        observed: &Observed,
        floor: usize,
        operations: &[Operation],
    ) -> Option<(usize, usize)> {
        let mut state = self.base;
        let mut found = None;
        for position in self.first..=self.end() {
            if position > self.first {
                apply(
                    &mut state,
                    &self.entries[position - 1 - self.first],
                    operations,
                );
            }
            let agrees = state
                .iter()
                .zip(observed)
                .all(|(have, seen)| seen.is_none_or(|seen| seen == *have));
            if position >= floor && agrees {
                found = Some((found.map_or(position, |(first, _)| first), position));
            }
        }
        found
    }

    /// After a restart: this is what the block holds, durably.
    pub fn settle(&mut self, state: State) {
        *self = Self {
            base: state,
            ..Self::default()
        };
    }

    /// After a restart that nobody looked at: everything that was entered counts, floors go.
    pub fn restart(&mut self) {
        self.acked = 0;
        self.seen = 0;
        self.readers = 0;
        if self.certainty == Certainty::UntilRestart {
            self.certainty = Certainty::UntilWritten;
        }
    }

    /// All possible states in words, for a report.
    pub fn describe(&self, operations: &[Operation]) -> String {
        use std::fmt::Write;
        let mut text = format!("state {}: {:?}", self.first, self.base);
        for (position, entry) in self.entries() {
            let operation = &operations[entry.operation];
            let _ = write!(
                text,
                "\n  {position}: write {} mask {:#04x} ticks {}..{} {:?}",
                entry.write,
                entry.mask,
                operation.started,
                operation.ended.map_or("?".to_string(), |t| t.to_string()),
                operation.outcome
            );
        }
        let _ = write!(
            text,
            "\n  durable {} acknowledged {} seen {} {:?}",
            self.durable, self.acked, self.seen, self.certainty
        );
        text
    }
}

fn apply(state: &mut State, entry: &Entry, operations: &[Operation]) {
    if operations[entry.operation].outcome == Outcome::Refused {
        return;
    }
    for (sector, value) in state.iter_mut().enumerate() {
        if entry.mask & (1 << sector) != 0 {
            *value = entry.write;
        }
    }
}
