//! What belongs to no map: bitmaps of groups, the group table, headers.
//!
//! Superblocks and the journal are not looked at: they are written anew all the time, and read when the pool is opened.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Disk};

use crate::api::{ScrubStep, StoreError};
use crate::groups::{bitmap_addr, bitmap_tag, table_tag, table_tags_tag, tag_blocks};
use crate::layout::{Class, Header, HeaderState, IDS_MAX};
use crate::shared::Shared;
use crate::space::ENTRIES_PER_BLOCK;

use super::Places;

/// The position behind all maps.
pub const OWN_PARTS: u64 = IDS_MAX;

impl<D: Disk + 'static> Shared<D> {
    /// Verifies one part. False when there are no more.
    pub async fn scrub_own_part(
        &self,
        at: &mut u64,
        step: &mut ScrubStep,
    ) -> Result<bool, StoreError> {
        let groups = self.state.borrow().space.entries().len();
        let blocks = groups.div_ceil(ENTRIES_PER_BLOCK);
        let table = tag_blocks(blocks) + blocks;
        let part = usize::try_from(*at).unwrap_or(usize::MAX);
        *at += 1;
        if part < groups {
            self.scrub_bitmap(u32::try_from(part).unwrap_or(u32::MAX), step)
                .await?;
        } else if part - groups < table {
            self.scrub_table(part - groups, blocks, step).await?;
        } else if part - groups - table < self.disks.len() {
            self.scrub_header(part - groups - table, step).await?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    async fn scrub_bitmap(&self, group: u32, step: &mut ScrubStep) -> Result<(), StoreError> {
        // The next checkpoint writes its bitmaps beside these, and those that it wrote are not overwritten before one more.
        let _published = self.publishing.acquire().await;
        let entry = self.state.borrow().space.entry(group).copied();
        let used = |entry: &crate::layout::GroupEntry| {
            entry.class() != Class::Free && entry.tag != [0; 16]
        };
        let Some(entry) = entry.filter(used) else {
            return Ok(());
        };
        let addr = bitmap_addr(group, entry.slot);
        let places: Vec<_> = { entry.in_sync() }
            .map(|replica| self.disk_block(replica, addr))
            .collect();
        let version = entry.bitmap_checkpoint.get();
        let is_sound = |bytes: &[u8; BLOCK_SIZE]| {
            bitmap_tag(self.pool_uuid, group, version, bytes).0 == entry.tag
        };
        self.scrub_copies(&places, is_sound, step).await
    }

    async fn scrub_table(
        &self,
        index: usize,
        blocks: usize,
        step: &mut ScrubStep,
    ) -> Result<(), StoreError> {
        // The next checkpoint writes into the other area.
        let _published = self.publishing.acquire().await;
        let (area, expected) = {
            let state = self.state.borrow();
            let area = state.superblock.area.get() as usize;
            let expected = match index.checked_sub(tag_blocks(blocks)) {
                None => state.superblock.table_tags[index],
                Some(block) => state.table_tags[area][block],
            };
            (area, expected)
        };
        let regions = self.regions.iter().enumerate();
        let places: Vec<_> = regions
            .map(|(device, regions)| (device, regions.table[area].get() + index as u64))
            .collect();
        let is_sound = |bytes: &[u8; BLOCK_SIZE]| {
            let tag = match index.checked_sub(tag_blocks(blocks)) {
                None => table_tags_tag(self.pool_uuid, index, bytes),
                Some(block) => table_tag(self.pool_uuid, block, bytes),
            };
            tag.0 == expected
        };
        self.scrub_copies(&places, is_sound, step).await
    }

    async fn scrub_header(&self, device: usize, step: &mut ScrubStep) -> Result<(), StoreError> {
        let regions = &self.regions[device];
        let places = [(device, 0), (device, regions.label_b())];
        let is_sound = |bytes: &[u8; BLOCK_SIZE]| {
            let header = Header::decode(bytes);
            matches!(header, HeaderState::Valid(header)
                if header.pool_uuid == self.pool_uuid && header.index.get() as usize == device)
        };
        self.scrub_copies(&places, is_sound, step).await
    }

    async fn scrub_copies(
        &self,
        places: &[(usize, u64)],
        is_sound: impl Fn(&[u8; BLOCK_SIZE]) -> bool,
        step: &mut ScrubStep,
    ) -> Result<(), StoreError> {
        step.blocks += 1;
        let copies = self.compare(places, is_sound).await?;
        if copies.good.is_none() {
            step.damaged
                .push(Places::default().into_damage(BLOCK_SIZE as u64));
        }
        self.mend(copies, step).await
    }
}
