//! A slice of the systematic runs; `cargo xtask sim --systematic` looks at all of it.

use sim::Mutants;
use sim::systematic::{Sequences, full_pools, single_faults};

#[test]
fn single_faults_are_survived_or_told() {
    for (drives, every) in [(1, 4), (2, 5)] {
        match single_faults(drives, (every, 2), Mutants::default(), &|_, _| {}) {
            Ok(count) => eprintln!("{drives} drives: {count}"),
            Err(what) => panic!("{what}"),
        }
    }
}

#[test]
fn short_sequences_survive_every_power_cut() {
    for (length, every) in [(1, 1), (2, 61)] {
        let sequences = Sequences {
            length,
            every,
            threads: 2,
        };
        match sequences.run(Mutants::default(), &|_, _| {}) {
            Ok(count) => eprintln!("{count}"),
            Err(what) => panic!("{what}"),
        }
    }
}

#[test]
fn full_pools_give_space_back() {
    match full_pools((5, 2), Mutants::default(), &|_, _| {}) {
        Ok(count) => eprintln!("{count} full pools"),
        Err(what) => panic!("{what}"),
    }
}
