//! The command line.

mod campaign;
mod ledger;
mod minimise;
mod mutants;
mod systematic;
mod worker;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use sim::Parts;

/// Runs the simulated world.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Arguments {
    /// Replay this seed alone (decimal, or hexadecimal with 0x)
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// The first seed; drawn from the time of day when absent
    #[arg(long, value_parser = parse_seed, conflicts_with = "seed")]
    first_seed: Option<u64>,
    /// How many seeds
    #[arg(long, default_value_t = 200, conflicts_with = "seed")]
    seeds: u64,
    /// Requests of clients for each seed
    #[arg(long, default_value_t = 1000)]
    operations: u64,
    /// Leave out a part of every scenario
    #[arg(long)]
    without: Vec<Part>,
    /// Processes at a time; 0 takes one for each processor
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Seconds of real time after which a seed counts as hanging
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// Leave out what the ledger says was run already, by this commit and in this way
    #[arg(long, requires = "first_seed")]
    resume: bool,
    /// Run every seed twice and compare the two
    #[arg(long)]
    twice: bool,
    /// Print every event of the seed
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Look for the smallest run of the seed that still fails
    #[arg(long, requires = "seed")]
    minimise: bool,
    /// Print what was run so far
    #[arg(long)]
    ledger: bool,
    /// Look at all short sequences of operations, all single faults of a small pool, and full pools, instead of seeds
    #[arg(long)]
    systematic: bool,
    /// Operations of the longest sequence
    #[arg(long, default_value_t = 2, requires = "systematic")]
    length: u32,
    /// Look at one of so many sequences, faults and full pools
    #[arg(long, default_value_t = 1, requires = "systematic")]
    every: u64,
    /// Hunt the store's deliberate bugs and print how many seeds each takes; with `--systematic` in those runs, too
    #[arg(long, conflicts_with = "seed")]
    mutants: bool,
    /// From how many first seeds each is hunted
    #[arg(long, default_value_t = 5, requires = "mutants")]
    starts: u64,
    /// Only this sequence, fault or full pool, or this deliberate bug
    #[arg(long)]
    only: Option<String>,
    /// One hunt of a deliberate bug, in this process
    #[arg(long, hide = true, requires = "first_seed")]
    hunt: Option<String>,
    /// One process of a long run: a line for each seed, up to the first failure
    #[arg(long, hide = true, requires = "first_seed")]
    worker: bool,
}

/// How each seed is run.
#[derive(Clone, Debug)]
struct Manner {
    operations: u64,
    without: Vec<Part>,
    twice: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Part {
    /// Power cuts, resets and orderly restarts
    Restarts,
    /// Faults of drives other than power cuts
    Faults,
    /// The way through a lossy network
    Network,
    /// Snapshots, clones and rollbacks
    Snapshots,
    /// Volumes whose blocks are elsewhere
    Adoption,
}

impl Part {
    const ALL: [Self; 5] = [
        Self::Network,
        Self::Faults,
        Self::Restarts,
        Self::Snapshots,
        Self::Adoption,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restarts => "restarts",
            Self::Faults => "faults",
            Self::Network => "network",
            Self::Snapshots => "snapshots",
            Self::Adoption => "adoption",
        }
    }
}

impl Manner {
    fn parts(&self) -> Parts {
        Parts {
            restarts: !self.without.contains(&Part::Restarts),
            faults: !self.without.contains(&Part::Faults),
            network: !self.without.contains(&Part::Network),
            snapshots: !self.without.contains(&Part::Snapshots),
            adoption: !self.without.contains(&Part::Adoption),
        }
    }

    /// The options that ask for it.
    fn options(&self) -> Vec<String> {
        let mut options = vec!["--operations".to_string(), self.operations.to_string()];
        for part in &self.without {
            options.extend(["--without".to_string(), part.name().to_string()]);
        }
        if self.twice {
            options.push("--twice".to_string());
        }
        options
    }
}

fn parse_seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// Does what the command line says.
///
/// # Errors
/// What keeps it from running at all; a failing seed is an exit code.
pub fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::parse();
    if let Some(done) = special(&arguments) {
        return done;
    }
    arguments.without.sort_unstable();
    arguments.without.dedup();
    let manner = Manner {
        operations: arguments.operations,
        without: arguments.without,
        twice: arguments.twice,
    };
    if arguments.ledger {
        ledger::Ledger::open()?.print();
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seed) = arguments.seed {
        return if arguments.minimise {
            minimise::command(seed, &manner, arguments.patience)
        } else {
            Ok(worker::replay(seed, &manner, arguments.verbose))
        };
    }
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let first = arguments.first_seed.unwrap_or(time.as_secs() << 20);
    if arguments.worker {
        return Ok(worker::serve(first, arguments.seeds, &manner));
    }
    campaign::run(&campaign::Plan {
        first,
        seeds: arguments.seeds,
        manner,
        jobs: arguments.jobs,
        patience: std::time::Duration::from_secs(arguments.patience),
        resume: arguments.resume,
    })
}

/// What is not about seeds alone, if that is wanted.
fn special(arguments: &Arguments) -> Option<Result<ExitCode>> {
    let Arguments {
        seeds, operations, ..
    } = *arguments;
    let jobs = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let patience = std::time::Duration::from_secs(arguments.patience);
    if let Some(name) = &arguments.hunt {
        let first = arguments.first_seed.unwrap_or(1);
        let served = mutants::serve(name, first, seeds, operations, arguments.systematic);
        return Some(served.map(|()| ExitCode::SUCCESS));
    }
    if arguments.mutants {
        return Some(mutants::run(&mutants::Plan {
            only: arguments.only.clone(),
            first: arguments.first_seed.unwrap_or(1),
            systematically: arguments.systematic,
            starts: arguments.starts,
            seeds,
            operations,
            jobs,
            patience,
        }));
    }
    if arguments.systematic {
        return Some(Ok(match &arguments.only {
            Some(name) => systematic::replay(name),
            None => systematic::run(&systematic::Plan {
                length: arguments.length,
                every: arguments.every,
                threads: jobs as u64,
            }),
        }));
    }
    None
}
