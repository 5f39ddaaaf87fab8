//! Systematic runs beside the random ones: small worlds, looked at completely.
//!
//! [`sequences`]: all short sequences of operations on a small volume, with a power cut behind every write of the drive and
//! every subset of what was not flushed. [`faults`]: every single fault of every block of a small pool in which everything is
//! that can be in one. [`full`]: full pools in which everything happens that needs space or gives it back. All run over drives that answer at once and record what they are told ([`tape`]), so that thousands of
//! recoveries fit in a second, and compare what users have ([`state`]) with what they may have.

mod cuts;
mod faults;
mod full;
mod operation;
mod power;
mod recovery;
mod sequences;
mod state;
mod tape;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use store::Mutants;

pub use faults::{FaultCount, one_fault, single_faults};
pub use full::{full_pools, one_full_pool};
use operation::Operation;
pub use sequences::Count as SequenceCount;
use sequences::Explorer;

/// Which sequences are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// Operations of the longest.
    pub length: u32,
    /// One of so many is looked at.
    pub every: u64,
    /// Threads.
    pub threads: u64,
}

thread_local! {
    /// What this thread looks at, for the report of a panic.
    static CURRENT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic ends the process where panics abort, so what was looked at is printed before anything else can happen.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            if let Some(name) = CURRENT.take() {
                eprintln!("cargo xtask sim --systematic --only {name}");
            }
        }));
    });
}

/// Does something in whose name panics are reported.
fn named<T>(name: String, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    report_panics();
    let line = format!("cargo xtask sim --systematic --only {name}");
    CURRENT.set(Some(name));
    let result = catch_unwind(AssertUnwindSafe(work));
    CURRENT.set(None);
    let result = result.unwrap_or_else(|panic| {
        let text = (panic.downcast_ref::<String>().map(String::as_str))
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a message")))
    });
    result.map_err(|what| format!("{what}\n{line}"))
}

impl Sequences {
    /// How many there are, impossible ones included.
    #[must_use]
    pub fn all(&self) -> u64 {
        let operations = Operation::ALL.len() as u64;
        let lengths = (1..=self.length).map(|length| operations.pow(length));
        lengths.sum::<u64>() * Explorer::beginnings() as u64
    }

    /// The beginning and the operations of a number.
    fn nth(&self, mut number: u64) -> (usize, Vec<Operation>) {
        let beginnings = Explorer::beginnings() as u64;
        let beginning = usize::try_from(number % beginnings).unwrap_or(0);
        number /= beginnings;
        let operations = Operation::ALL.len() as u64;
        let mut length = 1;
        while number >= operations.pow(length) {
            number -= operations.pow(length);
            length += 1;
        }
        let mut sequence = Vec::new();
        for _ in 0..length {
            let index = usize::try_from(number % operations).unwrap_or(0);
            sequence.push(Operation::ALL[index]);
            number /= operations;
        }
        (beginning, sequence)
    }

    /// Looks at all of them; `progress` hears of how many are done.
    ///
    /// # Errors
    /// The first finding, with a line that repeats it.
    pub fn run(
        &self,
        mutants: Mutants,
        progress: &(dyn Fn(u64, SequenceCount) + Sync),
    ) -> Result<SequenceCount, String> {
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let result = Mutex::new(Ok(SequenceCount::default()));
        let finish = |found: Result<SequenceCount, String>| {
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *result, found) {
                (Ok(all), Ok(count)) => *all += count,
                (all @ Ok(_), Err(what)) => *all = Err(what),
                (Err(_), _) => {}
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    let found = self.work(mutants, &next, &stop, progress);
                    stop.fetch_or(found.is_err(), Ordering::Relaxed);
                    finish(found);
                });
            }
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(
        &self,
        mutants: Mutants,
        next: &AtomicU64,
        stop: &AtomicBool,
        progress: &(dyn Fn(u64, SequenceCount) + Sync),
    ) -> Result<SequenceCount, String> {
        let mut explorer = named("beginnings".to_string(), || Explorer::new(mutants))?;
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(self.every.max(1), Ordering::Relaxed);
            if number >= self.all() {
                break;
            }
            let (beginning, operations) = self.nth(number);
            let name = sequences::name(beginning, &operations);
            named(name, || explorer.look(beginning, &operations))?;
            progress(number, explorer.count);
        }
        Ok(explorer.count)
    }
}

/// Looks at one sequence, as a finding names it.
///
/// # Errors
/// What was found, or that there is no such sequence.
pub fn one_sequence(name: &str, mutants: Mutants) -> Result<SequenceCount, String> {
    let (beginning, operations) = sequences::parse(name).ok_or("no such sequence")?;
    let mut explorer = Explorer::new(mutants)?;
    named(name.to_string(), || explorer.look(beginning, &operations))?;
    Ok(explorer.count)
}
