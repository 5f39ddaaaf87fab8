//! The block store as the rooms above see it.
//!
//! On the walk: above is `volume`, below are [`write`](crate::write) and [`read`](crate::read).

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hashbrown::HashMap;
use world::{BLOCK_SIZE, Buf, Disk, Pool};

use crate::api::{
    Changes, Config, Contents, Environment, FormatOptions, Holes, PoolInfo, ScrubPosition,
    ScrubStep, SnapshotId, SnapshotInfo, SnapshotOrder, Source, Span, StoreError, Usage, VolumeId,
    VolumeInfo,
};
use crate::cache::NodeCache;
use crate::delta::DeltaTable;
use crate::directory::Directory;
use crate::format;
use crate::inspect::read_samples;
use crate::journal::Journal;
use crate::layout::{CatalogEntry, CatalogKind, Header, HeaderState, Regions};
use crate::load::{Loaded, load, mend_labels, read_block, read_header};
use crate::numbers::NumberMap;
use crate::overlap::InFlight;
use crate::reclaim::Reclaim;
use crate::recover;
use crate::shared::{CATALOG, Handle, Mode, NodeNeed, Shared, State, Tree};
use crate::shelf::Shelf;
use crate::space::Space;
use crate::update::META_PAGES;

/// The block store; clones refer to the same one.
pub struct Store<D> {
    pub(crate) shared: Handle<D>,
}

impl<D> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<D: Disk + 'static> Store<D> {
    /// Tells what a drive holds, reading only.
    ///
    /// # Errors
    /// When the drive cannot be read.
    pub async fn inspect(disk: &D) -> Result<Contents, StoreError> {
        if disk.geometry().blocks == 0 {
            return Err(StoreError::TooSmall);
        }
        let header = read_header(disk).await?;
        if matches!(header, HeaderState::Valid(_))
            && let Some(owner) = other_owner(disk).await?
        {
            return Ok(Contents::Foreign(owner.into()));
        }
        match header {
            // The format was interrupted before anything could be stored.
            HeaderState::Valid(header) if header.is_forming() => Ok(Contents::Blank),
            HeaderState::Valid(header) => Ok(Contents::Member {
                pool_uuid: header.pool_uuid,
                device_uuid: header.device_uuid,
                members: header.members.get() as usize,
            }),
            HeaderState::Newer(what) => Ok(Contents::Foreign(what)),
            HeaderState::Damaged => Ok(Contents::Foreign(
                "a Ferrite pool whose labels are damaged".into(),
            )),
            HeaderState::None => {
                let samples = read_samples(disk).await?;
                Ok(match samples.name() {
                    None if samples.is_blank() => Contents::Blank,
                    name => Contents::Foreign(name.unwrap_or("unknown data").into()),
                })
            }
        }
    }

    /// Gives up what a drive holds: it is blank from now on. Not for a drive of an open pool.
    ///
    /// # Errors
    /// A drive that fails.
    pub async fn erase(disk: &D) -> Result<(), StoreError> {
        Ok(crate::inspect::erase(disk).await?)
    }

    /// Makes a new pool on `disks`, whatever they hold. Costs the same for any size.
    ///
    /// # Errors
    /// A drive that fails or is too small.
    pub async fn format(
        disks: &[D],
        environment: &Environment,
        options: FormatOptions,
    ) -> Result<(), StoreError> {
        format::format(disks, environment, &options).await
    }

    /// Opens the pool on `disks`, recovers what a power cut left, and starts its background work.
    ///
    /// # Errors
    /// Missing, failing or damaged drives.
    pub async fn open(
        disks: Vec<D>,
        environment: Environment,
        config: Config,
    ) -> Result<Self, StoreError> {
        let loaded = load(&disks).await?;
        let is_older = loaded.is_older;
        if !is_older {
            mend_labels(&disks, &loaded).await?;
        }
        let shared = Rc::new(assemble(disks, environment, config, loaded));
        shared.load_catalog().await?;
        {
            let mut state = shared.state.borrow_mut();
            let deltas = shared.deltas_max;
            state.update_node_reserve(deltas);
        }
        if is_older {
            shared.load_records().await?;
            shared.fail("the newest checkpoint is damaged: this is the state of the one before");
            return Ok(Self { shared });
        }
        let end = shared.find_end().await?;
        let mount_gen = shared.state.borrow().journal.mount_gen + 1;
        shared
            .unflushed
            .iter()
            .for_each(|unflushed| unflushed.set(true));
        shared.flush_disks().await?;
        shared
            .write_superblock(|superblock| {
                if !config.mutants.mount_not_noted() {
                    superblock.mount_gen.set(mount_gen);
                }
            })
            .await?;
        {
            let mut state = shared.state.borrow_mut();
            state.journal.mount_gen = state.superblock.mount_gen.get();
            state.journal.checkpoint = state.superblock.checkpoint.get();
        }
        shared.replay(end).await?;
        shared.load_records().await?;
        recover::spawn(&shared);
        Ok(Self { shared })
    }

    /// Finishes what runs, writes a checkpoint and refuses everything after.
    ///
    /// # Errors
    /// A drive that fails, or a pool that takes no writes.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        {
            let mut state = shared.state.borrow_mut();
            state.require_serving()?;
            state.mode = Mode::Closing;
        }
        shared.in_flight.all_drained().await;
        let result = async {
            shared.flush_now().await?;
            shared.checkpoint_reached(shared.want_checkpoint()).await
        }
        .await;
        shared.state.borrow_mut().mode = Mode::Closed;
        shared.writer_wanted.notify();
        shared.writer_done.notify();
        shared.checkpoint_wanted.notify();
        shared.checkpoint_done.notify();
        result
    }

    /// The drives, in the order of the pool's member table.
    pub fn with_disks<T>(&self, with: impl FnOnce(&[D]) -> T) -> T {
        with(&self.shared.disks)
    }

    /// Space and state of the pool.
    #[must_use]
    pub fn pool(&self) -> PoolInfo {
        let state = self.shared.state.borrow();
        let totals = state.space.totals();
        let bytes = |blocks: u64| blocks * BLOCK_SIZE as u64;
        let figures = [state.space.data_room(), totals.pending, totals.size];
        let [writable_bytes, pending_bytes, size_bytes] = figures.map(bytes);
        PoolInfo {
            uuid: self.shared.pool_uuid,
            size_bytes,
            used_bytes: bytes(totals.size - totals.free),
            free_bytes: bytes(totals.free),
            pending_bytes,
            writable_bytes,
            reserved_bytes: bytes((2 * state.space.node_reserve()).min(totals.free)),
            state: self.shared.pool_state(),
            fullness: crate::api::Fullness::of(writable_bytes, pending_bytes, size_bytes),
            deallocated_bytes: self.shared.deallocated_bytes.get(),
            checkpoints: state.checkpoints_done,
            damaged_reads: self.shared.damaged_reads.get(),
        }
    }

    /// Makes what was changed so far a checkpoint, and waits for it.
    ///
    /// # Errors
    /// A drive that fails, or a pool that takes no writes.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        self.shared.state.borrow().require_serving()?;
        self.shared
            .checkpoint_reached(self.shared.want_checkpoint())
            .await
    }

    /// All volumes, oldest first.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.shared.volumes()
    }

    /// Looks a volume up by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<VolumeInfo> {
        self.shared.find(name)
    }

    /// Looks a volume up by number.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.shared.volume(id)
    }

    /// Makes an empty volume; durable when this returns.
    ///
    /// # Errors
    /// A bad or taken name, a bad size, or a drive that fails.
    pub async fn create_volume(
        &self,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        self.shared.create_volume(name, size_bytes).await
    }

    /// Deletes a volume; gone for the caller at once and durably, its space comes back in the background.
    ///
    /// # Errors
    /// No such volume, or a drive that fails.
    pub async fn delete_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        self.shared.delete_volume(id).await
    }

    /// Keeps a volume as it is now under a name; durable when this returns. Costs the same whatever the size, and however
    /// many there are.
    ///
    /// # Errors
    /// No such volume, a bad or taken name, or a drive that fails.
    pub async fn create_snapshot(
        &self,
        volume: VolumeId,
        name: &str,
    ) -> Result<SnapshotInfo, StoreError> {
        let mut made = self.create_snapshots(&[(volume, name)]).await?;
        made.pop().ok_or(StoreError::NoVolume)
    }

    /// Keeps several volumes as they are at one instant: all or none; in the order given.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot), and more than 60 volumes.
    pub async fn create_snapshots(
        &self,
        wanted: &[(VolumeId, &str)],
    ) -> Result<Vec<SnapshotInfo>, StoreError> {
        self.shared.create_snapshots(wanted).await
    }

    /// The snapshots of a volume, oldest first.
    #[must_use]
    pub fn snapshots(&self, volume: VolumeId) -> Vec<SnapshotInfo> {
        self.snapshots_after(volume, None, usize::MAX)
    }

    /// The snapshots of a volume that are younger than `after`, oldest first, at most `max`.
    #[must_use]
    pub fn snapshots_after(
        &self,
        volume: VolumeId,
        after: Option<SnapshotOrder>,
        max: usize,
    ) -> Vec<SnapshotInfo> {
        self.shared.snapshots_after(volume, after, max)
    }

    /// Looks a snapshot up by number.
    #[must_use]
    pub fn snapshot(&self, id: SnapshotId) -> Option<SnapshotInfo> {
        self.shared.snapshot(id)
    }

    /// Looks a snapshot up by name.
    #[must_use]
    pub fn find_snapshot(&self, volume: VolumeId, name: &str) -> Option<SnapshotInfo> {
        self.shared.find_snapshot(volume, name)
    }

    /// Deletes a snapshot; gone for the caller at once and durably, what only it used comes back in the background.
    ///
    /// # Errors
    /// No such snapshot, or a drive that fails.
    pub async fn delete_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.shared.delete_snapshot(id).await
    }

    /// Makes a volume that begins as the snapshot is; durable when this returns, and costs the same whatever the size.
    ///
    /// # Errors
    /// No such snapshot, a bad or taken name, or a drive that fails.
    pub async fn clone_snapshot(
        &self,
        id: SnapshotId,
        name: &str,
    ) -> Result<VolumeInfo, StoreError> {
        self.shared.clone_snapshot(id, name).await
    }

    /// Makes a volume what it was at the snapshot, size included. What was written since is lost; its snapshots all stay, newer ones too.
    ///
    /// # Errors
    /// No such volume or snapshot, one of another volume, or a drive that fails.
    pub async fn rollback(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<VolumeInfo, StoreError> {
        self.shared.rollback(volume, snapshot).await
    }

    /// Gives a volume another name; durable when this returns.
    ///
    /// # Errors
    /// No such volume, a bad or taken name, or a drive that fails.
    pub async fn rename_volume(&self, id: VolumeId, name: &str) -> Result<VolumeInfo, StoreError> {
        self.shared.rename_volume(id, name).await
    }

    /// Where `to` differs from `from`, or where it has data if `from` is absent: from byte `start` on, at most `max` ranges, and at most as many as
    /// 2 GiB of change give; a range may go on in the next part.
    ///
    /// Costs reads in proportion to what changed. A volume that is written meanwhile is compared as it is when each part is read.
    ///
    /// # Errors
    /// No such volume or snapshot, a failing drive, or damaged maps.
    pub async fn diff(
        &self,
        from: Option<Source>,
        to: Source,
        start: u64,
        max: usize,
    ) -> Result<Changes, StoreError> {
        self.shared.diff(from, to, start, max).await
    }

    /// How much a volume or snapshot uses, exactly, with everything that was written before this call.
    ///
    /// # Errors
    /// No such volume or snapshot, a failing drive, or damaged maps.
    pub async fn usage(&self, source: Source) -> Result<Usage, StoreError> {
        self.shared.usage(source).await
    }

    /// Verifies about `blocks` blocks in use, each once in a whole scrub, and repairs what another replica can.
    ///
    /// # Errors
    /// The store was closed.
    pub async fn scrub(&self, from: ScrubPosition, blocks: u64) -> Result<ScrubStep, StoreError> {
        self.shared.scrub(from, blocks).await
    }

    /// Makes a volume larger; durable when this returns.
    ///
    /// # Errors
    /// No such volume, or a size below the present one.
    pub async fn grow_volume(
        &self,
        id: VolumeId,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        self.shared.grow_volume(id, size_bytes).await
    }

    /// Reads `span` into the pages of `into` (see [`Span`]), and tells which blocks are holes; bytes outside the span are arbitrary.
    ///
    /// # Errors
    /// A wrong range, a failing drive, or damaged blocks: never wrong data.
    pub async fn read(
        &self,
        source: impl Into<Source>,
        span: Span,
        into: Buf,
    ) -> (Buf, Result<Holes, StoreError>) {
        self.shared.read_source(source.into(), span, into).await
    }

    /// Writes `span` from the pages of `from` (see [`Span`]). Durable after a later [`flush`](Self::flush).
    ///
    /// # Errors
    /// A wrong range, a full pool, a failing drive. The old contents stay then.
    pub async fn write(&self, id: VolumeId, span: Span, from: Buf) -> Result<(), StoreError> {
        self.shared.write_span(id.0, span, from).await
    }

    /// Turns `len` bytes at `offset` into a hole that reads as zeros and uses no space; partial blocks at the ends are
    /// zeroed. Serves TRIM and WRITE_ZEROES alike. Ordered with writes like a write.
    ///
    /// # Errors
    /// As [`write`](Self::write); a full pool only for the partial blocks.
    pub async fn discard(&self, id: VolumeId, offset: u64, len: u64) -> Result<(), StoreError> {
        self.shared.discard(id.0, offset, len).await
    }

    /// Makes every write, discard and control operation that completed before this call durable.
    ///
    /// # Errors
    /// A failing drive; the pool is read-only then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.state.borrow().require_serving()?;
        self.shared.flush_now().await
    }

    /// Reads a record (durable settings of the rooms above), if there is one.
    ///
    /// # Errors
    /// A failing drive or damaged metadata.
    pub async fn record(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.record(key).await
    }

    /// The keys of all records, in order.
    #[must_use]
    pub fn record_keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.shared.state.borrow().records.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Keeps `value` (at most 3 KiB) under `key` (at most 64 bytes), or forgets the key; durable when this returns.
    ///
    /// # Errors
    /// Too long, a full pool, a failing drive.
    pub async fn set_record(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        self.shared.set_record(key, value).await
    }
}

/// Who has taken a drive since, if only the copy of the label at its end is left of the pool.
async fn other_owner<D: Disk>(disk: &D) -> Result<Option<&'static str>, StoreError> {
    let Ok(first) = read_block(disk, 0).await else {
        return Ok(None);
    };
    if !matches!(Header::decode(first.block(0)), HeaderState::None) {
        return Ok(None);
    }
    Ok(read_samples(disk).await?.name())
}

/// Puts the parts of an open pool together; nothing is read or written yet.
fn assemble<D: Disk>(
    disks: Vec<D>,
    environment: Environment,
    config: Config,
    loaded: Loaded,
) -> Shared<D> {
    let Loaded {
        headers,
        order,
        superblock,
        entries,
        table_tags,
        ..
    } = loaded;
    let mut given: Vec<Option<D>> = disks.into_iter().map(Some).collect();
    let disks: Vec<D> = order
        .iter()
        .filter_map(|index| given[*index].take())
        .collect();
    let regions: Vec<Regions> = headers.iter().map(|header| header.regions).collect();
    let shift = headers[0].group_shift.get();
    let chunks: Vec<u32> = regions
        .iter()
        .map(|regions| u32::try_from(regions.chunks.get()).unwrap_or(u32::MAX))
        .collect();
    let blocks: u64 = chunks
        .iter()
        .map(|chunks| u64::from(*chunks) << shift)
        .sum();
    let half = usize::try_from(blocks / 64).unwrap_or(usize::MAX).max(256);
    let deltas_max = half.min(config.deltas_max / 2).max(64);
    let mut space = Space::new(shift, entries, &chunks, config.groups_open_max);
    space.mutants = config.mutants;
    let area = superblock.area.get() as usize;
    space.dirty_table[1 - area].fill(true);
    let mut tags = [Vec::new(), Vec::new()];
    tags[area] = table_tags;
    let ring = regions
        .iter()
        .map(|regions| regions.journal_blocks.get())
        .min()
        .unwrap_or(1);
    let mut journal = Journal::new(
        superblock.pool_uuid,
        superblock.fork_id.get(),
        superblock.mount_gen.get(),
        (ring, superblock.live_max.get().min(ring / 2)),
        superblock.tails[0],
    );
    journal.checkpoint = superblock.checkpoint.get();
    let mut catalog = CatalogEntry::new(CATALOG, CatalogKind::Internal);
    catalog.lineage_uuid = superblock.pool_uuid;
    catalog.root = superblock.catalog_root;
    catalog.height = u8::try_from(superblock.catalog_height.get()).unwrap_or(0);
    let catalog = Tree::new(catalog, usize::MAX);
    let state = State {
        table_tags: tags,
        next_node: superblock.next_node.get(),
        maps_end: 0,
        space,
        journal,
        cache: NodeCache::new(config.nodes_max),
        active: DeltaTable::new(deltas_max),
        frozen: DeltaTable::new(deltas_max),
        trees: NumberMap::from_iter([(CATALOG, catalog)]),
        directory: Directory::default(),
        inheriting: BTreeSet::new(),
        changed: Default::default(),
        dirty_trees: Vec::new(),
        kept_entries: Vec::new(),
        merged: Vec::new(),
        reclaim: Reclaim::default(),
        records: HashMap::new(),
        node_need: NodeNeed::default(),
        reserved_points: 0,
        granted_points: 0,
        births: 1,
        flush_wanted: 0,
        checkpoints_wanted: 0,
        checkpoints_begun: 0,
        checkpoints_done: 0,
        early_cut: None,
        merge_percent: 0,
        mode: Mode::Serving,
        full_at: None,
        is_stalled: false,
        dirty_since: None,
        mutants: config.mutants,
        superblock,
    };
    let transfers = disks.iter().map(|disk| disk.geometry().transfer_blocks_max);
    Shared {
        transfers_max: transfers.map(|blocks| blocks as usize).collect(),
        unflushed: disks.iter().map(|_| Cell::new(false)).collect(),
        pool_uuid: state.superblock.pool_uuid,
        disks,
        regions,
        environment,
        config,
        deltas_max,
        state: RefCell::new(state),
        in_flight: InFlight::default(),
        writer_wanted: exec::Notify::default(),
        writer_done: exec::Notify::default(),
        checkpoint_wanted: exec::Notify::default(),
        checkpoint_done: exec::Notify::default(),
        flushing: exec::Semaphore::new(1),
        publishing: exec::Semaphore::new(1),
        meta_pages: Pool::new(META_PAGES),
        pointers: Shelf::default(),
        plans: Shelf::default(),
        damaged_reads: Cell::new(0),
        deallocated_bytes: Cell::new(0),
    }
}
