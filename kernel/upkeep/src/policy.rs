//! Snapshot schedules as values: how often, which stay, what they are called. Nothing here waits or knows a store.
//!
//! A snapshot stays when any rule wants it. `last: 3` wants the three newest. `daily: 7` wants the newest one of each of the
//! seven latest days *that have any*, so neither a machine that was off for a month nor a clock that jumped makes everything
//! go. Hours and days are those of UTC; weeks begin on Monday.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::calendar::{DAY, Date, date, seconds};

/// What names of scheduled snapshots begin with.
pub const PREFIX: &str = "auto-";
/// The most that one rule can keep.
pub const KEEP_MAX: u64 = 1000;
/// The longest time between two snapshots, in seconds.
const EVERY_MAX: u64 = 366 * DAY;
/// How much later than its name says a snapshot may have been made.
const LATE_SECONDS: u64 = 15 * 60;
/// 1970 began on a Thursday: so many days later than a week does.
const MONDAY: u64 = 3;

/// When snapshots of a volume are made, and which stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Seconds from one to the next; they fall on multiples of it, from Monday 0:00 UTC on.
    pub every: u64,
    /// Which stay.
    pub keep: Keep,
}

/// How many snapshots stay, by each rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// The newest ones.
    pub last: u32,
    /// Of each hour the newest one.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

/// Why something is no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// Not a time like `15m`, `1h`, `1d`, or not from one second to a year.
    BadEvery,
    /// Nothing would stay.
    KeepsNothing,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadEvery => {
                "`every` is a number and one of s, m, h, d, w, like `15m` or `1d`, up to a year"
            }
            Self::KeepsNothing => {
                "`keep` says how many stay: at least one of last, hourly, daily, weekly, monthly, yearly"
            }
        })
    }
}

impl core::error::Error for PolicyError {}

impl Schedule {
    /// A schedule.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn new(every: &str, keep: Keep) -> Result<Self, PolicyError> {
        if keep == Keep::default() {
            return Err(PolicyError::KeepsNothing);
        }
        let every = read_every(every).ok_or(PolicyError::BadEvery)?;
        Ok(Self { every, keep })
    }

    /// Whether a snapshot is due at `now`, when the newest one was made at `last` (both in seconds since 1970).
    #[must_use]
    pub fn is_due(&self, last: Option<u64>, now: u64) -> bool {
        // Not `<`: a clock that was set back must not stop everything until it is there again.
        last.is_none_or(|last| self.slot(last) != self.slot(now))
    }

    /// When the one after `now` is due.
    #[must_use]
    pub fn next(&self, now: u64) -> u64 {
        (self.slot(now) + 1) * self.every - MONDAY * DAY
    }

    fn slot(&self, seconds: u64) -> u64 {
        (seconds + MONDAY * DAY) / self.every
    }
}

fn read_every(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = is_number.then(|| digits.parse().ok())??;
    let every = count.checked_mul(unit)?;
    (1..=EVERY_MAX).contains(&every).then_some(every)
}

/// The usual text of a time between snapshots, in the largest unit that fits.
#[must_use]
pub fn every_text(every: u64) -> String {
    let units = [(7 * DAY, 'w'), (DAY, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let fits = units
        .into_iter()
        .find(|(unit, _)| every.is_multiple_of(*unit));
    let (unit, letter) = fits.unwrap_or((1, 's'));
    format!("{}{letter}", every / unit)
}

/// The name of a snapshot that a schedule makes at `seconds` since 1970.
#[must_use]
pub fn name_at(seconds: u64) -> String {
    let Date {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = date(seconds);
    format!("{PREFIX}{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}{second:02}")
}

/// When a schedule made the snapshot called `name`, if one did: it has the name that fits the time when it was made, which
/// neither a renamed snapshot has nor one that a user gave such a name.
#[must_use]
pub fn made_at(name: &str, created_at_nanos: u64) -> Option<u64> {
    let at = read_name(name)?;
    let created = created_at_nanos / 1_000_000_000;
    let lateness = created.checked_sub(at)?;
    (lateness <= LATE_SECONDS).then_some(at)
}

/// The time that [`name_at`] makes a name of.
fn read_name(name: &str) -> Option<u64> {
    let text = name.strip_prefix(PREFIX)?;
    // `0000-00-00-000000`
    let is_shaped = text.len() == 17
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 | 10 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !is_shaped {
        return None;
    }
    let part = |from: usize, to: usize| text[from..to].parse().ok();
    seconds(Date {
        year: part(0, 4)?,
        month: part(5, 7)?,
        day: part(8, 10)?,
        hour: part(11, 13)?,
        minute: part(13, 15)?,
        second: part(15, 17)?,
    })
}

/// Which of the snapshots made at `times` (seconds since 1970, in any order) go: their indices, oldest first.
#[must_use]
pub fn surplus(keep: &Keep, times: &[u64]) -> Vec<usize> {
    let mut newest_first: Vec<usize> = (0..times.len()).collect();
    newest_first.sort_by_key(|index| core::cmp::Reverse((times[*index], *index)));
    let mut stay: BTreeSet<usize> = newest_first
        .iter()
        .take(keep.last as usize)
        .copied()
        .collect();
    type Period = fn(u64) -> u64;
    let rules: [(u32, Period); 5] = [
        (keep.hourly, |at| at / 3600),
        (keep.daily, |at| at / DAY),
        (keep.weekly, |at| (at / DAY + MONDAY) / 7),
        (keep.monthly, |at| date(at).year * 12 + date(at).month),
        (keep.yearly, |at| date(at).year),
    ];
    for (count, period) in rules {
        let mut periods = BTreeSet::new();
        for index in &newest_first {
            if periods.len() >= count as usize {
                break;
            }
            if periods.insert(period(times[*index])) {
                stay.insert(*index);
            }
        }
    }
    newest_first.retain(|index| !stay.contains(index));
    newest_first.reverse();
    newest_first
}

#[cfg(test)]
mod tests;
