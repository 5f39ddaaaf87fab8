//! How what an appliance has to do with a volume changes: each change is durable before anything is said of it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use peer::PublicKey;
use store::StoreError;
use upkeep::{Phase, Ticket};
use volume::{OriginAddress, Settings, Standing, VolumeError, VolumeId, VolumeInfo};
use world::Disk;

use crate::error::MoveError;
use crate::hearing::Terms;
use crate::moves::{Entry, Pace, Shared};
use crate::record::{After, Came, Id, Kept, News, OldCopy, Owner, Since};
use crate::rules::{Epoch, Record, Rules};
use crate::wire::Offer;

/// How a volume comes.
struct Coming {
    from: PublicKey,
    epoch: Epoch,
    since: Option<Since>,
    with_snapshots: bool,
}

/// Why a volume is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Users want it elsewhere.
    HandOver,
    /// Whoever gave it wants it back.
    Return,
    /// Whoever gave it took it over by force: what was written here since is in the copy only.
    Superseded,
}

impl<D: Disk + 'static> Shared<D> {
    /// Makes what is kept durable, and then true. For whoever has the turn.
    pub(crate) async fn keep(&self, entry: &Entry, kept: Kept) -> Result<(), StoreError> {
        let (key, bytes) = (entry.id.key(), kept.encode());
        self.volumes.store().set_record(&key, Some(&bytes)).await?;
        let is_news = entry.kept.borrow().owner != kept.owner;
        if is_news {
            log::info!("volume {}: {}", kept.name, said(&kept.owner));
            entry.is_ready.set(false);
            entry.is_taken.set(false);
            entry.is_wanted_back.set(false);
            entry.trouble.take();
        }
        *entry.kept.borrow_mut() = kept;
        entry.quiet_since.set(self.exec.now());
        self.apply(entry);
        entry.note_change();
        Ok(())
    }

    /// Tells the volumes whose they are.
    pub(crate) fn apply(&self, entry: &Entry) {
        let kept = entry.kept.borrow();
        for copy in &kept.copies {
            let id = VolumeId(copy.volume);
            let is_needed = !copy.has_arrived || self.is_read_here(&kept, copy);
            self.volumes.set_standing(id, Standing::Given { is_needed });
            // What went back before it was here whole is worth bringing in for its snapshots only.
            let has_snapshots = self
                .volume(copy.volume)
                .is_some_and(|info| info.snapshots > 0);
            self.volumes.hold(id, copy.went_back() && !has_snapshots);
        }
        for history in kept.histories() {
            self.volumes
                .set_standing(VolumeId(history), Standing::Inner);
        }
        if let Some(volume) = kept.volume {
            let standing = match kept.owner {
                Record::Owned { .. } => Standing::Owner,
                Record::Offered { .. } => Standing::Offered,
                Record::Prepared { .. } => Standing::Prepared,
                Record::Nothing { .. } | Record::Given { .. } => {
                    Standing::Given { is_needed: true }
                }
            };
            self.volumes.set_standing(VolumeId(volume), standing);
        }
    }

    /// After a start: takes away what was being made when the power went, and was nobody's yet.
    pub(crate) async fn discard_strays(&self) {
        for info in self.volumes.list() {
            let bases = info.bases.iter();
            let mut adoptions = bases.filter_map(|base| self.volumes.adoption(*base));
            let is_moved = |address| matches!(address, OriginAddress::Moved { .. });
            let has_moved = adoptions.any(|adoption| is_moved(adoption.address));
            let is_unknown = self.volumes.standing(info.id) == Standing::Owner
                && self.find_volume(info.id).is_none();
            // Clones share where their origin came from, and are somebody's.
            let is_new = info.snapshots == 0 && info.origin.is_none() && info.allocated_bytes == 0;
            let is_unknown = is_unknown && is_new && !self.is_shared(&info);
            if has_moved && is_unknown {
                let standing = Standing::Given { is_needed: false };
                self.volumes.set_standing(info.id, standing);
                // Should this fail, the next start tries again.
                let _ = self.volumes.discard(info.id).await;
            }
        }
    }

    /// Whether another volume has blocks that came from where this one's came.
    fn is_shared(&self, info: &VolumeInfo) -> bool {
        let others = self.volumes.list().into_iter();
        let mut others = others.filter(|other| other.id != info.id);
        others.any(|other| other.bases.iter().any(|base| info.bases.contains(base)))
    }

    /// Hands an offered volume over.
    pub(crate) async fn give(&self, entry: &Entry) -> Result<(), MoveError> {
        let _turn = entry.turn.acquire().await;
        let kept = entry.kept.borrow().clone();
        match kept.owner {
            Record::Offered { .. } if entry.is_ready.get() => {}
            Record::Offered { .. } => return Err(MoveError::NotPrepared),
            // Somebody was faster.
            Record::Given { .. } => return Ok(()),
            _ => return Err(MoveError::NotOffered),
        }
        let owner = kept
            .owner
            .hand_over(News::Written)
            .ok_or(MoveError::NotOffered)?;
        // A job that was cancelled is not handed over; from now on it cannot be.
        let ticket = self.ticket(entry).ok_or(MoveError::NotOffered)?;
        self.set_phase(&ticket, Phase::Giving);
        let given = self.let_go(entry, owner, Why::HandOver).await;
        if given.is_err() {
            self.set_phase(&ticket, Phase::Prepared);
        }
        given
    }

    pub(crate) fn set_phase(&self, ticket: &Ticket<D>, phase: Phase) {
        ticket.advance(self.exec.now(), |migration| migration.phase = phase);
    }

    /// Stops taking writes, makes those that were acknowledged durable, and then gives. For whoever has the turn.
    pub(crate) async fn let_go(
        &self,
        entry: &Entry,
        owner: Owner,
        why: Why,
    ) -> Result<(), MoveError> {
        let gone = self.try_let_go(entry, owner, why).await;
        if gone.is_err() {
            // Nothing was given: whose it was may go on.
            self.apply(entry);
        }
        gone
    }

    async fn try_let_go(&self, entry: &Entry, owner: Owner, why: Why) -> Result<(), MoveError> {
        let mut kept = entry.kept.borrow().clone();
        let Record::Given {
            epoch,
            to,
            nonce,
            mut news,
        } = owner
        else {
            return Err(MoveError::NotOffered);
        };
        let volume = VolumeId(kept.volume.ok_or(VolumeError::NoVolume)?);
        let was_owner = kept.owner.is_owner();
        if was_owner {
            self.volumes.fence(volume).await;
            self.volumes.store().flush().await?;
            // Who gets back what nobody changed has all there is.
            let is_its_own = kept.came.as_ref().is_some_and(|came| {
                (came.from, came.epoch + 1) == (to, epoch) && came.since.is_none()
            });
            let info = self.volume(volume.0).ok_or(VolumeError::NoVolume)?;
            let is_alone = info.snapshots == 0 && !self.is_shared(&info);
            let may_be_as_it_was = why == Why::Return && is_its_own && is_alone;
            if may_be_as_it_was && self.volumes.is_as_adopted(volume) {
                news = None;
            }
            let is_wished = why == Why::HandOver && kept.wish.after == After::Snapshot;
            if is_wished || why == Why::Superseded {
                let name = format!("given-{epoch}");
                let made = self.volumes.store().create_snapshot(volume, &name).await;
                if let Err(error) = made {
                    log::warn!("volume {}: no snapshot {name}: {error}", kept.name);
                }
            }
        }
        let info = self.volumes.store().volume(volume);
        let has_snapshots = info.as_ref().is_some_and(|info| info.snapshots > 0);
        kept.size_bytes = info.map_or(kept.size_bytes, |info| info.size_bytes);
        kept.owner = Record::Given {
            epoch,
            to,
            nonce,
            news,
        };
        kept.volume = None;
        kept.copies.push(OldCopy {
            volume: volume.0,
            epoch,
            to,
            came: kept.came.take(),
            has_arrived: false,
            after: match why {
                Why::Return => After::Free,
                Why::Superseded => After::Snapshot,
                Why::HandOver => kept.wish.after.clone(),
            },
            with_snapshots: match why {
                Why::Return => has_snapshots,
                Why::Superseded => false,
                Why::HandOver => kept.wish.with_snapshots,
            },
        });
        Ok(self.keep(entry, kept).await?)
    }

    /// Takes an offer back.
    pub(crate) async fn cancel(&self, entry: &Entry) -> Result<(), MoveError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        let Some(owner) = Rules::default().cancel(&kept.owner) else {
            return Err(MoveError::NotOffered);
        };
        kept.owner = owner;
        Ok(self.keep(entry, kept).await?)
    }

    /// Makes the copy that stayed the volume.
    pub(crate) async fn take_over(&self, entry: &Entry) -> Result<(), MoveError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        let owner = kept.owner.take_over().ok_or(MoveError::NotGiven)?;
        let newest = kept.copies.last().map(|copy| copy.epoch);
        let copy = newest.and_then(|epoch| kept.take_copy(epoch));
        let copy = copy.filter(|copy| self.volume(copy.volume).is_some());
        let copy = copy.ok_or(MoveError::NotGiven)?;
        let to = copy.to;
        log::warn!(
            "volume {} is taken over by force: what was written elsewhere since is lost",
            kept.name
        );
        (kept.owner, kept.superseded) = (owner, Some(to));
        (kept.volume, kept.came) = (Some(copy.volume), copy.came);
        Ok(self.keep(entry, kept).await?)
    }

    /// Whoever had the volume knows that it was taken over.
    pub(crate) async fn forget_superseded(&self, entry: &Entry) -> Result<(), StoreError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        kept.superseded = None;
        self.keep(entry, kept).await
    }

    /// Gets ready to own a volume, as its owner offers. For whoever has the turn.
    pub(crate) async fn prepare(
        &self,
        entry: &Entry,
        from: PublicKey,
        offer: &Offer,
    ) -> Result<(), VolumeError> {
        self.forget_prepared(entry).await?;
        let mut kept = entry.kept.borrow().clone();
        let since = offer.since;
        let since = since.and_then(|since| self.since(kept.copy(since)?, from));
        kept.owner = Record::Prepared {
            epoch: offer.epoch,
            from,
            nonce: offer.nonce,
        };
        (kept.name, kept.size_bytes) = (offer.name.clone(), offer.size_bytes);
        self.set_aside(&kept).await?;
        let settings = Settings::decode(offer.settings.as_bytes());
        let settings = settings.ok_or(VolumeError::BadNetwork)?;
        let coming = Coming {
            from,
            epoch: offer.epoch,
            since,
            with_snapshots: offer.with_snapshots,
        };
        let made = self.receive(entry, &kept, coming, settings).await;
        let (info, came) = match made {
            Ok(made) => made,
            Err(error) => {
                self.put_back(&kept).await;
                return Err(error);
            }
        };
        kept.volume = Some(info.id.0);
        kept.came = Some(came);
        if let Err(error) = self.keep(entry, kept.clone()).await {
            self.volumes.discard(info.id).await?;
            self.end_history(kept.came.as_ref()).await?;
            self.put_back(&kept).await;
            return Err(error.into());
        }
        Ok(())
    }

    /// Makes the volume that is to be owned.
    async fn receive(
        &self,
        entry: &Entry,
        kept: &Kept,
        coming: Coming,
        settings: Settings,
    ) -> Result<(VolumeInfo, Came), VolumeError> {
        let address = OriginAddress::Moved {
            id: entry.id.0,
            epoch: coming.epoch,
        };
        let passing = passing_name(entry.id);
        let names = [kept.name.as_str(), passing.as_str()];
        let made = self
            .volumes
            .prepare(names, address, kept.size_bytes, settings);
        let info = made.await?;
        let history = match coming.with_snapshots {
            true => self.begin_history(entry.id, info.id, None).await.map(Some),
            false => Ok(None),
        };
        let came = match history {
            Ok(history) => Came {
                from: coming.from,
                epoch: coming.epoch,
                size_bytes: kept.size_bytes,
                since: coming.since,
                with_snapshots: coming.with_snapshots,
                history,
            },
            Err(error) => {
                self.volumes.discard(info.id).await?;
                return Err(error);
            }
        };
        Ok((info, came))
    }

    /// Takes what it was given. For whoever has the turn.
    pub(crate) async fn take(
        &self,
        entry: &Rc<Entry>,
        (from, epoch): (PublicKey, Epoch),
        terms: Terms,
    ) -> Result<(), VolumeError> {
        let mut kept = entry.kept.borrow().clone();
        let before = kept.clone();
        let rate = terms.rate;
        for copy in &mut kept.copies {
            // Of those that do not come back with it, or may not have arrived there, the only ones are here.
            copy.with_snapshots &= terms.with_snapshots && copy.has_arrived;
        }
        if matches!(kept.owner, Record::Prepared { .. }) {
            self.prepare_history(entry, &mut kept, &terms).await?;
        } else {
            // It comes back.
            let copy = match terms.has_news {
                true => None,
                false => kept.take_copy(epoch - 1),
            };
            let copy = copy.filter(|copy| self.volume(copy.volume).is_some());
            match copy {
                Some(copy) => {
                    (kept.volume, kept.came) = (Some(copy.volume), copy.came);
                }
                None => {
                    kept.size_bytes = terms.size_bytes;
                    let since = terms
                        .since
                        .and_then(|since| self.since(kept.copy(since)?, from));
                    let coming = Coming {
                        from,
                        epoch,
                        since,
                        with_snapshots: terms.with_snapshots,
                    };
                    self.receive_back(entry, &mut kept, coming).await?;
                }
            }
        }
        (kept.owner, kept.giver) = (Record::Owned { epoch }, Some(from));
        let taken = async {
            // As they were at the hand-over.
            let name = kept.volume.and_then(|volume| self.volume(volume));
            if let Some(info) = name {
                self.volumes.set(&info.name, terms.settings).await?;
            }
            Ok(self.keep(entry, kept.clone()).await?)
        };
        if let Err(error) = taken.await {
            self.undo_take(&before, &kept).await?;
            return Err(error);
        }
        let is_paused = false;
        entry.pace.set(Pace { is_paused, rate });
        self.hydrate(entry, rate).await;
        Ok(())
    }

    /// It will be given again: what was made for it goes, or its name is taken then.
    async fn undo_take(&self, before: &Kept, kept: &Kept) -> Result<(), VolumeError> {
        for history in kept.histories() {
            if !before.histories().any(|known| known == history) {
                self.volumes.discard(VolumeId(history)).await?;
            }
        }
        if let Some(volume) = kept.volume.filter(|volume| !before.has(*volume)) {
            self.volumes.discard(VolumeId(volume)).await?;
            self.put_back(before).await;
        }
        Ok(())
    }

    /// It may be given otherwise than it was offered.
    async fn prepare_history(
        &self,
        entry: &Entry,
        kept: &mut Kept,
        terms: &Terms,
    ) -> Result<(), VolumeError> {
        let (Some(volume), Some(came)) = (kept.volume, kept.came.as_mut()) else {
            return Ok(());
        };
        if terms.with_snapshots && came.history.is_none() {
            came.history = Some(self.begin_history(entry.id, VolumeId(volume), None).await?);
            came.with_snapshots = true;
        }
        Ok(())
    }

    /// Makes the volume that comes back with something new, beside the copy that stayed.
    async fn receive_back(
        &self,
        entry: &Entry,
        kept: &mut Kept,
        coming: Coming,
    ) -> Result<(), VolumeError> {
        let copy = kept.copies.last();
        let settings = copy.map(|copy| self.volumes.settings(VolumeId(copy.volume)));
        self.set_aside(kept).await?;
        let settings = settings.unwrap_or_default();
        let made = self.receive(entry, kept, coming, settings);
        let (info, came) = made.await?;
        (kept.volume, kept.came) = (Some(info.id.0), Some(came));
        Ok(())
    }

    /// Brings in the rest of what this appliance owns.
    async fn hydrate(&self, entry: &Entry, rate: u64) {
        let volume = entry.kept.borrow().volume;
        let info = volume.and_then(|volume| self.volume(volume));
        let bases = info.map_or_else(Default::default, |info| info.bases);
        for base in bases {
            if let (Some(jobs), Some(_)) = (self.jobs.get(), self.volumes.adoption(base))
                && let Err(error) = jobs.start_hydration(base, rate).await
            {
                log::warn!("the rest of a volume is not brought in by itself: {error}");
            }
        }
    }

    /// The offer does not hold any more. For whoever has the turn.
    pub(crate) async fn unprepare(&self, entry: &Entry, owner: Owner) -> Result<(), VolumeError> {
        let mut kept = entry.kept.borrow().clone();
        let volume = kept.volume.take();
        kept.owner = owner;
        let came = kept.came.take();
        self.keep(entry, kept.clone()).await?;
        self.end_history(came.as_ref()).await?;
        if let Some(volume) = volume {
            self.volumes.discard(VolumeId(volume)).await?;
        }
        self.put_back(&kept).await;
        Ok(())
    }

    /// A newer offer takes the place of one that was prepared for.
    async fn forget_prepared(&self, entry: &Entry) -> Result<(), VolumeError> {
        let owner = entry.kept.borrow().owner;
        match owner {
            Record::Prepared { epoch, .. } => {
                let floor = epoch - 1;
                self.unprepare(entry, Record::Nothing { floor }).await
            }
            _ => Ok(()),
        }
    }
}

impl Kept {
    fn take_copy(&mut self, epoch: Epoch) -> Option<OldCopy> {
        let index = { self.copies.iter() }.position(|copy| copy.epoch == epoch)?;
        Some(self.copies.remove(index))
    }
}

/// What a volume is called while it is being made.
fn passing_name(id: Id) -> String {
    format!("arriving-{id}")
}

fn said(owner: &Owner) -> String {
    match owner {
        Record::Nothing { .. } => "another appliance's; nothing is to be done here".into(),
        Record::Owned { epoch } => format!("this appliance's (epoch {epoch})"),
        Record::Offered { epoch, .. } => format!("offered to another appliance (epoch {epoch})"),
        Record::Prepared { epoch, .. } => format!("prepared for (epoch {epoch})"),
        Record::Given { epoch, .. } => format!("given to another appliance (epoch {epoch})"),
    }
}
