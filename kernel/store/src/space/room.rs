//! How much room is left: for the maps, which keep some back, and for data, which may not have that.

use super::{Run, Space, group_of};
use crate::layout::{Class, GroupEntry};

impl Space {
    /// Sets how many blocks must stay available for map nodes before data may take another group.
    pub fn set_node_reserve(&mut self, blocks: u64) {
        self.node_reserve = blocks;
        self.node_room = self.available_for_nodes(0);
    }

    pub fn node_reserve(&self) -> u64 {
        self.node_reserve
    }

    /// Blocks that map nodes can have now; at least, since what comes back is counted at each checkpoint only.
    pub fn node_room(&self) -> u64 {
        self.node_room
    }

    /// Whether the maps still have their reserve after data took one more chunk.
    pub(super) fn data_may_take_a_group(&self) -> bool {
        self.available_for_nodes(1) >= self.node_reserve || self.mutants.no_reserve()
    }

    /// What map nodes can have when `taken` more chunks are gone: free blocks of their groups, and free chunks in pairs.
    pub(super) fn available_for_nodes(&self, taken: u64) -> u64 {
        let free = |group: &u32| {
            let entry = self.entry(*group);
            entry.map_or(0, |entry| u64::from(self.free_in(*group, entry)))
        };
        let counted: u64 = self.meta_groups.iter().map(free).sum();
        let available = counted.saturating_sub(self.withheld_from_nodes());
        let pairs = self.free_chunks().saturating_sub(taken) / 2;
        available + pairs * u64::from(self.group_blocks() - 2)
    }

    /// Free blocks of a group: those of its bitmap if that is in memory, else those that its entry counts, withheld ones included.
    pub(super) fn free_in(&self, group: u32, entry: &GroupEntry) -> u32 {
        let open = self.open.get(&group);
        open.map_or_else(|| entry.free.get().into(), |open| open.available)
    }

    fn free_chunks(&self) -> u64 {
        let free = self.chunks.iter().map(|drive| u64::from(drive.free()));
        free.sum()
    }

    /// Blocks that data can have before more is freed: those left in its groups, and those of the chunks that it may still
    /// take from what the maps keep back.
    pub fn data_room(&self) -> u64 {
        let withheld = self.withheld_by_group();
        let left = |(group, entry): (u32, &GroupEntry)| match self.open.get(&group) {
            Some(open) => u64::from(open.available),
            None => {
                let withheld = withheld.get(&group).copied().unwrap_or(0);
                u64::from(u32::from(entry.free.get()).saturating_sub(withheld))
            }
        };
        let groups = (0..).zip(&self.entries);
        let groups = groups.filter(|(_, entry)| entry.class() == Class::Data);
        let left: u64 = groups.map(left).sum();
        let chunks = self.free_chunks();
        let usable = u64::from(self.group_blocks() - 2);
        let missing = self
            .node_reserve
            .saturating_sub(self.available_for_nodes(chunks));
        left + chunks.saturating_sub(2 * missing.div_ceil(usable)) * usable
    }

    /// Blocks on their way back that the entries of groups of the maps, where these are not open, count as free.
    fn withheld_from_nodes(&self) -> u64 {
        let is_counted = |run: &Run| {
            let group = group_of(run.addr);
            let class = self.entry(group).map(GroupEntry::class);
            class == Some(Class::Meta) && !self.open.contains_key(&group)
        };
        let withheld = self.withheld_though_free().filter(is_counted);
        withheld.map(|run| u64::from(run.blocks)).sum()
    }
}
