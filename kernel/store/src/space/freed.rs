//! Blocks on their way back: freed by changes of the maps, withheld until no checkpoint that counts refers to them, told to the
//! drives, and handed out again.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::{Run, Space, block_of, group_of};
use crate::layout::PoolAddr;

/// Drives are told of at least this many blocks at a time (64 KiB).
const TRIM_MIN: usize = 16;

/// See [`Space::totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub size: u64,
    pub free: u64,
    pub pending: u64,
}

impl Space {
    /// Blocks that no map has any more and that must not be handed out yet.
    pub(super) fn withheld(&self) -> impl Iterator<Item = PoolAddr> + '_ {
        let trims = self.trims.iter();
        let trims = trims.flat_map(|run| run.addr..run.addr + u64::from(run.blocks));
        let freed = self.deferred.iter().chain(&self.freed).copied();
        freed.chain(trims)
    }

    /// How many there are in each group; its entry may count them as free.
    pub(super) fn withheld_by_group(&self) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for addr in self.withheld() {
            *counts.entry(group_of(addr)).or_insert(0) += 1;
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
        let mut available = core::mem::take(&mut self.deferred);
        for addr in &self.superseded_frozen {
            if let Some(open) = self.open.get_mut(&group_of(*addr)) {
                open.outstanding -= 1;
            }
        }
        self.deferred = core::mem::take(&mut self.freed);
        self.deferred.append(&mut self.superseded_frozen);
        if !keep {
            available.append(&mut self.deferred);
        }
        if keep && self.trims_wanted {
            self.queue_trims(&mut available);
        }
        for addr in &available {
            self.make_available(*addr);
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
        let runs = freed.chunk_by(|one, two| one + 1 == *two);
        let (long, short): (Vec<_>, Vec<_>) = runs.partition(|run| run.len() >= TRIM_MIN);
        let run = |run: &[PoolAddr]| Run {
            addr: run[0],
            blocks: u32::try_from(run.len()).unwrap_or(0),
        };
        self.trims.extend(long.into_iter().map(run));
        if self.mutants.trim_not_withheld() {
            return;
        }
        *freed = short.concat();
    }

    /// What a drive should be told of next.
    pub fn first_trim(&self) -> Option<Run> {
        self.trims.front().copied()
    }

    /// The first of the trims is done: its blocks can be handed out.
    pub fn finish_trim(&mut self) {
        if let Some(run) = self.trims.pop_front()
            && !self.mutants.trim_not_withheld()
        {
            (run.addr..run.addr + u64::from(run.blocks)).for_each(|addr| self.make_available(addr));
        }
    }

    /// Whether freed blocks are needed so badly that they are not kept for one more checkpoint.
    pub fn is_tight(&self) -> bool {
        let totals = self.totals();
        totals.free < totals.size / 10
    }

    /// Whether blocks are on their way to become available.
    pub fn has_pending(&self) -> bool {
        !(self.superseded.is_empty()
            && self.superseded_frozen.is_empty()
            && self.freed.is_empty()
            && self.deferred.is_empty()
            && self.trims.is_empty())
    }

    /// Physical blocks of the pool: all, free, and freed but not yet reusable.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let blocks = u64::from(self.group_blocks());
        for drive in &self.chunks {
            totals.size += drive.all() * blocks;
            totals.free += u64::from(drive.free()) * blocks;
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let group = u32::try_from(index).unwrap_or(u32::MAX);
            let copies = entry.in_sync().count() as u64;
            let free = match self.open.get(&group) {
                Some(open) => open.available,
                None => u32::from(entry.free.get()),
            };
            totals.free += copies * u64::from(free);
        }
        let copies = |addr: PoolAddr| {
            self.entry(group_of(addr))
                .map_or(1, |entry| entry.in_sync().count() as u64)
        };
        let waiting = self.superseded.iter().chain(&self.superseded_frozen);
        let waiting = waiting.copied().chain(self.withheld());
        totals.pending = waiting.map(copies).sum();
        // Blocks withheld in groups that are not open count as free in their entries.
        let closed = { self.withheld() }.filter(|addr| !self.open.contains_key(&group_of(*addr)));
        totals.free -= closed.map(copies).sum::<u64>().min(totals.free);
        totals
    }
}
