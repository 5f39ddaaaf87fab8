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

use exec::{Notify, Permit, Semaphore, join_all};
use store::{BaseId, BaseInfo, Presence, Source, Span, VolumeInfo};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::intake::take_in;
use crate::plan::{Told, plan};
use crate::{
    Origin, OriginAddress, OriginError, Standing, VolumeError, Volumes, check_name, check_size,
};

/// What keys of records of origins begin with.
const KEY: &str = "origin/";
/// Bytes of a fetch at most: one buffer.
const FETCH_MAX: u64 = (Buf::PAGES_MAX * BLOCK_SIZE) as u64;
/// Who wants a block gets its neighbours, too: the part of this size that it is in.
const DEMAND_BYTES: u64 = 64 << 10;
/// Fetches at a time from one origin for clients: one that does not answer holds no more pages than these take.
const DEMAND_AT_ONCE: usize = 4;
/// Fetches at a time from one origin for nobody in particular, while no client does anything; otherwise it is one.
const BACKGROUND_AT_ONCE: usize = 8;
/// So much is asked about at a time; more where there was nothing but zeros.
const EXTENTS_BYTES: u64 = 64 << 20;
const EXTENTS_BYTES_MAX: u64 = 1 << 46;
/// Completed adoptions that are remembered.
const FINISHED_MAX: usize = 16;
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
    /// Nothing is brought in but what clients want.
    pub is_held: bool,
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
pub(crate) enum Reason {
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
    /// What it said last of what it has.
    told: RefCell<Told>,
    under_way: RefCell<Vec<Rc<Fetch>>>,
    demand: Semaphore,
    background: Semaphore,
    /// Whoever fetches in the background while clients do something.
    alone: Semaphore,
    /// Operations of clients when the last step in the background began.
    operations: Cell<u64>,
    demanded_bytes: Cell<u64>,
    background_bytes: Cell<u64>,
    failure: Cell<Option<OriginError>>,
    /// How often it was found to be away.
    absences: Cell<u64>,
    /// Only clients get something from there.
    pub is_held: Cell<bool>,
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
            told: RefCell::default(),
            under_way: RefCell::default(),
            demand: Semaphore::new(DEMAND_AT_ONCE),
            background: Semaphore::new(BACKGROUND_AT_ONCE),
            alone: Semaphore::new(1),
            operations: Cell::new(0),
            demanded_bytes: Cell::new(0),
            background_bytes: Cell::new(0),
            failure: Cell::new(None),
            absences: Cell::new(0),
            is_held: Cell::new(false),
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

    /// Who waits in line while others find that nobody answers need not find it out again.
    fn require_there_since(&self, absences: u64) -> Result<(), VolumeError> {
        match self.absences.get() == absences {
            true => Ok(()),
            false => Err(OriginError::Unreachable.into()),
        }
    }

    /// Counts what was fetched, or notes why it could not be.
    pub(crate) fn note<T>(&self, result: Result<T, OriginError>) -> Result<T, VolumeError> {
        let failure = result.as_ref().err().copied();
        self.failure.set(failure);
        if failure == Some(OriginError::Unreachable) {
            self.absences.set(self.absences.get() + 1);
        }
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
    /// Makes a volume of what is at `address`: it is there at once, and its blocks follow. It gets `size_bytes` if that is more. Durable
    /// when this returns.
    ///
    /// # Errors
    /// A bad or taken name, a bad size or one below that of the origin, an origin that does not answer or has a size that no volume
    /// can have, and what the store says.
    pub async fn adopt(
        &self,
        name: &str,
        address: OriginAddress,
        size_bytes: Option<u64>,
    ) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        if self.store().find(name).is_some() {
            return Err(VolumeError::NameTaken);
        }
        let origin = self.origins()?.open(&address).await?;
        let there = origin.size_bytes();
        check_size(there).map_err(|_| OriginError::Size(there))?;
        let wanted = size_bytes.unwrap_or(there);
        check_size(wanted)?;
        if wanted < there {
            return Err(VolumeError::Shrinks(there));
        }
        let info = self.store().adopt_volume(name, there).await?;
        let kept = async {
            self.keep_adoption(&info, address, Some(origin)).await?;
            match wanted == there {
                true => Ok(info.clone()),
                false => Ok(self.store().grow_volume(info.id, wanted).await?),
            }
        };
        match kept.await {
            Ok(info) => Ok(info),
            Err(error) => {
                // By its number: the name may be somebody else's by now.
                self.store().delete_volume(info.id).await?;
                self.forget_adoptions().await;
                Err(error)
            }
        }
    }

    /// Keeps where the blocks of a new volume are; without that it would be of no use after a restart.
    pub(crate) async fn keep_adoption(
        &self,
        info: &VolumeInfo,
        address: OriginAddress,
        origin: Option<Rc<dyn Origin>>,
    ) -> Result<(), VolumeError> {
        let base = info.bases.first().and_then(|id| self.store().base(*id));
        let base = base.ok_or(VolumeError::NoVolume)?;
        let uri = address.to_string();
        let adoption = Rc::new(Adoption::new(&base, address, origin));
        let is_prepared = self.standing(info.id) == Standing::Prepared;
        adoption.is_held.set(is_prepared);
        self.adoptions_mut(|all| drop(all.insert(base.id, adoption)));
        let key = key(base.id);
        self.store().set_record(&key, Some(uri.as_bytes())).await?;
        Ok(())
    }

    /// Reads where volumes that are not wholly here come from; to be called before anybody attaches. An adoption that was cut off before it was acknowledged is undone. Returns
    /// those for which that cannot be read.
    pub async fn load_adoptions(&self) -> Vec<BaseId> {
        let mut unreadable = Vec::new();
        for base in self.store().bases() {
            let record = self.store().record(&key(base.id)).await;
            let address = match &record {
                Ok(Some(bytes)) => core::str::from_utf8(bytes).ok(),
                _ => None,
            };
            if let Some(address) = address.and_then(|text| text.parse().ok()) {
                let adoption = Rc::new(Adoption::new(&base, address, None));
                self.adoptions_mut(|all| drop(all.insert(base.id, adoption)));
            } else if record == Ok(None) && !base.is_complete() {
                self.undo_adoption(base.id).await;
            } else if !base.is_complete() {
                unreadable.push(base.id);
            }
        }
        self.forget_adoptions().await;
        unreadable
    }

    async fn undo_adoption(&self, base: BaseId) {
        // What is allocated is told as of the last checkpoint, and somebody may have been faster than the acknowledgement.
        if self.store().checkpoint().await.is_err() {
            return;
        }
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
        let done = self.adoptions_mut(|all| {
            let done: Vec<_> = { all.values() }
                .filter(|adoption| !is_needed(adoption.base))
                .cloned()
                .collect();
            all.retain(|id, _| is_needed(*id));
            done
        });
        self.remember_finished(&done);
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

    fn remember_finished(&self, done: &[Rc<Adoption>]) {
        let mut finished = self.finished_adoptions().borrow_mut();
        finished.extend(done.iter().filter_map(|adoption| self.describe(adoption)));
        let excess = finished.len().saturating_sub(FINISHED_MAX);
        finished.drain(..excess);
    }

    /// What the adoption of this address took, if it was completed since the start and not long ago.
    #[must_use]
    pub fn finished_adoption(&self, address: &OriginAddress) -> Option<AdoptionInfo> {
        let finished = self.finished_adoptions().borrow();
        finished
            .iter()
            .rfind(|info| info.address == *address)
            .cloned()
    }

    fn describe(&self, adoption: &Adoption) -> Option<AdoptionInfo> {
        Some(AdoptionInfo {
            base: self.store().base(adoption.base)?,
            address: adoption.address.clone(),
            demanded_bytes: adoption.demanded_bytes.get(),
            background_bytes: adoption.background_bytes.get(),
            failure: adoption.failure.get(),
            is_held: adoption.is_held.get(),
        })
    }

    pub(crate) fn find_adoption(&self, base: BaseId) -> Result<Rc<Adoption>, VolumeError> {
        let found = self.adoptions_mut(|all| all.get(&base).cloned());
        found.ok_or(VolumeError::Origin(OriginError::Forgotten))
    }

    /// The origin, connected if it was not.
    pub(crate) async fn origin(&self, adoption: &Adoption) -> Result<Rc<dyn Origin>, VolumeError> {
        let absences = adoption.absences.get();
        let _turn = adoption.opening.acquire().await;
        let known = adoption.origin.borrow().clone();
        if let Some(origin) = known {
            return Ok(origin);
        }
        adoption.require_there_since(absences)?;
        let opened = self.origins()?.open(&adoption.address).await;
        let origin = adoption.note(opened)?;
        if origin.size_bytes() != adoption.size_bytes {
            return adoption.note(Err(OriginError::Size(origin.size_bytes())));
        }
        *adoption.origin.borrow_mut() = Some(origin.clone());
        Ok(origin)
    }

    /// Makes everything be here that `span` touches.
    pub(crate) async fn bring(&self, source: Source, span: Span) -> Result<(), VolumeError> {
        let runs = self.store().presence(source, span).await?;
        let mut at = span.offset / BLOCK * BLOCK;
        for Presence { blocks, absent } in runs {
            let end = at + blocks as u64 * BLOCK;
            if let Some(base) = absent {
                let adoption = self.find_adoption(base)?;
                let wanted = at / DEMAND_BYTES * DEMAND_BYTES..end.next_multiple_of(DEMAND_BYTES);
                match self.fetch(&adoption, wanted, Reason::Demand).await {
                    // It may have what is wanted, and not what lies beside it.
                    Err(VolumeError::Origin(OriginError::Behind)) => {
                        self.fetch(&adoption, at..end, Reason::Demand).await?;
                    }
                    fetched => fetched?,
                }
            }
            at = end;
        }
        Ok(())
    }

    /// What of a base should come first, whole blocks of it, as its origin says.
    ///
    /// # Errors
    /// An origin that does not answer.
    pub async fn hottest(&self, base: BaseId) -> Result<Vec<Range<u64>>, VolumeError> {
        let adoption = self.find_adoption(base)?;
        let origin = self.origin(&adoption).await?;
        let hottest = adoption.note(origin.hottest().await)?;
        let size = adoption.size_bytes;
        let within = hottest.into_iter().map(|part| {
            let end = part.end.min(size).next_multiple_of(BLOCK);
            part.start / BLOCK * BLOCK..end
        });
        Ok(within.filter(|part| part.start < part.end).collect())
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
        if adoption.is_held.get() {
            return Err(VolumeError::NotYet);
        }
        let origin = self.origin(&adoption).await?;
        let size = adoption.size_bytes;
        let (mut next, mut ask) = (at, EXTENTS_BYTES);
        let mut parts = Vec::new();
        // What is nothing but zeros is passed over, in longer and longer steps.
        while next < size && parts.is_empty() && ask <= EXTENTS_BYTES_MAX {
            if !adoption.told.borrow_mut().pass(next, size) {
                let extents = origin.extents(next, ask.min(size - next)).await;
                *adoption.told.borrow_mut() = Told::new(next, adoption.note(extents)?);
            }
            (next, parts) = plan(&adoption.told.borrow().extents, next, max, size);
            ask *= 16;
        }
        let before = adoption.background_bytes.get();
        adoption.operations.set(self.operations());
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
        let absences = adoption.absences.get();
        let mut slot = None;
        loop {
            if let Some(other) = adoption.other(&wanted) {
                other.outcome().await?;
                continue;
            }
            let len = wanted.end - wanted.start;
            // Clients know what they want; what everybody has replaced is nobody's.
            let (store, base, at) = (self.store(), adoption.base, wanted.start);
            let absent = match reason {
                Reason::Demand => store.first_absent(base, at, len).await,
                Reason::Background => store.first_wanted(base, at, len).await,
            };
            let Some(absent) = absent? else {
                return Ok(());
            };
            if slot.is_none() {
                // Before it is ours, so that nobody waits for who waits himself.
                slot = Some(self.slot(adoption, reason).await);
                adoption.require_there_since(absences)?;
                continue;
            }
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

    /// A place among those who fetch.
    async fn slot(&self, adoption: &Adoption, reason: Reason) -> [Option<Permit>; 2] {
        if reason == Reason::Demand {
            return [Some(adoption.demand.acquire().await), None];
        }
        let slot = adoption.background.acquire().await;
        // Clients who came since the step began wait for one of us at most.
        let is_busy = self.operations() != adoption.operations.get();
        let alone = match is_busy {
            true => Some(adoption.alone.acquire().await),
            false => None,
        };
        [Some(slot), alone]
    }

    async fn fetch_part(
        &self,
        adoption: &Adoption,
        part: Range<u64>,
        reason: Reason,
    ) -> Result<(), VolumeError> {
        let origin = self.origin(adoption).await?;
        let blocks = usize::try_from((part.end - part.start) / BLOCK).unwrap_or(1);
        let buf = self.fetch_pages(reason)?.take(blocks).await;
        let read = origin.read(part.start, buf).await;
        let buf = adoption.note(read)?;
        let data = take_in(self.store(), adoption.base, part.start, buf).await?;
        adoption.count(reason, data);
        Ok(())
    }
}

fn key(base: BaseId) -> String {
    format!("{KEY}{}", base.0)
}
