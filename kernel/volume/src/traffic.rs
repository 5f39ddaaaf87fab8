//! What clients did with a volume, counted.
//!
//! Whoever serves clients notes each request when it ends; that costs a few additions and no memory. The counters are of
//! the volume, whichever clients it has, and of this run. Beside them is how fast clients may go on ([`Pace`]), and where they were ([`Heat`]).

use alloc::rc::Rc;
use core::cell::Cell;
use core::time::Duration;

use store::VolumeId;

use crate::{Heat, Pace, Volumes};

/// The shortest time that is told apart, as a power of two of nanoseconds: 33 µs.
const FINEST: u32 = 15;
/// How many times are told apart, each twice the one before; the last is 1.07 s.
const LIMITS: usize = 16;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Data to the client.
    Read,
    /// Data from the client, or zeros that use space.
    Write,
    /// Making things durable.
    Flush,
    /// Making holes.
    Discard,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        }
    }
}

/// The counters of each kind of request.
#[derive(Debug, Default)]
pub struct Meters([Meter; Operation::ALL.len()]);

impl Meters {
    /// Notes a request that ended.
    pub fn note(&self, operation: Operation, bytes: u64, took: Duration) {
        self.0[operation as usize].note(bytes, took);
    }

    /// The counters of one kind of request.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &Meter {
        &self.0[operation as usize]
    }
}

/// The counters of a volume, and its limits at work.
#[derive(Default)]
pub struct Traffic {
    meters: Meters,
    pace: Pace,
    heat: Heat,
}

impl Traffic {
    /// Notes a request that ended.
    pub fn note(&self, operation: Operation, bytes: u64, took: Duration) {
        self.meters.note(operation, bytes, took);
    }

    /// What requests have to wait for before they begin.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Where they were.
    #[must_use]
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// The counters of one kind of request.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &Meter {
        self.meters.of(operation)
    }
}

/// The counters of one kind of request.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: Cell<u64>,
    nanos: Cell<u64>,
    /// Requests by the time they took; the last place is for longer ones.
    by_time: [Cell<u64>; LIMITS + 1],
}

impl Meter {
    fn note(&self, bytes: u64, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.bytes.set(self.bytes.get() + bytes);
        self.nanos.set(self.nanos.get().wrapping_add(nanos));
        let place = &self.by_time[place(nanos)];
        place.set(place.get() + 1);
    }

    /// Bytes that they were for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Time that they took, in nanoseconds.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.nanos.get()
    }

    /// How many there were.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.by_time.iter().map(Cell::get).sum()
    }

    /// How many took at most so many nanoseconds, for each of some times, the shortest first.
    pub fn within(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut sum = 0;
        (FINEST..)
            .zip(&self.by_time[..LIMITS])
            .map(move |(power, count)| {
                sum += count.get();
                (1 << power, sum)
            })
    }
}

/// Where requests of that time are counted: `limit / 2 < nanos <= limit`.
fn place(nanos: u64) -> usize {
    let power = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (power.saturating_sub(FINEST) as usize).min(LIMITS)
}

impl<D> Volumes<D> {
    /// What clients did with a volume in this run; `None` if it had none.
    #[must_use]
    pub fn traffic(&self, id: VolumeId) -> Option<Rc<Traffic>> {
        self.all_traffic().borrow().get(&id).cloned()
    }

    pub(crate) fn traffic_entry(&self, id: VolumeId) -> Rc<Traffic> {
        self.all_traffic()
            .borrow_mut()
            .entry(id)
            .or_default()
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_the_time_they_took() {
        let traffic = Traffic::default();
        let took = [0, 1 << 15, (1 << 15) + 1, 1 << 30, (1 << 30) + 1, u64::MAX];
        for nanos in took {
            traffic.note(Operation::Write, 512, Duration::from_nanos(nanos));
        }
        let meter = traffic.of(Operation::Write);
        assert_eq!((meter.requests(), meter.bytes()), (6, 6 * 512));
        let within: alloc::vec::Vec<_> = meter.within().collect();
        assert_eq!(within.len(), LIMITS);
        assert_eq!(within[0], (1 << 15, 2));
        assert_eq!(within[1], (1 << 16, 3));
        assert_eq!(within[LIMITS - 1], (1 << 30, 4));
        assert_eq!(traffic.of(Operation::Read).requests(), 0);
    }
}
