//! Volumes whose blocks are elsewhere: adopted at once, filled block by block.
//!
//! ```text
//! head, snapshots, clones        remote pointers ──► base (one for each origin) ──► not here: `Absent`
//!       │                                             ▲
//!       └─ writes go to the head, as always           └─ what arrives goes here
//! ```
//! An adopted volume is a head whose root is one remote pointer, and a *base*: a map that nobody sees, without parent and children. What
//! arrives goes into the base only, and only where it has nothing yet. Writes change the head, so they win whenever they come; and remote
//! pointers own nothing, so snapshots, clones and what is deleted follow the same rules as everywhere.
//!
//! In a base, *never written* means not known, and a *hole* zeros that are known. The first ends block by block as fills arrive, and from the beginning on as whoever fetches says
//! that all before some block has arrived ([`set_known`](Shared::set_known)): what is absent there is zeros, and takes no space.

use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;
use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::{BaseId, BaseInfo, Presence, Source, Span, StoreError, VolumeId, VolumeInfo};
use crate::layout::{BIRTHS_MAX, CatalogEntry, CatalogKind, Kind, Pointer};
use crate::lineage::Place;
use crate::map::{Pointers, reach};
use crate::shared::{Handle, Shared, State, Tree};
use crate::store::Store;
use crate::volumes::check_size;

/// With more volumes and snapshots of one base than this, nobody looks which of its blocks they have replaced.
const REFERRERS_MAX: usize = 16;

impl<D: Disk + 'static> Store<D> {
    /// Makes a volume whose blocks are all elsewhere; durable when this returns. Its size and that of its origin are the same.
    ///
    /// # Errors
    /// As for an empty volume ([`create_volume`](Store::create_volume)).
    pub async fn adopt_volume(
        &self,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        self.shared.adopt_volume(name, size_bytes).await
    }

    /// Makes another volume of what was adopted, as it was there: what was written here since is not in it. Durable when this returns. Its
    /// size is that of the origin in whole blocks.
    ///
    /// # Errors
    /// As for an empty volume ([`create_volume`](Store::create_volume)); [`NoVolume`](StoreError::NoVolume) when nothing needs the base any
    /// more, or what nobody needed is gone ([`sweep`](Store::sweep)).
    pub async fn adopt_again(&self, base: BaseId, name: &str) -> Result<VolumeInfo, StoreError> {
        self.shared.adopt_again(base.0, name).await
    }

    /// What volumes were adopted from, oldest first.
    #[must_use]
    pub fn bases(&self) -> Vec<BaseInfo> {
        let state = self.shared.state.borrow();
        let bases = state.directory.bases.iter();
        bases
            .filter_map(|id| state.base_info(BaseId(*id)))
            .collect()
    }

    /// One of them.
    #[must_use]
    pub fn base(&self, id: BaseId) -> Option<BaseInfo> {
        self.shared.state.borrow().base_info(id)
    }

    /// Whether nobody has changed a volume since it was adopted. Costs the same for any size.
    #[must_use]
    pub fn is_as_adopted(&self, id: VolumeId) -> bool {
        let state = self.shared.state.borrow();
        let tree = state.tree_at(Place::Volume(id.0));
        tree.is_some_and(|tree| {
            let is_whole = tree.root().kind() == Kind::Remote;
            is_whole && tree.source.is_none() && !state.has_changes(tree.id())
        })
    }

    /// Which blocks that `span` touches are here. What is here stays here.
    ///
    /// # Errors
    /// A wrong range, a failing drive, or damaged maps.
    pub async fn presence(
        &self,
        of: impl Into<Source>,
        span: Span,
    ) -> Result<Vec<Presence>, StoreError> {
        self.shared.presence(of.into(), span).await
    }

    /// Takes in blocks that arrived from the origin, from byte `offset` on, a multiple of 4096. Those that are here already stay as
    /// they are. Durable after a later [`flush`](Store::flush).
    ///
    /// # Errors
    /// [`NoVolume`](StoreError::NoVolume) when nothing needs the base any more, a wrong range, a full pool, a failing drive.
    pub async fn fill(&self, base: BaseId, offset: u64, from: Buf) -> Result<(), StoreError> {
        self.shared
            .fill(base.0, offset / BLOCK_SIZE as u64, from)
            .await
    }

    /// Takes in that `len` bytes at `offset`, whole blocks or up to the end, are zeros at the origin, where nothing is here yet. Durable after
    /// a later [`flush`](Store::flush).
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub async fn fill_zeros(&self, base: BaseId, offset: u64, len: u64) -> Result<(), StoreError> {
        let block = BLOCK_SIZE as u64;
        let blocks = offset / block..(offset + len).div_ceil(block);
        self.shared.fill_zeros(base.0, blocks).await
    }

    /// The first part of `len` bytes at `offset` of a base, both multiples of 4096, that is not here; absent when all is.
    ///
    /// # Errors
    /// [`NoVolume`](StoreError::NoVolume) when nothing needs the base any more, a failing drive, or damaged maps.
    pub async fn first_absent(
        &self,
        base: BaseId,
        offset: u64,
        len: u64,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let found = self.shared.first_absent(base.0, blocks_of(offset, len));
        Ok(found.await?.map(bytes_of))
    }

    /// As [`first_absent`](Self::first_absent), without what every volume and snapshot has something newer for.
    ///
    /// # Errors
    /// As [`first_absent`](Self::first_absent).
    pub async fn first_wanted(
        &self,
        base: BaseId,
        offset: u64,
        len: u64,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let mut blocks = blocks_of(offset, len);
        while let Some(absent) = self.shared.first_absent(base.0, blocks.clone()).await? {
            if let Some(found) = self.shared.first_referred(base.0, absent.clone()).await? {
                return Ok(Some(bytes_of(found)));
            }
            blocks.start = absent.end;
        }
        Ok(None)
    }

    /// Notes that all before byte `offset` has arrived: what is absent there is zeros. Durable after a later [`flush`](Store::flush),
    /// with everything that arrived before.
    ///
    /// # Errors
    /// [`NoVolume`](StoreError::NoVolume) when nothing needs the base any more; a pool that takes no writes.
    pub fn set_known(&self, base: BaseId, offset: u64) -> Result<(), StoreError> {
        self.shared.set_known(base.0, offset)
    }
}

impl<D: Disk + 'static> Shared<D> {
    async fn adopt_volume(
        self: &Handle<D>,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        check_size(size_bytes)?;
        let [volume_uuid, lineage_uuid, base_uuid] = [(); 3].map(|()| self.environment.new_uuid());
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.check_volume_name(name)?;
            let blocks = size_bytes.div_ceil(BLOCK_SIZE as u64);
            let mut base = state.new_map(self.config.maps_max.saturating_sub(1))?;
            // Half of them are for writes.
            if state.births + blocks > BIRTHS_MAX / 2 {
                return Err(StoreError::TooManyMaps);
            }
            base.set_kind(CatalogKind::Base);
            base.size_bytes.set(size_bytes);
            (base.volume_uuid, base.lineage_uuid) = (base_uuid, lineage_uuid);
            base.created_at.set(self.wall_nanos());
            // Older than all that anybody will write to the volume.
            base.seq.set(state.next_births(blocks, 0));
            let mut head = CatalogEntry::new(base.id.get() + 1, CatalogKind::Head);
            head.set_name(name);
            head.size_bytes.set(size_bytes);
            head.volume_uuid = volume_uuid;
            head.created_at = base.created_at;
            lead_to(&mut head, &base);
            let volume = head.volume.get();
            self.change_catalog(state, &[base, head]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(VolumeId(volume))?
        };
        self.flush_now().await?;
        Ok(info)
    }

    async fn adopt_again(
        self: &Handle<D>,
        base: u64,
        name: &str,
    ) -> Result<VolumeInfo, StoreError> {
        let uuid = self.environment.new_uuid();
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            state.check_volume_name(name)?;
            let mut head = state.new_map(self.config.maps_max)?;
            let base = state.require_base(base)?;
            if base.entry.is_swept() {
                return Err(StoreError::NoVolume);
            }
            head.set_name(name);
            head.size_bytes.set(base.blocks() * BLOCK_SIZE as u64);
            head.volume_uuid = uuid;
            head.created_at.set(self.wall_nanos());
            lead_to(&mut head, &base.entry);
            let volume = head.volume.get();
            self.change_catalog(state, &[head]);
            state.update_node_reserve(self.deltas_max);
            state.require_volume(VolumeId(volume))?
        };
        self.flush_now().await?;
        Ok(info)
    }

    async fn presence(&self, of: Source, span: Span) -> Result<Vec<Presence>, StoreError> {
        let place = self.place_of(of)?;
        {
            let state = self.state.borrow();
            state.require_open()?;
            state.check_range(place, span.offset, span.len.into())?;
        }
        let lba = span.offset / BLOCK_SIZE as u64;
        let pointers = self.lookup(place, lba, span.blocks()).await?;
        let mut runs: Vec<Presence> = Vec::new();
        for pointer in pointers {
            let absent = (pointer.kind() == Kind::Remote).then(|| BaseId(pointer.addr()));
            match runs.last_mut() {
                Some(last) if last.absent == absent => last.blocks += 1,
                _ => runs.push(Presence { blocks: 1, absent }),
            }
        }
        Ok(runs)
    }

    async fn fill(&self, base: u64, lba: u64, mut from: Buf) -> Result<(), StoreError> {
        let count = from.blocks();
        let end = lba + count as u64;
        let turn = self
            .in_flight
            .enter(base, lba, end, self.config.mutants)
            .await;
        let (first_birth, known) = {
            let state = self.state.borrow();
            state.require_serving()?;
            let tree = state.require_base(base)?;
            if end > tree.blocks() {
                return Err(StoreError::OutOfRange);
            }
            (tree.entry.seq.get() + lba, tree.known())
        };
        let pointers = self.look_up_in_base(base, lba, count).await?;
        let mut at = 0;
        // What is known to be zeros is here, too.
        let absent = (lba..).zip(&pointers);
        let absent = absent.map(|(at, pointer)| pointer.kind() == Kind::Never && at >= known);
        let absent: ArrayVec<bool, { Buf::PAGES_MAX }> = absent.collect();
        for same in absent.chunk_by(|one, two| one == two) {
            let rest = from.split_off(same.len());
            let part = core::mem::replace(&mut from, rest);
            if same[0] {
                self.write_born(base, lba + at, part, Some(first_birth + at))
                    .await?;
            }
            at += same.len() as u64;
        }
        drop(turn);
        self.throttle().await;
        Ok(())
    }

    async fn fill_zeros(&self, base: u64, blocks: Range<u64>) -> Result<(), StoreError> {
        let Range { start, end } = blocks;
        let turn = self
            .in_flight
            .enter(base, start, end, self.config.mutants)
            .await;
        let mut at = start;
        while let Some(absent) = self.first_absent(base, at..end).await? {
            self.wait_for_hole_room().await?;
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let first_birth = state.require_base(base)?.entry.seq.get();
            at = absent.end;
            self.commit_hole(state, base, absent.clone(), first_birth + absent.start);
        }
        drop(turn);
        self.throttle().await;
        Ok(())
    }

    /// The first blocks of these that a base does not have.
    async fn first_absent(
        &self,
        base: u64,
        blocks: Range<u64>,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let (known, end) = {
            let state = self.state.borrow();
            let tree = state.require_base(base)?;
            (tree.known(), blocks.end.min(tree.blocks()))
        };
        let mut found: Option<Range<u64>> = None;
        let mut at = blocks.start.max(known);
        while at < end {
            let count = (end - at).min(Buf::PAGES_MAX as u64);
            let count = usize::try_from(count).unwrap_or(Buf::PAGES_MAX);
            for pointer in self.look_up_in_base(base, at, count).await? {
                if !goes_on(&mut found, at, pointer.kind() == Kind::Never) {
                    return Ok(found);
                }
                at += 1;
            }
        }
        Ok(found)
    }

    /// The first of these blocks for which a volume or snapshot leads to the base.
    async fn first_referred(
        &self,
        base: u64,
        blocks: Range<u64>,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let maps = self.state.borrow().maps_with(base);
        if maps.len() > REFERRERS_MAX {
            return Ok(Some(blocks));
        }
        let mut found: Option<Range<u64>> = None;
        let mut at = blocks.start;
        while at < blocks.end {
            let count = (blocks.end - at).min(Buf::PAGES_MAX as u64) as usize;
            let mut is_referred = [false; Buf::PAGES_MAX];
            for map in &maps {
                let pointers = match self.lookup(Place::Map(*map), at, count).await {
                    Ok(pointers) => pointers,
                    // It is being deleted, or was; who began as it may lead there, too, and the deletion may come to nothing.
                    Err(StoreError::NoVolume | StoreError::NoSnapshot) => return Ok(Some(blocks)),
                    Err(error) => return Err(error),
                };
                for (is_referred, pointer) in is_referred.iter_mut().zip(pointers) {
                    *is_referred |= pointer.kind() == Kind::Remote && pointer.addr() == base;
                }
            }
            for is_referred in &is_referred[..count] {
                if !goes_on(&mut found, at, *is_referred) {
                    return Ok(found);
                }
                at += 1;
            }
        }
        Ok(found)
    }

    /// As [`lookup`](Self::lookup), in a base; it may go while this waits.
    pub async fn look_up_in_base(
        &self,
        base: u64,
        lba: u64,
        count: usize,
    ) -> Result<Pointers, StoreError> {
        let found = self.lookup(Place::Map(base), lba, count).await;
        found.map_err(|error| match error {
            StoreError::NoSnapshot => StoreError::NoVolume,
            error => error,
        })
    }

    fn set_known(self: &Handle<D>, base: u64, offset: u64) -> Result<(), StoreError> {
        let state = &mut *self.state.borrow_mut();
        state.require_serving()?;
        let tree = state.require_base(base)?;
        let known = match offset >= tree.entry.size_bytes.get() {
            true => tree.blocks(),
            false => offset / BLOCK_SIZE as u64,
        };
        if known > tree.known() {
            let mut entry = tree.entry.clone();
            entry.collapse_cursor.set(known);
            self.change_catalog(state, &[entry]);
        }
        Ok(())
    }
}

/// All that a new volume has is in a base, or will be.
fn lead_to(head: &mut CatalogEntry, base: &CatalogEntry) {
    let blocks = base.size_bytes.get().div_ceil(BLOCK_SIZE as u64);
    head.lineage_uuid = base.lineage_uuid;
    head.bases[0] = base.id;
    head.root = Pointer::remote(base.id.get(), base.seq.get() + blocks - 1);
    head.height = (1..).find(|height| reach(*height) >= blocks).unwrap_or(1);
}

/// The blocks of a range of bytes that consists of whole ones.
fn blocks_of(offset: u64, len: u64) -> Range<u64> {
    let block = BLOCK_SIZE as u64;
    offset / block..(offset + len) / block
}

fn bytes_of(blocks: Range<u64>) -> Range<u64> {
    let block = BLOCK_SIZE as u64;
    blocks.start * block..blocks.end * block
}

/// Adds block `at` to the first run of blocks that are wanted, if it is; false where that run has ended.
fn goes_on(run: &mut Option<Range<u64>>, at: u64, is_wanted: bool) -> bool {
    if is_wanted {
        run.get_or_insert(at..at).end = at + 1;
    }
    is_wanted || run.is_none()
}

impl State {
    /// Volumes and snapshots whose remote pointers may lead to a base.
    pub fn maps_with(&self, base: u64) -> Vec<u64> {
        let needs = |tree: &&Tree| tree.is_visible() && tree.may_lead_to(base);
        self.trees.values().filter(needs).map(Tree::id).collect()
    }

    /// A pointer of a map at `lba`, but what lies behind the end of an origin, in a volume that has grown, is nobody's.
    pub fn within_origin(&self, pointer: Pointer, lba: u64) -> Pointer {
        let is_behind = || {
            let base = self.trees.get(&pointer.addr());
            base.is_some_and(|base| lba >= base.blocks())
        };
        match pointer.kind() {
            Kind::Remote if is_behind() => Pointer::NEVER,
            _ => pointer,
        }
    }

    pub fn require_base(&self, id: u64) -> Result<&Tree, StoreError> {
        let tree = self.trees.get(&id);
        let tree = tree.filter(|tree| tree.kind() == CatalogKind::Base);
        tree.ok_or(StoreError::NoVolume)
    }

    fn base_info(&self, id: BaseId) -> Option<BaseInfo> {
        let tree = self.require_base(id.0).ok()?;
        let block = BLOCK_SIZE as u64;
        let size_bytes = tree.entry.size_bytes.get();
        Some(BaseInfo {
            id,
            uuid: tree.entry.volume_uuid,
            size_bytes,
            stored_bytes: tree.entry.blocks.get() * block,
            known_bytes: (tree.known() * block).min(size_bytes),
        })
    }
}
