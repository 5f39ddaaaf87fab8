//! A recording from one crash point to the next.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use offline::Random;

use crate::crash::{Cursor, Loss};
use crate::examine::examine;
use crate::judge::Promise;
use crate::record::Recording;

/// Which crash points of a recording are tried.
#[derive(Clone, Debug)]
pub struct Points {
    /// Spread evenly over the record, each at a random place of its share.
    pub count: u64,
    /// Decides places and losses.
    pub seed: u64,
    /// Which of them.
    pub only: Range<u64>,
    /// Threads that work at it.
    pub threads: u64,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Crash points.
    pub points: u64,
    /// Of these, with everything kept, everything lost, some lost, some lost and one torn.
    pub by_loss: [u64; 4],
}

/// A crash point after which something is wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its number.
    pub point: u64,
    /// Entries of the record that were done.
    pub entries: usize,
    /// What was lost.
    pub loss: Loss,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "crash point {} (after {} drive operations, {:?} lost): {}",
            self.point, self.entries, self.loss, self.what
        )
    }
}

impl std::error::Error for Failure {}

/// Tries crash points; `progress` hears how many are done, from any thread.
///
/// # Errors
/// The first that fails.
pub fn replay(
    recording: &Recording,
    points: &Points,
    progress: &(impl Fn(u64) + Sync),
) -> Result<Tally, Failure> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let threads = points.threads.max(1);
    let all = points.only.clone();
    let border = |part: u64| all.start + (all.end - all.start) * part / threads;
    thread::scope(|scope| {
        let (stop, done) = (&stop, &done);
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let range = border(part)..border(part + 1);
                scope.spawn(move || {
                    let each = || {
                        progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                        stop.load(Ordering::Relaxed)
                    };
                    let result = replay_part(recording, points, range, each);
                    stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                })
            })
            .collect();
        let mut tally = Tally::default();
        for part in parts {
            let part = part.join().expect("a replay does not panic")?;
            tally.points += part.points;
            for (sum, count) in tally.by_loss.iter_mut().zip(part.by_loss) {
                *sum += count;
            }
        }
        Ok(tally)
    })
}

/// Tries the points of `range`; `each` is called after every one and says whether to stop.
fn replay_part(
    recording: &Recording,
    points: &Points,
    range: Range<u64>,
    each: impl Fn() -> bool,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut cursor = Cursor::new(&recording.log, recording.drive_bytes);
    let mut promises: Vec<Promise> = recording.stories.iter().map(Promise::new).collect();
    let clients: Vec<u64> = recording.stories.iter().map(|story| story.client).collect();
    for point in range {
        let random = Random::new(points.seed ^ point.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (entries, loss) = (
            entries_at(recording, points, point, &random),
            Loss::of_point(point ^ points.seed),
        );
        let image = cursor.crash(entries, loss, &random);
        let length = match entries {
            0 => 0,
            _ => recording.log.entries()[entries - 1].end,
        };
        let failed = |what: String| Failure {
            point,
            entries,
            loss,
            what,
        };
        let found = examine(image, &clients).map_err(failed)?;
        for (promise, found) in promises.iter_mut().zip(&found) {
            promise.judge(length, found).map_err(failed)?;
        }
        tally.points += 1;
        tally.by_loss[loss as usize] += 1;
        if each() {
            break;
        }
    }
    Ok(tally)
}

/// How many operations are done at a point: later for each one.
fn entries_at(recording: &Recording, points: &Points, point: u64, random: &Random) -> usize {
    let all = recording.log.entries().len() as u64;
    let first = all * point / points.count;
    let share = (all * (point + 1) / points.count - first).max(1);
    usize::try_from((first + random.below(share)).min(all)).unwrap_or(usize::MAX)
}
