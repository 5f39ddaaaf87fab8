//! Group bitmaps, the group table and superblocks on the drives: the last part of a checkpoint, and what loads them.

use alloc::boxed::Box;
use alloc::vec::Vec;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::{FromBytes, IntoBytes};

use crate::api::StoreError;
use crate::bitmap::Bitmap;
use crate::layout::{Domain, GROUP_BITS, GroupEntry, PoolAddr, SLOTS, Superblock, metadata_tag};
use crate::shared::Shared;
use crate::space::{ENTRIES_PER_BLOCK, block_of, group_of};
use crate::tag::Tag;

/// Bitmaps that are read and written at the same time.
const AT_ONCE: usize = 8;

/// Addresses sorted between turns of other tasks.
const SORTED_PER_TURN: usize = 1024;

/// Tags in a block of tags.
pub const TAGS_PER_BLOCK: usize = BLOCK_SIZE / 16;

/// Where the group table of a checkpoint is.
pub struct Table {
    pub area: u32,
    /// Tags of the blocks of tags.
    pub tags: [[u8; 16]; 64],
}

impl<D: Disk> Shared<D> {
    /// Loads a group's bitmap so that blocks can be handed out.
    pub async fn load_group(&self, group: u32) -> Result<(), StoreError> {
        while !self.state.borrow().space.is_open(group) {
            let entry = self.state.borrow().space.entry(group).copied();
            let entry = entry.ok_or(StoreError::DamagedPool)?;
            let read = self.read_bitmap(group, &entry).await;
            let space = &mut self.state.borrow_mut().space;
            if space.entry(group) != Some(&entry) {
                // A checkpoint wrote another one meanwhile.
                continue;
            }
            match read {
                Ok(bitmap) => space.insert_open(group, bitmap),
                Err(error) => {
                    log::error!("bitmap of group {group}: {error}; nothing more is written there");
                    space.close_damaged(group);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads and verifies the bitmap of a group from any replica.
    pub async fn read_bitmap(&self, group: u32, entry: &GroupEntry) -> Result<Bitmap, StoreError> {
        if entry.tag == [0; 16] {
            return Ok(Bitmap::empty());
        }
        let addr = bitmap_addr(group, entry.slot);
        let mut buf = Buf::from_heap(1);
        for replica in entry.in_sync() {
            let (back, result) = self.read_replica(replica, addr, buf).await;
            buf = if back.is_empty() {
                Buf::from_heap(1)
            } else {
                back
            };
            let version = entry.bitmap_checkpoint.get();
            let tag = bitmap_tag(self.pool_uuid, group, version, buf.block(0));
            if result.is_ok() && tag.0 == entry.tag {
                return Ok(Bitmap::from_bytes(buf.block(0)));
            }
        }
        Err(StoreError::DamagedPool)
    }

    /// Writes every bitmap that this checkpoint changes, into the slot that the checkpoint before does not use.
    pub async fn write_bitmaps(&self) -> Result<(), StoreError> {
        let (open, mut freed) = {
            let mut state = self.state.borrow_mut();
            state.space.count_freed();
            let mut open: Vec<u32> = state.space.dirty_groups().collect();
            open.sort_unstable();
            let closed = state.space.freed.iter().copied();
            let closed = closed.filter(|addr| !state.space.is_open(group_of(*addr)));
            (open, closed.collect::<Vec<PoolAddr>>())
        };
        self.sort_in_turns(&mut freed).await;
        for groups in open.chunks(AT_ONCE) {
            let writes = groups.iter().map(|group| self.write_bitmap(*group, &[]));
            join_all(writes)
                .await
                .into_iter()
                .collect::<Result<(), _>>()?;
        }
        let mut closed: Vec<&[PoolAddr]> = Vec::with_capacity(AT_ONCE);
        let mut chunks = freed
            .chunk_by(|a, b| group_of(*a) == group_of(*b))
            .peekable();
        while let Some(addrs) = chunks.next() {
            closed.push(addrs);
            if closed.len() == AT_ONCE || chunks.peek().is_none() {
                let writes = closed
                    .iter()
                    .map(|addrs| self.write_bitmap(group_of(addrs[0]), addrs));
                join_all(writes)
                    .await
                    .into_iter()
                    .collect::<Result<(), _>>()?;
                closed.clear();
            }
        }
        Ok(())
    }

    /// Sorts what the last checkpoint freed, which this one hands out: the drives are told of runs.
    pub async fn sort_deferred(&self) {
        let mut sorted = self.state.borrow().space.deferred.clone();
        self.sort_in_turns(&mut sorted).await;
        self.state.borrow_mut().space.deferred = sorted;
    }

    /// Sorts many addresses while others go on: halves them until they are few.
    async fn sort_in_turns(&self, addrs: &mut [PoolAddr]) {
        let mut parts = alloc::vec![addrs];
        while let Some(part) = parts.pop() {
            if part.len() > SORTED_PER_TURN {
                let (low, _, high) = part.select_nth_unstable(part.len() / 2);
                parts.extend([low, high]);
            } else {
                part.sort_unstable();
            }
            self.environment.exec.yield_now().await;
        }
    }

    /// Writes a group's bitmap; `freed` are blocks to clear in one that is not open.
    async fn write_bitmap(&self, group: u32, freed: &[PoolAddr]) -> Result<(), StoreError> {
        let entry = self.state.borrow().space.entry(group).copied();
        let mut entry = entry.ok_or(StoreError::DamagedPool)?;
        let open = self
            .state
            .borrow()
            .space
            .open_group(group)
            .map(|open| open.base().clone());
        let bitmap = match open {
            Some(bitmap) if freed.is_empty() => bitmap,
            _ => {
                let Ok(mut bitmap) = self.read_bitmap(group, &entry).await else {
                    // Its blocks stay in use for ever, which is safe.
                    log::error!("bitmap of group {group} is damaged: freed blocks are lost");
                    return Ok(());
                };
                freed.iter().for_each(|addr| bitmap.clear(block_of(*addr)));
                bitmap
            }
        };
        let checkpoint = self.state.borrow().superblock.checkpoint.get() + 1;
        entry.slot ^= u8::from(!self.config.mutants.bitmap_in_place());
        entry.bitmap_checkpoint = checkpoint.into();
        entry.write_checkpoint = checkpoint.into();
        entry.tag = bitmap_tag(self.pool_uuid, group, checkpoint, bitmap.bytes()).0;
        let mut buf = Buf::from_heap(1);
        buf.block_mut(0).copy_from_slice(bitmap.bytes());
        self.write_replicas(bitmap_addr(group, entry.slot), buf)
            .await?;
        let mut state = self.state.borrow_mut();
        let blocks = state.space.group_blocks();
        let free = blocks - bitmap.count(blocks);
        entry.free = u16::try_from(free).unwrap_or(u16::MAX).into();
        state.space.set_entry(group, entry);
        Ok(())
    }

    /// Writes the blocks of the group table that differ into the area that the checkpoint before does not use.
    pub async fn write_table(&self) -> Result<Table, StoreError> {
        let (area, changed, blocks) = {
            let mut state = self.state.borrow_mut();
            let mut area = 1 - state.superblock.area.get() as usize;
            if self.config.mutants.table_in_place() {
                area = 1 - area;
            }
            let dirty = &mut state.space.dirty_table[area];
            let changed: Vec<usize> = (0..dirty.len()).filter(|index| dirty[*index]).collect();
            dirty.fill(false);
            (
                area,
                changed,
                state.space.entries().len().div_ceil(ENTRIES_PER_BLOCK),
            )
        };
        let mut tags = core::mem::take(&mut self.state.borrow_mut().table_tags[area]);
        tags.resize(blocks, [0; 16]);
        for index in changed {
            let block = self.table_block(index);
            tags[index] = table_tag(self.pool_uuid, index, &block).0;
            self.write_table_block(area, tag_blocks(blocks) + index, &block)
                .await?;
        }
        let mut table = Table {
            area: u32::try_from(area).unwrap_or(0),
            tags: [[0; 16]; 64],
        };
        for (index, chunk) in tags.chunks(TAGS_PER_BLOCK).enumerate() {
            let mut block = Box::new([0; BLOCK_SIZE]);
            block[..size_of_val(chunk)].copy_from_slice(chunk.as_bytes());
            table.tags[index] = table_tags_tag(self.pool_uuid, index, &block).0;
            self.write_table_block(area, index, &block).await?;
        }
        self.state.borrow_mut().table_tags[area] = tags;
        Ok(table)
    }

    fn table_block(&self, index: usize) -> Box<[u8; BLOCK_SIZE]> {
        let state = self.state.borrow();
        let entries = state.space.entries().chunks(ENTRIES_PER_BLOCK).nth(index);
        let mut block = Box::new([0; BLOCK_SIZE]);
        let bytes = entries.unwrap_or_default().as_bytes();
        block[..bytes.len()].copy_from_slice(bytes);
        block
    }

    async fn write_table_block(
        &self,
        area: usize,
        index: usize,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<(), StoreError> {
        let mut buf = Buf::from_heap(1);
        buf.block_mut(0).copy_from_slice(block);
        let places: Vec<(usize, u64)> = (self.regions.iter().enumerate())
            .map(|(device, regions)| (device, regions.table[area].get() + index as u64))
            .collect();
        self.write_places(&places, buf).await
    }

    /// Writes the next superblock, changed by `change`, and makes it durable.
    pub async fn write_superblock(
        &self,
        change: impl FnOnce(&mut Superblock),
    ) -> Result<(), StoreError> {
        let mut buf = Buf::from_heap(1);
        let superblock = {
            let state = self.state.borrow();
            let mut superblock = state.superblock.clone();
            superblock.prev_tag = superblock.tag().0;
            superblock.generation.set(superblock.generation.get() + 1);
            superblock.next_node.set(state.next_node);
            change(&mut superblock);
            superblock.encode(buf.block_mut(0));
            superblock
        };
        let slot = superblock.generation.get() % SLOTS;
        let copies = self
            .regions
            .iter()
            .enumerate()
            .flat_map(|(device, regions)| regions.superblocks(slot).map(|block| (device, block)));
        let places: Vec<(usize, u64)> = copies.collect();
        self.write_places(&places, buf).await?;
        if !self.config.mutants.no_flush_after_superblock() {
            self.flush_disks().await?;
        }
        self.state.borrow_mut().superblock = superblock;
        Ok(())
    }
}

/// Where the bitmap in `slot` of a group is.
pub fn bitmap_addr(group: u32, slot: u8) -> PoolAddr {
    u64::from(group) << GROUP_BITS | u64::from(slot & 1)
}

/// The tag of a bitmap.
pub fn bitmap_tag(pool: [u8; 16], group: u32, version: u64, bytes: &[u8; BLOCK_SIZE]) -> Tag {
    metadata_tag(pool, Domain::Bitmap, group.into(), version, bytes)
}

/// The tag of a block of the group table.
pub fn table_tag(pool: [u8; 16], index: usize, bytes: &[u8; BLOCK_SIZE]) -> Tag {
    metadata_tag(pool, Domain::GroupTable, index as u64, 0, bytes)
}

/// The tag of a block of tags of the group table.
pub fn table_tags_tag(pool: [u8; 16], index: usize, bytes: &[u8; BLOCK_SIZE]) -> Tag {
    metadata_tag(pool, Domain::GroupTags, index as u64, 0, bytes)
}

/// Blocks of tags for a table of this many blocks.
pub const fn tag_blocks(table_blocks: usize) -> usize {
    table_blocks.div_ceil(TAGS_PER_BLOCK)
}

/// The group entries of a table block.
pub fn decode_entries(block: &[u8; BLOCK_SIZE]) -> impl Iterator<Item = GroupEntry> + '_ {
    block
        .chunks_exact(size_of::<GroupEntry>())
        .map(|bytes| GroupEntry::read_from_bytes(bytes).unwrap_or_default())
}
