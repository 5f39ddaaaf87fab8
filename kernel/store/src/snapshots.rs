//! Snapshots, clones and rollback: new maps that begin as others are.
//!
//! A snapshot takes its place among the changes of its volume like a write that covers all of it: what came before is in it,
//! what comes after is not, and nothing is under way at its instant. Then one record makes the volume's map the snapshot and a
//! new, empty one its head. Nothing is copied and nothing is read, so all of it costs one frame and one FLUSH.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Bound;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::{
    Holes, SnapshotId, SnapshotInfo, SnapshotLabel, SnapshotOrder, Source, Span, StoreError,
    VolumeId, VolumeInfo,
};
use crate::layout::{CONTROL_MAX, CatalogEntry, CatalogKind};
use crate::lineage::{LAYERS_MAX, Place};
use crate::overlap::Turn;
use crate::shared::{Handle, Shared, State, Tree};
use crate::store::Store;
use crate::volumes::{check_size, is_name};

/// The most volumes that can be kept at one instant: each changes two entries of the catalog.
const GROUP_MAX: usize = CONTROL_MAX / 2;

/// A checkpoint begins when a volume sees the changes of this many maps, so that no snapshot has to wait for one.
const LAYERS_ENOUGH: usize = LAYERS_MAX / 4;

impl<D: Disk + 'static> Store<D> {
    /// Gives a snapshot another name; durable when this returns.
    ///
    /// # Errors
    /// No such snapshot, a bad or taken name, or a drive that fails.
    pub async fn rename_snapshot(
        &self,
        id: SnapshotId,
        name: &str,
    ) -> Result<SnapshotInfo, StoreError> {
        self.shared.rename_snapshot(id, name).await
    }

    /// Makes a snapshot another volume's, called what `label` says; durable when this returns. What it holds stays, up to the size that it
    /// gets.
    ///
    /// # Errors
    /// No such snapshot or volume, a bad or taken name, a size larger than its own, or a drive that fails.
    pub async fn move_snapshot(
        &self,
        id: SnapshotId,
        to: VolumeId,
        label: &SnapshotLabel,
    ) -> Result<SnapshotInfo, StoreError> {
        self.shared.move_snapshot(id, to, label).await
    }
}

impl<D: Disk + 'static> Shared<D> {
    pub async fn create_snapshots(
        self: &Handle<D>,
        wanted: &[(VolumeId, &str)],
    ) -> Result<Vec<SnapshotInfo>, StoreError> {
        if wanted.len() > GROUP_MAX {
            return Err(StoreError::TooManyAtOnce);
        }
        if self.config.mutants.group_one_by_one() && wanted.len() > 1 {
            let (first, rest) = wanted.split_at(1);
            let mut made = alloc::boxed::Box::pin(self.create_snapshots(first)).await?;
            made.extend(alloc::boxed::Box::pin(self.create_snapshots(rest)).await?);
            return Ok(made);
        }
        self.state
            .borrow()
            .check_snapshots(wanted, self.config.maps_max)?;
        let turns = self
            .whole_volumes(wanted.iter().map(|(volume, _)| volume.0))
            .await;
        for (volume, _) in wanted {
            self.limit_layers(Place::Volume(volume.0)).await?;
        }
        let uuids: Vec<_> = wanted.iter().map(|_| self.environment.new_uuid()).collect();
        let made = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.check_snapshots(wanted, self.config.maps_max)?;
            let mut entries = Vec::with_capacity(wanted.len() * 2);
            let mut ids = Vec::with_capacity(wanted.len());
            for ((index, (volume, name)), uuid) in (0..).zip(wanted).zip(uuids) {
                let head = state.head(*volume)?;
                let (id, bias) = (head.id(), head.entry.epoch_bias.get());
                let mut snapshot = head.entry.clone();
                let mut next = head.entry.clone();
                snapshot.set_kind(CatalogKind::Snapshot);
                snapshot.set_name(name);
                snapshot.snapshot_uuid = uuid;
                snapshot.created_at.set(self.wall_nanos());
                let late = u64::from(self.config.mutants.seq_off_by_one());
                snapshot.seq.set(state.next_births(1, bias) + late);
                next.id.set(state.next_node + index);
                next.parent.set(id);
                entries.extend([snapshot, next]);
                ids.push(id);
            }
            self.change_catalog(state, &entries);
            state.update_node_reserve(self.deltas_max);
            ids.iter().map(|id| state.require_snapshot(*id)).collect()
        };
        drop(turns);
        self.flush_now().await?;
        made
    }

    pub async fn clone_snapshot(
        self: &Handle<D>,
        id: SnapshotId,
        name: &str,
    ) -> Result<VolumeInfo, StoreError> {
        self.state.borrow().require_snapshot(id.0)?;
        self.limit_layers(Place::Map(id.0)).await?;
        let uuid = self.environment.new_uuid();
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.check_volume_name(name)?;
            state.require_snapshot(id.0)?;
            let mut entry = state.new_map(self.config.maps_max)?;
            entry.set_name(name);
            entry.volume_uuid = uuid;
            entry.created_at.set(self.wall_nanos());
            entry.parent.set(id.0);
            entry.origin.set(id.0);
            let volume = entry.volume.get();
            let entry = state.like_parent(entry)?;
            self.change_catalog(state, &[entry]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(VolumeId(volume))?
        };
        self.flush_now().await?;
        Ok(info)
    }

    pub async fn rollback(
        self: &Handle<D>,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<VolumeInfo, StoreError> {
        let check = |state: &State| {
            state.head(volume)?;
            let of = state.require_snapshot(snapshot.0)?.volume;
            if of == volume {
                Ok(())
            } else {
                Err(StoreError::OtherVolume)
            }
        };
        check(&self.state.borrow())?;
        let turns = self.whole_volumes([volume.0].into_iter()).await;
        self.limit_layers(Place::Map(snapshot.0)).await?;
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            check(state)?;
            let mut old = state.head(volume)?.entry.clone();
            let mut new = state.new_map(self.config.maps_max)?;
            new.set_name(old.name());
            new.volume = old.volume;
            new.volume_uuid = old.volume_uuid;
            new.created_at = old.created_at;
            new.origin = old.origin;
            new.parent.set(snapshot.0);
            if self.config.mutants.rollback_to_head() {
                new.parent = old.id;
            }
            let new = state.like_parent(new)?;
            old.set_kind(CatalogKind::Hidden);
            self.change_catalog(state, &[old, new]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(volume)?
        };
        drop(turns);
        self.flush_now().await?;
        self.want_checkpoint();
        Ok(info)
    }

    pub async fn delete_snapshot(self: &Handle<D>, id: SnapshotId) -> Result<(), StoreError> {
        {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.require_snapshot(id.0)?;
            let mut entry = state
                .tree_at(Place::Map(id.0))
                .ok_or(StoreError::NoSnapshot)?
                .entry
                .clone();
            entry.set_kind(CatalogKind::Hidden);
            self.change_catalog(state, &[entry]);
        }
        self.flush_now().await?;
        self.want_checkpoint();
        Ok(())
    }

    pub async fn rename_snapshot(
        self: &Handle<D>,
        id: SnapshotId,
        name: &str,
    ) -> Result<SnapshotInfo, StoreError> {
        let renamed = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let old = state.require_snapshot(id.0)?;
            if old.name != name {
                state.check_snapshot_name(old.volume, name)?;
            }
            let mut entry = state
                .tree_at(Place::Map(id.0))
                .ok_or(StoreError::NoSnapshot)?
                .entry
                .clone();
            entry.set_name(name);
            self.change_catalog(state, &[entry]);
            state.require_snapshot(id.0)?
        };
        self.flush_now().await?;
        Ok(renamed)
    }

    pub async fn move_snapshot(
        self: &Handle<D>,
        id: SnapshotId,
        to: VolumeId,
        label: &SnapshotLabel,
    ) -> Result<SnapshotInfo, StoreError> {
        check_size(label.size_bytes)?;
        let moved = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let old = state.require_snapshot(id.0)?;
            state.head(to)?;
            if (old.volume, &old.name) != (to, &label.name) {
                state.check_snapshot_name(to, &label.name)?;
            }
            if label.size_bytes > old.size_bytes {
                return Err(StoreError::BadSize);
            }
            let mut entry = state.snapshot(id.0)?.entry.clone();
            entry.set_name(&label.name);
            entry.volume.set(to.0);
            entry.snapshot_uuid = label.uuid;
            entry.size_bytes.set(label.size_bytes);
            entry.created_at.set(label.created_at_nanos);
            self.change_catalog(state, &[entry]);
            state.require_snapshot(id.0)
        };
        self.flush_now().await?;
        moved
    }

    pub fn snapshots_after(
        &self,
        volume: VolumeId,
        after: Option<SnapshotOrder>,
        max: usize,
    ) -> Vec<SnapshotInfo> {
        let state = self.state.borrow();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let snapshots = state.directory.volume(volume.0);
        let ids = { snapshots.into_iter() }
            .flat_map(|volume| volume.in_order.range((from, Bound::Unbounded)));
        ids.filter_map(|order| state.require_snapshot(order.id.0).ok())
            .take(max)
            .collect()
    }

    pub fn snapshot(&self, id: SnapshotId) -> Option<SnapshotInfo> {
        self.state.borrow().require_snapshot(id.0).ok()
    }

    pub fn find_snapshot(&self, volume: VolumeId, name: &str) -> Option<SnapshotInfo> {
        let state = self.state.borrow();
        let order = state.directory.volume(volume.0)?.snapshots.get(name)?;
        state.require_snapshot(order.id.0).ok()
    }

    pub async fn read_source(
        &self,
        source: Source,
        span: Span,
        into: Buf,
    ) -> (Buf, Result<Holes, StoreError>) {
        match self.place_of(source) {
            Ok(place) => self.read_span(place, span, into).await,
            Err(error) => (into, Err(error)),
        }
    }

    /// Where a source is; for a snapshot, whether it is there.
    pub fn place_of(&self, source: Source) -> Result<Place, StoreError> {
        match source {
            Source::Volume(volume) => Ok(Place::Volume(volume.0)),
            Source::Snapshot(id) => {
                self.state.borrow().snapshot(id.0)?;
                Ok(Place::Map(id.0))
            }
        }
    }

    /// Waits for a turn over all of each of these volumes: nothing of them is under way then.
    async fn whole_volumes(&self, volumes: impl Iterator<Item = u64>) -> Vec<Turn<'_>> {
        // All of them stand in the queue before the first wait, so two groups cannot wait for each other.
        let turns: Vec<_> = volumes
            .map(|volume| self.in_flight.stand(volume, 0, u64::MAX))
            .collect();
        if !self.config.mutants.snapshot_without_turn() {
            join_all(turns.iter().map(|turn| turn.reached(self.config.mutants))).await;
        }
        turns
    }

    /// Waits for a checkpoint when a map that begins as `place` would see the changes of too many.
    async fn limit_layers(&self, place: Place) -> Result<(), StoreError> {
        loop {
            let layers = {
                let state = self.state.borrow();
                state.require_serving()?;
                let tree = state.tree_at(place).ok_or(place.missing())?;
                state.layers(tree.id()).len()
            };
            if layers >= LAYERS_ENOUGH {
                let checkpoint = self.want_checkpoint();
                if layers >= LAYERS_MAX {
                    self.checkpoint_reached(checkpoint).await?;
                    continue;
                }
            }
            return Ok(());
        }
    }
}

impl State {
    /// The map of a snapshot that is there.
    fn snapshot(&self, id: u64) -> Result<&Tree, StoreError> {
        let is_snapshot = |tree: &&Tree| tree.kind() == CatalogKind::Snapshot;
        let tree = self.trees.get(&id).filter(is_snapshot);
        let tree = tree.ok_or(StoreError::NoSnapshot)?;
        // It goes with its volume.
        self.head(VolumeId(tree.entry.volume.get()))
            .map_err(|_| StoreError::NoSnapshot)?;
        Ok(tree)
    }

    pub fn require_snapshot(&self, id: u64) -> Result<SnapshotInfo, StoreError> {
        let tree = self.snapshot(id)?;
        let entry = &tree.entry;
        Ok(SnapshotInfo {
            id: SnapshotId(id),
            volume: VolumeId(entry.volume.get()),
            name: entry.name().to_string(),
            uuid: entry.snapshot_uuid,
            size_bytes: entry.size_bytes.get(),
            allocated_bytes: self.allocated_blocks(tree) * BLOCK_SIZE as u64,
            created_at_nanos: entry.created_at.get(),
        })
    }

    fn check_snapshot_name(&self, volume: VolumeId, name: &str) -> Result<(), StoreError> {
        if !is_name(name) {
            return Err(StoreError::BadName);
        }
        let volume = self
            .directory
            .volume(volume.0)
            .ok_or(StoreError::NoVolume)?;
        if volume.snapshots.contains_key(name) {
            return Err(StoreError::NameTaken);
        }
        Ok(())
    }

    fn check_snapshots(
        &self,
        wanted: &[(VolumeId, &str)],
        maps_max: usize,
    ) -> Result<(), StoreError> {
        self.new_map(maps_max.saturating_sub(wanted.len()))?;
        for (index, (volume, name)) in wanted.iter().enumerate() {
            self.head(*volume)?;
            self.check_snapshot_name(*volume, name)?;
            if wanted[..index].iter().any(|(other, _)| other == volume) {
                return Err(StoreError::NameTaken);
            }
        }
        Ok(())
    }

    /// An entry with what maps have in common with those that they begin as.
    fn like_parent(&self, mut entry: CatalogEntry) -> Result<CatalogEntry, StoreError> {
        let parent = self.trees.get(&entry.parent.get());
        let parent = &parent.ok_or(StoreError::NoSnapshot)?.entry;
        entry.size_bytes = parent.size_bytes;
        entry.lineage_uuid = parent.lineage_uuid;
        entry.epoch_bias = parent.epoch_bias;
        if !self.mutants.clone_without_base() {
            entry.bases = parent.bases;
        }
        Ok(entry)
    }
}
