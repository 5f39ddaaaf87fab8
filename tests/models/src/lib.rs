//! Small executable models of the store's riskiest rules. `README.md` has the rules in words and what the models found.
//!
//! They share no code with the store. Each takes a seed; each has a list of deliberate bugs that it must notice.

#![forbid(unsafe_code)]

mod counts;
mod crash;
mod fill;
pub mod handover;
mod maps;
mod oracle;
mod random;
mod runner;
mod snapshots;
mod workload;

pub use counts::{Counts, CrashCounts};
pub use crash::Mutant as CrashMutant;
pub use maps::mutant::Mutant;
pub use runner::{CRASH, FILL, Model, SNAPSHOTS, Sum, hunt, run_seeds};
