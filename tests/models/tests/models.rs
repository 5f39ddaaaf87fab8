//! The gate of every commit: the rules hold for some seeds, and no deliberate bug survives.

use std::fmt::Debug;

use models::{CRASH, FILL, Model, SNAPSHOTS, Sum, hunt, run_seeds};

/// Seeds of each model; many more at leisure, with the program.
const SEEDS: u64 = 100;

fn hold<C: Sum, M: Copy>(model: &Model<C, M>) {
    match run_seeds(model, 0, SEEDS) {
        Ok(counts) => eprintln!("{counts}"),
        Err(failure) => panic!("{failure}: {}", failure.root_cause()),
    }
}

fn kill<C: Sum, M: Copy + Debug>(model: &Model<C, M>) {
    let survivors = model.mutants.iter();
    let survivors = survivors.filter(|(mutant, seeds)| hunt(model, *mutant, 0, *seeds).is_none());
    let survivors = survivors
        .map(|(mutant, _)| format!("{mutant:?}"))
        .collect::<Vec<_>>();
    assert_eq!(survivors, [""; 0], "deliberate bugs that nobody noticed");
}

#[test]
fn snapshots_hold() {
    hold(&SNAPSHOTS);
}

#[test]
fn snapshots_notice_every_mutant() {
    kill(&SNAPSHOTS);
}

#[test]
fn fill_holds() {
    hold(&FILL);
}

#[test]
fn fill_notices_every_mutant() {
    kill(&FILL);
}

#[test]
fn crash_holds() {
    hold(&CRASH);
}

#[test]
fn crash_notices_every_mutant() {
    kill(&CRASH);
}
