//! What an appliance does because of what it has to do with a volume: it says what it has to say, until that is heard.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::pin::pin;
use core::time::Duration;

use exec::futures_util::future::select;
use upkeep::{JobState, Phase, Ticket};
use world::{Buf, Disk};

use crate::moves::{Entry, Shared};
use crate::record::{Id, Kept};
use crate::rules::{Epoch, FORCED, Nonce, Record};
use crate::wire::{Ask, Offer, Progress, Say};

/// The first rest when the other appliance does not answer; each further one is twice as long.
const REST: Duration = Duration::from_millis(500);
/// The longest of them.
const REST_MAX: Duration = Duration::from_secs(10);
/// How often it is asked how much of a volume has arrived.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often who is prepared asks whether the offer holds.
const HOLDS_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether a copy is still needed.
const COPY_EVERY: Duration = Duration::from_secs(2);

/// What comes next.
enum Next {
    /// Nothing, until something changes.
    Nothing,
    /// A look, after this time at the latest.
    After(Duration),
    /// Another try, later and later.
    Later,
}

impl Next {
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(one), Self::After(other)) => Self::After(one.min(other)),
            (Self::After(delay), _) | (_, Self::After(delay)) => Self::After(delay),
            (Self::Later, _) | (_, Self::Later) => Self::Later,
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

impl<D: Disk + 'static> Shared<D> {
    /// Sees to it that somebody looks after a volume.
    pub(crate) fn drive(self: &Rc<Self>, entry: &Rc<Entry>) {
        if self.jobs.get().is_none() {
            return;
        }
        entry.note_change();
        if entry.is_driven.replace(true) {
            return;
        }
        let (shared, entry) = (self.clone(), entry.clone());
        self.exec.clone().spawn(async move {
            shared.look_after(&entry).await;
        });
    }

    async fn look_after(self: &Rc<Self>, entry: &Rc<Entry>) {
        let mut rest = REST;
        loop {
            let (changed, changes) = (entry.changed.wait(), entry.changes.get());
            let ticket = self.ticket(entry);
            let next = self.step(entry, ticket.as_ref()).await;
            let next = next.sooner(self.follow_copies(entry, ticket.as_ref()).await);
            self.bring_history(entry);
            let delay = match next {
                // Something changed behind our back.
                Next::Nothing if entry.changes.get() != changes => continue,
                Next::Nothing => {
                    entry.is_driven.set(false);
                    return self.forget_what_was_deleted(entry).await;
                }
                Next::After(delay) => {
                    rest = REST;
                    delay
                }
                Next::Later => {
                    let delay = rest;
                    rest = (rest * 2).min(REST_MAX);
                    delay
                }
            };
            let wanted = pin!(async {
                match &ticket {
                    Some(ticket) => ticket.wanted().await,
                    None => core::future::pending().await,
                }
            });
            let changed = pin!(changed);
            let _ = self.exec.timeout(delay, select(changed, wanted)).await;
        }
    }

    async fn step(self: &Rc<Self>, entry: &Rc<Entry>, ticket: Option<&Ticket<D>>) -> Next {
        let owner = entry.kept.borrow().owner;
        match owner {
            Record::Offered { epoch, to, nonce } => {
                if ticket.is_none_or(|ticket| ticket.state().is_over()) {
                    return self.withdraw(entry, (to, nonce)).await;
                }
                self.offer(entry, ticket, (to, nonce), epoch + 1).await
            }
            Record::Prepared { from, nonce, .. } => {
                self.ask_whether_it_holds(entry, from, nonce).await
            }
            Record::Given {
                epoch,
                to,
                nonce,
                news,
            } => {
                let given = (to, nonce, epoch);
                self.follow(entry, ticket, given, news.is_some()).await
            }
            Record::Owned { .. } => {
                if let Some(ticket) = ticket {
                    let why = Some(self.how_it_came_back(entry, ticket).into());
                    ticket.end(JobState::Cancelled, why).await;
                }
                self.tell_superseded(entry).await
            }
            Record::Nothing { .. } => {
                if let Some(ticket) = ticket {
                    // It came by here again, as an offer that was taken back.
                    self.end_gone(ticket).await;
                }
                Next::Nothing
            }
        }
    }

    /// Why a volume is this appliance's that was to go to another one.
    fn how_it_came_back(&self, entry: &Entry, ticket: &Ticket<D>) -> &'static str {
        let kept = entry.kept.borrow();
        let Some(migration) = ticket.migration().filter(|one| one.phase.is_given()) else {
            return "the volume was taken back";
        };
        let giver = kept.giver.and_then(|giver| self.name_of(&giver));
        if kept.owner.epoch() >= FORCED && kept.superseded.is_some() {
            "the volume was taken over by force"
        } else if giver == Some(migration.to) {
            "the volume was taken back"
        } else {
            "the volume came back by way of another appliance"
        }
    }

    /// The volume was given on before all of it was there.
    async fn end_gone(&self, ticket: &Ticket<D>) {
        let why = "the volume went on from there before all of it had arrived";
        ticket.end(JobState::Cancelled, Some(why.into())).await;
    }

    fn trouble(&self, entry: &Entry, ticket: Option<&Ticket<D>>, trouble: Option<String>) -> Next {
        if let Some(ticket) = ticket {
            ticket.set_trouble(trouble.clone());
        }
        *entry.trouble.borrow_mut() = trouble;
        Next::Later
    }

    async fn say(&self, to: peer::PublicKey, ask: Ask) -> Result<Say, String> {
        let answered = self.ask(to, ask, Buf::empty()).await;
        answered
            .map(|answered| answered.say)
            .map_err(|error| error.to_string())
    }

    /// Tells whoever had the volume that it was taken over by force.
    async fn tell_superseded(&self, entry: &Entry) -> Next {
        let superseded = entry.kept.borrow().superseded;
        let Some(from) = superseded else {
            return Next::Nothing;
        };
        let (id, epoch) = (entry.id, entry.kept.borrow().owner.epoch());
        match self.say(from, Ask::TakenOver { id, epoch }).await {
            Ok(Say::Yes) => match self.forget_superseded(entry).await {
                Ok(()) => Next::Nothing,
                Err(_) => Next::Later,
            },
            Ok(Say::Refused(why) | Say::NotNow(why)) | Err(why) => {
                self.trouble(entry, None, Some(why))
            }
            Ok(_) => self.trouble(entry, None, Some("it says nonsense".into())),
        }
    }

    /// The job was cancelled.
    async fn withdraw(&self, entry: &Entry, (to, nonce): (peer::PublicKey, Nonce)) -> Next {
        if self.cancel(entry).await.is_err() {
            return Next::Later;
        }
        // It asks by itself, should this be lost.
        let _ = self
            .say(
                to,
                Ask::Cancel {
                    id: entry.id,
                    nonce,
                },
            )
            .await;
        Next::After(Duration::ZERO)
    }

    async fn offer(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        ticket: Option<&Ticket<D>>,
        (to, nonce): (peer::PublicKey, Nonce),
        epoch: Epoch,
    ) -> Next {
        if !entry.is_ready.get() {
            let offer = self.describe_offer(entry, to, nonce, epoch);
            match self.say(to, Ask::Offer(offer)).await {
                Ok(Say::Yes) => self.note_ready(entry),
                Ok(Say::Refused(why)) => {
                    if let Some(ticket) = ticket {
                        let why = alloc::format!("the other appliance refuses: {why}");
                        ticket.end(JobState::Failed, Some(why)).await;
                    }
                    return self.withdraw(entry, (to, nonce)).await;
                }
                Ok(Say::NotNow(why)) | Err(why) => return self.trouble(entry, ticket, Some(why)),
                Ok(_) => return self.trouble(entry, ticket, Some("it says nonsense".into())),
            }
        }
        self.trouble(entry, ticket, None);
        let is_paused = ticket.is_some_and(|ticket| ticket.state() == JobState::Paused);
        if entry.kept.borrow().wish.at_once && !is_paused {
            return match self.give(entry).await {
                Ok(()) => Next::After(Duration::ZERO),
                Err(error) => self.trouble(entry, ticket, Some(error.to_string())),
            };
        }
        if let Some(ticket) = ticket {
            self.set_phase(ticket, Phase::Prepared);
        }
        Next::After(REST_MAX)
    }

    /// What users have set for what was given for an ownership.
    fn settings_of(&self, kept: &Kept, epoch: Epoch) -> String {
        let copy = kept.copy(epoch).map(|copy| volume::VolumeId(copy.volume));
        let settings = copy.map(|copy| self.volumes.settings(copy));
        settings.unwrap_or_default().encode()
    }

    fn describe_offer(
        &self,
        entry: &Entry,
        to: peer::PublicKey,
        nonce: Nonce,
        epoch: Epoch,
    ) -> Offer {
        let kept = entry.kept.borrow();
        let settings = kept
            .volume
            .map(|volume| self.volumes.settings(volume::VolumeId(volume)));
        Offer {
            id: entry.id,
            nonce,
            epoch,
            name: kept.name.clone(),
            size_bytes: kept.size_bytes,
            settings: settings.unwrap_or_default().encode(),
            since: kept.since_for(to, epoch),
            with_snapshots: kept.wish.with_snapshots,
        }
    }

    async fn ask_whether_it_holds(
        &self,
        entry: &Entry,
        from: peer::PublicKey,
        nonce: Nonce,
    ) -> Next {
        match self
            .say(
                from,
                Ask::Holds {
                    id: entry.id,
                    nonce,
                },
            )
            .await
        {
            Ok(Say::No) => match self.hear_cancel(from, entry.id, nonce).await {
                Say::Yes => Next::After(Duration::ZERO),
                _ => Next::Later,
            },
            Ok(_) => {
                entry.trouble.take();
                Next::After(HOLDS_EVERY)
            }
            Err(why) => self.trouble(entry, None, Some(why)),
        }
    }

    /// Tells that the volume was given, and then follows how it arrives.
    async fn follow(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        ticket: Option<&Ticket<D>>,
        (to, nonce, epoch): (peer::PublicKey, Nonce, Epoch),
        has_news: bool,
    ) -> Next {
        // Who has all of it has taken it.
        let kept = entry.kept.borrow().clone();
        if kept.copy(epoch).is_some_and(|copy| copy.has_arrived) {
            entry.is_taken.set(true);
        }
        if !entry.is_taken.get() {
            let size_bytes = entry.kept.borrow().size_bytes;
            if let Some(ticket) = ticket {
                self.set_phase(ticket, Phase::Giving);
            }
            let give = Ask::Give {
                id: entry.id,
                nonce,
                epoch,
                has_news,
                size_bytes,
                since: entry.kept.borrow().since_for(to, epoch),
                with_snapshots: entry.kept.borrow().goes_with_snapshots(epoch),
                rate: ticket.map_or(0, Ticket::rate_max),
                settings: self.settings_of(&entry.kept.borrow(), epoch),
            };
            match self.say(to, give).await {
                Ok(Say::Yes) => {
                    entry.is_taken.set(true);
                    entry.note_change();
                }
                Ok(Say::NotNow(why) | Say::Refused(why)) | Err(why) => {
                    return self.trouble(entry, ticket, Some(why));
                }
                Ok(_) if entry.is_wanted_back.get() => {}
                Ok(_) => return self.trouble(entry, ticket, Some("it does not take it".into())),
            }
        }
        if entry.is_wanted_back.get() {
            return self.want_back(entry, ticket, (to, nonce, epoch)).await;
        }
        let has_arrived = entry.kept.borrow().has_arrived(epoch);
        if let (true, Some(ticket)) = (has_arrived, ticket) {
            ticket.end(JobState::Done, None).await;
        }
        Next::Nothing
    }

    async fn want_back(
        &self,
        entry: &Entry,
        ticket: Option<&Ticket<D>>,
        (to, nonce, epoch): (peer::PublicKey, Nonce, Epoch),
    ) -> Next {
        let id = entry.id;
        match self.say(to, Ask::Return { id, nonce, epoch }).await {
            // It gives by itself.
            Ok(Say::Granted) => Next::After(REST_MAX),
            Ok(Say::No) => {
                let why = "it has given the volume to somebody else, or lost it".into();
                self.trouble(entry, ticket, Some(why))
            }
            Ok(Say::NotNow(why)) | Err(why) => self.trouble(entry, ticket, Some(why)),
            Ok(_) => self.trouble(entry, ticket, Some("it says nonsense".into())),
        }
    }

    /// Asks whoever was given a copy whether it has all of it.
    async fn follow_copies(self: &Rc<Self>, entry: &Rc<Entry>, ticket: Option<&Ticket<D>>) -> Next {
        let kept = entry.kept.borrow().clone();
        let mut next = Next::Nothing;
        for copy in kept.copies.iter().filter(|copy| !copy.has_arrived) {
            let is_present =
                matches!(kept.owner, Record::Given { epoch, .. } if epoch == copy.epoch);
            if is_present && !entry.is_taken.get() {
                continue;
            }
            let ticket = ticket.filter(|_| is_present);
            let followed = self.follow_arrival(entry, ticket, copy.to, copy.epoch);
            next = next.sooner(followed.await);
        }
        if let Err(error) = self.tidy(entry).await {
            return self.trouble(entry, ticket, Some(error.to_string()));
        }
        let is_waiting = entry.kept.borrow().reads_copies();
        match is_waiting {
            true => next.sooner(Next::After(COPY_EVERY)),
            false => next,
        }
    }

    async fn follow_arrival(
        &self,
        entry: &Entry,
        ticket: Option<&Ticket<D>>,
        to: peer::PublicKey,
        epoch: Epoch,
    ) -> Next {
        if let Some(ticket) = ticket {
            self.pass_pace(entry.id, ticket, to, epoch).await;
        }
        let id = entry.id;
        let progress = match self.say(to, Ask::Progress { id, epoch }).await {
            Ok(Say::Progress(progress)) => progress,
            Ok(_) => return self.trouble(entry, ticket, Some("it says nonsense".into())),
            Err(why) => return self.trouble(entry, ticket, Some(why)),
        };
        self.trouble(entry, ticket, progress.trouble.clone());
        if let Some(ticket) = ticket {
            note(ticket, self.exec.now(), &progress);
        }
        if !progress.is_owner {
            let why = "it knows nothing of the volume any more";
            return self.trouble(entry, ticket, Some(why.into()));
        }
        if !progress.has_all {
            return Next::After(PROGRESS_EVERY);
        }
        if let (true, Some(ticket)) = (progress.is_gone, ticket) {
            self.end_gone(ticket).await;
        }
        match self
            .note_arrived(entry, epoch, progress.has_snapshots)
            .await
        {
            Ok(()) => Next::After(Duration::ZERO),
            Err(error) => self.trouble(entry, ticket, Some(error.to_string())),
        }
    }

    /// Passes on what users want of the job.
    async fn pass_pace(&self, id: Id, ticket: &Ticket<D>, to: peer::PublicKey, epoch: Epoch) {
        let is_paused = ticket.state() == JobState::Paused;
        let pace = Ask::Pace {
            id,
            epoch,
            is_paused,
            rate: ticket.rate_max(),
        };
        if let Ok(Say::NotNow(why)) = self.say(to, pace).await {
            log::debug!("{id}: the pace is not kept: {why}");
        }
    }
}

fn note<D: Disk + 'static>(ticket: &Ticket<D>, now: world::Instant, progress: &Progress) {
    ticket.advance(now, |migration| {
        migration.phase = Phase::Following;
        migration.known_bytes = progress.known_bytes;
        migration.demanded_bytes = migration.demanded_bytes.max(progress.demanded_bytes);
        migration.background_bytes = migration.background_bytes.max(progress.background_bytes);
        migration.metadata_bytes = migration.metadata_bytes.max(progress.metadata_bytes);
    });
}
