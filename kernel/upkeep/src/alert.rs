//! A word in the log when the pool gets full, and when it is no longer.

use core::time::Duration;

use exec::Exec;
use volume::{Fullness, PoolInfo, Volumes};
use world::Disk;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells of every change of the pool's fullness; never returns.
pub async fn watch<D: Disk + 'static>(exec: Exec, volumes: Volumes<D>) {
    let mut told = Fullness::Fine;
    loop {
        let pool = volumes.pool();
        if pool.fullness != told {
            tell(told, &pool);
            told = pool.fullness;
        }
        exec.sleep(INTERVAL).await;
    }
}

fn tell(before: Fullness, pool: &PoolInfo) {
    let (free, size) = (pool.free_bytes >> 20, pool.size_bytes >> 20);
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
            log::warn!("the pool is {word}: {free} of {size} MiB are free");
        }
        _ => log::info!("the pool has more room again: {free} of {size} MiB are free"),
    }
}
