//! The machine's clock, as a [`Clock`].

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
