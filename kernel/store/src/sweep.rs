//! Giving back what arrived of an adopted volume and nobody needs any more: what all that lead to a base have replaced.
//!
//! A block of a base is in use as long as a look-up of some volume or snapshot ends at it. That nobody's does stays so: new maps begin as others are, and
//! remote pointers are only ever replaced. Only the first of all, which begin as the base itself ([`adopt_again`](crate::Store::adopt_again)),
//! could bring one back, so that a base which was swept makes no more of them.

use alloc::vec::Vec;
use core::ops::Range;

use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::{BaseId, StoreError, SweepStep};
use crate::diff::root_of;
use crate::layout::{FAN, Kind, Pointer};
use crate::lineage::Place;
use crate::lockstep::Root;
use crate::shared::{Handle, Shared};
use crate::store::Store;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// With more volumes and snapshots of one base than this, nobody looks.
const REFERRERS_MAX: usize = 256;

impl<D: Disk + 'static> Store<D> {
    /// Frees what nobody needs of a base of which all has arrived, from byte `offset` on, in at most one leaf of its map (512 KiB).
    ///
    /// # Errors
    /// [`NoVolume`](StoreError::NoVolume) when nothing needs the base any more, a pool that takes no writes, a failing drive, or damaged maps.
    pub async fn sweep(&self, base: BaseId, offset: u64) -> Result<SweepStep, StoreError> {
        self.shared.sweep(base.0, offset / BLOCK).await
    }
}

impl<D: Disk + 'static> Shared<D> {
    async fn sweep(self: &Handle<D>, base: u64, from: u64) -> Result<SweepStep, StoreError> {
        let blocks = {
            let state = self.state.borrow();
            let tree = state.require_base(base)?;
            if tree.known() < tree.blocks() {
                return Ok(SweepStep::default());
            }
            tree.blocks()
        };
        if from == 0 {
            // What arrived is in its nodes then, and holes have nothing among the deltas to be older than.
            self.settle(Place::Map(base), true).await?;
            self.mark_swept(base)?;
        }
        let Some(leaf) = self.next_leaf(base, from..blocks).await? else {
            return Ok(SweepStep::default());
        };
        let turn = self
            .in_flight
            .enter(base, leaf.start, leaf.end, self.config.mutants)
            .await;
        let mut step = SweepStep {
            next: Some(leaf.end * BLOCK).filter(|_| leaf.end < blocks),
            ..SweepStep::default()
        };
        for (run, data) in self.unused_runs(base, leaf).await? {
            self.wait_for_hole_room().await?;
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let birth = state.require_base(base)?.entry.seq.get() + run.start;
            self.commit_hole(state, base, run, birth);
            step.freed_bytes += data * BLOCK;
            step.holes += 1;
        }
        drop(turn);
        self.throttle().await;
        Ok(step)
    }

    /// The next leaf in which something has arrived.
    async fn next_leaf(
        &self,
        base: u64,
        blocks: Range<u64>,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let root = {
            let state = self.state.borrow();
            root_of(state.require_base(base)?)
        };
        let has_data = |[_, own]: [&Pointer; 2], _| !own.is_hole();
        let roots = [Root::default(), root];
        let leaves = match self.next_leaves(roots, blocks.start, has_data).await {
            Ok(leaves) => leaves,
            // A checkpoint may have freed a node that this was on its way to; another try knows better.
            Err(error) => {
                let is_new = root_of(self.state.borrow().require_base(base)?) != root;
                return match is_new {
                    true => Ok(Some(blocks.start..blocks.start)),
                    false => Err(error),
                };
            }
        };
        let leaf = leaves.map(|leaves| leaves.first..(leaves.first + FAN as u64).min(blocks.end));
        Ok(leaf.filter(|leaf| leaf.start < blocks.end))
    }

    /// Nobody begins as this base any more.
    fn mark_swept(self: &Handle<D>, base: u64) -> Result<(), StoreError> {
        let state = &mut *self.state.borrow_mut();
        state.require_serving()?;
        let tree = state.require_base(base)?;
        if !tree.entry.is_swept() {
            let mut entry = tree.entry.clone();
            entry.set_swept();
            self.change_catalog(state, &[entry]);
        }
        Ok(())
    }

    /// Runs of a leaf in which nothing is in use, and how many blocks of data each has; those with none are left out.
    async fn unused_runs(
        &self,
        base: u64,
        leaf: Range<u64>,
    ) -> Result<Vec<(Range<u64>, u64)>, StoreError> {
        let maps = self.state.borrow().maps_with(base);
        let mut runs: Vec<(Range<u64>, u64)> = Vec::new();
        if maps.len() > REFERRERS_MAX {
            return Ok(runs);
        }
        let mut at = leaf.start;
        let mut is_open = false;
        while at < leaf.end {
            let count = (leaf.end - at).min(Buf::PAGES_MAX as u64);
            let count = usize::try_from(count).unwrap_or(Buf::PAGES_MAX);
            let own = self.look_up_in_base(base, at, count).await?;
            let mut is_used = [false; Buf::PAGES_MAX];
            for map in &maps {
                let pointers = match self.lookup(Place::Map(*map), at, count).await {
                    Ok(pointers) => pointers,
                    // It is being deleted, and that may come to nothing.
                    Err(StoreError::NoVolume | StoreError::NoSnapshot) => own.clone(),
                    Err(error) => return Err(error),
                };
                for ((is_used, own), found) in is_used.iter_mut().zip(&own).zip(&pointers) {
                    *is_used |= own.kind() == Kind::Data && own == found;
                }
            }
            for (is_used, own) in is_used.iter().zip(&own) {
                match runs.last_mut() {
                    _ if *is_used => {}
                    Some((run, data)) if is_open => {
                        run.end = at + 1;
                        *data += u64::from(own.kind() == Kind::Data);
                    }
                    _ => runs.push((at..at + 1, u64::from(own.kind() == Kind::Data))),
                }
                is_open = !*is_used;
                at += 1;
            }
        }
        runs.retain(|(_, data)| *data > 0);
        Ok(runs)
    }
}
