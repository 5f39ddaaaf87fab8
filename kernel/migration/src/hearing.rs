//! What follows from what another appliance says.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;

use peer::PublicKey;
use upkeep::JobState;
use volume::{
    AdoptionInfo, BaseInfo, OriginAddress, Settings, VolumeError, check_name, check_size,
};
use world::Disk;

use crate::changes::Why;
use crate::moves::{Entry, Pace, Shared};
use crate::record::{Id, Kept, News};
use crate::rules::{Epoch, Message, Nonce, Reaction, Record, Rules, What};
use crate::wire::{Offer, Progress, Say};

/// How a volume is given.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Whether there is something that the new owner has not, if it gave the volume before.
    pub has_news: bool,
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Only what is newer than what the new owner gave for this epoch need go back.
    pub since: Option<Epoch>,
    /// Its snapshots are to be had, too.
    pub with_snapshots: bool,
    /// Bytes in a second at which the rest is to be brought in; 0: no limit.
    pub rate: u64,
    /// What users have set for it.
    pub settings: Settings,
}

impl<D: Disk + 'static> Shared<D> {
    fn react(
        entry: &Entry,
        (other, nonce): (PublicKey, Nonce),
        what: What<News>,
    ) -> Reaction<PublicKey, News> {
        let message = Message { other, nonce, what };
        Rules::default().hear(&entry.kept.borrow().owner, &message, News::Written)
    }

    pub(crate) async fn hear_offer(self: &Rc<Self>, from: PublicKey, offer: Offer) -> Say {
        // Everything of it is somebody else's word.
        if let Err(error) = check_name(&offer.name).and(check_size(offer.size_bytes)) {
            return refusal(error);
        }
        let known = self.find(offer.id);
        if known.is_none() && !self.make_room().await {
            return Say::Refused("it knows too many volumes that moved".into());
        }
        // Somebody else may have been told of it meanwhile.
        let known = known.or_else(|| self.find(offer.id));
        let entry = known.unwrap_or_else(|| {
            let kept = Kept::new(&offer.name, offer.size_bytes, Record::default(), None);
            self.enter(offer.id, kept)
        });
        let _turn = entry.turn.acquire().await;
        self.forget_deleted(&entry);
        let said = (from, offer.nonce);
        match Self::react(&entry, said, What::Offer(offer.epoch)) {
            Reaction::Become(_) => {
                let prepared = self.prepare(&entry, from, &offer).await;
                self.drive(&entry);
                prepared.map_or_else(refusal, |()| Say::Yes)
            }
            _ => match entry.kept.borrow().owner {
                Record::Prepared { nonce, .. } if nonce == offer.nonce => Say::Yes,
                Record::Owned { .. } | Record::Offered { .. } => {
                    Say::Refused("it says that the volume is its own".into())
                }
                _ => Say::Refused("it knows of a later owner".into()),
            },
        }
    }

    /// A volume that was its owner's, and deleted, can come again.
    fn forget_deleted(&self, entry: &Entry) {
        let mut kept = entry.kept.borrow_mut();
        let is_here = kept
            .volume
            .is_some_and(|volume| self.volume(volume).is_some());
        if let (Record::Owned { epoch }, false) = (kept.owner, is_here) {
            kept.owner = Record::Nothing { floor: epoch };
            kept.volume = None;
        }
    }

    pub(crate) fn hear_holds(&self, from: PublicKey, id: Id, nonce: Nonce) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::No;
        };
        match Self::react(&entry, (from, nonce), What::Prepared) {
            Reaction::Ready => {
                self.note_ready(&entry);
                Say::Yes
            }
            Reaction::Say(_) => Say::No,
            Reaction::None | Reaction::Become(_) => Say::Yes,
        }
    }

    /// The other appliance is prepared.
    pub(crate) fn note_ready(&self, entry: &Entry) {
        if !entry.is_ready.replace(true) {
            entry.note_change();
        }
    }

    pub(crate) async fn hear_cancel(&self, from: PublicKey, id: Id, nonce: Nonce) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::No;
        };
        let _turn = entry.turn.acquire().await;
        match Self::react(&entry, (from, nonce), What::Cancel) {
            Reaction::Become(owner) => {
                let undone = self.unprepare(&entry, owner).await;
                undone.map_or_else(refusal, |()| Say::Yes)
            }
            _ => Say::No,
        }
    }

    pub(crate) async fn hear_give(
        self: &Rc<Self>,
        from: PublicKey,
        id: Id,
        (nonce, epoch, news): (Nonce, Epoch, Option<News>),
        terms: Terms,
    ) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::No;
        };
        let _turn = entry.turn.acquire().await;
        match Self::react(&entry, (from, nonce), What::Give(epoch, news)) {
            Reaction::Become(_) => {
                let way = (from, epoch);
                let taken = self.take(&entry, way, terms).await;
                self.drive(&entry);
                taken.map_or_else(refusal, |()| Say::Yes)
            }
            _ => {
                let owner = entry.kept.borrow().owner;
                let is_waiting = matches!(owner, Record::Prepared { .. });
                match owner.epoch() >= epoch && !is_waiting {
                    true => Say::Yes,
                    false => Say::No,
                }
            }
        }
    }

    pub(crate) async fn hear_return(
        self: &Rc<Self>,
        from: PublicKey,
        id: Id,
        nonce: Nonce,
        epoch: Epoch,
    ) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::No;
        };
        let _turn = entry.turn.acquire().await;
        self.forget_deleted(&entry);
        // Who did not give it has nothing to want back.
        if entry.kept.borrow().owner.is_owner() && entry.kept.borrow().giver != Some(from) {
            return Say::No;
        }
        match Self::react(&entry, (from, nonce), What::Return(epoch)) {
            Reaction::Become(owner) => {
                let given = self.let_go(&entry, owner, Why::Return).await;
                self.drive(&entry);
                match given {
                    Ok(()) => Say::Granted,
                    Err(error) => Say::NotNow(error.to_string()),
                }
            }
            _ => match entry.kept.borrow().owner {
                Record::Given {
                    epoch: given, to, ..
                } if (given, to) == (epoch + 1, from) => Say::Granted,
                _ => Say::No,
            },
        }
    }

    pub(crate) async fn hear_taken_over(
        self: &Rc<Self>,
        by: PublicKey,
        id: Id,
        epoch: Epoch,
    ) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::Yes;
        };
        let _turn = entry.turn.acquire().await;
        self.forget_deleted(&entry);
        let owner = entry.kept.borrow().owner;
        if owner.is_owner() && entry.kept.borrow().giver != Some(by) {
            return Say::Refused("it has the volume from somebody else".into());
        }
        let Some(superseded) = owner.supersede(by, epoch, News::Written) else {
            return match owner {
                Record::Given { to, .. } if to != by && owner.epoch() < epoch => {
                    let to = self.name_of(&to).unwrap_or_default();
                    Say::Refused(alloc::format!("it had given the volume to {to}"))
                }
                _ => Say::Yes,
            };
        };
        log::warn!(
            "a volume of this appliance was taken over by force: what was written here is in its copy"
        );
        let given = self.let_go(&entry, superseded, Why::Superseded).await;
        self.drive(&entry);
        match given {
            Ok(()) => Say::Yes,
            Err(error) => Say::NotNow(error.to_string()),
        }
    }

    /// What of a volume is not here that was given for an ownership of this appliance.
    pub(crate) fn adoption(&self, of: Id, at: Epoch) -> Option<AdoptionInfo> {
        let address = OriginAddress::Moved {
            id: of.0,
            epoch: at,
        };
        let all = self.volumes.adoptions().into_iter();
        { all }.find(|adoption| adoption.address == address)
    }

    /// All before this byte is here: as the job says, which is ahead of what is kept of it.
    fn known_bytes(&self, base: &BaseInfo) -> u64 {
        let job = self.jobs.get().and_then(|jobs| jobs.hydration_of(base.id));
        job.map_or(0, |job| job.done_bytes).max(base.known_bytes)
    }

    /// How much of a volume is here; that all of it is, is durable.
    pub(crate) async fn tell_progress(&self, from: PublicKey, id: Id, epoch: Epoch) -> Progress {
        let progress = self.progress(from, id, epoch);
        if progress.has_all && self.volumes.store().flush().await.is_err() {
            return Progress {
                has_all: false,
                ..progress
            };
        }
        progress
    }

    /// Whether all is here of what was given for an ownership, as far as it is still here.
    fn is_complete(&self, kept: &Kept, epoch: Epoch) -> bool {
        let mut cames = kept.cames().filter(|came| came.epoch == epoch);
        if cames.any(|came| came.history.is_some()) {
            return false;
        }
        let copies = { kept.copies.iter() }.map(|copy| (Some(copy.volume), copy.came.as_ref()));
        let all = copies.chain([(kept.volume, kept.came.as_ref())]);
        let mut given = all.filter(|(_, came)| came.is_some_and(|came| came.epoch == epoch));
        given.all(|(volume, _)| {
            let info = volume.and_then(|volume| self.volume(volume));
            let bases = info.map_or_else(Vec::new, |info| info.bases);
            let bases = bases
                .iter()
                .filter_map(|base| self.volumes.store().base(*base));
            { bases }.all(|base| base.is_complete())
        })
    }

    fn progress(&self, from: PublicKey, id: Id, epoch: Epoch) -> Progress {
        let Some(entry) = self.find(id) else {
            return Progress::default();
        };
        let kept = entry.kept.borrow();
        let is_taken = match kept.owner {
            Record::Prepared { .. } => kept.owner.epoch() > epoch,
            _ => kept.owner.epoch() >= epoch,
        };
        let mut cames = kept.cames().filter(|came| came.epoch == epoch);
        let is_theirs = cames.all(|came| came.from == from);
        if !is_taken || !is_theirs {
            return Progress::default();
        }
        let past_bytes = entry.past_bytes.get();
        match self.adoption(id, epoch) {
            Some(adoption) => Progress {
                is_owner: true,
                has_all: false,
                has_snapshots: false,
                is_gone: false,
                known_bytes: self.known_bytes(&adoption.base),
                demanded_bytes: adoption.demanded_bytes,
                background_bytes: adoption.background_bytes,
                metadata_bytes: entry.metadata_bytes.get(),
                trouble: adoption.failure.map(|failure| failure.to_string()),
            },
            None => {
                let address = OriginAddress::Moved { id: id.0, epoch };
                let took = self.volumes.finished_adoption(&address);
                let is_here = kept.cames().any(|came| came.epoch == epoch);
                let is_gone = kept.owner.epoch() > epoch && !is_here && took.is_none();
                let [demanded_bytes, background_bytes] =
                    took.map_or([0; 2], |took| [took.demanded_bytes, took.background_bytes]);
                Progress {
                    is_owner: true,
                    has_all: self.is_complete(&kept, epoch),
                    has_snapshots: kept.came_for(epoch).is_some_and(|came| came.with_snapshots),
                    is_gone,
                    known_bytes: kept.size_bytes,
                    demanded_bytes,
                    background_bytes: background_bytes + past_bytes,
                    metadata_bytes: entry.metadata_bytes.get(),
                    trouble: entry.past_trouble.borrow().clone(),
                }
            }
        }
    }

    pub(crate) async fn set_pace(
        &self,
        from: PublicKey,
        (id, epoch): (Id, Epoch),
        is_paused: bool,
        rate: u64,
    ) -> Say {
        if !self.progress(from, id, epoch).is_owner {
            return Say::No;
        }
        if let Some(entry) = self.find(id) {
            entry.pace.set(Pace { is_paused, rate });
        }
        let adoption = self.adoption(id, epoch);
        let (Some(jobs), Some(adoption)) = (self.jobs.get(), adoption) else {
            return Say::Yes;
        };
        let Some(job) = jobs.hydration_of(adoption.base.id) else {
            return Say::NotNow("it is not brought in by itself".into());
        };
        // Who is told something is disturbed, and what is told is kept.
        let is_so = (job.state == JobState::Paused) == is_paused;
        if is_so && job.rate_max.unwrap_or(0) == rate {
            return Say::Yes;
        }
        match jobs.change(job.id, Some(is_paused), Some(rate)).await {
            Ok(_) => Say::Yes,
            Err(error) => Say::NotNow(error.to_string()),
        }
    }
}

/// Some errors stay until a user does something; others may pass.
fn refusal(error: VolumeError) -> Say {
    match error {
        VolumeError::NameTaken => Say::Refused("it has another volume of this name".into()),
        VolumeError::BadName | VolumeError::BadSize => Say::Refused(error.to_string()),
        VolumeError::Store(store::StoreError::TooManyMaps) => Say::Refused(error.to_string()),
        error => Say::NotNow(error.to_string()),
    }
}
