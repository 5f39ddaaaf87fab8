//! The model `snapshots`: ownership by births, without counts of references.
//!
//! Volumes are written, discarded, grown, snapshotted, cloned, rolled back and deleted in any order; checkpoints merge, reclaim and
//! collapse beside that; the power fails. After every step each block in use has exactly one owner; at rest a
//! difference is what a comparison block by block says, and a delete frees what was foretold; in the end nothing is left.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::counts::Counts;
use crate::maps::mutant::Mutant;
use crate::maps::pointer::Lba;
use crate::maps::{Kind, MapId};
use crate::oracle::BLOCKS_MAX;
use crate::workload::Workload;

/// Steps of a seed.
const STEPS: u64 = 400;

/// The deliberate bugs that this model must notice, each with the seeds within which it must.
pub const MUTANTS: [(Mutant, u64); 18] = [
    (Mutant::CollapseBranch, 20),
    (Mutant::IgnoreCursor, 20),
    (Mutant::DetachStraddling, 100),
    (Mutant::ReclaimWithBoundOfNow, 100),
    (Mutant::NodesFreedOnEntry, 20),
    (Mutant::CollapseNeighbours, 20),
    (Mutant::SharedSubtreesFreed, 20),
    (Mutant::EqualHeightsOnly, 50),
    (Mutant::HolesWithoutBirth, 20),
    (Mutant::GrowWithoutEntry, 20),
    (Mutant::BareLevels, 50),
    (Mutant::RefuseOlderThanHole, 50),
    (Mutant::ChildMergedFirst, 20),
    (Mutant::WriteAcrossSnapshot, 20),
    (Mutant::RollbackKeepsParent, 20),
    (Mutant::ReplayTrustsEntry, 50),
    (Mutant::UniqueIgnoresHiddenParent, 50),
    (Mutant::DiffBySeq, 100),
];

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Counts> {
    let mut clients = Workload::new(seed, mutant);
    clients.create()?;
    clients.create()?;
    for _ in 0..STEPS {
        if clients.random.one_in(150) {
            check_at_rest(&mut clients)?;
        }
        clients.step()?;
        clients.after_step()?;
    }
    clients.end()?;
    Ok(clients.store.lab.counts)
}

/// Things that are asked of a store at rest.
fn check_at_rest(clients: &mut Workload) -> Result<()> {
    clients.settle_all()?;
    clients.rest()?;
    clients.compare_all()?;
    let visible = clients.store.visible();
    for _ in 0..4 {
        let random = &mut clients.random;
        if let (Some(old), Some(new)) = (random.pick(&visible), random.pick(&visible)) {
            check_diff(clients, old, new)?;
        }
    }
    match clients.random.pick(&visible) {
        Some(id) => check_delete(clients, id),
        None => Ok(()),
    }
}

fn check_diff(clients: &mut Workload, old: MapId, new: MapId) -> Result<()> {
    let live = &clients.store.live;
    let found = live.diff(&clients.store.lab, old, new)?;
    let now = &clients.history.now;
    let differs = |lba: &Lba| now.block(old, *lba).content != now.block(new, *lba).content;
    let expected = (0..BLOCKS_MAX as u64).filter(differs).collect::<Vec<_>>();
    if live.is_ancestor(old, new)? {
        let same = live.diff_to_descendant(&clients.store.lab, old, new)? == found;
        ensure!(
            same,
            "maps {old} and {new} differ elsewhere when births are believed"
        );
    }
    clients.store.lab.counts.diffs += 1;
    ensure!(
        found == expected,
        "maps {old} and {new} differ in {expected:?}, not {found:?}"
    );
    Ok(())
}

/// In a copy of the store, deletes a map and compares what that frees with what was foretold.
fn check_delete(clients: &mut Workload, id: MapId) -> Result<()> {
    let (live, lab) = (&clients.store.live, &clients.store.lab);
    let foretold = live.freed_by_delete(lab, id)?;
    check_unique(clients, id, &foretold)?;
    let mut copy = clients.at_rest();
    copy.delete(&[id])?;
    copy.rest()?;
    let gone = |addr: &usize| !copy.store.live.allocated.contains(addr);
    let freed = clients.store.live.allocated.iter().copied().filter(gone);
    let freed = freed.collect::<BTreeSet<_>>();
    clients.store.lab.counts.deletes_predicted += 1;
    ensure!(
        foretold == freed,
        "deleting map {id} frees {} blocks, foretold were {}",
        freed.len(),
        foretold.len()
    );
    Ok(())
}

/// Of the blocks that a map refers to, those that its deletion frees are those that no other visible map refers to, unless
/// something hidden keeps them.
fn check_unique(clients: &Workload, id: MapId, foretold: &BTreeSet<usize>) -> Result<()> {
    let (live, lab) = (&clients.store.live, &clients.store.lab);
    let mut alone = live.data_of(lab, id)?;
    let unique = alone
        .intersection(foretold)
        .copied()
        .collect::<BTreeSet<_>>();
    for other in clients.store.visible() {
        if other != id {
            let others = live.data_of(lab, other)?;
            alone.retain(|addr| !others.contains(addr));
        }
    }
    ensure!(
        unique.is_subset(&alone),
        "map {id} alone has blocks that others refer to"
    );
    let hides = live.children(id).len() > 1;
    let hidden = live.maps.values().any(|map| map.kind == Kind::Deleted);
    ensure!(
        hides || hidden || unique == alone,
        "map {id} alone has more than a delete frees"
    );
    Ok(())
}
