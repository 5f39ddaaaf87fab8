//! What users ask for, and what is known of every volume that moves.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::time::Duration;

use exec::{Exec, Notify, Semaphore};
use net::{Connect, Stream};
use peer::{Channel, Peer, Peers, PublicKey};
use upkeep::{JobInfo, JobState, Jobs, Migration, Phase, Ticket};
use volume::{OriginAddress, Origins, Standing, VolumeError, VolumeId, VolumeInfo, Volumes};
use world::{Buf, Disk, Entropy, Instant, Pool};

use crate::error::MoveError;
use crate::history::Present;
use crate::links::{Answered, CallError, Calls, Links};
use crate::origin::AllOrigins;
use crate::record::{After, Id, Kept, Wish};
use crate::rules::Record;
use crate::wire::{Ask, Part};

/// How long a hand-over, or a return, waits for the other appliance before it says so.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long clients wait for blocks of an appliance that does not answer, unless somebody says otherwise.
const ORIGIN_PATIENCE: Duration = Duration::from_secs(30);
/// Volumes that moved; beyond these, those are forgotten that need not be known, and nobody offers more when there are none.
const ENTRIES_MAX: usize = 1024;
/// Copies of one volume; with more, it is not offered.
const COPIES_MAX: usize = 6;
/// Bits of an offer's number that are drawn.
const DRAWN_BITS: u32 = 16;

/// The volumes of one appliance that move or have moved; clones are the same ones.
pub struct Moves<D> {
    pub(crate) shared: Rc<Shared<D>>,
}

impl<D> Clone for Moves<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// What everything here stands on.
pub struct Shared<D> {
    pub(crate) exec: Exec,
    pub(crate) entropy: Rc<dyn Entropy>,
    pub(crate) volumes: Volumes<D>,
    peers: Option<Peers<D>>,
    pub(crate) jobs: OnceCell<Jobs<D>>,
    pub(crate) pages: Pool,
    /// How long clients wait for blocks of an appliance that does not answer.
    pub(crate) patience: Cell<Duration>,
    /// Volumes of which something is known, at most.
    entries_max: Cell<usize>,
    /// Questions that were asked.
    questions: Cell<u64>,
    calls: Rc<dyn Calls>,
    table: RefCell<BTreeMap<Id, Rc<Entry>>>,
}

/// A volume that moves or has moved.
pub struct Entry {
    pub id: Id,
    pub kept: RefCell<Kept>,
    /// Whoever changes what is kept has it.
    pub turn: Semaphore,
    /// The other appliance said that it is prepared for the present offer.
    pub is_ready: Cell<bool>,
    /// The other appliance said that it took what it was given.
    pub is_taken: Cell<bool>,
    /// Somebody wants back what was given.
    pub is_wanted_back: Cell<bool>,
    /// When something changed last, since the start.
    pub quiet_since: Cell<Instant>,
    /// Somebody looks after it.
    pub is_driven: Cell<bool>,
    /// Something changed, or somebody wants something.
    pub changed: Notify,
    /// How often.
    pub changes: Cell<u64>,
    /// What keeps it from going on.
    pub trouble: RefCell<Option<String>>,
    /// How fast what is not here may come.
    pub pace: Cell<Pace>,
    /// Somebody brings in its snapshots.
    pub is_in_past: Cell<bool>,
    /// As what.
    pub present: RefCell<Option<Present>>,
    /// What keeps them from coming.
    pub past_trouble: RefCell<Option<String>>,
    /// Bytes that were fetched for them.
    pub past_bytes: Cell<u64>,
    /// Bytes that were said about the data, since the start.
    pub metadata_bytes: Cell<u64>,
}

/// How fast what is not here may come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Not at all for now.
    pub is_paused: bool,
    /// Bytes in a second; 0: no limit.
    pub rate: u64,
}

impl Entry {
    /// Something changed, or somebody wants something.
    pub fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
        self.changed.notify();
    }

    /// What keeps it, or its snapshots, from going on.
    pub fn why(&self) -> Option<String> {
        let why = self.trouble.borrow().clone();
        why.or_else(|| self.past_trouble.borrow().clone())
    }
}

/// Where a volume is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Identity of the volume, the same on all appliances.
    pub id: [u8; 16],
    /// How often it was given.
    pub epoch: u64,
    /// One lowercase word: `owned`, `offered`, `prepared`, `given` or `left`.
    pub state: &'static str,
    /// Name of the other appliance, while there is one and this one knows it.
    pub peer: Option<String>,
    /// The other appliance has said that it is ready, or that it took it.
    pub is_confirmed: bool,
    /// What keeps it from going on.
    pub trouble: Option<String>,
}

/// What a user wants of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateOptions {
    /// Name of the appliance to which the volume is to go.
    pub to: String,
    /// It is handed over as soon as that one is ready; otherwise when [`Moves::hand_over`] is called.
    pub at_once: bool,
    /// What becomes of the copy that stays.
    pub after: After,
    /// Whether its snapshots go along.
    pub with_snapshots: bool,
    /// The most bytes in a second; 0: no limit.
    pub rate: u64,
}

impl<D: Disk + 'static> Moves<D> {
    /// Nothing moves as yet: [`load`](Self::load) and [`begin`](Self::begin) follow. Other appliances are reached by `way`; `pages` are for
    /// what is read for them. Without peers nothing can move, and whose a volume is stays as it is.
    pub fn new<C: Connect>(
        exec: Exec,
        entropy: Rc<dyn Entropy>,
        volumes: Volumes<D>,
        peers: impl Into<Option<Peers<D>>>,
        way: C,
        pages: Pool,
    ) -> Self {
        let peers = peers.into();
        let calls = Rc::new(Links::new(exec.clone(), peers.clone(), way));
        Self {
            shared: Rc::new(Shared {
                exec,
                entropy,
                volumes,
                peers,
                jobs: OnceCell::new(),
                pages,
                patience: Cell::new(ORIGIN_PATIENCE),
                entries_max: Cell::new(ENTRIES_MAX),
                questions: Cell::default(),
                calls,
                table: RefCell::default(),
            }),
        }
    }

    /// From now on clients wait so long for blocks of an appliance that does not answer.
    pub fn set_patience(&self, patience: Duration) {
        self.shared.patience.set(patience);
    }

    /// From now on so many volumes that others offer are known, and not [more](Self::known) but those that cannot be forgotten.
    pub fn set_known_max(&self, volumes: usize) {
        self.shared.entries_max.set(volumes);
    }

    /// Of how many volumes it is known that they move or moved.
    #[must_use]
    pub fn known(&self) -> usize {
        self.shared.table.borrow().len()
    }

    /// How often other appliances were asked something since the start.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.shared.questions.get()
    }

    /// Opens what is on other appliances as origins, and by `others` the rest.
    #[must_use]
    pub fn origins(&self, others: Rc<dyn Origins>) -> Rc<dyn Origins> {
        Rc::new(AllOrigins::new(Rc::downgrade(&self.shared), others))
    }

    /// Reads what was kept; to be called after [`Volumes::load_adoptions`] and before anybody attaches. Volumes of which that cannot be read
    /// are nobody's until it can.
    pub async fn load(&self) {
        let shared = &self.shared;
        let mut unreadable = Vec::new();
        for key in shared.volumes.store().record_keys() {
            let Some(id) = Id::of_key(&key) else {
                continue;
            };
            let kept = match shared.volumes.store().record(&key).await {
                Ok(Some(bytes)) => Kept::decode(&bytes),
                _ => None,
            };
            match kept {
                Some(kept) => {
                    let entry = shared.enter(id, kept);
                    shared.apply(&entry);
                }
                None => {
                    shared.fence_unknown(id);
                    unreadable.push(id);
                }
            }
        }
        shared.discard_stray_histories(&unreadable).await;
        shared.discard_strays().await;
    }

    /// Goes on with what was under way; jobs are there.
    pub fn begin(&self, jobs: &Jobs<D>) {
        // Whoever calls this twice changes nothing.
        let _ = self.shared.jobs.set(jobs.clone());
        let shared = &self.shared;
        let all = shared.all();
        for ticket in jobs.migrations() {
            let is_it = |entry: &Rc<Entry>| entry.kept.borrow().wish.job == ticket.id();
            if !all.iter().any(is_it) {
                let why = Some("the power went before it had begun".to_string());
                shared
                    .exec
                    .spawn(async move { ticket.end(JobState::Failed, why).await });
            }
        }
        for entry in all {
            shared.drive(&entry);
        }
    }

    /// Answers what a peer asks until its channel ends.
    pub async fn serve<S: Stream>(self, channel: Channel<S>) {
        self.shared.serve(channel).await;
    }

    /// Where a volume is on its way; nothing of one that never moved.
    #[must_use]
    pub fn get(&self, volume: VolumeId) -> Option<Move> {
        let entry = self.shared.find_volume(volume)?;
        Some(self.shared.describe(&entry, volume))
    }

    /// Name of the appliance from which a volume comes, by its identity.
    #[must_use]
    pub fn source(&self, id: [u8; 16]) -> Option<String> {
        let entry = self.shared.find(Id(id))?;
        let from = entry.kept.borrow().came.as_ref()?.from;
        self.shared.name_of(&from)
    }

    /// Begins to move a volume to another appliance. Clients go on; with [`at_once`](MigrateOptions::at_once) they are refused from the moment
    /// on at which the other one is ready.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn migrate(&self, name: &str, options: MigrateOptions) -> Result<JobInfo, MoveError> {
        let shared = &self.shared;
        let peer = shared.peer(&options.to).ok_or(MoveError::NoPeer)?;
        let info = shared.volumes.get(name)?;
        // Before anything is known of it: what is being made is not anybody's as yet.
        shared.require_owner(&info)?;
        let entry = shared.entry_of(&info);
        let _turn = entry.turn.acquire().await;
        shared.require_owner(&info)?;
        if entry.kept.borrow().copies.len() >= COPIES_MAX {
            return Err(MoveError::TooManyCopies);
        }
        let is_coming = entry.kept.borrow().is_past_coming();
        if options.with_snapshots && is_coming {
            return Err(MoveError::PastComing);
        }
        let jobs = shared.jobs.get().ok_or(MoveError::NotNow)?;
        // From now on its name and size stay as they are.
        shared.volumes.set_standing(info.id, Standing::Offered);
        let offered = shared.offer_to(jobs, &entry, info.id, &peer, options).await;
        let ticket = match offered {
            Ok(ticket) => ticket,
            Err(error) => {
                shared.apply(&entry);
                return Err(error);
            }
        };
        shared.drive(&entry);
        Ok(jobs.describe_ticket(&ticket))
    }

    /// Hands a volume over for which the other appliance is ready. From now on clients here are refused; when this returns they are welcome
    /// there.
    ///
    /// # Errors
    /// See [`MoveError`]; [`MoveError::NotPrepared`] changes nothing. After [`MoveError::Unconfirmed`] the volume is given, and the other
    /// appliance is told as soon as it can be reached.
    pub async fn hand_over(&self, name: &str) -> Result<Move, MoveError> {
        let shared = &self.shared;
        let info = shared.volumes.get(name)?;
        let entry = shared.find_volume(info.id).ok_or(MoveError::NotOffered)?;
        shared.give(&entry).await?;
        shared.drive(&entry);
        let confirmed = async {
            while !entry.is_taken.get() {
                entry.changed.wait().await;
            }
        };
        let confirmed = shared.exec.timeout(PATIENCE, confirmed).await;
        confirmed.map_err(|_| MoveError::Unconfirmed)?;
        Ok(shared.describe(&entry, info.id))
    }

    /// Makes a volume this appliance's again: takes an offer back, or asks for what was given.
    ///
    /// # Errors
    /// See [`MoveError`]; after [`MoveError::Unconfirmed`] the other appliance is asked as soon as it can be reached.
    pub async fn take_back(&self, name: &str) -> Result<Move, MoveError> {
        let shared = &self.shared;
        let info = shared.volumes.get(name)?;
        let entry = shared.find_volume(info.id).ok_or(MoveError::NotGiven)?;
        let is_given = match entry.kept.borrow().owner {
            Record::Offered { .. } => false,
            Record::Given { .. } => true,
            _ => return Err(MoveError::NotGiven),
        };
        if !is_given {
            shared.cancel(&entry).await?;
        }
        entry.is_wanted_back.set(is_given);
        entry.note_change();
        shared.drive(&entry);
        let back = async {
            while !entry.kept.borrow().owner.is_owner() {
                entry.changed.wait().await;
            }
        };
        let back = shared.exec.timeout(PATIENCE, back).await;
        back.map_err(|_| MoveError::Unconfirmed)?;
        let volume = entry.kept.borrow().volume.map_or(info.id, VolumeId);
        Ok(shared.describe(&entry, volume))
    }

    /// Makes the copy that stayed here the volume, without asking the other appliance: for when that is lost for good. What was written there
    /// is lost, and should it come back, there are two volumes with one past.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn take_over(&self, name: &str) -> Result<Move, MoveError> {
        let shared = &self.shared;
        let info = shared.volumes.get(name)?;
        let entry = shared.find_volume(info.id).ok_or(MoveError::NotGiven)?;
        shared.take_over(&entry).await?;
        shared.drive(&entry);
        Ok(shared.describe(&entry, info.id))
    }
}

impl<D: Disk + 'static> Shared<D> {
    /// Makes a job of it, and the offer durable. For whoever has the turn.
    async fn offer_to(
        &self,
        jobs: &Jobs<D>,
        entry: &Entry,
        volume: VolumeId,
        peer: &Peer,
        options: MigrateOptions,
    ) -> Result<Ticket<D>, MoveError> {
        let info = self.volume(volume.0).ok_or(VolumeError::NoVolume)?;
        let mut kept = entry.kept.borrow().clone();
        kept.offers = self.next_offer(kept.offers);
        let offered = kept.owner.offer(peer.key, kept.offers);
        kept.owner = offered.ok_or(MoveError::NotOwner)?;
        (kept.name, kept.size_bytes) = (info.name.clone(), info.size_bytes);
        let migration = Migration {
            id: entry.id.0,
            volume: info.name,
            to: peer.name.clone(),
            phase: Phase::Offering,
            size_bytes: info.size_bytes,
            known_bytes: 0,
            demanded_bytes: 0,
            background_bytes: 0,
            metadata_bytes: 0,
        };
        let ticket = jobs.start_migration(migration, options.rate).await?;
        kept.wish = Wish {
            at_once: options.at_once,
            after: options.after,
            with_snapshots: options.with_snapshots,
            job: ticket.id(),
        };
        if let Err(error) = self.keep(entry, kept).await {
            let why = Some(error.to_string());
            ticket.end(JobState::Failed, why).await;
            return Err(error.into());
        }
        Ok(ticket)
    }

    pub(crate) fn find(&self, id: Id) -> Option<Rc<Entry>> {
        self.table.borrow().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Entry>> {
        self.table.borrow().values().cloned().collect()
    }

    /// Whether there is no room for volumes that nobody here asked for.
    pub(crate) fn has_many(&self) -> bool {
        self.table.borrow().len() >= self.entries_max.get()
    }

    /// Nobody has it any more.
    pub(crate) fn drop_entry(&self, id: Id) {
        self.table.borrow_mut().remove(&id);
    }

    pub(crate) fn find_volume(&self, volume: VolumeId) -> Option<Rc<Entry>> {
        let table = self.table.borrow();
        let is_it = |entry: &&Rc<Entry>| entry.kept.borrow().has(volume.0);
        table.values().find(is_it).cloned()
    }

    fn require_owner(&self, info: &VolumeInfo) -> Result<(), MoveError> {
        match self.volumes.standing(info.id) {
            Standing::Owner => Ok(()),
            _ => Err(MoveError::NotOwner),
        }
    }

    /// The entry of a volume that is here; a new one if it never moved.
    fn entry_of(&self, info: &VolumeInfo) -> Rc<Entry> {
        self.find_volume(info.id).unwrap_or_else(|| {
            let owned = Record::Owned { epoch: 1 };
            let kept = Kept::new(&info.name, info.size_bytes, owned, Some(info.id.0));
            self.enter(Id(info.uuid), kept)
        })
    }

    pub(crate) fn enter(&self, id: Id, kept: Kept) -> Rc<Entry> {
        let entry = Rc::new(Entry {
            id,
            kept: RefCell::new(kept),
            turn: Semaphore::new(1),
            is_ready: Cell::default(),
            is_taken: Cell::default(),
            is_wanted_back: Cell::default(),
            quiet_since: Cell::new(self.exec.now()),
            is_driven: Cell::default(),
            changed: Notify::default(),
            changes: Cell::default(),
            trouble: RefCell::default(),
            pace: Cell::default(),
            is_in_past: Cell::default(),
            present: RefCell::default(),
            past_trouble: RefCell::default(),
            past_bytes: Cell::default(),
            metadata_bytes: Cell::default(),
        });
        self.table.borrow_mut().insert(id, entry.clone());
        entry
    }

    pub(crate) fn volume(&self, id: u64) -> Option<VolumeInfo> {
        self.volumes.store().volume(VolumeId(id))
    }

    pub(crate) fn peer(&self, name: &str) -> Option<Peer> {
        self.peers.as_ref()?.find(name)
    }

    pub(crate) fn name_of(&self, key: &PublicKey) -> Option<String> {
        Some(self.peers.as_ref()?.find_key(key)?.name)
    }

    pub(crate) async fn ask(
        &self,
        of: PublicKey,
        ask: Ask,
        into: Buf,
    ) -> Result<Answered, CallError> {
        self.questions.set(self.questions.get() + 1);
        self.calls.ask(of, ask, into).await
    }

    /// Counts what was said about data.
    pub(crate) fn count_metadata(&self, of: &Part, bytes: usize) {
        if let Part::Moved { id, .. } | Part::Past { id, .. } = of
            && let Some(entry) = self.find(*id)
        {
            let sum = entry.metadata_bytes.get() + bytes as u64;
            entry.metadata_bytes.set(sum);
        }
    }

    /// The job of a migration from here.
    pub(crate) fn ticket(&self, entry: &Entry) -> Option<Ticket<D>> {
        let job = entry.kept.borrow().wish.job;
        let all = self.jobs.get()?.migrations();
        all.into_iter().find(|ticket| ticket.id() == job)
    }

    /// Later offers have larger numbers, and two appliances never the same.
    fn next_offer(&self, last: u64) -> u64 {
        let mut drawn = [0; 8];
        self.entropy.fill(&mut drawn);
        let drawn = u64::from_le_bytes(drawn) >> (64 - DRAWN_BITS);
        let clock = self.exec.clock().wall_nanos().unwrap_or(0) / 1_000_000;
        let time = clock.max((last >> DRAWN_BITS) + 1);
        time << DRAWN_BITS | drawn
    }

    fn describe(&self, entry: &Entry, volume: VolumeId) -> Move {
        let kept = entry.kept.borrow();
        let (state, peer, is_confirmed) = match kept.owner {
            // What stays of a volume whose owner is somebody else, or another volume here.
            _ if kept.volume != Some(volume.0) && !matches!(kept.owner, Record::Given { .. }) => {
                ("left", None, true)
            }
            Record::Nothing { .. } => ("left", None, true),
            Record::Owned { .. } => ("owned", None, true),
            Record::Offered { to, .. } => ("offered", Some(to), entry.is_ready.get()),
            Record::Prepared { from, .. } => ("prepared", Some(from), true),
            Record::Given { to, .. } => ("given", Some(to), entry.is_taken.get()),
        };
        Move {
            id: entry.id.0,
            epoch: kept.owner.epoch(),
            state,
            peer: peer.and_then(|key| self.name_of(&key)),
            is_confirmed,
            trouble: entry.why(),
        }
    }

    /// What was kept cannot be read, so nobody may use what is known to belong to it.
    fn fence_unknown(&self, id: Id) {
        log::error!("whose volume {id} is cannot be read, so nobody may use it");
        let is_needed = true;
        for info in self.volumes.list() {
            let moved = |address: &OriginAddress| matches!(address, OriginAddress::Moved { id: other, .. } if *other == id.0);
            let bases = info.bases.iter();
            let mut adoptions = bases.filter_map(|base| self.volumes.adoption(*base));
            if info.uuid == id.0 || adoptions.any(|adoption| moved(&adoption.address)) {
                let standing = Standing::Given { is_needed };
                self.volumes.set_standing(info.id, standing);
            }
        }
    }
}
