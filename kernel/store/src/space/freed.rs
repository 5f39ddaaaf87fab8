//! Blocks on their way back: freed by changes of the maps, withheld until no checkpoint that counts refers to them, told to the
//! drives, and handed out again.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::{Run, Space, block_of, group_of};
use crate::layout::{PoolAddr, REPLICAS_MAX};

/// Drives are told of at least this many blocks at a time (64 KiB).
const TRIM_MIN: usize = 16;

/// So many runs wait for that at most; others are handed out without.
const TRIMS_MAX: usize = 4096;

/// See [`Space::totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub size: u64,
    pub free: u64,
    pub pending: u64,
}

impl Space {
    /// Runs of blocks that no map has any more and that must not be handed out yet; each within a group.
    pub(super) fn withheld(&self) -> impl Iterator<Item = Run> + '_ {
        self.withheld_with(&self.freed)
    }

    /// Those of them that the entries of closed groups count as free. What the running checkpoint frees is in no entry
    /// before it writes the bitmaps.
    pub(super) fn withheld_though_free(&self) -> impl Iterator<Item = Run> + '_ {
        let freed: &[PoolAddr] = match self.are_freed_counted {
            true => &self.freed,
            false => &[],
        };
        self.withheld_with(freed)
    }

    fn withheld_with<'a>(&'a self, freed: &'a [PoolAddr]) -> impl Iterator<Item = Run> + 'a {
        let freed = self.deferred.iter().chain(freed);
        let freed = freed.map(|addr| Run {
            addr: *addr,
            blocks: 1,
        });
        freed.chain(self.trims.iter().copied())
    }

    /// The running checkpoint writes its bitmaps now, and with them what it freed.
    pub fn count_freed(&mut self) {
        self.are_freed_counted = true;
    }

    /// How many blocks that its entry counts as free a closed group withholds.
    pub(super) fn withheld_by_group(&self) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for run in self.withheld_though_free() {
            *counts.entry(group_of(run.addr)).or_insert(0) += run.blocks;
        }
        counts
    }

    /// A block of the last checkpoint's maps is in none of the running checkpoint's.
    pub fn free(&mut self, addr: PoolAddr) {
        if !self.can_hold(addr) {
            log::error!("a map names block {addr:#x}, which cannot be");
            return;
        }
        if let Some(open) = self.open.get_mut(&group_of(addr)) {
            open.base.clear(block_of(addr));
            open.dirty = true;
        }
        if self.mutants.free_at_once() {
            return self.make_available(addr);
        }
        self.freed.push(addr);
    }

    /// A write was replaced by a later one in the same delta table.
    pub fn supersede(&mut self, addr: PoolAddr, at_once: bool) {
        if at_once {
            self.give_back(Run { addr, blocks: 1 });
        } else if !self.mutants.superseded_lost() {
            self.superseded.push(addr);
        }
    }

    /// The running checkpoint is durable: what the one before freed can be handed out.
    ///
    /// With `keep`, what this one freed is kept until the next, so that the drive can go back one checkpoint.
    pub fn publish(&mut self, keep: bool) {
        self.are_freed_counted = false;
        let mut available = core::mem::take(&mut self.deferred);
        for addr in &self.superseded_frozen {
            if let Some(open) = self.open.get_mut(&group_of(*addr)) {
                open.settle_one();
            }
        }
        self.deferred = core::mem::take(&mut self.freed);
        self.deferred.append(&mut self.superseded_frozen);
        if !keep {
            available.append(&mut self.deferred);
            self.hurry_trims();
        }
        if keep && self.trims_wanted {
            self.queue_trims(&mut available);
        }
        for addrs in available.chunk_by(|one, two| group_of(*one) == group_of(*two)) {
            self.make_all_available(addrs);
        }
        for open in self.open.values_mut() {
            open.dirty = false;
        }
    }

    /// Says that a drive wants to know what is not needed.
    pub fn want_trims(&mut self) {
        self.trims_wanted = true;
    }

    /// Takes long runs out of `freed`, for the drives to be told of first.
    fn queue_trims(&mut self, freed: &mut Vec<PoolAddr>) {
        freed.sort_unstable();
        let mut short = Vec::with_capacity(freed.len());
        for run in freed.chunk_by(|one, two| one + 1 == *two) {
            if run.len() >= TRIM_MIN && self.trims.len() < TRIMS_MAX {
                self.trims.push_back(Run {
                    addr: run[0],
                    blocks: u32::try_from(run.len()).unwrap_or(0),
                });
            } else {
                short.extend(run.iter().copied());
            }
        }
        if !self.mutants.trim_not_withheld() {
            *freed = short;
        }
    }

    /// Space is short: hands out what drives have not been told of yet.
    fn hurry_trims(&mut self) {
        let waiting = self.trims.split_off(self.trims_begun);
        for run in waiting {
            self.make_run_available(run);
        }
    }

    fn make_run_available(&mut self, run: Run) {
        if !self.mutants.trim_not_withheld() {
            (run.addr..run.addr + u64::from(run.blocks)).for_each(|addr| self.make_available(addr));
        }
    }

    /// Whether drives are still to be told of blocks.
    pub fn has_trims(&self) -> bool {
        !self.trims.is_empty()
    }

    /// What drives should be told of next, at most `max` runs. They stay until [`finish_trims`](Self::finish_trims).
    pub fn begin_trims(&mut self, max: usize) -> Vec<Run> {
        self.trims_begun = self.trims.len().min(max);
        self.trims.range(..self.trims_begun).copied().collect()
    }

    /// The drives have been told: those blocks can be handed out.
    pub fn finish_trims(&mut self) {
        for _ in 0..core::mem::take(&mut self.trims_begun) {
            if let Some(run) = self.trims.pop_front() {
                self.make_run_available(run);
            }
        }
    }

    /// Whether freed blocks are needed so badly that they are not kept for one more checkpoint.
    pub fn is_tight(&self) -> bool {
        let counted = self.counted();
        let is_tight = |free: u64| free < counted.size / 10;
        // Each of them has to be looked at only when it matters.
        let withheld: u64 = self.withheld().map(|run| u64::from(run.blocks)).sum();
        is_tight(counted.free.saturating_sub(REPLICAS_MAX as u64 * withheld))
            && is_tight(self.totals().free)
    }

    /// Whether a checkpoint or two make blocks available.
    pub fn has_pending(&self) -> bool {
        !(self.superseded.is_empty()
            && self.superseded_frozen.is_empty()
            && self.freed.is_empty()
            && self.deferred.is_empty())
    }

    /// Physical blocks of the pool: all, and those that are free or that the entries of closed groups count as free.
    fn counted(&self) -> Totals {
        let mut totals = Totals::default();
        let blocks = u64::from(self.group_blocks());
        for drive in &self.chunks {
            totals.size += drive.all() * blocks;
            totals.free += u64::from(drive.free()) * blocks;
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let group = u32::try_from(index).unwrap_or(u32::MAX);
            let copies = entry.in_sync().count() as u64;
            totals.free += copies * u64::from(self.free_in(group, entry));
        }
        totals
    }

    /// Physical blocks of the pool: all, free, and freed but not yet reusable.
    pub fn totals(&self) -> Totals {
        let mut totals = self.counted();
        let copies = |addr: PoolAddr| {
            self.entry(group_of(addr))
                .map_or(1, |entry| entry.in_sync().count() as u64)
        };
        let replaced = self.superseded.iter().chain(&self.superseded_frozen);
        totals.pending = replaced.map(|addr| copies(*addr)).sum();
        let blocks = |run: &Run| copies(run.addr) * u64::from(run.blocks);
        totals.pending += self.withheld().map(|run| blocks(&run)).sum::<u64>();
        let is_closed = |run: &Run| !self.open.contains_key(&group_of(run.addr));
        let closed = self.withheld_though_free().filter(is_closed);
        let closed: u64 = closed.map(|run| blocks(&run)).sum();
        totals.free -= closed.min(totals.free);
        totals
    }
}
