//! The ledger: a file that says what was run, by which commit, and what came of it.
//!
//! One line for each batch, its fields separated by tabs: seconds since 1970, commit (with `+` when the sources differ
//! from it), parts left out, requests for each seed, first seed, seeds, failing seeds, numbers (see `Tally::encode`).
//! Only ever appended to, so a run that is interrupted loses the batches under way at most.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sim::Tally;

use super::Manner;

/// What was run.
pub struct Ledger {
    path: PathBuf,
    entries: Vec<Entry>,
    commit: String,
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Entry {
    commit: String,
    without: String,
    operations: u64,
    first: u64,
    seeds: u64,
    failing: Vec<u64>,
    tally: Tally,
}

impl Ledger {
    /// Reads the ledger of this build folder.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open() -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let target = own.ancestors().nth(2).context("not in a build folder")?;
        let path = target.join("sim-ledger.tsv");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        Ok(Self {
            path,
            entries: text.lines().filter_map(Entry::decode).collect(),
            commit: commit(),
        })
    }

    /// Whether this commit ran these seeds in this way.
    pub fn has(&self, manner: &Manner, first: u64, seeds: u64) -> bool {
        let without = without(manner);
        self.entries.iter().any(|entry| {
            (entry.first, entry.seeds, entry.operations) == (first, seeds, manner.operations)
                && entry.without == without
                && entry.commit == self.commit
        })
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(
        &mut self,
        manner: &Manner,
        (first, seeds): (u64, u64),
        failing: &BTreeSet<u64>,
        tally: Tally,
    ) -> Result<()> {
        let entry = Entry {
            commit: self.commit.clone(),
            without: without(manner),
            operations: manner.operations,
            first,
            seeds,
            failing: failing.iter().copied().collect(),
            tally,
        };
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        // One write, so that two runs at a time do not mix their lines.
        file.write_all(entry.encode().as_bytes())?;
        self.entries.push(entry);
        Ok(())
    }

    /// Prints the sums for each commit and way of running.
    pub fn print(&self) {
        let mut sums: BTreeMap<_, (Tally, Vec<u64>)> = BTreeMap::new();
        let mut commits: Vec<&str> = Vec::new();
        for entry in &self.entries {
            // In the order in which they first ran.
            let known = commits.iter().position(|commit| *commit == entry.commit);
            let place = known.unwrap_or_else(|| {
                commits.push(&entry.commit);
                commits.len() - 1
            });
            let key = (place, &*entry.commit, entry.operations, &*entry.without);
            let sum = sums.entry(key).or_default();
            sum.0 += entry.tally;
            sum.1.extend(&entry.failing);
        }
        for ((_, commit, operations, without), (tally, failing)) in sums {
            let left_out = match without {
                "" => String::new(),
                parts => format!(", without {parts}"),
            };
            println!("{commit}, {operations} requests a seed{left_out}: {tally}");
            for seed in failing {
                println!("  failed: {seed:#x}");
            }
        }
        println!("({})", self.path.display());
    }
}

impl Entry {
    fn encode(&self) -> String {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let failing: Vec<String> = self.failing.iter().map(|s| format!("{s:#x}")).collect();
        format!(
            "{time}\t{}\t{}\t{}\t{:#x}\t{}\t{}\t{}\n",
            self.commit,
            self.without,
            self.operations,
            self.first,
            self.seeds,
            failing.join(","),
            self.tally.encode()
        )
    }

    fn decode(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').skip(1);
        Some(Self {
            commit: fields.next()?.to_string(),
            without: fields.next()?.to_string(),
            operations: fields.next()?.parse().ok()?,
            first: super::parse_seed(fields.next()?).ok()?,
            seeds: fields.next()?.parse().ok()?,
            failing: (fields.next()?.split(','))
                .filter_map(|seed| super::parse_seed(seed).ok())
                .collect(),
            tally: Tally::decode(fields.next()?)?,
        })
    }
}

fn without(manner: &Manner) -> String {
    let names: Vec<&str> = manner.without.iter().map(|part| part.name()).collect();
    names.join(",")
}

/// The commit that these sources are of.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let output = git.args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_string();
    };
    let changed = git(&["status", "--porcelain", "--", "kernel", "tests/sim"]);
    let mark = if changed.is_none_or(|text| text.is_empty()) {
        ""
    } else {
        "+"
    };
    commit + mark
}
