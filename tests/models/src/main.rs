//! Runs the models: `cargo run -p models --release -- [MODEL] --seeds N [--first-seed N] [--mutants]`.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use models::{CRASH, FILL, Model, SNAPSHOTS, Sum, handover, hunt, run_seeds};

/// Checks the store's riskiest rules on small models of them.
#[derive(Parser)]
#[command(name = "models")]
struct Arguments {
    /// The model to run; all when absent
    model: Option<Name>,
    /// How many seeds
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Hunt the deliberate bugs instead: how many seeds does each take?
    #[arg(long)]
    mutants: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Who owns which block
    Snapshots,
    /// What arrives from elsewhere
    Fill,
    /// What a power cut leaves
    Crash,
    /// Who owns a volume that moves; no seeds: every state is visited
    Handover,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |name: Name| arguments.model.is_none_or(|chosen| chosen == name);
    let mut sound = true;
    if wanted(Name::Snapshots) {
        sound &= run(&SNAPSHOTS, &arguments);
    }
    if wanted(Name::Fill) {
        sound &= run(&FILL, &arguments);
    }
    if wanted(Name::Crash) {
        sound &= run(&CRASH, &arguments);
    }
    if wanted(Name::Handover) {
        sound &= match arguments.mutants {
            true => hunt_handover(),
            false => visit_handover(),
        };
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn visit_handover() -> bool {
    for bounds in handover::WORLDS {
        let start = Instant::now();
        match handover::explore(bounds, None) {
            Ok(visited) => {
                let seconds = start.elapsed().as_secs_f64();
                println!("handover: {bounds:?}: {visited}, {seconds:.1} s");
            }
            Err(what) => {
                println!("handover: {bounds:?}: {what}");
                return false;
            }
        }
    }
    true
}

fn hunt_handover() -> bool {
    let mut all = true;
    for mutant in handover::MUTANTS {
        let worlds = handover::SMALL.into_iter();
        let mut found = worlds.filter_map(|bounds| handover::explore(bounds, Some(mutant)).err());
        match found.next() {
            Some(what) => println!("{mutant:?}: {what}"),
            None => {
                all = false;
                println!("{mutant:?}: not noticed");
            }
        }
    }
    all
}

fn run<C: Sum, M: Copy + Debug>(model: &Model<C, M>, arguments: &Arguments) -> bool {
    if arguments.mutants {
        return hunt_all(model, arguments);
    }
    let start = Instant::now();
    match run_seeds(model, arguments.first_seed, arguments.seeds) {
        Ok(counts) => {
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{}: {} seeds, {seconds:.1} s\n{counts}",
                model.name, arguments.seeds
            );
            true
        }
        Err(failure) => {
            println!("{failure}: {}", failure.root_cause());
            false
        }
    }
}

fn hunt_all<C: Sum, M: Copy + Debug>(model: &Model<C, M>, arguments: &Arguments) -> bool {
    let mut all = true;
    for (mutant, bound) in model.mutants {
        match hunt(model, *mutant, arguments.first_seed, arguments.seeds) {
            Some((seeds, what)) => {
                all &= seeds <= *bound;
                println!("{mutant:?}: {seeds} of {bound} seeds: {what}");
            }
            None => {
                all = false;
                println!("{mutant:?}: not noticed");
            }
        }
    }
    all
}
