//! Many seeds on all processors, each in one thread.

use core::fmt;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError, mpsc};

use crate::mutants::parts;
use crate::profile::Parts;
use crate::scenario::{Outcome, Scenario, Task};
use crate::tally::Tally;
use store::{Mutant, Mutants};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds, counting up.
    pub seeds: u64,
    /// Requests of clients for each seed.
    pub operations: u64,
    /// What a scenario may contain.
    pub parts: Parts,
    /// Threads; 0 takes as many as there are processors.
    pub threads: usize,
    /// Prints every event to standard error.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_seed: 1,
            seeds: 200,
            operations: 1000,
            parts: Parts::ALL,
            threads: 0,
            verbose: false,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Seeds that are done.
    pub done: u64,
    /// Seeds in all.
    pub seeds: u64,
    /// What happened so far.
    pub so_far: Tally,
}

/// A seed that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Requests of the run.
    pub operations: u64,
    /// Parts of the scenario.
    pub parts: Parts,
    /// What went wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.what)?;
        out.write_str(&replay_line(self.seed, self.operations, self.parts))
    }
}

impl core::error::Error for Failure {}

fn replay_line(seed: u64, operations: u64, parts: Parts) -> String {
    let mut line = format!("cargo xtask sim --seed {seed:#x} --operations {operations}");
    for (wanted, flag) in [
        (parts.restarts, " --without restarts"),
        (parts.faults, " --without faults"),
        (parts.network, " --without network"),
        (parts.snapshots, " --without snapshots"),
        (parts.adoption, " --without adoption"),
    ] {
        if !wanted {
            line.push_str(flag);
        }
    }
    line
}

thread_local! {
    /// What this thread is at, for the report of a panic.
    static CURRENT: Cell<Option<(u64, u64, Parts)>> = const { Cell::new(None) };
    /// Panics are expected here.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A panic ends the process where panics abort, so the replay line is printed before anything else can happen.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                return;
            }
            before(info);
            if let Some((seed, operations, parts)) = CURRENT.get() {
                eprintln!("{}", replay_line(seed, operations, parts));
            }
        }));
    });
}

/// Shows what the appliance logs, between the events of a verbose run.
struct ShowLog;

impl log::Log for ShowLog {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{:>16} {}: {}", "", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Runs one seed in this thread.
///
/// # Errors
/// What it found.
pub fn run_seed(
    seed: u64,
    operations: u64,
    parts: Parts,
    verbose: bool,
) -> Result<Outcome, Failure> {
    if verbose && log::set_logger(&ShowLog).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
    run_task(&Task {
        seed,
        operations,
        parts,
        mutants: Mutants::default(),
        verbose,
    })
}

/// Counts the seeds, from 1 on, that it takes to notice a deliberate bug of the store: the number and what was noticed,
/// or `None` when `seeds_max` seeds notice nothing. Panics count, so this wants a build in which they unwind.
#[must_use]
pub fn hunt(mutant: Mutant, seeds_max: u64, operations: u64) -> Option<(u64, String)> {
    QUIET.set(true);
    let found = (1..=seeds_max)
        .find_map(|seed| hunt_seed(mutant, seed, operations).map(|what| (seed, what)));
    QUIET.set(false);
    found
}

/// What one seed notices of a deliberate bug.
#[must_use]
pub fn hunt_seed(mutant: Mutant, seed: u64, operations: u64) -> Option<String> {
    let task = Task {
        seed,
        operations,
        parts: parts(mutant),
        mutants: Mutants::only(mutant),
        verbose: false,
    };
    run_task(&task).err().map(|failure| failure.what)
}

fn run_task(task: &Task) -> Result<Outcome, Failure> {
    report_panics();
    let Task {
        seed,
        operations,
        parts,
        ..
    } = *task;
    CURRENT.set(Some((seed, operations, parts)));
    let result = catch_unwind(AssertUnwindSafe(|| Scenario::new(task).run()));
    CURRENT.set(None);
    let result = result.unwrap_or_else(|panic| {
        let text = (panic.downcast_ref::<String>().map(String::as_str))
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a message")))
    });
    result.map_err(|what| Failure {
        seed,
        operations,
        parts,
        what,
    })
}

/// Runs all seeds of `options` on several threads and reports progress after each.
///
/// # Errors
/// The first finding; seeds that had begun are finished, no further ones begin.
pub fn run(options: &Options, progress: &mut dyn FnMut(&Progress)) -> Result<Tally, Failure> {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match options.threads {
        0 => processors(),
        threads => threads,
    };
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let (sender, receiver) = mpsc::channel();
    let mut state = Progress {
        seeds: options.seeds,
        ..Progress::default()
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, stop, failure) = (&next, &stop, &failure);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= options.seeds {
                        break;
                    }
                    let seed = options.first_seed.wrapping_add(index);
                    match run_seed(seed, options.operations, options.parts, options.verbose) {
                        // The receiver lives as long as this scope.
                        Ok(outcome) => drop(sender.send(outcome)),
                        Err(found) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(found);
                        }
                    }
                }
            });
        }
        drop(sender);
        for outcome in &receiver {
            state.done += 1;
            state.so_far += outcome.tally;
            progress(&state);
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure {
        Some(failure) => Err(failure),
        None => Ok(state.so_far),
    }
}
