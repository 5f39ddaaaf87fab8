//! Time that passes only when nothing else can happen, and the record of everything that did.

use std::cell::Cell;

use world::{Clock, Instant};

use crate::random::mix;

/// A clock that the simulation's loop moves from one deadline to the next.
#[derive(Debug, Default)]
pub struct VirtualClock {
    nanos: Cell<u64>,
}

impl VirtualClock {
    /// Moves on to `instant`; never back.
    pub fn advance_to(&self, instant: Instant) {
        self.nanos.set(self.nanos.get().max(instant.as_nanos()));
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        // 2026-01-01, so that whoever formats it sees a plausible date.
        Some(1_767_225_600_000_000_000 + self.nanos.get())
    }
}

/// A hash over every event of a run, in order: two runs of one seed must agree on it.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Cell<u64>,
    verbose: bool,
}

impl Trace {
    /// An empty record; a verbose one prints each event to standard error too.
    #[must_use]
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            ..Self::default()
        }
    }

    /// Adds one event.
    pub fn note(&self, at: Instant, what: &str, facts: [u64; 3]) {
        let mut hash = mix(self.hash.get() ^ at.as_nanos());
        for byte in what.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        for fact in facts {
            hash = mix(hash ^ fact);
        }
        self.hash.set(hash);
        if self.verbose {
            let [a, b, c] = facts;
            let micros = at.as_nanos() / 1000;
            eprintln!("{micros:>12} us  {what:<16} {a:>10} {b:>8} {c:>8x}");
        }
    }

    /// Adds a line of explanation, which is no event.
    pub fn remark(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("                 {}", text());
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }
}
