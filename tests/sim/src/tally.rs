//! What happened in one run or in many, as numbers.

use core::fmt;

use crate::disk::Struck;

/// A thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Seeds without a finding.
    Seeds,
    /// Requests answered.
    Requests,
    /// Submissions and completions of drives.
    Points,
    /// Power cuts and resets.
    Crashes,
    /// Of those, in the middle of a recovery.
    Nested,
    /// Recoveries verified.
    Recoveries,
    /// Requests refused for lack of space.
    Refusals,
    /// Snapshots taken.
    Snapshots,
    /// Snapshots deleted.
    SnapshotsDeleted,
    /// Clones made.
    Clones,
    /// Volumes rolled back.
    Rollbacks,
    /// Differences compared with the model.
    Diffs,
    /// Sums of usage compared with the model.
    Usages,
    /// Scrubs of rotten pools.
    Scrubs,
    /// Rotten blocks that they found.
    RotFound,
    /// Seeds that ended because lying or damaged drives made the pool unusable.
    LostPools,
    /// Volumes adopted.
    Adoptions,
    /// Blocks or zeros of origins taken in.
    Fills,
    /// Requests refused for what was absent.
    Absences,
    /// Sweeps of what arrived that freed something.
    Sweeps,
}

/// Counts that were there before those of faults, in lines that were written then.
const EARLIER: usize = 16;

const NAMES: [&str; 20] = [
    "seeds",
    "requests",
    "points of possible power cuts",
    "crashes",
    "in recovery",
    "recoveries verified",
    "refused for lack of space",
    "snapshots",
    "deleted again",
    "clones",
    "rollbacks",
    "diffs",
    "usages",
    "scrubs",
    "rotten blocks found by them",
    "pools lost to drives",
    "volumes adopted",
    "fills",
    "requests for what was absent",
    "sweeps of what arrived",
];

/// Counts of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: [u64; NAMES.len()],
    faults: Struck,
}

impl Tally {
    /// Counts `number` more.
    pub fn add(&mut self, count: Count, number: u64) {
        self.counts[count as usize] += number;
    }

    /// Takes note of the faults of a drive.
    pub(crate) fn add_faults(&mut self, faults: Struck) {
        self.faults += faults;
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// Faults of drives of all kinds.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.total()
    }

    /// All numbers in one line, for a file.
    #[must_use]
    pub fn encode(&self) -> String {
        let (earlier, later) = self.counts.split_at(EARLIER);
        let numbers = earlier.iter().chain(self.faults.numbers()).chain(later);
        let words: Vec<String> = numbers.map(u64::to_string).collect();
        words.join(" ")
    }

    /// The numbers of such a line.
    #[must_use]
    pub fn decode(line: &str) -> Option<Self> {
        let mut tally = Self::default();
        let (earlier, later) = tally.counts.split_at_mut(EARLIER);
        let own = earlier.iter_mut().chain(tally.faults.numbers_mut());
        let mut words = line.split_whitespace();
        for number in own {
            *number = words.next()?.parse().ok()?;
        }
        let mut words = words.peekable();
        if words.peek().is_some() {
            for number in later {
                *number = words.next()?.parse().ok()?;
            }
        }
        words.next().is_none().then_some(tally)
    }
}

impl core::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own += more;
        }
        self.faults += other.faults;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, name) in self.counts.iter().zip(NAMES) {
            write!(out, "{count} {name}, ")?;
        }
        write!(out, "{} faults of drives", self.faults.total())?;
        if self.faults.total() > 0 {
            write!(out, " ({})", self.faults)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_all_numbers() {
        let mut tally = Tally::default();
        tally.add(Count::Seeds, 3);
        tally.add(Count::LostPools, 7);
        tally.add(Count::Fills, 9);
        tally.faults.count(crate::disk::Fault::Stall);
        assert_eq!(Tally::decode(&tally.encode()), Some(tally));
        assert_eq!(Tally::decode("1 2 three"), None);
    }
}
