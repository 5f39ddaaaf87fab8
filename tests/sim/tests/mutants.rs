//! A simulator that does not notice a deliberate bug tests nothing. These are the bugs that are noticed soon;
//! `cargo xtask sim --mutants` hunts all of them.

use sim::systematic::{Sequences, full_pools, single_faults};
use sim::{Mutant, Mutants, hunt};

/// Bugs that random runs must notice, and the seeds within which they must.
const BY_SEEDS: [(Mutant, u64); 26] = [
    (Mutant::NoFlush, 40),
    (Mutant::RecordBeforeData, 60),
    (Mutant::NodesFreeAtOnce, 40),
    (Mutant::TrimTooLong, 40),
    (Mutant::NoSpaceForgotten, 100),
    (Mutant::NoOverlapRule, 40),
    (Mutant::SnapshotWithoutTurn, 60),
    (Mutant::CatalogOfNow, 60),
    (Mutant::DiscardNotJournalled, 60),
    (Mutant::CollapseWithTwo, 60),
    (Mutant::DurableOffByOne, 40),
    (Mutant::FlushForgetsWrites, 60),
    (Mutant::GroupNotJournalled, 40),
    (Mutant::LateControlRecord, 40),
    (Mutant::TailTooLate, 40),
    (Mutant::NoTailVerify, 40),
    (Mutant::TailNotMarked, 40),
    (Mutant::MountNotNoted, 40),
    (Mutant::GroupOneByOne, 60),
    (Mutant::HoleLoses, 60),
    (Mutant::ErasedStillCounted, 40),
    (Mutant::PartialOfParent, 40),
    (Mutant::RemoteReadsZeros, 40),
    (Mutant::BaseStays, 40),
    (Mutant::BaseWithFiller, 60),
    (Mutant::CloneWithoutBase, 60),
];

/// Bugs that a power cut after a single operation shows.
const BY_SEQUENCES: [Mutant; 26] = [
    Mutant::NoFlushBeforeSuperblock,
    Mutant::NoFlushAfterSuperblock,
    Mutant::FlushForgetsRecords,
    Mutant::ReplaySkipsRecord,
    Mutant::ReplaySkipsFrame,
    Mutant::CursorForgotten,
    Mutant::FreeAtOnce,
    Mutant::BitmapInPlace,
    Mutant::TableInPlace,
    Mutant::SnapshotHalves,
    Mutant::HoleWithoutBirth,
    Mutant::NoLeafCount,
    Mutant::TagOfFirstBlock,
    Mutant::NoSource,
    Mutant::SourceNotMerged,
    Mutant::SeqOffByOne,
    Mutant::RollbackToHead,
    Mutant::SnapshotsStay,
    Mutant::RenameKeepsIndex,
    Mutant::NoBoundary,
    Mutant::BoundIgnoresCursor,
    Mutant::CollapseWithoutHeir,
    Mutant::CursorInLeaf,
    Mutant::ParentNotPassedOn,
    Mutant::DiffWithoutHoles,
    Mutant::UsageCountsShared,
];

/// Bugs that a damaged block shows.
const BY_FAULTS: [Mutant; 3] = [
    Mutant::ReadUnverified,
    Mutant::ScrubSkipsSnapshots,
    Mutant::ScrubFirstReplica,
];

/// Bugs that show when there is no space.
const BY_FULL_POOLS: [Mutant; 1] = [Mutant::NoReserve];

fn first_line(what: &str) -> &str {
    what.lines().next().unwrap_or_default()
}

#[test]
fn seeds_notice_bugs() {
    let hunts = BY_SEEDS
        .map(|(mutant, seeds)| std::thread::spawn(move || (mutant, hunt(mutant, seeds, 500))));
    let mut survivors = Vec::new();
    for found in hunts.map(std::thread::JoinHandle::join) {
        match found.expect("a hunt panics only inside its seeds") {
            (mutant, Some((seeds, what))) => {
                eprintln!("{mutant:?}: {seeds} seeds: {}", first_line(&what));
            }
            (mutant, None) => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "mutants that nobody noticed");
}

#[test]
fn short_sequences_notice_bugs() {
    let sequences = Sequences {
        length: 1,
        every: 1,
        threads: 2,
    };
    let mut survivors = Vec::new();
    for mutant in BY_SEQUENCES {
        match sequences.run(Mutants::only(mutant), &|_, _| {}) {
            Err(what) => eprintln!("{mutant:?}: {}", first_line(&what)),
            Ok(_) => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "mutants that nobody noticed");
}

#[test]
fn single_faults_notice_bugs() {
    let mut survivors = Vec::new();
    for mutant in BY_FAULTS {
        match single_faults(2, (1, 2), Mutants::only(mutant), &|_, _| {}) {
            Err(what) => eprintln!("{mutant:?}: {}", first_line(&what)),
            Ok(_) => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "mutants that nobody noticed");
}

#[test]
fn full_pools_notice_bugs() {
    let mut survivors = Vec::new();
    for mutant in BY_FULL_POOLS {
        match full_pools((1, 1), Mutants::only(mutant), &|_, _| {}) {
            Err(what) => eprintln!("{mutant:?}: {}", first_line(&what)),
            Ok(_) => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "mutants that nobody noticed");
}
