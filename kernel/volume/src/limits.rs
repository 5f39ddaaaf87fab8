//! How much clients may do with a volume in a second, and the wait that keeps them to it.
//!
//! Each limit has a *tape*: the point in time up to which what was let in uses it up. A request is let in when the tape ends
//! no later than now, and makes the tape longer by what it costs. An unused tape falls behind by [`SLACK`] at most: that
//! much may come at once after a rest, and so late may a wake-up be without loss.
//!
//! Requests wait in the order of asking, whichever of the volume's connections they come on, and before they hold
//! anything that others need. The volume's snapshots count as the volume. Flushes cost nothing.

use core::cell::Cell;
use core::time::Duration;

use exec::Exec;
use exec::futures_util::future::select;
use exec::{Notify, futures_util};
use world::Instant;

/// What may be saved up: a tenth of a second's worth, one percent of ten seconds'.
const SLACK: u128 = PICOS_PER_SECOND / 10;
const PICOS_PER_SECOND: u128 = 1_000_000_000_000;
const PICOS_PER_NANO: u128 = 1000;

/// The most that a volume's clients may do in a second; `None`: as much as they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests, of whatever length.
    pub iops: Option<u64>,
    /// Bytes read and written.
    pub rate_bytes: Option<u64>,
}

impl Limits {
    /// The least and the most requests in a second that a limit can be.
    pub const IOPS: (u64, u64) = (1, 10_000_000);
    /// The least and the most bytes in a second that a limit can be. Large requests are let in 128 KiB at a time: the least
    /// limit means one such piece every two seconds.
    pub const RATE_BYTES: (u64, u64) = (64 << 10, 64 << 30);

    /// Whether there is no limit at all.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn is_valid(self) -> bool {
        let within = |limit: Option<u64>, (least, most)| {
            limit.is_none_or(|limit| (least..=most).contains(&limit))
        };
        within(self.iops, Self::IOPS) && within(self.rate_bytes, Self::RATE_BYTES)
    }
}

/// The limits of one volume at work.
#[derive(Default)]
pub struct Pace {
    limits: Cell<Limits>,
    /// Where the tapes end, in picoseconds of the monotonic clock: of requests, and of bytes.
    tapes: [Cell<u128>; 2],
    /// The limits are others now.
    changed: Notify,
    waits: Cell<u64>,
    waited_nanos: Cell<u64>,
}

impl Pace {
    /// Whether anybody may have to wait. Costs a look at memory: a volume without limits needs neither the clock nor a wait.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.limits.get().is_none()
    }

    /// Waits until that many requests and bytes more may begin. To be called before anything is held that others need.
    /// Whoever is dropped while waiting has used up its part.
    pub async fn admit(&self, exec: &Exec, requests: u64, bytes: u64) {
        let begun = exec.now();
        let mut is_late = false;
        loop {
            let start = self.book(requests, bytes, exec.now());
            if start <= exec.now() {
                break;
            }
            is_late = true;
            let changed = core::pin::pin!(self.changed.wait());
            match select(exec.sleep_until(start), changed).await {
                futures_util::future::Either::Left(_) => break,
                // By the new limits it may be its turn already, or later.
                futures_util::future::Either::Right(_) => {}
            }
        }
        if is_late {
            let nanos = u64::try_from(exec.now().since(begun).as_nanos()).unwrap_or(u64::MAX);
            self.waits.set(self.waits.get() + 1);
            self.waited_nanos
                .set(self.waited_nanos.get().saturating_add(nanos));
        }
    }

    /// How many requests and pieces of requests had to wait.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits.get()
    }

    /// How long all of them waited together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.get())
    }

    /// Sets other limits, also for those who wait now.
    pub(crate) fn set(&self, limits: Limits) {
        if self.limits.replace(limits) != limits {
            self.tapes.iter().for_each(|tape| tape.set(0));
            self.changed.notify();
        }
    }

    /// Makes the tapes longer; tells when what they got longer by may begin.
    fn book(&self, requests: u64, bytes: u64, now: Instant) -> Instant {
        let Limits { iops, rate_bytes } = self.limits.get();
        let now = u128::from(now.as_nanos()) * PICOS_PER_NANO;
        let mut start = 0;
        for (tape, limit, units) in [
            (&self.tapes[0], iops, requests),
            (&self.tapes[1], rate_bytes, bytes),
        ] {
            let Some(limit) = limit else { continue };
            let begin = tape.get().max(now.saturating_sub(SLACK));
            let cost = u128::from(units) * PICOS_PER_SECOND / u128::from(limit.max(1));
            tape.set(begin + cost);
            start = start.max(begin);
        }
        let nanos = start.div_ceil(PICOS_PER_NANO);
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use world::Clock;

    const SECOND: u64 = 1_000_000_000;

    #[derive(Default)]
    struct Hand(Cell<u64>);

    impl Clock for Hand {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.get())
        }

        fn wall_nanos(&self) -> Option<u64> {
            None
        }
    }

    /// A pace, and the clock that its waits are by.
    fn paced(iops: Option<u64>, rate_bytes: Option<u64>) -> (Rc<Pace>, Exec, Rc<Hand>) {
        let hand = Rc::new(Hand::default());
        let pace = Pace::default();
        pace.set(Limits { iops, rate_bytes });
        (Rc::new(pace), Exec::new(hand.clone()), hand)
    }

    /// Lets time pass, from timer to timer, each noticed `late` nanoseconds after it was due.
    fn pass(exec: &Exec, hand: &Hand, until: u64, late: u64) {
        loop {
            while exec.run_ready() {}
            match exec.next_deadline() {
                Some(next) if next.as_nanos() <= until => {
                    hand.0.set(hand.0.get().max(next.as_nanos() + late));
                }
                _ => break,
            }
        }
        hand.0.set(hand.0.get().max(until));
    }

    /// What each of some clients does in ten seconds who always want more, in requests of these lengths.
    fn demand(
        limits: (Option<u64>, Option<u64>),
        lengths: &[u64],
        late: u64,
        rest: u64,
    ) -> Vec<(u64, u64)> {
        let (pace, exec, hand) = paced(limits.0, limits.1);
        hand.0.set(rest);
        let counts: Vec<Rc<Cell<(u64, u64)>>> = lengths.iter().map(|_| Rc::default()).collect();
        for (len, count) in lengths.iter().copied().zip(counts.iter().cloned()) {
            let (pace, exec2) = (pace.clone(), exec.clone());
            exec.spawn(async move {
                loop {
                    pace.admit(&exec2, 1, len).await;
                    let (requests, bytes) = count.get();
                    count.set((requests + 1, bytes + len));
                    exec2.yield_now().await;
                }
            });
        }
        pass(&exec, &hand, rest + 10 * SECOND, late);
        counts.iter().map(|count| count.get()).collect()
    }

    fn is_close(is: u64, wanted: u64) -> bool {
        is * 100 >= wanted * 95 && is * 100 <= wanted * 105
    }

    #[test]
    fn limits_hold_within_five_percent_over_ten_seconds() {
        for late in [0, 50_000, 5_000_000] {
            for rest in [0, 3600 * SECOND] {
                for iops in [10, 500, 20_000] {
                    for clients in [1, 7] {
                        let lengths = alloc::vec![4096; clients];
                        let done = demand((Some(iops), None), &lengths, late, rest);
                        let sum = done.iter().map(|one| one.0).sum::<u64>();
                        assert!(is_close(sum, 10 * iops), "{iops} by {clients}: {sum}");
                    }
                }
                for rate in [1 << 20, 100 << 20, 3 << 30] {
                    let done = demand((None, Some(rate)), &[128 << 10; 4], late, rest);
                    let sum = done.iter().map(|one| one.1).sum::<u64>();
                    assert!(is_close(sum, 10 * rate), "{rate}: {sum}");
                }
            }
        }
    }

    #[test]
    fn the_tighter_of_two_limits_holds() {
        let done = demand((Some(100), Some(1 << 30)), &[4096], 0, 0)[0];
        assert!(is_close(done.0, 1000), "{done:?}");
        let done = demand((Some(100_000), Some(1 << 20)), &[4096], 0, 0)[0];
        assert!(is_close(done.1, 10 << 20), "{done:?}");
    }

    #[test]
    fn connections_take_turns() {
        let done = demand((Some(1000), None), &[512, 4096, 128 << 10], 0, 0);
        for one in &done {
            assert!(is_close(one.0, 10_000 / 3), "{done:?}");
        }
    }

    #[test]
    fn whoever_waits_goes_by_the_new_limits() {
        let (pace, exec, hand) = paced(Some(1), None);
        let done = Rc::new(Cell::new(0));
        let (count, at, waiter) = (done.clone(), exec.clone(), pace.clone());
        exec.spawn(async move {
            for _ in 0..3 {
                waiter.admit(&at, 1, 0).await;
                count.set(count.get() + 1);
            }
        });
        pass(&exec, &hand, SECOND / 10, 0);
        assert_eq!(done.get(), 1);
        pace.set(Limits::default());
        assert!(!pace.is_limited());
        pass(&exec, &hand, SECOND / 5, 0);
        assert_eq!(done.get(), 3);
        assert_eq!(pace.waits(), 1);
        assert_eq!(pace.waited(), Duration::from_millis(100));
    }

    #[test]
    fn limits_that_make_no_sense_are_told() {
        let is_valid = |iops, rate_bytes| Limits { iops, rate_bytes }.is_valid();
        assert!(is_valid(None, None) && is_valid(Some(1), Some(64 << 10)));
        for (iops, rate) in [
            (Some(0), None),
            (Some(10_000_001), None),
            (None, Some(65_535)),
        ] {
            assert!(!is_valid(iops, rate), "{iops:?} {rate:?}");
        }
    }
}
