//! When a connection sends again what nobody acknowledged: sooner than smoltcp would by itself.
//!
//! smoltcp 0.14 waits at least a second before it sends again (RFC 6298 section 2.4 asks for that; nobody does it), and a
//! lost end of a burst is found in no other way. Here the time is measured by the same rules, with a floor that fits a
//! network in front of storage. It is smoltcp that sends: its own timer is made to expire (`sockets`).
//!
//! Bytes are counted, not sequence numbers: what was written and is not queued any more was acknowledged.

use core::time::Duration;

use world::Instant;

/// The least patience while the peer has to acknowledge at once, because it was sent more than a segment or two.
const FLOOR: Duration = Duration::from_millis(20);
/// The least patience otherwise: peers wait up to 40 ms for something that the acknowledgement can ride on.
const FLOOR_WHEN_FEW: Duration = Duration::from_millis(60);
/// The patience before anything was measured.
const INITIAL: Duration = Duration::from_millis(250);
/// The most patience; it doubles with each time that was in vain.
const CEILING: Duration = Duration::from_secs(5);
/// More bytes than this are acknowledged at once (RFC 9293 section 3.8.6.3).
const FEW_BYTES: usize = 2 * 1460;

/// What is known of the acknowledgements of one connection.
#[derive(Default)]
pub struct Recovery {
    written: u64,
    acknowledged: u64,
    /// Bytes that were not acknowledged when it was last looked.
    queued: usize,
    /// Smoothed round trip and its variation; none before the first.
    round_trip: Option<(Duration, Duration)>,
    /// The acknowledgement of so many bytes is awaited since then.
    timed: Option<(u64, Instant)>,
    /// The last progress, or the first byte that was queued after everything had been acknowledged.
    since: Instant,
    /// How often everything was sent again since the last progress.
    attempts: u32,
}

impl Recovery {
    /// Notes `count` bytes that were queued.
    pub fn wrote(&mut self, count: usize) {
        self.written += count as u64;
    }

    /// Notes that `queued` bytes are not acknowledged now.
    pub fn observe(&mut self, now: Instant, queued: usize) {
        let acknowledged = self.written.saturating_sub(queued as u64);
        if acknowledged != self.acknowledged {
            (self.acknowledged, self.since, self.attempts) = (acknowledged, now, 0);
            if let Some((until, from)) = self.timed
                && until <= acknowledged
            {
                self.timed = None;
                self.measured(now - from);
            }
        } else if self.queued == 0 {
            self.since = now;
        }
        // What was sent twice cannot be timed: nobody knows which of them is acknowledged.
        if queued > 0 && self.timed.is_none() && self.attempts == 0 {
            self.timed = Some((self.written, now));
        }
        self.queued = queued;
    }

    /// When to send again, unless there is progress.
    pub fn deadline(&self) -> Option<Instant> {
        (self.queued > 0).then(|| self.since + self.patience())
    }

    /// Notes that everything is sent again.
    pub fn begin_again(&mut self, now: Instant) {
        (self.timed, self.since) = (None, now);
        self.attempts += 1;
    }

    /// RFC 6298 section 2.
    fn measured(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((mean, variation)) => (
                (mean * 7 + sample) / 8,
                (variation * 3 + mean.abs_diff(sample)) / 4,
            ),
        });
    }

    fn patience(&self) -> Duration {
        let measured = self
            .round_trip
            .map(|(mean, variation)| mean + variation * 4);
        let floor = if self.queued > FEW_BYTES {
            FLOOR
        } else {
            FLOOR_WHEN_FEW
        };
        let once = measured.unwrap_or(INITIAL).max(floor);
        once.saturating_mul(1 << self.attempts.min(16)).min(CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn patience_follows_what_was_measured_and_doubles() {
        let mut recovery = Recovery::default();
        assert_eq!(recovery.deadline(), None);
        recovery.wrote(10_000);
        recovery.observe(at(1000), 10_000);
        assert_eq!(recovery.deadline(), Some(at(1250)));
        recovery.observe(at(1001), 0);
        assert_eq!(recovery.deadline(), None);
        recovery.wrote(10_000);
        recovery.observe(at(2000), 10_000);
        assert_eq!(recovery.deadline(), Some(at(2020)));
        recovery.begin_again(at(2020));
        assert_eq!(recovery.deadline(), Some(at(2060)));
        recovery.begin_again(at(2060));
        assert_eq!(recovery.deadline(), Some(at(2140)));
        recovery.observe(at(2100), 1000);
        assert_eq!(recovery.deadline(), Some(at(2160)));
    }

    #[test]
    fn a_slow_peer_is_given_the_time_it_takes() {
        let mut recovery = Recovery::default();
        for turn in 0..20 {
            recovery.wrote(10_000);
            recovery.observe(at(1000 * turn), 10_000);
            recovery.observe(at(1000 * turn + 300 + turn % 2 * 100), 0);
        }
        recovery.wrote(10_000);
        recovery.observe(at(50_000), 10_000);
        assert!(recovery.deadline().unwrap() > at(50_450));
    }

    #[test]
    fn what_was_sent_twice_is_not_measured() {
        let mut recovery = Recovery::default();
        recovery.wrote(10_000);
        recovery.observe(at(0), 10_000);
        recovery.begin_again(at(250));
        recovery.observe(at(3000), 0);
        assert!(recovery.round_trip.is_none());
        for _ in 0..50 {
            recovery.begin_again(at(3000));
        }
        assert_eq!(recovery.patience(), CEILING);
    }
}
