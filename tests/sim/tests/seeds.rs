//! The gate of every commit: many seeds, the same seed twice, and every seed that ever found a bug.

use sim::{Options, Parts, run, run_seed};

#[test]
fn five_hundred_seeds_find_nothing() {
    let start = std::time::Instant::now();
    let options = Options {
        seeds: 500,
        operations: 2000,
        ..Options::default()
    };
    match run(&options, &mut |_| {}) {
        Ok(summary) => eprintln!("{summary}, {:.1} s", start.elapsed().as_secs_f64()),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn seeds_that_found_bugs_find_nothing() {
    let lines = include_str!("../seeds.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let digits = words.next().and_then(|word| word.strip_prefix("0x"));
        let seed = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let operations = words.next().and_then(|word| word.parse().ok());
        let (Some(seed), Some(operations)) = (seed, operations) else {
            panic!("not a seed and a number of requests: {line}");
        };
        if let Err(failure) = run_seed(seed, operations, Parts::ALL, false) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_repeats_itself_exactly() {
    for seed in 1000..1010 {
        let run = || run_seed(seed, 300, Parts::ALL, false).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(run(), run(), "seed {seed:#x}");
    }
}
