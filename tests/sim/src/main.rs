//! `cargo xtask sim`: runs seeds, replays one, or makes a failing one smaller.

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use sim::{Options, Parts, run};

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
    /// Threads; 0 takes one for each processor
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print every event (one thread)
    #[arg(long)]
    verbose: bool,
    /// Look for the smallest run of the seed that still fails
    #[arg(long, requires = "seed")]
    minimise: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Power cuts, resets and orderly restarts
    Restarts,
    /// Faults of drives other than power cuts
    Faults,
    /// The way through a lossy network
    Network,
}

fn parse_seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let (true, Some(seed)) = (arguments.minimise, arguments.seed) {
        return minimise(seed, arguments.operations, &arguments.without);
    }
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let drawn = || time.as_secs() << 20;
    let (first_seed, seeds) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.first_seed.unwrap_or_else(drawn), arguments.seeds),
    };
    let options = Options {
        first_seed,
        seeds,
        operations: arguments.operations,
        parts: parts(&arguments.without),
        threads: if arguments.verbose {
            1
        } else {
            arguments.threads
        },
        verbose: arguments.verbose,
    };
    let start = Instant::now();
    let mut said = start;
    let result = run(&options, &mut |progress| {
        if said.elapsed().as_secs() >= 5 {
            said = Instant::now();
            eprintln!(
                "{} of {} seeds: {}",
                progress.done, progress.seeds, progress.so_far
            );
        }
    });
    match result {
        Ok(summary) => {
            println!(
                "{summary}, {:.1} s, first seed {first_seed:#x}",
                start.elapsed().as_secs_f64()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            eprintln!("{failure}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn parts(without: &[Part]) -> Parts {
    Parts {
        restarts: !without.contains(&Part::Restarts),
        faults: !without.contains(&Part::Faults),
        network: !without.contains(&Part::Network),
    }
}

/// Leaves out parts, then halves the number of requests, as long as the run still fails. Every attempt is a process of
/// its own, so that a panic ends nothing but the attempt.
fn minimise(seed: u64, operations: u64, without: &[Part]) -> Result<ExitCode> {
    let mut without = without.to_vec();
    if !fails(seed, operations, &without)? {
        println!("seed {seed:#x} finds nothing in {operations} requests");
        return Ok(ExitCode::SUCCESS);
    }
    for part in [Part::Network, Part::Faults, Part::Restarts] {
        let mut fewer = without.clone();
        fewer.push(part);
        if !without.contains(&part) && fails(seed, operations, &fewer)? {
            without = fewer;
        }
    }
    // A shorter run is the beginning of a longer one, so the least number of requests can be found by bisection.
    let (mut passes, mut fails_at) = (0, operations);
    while passes + 1 < fails_at {
        let middle = passes.midpoint(fails_at);
        if fails(seed, middle, &without)? {
            fails_at = middle;
        } else {
            passes = middle;
        }
    }
    let mut smallest = attempt(seed, fails_at, &without)?;
    let status = smallest.status().context("cannot start the attempt")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fails(seed: u64, operations: u64, without: &[Part]) -> Result<bool> {
    let mut command = attempt(seed, operations, without)?;
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().context("cannot start the attempt")?;
    Ok(!status.success())
}

fn attempt(seed: u64, operations: u64, without: &[Part]) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command.arg("--seed").arg(seed.to_string());
    command.arg("--operations").arg(operations.to_string());
    for part in without {
        let name = part.to_possible_value().context("a part without a name")?;
        command.arg("--without").arg(name.get_name());
    }
    Ok(command)
}
