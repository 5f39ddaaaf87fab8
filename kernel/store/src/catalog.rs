//! Loading the catalog, and the store's own maps.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::FromBytes;

use crate::api::StoreError;
use crate::delta::split_key;
use crate::layout::{CatalogEntry, CatalogKind, Kind};
use crate::lineage::{Place, order_of};
use crate::map::reach;
use crate::shared::{CATALOG, RECLAIM, RECORDS, Shared, State, Tree};

impl<D: Disk> Shared<D> {
    /// Loads the catalog and the reclaim queue from the last checkpoint.
    pub async fn load_catalog(&self) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for (lba, block) in self.internal_blocks(CATALOG).await? {
            let first = usize::try_from(lba).unwrap_or(0) * 8;
            for (slot, bytes) in (first..).zip(block.chunks_exact(size_of::<CatalogEntry>())) {
                let entry = CatalogEntry::read_from_bytes(bytes).unwrap_or_default();
                // Maps of the store itself are small; nothing walks a large one block by block.
                let is_internal = entry.kind() == CatalogKind::Internal;
                if entry == CatalogEntry::default() {
                    continue;
                }
                if !entry.is_sound() || is_internal && entry.height > 3 {
                    return Err(StoreError::DamagedPool);
                }
                if entry.kind() != CatalogKind::Free {
                    entries.push((entry, slot));
                }
            }
        }
        self.state.borrow_mut().insert_catalog(entries)?;
        for (_, block) in self.internal_blocks(RECLAIM).await? {
            self.state.borrow_mut().reclaim.decode(&block);
        }
        Ok(())
    }

    /// All blocks of an internal map, with their numbers.
    pub async fn internal_blocks(
        &self,
        tree: u64,
    ) -> Result<Vec<(u64, [u8; BLOCK_SIZE])>, StoreError> {
        let height = self.state.borrow().trees.get(&tree).map_or(0, Tree::height);
        let (pool, place) = (self.pool_uuid, Place::Map(tree));
        let mut blocks = Vec::new();
        let end = if height == 0 { 0 } else { reach(height) };
        let end = end.max(self.state.borrow().internal_end(tree));
        for lba in (0..end).step_by(Buf::PAGES_MAX) {
            let count =
                usize::try_from(end - lba).map_or(Buf::PAGES_MAX, |left| left.min(Buf::PAGES_MAX));
            let pointers = self.lookup(place, lba, count).await?;
            if pointers.iter().all(|pointer| pointer.kind() != Kind::Data) {
                continue;
            }
            let (buf, result) = self
                .read_blocks(place, pool, lba, Buf::from_heap(count))
                .await;
            result.map_err(|_| StoreError::DamagedPool)?;
            let data = (0..count).filter(|index| pointers[*index].kind() == Kind::Data);
            blocks.extend(data.map(|index| (lba + index as u64, *buf.block(index))));
        }
        Ok(blocks)
    }
}

impl State {
    /// Takes in the catalog, parents first.
    fn insert_catalog(
        &mut self,
        mut entries: Vec<(CatalogEntry, usize)>,
    ) -> Result<(), StoreError> {
        entries.sort_by_key(|(entry, _)| entry.id.get());
        for (entry, slot) in &entries {
            let id = entry.id.get();
            let parent = entry.parent.get();
            let is_parent = |tree: &Tree| {
                matches!(tree.kind(), CatalogKind::Snapshot | CatalogKind::Hidden)
                    && tree.entry.lineage_uuid == entry.lineage_uuid
            };
            let is_known = parent == 0 || self.trees.get(&parent).is_some_and(is_parent);
            let is_twice = entry.kind() == CatalogKind::Head
                && (self.directory.find(entry.name()).is_some()
                    || self.directory.volume(entry.volume.get()).is_some());
            if !is_known || is_twice || self.trees.contains_key(&id) {
                log::error!("the catalog's entry of map {id} cannot be");
                return Err(StoreError::DamagedPool);
            }
            self.insert_tree(entry.clone(), Some(*slot));
        }
        // Most snapshots have smaller numbers than the heads that make their volumes known.
        for (entry, _) in &entries {
            if entry.kind() == CatalogKind::Snapshot {
                let volume = entry.volume.get();
                if self.directory.volume(volume).is_none() {
                    log::error!("snapshot {} is of no volume", entry.id);
                    return Err(StoreError::DamagedPool);
                }
                self.directory
                    .add_snapshot(volume, entry.name(), order_of(entry));
            }
        }
        for id in [RECLAIM, RECORDS] {
            if !self.trees.contains_key(&id) {
                let mut entry = CatalogEntry::new(id, CatalogKind::Internal);
                entry.lineage_uuid = self.superblock.pool_uuid;
                self.insert_tree(entry, None);
                self.touch(id);
            }
        }
        Ok(())
    }

    /// One more than the last block of an internal map that the deltas know.
    fn internal_end(&self, tree: u64) -> u64 {
        let points = self.active.points().iter().chain(self.frozen.points());
        let mine = points.map(|point| split_key(point.key));
        let mine = mine.filter(|(of, _)| *of == tree);
        mine.map(|(_, lba)| lba + 1).max().unwrap_or(0)
    }
}
