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

use super::frozen::Frozen;
use super::origin::ORIGIN;
use super::{Operation, Outcome};

/// Sectors of a block.
pub const SECTORS: usize = 8;

/// What a block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// For each sector the number of the write that produced it; 0 are zeros.
    pub sectors: [u64; SECTORS],
    /// The change that last wrote the block as a whole, which names the block on the drive; 0 when there is none.
    pub version: u64,
}

impl State {
    /// The version of a block about which only its contents are known.
    pub const AMBIGUOUS: u64 = u64::MAX;

    /// Whether only the contents are known.
    pub fn is_ambiguous(&self) -> bool {
        self.version == Self::AMBIGUOUS
    }

    /// A block that holds this, whoever wrote it.
    fn seen(observed: &Observed) -> Self {
        let sectors = observed.map(|seen| seen.unwrap_or(0));
        Self {
            sectors,
            version: Self::AMBIGUOUS,
        }
    }

    /// Whether this may be what was observed.
    fn agrees(&self, observed: &Observed) -> bool {
        let mut pairs = self.sectors.iter().zip(observed);
        pairs.all(|(have, seen)| seen.is_none_or(|seen| seen == *have))
    }
}

/// The sectors that were looked at, and what was there.
pub type Observed = [Option<u64>; SECTORS];

/// What became of a look at a block.
#[derive(Clone, Copy, Debug)]
pub enum Sight {
    /// This was seen.
    Sectors(Observed),
    /// It is not here: nobody changed what the origin has, which is this.
    Absent(State),
}

impl Sight {
    /// Whether a block that holds this may look so.
    pub fn fits(&self, state: &State) -> bool {
        match self {
            Self::Sectors(observed) => state.agrees(observed),
            Self::Absent(origin) if state.is_ambiguous() => state.sectors == origin.sectors,
            Self::Absent(origin) => state.version == origin.version,
        }
    }

    /// Whether it says what all of the block is.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Sectors(observed) => observed.iter().all(Option::is_some),
            Self::Absent(_) => true,
        }
    }

    /// What a block holds that nothing else is known of.
    pub fn state(&self) -> State {
        match self {
            Self::Sectors(observed) => State::seen(observed),
            Self::Absent(origin) => *origin,
        }
    }
}

/// One request's effect on this block.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Index of the request among the operations of this life.
    pub operation: usize,
    pub effect: Effect,
}

/// What a request does to a block.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// Writes (or, where `write` is 0, zeroes) the sectors of `mask`.
    Change { mask: u8, write: u64, version: u64 },
    /// Makes it what it was at a snapshot.
    Restore(State),
}

impl Effect {
    /// Sectors that it decides.
    pub fn mask(&self) -> u8 {
        match self {
            Self::Change { mask, .. } => *mask,
            Self::Restore(_) => u8::MAX,
        }
    }

    /// The write that produced the new contents; 0 if none did.
    pub fn write(&self) -> u64 {
        match self {
            Self::Change { write, .. } => *write,
            Self::Restore(state) => state.version,
        }
    }
}

/// The states that agree with an observation.
#[derive(Clone, Copy, Debug)]
pub struct Matching {
    pub first: usize,
    pub last: usize,
    /// What the block holds, its version as far as that is certain.
    pub state: State,
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
    /// States before this position are uncertain, whatever is certain since.
    certain_from: usize,
}

impl History {
    /// That of a block that nobody touched, with readers under way.
    pub fn begun(base: State, readers: usize) -> Self {
        Self {
            base,
            readers,
            ..Self::default()
        }
    }

    /// That of a block that holds this, or, where nobody knows, anything.
    pub fn of(state: Option<State>) -> Self {
        let mut history = Self::default();
        match state {
            Some(state) => history.settle(state),
            None => history.certainty = Certainty::UntilWritten,
        }
        history
    }

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
            self.certain_from = self.end();
        }
    }

    /// A change of the whole volume was answered, which is durable then.
    pub fn end_restore(&mut self, operation: usize, outcome: Outcome, operations: &[Operation]) {
        let mut entries = self.entries();
        let found = entries.find(|(_, entry)| entry.operation == operation);
        let Some(position) = found.map(|(position, _)| position) else {
            return;
        };
        drop(entries);
        match outcome {
            Outcome::Done => {
                let known = self.certainty == Certainty::Exact;
                self.acknowledge(position, if known { u8::MAX } else { 0 });
                self.promise(position, operations);
            }
            Outcome::Unclear => self.certainty = self.certainty.max(Certainty::UntilWritten),
            Outcome::Refused | Outcome::Pending => {}
        }
    }

    /// A flush promised everything up to and with `position`.
    pub fn promise(&mut self, position: usize, operations: &[Operation]) {
        self.durable = self.durable.max(position + 1);
        self.fold(operations);
    }

    /// A snapshot is being taken, which may show any state from now on.
    pub fn begin_freeze(&mut self) -> usize {
        self.begin_read()
    }

    /// The one state that a snapshot since `floor` can show, or all of them.
    pub fn freeze(&self, floor: usize, operations: &[Operation]) -> Frozen {
        if self.certainty > Certainty::Exact {
            return Frozen::Unknown;
        }
        let mut states = self.states(operations);
        let mut possible = states.by_ref().filter(|(position, _)| *position >= floor);
        match (possible.next(), possible.next()) {
            (Some((_, only)), None) => Frozen::Known(only),
            _ => Frozen::Open(Box::new(self.clone()), floor),
        }
    }

    /// Positions and the states there, oldest first.
    fn states<'a>(&'a self, operations: &'a [Operation]) -> impl Iterator<Item = (usize, State)> {
        let later = self.entries.iter().scan(self.base, |state, entry| {
            apply(state, entry, operations);
            Some(*state)
        });
        (self.first..).zip(core::iter::once(self.base).chain(later))
    }

    /// What the block holds if nothing is open about it.
    pub fn current(&self, operations: &[Operation]) -> Option<State> {
        let is_open = |entry: &Entry| operations[entry.operation].outcome >= Outcome::Unclear;
        if self.certainty > Certainty::Exact || self.entries.iter().any(is_open) {
            return None;
        }
        self.states(operations).last().map(|(_, state)| state)
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
        self.floor()
    }

    pub fn end_read(&mut self, operations: &[Operation]) {
        self.readers = self.readers.saturating_sub(1);
        self.fold(operations);
    }

    /// Later reads must not be older than this.
    pub fn saw(&mut self, state: usize) {
        self.seen = self.seen.max(state);
    }

    /// Whether the block is the origin's in all states from `floor` on.
    pub fn is_origins(&self, floor: usize, operations: &[Operation]) -> bool {
        let mut states = self.states(operations);
        self.certainty == Certainty::Exact
            && states.all(|(position, state)| position < floor || state.version == ORIGIN)
    }

    /// The least state that a request which arrives now may meet.
    pub fn floor(&self) -> usize {
        self.acked.max(self.seen).max(self.first)
    }

    /// The states from `floor` on that agree with what was seen.
    pub fn matching(
        &self,
        sight: &Sight,
        floor: usize,
        operations: &[Operation],
    ) -> Option<Matching> {
        let mut found: Option<Matching> = None;
        for (position, state) in self.states(operations) {
            if position < floor || !sight.fits(&state) {
                continue;
            }
            let mut matching = Matching {
                first: position,
                last: position,
                state,
            };
            if let Some(before) = found {
                matching.first = before.first;
                if before.state.version != state.version {
                    matching.state.version = State::AMBIGUOUS;
                }
            }
            found = Some(matching);
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
        // A power cut may have taken what had made it certain.
        if self.certainty == Certainty::UntilRestart || self.durable < self.certain_from {
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
                entry.effect.write(),
                entry.effect.mask(),
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
    match entry.effect {
        Effect::Change {
            mask,
            write,
            version,
        } => {
            let had_zeros = state.sectors == [0; SECTORS];
            for (sector, value) in state.sectors.iter_mut().enumerate() {
                if mask & (1 << sector) != 0 {
                    *value = write;
                }
            }
            // A hole is no block, and a discard of a part of one changes nothing; all else is written as a whole.
            let is_discard = write == 0;
            state.version = match state.version {
                _ if is_discard && mask == u8::MAX => 0,
                0 if is_discard => 0,
                // The origin's zeros are a hole, or a block of zeros.
                ORIGIN if is_discard && had_zeros => State::AMBIGUOUS,
                State::AMBIGUOUS if is_discard && state.sectors == [0; SECTORS] => State::AMBIGUOUS,
                _ => version,
            };
        }
        Effect::Restore(restored) => *state = restored,
    }
}
