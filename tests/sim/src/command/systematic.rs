//! The systematic runs, with progress.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use sim::systematic::{
    Sequences, full_pools, one_fault, one_full_pool, one_sequence, single_faults,
};
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
    } else if name.starts_with("full:") {
        one_full_pool(name, Mutants::default()).map(|()| "nothing found".to_string())
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
    let all: [&dyn Fn() -> Result<String, String>; 4] = [
        &|| plan.faults(1),
        &|| plan.faults(2),
        &|| plan.full_pools(),
        &|| plan.sequences(),
    ];
    for one in all {
        let start = Instant::now();
        match one() {
            Ok(text) => println!("{text}, {:.1} s", start.elapsed().as_secs_f64()),
            Err(what) => {
                eprintln!("{what}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

impl Plan {
    fn faults(&self, drives: usize) -> Result<String, String> {
        let said = Mutex::new(Instant::now());
        let progress = |done: u64, all: u64| {
            if is_time(&said) {
                eprintln!("fault {done} of {all} on {drives} drives");
            }
        };
        let share = (self.every, self.threads);
        let count = single_faults(drives, share, Mutants::default(), &progress)?;
        Ok(format!("{drives} drives: {count}"))
    }

    fn full_pools(&self) -> Result<String, String> {
        let said = Mutex::new(Instant::now());
        let progress = |done: u64, all: u64| {
            if is_time(&said) {
                eprintln!("full pool {done} of {all}");
            }
        };
        let count = full_pools((self.every, self.threads), Mutants::default(), &progress)?;
        Ok(format!("{count} full pools"))
    }

    fn sequences(&self) -> Result<String, String> {
        let sequences = Sequences {
            length: self.length,
            every: self.every,
            threads: self.threads,
        };
        let start = Instant::now();
        let said = Mutex::new(start);
        let all = sequences.all();
        let progress = |number: u64, _| {
            if is_time(&said) {
                let elapsed = start.elapsed().as_secs_f64();
                let left = elapsed / (number + 1) as f64 * (all - number) as f64;
                eprintln!("sequence {number} of {all}, about {left:.0} s left");
            }
        };
        Ok(sequences.run(Mutants::default(), &progress)?.to_string())
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
