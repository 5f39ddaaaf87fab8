//! The systematic runs, with progress.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use sim::systematic::{Sequences, one_fault, one_sequence, single_faults};
use store::Mutants;

/// What to look at.
pub struct Plan {
    /// Operations of the longest sequence.
    pub length: u32,
    /// One of so many sequences and faults.
    pub every: u64,
    pub threads: u64,
}

/// Looks at one sequence or fault, as a finding names it.
pub fn replay(name: &str) -> ExitCode {
    let done = if name.starts_with("faults:") {
        one_fault(name, Mutants::default()).map(|count| count.to_string())
    } else {
        one_sequence(name, Mutants::default()).map(|count| count.to_string())
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// Looks at everything.
pub fn run(plan: &Plan) -> ExitCode {
    for drives in [1, 2] {
        let start = Instant::now();
        let said = Mutex::new(start);
        let progress = |done: u64, all: u64| {
            if is_time(&said) {
                eprintln!("fault {done} of {all} on {drives} drives");
            }
        };
        match single_faults(
            drives,
            (plan.every, plan.threads),
            Mutants::default(),
            &progress,
        ) {
            Ok(count) => println!(
                "{drives} drives: {count}, {:.1} s",
                start.elapsed().as_secs_f64()
            ),
            Err(what) => {
                eprintln!("{what}");
                return ExitCode::FAILURE;
            }
        }
    }
    let start = Instant::now();
    let sequences = Sequences {
        length: plan.length,
        every: plan.every,
        threads: plan.threads,
    };
    let said = Mutex::new(start);
    let all = sequences.all();
    let progress = |number: u64, _| {
        if is_time(&said) {
            let elapsed = start.elapsed().as_secs_f64();
            let left = elapsed / (number + 1) as f64 * (all - number) as f64;
            eprintln!("sequence {number} of {all}, about {left:.0} s left");
        }
    };
    match sequences.run(Mutants::default(), &progress) {
        Ok(count) => {
            println!("{count}, {:.1} s", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there was no news for a while.
fn is_time(said: &Mutex<Instant>) -> bool {
    let Ok(mut said) = said.lock() else {
        return false;
    };
    let is_time = said.elapsed().as_secs() >= 10;
    if is_time {
        *said = Instant::now();
    }
    is_time
}
