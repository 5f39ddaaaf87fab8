//! What was done, for the report: numbers that are zero say that a rule was never put to the test.

use std::fmt;

use crate::runner::Sum;

macro_rules! counts {
    ($(#[$about:meta])* $counts:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Sum for $counts {
            fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for $counts {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if self.$name > 0 {
                    writeln!(out, "{:>12} {}", self.$name, stringify!($name).replace('_', " "))?;
                })*
                Ok(())
            }
        }
    };
}

counts! {
    /// What a seed of `snapshots` or `fill` did.
    Counts:
    /// Steps of clients.
    operations,
    /// Blocks of data that got a place.
    blocks_written,
    /// Nodes that got a place.
    nodes_written,
    /// Blocks and nodes given back.
    freed,
    /// Snapshots taken.
    snapshots,
    /// Clones made.
    clones,
    /// Volumes rolled back.
    rollbacks,
    /// Maps deleted by clients.
    deletes,
    /// Times that a checkpoint met a hidden map with two or more children.
    hidden,
    /// Maps that vanished.
    collapses,
    /// Subtrees that a collapse skipped.
    subtrees_skipped,
    /// Subtrees that a discard detached.
    subtrees_detached,
    /// Subtrees that a discard could not detach, since a cursor was inside.
    straddles,
    /// Levels added to trees.
    levels_added,
    /// Checkpoints published.
    checkpoints,
    /// Power cuts.
    crashes,
    /// Records replayed after them.
    records_replayed,
    /// Differences compared with a plain comparison.
    diffs,
    /// Deletes whose frees were foretold.
    deletes_predicted,
    /// Volumes adopted from an origin.
    adoptions,
    /// Blocks that were asked for at an origin.
    fetches,
    /// Blocks that arrived and were kept.
    fills,
    /// Blocks that arrived too late to be kept.
    fills_dropped,
    /// Bases deleted with the last map that needed them.
    bases_freed,
    /// Sweeps of bases.
    sweeps,
    /// Volumes that came back from elsewhere.
    returns,
}

counts! {
    /// What a seed of `crash` did.
    CrashCounts:
    /// Steps of clients and drive.
    steps,
    /// Writes acknowledged.
    writes,
    /// Of these, lost by a power cut before any flush.
    writes_lost,
    /// Times that the drive flushed its cache.
    flushes,
    /// Checkpoints published.
    checkpoints,
    /// Power cuts and resets.
    cuts,
    /// More of them, in recovery.
    cuts_in_recovery,
    /// Blocks that recovery found in the journal.
    blocks_recovered,
}
