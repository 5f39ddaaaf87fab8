//! How much of the drives work in the background takes: all of it while nobody else wants anything; otherwise a tenth, or a quarter for what
//! clients will have to wait for as long as it is not done.

use core::time::Duration;

/// Of the time that a step took, how many times that is left to clients who are waiting.
const REST_FACTOR: u32 = 9;
/// The same after a step that brought in what was not here: clients of that volume wait for each block that has not come.
const REST_FACTOR_ARRIVAL: u32 = 3;
/// The longest rest, so that progress and wishes are seen to.
const REST_MAX: Duration = Duration::from_secs(1);
/// Blocks of a step while nobody else wants anything.
const BLOCKS_IDLE: u64 = 256;
/// Blocks of a step while clients are waiting.
const BLOCKS_BUSY: u64 = 32;

/// Blocks of the next step.
#[must_use]
pub fn blocks(is_busy: bool) -> u64 {
    if is_busy { BLOCKS_BUSY } else { BLOCKS_IDLE }
}

/// How long to rest after a step that took `took` and moved `bytes`. `is_busy` says whether clients did anything since the
/// step before; `rate` is the most bytes in a second, 0 for no such limit.
#[must_use]
pub fn rest(took: Duration, is_busy: bool, bytes: u64, rate: u64) -> Duration {
    rest_by(REST_FACTOR, took, is_busy, bytes, rate)
}

/// As [`rest`], after a step of what arrives.
#[must_use]
pub fn rest_of_arrival(took: Duration, is_busy: bool, bytes: u64, rate: u64) -> Duration {
    rest_by(REST_FACTOR_ARRIVAL, took, is_busy, bytes, rate)
}

fn rest_by(factor: u32, took: Duration, is_busy: bool, bytes: u64, rate: u64) -> Duration {
    let for_clients = if is_busy {
        (took * factor).min(REST_MAX)
    } else {
        Duration::ZERO
    };
    let nanos = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(rate));
    let whole = nanos.map_or(Duration::ZERO, |nanos| {
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    });
    for_clients.max(whole.saturating_sub(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn clients_get_nine_tenths_and_nobody_gets_nothing() {
        assert_eq!(rest(10 * MS, false, 1 << 20, 0), Duration::ZERO);
        assert_eq!(rest(10 * MS, true, 1 << 20, 0), 90 * MS);
        // A drive that is that slow must not look like a job that hangs.
        assert_eq!(rest(500 * MS, true, 1 << 20, 0), REST_MAX);
        assert!(blocks(true) < blocks(false));
    }

    #[test]
    fn what_arrives_has_a_quarter_however_busy_clients_are() {
        assert_eq!(rest_of_arrival(10 * MS, true, 1 << 20, 0), 30 * MS);
        assert_eq!(rest_of_arrival(10 * MS, false, 1 << 20, 0), Duration::ZERO);
        assert_eq!(rest_of_arrival(10 * MS, true, 500_000, 1_000_000), 490 * MS);
        // One buffer: nobody waits behind more than one request.
        assert!(blocks(true) <= world::Buf::PAGES_MAX as u64);
    }

    #[test]
    fn a_rate_is_kept_whatever_else() {
        // A tenth of a second's worth, of which the step took a part.
        assert_eq!(rest(10 * MS, false, 100_000, 1_000_000), 90 * MS);
        assert_eq!(rest(200 * MS, false, 100_000, 1_000_000), Duration::ZERO);
        // The stricter one counts.
        assert_eq!(rest(20 * MS, true, 100_000, 1_000_000), 180 * MS);
        assert_eq!(rest(10 * MS, true, 500_000, 1_000_000), 490 * MS);
    }
}
