//! One client's attachment to one volume.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::IpAddr;

use store::{
    Extent, Holes, SnapshotId, SnapshotInfo, SnapshotOrder, Source, Span, StoreError, VolumeId,
};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::attachment::{Attachment, Attachments, Operation};
use crate::{Standing, Traffic, VolumeError, Volumes};

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// An attachment; dropping it detaches. Operations may run concurrently; overlapping writes run in the order of their
/// first poll.
pub struct Volume<D> {
    volumes: Volumes<D>,
    attachment: Rc<Attachment>,
    traffic: Rc<Traffic>,
    access: Access,
    peer: Option<IpAddr>,
    /// Whoever it is for may read it whosever it is.
    is_inside: bool,
}

impl<D: Disk + 'static> Volume<D> {
    pub(crate) fn new(
        volumes: Volumes<D>,
        attachment: Rc<Attachment>,
        traffic: Rc<Traffic>,
        access: Access,
        peer: Option<IpAddr>,
    ) -> Self {
        Self {
            volumes,
            attachment,
            traffic,
            access,
            peer,
            is_inside: false,
        }
    }

    pub(crate) fn for_inside(mut self) -> Self {
        self.is_inside = true;
        self
    }

    /// `VOLUME` or `VOLUME@SNAPSHOT`, as it was called when it was attached.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// Where requests to it are counted, by whoever takes them.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Its present size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.attachment.size_bytes.get()
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly || self.attachment.read_only.get()
    }

    /// Waits until the attachment was ended by a forced delete or rollback, and tells which: operations fail from then on.
    pub async fn ended(&self) -> VolumeError {
        self.attachment.ended().await
    }

    /// Checks a whole request before any of its pieces is started. Every operation below checks its own range too.
    ///
    /// # Errors
    /// [`Deleted`](VolumeError::Deleted), [`RolledBack`](VolumeError::RolledBack), [`Elsewhere`](VolumeError::Elsewhere),
    /// [`Unaligned`](VolumeError::Unaligned), [`OutOfRange`](VolumeError::OutOfRange), and [`ReadOnly`](VolumeError::ReadOnly) or
    /// [`NotYet`](VolumeError::NotYet) when `access` is to write.
    pub fn check(&self, access: Access, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.attachment.require_open()?;
        let is_write = access == Access::ReadWrite;
        if !self.is_inside {
            self.attachment.standing.get().require(is_write)?;
        }
        if is_write && self.is_read_only() {
            return Err(VolumeError::ReadOnly);
        }
        if !offset.is_multiple_of(512) || !len.is_multiple_of(512) {
            return Err(VolumeError::Unaligned);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(VolumeError::OutOfRange),
        }
    }

    /// Reads `span` into the pages of `into` (see [`Span`]), and tells which blocks were holes; bytes outside the span are
    /// arbitrary.
    ///
    /// # Errors
    /// As [`check`](Self::check), and what the store says; the buffer comes back in any case.
    pub async fn read(&self, span: Span, into: Buf) -> (Buf, Result<Holes, VolumeError>) {
        if let Err(error) = self.check(Access::ReadOnly, span.offset, span.len.into()) {
            return (into, Err(error));
        }
        let _operation = self.operate_at(span.offset);
        if self.attachment.standing.get() == Standing::Prepared {
            let (buf, result) = Box::pin(self.read_around(span, into)).await;
            return (buf, result.map_err(|error| self.explain(error)));
        }
        let store = self.volumes.store();
        let (buf, result) = store.read(self.attachment.source, span, into).await;
        if result == Err(StoreError::Absent) {
            // Rare, and large: in a box it is no part of each read.
            let (buf, result) = Box::pin(self.read_absent(span, buf)).await;
            return (buf, result.map_err(|error| self.explain(error)));
        }
        (buf, result.map_err(|error| self.explain(error.into())))
    }

    /// Writes `span` from the pages of `from` (see [`Span`]). Durable after a later [`flush`](Self::flush).
    ///
    /// # Errors
    /// As [`check`](Self::check), and what the store says; the old contents stay then.
    pub async fn write(&self, span: Span, from: Buf) -> Result<(), VolumeError> {
        self.check(Access::ReadWrite, span.offset, span.len.into())?;
        let id = self.writable()?;
        let _operation = self.operate_at(span.offset);
        if !span.is_aligned() {
            Box::pin(self.bring_edges(span.offset, span.len.into())).await?;
        }
        let result = self.volumes.store().write(id, span, from).await;
        let result = result.map_err(|error| self.explain(error.into()));
        self.volumes.note_write(&result);
        result
    }

    /// Makes a range a hole: it reads as zeros and uses no space. Costs the same for any length.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.check(Access::ReadWrite, offset, len)?;
        let id = self.writable()?;
        let _operation = self.operate();
        let block = BLOCK_SIZE as u64;
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            Box::pin(self.bring_edges(offset, len)).await?;
        }
        let result = self.volumes.store().discard(id, offset, len).await;
        result.map_err(|error| self.explain(error.into()))
    }

    /// What the `len` bytes at `offset` are, compared with the snapshot `from`, or with nothing if that is absent: at most
    /// `max` extents from `offset` on, which may end before the range does. Knows of everything that completed before.
    ///
    /// # Errors
    /// As [`check`](Self::check), [`NoSnapshot`](VolumeError::NoSnapshot) when `from` is gone, and what the store says.
    pub async fn extents(
        &self,
        from: Option<SnapshotId>,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, VolumeError> {
        self.check(Access::ReadOnly, offset, len)?;
        let _operation = self.operate();
        let store = self.volumes.store();
        let result = store
            .extents(from, self.attachment.source, offset, len, max)
            .await;
        result.map_err(|error| match error {
            StoreError::NoSnapshot if from.is_some() && self.attachment.require_open().is_ok() => {
                VolumeError::NoSnapshot
            }
            error => self.explain(error.into()),
        })
    }

    /// The snapshots that [`extents`](Self::extents) can compare with, oldest first: at most `max` that are younger than
    /// `after`.
    #[must_use]
    pub fn comparable(&self, after: Option<SnapshotOrder>, max: usize) -> Vec<SnapshotInfo> {
        match self.of_volume() {
            Some(volume) => self.volumes.store().snapshots_after(volume, after, max),
            None => Vec::new(),
        }
    }

    /// The snapshot `name` that [`extents`](Self::extents) can compare with.
    ///
    /// # Errors
    /// [`NoSnapshot`](VolumeError::NoSnapshot).
    pub fn comparable_snapshot(&self, name: &str) -> Result<SnapshotId, VolumeError> {
        let volume = self.of_volume().ok_or(VolumeError::NoSnapshot)?;
        let found = self.volumes.store().find_snapshot(volume, name);
        found.map(|info| info.id).ok_or(VolumeError::NoSnapshot)
    }

    /// The volume that it is, or is a snapshot of; absent once that is gone.
    fn of_volume(&self) -> Option<VolumeId> {
        match self.attachment.source {
            Source::Volume(id) => Some(id),
            Source::Snapshot(id) => self.volumes.store().snapshot(id).map(|info| info.volume),
        }
    }

    /// Makes every operation durable that completed before this call, on this attachment or another. A snapshot is
    /// durable since it was made.
    ///
    /// # Errors
    /// A failing drive; the pool is read-only then.
    pub async fn flush(&self) -> Result<(), VolumeError> {
        self.attachment.require_open()?;
        let standing = self.attachment.standing.get();
        if self.writable().is_err() || standing.require(true).is_err() {
            // What was written before the volume was another's is durable.
            return Ok(());
        }
        let _operation = self.operate();
        Ok(self.volumes.store().flush().await?)
    }

    fn operate_at(&self, offset: u64) -> Operation<'_> {
        if !self.is_inside {
            self.traffic.heat().note(offset);
        }
        self.operate()
    }

    fn operate(&self) -> Operation<'_> {
        match self.is_inside {
            // Nobody waits for it who would notice what else is done.
            true => Attachments::operate_inside(&self.attachment),
            false => self.volumes.attachments().operate(&self.attachment),
        }
    }

    pub(crate) async fn ending(&self) -> VolumeError {
        self.attachment.ending().await
    }

    pub(crate) fn source(&self) -> Source {
        self.attachment.source
    }

    pub(crate) fn volumes(&self) -> &Volumes<D> {
        &self.volumes
    }

    fn writable(&self) -> Result<VolumeId, VolumeError> {
        match self.attachment.source {
            Source::Volume(id) => Ok(id),
            Source::Snapshot(_) => Err(VolumeError::ReadOnly),
        }
    }

    /// An operation that a delete overtook fails because of it, whatever the store said.
    fn explain(&self, error: VolumeError) -> VolumeError {
        if let Err(end) = self.attachment.require_open() {
            return end;
        }
        match error {
            VolumeError::NoVolume | VolumeError::NoSnapshot => VolumeError::Deleted,
            error => error,
        }
    }
}

impl<D> Drop for Volume<D> {
    fn drop(&mut self) {
        self.volumes.detach(&self.attachment, self.peer);
    }
}
