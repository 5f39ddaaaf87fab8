//! The model `snapshots`: ownership by births, without counts of references.
//!
//! Volumes are written, discarded, grown, snapshotted, cloned, rolled back and deleted in any order; checkpoints merge, reclaim and
//! collapse beside that; the power fails. After every step each block in use has exactly one owner; at rest a
//! difference is what a comparison block by block says, and a delete frees what was foretold; in the end nothing is left.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Result, ensure};

use crate::maps::mutant::Mutant;
use crate::maps::pointer::{Birth, Lba, span};
use crate::maps::{Counts, Kind, MapId, Store};
use crate::oracle::{BLOCKS_MAX, History};
use crate::random::Random;

/// Steps of a seed.
const STEPS: u64 = 400;

/// Maps that there may be before no more are made.
const MAPS_MAX: usize = 24;

/// Checkpoints within which a store that nobody uses must come to rest.
const REST_MAX: usize = 3000;

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
    let mut scenario = Scenario {
        store: Store::default(),
        random: Random::new(seed),
        history: History::default(),
        slow: Vec::new(),
    };
    scenario.store.lab.mutant = mutant;
    scenario.run()?;
    Ok(scenario.store.lab.counts)
}

struct Scenario {
    store: Store,
    random: Random,
    history: History,
    slow: Vec<SlowWrite>,
}

/// A write that has its birth but is not done. Whatever overlaps it waits, a snapshot too: it is like a write of everything.
#[derive(Clone, Copy)]
struct SlowWrite {
    head: MapId,
    lba: Lba,
    birth: Birth,
}

impl Scenario {
    fn run(&mut self) -> Result<()> {
        for _ in 0..2 {
            self.create()?;
        }
        for _ in 0..STEPS {
            self.step()?;
            self.checkpoint_in_part()?;
            self.store.live.check(&self.store.lab)?;
            let visible = self.store.visible();
            if let Some(id) = self.random.pick(&visible) {
                self.compare(id)?;
            }
        }
        self.rest()?;
        self.compare_all()?;
        let visible = self.store.visible();
        self.delete(&visible)?;
        self.rest()?;
        ensure!(
            self.store.live.allocated.is_empty(),
            "blocks are left when all is deleted"
        );
        ensure!(
            self.store.live.maps.is_empty(),
            "maps are left when all is deleted"
        );
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.store.lab.counts.operations += 1;
        let room = self.store.live.maps.len() < MAPS_MAX;
        let heads = self.store.of_kind(Kind::Head);
        let Some(head) = self.random.pick(&heads) else {
            return self.create();
        };
        let snapshots = self.store.of_kind(Kind::Snapshot);
        let snapshot = self.random.pick(&snapshots);
        match (self.random.below(1000), snapshot) {
            (0..500, _) => self.write(head),
            (500..620, _) => self.discard(head),
            (620..720, _) if room => self.snapshot(head, &heads),
            (720..760, Some(snapshot)) if room => self.clone_snapshot(snapshot),
            (760..780, _) if room => self.roll_back(head, &snapshots),
            (780..800, _) if heads.len() > 1 => self.delete(&[head]),
            (800..810, _) if heads.len() > 1 => self.delete_volume(head),
            (810..890, Some(snapshot)) => self.delete(&[snapshot]),
            (890..910, _) => self.grow(head),
            (910..940, _) => self.touch(),
            (940..950, _) => {
                let slow = self.random.pick(&self.slow);
                slow.map_or(Ok(()), |slow| {
                    self.settle(slow.head, slow.lba..slow.lba + 1)
                })
            }
            (950..960, _) => {
                self.history.flush();
                Ok(())
            }
            (960..970, _) => self.crash(),
            (970..975, _) if room => self.create(),
            (975..982, _) => self.at_rest(),
            _ => Ok(()),
        }
    }

    fn note(&mut self) {
        self.history.note(self.store.journal.len());
    }

    fn create(&mut self) -> Result<()> {
        let size = span(1 + self.random.below(3) as u8);
        let id = self.store.create(size)?;
        self.history.now.create(id);
        self.note();
        Ok(())
    }

    fn write(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        let start = self.random.below(size);
        let end = (start + 1 + self.random.below(4)).min(size);
        self.settle(head, start..end)?;
        if self.random.one_in(8) {
            let birth = self.store.tick();
            self.slow.push(SlowWrite {
                head,
                lba: start,
                birth,
            });
            return Ok(());
        }
        for lba in start..end {
            let birth = self.store.clock + 1;
            self.store.write(head, lba, [birth; 2])?;
            self.history.now.change(head, lba, [birth; 2]);
            self.note();
        }
        Ok(())
    }

    /// Lets slow writes end that overlap a range of `head`.
    fn settle(&mut self, head: MapId, range: Range<Lba>) -> Result<()> {
        let waited_for = |slow: &mut SlowWrite| slow.head == head && range.contains(&slow.lba);
        for slow in self.slow.extract_if(.., waited_for).collect::<Vec<_>>() {
            let content = [slow.birth; 2];
            self.store
                .write_born(slow.head, slow.lba, slow.birth, content)?;
            self.history.now.change(slow.head, slow.lba, content);
            self.note();
        }
        Ok(())
    }

    fn discard(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        // Often whole subtrees, of any size.
        let unit = span(self.random.below(4) as u8).min(size);
        let start = self.random.below(size / unit) * unit;
        let len = unit * (1 + self.random.below(2)) + self.random.below(2) * self.random.below(4);
        let end = (start + len).min(size);
        self.settle(head, start..end)?;
        self.store.discard(head, start, end)?;
        for lba in start..end {
            self.history.now.change(head, lba, [0; 2]);
        }
        self.note();
        Ok(())
    }

    fn snapshot(&mut self, head: MapId, heads: &[MapId]) -> Result<()> {
        let mut chosen = vec![head];
        let other = self.random.pick(heads).filter(|other| *other != head);
        chosen.extend(other.filter(|_| self.random.one_in(4)));
        if !self.store.lab.has(Mutant::WriteAcrossSnapshot) {
            chosen
                .iter()
                .try_for_each(|head| self.settle(*head, 0..Lba::MAX))?;
        }
        let new = self.store.snapshot(&chosen)?;
        for (of, id) in chosen.iter().zip(&new) {
            self.history.now.copy(*of, *id);
            for slow in self.slow.iter_mut().filter(|slow| slow.head == *of) {
                slow.head = *id;
            }
        }
        self.note();
        Ok(())
    }

    fn clone_snapshot(&mut self, snapshot: MapId) -> Result<()> {
        let id = self.store.clone_snapshot(snapshot)?;
        self.history.now.copy(snapshot, id);
        self.note();
        Ok(())
    }

    fn roll_back(&mut self, head: MapId, snapshots: &[MapId]) -> Result<()> {
        let volume = self.store.live.map(head)?.volume;
        let mut own = snapshots.to_vec();
        own.retain(|id| self.store.live.maps[id].volume == volume);
        let Some(snapshot) = self.random.pick(&own) else {
            return Ok(());
        };
        self.settle(head, 0..Lba::MAX)?;
        let id = self.store.roll_back(head, snapshot)?;
        self.history.now.copy(snapshot, id);
        self.history.now.remove(head);
        self.note();
        Ok(())
    }

    fn delete(&mut self, maps: &[MapId]) -> Result<()> {
        maps.iter()
            .try_for_each(|id| self.settle(*id, 0..Lba::MAX))?;
        self.store.delete(maps)?;
        maps.iter().for_each(|id| self.history.now.remove(*id));
        self.note();
        Ok(())
    }

    /// With all its snapshots; clones of them live on.
    fn delete_volume(&mut self, head: MapId) -> Result<()> {
        let volume = self.store.live.map(head)?.volume;
        let mut maps = self.store.visible();
        maps.retain(|id| self.store.live.maps[id].volume == volume);
        self.delete(&maps)
    }

    fn grow(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        let larger = size * span(1 + self.random.below(2) as u8);
        self.store.grow(head, larger.min(BLOCKS_MAX as u64))?;
        self.note();
        Ok(())
    }

    fn touch(&mut self) -> Result<()> {
        let visible = self.store.visible();
        if let Some(id) = self.random.pick(&visible) {
            self.store.touch(id)?;
            self.note();
        }
        Ok(())
    }

    fn crash(&mut self) -> Result<()> {
        let flushed = self.history.flushed();
        let loose = self.store.journal.len() - flushed;
        let kept = flushed + self.random.index(loose + 1);
        self.store.crash(kept)?;
        self.slow.clear();
        self.history.cut(kept);
        self.store.live.check(&self.store.lab)?;
        self.compare_all()
    }

    fn checkpoint_in_part(&mut self) -> Result<()> {
        if self.store.image.is_none() {
            if self.random.one_in(4) {
                self.store.begin_checkpoint();
            }
        } else if self.random.one_in(2) {
            self.end_checkpoint()?;
        }
        Ok(())
    }

    fn end_checkpoint(&mut self) -> Result<()> {
        let forgotten = self.store.end_checkpoint(&mut self.random)?;
        self.history.forget(forgotten);
        self.store.published.check(&self.store.lab)
    }

    /// Checkpoints until nothing is left to do.
    fn rest(&mut self) -> Result<()> {
        for _ in 0..REST_MAX {
            if self.store.is_idle() {
                return self.store.live.check(&self.store.lab);
            }
            if self.store.image.is_none() {
                self.store.begin_checkpoint();
            }
            self.end_checkpoint()?;
        }
        anyhow::bail!("the store does not come to rest")
    }

    fn compare(&self, id: MapId) -> Result<()> {
        let size = self.store.live.map(id)?.size;
        for lba in 0..size {
            let pointer = self.store.live.read(&self.store.lab.disk, id, lba)?;
            let found = pointer
                .data()
                .map_or([0; 2], |addr| self.store.lab.disk.data(addr));
            let expected = self.history.now.block(id, lba).content;
            ensure!(
                found == expected,
                "block {lba} of map {id} is {found:?}, not {expected:?}"
            );
        }
        Ok(())
    }

    fn compare_all(&self) -> Result<()> {
        self.store
            .visible()
            .into_iter()
            .try_for_each(|id| self.compare(id))
    }

    /// Things that are asked of a store at rest.
    fn at_rest(&mut self) -> Result<()> {
        for head in self.store.of_kind(Kind::Head) {
            self.settle(head, 0..Lba::MAX)?;
        }
        self.rest()?;
        self.compare_all()?;
        let visible = self.store.visible();
        for _ in 0..4 {
            if let (Some(old), Some(new)) = (self.random.pick(&visible), self.random.pick(&visible))
            {
                self.check_diff(old, new)?;
            }
        }
        match self.random.pick(&visible) {
            Some(id) => self.check_delete(id),
            None => Ok(()),
        }
    }

    fn check_diff(&mut self, old: MapId, new: MapId) -> Result<()> {
        let live = &self.store.live;
        let found = live.diff(&self.store.lab, old, new)?;
        let now = &self.history.now;
        let differs = |lba: &Lba| now.block(old, *lba).content != now.block(new, *lba).content;
        let expected = (0..BLOCKS_MAX as u64).filter(differs).collect::<Vec<_>>();
        self.store.lab.counts.diffs += 1;
        ensure!(
            found == expected,
            "maps {old} and {new} differ in {expected:?}, not {found:?}"
        );
        Ok(())
    }

    /// In a copy of the store, deletes a map and compares what that frees with what was foretold.
    fn check_delete(&mut self, id: MapId) -> Result<()> {
        let (live, lab) = (&self.store.live, &self.store.lab);
        let foretold = live.freed_by_delete(lab, id)?;
        self.check_unique(id, &foretold)?;
        let mut copy = Self {
            store: self.store.clone(),
            random: self.random.clone(),
            history: self.history.clone(),
            slow: Vec::new(),
        };
        copy.delete(&[id])?;
        copy.rest()?;
        let gone = |addr: &usize| !copy.store.live.allocated.contains(addr);
        let freed = self.store.live.allocated.iter().copied().filter(gone);
        let freed = freed.collect::<BTreeSet<_>>();
        self.store.lab.counts.deletes_predicted += 1;
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
    fn check_unique(&self, id: MapId, foretold: &BTreeSet<usize>) -> Result<()> {
        let (live, lab) = (&self.store.live, &self.store.lab);
        let mut alone = live.data_of(lab, id)?;
        let unique = alone
            .intersection(foretold)
            .copied()
            .collect::<BTreeSet<_>>();
        for other in self.store.visible() {
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
}
