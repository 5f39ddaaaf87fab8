//! How often an address may guess: ten times, and then once every ten seconds.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use world::Instant;

/// Wrong guesses at once.
pub const BURST: u32 = 10;
/// Time until another one.
pub const REFILL: Duration = Duration::from_secs(10);
/// Addresses that are remembered; whoever has more of them displaces the oldest.
const ADDRESSES_MAX: usize = 256;

/// Addresses that guessed wrong lately.
#[derive(Debug, Default)]
pub struct Attempts {
    all: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    from: IpAddr,
    left: u32,
    /// When the last guess was given back.
    since: Instant,
    failures: u64,
}

impl Attempts {
    /// How long `peer` has to wait before it may guess again; `None`: not at all.
    #[must_use]
    pub fn wait(&mut self, peer: IpAddr, now: Instant) -> Option<Duration> {
        self.refill(now);
        let from = household(peer);
        let attempt = self.all.iter().find(|attempt| attempt.from == from)?;
        (attempt.left == 0).then(|| (attempt.since + REFILL).since(now))
    }

    /// Notes a wrong guess; returns how many there were lately.
    pub fn fail(&mut self, peer: IpAddr, now: Instant) -> u64 {
        self.refill(now);
        let from = household(peer);
        let known = self.all.iter().position(|attempt| attempt.from == from);
        let index = known.unwrap_or_else(|| {
            if self.all.len() >= ADDRESSES_MAX {
                let oldest = (0..self.all.len()).min_by_key(|index| self.all[*index].since);
                self.all.remove(oldest.unwrap_or(0));
            }
            self.all.push(Attempt {
                from,
                left: BURST,
                since: now,
                failures: 0,
            });
            self.all.len() - 1
        });
        let attempt = &mut self.all[index];
        attempt.left = attempt.left.saturating_sub(1);
        attempt.failures += 1;
        attempt.failures
    }

    /// Gives guesses back, and forgets who has all of them.
    fn refill(&mut self, now: Instant) {
        for attempt in &mut self.all {
            while attempt.left < BURST && now.since(attempt.since) >= REFILL {
                attempt.since = attempt.since + REFILL;
                attempt.left += 1;
            }
        }
        self.all.retain(|attempt| attempt.left < BURST);
    }
}

/// What one household can choose from counts as one address: of IPv6, a network of 64 bits.
#[must_use]
pub fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn ten_guesses_and_then_one_in_ten_seconds() {
        let mut attempts = Attempts::default();
        let (peer, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for count in 1..=10 {
            assert_eq!(attempts.wait(peer, at(100)), None);
            assert_eq!(attempts.fail(peer, at(100)), count);
        }
        assert_eq!(attempts.wait(peer, at(103)), Some(Duration::from_secs(7)));
        assert_eq!(attempts.wait(other, at(103)), None);
        assert_eq!(attempts.wait(peer, at(110)), None);
        assert_eq!(attempts.fail(peer, at(110)), 11);
        assert!(attempts.wait(peer, at(111)).is_some());
        assert_eq!(attempts.wait(peer, at(300)), None);
        assert!(attempts.all.is_empty(), "forgotten");
    }

    #[test]
    fn many_addresses_of_one_network_are_one_and_many_networks_are_bounded() {
        let mut attempts = Attempts::default();
        for host in 0..20_u16 {
            let peer = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into();
            attempts.fail(peer, at(0));
        }
        assert_eq!(attempts.all.len(), 1);
        for network in 0..1000_u32 {
            let peer = core::net::Ipv4Addr::from_bits(network).into();
            attempts.fail(peer, at(1));
        }
        assert_eq!(attempts.all.len(), ADDRESSES_MAX);
    }
}
