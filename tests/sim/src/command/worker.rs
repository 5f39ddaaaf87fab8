//! Seeds run in this process: one for a person, or a batch for a long run.

use std::io::Write;
use std::process::ExitCode;

use sim::{Failure, Outcome, run_seed};

use super::Manner;

/// Runs one seed and prints what happened.
pub fn replay(seed: u64, manner: &Manner, verbose: bool) -> ExitCode {
    match run(seed, manner, verbose) {
        Ok(outcome) => {
            println!("{}, trace {:#018x}", outcome.tally, outcome.trace);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a batch; prints the numbers of each seed, and of a failing one what went wrong, which ends it.
pub fn serve(first: u64, seeds: u64, manner: &Manner) -> ExitCode {
    let mut out = std::io::stdout();
    for seed in (0..seeds).map(|index| first.wrapping_add(index)) {
        match run(seed, manner, false) {
            Ok(outcome) => {
                // Whoever started this reads along; if it is gone, so is the reason to go on.
                let told = writeln!(out, "{}", outcome.tally.encode());
                if told.and_then(|()| out.flush()).is_err() {
                    return ExitCode::FAILURE;
                }
            }
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn run(seed: u64, manner: &Manner, verbose: bool) -> Result<Outcome, Failure> {
    let once = || run_seed(seed, manner.operations, manner.parts(), verbose);
    let outcome = once()?;
    if manner.twice {
        let again = once()?;
        if again != outcome {
            return Err(Failure {
                seed,
                operations: manner.operations,
                parts: manner.parts(),
                what: format!("two runs of one seed differ: {outcome:?} and {again:?}"),
            });
        }
    }
    Ok(outcome)
}
