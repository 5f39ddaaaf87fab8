//! The model `crash`: a journal, checkpoints and recovery on one drive with a volatile cache.
//!
//! As the engine does it: a record is made only after its data completed; a frame says up to which frame everything was
//! durable; blocks are reused only after the checkpoint that freed them. The power fails between any two steps, in recovery,
//! too. Afterwards the volume holds a prefix of the acknowledged writes, with at least all that a flush promised, nothing is
//! reported as damaged, and in the end no block is lost.

mod checkpoint;
mod drive;
mod format;
mod recover;
mod store;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use drive::{Cut, Drive};
use format::{Birth, LBAS};
use store::Store;

use crate::counts::CrashCounts;
use crate::random::Random;

/// Deliberate bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Recovery believes the tail of the journal without looking at the data.
    NoTailVerify,
    /// A block is reused when a newer write replaced it, before a checkpoint.
    ReuseReplaced,
    /// Blocks of the old map are reused before the new superblock is durable.
    ReuseTree,
    /// Nodes are not durable when the superblock is written.
    NoFlushBeforeSuperblock,
    /// A checkpoint counts before its superblock is durable.
    PublishBeforeFlush,
    /// A frame says that it is durable itself.
    FrameVouchesForItself,
    /// What completed while a FLUSH ran counts as flushed.
    DurableAtCompletion,
    /// A record is made, and acknowledged, when its data is on the way.
    RecordBeforeData,
    /// A flush is acknowledged when its frame is written.
    AckWithoutFlush,
    /// The superblock is overwritten in place.
    OneSlot,
    /// The new mount generation is not written, so births repeat.
    MountNotWritten,
    /// A frame counts although it does not follow the one before.
    NoChain,
    /// Recovery builds on what is only in the drive's cache.
    NoFlushInRecovery,
    /// The ring is reused from the cut on, not from the publishing on.
    TailMovesAtCut,
    /// Writes in flight are not counted when the ring fills up.
    RingForgetsWrites,
    /// The superblock's tail is where the journal is by then, not where the cut was.
    TailBehindCut,
}

/// The deliberate bugs, each with the seeds within which it must be noticed.
pub const MUTANTS: [(Mutant, u64); 16] = [
    (Mutant::NoTailVerify, 500),
    (Mutant::ReuseReplaced, 500),
    (Mutant::ReuseTree, 500),
    (Mutant::NoFlushBeforeSuperblock, 500),
    (Mutant::PublishBeforeFlush, 500),
    (Mutant::FrameVouchesForItself, 500),
    (Mutant::DurableAtCompletion, 500),
    (Mutant::RecordBeforeData, 500),
    (Mutant::AckWithoutFlush, 500),
    (Mutant::OneSlot, 500),
    (Mutant::MountNotWritten, 500),
    (Mutant::NoChain, 500),
    (Mutant::NoFlushInRecovery, 500),
    (Mutant::TailMovesAtCut, 500),
    (Mutant::RingForgetsWrites, 500),
    (Mutant::TailBehindCut, 500),
];

/// Steps within which a store that nobody uses must become quiet.
const QUIET_MAX: usize = 10_000;

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<CrashCounts> {
    let mut random = Random::new(seed);
    let mut drive = Drive::default();
    recover::format(&mut drive);
    let mut counts = CrashCounts::default();
    let mut store = open(drive, mutant, &mut random, &mut counts)?;
    for _ in 0..3 + random.below(6) {
        for _ in 0..random.below(300) {
            step(&mut store, &mut random, &mut counts);
            ensure!(
                !store.is_out_of_order,
                "a block was replaced by an older one"
            );
            let lba = random.index(LBAS);
            if mutant == Some(Mutant::RecordBeforeData) {
                // Caught by power cuts, too, not only by reads that are too early.
                continue;
            }
            ensure!(
                store.read(lba)? == expected(&store.history, lba),
                "block {lba} is wrong"
            );
        }
        store = cut_power(store, &mut random, &mut counts)?;
    }
    check_space(&mut store, &mut random, &mut counts)?;
    Ok(counts)
}

fn step(store: &mut Store, random: &mut Random, counts: &mut CrashCounts) {
    counts.steps += 1;
    let lba = random.index(LBAS);
    match random.below(100) {
        0..45 => store.write(random, lba),
        45..51 => store.flush(),
        51..58 => store.flush_drive(),
        58 => store.begin_checkpoint(),
        _ => complete(store, random),
    }
    if store.wants_checkpoint() {
        store.begin_checkpoint();
    }
}

fn complete(store: &mut Store, random: &mut Random) {
    if let Some(op) = store.drive.complete_one(random) {
        store.completed(random, op);
    }
}

fn expected(history: &[(usize, Birth)], lba: usize) -> Option<Birth> {
    let newest = history.iter().rev().find(|write| write.0 == lba);
    newest.map(|write| write.1)
}

fn open(
    mut drive: Drive,
    mutant: Option<Mutant>,
    random: &mut Random,
    counts: &mut CrashCounts,
) -> Result<Store> {
    loop {
        let mut is_cut = || random.one_in(12);
        match recover::recover(drive, mutant, &mut is_cut)? {
            Ok(store) => return Ok(store),
            Err(same) => {
                drive = same;
                counts.cuts_in_recovery += 1;
                drive.stop(cut(random), random);
            }
        }
    }
}

fn cut(random: &mut Random) -> Cut {
    if random.one_in(4) {
        Cut::Reset
    } else {
        Cut::Power
    }
}

/// Stops the machine, opens the pool again, and finds the prefix that it holds.
fn cut_power(store: Store, random: &mut Random, counts: &mut CrashCounts) -> Result<Store> {
    counts.cuts += 1;
    counts.writes += (store.history.len() - store.opened_with) as u64;
    counts.flushes += store.flushed;
    counts.checkpoints += store.checkpoints;
    let Store {
        mut drive,
        mutant,
        mut history,
        promised,
        ..
    } = store;
    drive.stop(cut(random), random);
    let mut opened = open(drive, mutant, random, counts)?;
    let found = (0..LBAS)
        .map(|lba| opened.read(lba))
        .collect::<Result<Vec<_>>>()?;
    let kept = (promised..=history.len()).rev().find(|kept| {
        let newest = history[..*kept].iter().copied().collect::<BTreeMap<_, _>>();
        (0..LBAS).all(|lba| newest.get(&lba).copied() == found[lba])
    });
    let kept = kept.context("what is left is no prefix with all that was promised")?;
    counts.writes_lost += (history.len() - kept) as u64;
    counts.blocks_recovered += opened.active.len() as u64;
    history.truncate(kept);
    opened.opened_with = kept;
    opened.history = history;
    opened.promised = kept;
    Ok(opened)
}

/// When all is merged, what is in use is what the map refers to.
fn check_space(store: &mut Store, random: &mut Random, counts: &mut CrashCounts) -> Result<()> {
    let before = store.checkpoints;
    for _ in 0..QUIET_MAX {
        if store.is_quiet() && store.checkpoints >= before + 3 {
            let reachable = store.reachable();
            ensure!(store.superblock.used == reachable, "blocks are lost");
            return Ok(());
        }
        if store.checkpoint.is_none() && store.checkpoints < before + 3 {
            store.begin_checkpoint();
        }
        store.flush_drive();
        complete(store, random);
        counts.steps += 1;
    }
    anyhow::bail!("the store does not become quiet")
}
