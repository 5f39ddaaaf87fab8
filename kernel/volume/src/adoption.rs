//! Volumes that were adopted: what of them is fetched, and by whom.
//!
//! Three parties want blocks of an origin: clients that read what is not here, clients that write a part of a block that is not here, and whoever
//! brings in the rest while there is time ([`Volumes::bring_in`]). Each block is fetched once, however many wait for it; who fails, fails for all
//! who waited. What arrives goes to the store, and is read from there.
//!
//! The address of an origin is a record of the store, `origin/NUMBER`, from the adoption until everything is here.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use exec::{Notify, Semaphore, join_all};
use store::{BaseId, BaseInfo, Presence, Source, Span, Store, StoreError, VolumeInfo};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::{
    Origin, OriginAddress, OriginError, Volume, VolumeError, Volumes, check_name, check_size,
};

/// What keys of records of origins begin with.
const KEY: &str = "origin/";
/// Bytes of a fetch at most: one buffer.
const FETCH_MAX: u64 = (Buf::PAGES_MAX * BLOCK_SIZE) as u64;
/// Who wants a block gets its neighbours, too: the part of this size that it is in.
const DEMAND_BYTES: u64 = 64 << 10;
/// Fetches at a time for clients; each holds a buffer.
const DEMAND_AT_ONCE: usize = 16;
/// Fetches at a time for nobody in particular.
const BACKGROUND_AT_ONCE: usize = 4;
/// The most that is asked about at a time.
const EXTENTS_MAX: u64 = 1 << 30;
/// How often a read begins again because what it needs is not here. Once is enough, unless the volume is rolled back meanwhile.
const TRIES_MAX: usize = 4;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// An origin that is still needed, as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptionInfo {
    /// What arrived.
    pub base: BaseInfo,
    /// Where it comes from.
    pub address: OriginAddress,
    /// Bytes of data that were fetched because a client wanted them, since the start.
    pub demanded_bytes: u64,
    /// Bytes of data that were fetched in the background, since the start.
    pub background_bytes: u64,
    /// Why the last fetch failed, if it did.
    pub failure: Option<OriginError>,
}

/// What [`Volumes::bring_in`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroughtIn {
    /// All before this byte is here or zeros.
    pub next: u64,
    /// Bytes that were fetched.
    pub bytes: u64,
}

/// For whom something is fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Demand,
    Background,
}

/// An origin, and what is under way from there.
pub(crate) struct Adoption {
    base: BaseId,
    size_bytes: u64,
    address: OriginAddress,
    origin: RefCell<Option<Rc<dyn Origin>>>,
    opening: Semaphore,
    under_way: RefCell<Vec<Rc<Fetch>>>,
    demand: Semaphore,
    background: Semaphore,
    demanded_bytes: Cell<u64>,
    background_bytes: Cell<u64>,
    failure: Cell<Option<OriginError>>,
}

/// A part that somebody is fetching.
struct Fetch {
    range: Range<u64>,
    outcome: Cell<Option<Result<(), VolumeError>>>,
    ended: Notify,
}

impl Fetch {
    async fn outcome(&self) -> Result<(), VolumeError> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            self.ended.wait().await;
        }
    }
}

/// A fetch of ours. When it is dropped before it ended, others begin anew.
struct Turn<'a> {
    adoption: &'a Adoption,
    fetch: Rc<Fetch>,
}

impl Turn<'_> {
    fn end(self, outcome: Result<(), VolumeError>) {
        self.fetch.outcome.set(Some(outcome));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut under_way = self.adoption.under_way.borrow_mut();
        under_way.retain(|fetch| !Rc::ptr_eq(fetch, &self.fetch));
        if self.fetch.outcome.get().is_none() {
            self.fetch.outcome.set(Some(Ok(())));
        }
        self.fetch.ended.notify();
    }
}

impl Adoption {
    fn new(base: &BaseInfo, address: OriginAddress, origin: Option<Rc<dyn Origin>>) -> Self {
        Self {
            base: base.id,
            size_bytes: base.size_bytes,
            address,
            origin: RefCell::new(origin),
            opening: Semaphore::new(1),
            under_way: RefCell::default(),
            demand: Semaphore::new(DEMAND_AT_ONCE),
            background: Semaphore::new(BACKGROUND_AT_ONCE),
            demanded_bytes: Cell::new(0),
            background_bytes: Cell::new(0),
            failure: Cell::new(None),
        }
    }

    /// What somebody else fetches of `range`.
    fn other(&self, range: &Range<u64>) -> Option<Rc<Fetch>> {
        let under_way = self.under_way.borrow();
        let overlaps =
            |other: &&Rc<Fetch>| other.range.start < range.end && range.start < other.range.end;
        under_way.iter().find(overlaps).cloned()
    }

    fn begin(&self, range: Range<u64>) -> Turn<'_> {
        let fetch = Rc::new(Fetch {
            range,
            outcome: Cell::new(None),
            ended: Notify::default(),
        });
        self.under_way.borrow_mut().push(fetch.clone());
        Turn {
            adoption: self,
            fetch,
        }
    }

    /// Counts what was fetched, or notes why it could not be.
    fn note<T>(&self, result: Result<T, OriginError>) -> Result<T, VolumeError> {
        self.failure.set(result.as_ref().err().copied());
        Ok(result?)
    }

    fn count(&self, reason: Reason, bytes: u64) {
        let counter = match reason {
            Reason::Demand => &self.demanded_bytes,
            Reason::Background => &self.background_bytes,
        };
        counter.set(counter.get() + bytes);
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// Makes a volume of what is at `address`: it is there at once, and its blocks follow. Durable when this returns.
    ///
    /// # Errors
    /// A bad or taken name, an origin that does not answer or has a size that no volume can have, and what the store says.
    pub async fn adopt(
        &self,
        name: &str,
        address: OriginAddress,
    ) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        if self.store().find(name).is_some() {
            return Err(VolumeError::NameTaken);
        }
        let origin = self.origins()?.open(&address).await?;
        let size_bytes = origin.size_bytes();
        check_size(size_bytes).map_err(|_| OriginError::Size(size_bytes))?;
        let info = self.store().adopt_volume(name, size_bytes).await?;
        let base = info.bases.first().and_then(|id| self.store().base(*id));
        let base = base.ok_or(VolumeError::NoVolume)?;
        let uri = address.to_string();
        // Without it the volume would be of no use after a restart.
        let adoption = Rc::new(Adoption::new(&base, address, Some(origin)));
        self.adoptions_mut(|all| drop(all.insert(base.id, adoption)));
        let key = key(base.id);
        if let Err(error) = self.store().set_record(&key, Some(uri.as_bytes())).await {
            self.delete(name, true).await?;
            return Err(error.into());
        }
        Ok(info)
    }

    /// Reads where volumes that are not wholly here come from. An adoption that was cut off before it was acknowledged is undone.
    pub(crate) async fn load_adoptions(&self) {
        for base in self.store().bases() {
            let record = self.store().record(&key(base.id)).await;
            let address = match &record {
                Ok(Some(bytes)) => core::str::from_utf8(bytes).ok(),
                _ => None,
            };
            if let Some(address) = address.and_then(|text| text.parse().ok()) {
                let adoption = Rc::new(Adoption::new(&base, address, None));
                self.adoptions_mut(|all| drop(all.insert(base.id, adoption)));
            } else if record == Ok(None) && base.stored_bytes == 0 && !base.is_complete() {
                self.undo_adoption(base.id).await;
            }
        }
        self.forget_adoptions().await;
    }

    async fn undo_adoption(&self, base: BaseId) {
        for volume in self.list() {
            if volume.bases.contains(&base) && volume.allocated_bytes == 0 {
                // Should this fail, the next start tries again.
                let _ = self.store().delete_volume(volume.id).await;
            }
        }
    }

    /// Forgets origins that nothing needs any more.
    pub(crate) async fn forget_adoptions(&self) {
        let is_needed = |id: BaseId| {
            let base = self.store().base(id);
            base.is_some_and(|base| !base.is_complete())
        };
        self.adoptions_mut(|all| all.retain(|id, _| is_needed(*id)));
        for record in self.store().record_keys() {
            let id = record.strip_prefix(KEY).and_then(|id| id.parse().ok());
            if id.is_some_and(|id| !is_needed(BaseId(id))) {
                // Should this fail, the next start tries again.
                let _ = self.store().set_record(&record, None).await;
            }
        }
    }

    /// Origins that are still needed, oldest first.
    #[must_use]
    pub fn adoptions(&self) -> Vec<AdoptionInfo> {
        let all = self.adoptions_mut(|all| all.values().cloned().collect::<Vec<_>>());
        all.iter().filter_map(|one| self.describe(one)).collect()
    }

    /// The origin of one base, if it is still needed.
    #[must_use]
    pub fn adoption(&self, base: BaseId) -> Option<AdoptionInfo> {
        let adoption = self.adoptions_mut(|all| all.get(&base).cloned())?;
        self.describe(&adoption)
    }

    fn describe(&self, adoption: &Adoption) -> Option<AdoptionInfo> {
        Some(AdoptionInfo {
            base: self.store().base(adoption.base)?,
            address: adoption.address.clone(),
            demanded_bytes: adoption.demanded_bytes.get(),
            background_bytes: adoption.background_bytes.get(),
            failure: adoption.failure.get(),
        })
    }

    fn find_adoption(&self, base: BaseId) -> Result<Rc<Adoption>, VolumeError> {
        let found = self.adoptions_mut(|all| all.get(&base).cloned());
        found.ok_or(VolumeError::Origin(OriginError::Unreachable))
    }

    /// The origin, connected if it was not.
    async fn origin(&self, adoption: &Adoption) -> Result<Rc<dyn Origin>, VolumeError> {
        let _turn = adoption.opening.acquire().await;
        let known = adoption.origin.borrow().clone();
        if let Some(origin) = known {
            return Ok(origin);
        }
        let opened = self.origins()?.open(&adoption.address).await;
        let origin = adoption.note(opened)?;
        if origin.size_bytes() != adoption.size_bytes {
            return adoption.note(Err(OriginError::Size(origin.size_bytes())));
        }
        *adoption.origin.borrow_mut() = Some(origin.clone());
        Ok(origin)
    }

    /// Makes everything be here that `span` touches.
    async fn bring(&self, source: Source, span: Span) -> Result<(), VolumeError> {
        let runs = self.store().presence(source, span).await?;
        let mut at = span.offset / BLOCK * BLOCK;
        for Presence { blocks, absent } in runs {
            let end = at + blocks as u64 * BLOCK;
            if let Some(base) = absent {
                let adoption = self.find_adoption(base)?;
                let wanted = at / DEMAND_BYTES * DEMAND_BYTES..end.next_multiple_of(DEMAND_BYTES);
                self.fetch(&adoption, wanted, Reason::Demand).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Brings in what comes behind byte `at` of a base, about `max` bytes at most.
    ///
    /// # Errors
    /// An origin that does not answer, and what the store says.
    pub async fn bring_in(
        &self,
        base: BaseId,
        at: u64,
        max: u64,
    ) -> Result<BroughtIn, VolumeError> {
        let adoption = self.find_adoption(base)?;
        let origin = self.origin(&adoption).await?;
        let left = adoption.size_bytes.saturating_sub(at);
        if left == 0 {
            return Ok(BroughtIn { next: at, bytes: 0 });
        }
        let extents = origin.extents(at, left.min(EXTENTS_MAX)).await;
        let mut end = at;
        let mut parts = Vec::new();
        let mut wanted = 0;
        for extent in adoption.note(extents)? {
            let start = end;
            end += extent.len;
            if extent.is_zero {
                continue;
            }
            end = end.min(start + max.max(BLOCK) - wanted);
            wanted += end - start;
            parts.push(start / BLOCK * BLOCK..end.next_multiple_of(BLOCK));
            if wanted >= max {
                break;
            }
        }
        // A block that is partly zeros is fetched whole.
        let mut next = match end >= adoption.size_bytes {
            true => adoption.size_bytes,
            false => end / BLOCK * BLOCK,
        };
        if next <= at {
            parts.push(at..at + BLOCK);
            next = (at + BLOCK).min(adoption.size_bytes);
        }
        let before = adoption.background_bytes.get();
        let fetches = { parts.into_iter() }.flat_map(|part| {
            let starts = part.clone().step_by(FETCH_MAX as usize);
            starts.map(move |start| start..part.end.min(start + FETCH_MAX))
        });
        let fetches = fetches.map(|part| self.fetch(&adoption, part, Reason::Background));
        for result in join_all(fetches).await {
            result?;
        }
        Ok(BroughtIn {
            next,
            bytes: adoption.background_bytes.get() - before,
        })
    }

    /// Notes that all before byte `at` of a base is here; at its end, lets the origin go. Durable when this returns.
    ///
    /// # Errors
    /// What the store says.
    pub async fn note_arrived(&self, base: BaseId, at: u64) -> Result<(), VolumeError> {
        self.store().set_known(base, at)?;
        self.store().flush().await?;
        if self
            .store()
            .base(base)
            .is_some_and(|base| base.is_complete())
        {
            self.forget_adoptions().await;
        }
        Ok(())
    }

    /// Fetches what of `wanted` is not here, each block once whoever else wants it.
    async fn fetch(
        &self,
        adoption: &Adoption,
        wanted: Range<u64>,
        reason: Reason,
    ) -> Result<(), VolumeError> {
        loop {
            if let Some(other) = adoption.other(&wanted) {
                other.outcome().await?;
                continue;
            }
            let len = wanted.end - wanted.start;
            // Clients know what they want; what everybody has replaced is nobody's.
            let absent = match reason {
                Reason::Demand => {
                    self.store()
                        .first_absent(adoption.base, wanted.start, len)
                        .await
                }
                Reason::Background => {
                    self.store()
                        .first_wanted(adoption.base, wanted.start, len)
                        .await
                }
            };
            let Some(absent) = absent? else {
                return Ok(());
            };
            let part = absent.start..absent.end.min(absent.start + FETCH_MAX);
            if adoption.other(&part).is_some() {
                continue;
            }
            let turn = adoption.begin(part.clone());
            let outcome = self.fetch_part(adoption, part, reason).await;
            turn.end(outcome);
            outcome?;
        }
    }

    async fn fetch_part(
        &self,
        adoption: &Adoption,
        part: Range<u64>,
        reason: Reason,
    ) -> Result<(), VolumeError> {
        let _slot = match reason {
            Reason::Demand => adoption.demand.acquire().await,
            Reason::Background => adoption.background.acquire().await,
        };
        let origin = self.origin(adoption).await?;
        let blocks = usize::try_from((part.end - part.start) / BLOCK).unwrap_or(1);
        let read = origin.read(part.start, Buf::from_heap(blocks)).await;
        let buf = adoption.note(read)?;
        let data = take_in(self.store(), adoption.base, part.start, buf).await?;
        adoption.count(reason, data);
        Ok(())
    }
}

/// Gives the store what arrived; returns how many bytes of it are data.
async fn take_in<D: Disk + 'static>(
    store: &Store<D>,
    base: BaseId,
    mut offset: u64,
    mut rest: Buf,
) -> Result<u64, StoreError> {
    let is_zero = |buf: &Buf, index| buf.block(index).iter().all(|byte| *byte == 0);
    let mut data = 0;
    while !rest.is_empty() {
        let zero = is_zero(&rest, 0);
        let same = (0..rest.blocks()).take_while(|index| is_zero(&rest, *index) == zero);
        let after = rest.split_off(same.count());
        let part = core::mem::replace(&mut rest, after);
        let len = part.len() as u64;
        if zero {
            store.fill_zeros(base, offset, len).await?;
        } else {
            store.fill(base, offset, part).await?;
            data += len;
        }
        offset += len;
    }
    Ok(data)
}

impl<D: Disk + 'static> Volume<D> {
    /// Reads what the store could not, as it is not all here.
    pub(crate) async fn read_absent(
        &self,
        span: Span,
        mut into: Buf,
    ) -> (Buf, Result<store::Holes, VolumeError>) {
        let source = self.source();
        for _ in 0..TRIES_MAX {
            match self.volumes().bring(source, span).await {
                Ok(()) => {}
                // What cannot be kept can be passed on.
                Err(VolumeError::Store(_)) => {
                    return self.read_around(span, into).await;
                }
                Err(error) => return (into, Err(error)),
            }
            let (buf, result) = self.volumes().store().read(source, span, into).await;
            into = buf;
            if result != Err(StoreError::Absent) {
                return (into, result.map_err(VolumeError::from));
            }
        }
        (into, Err(StoreError::Absent.into()))
    }

    /// Reads a part from the store and a part from the origin, and keeps nothing.
    async fn read_around(&self, span: Span, into: Buf) -> (Buf, Result<store::Holes, VolumeError>) {
        let wanted = into.blocks();
        let result = self.read_parts(span, into).await;
        match result {
            Ok(buf) => (buf, Ok(store::Holes::default())),
            Err(error) => (Buf::from_heap(wanted), Err(error)),
        }
    }

    async fn read_parts(&self, span: Span, mut rest: Buf) -> Result<Buf, VolumeError> {
        let volumes = self.volumes();
        let runs = volumes.store().presence(self.source(), span).await?;
        let mut done = Buf::empty();
        let mut at = span.offset / BLOCK * BLOCK;
        for Presence { blocks, absent } in runs {
            let after = rest.split_off(blocks);
            let part = core::mem::replace(&mut rest, after);
            let end = at + blocks as u64 * BLOCK;
            let part = if let Some(base) = absent {
                let adoption = volumes.find_adoption(base)?;
                let origin = volumes.origin(&adoption).await?;
                let read = origin.read(at, part).await;
                adoption.note(read)?
            } else {
                let start = at.max(span.offset);
                let len = end.min(span.offset + u64::from(span.len)) - start;
                let span = Span {
                    offset: start,
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                };
                let (part, result) = volumes.store().read(self.source(), span, part).await;
                result?;
                part
            };
            done.append(part);
            at = end;
        }
        Ok(done)
    }

    /// Before a part of a block is changed: makes the blocks be here in which `offset` and the end of `len` bytes lie.
    pub(crate) async fn bring_edges(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        let is_adopted = |info: VolumeInfo| !info.bases.is_empty();
        let info = match self.source() {
            Source::Volume(id) => self.volumes().store().volume(id),
            Source::Snapshot(_) => None,
        };
        if len == 0 || !info.is_some_and(is_adopted) {
            return Ok(());
        }
        for edge in [offset, offset + len] {
            if !edge.is_multiple_of(BLOCK) {
                let span = Span {
                    offset: edge / 512 * 512 - u64::from(edge == offset + len) * 512,
                    len: 512,
                };
                self.volumes().bring(self.source(), span).await?;
            }
        }
        Ok(())
    }
}

fn key(base: BaseId) -> String {
    format!("{KEY}{}", base.0)
}
