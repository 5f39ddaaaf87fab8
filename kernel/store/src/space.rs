//! Which blocks are in use: groups, their bitmaps, and what may be handed out.
//!
//! A group that is allocated from is *open*: two bitmaps are in memory. `base` is what the next checkpoint will write, `current` is
//! what the allocator sees. They differ by blocks that were handed out but are in no map yet, and by freed blocks
//! that must not be reused yet.
//!
//! Invariants:
//! - a freed block is handed out again only after the checkpoint that freed it, and normally one more, is durable;
//! - a free group becomes a data group only while enough is left for the maps (see [`Space::set_node_reserve`]).

mod freed;
mod room;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use world::Buf;

use crate::bitmap::Bitmap;
use crate::chunks::Chunks;
use crate::layout::{Class, GROUP_BITS, GroupEntry, PoolAddr, Replica};
use crate::mutant::Mutants;
use crate::numbers::NumberMap;

/// Contiguous blocks of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub addr: PoolAddr,
    pub blocks: u32,
}

/// The runs that one buffer's blocks went to.
pub type Runs = ArrayVec<Run, { Buf::PAGES_MAX }>;

/// Why nothing could be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This group has room, but its bitmap must be loaded first.
    Load(u32),
    /// Too many groups are open with blocks that are in no checkpoint yet: one is needed before more can be opened.
    Open,
    /// Nothing is left.
    Full,
}

/// A group in memory.
pub struct OpenGroup {
    base: Bitmap,
    current: Bitmap,
    /// Free blocks in `current`.
    available: u32,
    /// Where the search for the next free block begins.
    cursor: u32,
    /// `base` differs from the bitmap on the drive.
    pub dirty: bool,
    /// Blocks handed out that are not in `base`.
    outstanding: u32,
}

/// All groups.
pub struct Space {
    shift: u32,
    entries: Vec<GroupEntry>,
    /// Table blocks that differ from each of the two checkpoint areas.
    pub dirty_table: [Vec<bool>; 2],
    open: NumberMap<u32, OpenGroup>,
    open_max: usize,
    chunks: Vec<Chunks>,
    /// Groups that data is handed out from, one for each drive.
    data_open: Vec<Option<u32>>,
    next_device: usize,
    meta_open: Option<u32>,
    /// All groups of the maps.
    meta_groups: Vec<u32>,
    free_hint: u32,
    /// Groups that were put to use and are not in the journal yet.
    pub new_groups: Vec<u32>,
    /// Freed since the last cut, never in a checkpoint: their writes were replaced within one delta table.
    pub superseded: Vec<PoolAddr>,
    /// The same before the cut of the running checkpoint.
    pub superseded_frozen: Vec<PoolAddr>,
    /// Freed by the running checkpoint.
    pub freed: Vec<PoolAddr>,
    /// The entries of closed groups count these as free.
    are_freed_counted: bool,
    /// Freed by the last checkpoint; not reusable before the next.
    pub deferred: Vec<PoolAddr>,
    /// Reusable as soon as the drives were told that nobody needs them.
    trims: VecDeque<Run>,
    /// So many of them the drives are being told of.
    trims_begun: usize,
    /// Whether any drive wants to be told.
    trims_wanted: bool,
    /// Blocks that must stay available for map nodes.
    node_reserve: u64,
    /// See [`Space::node_room`].
    node_room: u64,
    pub mutants: Mutants,
}

/// Group entries in a block of the table.
pub const ENTRIES_PER_BLOCK: usize = 64;

impl Space {
    /// Space with these groups; `chunks` says how many chunks each drive has.
    pub fn new(shift: u32, entries: Vec<GroupEntry>, chunks: &[u32], open_max: usize) -> Self {
        let mut drives: Vec<Chunks> = chunks.iter().map(|count| Chunks::new(*count)).collect();
        for entry in entries.iter().filter(|entry| entry.class() != Class::Free) {
            for replica in entry.in_sync() {
                take_chunk(&mut drives, replica);
            }
        }
        let blocks = entries.len().div_ceil(ENTRIES_PER_BLOCK);
        let meta = (0..).zip(&entries);
        let meta = meta.filter(|(_, entry)| entry.class() == Class::Meta);
        Self {
            meta_groups: meta.map(|(group, _)| group).collect(),
            shift,
            dirty_table: [vec![false; blocks], vec![false; blocks]],
            entries,
            open: NumberMap::default(),
            open_max,
            data_open: vec![None; drives.len()],
            chunks: drives,
            next_device: 0,
            meta_open: None,
            free_hint: 0,
            new_groups: Vec::new(),
            superseded: Vec::new(),
            superseded_frozen: Vec::new(),
            freed: Vec::new(),
            are_freed_counted: false,
            deferred: Vec::new(),
            trims: VecDeque::new(),
            trims_begun: 0,
            trims_wanted: false,
            node_reserve: 0,
            node_room: 0,
            mutants: Mutants::default(),
        }
    }

    /// log2 of the blocks of a group.
    pub fn group_bits(&self) -> u32 {
        self.shift
    }

    /// Blocks of a group, its bitmaps included.
    pub fn group_blocks(&self) -> u32 {
        1 << self.shift
    }

    pub fn entries(&self) -> &[GroupEntry] {
        &self.entries
    }

    pub fn entry(&self, group: u32) -> Option<&GroupEntry> {
        self.entries.get(group as usize)
    }

    /// Replaces a group's entry and notes that the table has to be written.
    pub fn set_entry(&mut self, group: u32, entry: GroupEntry) {
        self.entries[group as usize] = entry;
        for area in &mut self.dirty_table {
            area[group as usize / ENTRIES_PER_BLOCK] = true;
        }
    }

    /// Hands out up to `wanted` blocks, adding to `runs`; returns how many, at least one.
    pub fn allocate(
        &mut self,
        class: Class,
        wanted: u32,
        runs: &mut Runs,
    ) -> Result<u32, Shortage> {
        let devices = if class == Class::Data {
            self.data_open.len()
        } else {
            1
        };
        let mut shortage = Shortage::Full;
        for attempt in 0..devices {
            let device = (self.next_device + attempt) % self.data_open.len();
            match self.group_to_use(class, device) {
                Ok(group) => {
                    let got = self.take_from(group, wanted, runs);
                    match class {
                        Class::Data => self.next_device = (device + 1) % self.data_open.len(),
                        _ => self.node_room = self.node_room.saturating_sub(got.into()),
                    }
                    return Ok(got);
                }
                Err(other) if shortage == Shortage::Full => shortage = other,
                // The first drive's is dealt with before: two that were loaded in turn could push each other out for ever.
                Err(_) => {}
            }
        }
        Err(shortage)
    }

    fn take_from(&mut self, group: u32, wanted: u32, runs: &mut Runs) -> u32 {
        let end = self.group_blocks();
        let Some(open) = self.open.get_mut(&group) else {
            return 0;
        };
        let mut got = 0;
        while got < wanted && open.available > 0 && !runs.is_full() {
            let found = open.current.next_free(open.cursor, end);
            let Some(first) = found.or_else(|| open.current.next_free(0, end)) else {
                unreachable!("the counter of free blocks disagrees with the bitmap");
            };
            let mut last = first;
            while last < end && got < wanted && !open.current.get(last) {
                open.current.set(last);
                last += 1;
                got += 1;
            }
            open.cursor = last;
            open.available -= last - first;
            open.outstanding += last - first;
            push_run(
                runs,
                u64::from(group) << GROUP_BITS | u64::from(first),
                last - first,
            );
        }
        got
    }

    /// The group to hand out from, opened if that needs no read.
    fn group_to_use(&mut self, class: Class, device: usize) -> Result<u32, Shortage> {
        let open = match class {
            Class::Data => self.data_open[device],
            _ => self.meta_open,
        };
        if let Some(group) = open.filter(|group| self.available_in(*group) > 0) {
            return Ok(group);
        }
        let group = self.choose(class, device)?;
        match class {
            Class::Data => self.data_open[device] = Some(group),
            _ => self.meta_open = Some(group),
        }
        Ok(group)
    }

    fn available_in(&self, group: u32) -> u32 {
        self.open.get(&group).map_or(0, |open| open.available)
    }

    /// A group in use that is nearly empty, else a fresh one if there may be one, else the emptiest.
    fn choose(&mut self, class: Class, device: usize) -> Result<u32, Shortage> {
        let spacious = self.emptiest(class, device, self.spacious(class));
        if spacious.is_none()
            && let Some(replicas) = self.chunks_for(class, device)
            && (class == Class::Meta || self.data_may_take_a_group())
        {
            self.make_room_to_open(class)?;
            return self.assign(class, &replicas).ok_or(Shortage::Full);
        }
        let best = spacious.or_else(|| self.emptiest(class, device, 1));
        let group = best.ok_or(Shortage::Full)?;
        if self.open.contains_key(&group) {
            return Ok(group);
        }
        self.make_room_to_open(class)?;
        Err(Shortage::Load(group))
    }

    /// With so many blocks to hand out a group in use comes before a fresh one.
    ///
    /// Groups never change their class, and whatever is written over moves. So without this the maps would take all that is
    /// free, or data would, however little is in use. Runs of data should stay long, of map nodes there are few.
    fn spacious(&self, class: Class) -> u32 {
        match class {
            Class::Meta => self.group_blocks() / 4,
            _ => self.group_blocks() / 4 * 3,
        }
    }

    /// The group in use with the most blocks to hand out, but at least so many.
    fn emptiest(&self, class: Class, device: usize, least: u32) -> Option<u32> {
        let mut withheld = None;
        let mut best: Option<(u32, u32)> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let group = u32::try_from(index).unwrap_or(u32::MAX);
            let here = class == Class::Meta || usize::from(entry.replicas[0].device) == device;
            if entry.class() != class || !here {
                continue;
            }
            let wanted = best.map_or(least, |(_, most)| most + 1);
            let free = match self.open.get(&group) {
                Some(open) => open.available,
                None if u32::from(entry.free.get()) < wanted => continue,
                None => {
                    let withheld = withheld.get_or_insert_with(|| self.withheld_by_group());
                    let withheld = withheld.get(&group).copied().unwrap_or(0);
                    u32::from(entry.free.get()).saturating_sub(withheld)
                }
            };
            if free >= wanted {
                best = Some((group, free));
            }
        }
        best.map(|(group, _)| group)
    }

    fn chunks_for(&self, class: Class, device: usize) -> Option<ArrayVec<Replica, 2>> {
        let mut replicas = ArrayVec::new();
        let mut take = |device: usize, skip: usize| {
            let chunk = self.chunks[device].nth_free(skip)?;
            replicas.push(Replica::in_sync(u8::try_from(device).ok()?, chunk));
            Some(())
        };
        if class == Class::Data {
            take(device, 0)?;
        } else {
            // Two copies, on different drives where there are two with room.
            let mut by_room: Vec<usize> = (0..self.chunks.len()).collect();
            by_room.sort_by_key(|device| core::cmp::Reverse(self.chunks[*device].free()));
            let first = *by_room.first()?;
            let second = by_room
                .get(1)
                .copied()
                .filter(|device| self.chunks[*device].free() > 0);
            take(first, 0)?;
            match second {
                Some(device) => take(device, 0)?,
                None => take(first, 1)?,
            }
        }
        Some(replicas)
    }

    fn assign(&mut self, class: Class, replicas: &[Replica]) -> Option<u32> {
        let free = u16::try_from(self.group_blocks() - 2).unwrap_or(u16::MAX);
        let from = self.free_hint as usize;
        let found = self.entries[from..]
            .iter()
            .position(|entry| entry.class() == Class::Free);
        // There are as many groups as chunks, so a free chunk means a free group, unless the table was tampered with.
        let group = u32::try_from(from + found?).ok()?;
        self.adopt(group, GroupEntry::assigned(class, replicas, free));
        self.free_hint = group + 1;
        self.new_groups.push(group);
        self.node_room = self.available_for_nodes(0);
        Some(group)
    }

    /// Whether no group has this chunk.
    pub fn is_chunk_free(&self, replica: Replica) -> bool {
        let drive = self.chunks.get(usize::from(replica.device));
        drive.is_some_and(|drive| drive.is_free(replica.chunk.get()))
    }

    /// Whether a block can hold anything: it lies in a group, behind the group's bitmaps.
    fn can_hold(&self, addr: PoolAddr) -> bool {
        (group_of(addr) as usize) < self.entries.len()
            && (2..self.group_blocks()).contains(&block_of(addr))
    }

    /// Puts a free group to use as `entry` says and opens it, empty.
    pub fn adopt(&mut self, group: u32, entry: GroupEntry) {
        for replica in entry.in_sync() {
            take_chunk(&mut self.chunks, replica);
        }
        if entry.class() == Class::Meta {
            self.meta_groups.push(group);
        }
        self.set_entry(group, entry);
        self.insert_open(group, Bitmap::empty());
    }

    fn make_room_to_open(&mut self, class: Class) -> Result<(), Shortage> {
        if self.open.len() < self.open_max {
            return Ok(());
        }
        let in_use =
            |group: &u32| self.meta_open == Some(*group) || self.data_open.contains(&Some(*group));
        let idle = |open: &OpenGroup| open.outstanding == 0 && !open.dirty;
        let victim = self
            .open
            .iter()
            .filter(|(group, open)| idle(open) && !in_use(group))
            .min_by_key(|(group, open)| (open.available, **group))
            .map(|(group, _)| *group);
        match victim {
            Some(victim) => drop(self.open.remove(&victim)),
            // The running checkpoint cannot wait for another one.
            None if class == Class::Meta => {}
            None => return Err(Shortage::Open),
        }
        Ok(())
    }

    /// Takes in a group's bitmap from its drive.
    pub fn insert_open(&mut self, group: u32, mut base: Bitmap) {
        if self.open.contains_key(&group) {
            return;
        }
        let mut dirty = false;
        for addr in self.freed.iter().filter(|addr| group_of(**addr) == group) {
            base.clear(block_of(*addr));
            dirty = true;
        }
        let mut current = base.clone();
        for run in self.withheld().filter(|run| group_of(run.addr) == group) {
            let first = block_of(run.addr);
            (first..first + run.blocks).for_each(|block| current.set(block));
        }
        let blocks = self.group_blocks();
        let available = blocks - current.count(blocks);
        let new = OpenGroup {
            base,
            current,
            available,
            cursor: 0,
            dirty,
            outstanding: 0,
        };
        self.open.insert(group, new);
    }

    /// Notes that a group's bitmap could not be read: nothing is handed out from it.
    pub fn close_damaged(&mut self, group: u32) {
        let mut entry = self.entries[group as usize];
        entry.free = 0.into();
        self.entries[group as usize] = entry;
    }

    pub fn is_open(&self, group: u32) -> bool {
        self.open.contains_key(&group)
    }

    pub fn open_group(&self, group: u32) -> Option<&OpenGroup> {
        self.open.get(&group)
    }

    /// Groups whose bitmap must be written by the running checkpoint because of changes of `base`.
    pub fn dirty_groups(&self) -> impl Iterator<Item = u32> + '_ {
        self.open
            .iter()
            .filter(|(_, open)| open.dirty)
            .map(|(group, _)| *group)
    }

    /// Marks blocks as handed out that the journal says are in use. False when they already were: a damaged journal.
    pub fn replay_allocated(&mut self, addr: PoolAddr) -> bool {
        if !self.can_hold(addr) {
            return false;
        }
        let block = block_of(addr);
        let Some(open) = self.open.get_mut(&group_of(addr)) else {
            return false;
        };
        if open.current.get(block) {
            return false;
        }
        open.current.set(block);
        open.available -= 1;
        open.outstanding += 1;
        true
    }

    /// A block that was handed out is now in a map of the running checkpoint.
    pub fn settle(&mut self, addr: PoolAddr) {
        if let Some(open) = self.open.get_mut(&group_of(addr)) {
            open.base.set(block_of(addr));
            open.settle_one();
            open.dirty = true;
        }
    }

    /// Takes back blocks that were handed out and never became part of anything.
    pub fn give_back(&mut self, run: Run) {
        for addr in run.addr..run.addr + u64::from(run.blocks) {
            if let Some(open) = self.open.get_mut(&group_of(addr)) {
                open.settle_one();
            }
            self.make_available(addr);
        }
    }

    pub fn make_available(&mut self, addr: PoolAddr) {
        self.make_all_available(&[addr]);
    }

    /// The same for several of one group.
    fn make_all_available(&mut self, addrs: &[PoolAddr]) {
        let group = addrs.first().map(|addr| group_of(*addr));
        let Some(open) = group.and_then(|group| self.open.get_mut(&group)) else {
            return;
        };
        for addr in addrs {
            let block = block_of(*addr);
            if open.current.get(block) {
                open.current.clear(block);
                open.available += 1;
            }
        }
    }
}

impl OpenGroup {
    /// One block less that was handed out and is in no map. A group whose bitmap could not be read at a replay, and can now,
    /// does not know of those that the journal named.
    fn settle_one(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    pub fn base(&self) -> &Bitmap {
        &self.base
    }
}

pub fn group_of(addr: PoolAddr) -> u32 {
    u32::try_from(addr >> GROUP_BITS).unwrap_or(u32::MAX)
}

pub fn block_of(addr: PoolAddr) -> u32 {
    (addr & ((1 << GROUP_BITS) - 1)) as u32
}

fn push_run(runs: &mut Runs, addr: PoolAddr, blocks: u32) {
    match runs.last_mut() {
        Some(last) if last.addr + u64::from(last.blocks) == addr => last.blocks += blocks,
        _ => runs.push(Run { addr, blocks }),
    }
}

fn take_chunk(drives: &mut [Chunks], replica: Replica) {
    if let Some(drive) = drives.get_mut(usize::from(replica.device)) {
        drive.take(replica.chunk.get());
    }
}

#[cfg(test)]
mod tests;
