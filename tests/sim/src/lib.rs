//! The simulated world: whole appliances, drives and clients in one thread, decided by a seed.
//!
//! Everything that a program cannot predict comes through the traits of `world`; here they are a virtual clock that
//! jumps to the next deadline, entropy from the seed, drives with a volatile cache, and an executor whose order of
//! ready tasks the seed draws. So one number repeats a run exactly: two runs of a seed have the same trace hash.
//!
//! A run: format, then lives. In each life clients send requests (several volumes that are made, grown and deleted,
//! aligned and unaligned requests of 512 B to 128 KiB, hot and cold, discards, flushes, records) until they are done
//! or the power is cut between two drive operations; then recovery (which may be cut too), comparison of everything
//! with the model, the store's own check, and the next life. In a third of the seeds some volumes are adopted, and what
//! their origins have arrives meanwhile. At the end faults stop, everything must finish and
//! all space must come back.
//!
//! # Fault legend
//!
//! | fault | what the drive does | what the store owes |
//! |---|---|---|
//! | power cut | any subset of sectors not flushed survives, in flight or completed, in any order | a prefix of completed requests, at least all flushed |
//! | reset | drives keep their caches and finish what they were told | the same |
//! | cut in recovery | a power cut while the pool is opened, twice in a row | the same |
//! | read error, write error | the operation fails; a failed write may have changed any of its sectors | an error or the right data |
//! | flush error | fails, makes nothing durable | an error; read-only until restarted |
//! | unreadable | a block cannot be read until it is written again | an error or the right data |
//! | rot | a flipped bit on the medium | the same |
//! | lost write | reported done, changes nothing | an error, or after a restart something that was there once |
//! | misdirected write | reported done, changes other blocks | the same |
//! | outlier | an operation takes a thousand times as long | patience |
//!
//! Of the seeds 60 % have power cuts and resets only, and there nothing is excused. Three steps of trust in the drives
//! (`model::Trust`) say what the other faults excuse. Wrong data is never excused: each sector names the volume,
//! the place and the write that it came from.

#![forbid(unsafe_code)]

mod client;
mod clock;
mod content;
pub mod decoders;
mod disk;
mod machine;
mod model;
mod mutants;
mod network;
mod profile;
mod random;
mod runner;
mod scenario;
pub mod systematic;
mod tally;
mod verify;

pub use mutants::{Oracle, hunt_systematically};
pub use profile::Parts;
pub use runner::{Failure, Options, Progress, hunt, hunt_seed, run, run_seed};
pub use scenario::Outcome;
pub use store::{Mutant, Mutants};
pub use tally::{Count, Tally};
