//! Snapshots, clones and rollback, as clients name them.

use alloc::vec::Vec;

use store::{Changes, SnapshotInfo, SnapshotOrder, Source, StoreError, Usage, VolumeInfo};
use world::Disk;

use crate::attachment::End;
use crate::{VolumeError, Volumes, check_name};

impl<D: Disk + 'static> Volumes<D> {
    /// The snapshots of a volume that are younger than `after`, oldest first, at most `max`.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`].
    pub fn snapshots(
        &self,
        volume: &str,
        after: Option<SnapshotOrder>,
        max: usize,
    ) -> Result<Vec<SnapshotInfo>, VolumeError> {
        let volume = self.get(volume)?;
        Ok(self.store().snapshots_after(volume.id, after, max))
    }

    /// The snapshot of `volume` called `name`.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`], [`VolumeError::NoSnapshot`].
    pub fn snapshot(&self, volume: &str, name: &str) -> Result<SnapshotInfo, VolumeError> {
        let volume = self.get(volume)?;
        let found = self.store().find_snapshot(volume.id, name);
        found.ok_or(VolumeError::NoSnapshot)
    }

    /// Keeps a volume as it is now; durable when this returns. Costs the same whatever the size.
    ///
    /// # Errors
    /// No such volume, a bad or taken name, and what the store says.
    pub async fn create_snapshot(
        &self,
        volume: &str,
        name: &str,
    ) -> Result<SnapshotInfo, VolumeError> {
        check_name(name)?;
        let volume = self.get(volume)?;
        self.standing(volume.id).require(true)?;
        let info = self.store().create_snapshot(volume.id, name).await?;
        self.usages().forget();
        Ok(info)
    }

    /// Keeps several volumes as they are at one instant: all or none.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot); [`VolumeError::NamedTwice`]; too many volumes.
    pub async fn create_snapshots(
        &self,
        volumes: &[&str],
        name: &str,
    ) -> Result<Vec<SnapshotInfo>, VolumeError> {
        check_name(name)?;
        let ids = volumes.iter().map(|name| {
            let id = self.get(name)?.id;
            self.standing(id).require(true)?;
            Ok::<_, VolumeError>(id)
        });
        let ids: Vec<_> = ids.collect::<Result<_, _>>()?;
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(VolumeError::NamedTwice);
        }
        let wanted: Vec<_> = ids.into_iter().map(|id| (id, name)).collect();
        let infos = self.store().create_snapshots(&wanted).await?;
        self.usages().forget();
        Ok(infos)
    }

    /// Gives a snapshot another name; durable when this returns. Attached clients go on.
    ///
    /// # Errors
    /// No such snapshot, a bad or taken name, and what the store says.
    pub async fn rename_snapshot(
        &self,
        volume: &str,
        name: &str,
        new_name: &str,
    ) -> Result<SnapshotInfo, VolumeError> {
        let snapshot = self.snapshot(volume, name)?;
        check_name(new_name)?;
        Ok(self.store().rename_snapshot(snapshot.id, new_name).await?)
    }

    /// Deletes a snapshot; gone at once and durably, what only it used comes back in the background. Clones live on.
    ///
    /// # Errors
    /// No such snapshot, [`VolumeError::Attached`] or [`VolumeError::Needed`] unless `force`, and what the store says; it stays then.
    pub async fn delete_snapshot(
        &self,
        volume: &str,
        name: &str,
        force: bool,
    ) -> Result<(), VolumeError> {
        let info = self.snapshot(volume, name)?;
        self.standing(info.volume).require_own_past(force)?;
        let ending = self.attachments().end(
            (info.id.into(), name, info.size_bytes),
            core::iter::empty(),
            End::Deleted,
            force,
        )?;
        ending.quiet().await;
        let deleted = self.store().delete_snapshot(info.id).await;
        // It may have gone with its volume meanwhile.
        if matches!(deleted, Ok(()) | Err(StoreError::NoSnapshot)) {
            self.usages().forget();
            ending.confirm();
        }
        Ok(deleted?)
    }

    /// Makes a volume that begins as a snapshot is; durable when this returns. Costs the same whatever the size. Its clients
    /// may come from where those of the snapshot's volume may.
    ///
    /// # Errors
    /// No such snapshot, a bad or taken name, and what the store says.
    pub async fn clone_snapshot(
        &self,
        volume: &str,
        snapshot: &str,
        name: &str,
    ) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        let _turn = self.settings_turn().await;
        let snapshot = self.snapshot(volume, snapshot)?;
        let origin = self.settings(snapshot.volume);
        let clone = self.store().clone_snapshot(snapshot.id, name).await?;
        self.usages().forget();
        self.inherit(clone.id, origin).await?;
        Ok(clone)
    }

    /// Makes a volume what it was at a snapshot, size included; durable when this returns. What is under way is done with
    /// before, and lost. Clients attached by force are told; a block that they remember may not be there any more.
    ///
    /// # Errors
    /// No such volume or snapshot, [`VolumeError::Attached`] unless `force`, and what the store says; the volume stays as it
    /// is then.
    pub async fn rollback(
        &self,
        volume: &str,
        snapshot: &str,
        force: bool,
    ) -> Result<VolumeInfo, VolumeError> {
        let info = self.get(volume)?;
        self.standing(info.id).require_owner()?;
        let snapshot = self.snapshot(volume, snapshot)?;
        let ending = self.attachments().end(
            (info.id.into(), &info.name, info.size_bytes),
            core::iter::empty(),
            End::RolledBack,
            force,
        )?;
        ending.quiet().await;
        let info = self.store().rollback(info.id, snapshot.id).await?;
        self.usages().forget();
        ending.confirm();
        Ok(info)
    }

    /// Where `to` differs from `from`, or where it has data if `from` is absent: from byte `start` on, at most `max` ranges.
    ///
    /// # Errors
    /// What the store says.
    pub async fn diff(
        &self,
        from: Option<Source>,
        to: Source,
        start: u64,
        max: usize,
    ) -> Result<Changes, VolumeError> {
        let changes = self.store().diff(from, to, start, max).await;
        changes.map_err(|error| self.what_is_gone(error, from.into_iter().chain([to])))
    }

    /// How much a volume or snapshot uses, exactly.
    ///
    /// # Errors
    /// What the store says.
    pub async fn usage(&self, of: impl Into<Source>) -> Result<Usage, VolumeError> {
        let of = of.into();
        let usage = self.store().usage(of).await;
        usage.map_err(|error| self.what_is_gone(error, [of]))
    }

    /// The store says of a snapshot that went meanwhile, too, that there is no volume.
    fn what_is_gone(&self, error: StoreError, of: impl IntoIterator<Item = Source>) -> VolumeError {
        let is_there = |of| match of {
            Source::Volume(id) => self.store().volume(id).is_some(),
            Source::Snapshot(_) => true,
        };
        match error {
            StoreError::NoVolume if of.into_iter().all(is_there) => VolumeError::NoSnapshot,
            error => error.into(),
        }
    }
}
