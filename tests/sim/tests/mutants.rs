//! A simulator that does not notice a deliberate bug tests nothing.

use sim::{Mutant, hunt};

/// Each deliberate bug and the seeds within which it must be noticed.
const MUTANTS: [(Mutant, u64); 6] = [
    (Mutant::NoFlush, 100),
    (Mutant::EarlyReuse, 100),
    (Mutant::NoTailVerify, 100),
    (Mutant::DurableOffByOne, 100),
    (Mutant::NoOverlapRule, 100),
    (Mutant::LateControlRecord, 100),
];

#[test]
fn mutants_are_killed() {
    let hunts = MUTANTS
        .map(|(mutant, seeds)| std::thread::spawn(move || (mutant, hunt(mutant, seeds, 500))));
    let mut survivors = Vec::new();
    for found in hunts.map(std::thread::JoinHandle::join) {
        match found.expect("a hunt panics only inside its seeds") {
            (mutant, Some((seeds, what))) => {
                let what = what.lines().next().unwrap_or_default();
                eprintln!("{mutant:?}: {seeds} seeds: {what}");
            }
            (mutant, None) => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "mutants that nobody noticed");
}
