//! Checkpoints: deltas become part of the maps, and the journal before them is no longer needed.
//!
//! ```text
//! cut ─► journal durable up to the cut ─► merge maps ─► take deleted maps apart ─► catalog
//!     ─► bitmaps ─► group table ─► FLUSH ─► superblock ─► FLUSH ─► publish
//! ```
//! Until the superblock is durable everything that the one before refers to is untouched.

use alloc::vec::Vec;

use exec::futures_util::future::{Either, select};
use world::{BLOCK_SIZE, Disk};
use zerocopy::IntoBytes;

use crate::api::StoreError;
use crate::layout::{CatalogEntry, JournalTail, Pointer, data_tag};
use crate::merge::Changes;
use crate::reclaim::Item;
use crate::shared::{CATALOG, Mode, RECLAIM, Shared};
use crate::update::{Batch, Update};

/// Blocks of deleted maps that one checkpoint frees.
const RECLAIM_BUDGET: usize = 8192;

/// A change waits this long for its checkpoint at most.
const DIRTY_MAX: core::time::Duration = core::time::Duration::from_secs(30);

/// An idle pool gives freed blocks back after this long.
const PENDING_PAUSE: core::time::Duration = core::time::Duration::from_secs(1);

/// Pause between checkpoints that only take deleted maps apart.
const RECLAIM_PAUSE: core::time::Duration = core::time::Duration::from_millis(20);

/// What the cut fixed.
pub struct Cut {
    /// Trees that existed.
    trees: Vec<u64>,
    /// Of these, the deleted ones.
    deleted: Vec<u64>,
    /// Catalog slots whose entries changed.
    slots: Vec<usize>,
    tail: JournalTail,
}

impl<D: Disk> Shared<D> {
    /// The checkpointer's life.
    pub async fn run_checkpointer(&self) {
        loop {
            let wanted = self.checkpoint_wanted.wait();
            let deadline = {
                let state = self.state.borrow();
                if matches!(state.mode, Mode::Closed | Mode::ReadOnly(_)) {
                    return;
                }
                let now = self.environment.exec.now();
                if state.checkpoints_wanted > state.checkpoints_done {
                    Some(now)
                } else if !state.reclaim.is_empty() {
                    Some(now + RECLAIM_PAUSE)
                } else if let Some(since) = state.dirty_since {
                    Some(since + DIRTY_MAX)
                } else {
                    // What the last checkpoint freed is waiting for one more.
                    state.space.has_pending().then(|| now + PENDING_PAUSE)
                }
            };
            match deadline {
                Some(deadline) if deadline <= self.environment.exec.now() => {}
                Some(deadline) => {
                    let sleep = self.environment.exec.sleep_until(deadline);
                    if let Either::Left(_) = select(core::pin::pin!(wanted), sleep).await {
                        continue;
                    }
                }
                None => {
                    wanted.await;
                    continue;
                }
            }
            if let Err(error) = self.checkpoint().await {
                self.fail(&alloc::format!(
                    "a checkpoint could not be written: {error}"
                ));
            }
        }
    }

    /// Writes one checkpoint. On failure the pool must not be written any more.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        if self.finish_early_cut().await? {
            return Ok(());
        }
        let mut cut = self.begin_checkpoint();
        self.flush_to(cut.1).await?;
        let tail = self.state.borrow_mut().journal.end_cut();
        cut.0.tail = tail.unwrap_or_default();
        self.write_checkpoint(&cut.0).await
    }

    /// The rest of a checkpoint, from the merge on.
    async fn write_checkpoint(&self, cut: &Cut) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        self.merge_all(cut, &mut batch).await?;
        self.reclaim(RECLAIM_BUDGET).await?;
        self.write_reclaim(&mut batch).await?;
        let catalog = self.write_catalog(cut, &mut batch).await?;
        self.write_batch(&mut batch).await?;
        self.write_bitmaps().await?;
        let table = self.write_table().await?;
        self.flush_disks().await?;
        let keep = !self.state.borrow().space.is_tight();
        self.write_superblock(|superblock| {
            superblock.checkpoint.set(superblock.checkpoint.get() + 1);
            superblock.area.set(table.area);
            superblock.table_tags = table.tags;
            superblock.catalog_root = catalog.0;
            superblock.catalog_height.set(catalog.1.into());
            superblock.tails = [cut.tail, superblock.tails[0]];
            superblock
                .flags
                .set(u32::from(keep) * crate::layout::SUPERBLOCK_FLAG_DEFERRED);
        })
        .await?;
        self.publish(cut, catalog, keep);
        Ok(())
    }

    /// Cuts in the middle of a replay, before the frame at `tail`: the active deltas are full. The checkpoint itself can wait
    /// until the pool serves, unless this happens again.
    pub async fn cut_early(&self, tail: JournalTail) -> Result<(), StoreError> {
        self.finish_early_cut().await?;
        let (mut cut, _) = self.begin_checkpoint();
        cut.tail = tail;
        let state = &mut *self.state.borrow_mut();
        state.journal.end_cut();
        state.checkpoints_wanted = state.checkpoints_begun;
        state.early_cut = Some(cut);
        Ok(())
    }

    /// Writes the checkpoint that a replay began, if there is one.
    async fn finish_early_cut(&self) -> Result<bool, StoreError> {
        let cut = self.state.borrow_mut().early_cut.take();
        if let Some(cut) = &cut {
            self.write_checkpoint(cut).await?;
        }
        Ok(cut.is_some())
    }

    /// Fixes in one breath what belongs to this checkpoint; also says how far the journal must be durable.
    fn begin_checkpoint(&self) -> (Cut, u64) {
        let state = &mut *self.state.borrow_mut();
        debug_assert!(state.frozen.is_empty(), "one checkpoint at a time");
        core::mem::swap(&mut state.active, &mut state.frozen);
        state.space.superseded_frozen = core::mem::take(&mut state.space.superseded);
        state.checkpoints_begun += 1;
        state.dirty_since = None;
        state.merge_percent = 0;
        let mut trees: Vec<u64> = state.trees.keys().copied().collect();
        trees.sort_unstable();
        let mut slots = Vec::new();
        let mut deleted = Vec::new();
        for id in &trees {
            let Some(tree) = state.trees.get_mut(id) else {
                continue;
            };
            if core::mem::take(&mut tree.dirty) && *id != CATALOG {
                slots.push(tree.slot);
            }
            if tree.deleted {
                deleted.push(*id);
                slots.push(tree.slot);
            }
        }
        let cut = Cut {
            trees,
            deleted,
            slots,
            tail: JournalTail::default(),
        };
        (cut, state.journal.begin_cut())
    }

    async fn merge_all(&self, cut: &Cut, batch: &mut Batch) -> Result<(), StoreError> {
        let mut changes = Changes::sorted(self).await;
        while let Some(tree) = changes.next_tree(self) {
            let gone = !cut.trees.contains(&tree) || cut.deleted.contains(&tree);
            if gone {
                changes.drop_tree(self, tree);
                continue;
            }
            let start = {
                let state = self.state.borrow();
                state
                    .trees
                    .get(&tree)
                    .map(|tree| (tree.root(), tree.height()))
            };
            let Some(start) = start else { continue };
            let mut update = Update::new(self, batch, tree, start);
            changes.merge_tree(self, tree, &mut update).await?;
            update.finish().await?;
            let (root, height) = (update.root, update.height);
            let (added, removed) = (update.added, update.removed);
            let mut state = self.state.borrow_mut();
            if let Some(tree) = state.trees.get_mut(&tree) {
                let blocks = (tree.entry.blocks.get() + added).saturating_sub(removed);
                tree.entry.blocks = blocks.into();
                // Readers use it only when the checkpoint is published: until then the frozen deltas hide what it changed.
                tree.merged = Some((root, height));
            }
        }
        let mut state = self.state.borrow_mut();
        for id in &cut.deleted {
            let Some(tree) = state.trees.get(id) else {
                continue;
            };
            let (root, height) = (tree.root(), tree.height());
            if root.kind() == crate::layout::Kind::Node && height > 0 {
                state.reclaim.push(Item::new(root, height - 1, *id));
            }
        }
        state.merge_percent = 100;
        Ok(())
    }

    /// Writes the reclaim queue into its map, if it changed.
    async fn write_reclaim(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let (blocks, before, start) = {
            let mut state = self.state.borrow_mut();
            if !core::mem::take(&mut state.reclaim.dirty) {
                return Ok(());
            }
            let blocks = state.reclaim.encode();
            let before = core::mem::replace(&mut state.reclaim.blocks, blocks.len());
            let tree = state
                .trees
                .get(&RECLAIM)
                .map(|tree| (tree.root(), tree.height()));
            (blocks, before, tree.unwrap_or_default())
        };
        let mut pointers = Vec::with_capacity(blocks.len());
        for (lba, block) in (0..).zip(&blocks) {
            pointers.push(self.write_meta_block(batch, lba, block).await?);
        }
        let mut update = Update::new(self, batch, RECLAIM, start);
        for (lba, pointer) in (0..).zip(pointers) {
            update.set(lba, pointer).await?;
        }
        let (mut lba, end) = (blocks.len() as u64, before as u64);
        let birth = self.state.borrow_mut().next_births(1, 0);
        while lba < end {
            lba = update.erase(lba, end, birth).await?;
        }
        update.finish().await?;
        let merged = (update.root, update.height);
        if let Some(tree) = self.state.borrow_mut().trees.get_mut(&RECLAIM) {
            tree.merged = Some(merged);
        }
        Ok(())
    }

    /// Writes catalog blocks with changed entries; returns the catalog's new root and height.
    async fn write_catalog(
        &self,
        cut: &Cut,
        batch: &mut Batch,
    ) -> Result<(Pointer, u8), StoreError> {
        let (mut blocks, start) = {
            let state = self.state.borrow();
            // Taking maps apart changes counts of volumes that were not merged and had not changed at the cut.
            let changed = state.trees.values();
            let changed = changed.filter(|tree| tree.merged.is_some() || tree.dirty);
            let slots = changed
                .map(|tree| tree.slot)
                .chain(cut.slots.iter().copied());
            let blocks: Vec<u64> = slots.map(|slot| slot as u64 / 8).collect();
            (
                blocks,
                state
                    .trees
                    .get(&CATALOG)
                    .map(|tree| (tree.root(), tree.height())),
            )
        };
        blocks.sort_unstable();
        blocks.dedup();
        let mut pointers = Vec::with_capacity(blocks.len());
        for lba in blocks {
            let block = self.catalog_block(cut, lba);
            pointers.push((lba, self.write_meta_block(batch, lba, &block).await?));
        }
        let mut update = Update::new(self, batch, CATALOG, start.unwrap_or_default());
        for (lba, pointer) in pointers {
            update.set(lba, pointer).await?;
        }
        update.finish().await?;
        Ok((update.root, update.height))
    }

    fn catalog_block(&self, cut: &Cut, lba: u64) -> [u8; BLOCK_SIZE] {
        let state = self.state.borrow();
        let mut block = [0; BLOCK_SIZE];
        for (index, room) in block
            .chunks_exact_mut(size_of::<CatalogEntry>())
            .enumerate()
        {
            let slot = usize::try_from(lba).unwrap_or(usize::MAX).saturating_mul(8) + index;
            let Some(Some(id)) = state.slots.get(slot) else {
                continue;
            };
            if cut.deleted.contains(id) || !cut.trees.contains(id) {
                continue;
            }
            let Some(tree) = state.trees.get(id) else {
                continue;
            };
            room.copy_from_slice(tree.entry_at_cut().as_bytes());
        }
        block
    }

    /// Writes a block of an internal map to a new place.
    async fn write_meta_block(
        &self,
        batch: &mut Batch,
        lba: u64,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<Pointer, StoreError> {
        let addr = self.allocate_meta().await?;
        let birth = self.state.borrow_mut().next_births(1, 0);
        let tag = data_tag(self.pool_uuid, lba, birth, block);
        self.queue_meta(batch, addr, block).await?;
        Ok(Pointer::data(addr, birth, tag))
    }

    fn publish(&self, cut: &Cut, catalog: (Pointer, u8), keep: bool) {
        let deltas = self.deltas_max;
        let state = &mut *self.state.borrow_mut();
        for tree in state.trees.values_mut() {
            tree.at_cut = None;
            if let Some((root, height)) = tree.merged.take() {
                tree.entry.root = root;
                tree.entry.height = height;
            }
        }
        if let Some(tree) = state.trees.get_mut(&CATALOG) {
            (tree.entry.root, tree.entry.height) = catalog;
        }
        for id in &cut.deleted {
            if let Some(tree) = state.trees.remove(id) {
                state.slots[tree.slot] = None;
            }
        }
        state.frozen.clear();
        state.space.publish(keep);
        state.journal.tail = cut.tail;
        state.journal.checkpoint = state.superblock.checkpoint.get();
        state.checkpoints_done = state.checkpoints_begun;
        state.update_node_reserve(deltas);
        self.checkpoint_done.notify();
        self.writer_wanted.notify();
        self.writer_done.notify();
    }
}
