//! Making, deleting, growing and renaming volumes.
//!
//! A change of the catalog is a control record in the journal, pushed in the same breath that changes the catalog in memory; only
//! the acknowledgement waits.

use alloc::string::ToString;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Disk};

use crate::api::{BaseId, SnapshotId, StoreError, VolumeId, VolumeInfo};
use crate::layout::{CatalogEntry, CatalogKind, IDS_MAX, NAME_MAX, Record};
use crate::lineage::Place;
use crate::shared::{Handle, Shared, State, Tree};

/// The largest volume: what maps of five levels can hold.
pub const SIZE_MAX: u64 = 128 << 40;

/// How late the simulator's deliberate bug tells the journal of a change.
const LATE: core::time::Duration = core::time::Duration::from_millis(3);

impl<D: Disk + 'static> Shared<D> {
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state.borrow();
        let heads = state.directory.heads();
        let heads = heads.filter_map(|head| state.trees.get(&head));
        heads
            .filter(|tree| !tree.leaving)
            .map(|tree| state.volume_info(tree))
            .collect()
    }

    pub fn find(&self, name: &str) -> Option<VolumeInfo> {
        let volume = self.state.borrow().directory.find(name)?;
        self.volume(VolumeId(volume))
    }

    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        let tree = state.tree_at(Place::Volume(id.0))?;
        Some(state.volume_info(tree))
    }

    pub async fn create_volume(
        self: &Handle<D>,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        check_size(size_bytes)?;
        let uuids = [(); 2].map(|()| self.environment.new_uuid());
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.check_volume_name(name)?;
            let mut entry = state.new_map(self.config.maps_max)?;
            entry.set_name(name);
            entry.size_bytes.set(size_bytes);
            [entry.volume_uuid, entry.lineage_uuid] = uuids;
            entry.created_at.set(self.wall_nanos());
            let volume = entry.volume.get();
            self.change_catalog(state, &[entry]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(VolumeId(volume))?
        };
        self.flush_now().await?;
        Ok(info)
    }

    pub async fn delete_volume(self: &Handle<D>, id: VolumeId) -> Result<(), StoreError> {
        {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let head = state.head(id)?.id();
            if let Some(tree) = state.trees.get_mut(&head) {
                tree.leaving = true;
            }
        }
        // What was under way is done with before the volume is gone for good.
        if !self.config.mutants.delete_without_waiting() {
            self.in_flight.drained(id.0).await;
        }
        {
            let state = &mut *self.state.borrow_mut();
            let head = state.directory.volume(id.0).map(|volume| volume.head);
            let head = head.ok_or(StoreError::NoVolume)?;
            let is_serving = state.require_serving();
            let tree = state.trees.get_mut(&head).ok_or(StoreError::NoVolume)?;
            tree.leaving = false;
            let mut entry = tree.entry.clone();
            is_serving?;
            entry.set_kind(CatalogKind::Hidden);
            self.change_catalog(state, &[entry]);
        }
        self.flush_now().await?;
        self.want_checkpoint();
        Ok(())
    }

    pub async fn grow_volume(
        self: &Handle<D>,
        id: VolumeId,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        check_size(size_bytes)?;
        let grown = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let mut entry = state.head(id)?.entry.clone();
            if size_bytes < entry.size_bytes.get() {
                return Err(StoreError::BadSize);
            }
            entry.size_bytes.set(size_bytes);
            self.change_catalog(state, &[entry]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(id)?
        };
        self.flush_now().await?;
        Ok(grown)
    }

    pub async fn rename_volume(
        self: &Handle<D>,
        id: VolumeId,
        name: &str,
    ) -> Result<VolumeInfo, StoreError> {
        let renamed = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let mut entry = state.head(id)?.entry.clone();
            if entry.name() != name {
                state.check_volume_name(name)?;
            }
            entry.set_name(name);
            self.change_catalog(state, &[entry]);
            state.require_volume(id)?
        };
        self.flush_now().await?;
        Ok(renamed)
    }

    pub fn wall_nanos(&self) -> u64 {
        self.environment.exec.clock().wall_nanos().unwrap_or(0)
    }

    /// Changes the catalog and tells the journal, in one breath.
    pub fn change_catalog(self: &Handle<D>, state: &mut State, entries: &[CatalogEntry]) {
        state.apply(entries);
        self.mark_dirty(state);
        let mut late = usize::from(self.config.mutants.late_control_record()) * entries.len();
        if self.config.mutants.snapshot_halves() && entries.len() > 1 {
            late = 1;
        }
        let (entries, late) = entries.split_at(entries.len() - late);
        if !entries.is_empty() {
            state.journal.push(|out| Record::push_control(out, entries));
        }
        if !late.is_empty() {
            let (shared, entries) = (self.clone(), late.to_vec());
            self.environment.exec.spawn(async move {
                shared.environment.exec.sleep(LATE).await;
                let push = |out: &mut Vec<u8>| Record::push_control(out, &entries);
                shared.state.borrow_mut().journal.push(push);
            });
        }
    }
}

impl State {
    /// The map that a volume writes to.
    pub fn head(&self, id: VolumeId) -> Result<&Tree, StoreError> {
        self.tree_at(Place::Volume(id.0))
            .ok_or(StoreError::NoVolume)
    }

    pub fn require_volume(&self, id: VolumeId) -> Result<VolumeInfo, StoreError> {
        Ok(self.volume_info(self.head(id)?))
    }

    /// An entry for a new head of a new volume.
    pub fn new_map(&self, maps_max: usize) -> Result<CatalogEntry, StoreError> {
        if self.next_node >= IDS_MAX {
            return Err(StoreError::NoSpace);
        }
        if self.trees.len() >= maps_max {
            return Err(StoreError::TooManyMaps);
        }
        Ok(CatalogEntry::new(self.next_node, CatalogKind::Head))
    }

    /// Whether a volume can get this name. That of one that is being deleted is taken until that is in the journal.
    pub fn check_volume_name(&self, name: &str) -> Result<(), StoreError> {
        if !is_name(name) {
            return Err(StoreError::BadName);
        }
        match self.directory.find(name) {
            Some(_) => Err(StoreError::NameTaken),
            None => Ok(()),
        }
    }

    /// Blocks of data in a map and in its bases.
    pub fn allocated_blocks(&self, tree: &Tree) -> u64 {
        let bases = tree.bases().filter_map(|base| self.trees.get(&base));
        tree.entry.blocks.get() + bases.map(|base| base.entry.blocks.get()).sum::<u64>()
    }

    pub fn volume_info(&self, tree: &Tree) -> VolumeInfo {
        let entry = &tree.entry;
        let volume = entry.volume.get();
        let origin = entry.origin.get();
        let is_there = |tree: &&Tree| tree.kind() == CatalogKind::Snapshot;
        VolumeInfo {
            id: VolumeId(volume),
            name: entry.name().to_string(),
            uuid: entry.volume_uuid,
            size_bytes: entry.size_bytes.get(),
            allocated_bytes: self.allocated_blocks(tree) * BLOCK_SIZE as u64,
            created_at_nanos: entry.created_at.get(),
            origin: (self.trees.get(&origin).filter(is_there)).map(|_| SnapshotId(origin)),
            bases: tree.bases().map(BaseId).collect(),
            snapshots: (self.directory.volume(volume)).map_or(0, |volume| volume.snapshots.len()),
        }
    }
}

pub fn check_size(size_bytes: u64) -> Result<(), StoreError> {
    if is_size(size_bytes) {
        Ok(())
    } else {
        Err(StoreError::BadSize)
    }
}

/// Whether a volume can have so many bytes: a multiple of 512, at least one block and at most [`SIZE_MAX`].
#[must_use]
pub fn is_size(bytes: u64) -> bool {
    bytes.is_multiple_of(512) && (BLOCK_SIZE as u64..=SIZE_MAX).contains(&bytes)
}

/// Whether this can be the name of a volume or snapshot: 1 to [`NAME_MAX`] of `a-z 0-9 . _ -`, beginning with a letter or
/// digit.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(first)
        && name
            .bytes()
            .all(|byte| first(byte) || matches!(byte, b'.' | b'_' | b'-'))
}
