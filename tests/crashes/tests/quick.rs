//! A short recording of the real image: sound at every crash point that is tried, and not when a durable write is
//! taken out of it.

use anyhow::{Result, ensure};
use crashes::{Plan, Points, record, replay};
use guest::Scratch;

/// Crash points of the sound recording.
const POINTS: u64 = 60;
/// Drive operations in which the pool is made and first opened.
const FIRST: u64 = 24;

#[test]
fn power_cuts_of_the_real_image_lose_nothing_that_was_durable() -> Result<()> {
    let plan = Plan {
        drive_bytes: 128 << 20,
        lives: 2,
        clients: 2,
        requests: 150,
        seed: 7,
        snapshots: true,
    };
    let scratch = Scratch::new("recording");
    let mut recording = record(&plan, scratch.path())?;
    let points = Points {
        count: POINTS,
        seed: 7,
        only: 0..POINTS,
        threads: 2,
    };
    let tally = replay(&recording, &points, &|_| ())?;
    ensure!(tally.points == POINTS);
    ensure!(tally.by_loss.iter().all(|count| *count > 0), "{tally:?}");

    // Each operation of the beginning, with everything that can be lost there.
    for seed in 0..8 {
        let all = Points {
            count: recording.log.entries().len() as u64,
            seed,
            only: 0..FIRST,
            threads: 1,
        };
        replay(&recording, &all, &|_| ())?;
    }

    let lost = recording.log.lose_writes(40);
    ensure!(lost > 5, "only {lost} writes were lost");
    let damaged = replay(&recording, &points, &|_| ());
    ensure!(damaged.is_err(), "{lost} lost writes were not noticed");
    Ok(())
}
