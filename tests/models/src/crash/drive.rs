//! A drive with a volatile cache. Writes take time; a FLUSH makes durable what had completed when it was submitted, nothing else.

use std::collections::BTreeMap;

use super::format::{Place, Value};
use crate::random::Random;

/// Names an operation in flight.
pub type Op = u64;

#[derive(Clone, Debug)]
enum Doing {
    Write(Place, Value),
    /// Makes the first so many completed writes durable.
    Flush(u64),
}

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Of what is not durable, any part survives, and what survives may be torn.
    Power,
    /// The drive keeps its cache and finishes what it likes.
    Reset,
}

/// The drive.
#[derive(Clone, Debug, Default)]
pub struct Drive {
    /// Absent: torn.
    stable: BTreeMap<Place, Option<Value>>,
    /// Completed, not durable, in order; with how many completed before.
    cache: Vec<(u64, Place, Value)>,
    doing: Vec<(Op, Doing)>,
    completed: u64,
    next: Op,
}

impl Drive {
    /// Begins a write.
    pub fn write(&mut self, place: Place, value: Value) -> Op {
        self.begin(Doing::Write(place, value))
    }

    /// Begins a FLUSH.
    pub fn flush(&mut self) -> Op {
        self.begin(Doing::Flush(self.completed))
    }

    fn begin(&mut self, doing: Doing) -> Op {
        self.next += 1;
        self.doing.push((self.next, doing));
        self.next
    }

    /// Completes one operation, any.
    pub fn complete_one(&mut self, random: &mut Random) -> Option<Op> {
        if self.doing.is_empty() {
            return None;
        }
        let (op, doing) = self.doing.swap_remove(random.index(self.doing.len()));
        self.finish(doing);
        Some(op)
    }

    /// Writes and waits.
    pub fn write_now(&mut self, place: Place, value: Value) {
        self.finish(Doing::Write(place, value));
    }

    /// Flushes and waits.
    pub fn flush_now(&mut self) {
        self.finish(Doing::Flush(self.completed));
    }

    fn finish(&mut self, doing: Doing) {
        match doing {
            Doing::Write(place, value) => {
                self.cache.push((self.completed, place, value));
                self.completed += 1;
            }
            Doing::Flush(before) => {
                for (_, place, value) in self.cache.extract_if(.., |write| write.0 < before) {
                    self.stable.insert(place, Some(value));
                }
            }
        }
    }

    /// What is there; nothing if it is torn or was never written.
    pub fn read(&self, place: Place) -> Option<&Value> {
        let cached = self.cache.iter().rev().find(|write| write.1 == place);
        match cached {
            Some((_, _, value)) => Some(value),
            None => self.stable.get(&place)?.as_ref(),
        }
    }

    /// Stops.
    pub fn stop(&mut self, cut: Cut, random: &mut Random) {
        for (_, doing) in std::mem::take(&mut self.doing) {
            if let Doing::Write(..) = doing
                && random.one_in(2)
            {
                self.finish(doing);
            }
        }
        if cut == Cut::Reset {
            return;
        }
        // How much a cut leaves differs from cut to cut.
        let percent = random.pick(&[0, 20, 50, 80, 100]).unwrap_or(0);
        for (_, place, value) in std::mem::take(&mut self.cache) {
            if random.below(100) < percent {
                let is_torn = random.one_in(8);
                self.stable.insert(place, (!is_torn).then_some(value));
            }
        }
    }
}
