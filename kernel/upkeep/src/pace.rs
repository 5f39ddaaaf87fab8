//! How much of the drives work in the background takes: all of it while nobody else wants anything, a tenth otherwise.

use core::time::Duration;

/// Of the time that a step took, how many times that is left to clients who are waiting.
const REST_FACTOR: u32 = 9;
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
    let for_clients = if is_busy {
        (took * REST_FACTOR).min(REST_MAX)
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
    fn a_rate_is_kept_whatever_else() {
        // A tenth of a second's worth, of which the step took a part.
        assert_eq!(rest(10 * MS, false, 100_000, 1_000_000), 90 * MS);
        assert_eq!(rest(200 * MS, false, 100_000, 1_000_000), Duration::ZERO);
        // The stricter one counts.
        assert_eq!(rest(20 * MS, true, 100_000, 1_000_000), 180 * MS);
        assert_eq!(rest(10 * MS, true, 500_000, 1_000_000), 490 * MS);
    }
}
