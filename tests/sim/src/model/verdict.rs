//! Whether what is present and what is missing can be the state of one moment.

use std::collections::BTreeMap;

use super::history::{History, Matching};
use super::{Operation, Outcome, Tick};

/// The evidence gathered while looking at a recovered pool, or at the snapshots of one moment.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The request that is missing and ended first.
    missing: Option<(Tick, String)>,
    /// The request that is present and began last.
    present: Option<(Tick, String)>,
    /// Requests that happen as a whole: where the effect is, and where it is not.
    wholes: BTreeMap<usize, (Option<String>, Option<String>)>,
}

impl Verdict {
    /// A request that was acknowledged at `ended` (if it was) left no trace.
    pub fn is_missing(&mut self, ended: Option<Tick>, what: impl FnOnce() -> String) {
        if let Some(ended) = ended
            && self.missing.as_ref().is_none_or(|(tick, _)| ended < *tick)
        {
            self.missing = Some((ended, what()));
        }
    }

    /// The trace of a request that began at `started` was found.
    pub fn is_present(&mut self, started: Tick, what: impl FnOnce() -> String) {
        if self
            .present
            .as_ref()
            .is_none_or(|(tick, _)| started > *tick)
        {
            self.present = Some((started, what()));
        }
    }

    /// One of the things that `operation` does, all or none, was or was not done.
    pub fn part(
        &mut self,
        (operation, operations): (usize, &[Operation]),
        is_done: bool,
        what: impl Fn() -> String,
    ) {
        let known = operations[operation];
        let sides = self.wholes.entry(operation).or_default();
        if is_done {
            sides.0.get_or_insert_with(&what);
            self.is_present(known.started, what);
        } else {
            sides.1.get_or_insert_with(&what);
            self.is_missing(known.acknowledged(), what);
        }
    }

    /// Whether a request that happens as a whole did, if that shows.
    pub fn is_done(&self, operation: usize) -> Option<bool> {
        match self.wholes.get(&operation)? {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    /// Takes note of all requests of a block's history that are certainly present or missing.
    pub fn weigh(
        &mut self,
        history: &History,
        matching: &Matching,
        operations: &[Operation],
        place: &str,
    ) {
        for (position, entry) in history.entries() {
            let operation = operations[entry.operation];
            if operation.outcome == Outcome::Refused {
                continue;
            }
            let what = || {
                let (write, mask) = (entry.effect.write(), entry.effect.mask());
                format!("write {write} {place} (sectors {mask:#04x})")
            };
            let is_done = match position {
                before if before < matching.first => true,
                behind if behind >= matching.last => false,
                _ => continue,
            };
            if operation.is_whole {
                self.part((entry.operation, operations), is_done, what);
            } else if is_done {
                self.is_present(operation.started, what);
            } else {
                self.is_missing(operation.acknowledged(), what);
            }
        }
    }

    /// Judges the order of what is present and what is missing.
    ///
    /// # Errors
    /// When something is present although something older is missing, or present by half.
    pub fn judge(&self) -> Result<(), String> {
        if let (Some((ended, missing)), Some((started, present))) = (&self.missing, &self.present)
            && ended < started
        {
            return Err(format!(
                "no one moment: {missing} was acknowledged at tick {ended} and is missing, but {present} that began \
                 at tick {started} is present"
            ));
        }
        for sides in self.wholes.values() {
            if let (Some(done), Some(left)) = sides {
                return Err(format!(
                    "done by half: {done} is present, {left} is missing"
                ));
            }
        }
        Ok(())
    }
}
