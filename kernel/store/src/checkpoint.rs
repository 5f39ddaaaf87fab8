//! Checkpoints: deltas become part of the maps, and the journal before them is no longer needed.
//!
//! ```text
//! cut ─► journal durable up to the cut ─► merge maps ─► take deleted maps apart ─► catalog
//!     ─► bitmaps ─► group table ─► FLUSH ─► superblock ─► FLUSH ─► publish
//! ```
//! Until the superblock is durable everything that the one before refers to is untouched.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use exec::futures_util::future::{Either, select};
use world::{BLOCK_SIZE, Disk};
use zerocopy::IntoBytes;

use crate::api::StoreError;
use crate::layout::{CatalogEntry, CatalogKind, JournalTail, Pointer, data_tag};
use crate::merge::Changes;
use crate::shared::{CATALOG, Mode, RECLAIM, Shared};
use crate::update::{Batch, Update};

/// A change waits this long for its checkpoint at most.
const DIRTY_MAX: core::time::Duration = core::time::Duration::from_secs(30);

/// An idle pool gives freed blocks back after this long.
const PENDING_PAUSE: core::time::Duration = core::time::Duration::from_secs(1);

/// Pause between checkpoints that only take deleted maps apart.
const RECLAIM_PAUSE: core::time::Duration = core::time::Duration::from_millis(20);

/// The same after a drive did not let it go on.
const STALLED_PAUSE: core::time::Duration = core::time::Duration::from_secs(10);

/// What the cut fixed, and what the checkpoint changes beside the deltas.
pub struct Cut {
    /// Maps below this number existed.
    pub maps_end: u64,
    /// Catalog slots whose entries change.
    pub touched: BTreeSet<usize>,
    /// Maps that are taken apart by the end of this checkpoint.
    pub gone: Vec<u64>,
    tail: JournalTail,
}

impl<D: Disk> Shared<D> {
    /// The checkpointer's life.
    pub async fn run_checkpointer(&self) {
        loop {
            let wanted = self.checkpoint_wanted.wait();
            let has_waste = self.has_waste();
            let deadline = {
                let state = self.state.borrow();
                if matches!(state.mode, Mode::Closed | Mode::ReadOnly(_)) {
                    return;
                }
                let now = self.environment.exec.now();
                if state.checkpoints_wanted > state.checkpoints_done {
                    Some(now)
                } else if has_waste {
                    let pause = if state.is_stalled {
                        STALLED_PAUSE
                    } else {
                        RECLAIM_PAUSE
                    };
                    Some(now + pause)
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
        self.write_checkpoint(&mut cut.0).await
    }

    /// The rest of a checkpoint, from the merge on.
    async fn write_checkpoint(&self, cut: &mut Cut) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        self.merge_all(cut, &mut batch).await?;
        // New nodes may have left the cache already, and are read from here on.
        self.write_batch(&mut batch).await?;
        self.take_apart(cut, self.config.reclaim_blocks).await?;
        self.write_reclaim(cut, &mut batch).await?;
        let catalog = self.write_catalog(cut, &mut batch).await?;
        self.write_batch(&mut batch).await?;
        self.sort_deferred().await;
        self.write_bitmaps().await?;
        let table = self.write_table().await?;
        if !self.config.mutants.no_flush_before_superblock() {
            self.flush_disks().await?;
        }
        let keep = !self.state.borrow().space.is_tight();
        if self.config.mutants.tail_too_late() {
            cut.tail = self.state.borrow().journal.head();
        }
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
        let _publishing = self.publishing.acquire().await;
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
        let Some(mut cut) = cut else { return Ok(false) };
        self.write_checkpoint(&mut cut).await?;
        Ok(true)
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
        let [active, frozen] = &mut state.changed;
        core::mem::swap(active, frozen);
        let mut touched = BTreeSet::new();
        for id in core::mem::take(&mut state.dirty_trees) {
            if let Some(tree) = state.trees.get_mut(&id) {
                tree.dirty = false;
                touched.insert(tree.slot);
            }
        }
        let covers_later = self.config.mutants.cut_covers_later_maps();
        let maps_end = if covers_later {
            state.next_node
        } else {
            state.maps_end
        };
        let cut = Cut {
            maps_end,
            touched,
            gone: Vec::new(),
            tail: JournalTail::default(),
        };
        (cut, state.journal.begin_cut())
    }

    /// Gives every map that existed at the cut what the frozen deltas say of it, parents first.
    async fn merge_all(&self, cut: &mut Cut, batch: &mut Batch) -> Result<(), StoreError> {
        let mut changes = Changes::sorted(self).await;
        let mut after = 0;
        loop {
            let changed = changes.next_tree(self);
            let next = {
                let state = self.state.borrow();
                let inheriting = state.inheriting.range(after..cut.maps_end).next().copied();
                inheriting.into_iter().chain(changed).min()
            };
            let Some(id) = next else { break };
            after = id + 1;
            self.merge_one(cut, id, changed == Some(id), &mut changes, batch)
                .await?;
        }
        self.state.borrow_mut().merge_percent = 100;
        Ok(())
    }

    async fn merge_one(
        &self,
        cut: &mut Cut,
        id: u64,
        is_changed: bool,
        changes: &mut Changes,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let start = {
            let state = self.state.borrow();
            state.trees.get(&id).map(|tree| {
                // Nobody will ever look at it again, and no map began as this one.
                let is_waste =
                    tree.kind_at_cut() == CatalogKind::Hidden && tree.children.is_empty();
                let own = (tree.root(), tree.height(), tree.entry.blocks.get());
                (is_waste, state.inherited_root(id), own)
            })
        };
        let Some((is_waste, inherited, own)) = start else {
            log::error!("there are changes of map {id}, which does not exist");
            return Err(StoreError::DamagedPool);
        };
        let (mut root, mut height, mut blocks) = inherited.unwrap_or(own);
        if is_changed && inherited.is_some() {
            // These nodes may be new, and may have left the cache already.
            self.write_batch(batch).await?;
        }
        if is_changed && is_waste {
            changes.drop_tree(self, id);
        } else if is_changed {
            let mut update = Update::new(self, batch, id, (root, height));
            changes.merge_tree(self, id, &mut update).await?;
            update.finish().await?;
            (root, height) = (update.root, update.height);
            blocks = (blocks + update.added).saturating_sub(update.removed);
        }
        let state = &mut *self.state.borrow_mut();
        if let Some(tree) = state.trees.get_mut(&id) {
            tree.entry.blocks = blocks.into();
            // Readers use it only when the checkpoint is published: until then the frozen deltas hide what it changed.
            tree.merged = Some((root, height));
            cut.touched.insert(tree.slot);
        }
        state.merged.push(id);
        Ok(())
    }

    /// Writes the reclaim queue into its map, if it changed.
    async fn write_reclaim(&self, cut: &mut Cut, batch: &mut Batch) -> Result<(), StoreError> {
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
        let state = &mut *self.state.borrow_mut();
        if let Some(tree) = state.trees.get_mut(&RECLAIM) {
            tree.merged = Some(merged);
            cut.touched.insert(tree.slot);
        }
        state.merged.push(RECLAIM);
        Ok(())
    }

    /// Writes catalog blocks with changed entries; returns the catalog's new root and height.
    async fn write_catalog(
        &self,
        cut: &Cut,
        batch: &mut Batch,
    ) -> Result<(Pointer, u8), StoreError> {
        let mut blocks: Vec<u64> = cut.touched.iter().map(|slot| *slot as u64 / 8).collect();
        blocks.dedup();
        let start =
            (self.state.borrow().trees.get(&CATALOG)).map(|tree| (tree.root(), tree.height()));
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
            let id = state.directory.in_slot(slot);
            let id = id.filter(|id| *id < cut.maps_end && !cut.gone.contains(id));
            if let Some(tree) = id.and_then(|id| state.trees.get(&id)) {
                room.copy_from_slice(tree.entry_at_cut().as_bytes());
            }
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
        for id in core::mem::take(&mut state.merged) {
            let Some(tree) = state.trees.get_mut(&id) else {
                continue;
            };
            if let Some((root, height)) = tree.merged.take() {
                tree.entry.root = root;
                tree.entry.height = height;
            }
            tree.source = None;
            state.inheriting.remove(&id);
        }
        for id in core::mem::take(&mut state.kept_entries) {
            if let Some(tree) = state.trees.get_mut(&id) {
                tree.at_cut = None;
            }
        }
        if let Some(tree) = state.trees.get_mut(&CATALOG) {
            (tree.entry.root, tree.entry.height) = catalog;
        }
        cut.gone.iter().for_each(|id| state.remove_tree(*id));
        state.changed[1].clear();
        // Maps that were made since the cut: what they began as may have a root of its own now.
        let made: Vec<u64> = state.inheriting.iter().copied().collect();
        made.into_iter().for_each(|id| state.inherit(id));
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
