//! A word in the log when the pool gets full, and when it is no longer.

use core::mem;
use core::time::Duration;

use exec::Exec;
use volume::{Fullness, PoolInfo, Volumes, writable_bytes};
use world::{Disk, Instant};

/// How often it is looked at, when no write is refused.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long there is more room before that is told: a pool at a border crosses it often.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was told of the pool.
struct Told {
    fullness: Fullness,
    /// Since when it is better than that.
    better_since: Option<Instant>,
}

impl Told {
    const FINE: Self = Self {
        fullness: Fullness::Fine,
        better_since: None,
    };

    /// Notes how full it is at `now`; returns what was told before if that is to be told.
    fn note(&mut self, now: Instant, fullness: Fullness) -> Option<Fullness> {
        let is_news = if fullness < self.fullness {
            now - *self.better_since.get_or_insert(now) >= PATIENCE
        } else {
            self.better_since = None;
            fullness > self.fullness
        };
        is_news.then(|| {
            self.better_since = None;
            mem::replace(&mut self.fullness, fullness)
        })
    }
}

/// Tells when the pool gets fuller, and when it has had more room for a while; never returns.
pub async fn watch<D: Disk + 'static>(exec: Exec, volumes: Volumes<D>) {
    let mut told = Told::FINE;
    loop {
        let pool = volumes.pool();
        if let Some(before) = told.note(exec.now(), pool.fullness) {
            tell(before, &pool);
        }
        let _ = exec.timeout(INTERVAL, volumes.refused()).await;
    }
}

fn tell(before: Fullness, pool: &PoolInfo) {
    let (free, size) = (pool.free_bytes >> 20, pool.size_bytes >> 20);
    let writable = writable_bytes(pool) >> 20;
    match pool.fullness {
        Fullness::Full => log::error!(
            "the pool is full: writes are refused until something is deleted; {free} of {size} MiB are kept back for that"
        ),
        now if now > before => {
            let word = if now == Fullness::Critical {
                "nearly full"
            } else {
                "getting full"
            };
            log::warn!("the pool is {word}: {writable} of {size} MiB can still be written");
        }
        _ => log::info!("the pool has more room again: {writable} of {size} MiB can be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_told_at_once_and_more_room_when_it_lasts() {
        use Fullness::{Critical, Fine, Full};
        let mut told = Told::FINE;
        for (second, fullness, before) in [
            (0, Fine, None),
            (5, Full, Some(Fine)),
            // Back and forth.
            (10, Critical, None),
            (15, Full, None),
            (20, Critical, None),
            (45, Fine, None),
            (50, Critical, Some(Full)),
            (55, Full, Some(Critical)),
            (60, Fine, None),
            (89, Fine, None),
            (90, Fine, Some(Full)),
            (95, Fine, None),
        ] {
            let now = Instant::from_nanos(second * 1_000_000_000);
            assert_eq!(told.note(now, fullness), before, "after {second} s");
        }
    }
}
