//! Hunts: how long it takes to notice a deliberate bug of the store, and what notices it.

use core::fmt;

use store::{Mutant, Mutants};

use crate::profile::Parts;
use crate::systematic::{Sequences, full_pools, single_faults};

/// What noticed a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// A client, or the comparison after a recovery: contents, or what should be durable.
    Contents,
    /// The store's checker, on a pool at rest.
    Checker,
    /// The pool did not open again.
    Recovery,
    /// Space did not come back, or the sums were wrong.
    Space,
    /// Something was refused without a reason.
    Refusal,
    /// A panic.
    Panic,
    /// Something never ended.
    Hang,
}

impl Oracle {
    /// Which one it was, by its words.
    #[must_use]
    pub fn of(what: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| what.contains(word));
        if has(&["panic: ", "panicked at"]) {
            Self::Panic
        } else if has(&[
            "no end after",
            "Deadlock",
            "TooLate",
            "Livelock",
            "in circles",
            "ever happens",
        ]) {
            Self::Hang
        } else if has(&[
            "check finds",
            "check cannot begin",
            "work finds",
            "sound to begin",
        ]) {
            Self::Checker
        } else if has(&["recovery failed", "does not open"]) {
            Self::Recovery
        } else if has(&[
            "space does not come back",
            "used + free",
            "usage of",
            "unique of",
        ]) {
            Self::Space
        } else if has(&[
            "refused",
            "failed without reason",
            " failed: ",
            "last delete",
            "last checkpoints",
        ]) {
            Self::Refusal
        } else {
            Self::Contents
        }
    }
}

impl fmt::Display for Oracle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Contents => "contents",
            Self::Checker => "checker",
            Self::Recovery => "does not open",
            Self::Space => "space",
            Self::Refusal => "refusal",
            Self::Panic => "panic",
            Self::Hang => "hang",
        })
    }
}

/// What a scenario needs so that this bug can show: faults of drives hide some bugs and are what others are about.
#[must_use]
pub fn parts(mutant: Mutant) -> Parts {
    Parts {
        faults: mutant == Mutant::ReadUnverified,
        ..Parts::ALL
    }
}

/// Hunts a bug in the systematic runs: first in short sequences, then in single faults and in full pools. Returns after how many of what it
/// was noticed, and what was said.
#[must_use]
pub fn hunt_systematically(mutant: Mutant) -> Option<(String, String)> {
    let mutants = Mutants::only(mutant);
    let number = std::sync::atomic::AtomicU64::new(0);
    let order = std::sync::atomic::Ordering::Relaxed;
    for (length, every) in [(1, 1), (2, 7)] {
        let sequences = Sequences {
            length,
            every,
            threads: 1,
        };
        number.store(0, order);
        let looked = |_, count: crate::systematic::SequenceCount| number.store(count.cuts, order);
        if let Err(what) = sequences.run(mutants, &looked) {
            let cuts = number.load(order);
            return Some((format!("{cuts} cuts in sequences of {length}"), what));
        }
    }
    for drives in [1, 2] {
        let looked = |at, _| number.store(at, order);
        if let Err(what) = single_faults(drives, (1, 1), mutants, &looked) {
            let faults = number.load(order);
            return Some((format!("{faults} faults on {drives} drives"), what));
        }
    }
    number.store(0, order);
    let looked = |at, _| number.store(at + 1, order);
    if let Err(what) = full_pools((1, 1), mutants, &looked) {
        let sound = number.load(order);
        return Some((format!("{sound} full pools"), what));
    }
    None
}
