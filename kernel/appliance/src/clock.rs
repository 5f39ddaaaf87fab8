//! The machine's clock, as a [`Clock`], and what tasks see of it.

use core::cell::Cell;

use world::{Clock, Instant};

/// Time since the machine started, and of the day.
pub struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(hal::clock::now_nanos())
    }

    fn wall_nanos(&self) -> Option<u64> {
        hal::clock::wall_nanos()
    }
}

/// The machine's clock as it was at the beginning of the main loop's turn. Within a turn all agree on the time, and nobody
/// pays for reading it; dozens ask for each request.
#[derive(Default)]
pub struct TurnClock {
    now: Cell<Instant>,
}

impl TurnClock {
    /// Begins a turn.
    pub fn tick(&self) {
        self.now.set(MachineClock.now());
    }
}

impl Clock for TurnClock {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wall_nanos(&self) -> Option<u64> {
        MachineClock.wall_nanos()
    }
}
