//! Runs seeds of a model, or hunts a deliberate bug with them.

use std::fmt;

use anyhow::{Context, Result};

/// One of the models.
pub struct Model<C: 'static, M: 'static> {
    /// What the command line calls it.
    pub name: &'static str,
    /// Runs a seed, with a deliberate bug or without; returns what was done.
    pub run: fn(u64, Option<M>) -> Result<C>,
    /// Deliberate bugs, each with the number of seeds within which it must be noticed.
    pub mutants: &'static [(M, u64)],
}

/// Ownership of blocks.
pub const SNAPSHOTS: Model<crate::Counts, crate::Mutant> = Model {
    name: "snapshots",
    run: crate::snapshots::run,
    mutants: &crate::snapshots::MUTANTS,
};

/// Blocks that arrive from somewhere else.
pub const FILL: Model<crate::Counts, crate::Mutant> = Model {
    name: "fill",
    run: crate::fill::run,
    mutants: &crate::fill::MUTANTS,
};

/// Power cuts.
pub const CRASH: Model<crate::CrashCounts, crate::CrashMutant> = Model {
    name: "crash",
    run: crate::crash::run,
    mutants: &crate::crash::MUTANTS,
};

/// What many seeds did, together.
pub trait Sum: Default + fmt::Display {
    /// Adds what one seed did.
    fn add(&mut self, other: &Self);
}

/// Runs seeds of a model without any bug.
///
/// # Errors
/// Names the first seed that fails and says what was wrong.
pub fn run_seeds<C: Sum, M: Copy>(model: &Model<C, M>, first: u64, seeds: u64) -> Result<C> {
    let mut sum = C::default();
    for seed in first..first + seeds {
        sum.add(&(model.run)(seed, None).with_context(|| format!("{} seed {seed}", model.name))?);
    }
    Ok(sum)
}

/// Looks for a seed that notices a deliberate bug: how many it took, and what was noticed.
pub fn hunt<C: Sum, M: Copy>(
    model: &Model<C, M>,
    mutant: M,
    first: u64,
    seeds: u64,
) -> Option<(u64, String)> {
    (first..first + seeds).find_map(|seed| {
        let error = (model.run)(seed, Some(mutant)).err()?;
        Some((seed - first + 1, error.to_string()))
    })
}
