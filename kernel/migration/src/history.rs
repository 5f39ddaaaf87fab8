//! Snapshots that come with a volume: from the newest to the oldest, each by what it differs in from the one before.
//!
//! ```text
//! the volume    remote pointers ─► base ◄─ what arrives
//! its history   remote pointers ──┘  beside it: becomes the newest snapshot, is kept as one of the volume, becomes the next, ...
//! ```
//! The history is a second volume of the same base ([`Volumes::adopt_again`](volume::Volumes::adopt_again)), made before anybody writes to the
//! first: what was given stays whatever is written since. When all of that is here, what the newest snapshot has otherwise is written to it, and
//! so on; what snapshots share is fetched once and takes space once. What of that was interrupted by a restart begins anew with what was given.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use peer::PublicKey;
use store::{Content, Extent, SnapshotLabel, Span, StoreError};
use volume::{Fullness, OriginError, Standing, VolumeError, VolumeId};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::moves::{Entry, Shared};
use crate::origin::PeerOrigin;
use crate::record::{Came, History, Id, Kept, Moment};
use crate::rules::Epoch;
use crate::wire::{Ask, Failure, Part, Past, Say};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// What names of histories begin with.
const NAME: &str = "history-";
/// After something went wrong, and while what was given is not all here.
const REST: Duration = Duration::from_secs(1);
/// After each read while clients do something.
const BREATH: Duration = Duration::from_millis(10);
/// So much is asked about at a time.
const EXTENTS_BYTES: u64 = 1 << 40;

/// A history that is being brought in.
struct Way {
    /// For which ownership the volume was given, and by whom.
    epoch: Epoch,
    from: PublicKey,
    /// Whose snapshots they become.
    volume: VolumeId,
    history: History,
}

/// What a history is at the moment.
pub struct Present {
    volume: u64,
    /// A snapshot exactly, or what was given.
    number: Option<u64>,
    /// Or on its way from there to this one.
    toward: Option<u64>,
}

/// How a step ended.
enum Step {
    /// There may be more.
    More,
    /// All have come.
    Done,
    /// Nobody wants them any more.
    Unwanted,
}

impl<D: Disk + 'static> Shared<D> {
    /// Makes the volume by which snapshots come; before anybody writes to the one that they belong to.
    pub(crate) async fn begin_history(
        &self,
        id: Id,
        volume: VolumeId,
        last: Option<Moment>,
    ) -> Result<History, VolumeError> {
        let mut drawn = [0; 4];
        self.entropy.fill(&mut drawn);
        let name = format!("{NAME}{id}.{:08x}", u32::from_le_bytes(drawn));
        let made = self.volumes.adopt_again(volume, &name).await?;
        let volume = made.id.0;
        Ok(History { volume, last })
    }

    /// Lets a history go that nobody needs any more.
    pub(crate) async fn end_history(&self, came: Option<&Came>) -> Result<(), VolumeError> {
        let history = came.and_then(|came| came.history.as_ref());
        match history {
            Some(history) => self.volumes.discard(VolumeId(history.volume)).await,
            None => Ok(()),
        }
    }

    /// After a start: takes away histories that nobody knows of, but for those of `unreadable` volumes.
    pub(crate) async fn discard_stray_histories(&self, unreadable: &[Id]) {
        let mut known = Vec::new();
        for entry in self.all() {
            known.extend(entry.kept.borrow().histories());
        }
        for info in self.volumes.store().volumes() {
            let Some(id) = id_of_name(&info.name) else {
                continue;
            };
            if unreadable.contains(&id) {
                self.volumes.set_standing(info.id, Standing::Inner);
                continue;
            }
            let is_stray = !known.contains(&info.id.0)
                && self.find_volume(info.id).is_none()
                && !info.bases.is_empty()
                && info.origin.is_none();
            if is_stray {
                self.volumes.set_standing(info.id, Standing::Inner);
                // Should this fail, the next start tries again.
                let _ = self.volumes.discard(info.id).await;
            }
        }
    }

    /// Sees to it that snapshots come that are still to come.
    pub(crate) fn bring_history(self: &Rc<Self>, entry: &Rc<Entry>) {
        if self.next_way(entry).is_none()
            || self.jobs.get().is_none()
            || entry.is_in_past.replace(true)
        {
            return;
        }
        let (shared, entry) = (self.clone(), entry.clone());
        self.exec.clone().spawn(async move {
            while let Some(way) = shared.next_way(&entry) {
                match shared.bring_one(&entry, &way).await {
                    Ok(Step::More) => drop(entry.past_trouble.take()),
                    Ok(step) => {
                        entry.past_trouble.take();
                        let have_come = matches!(step, Step::Done);
                        let finished = shared.finish_history(&entry, way.epoch, have_come);
                        if finished.await.is_err() {
                            shared.exec.sleep(REST).await;
                        }
                    }
                    Err(why) => {
                        *entry.past_trouble.borrow_mut() = why;
                        shared.exec.sleep(REST).await;
                    }
                }
            }
            entry.is_in_past.set(false);
            // Copies may be of no use any more.
            shared.drive(&entry);
        });
    }

    fn next_way(&self, entry: &Entry) -> Option<Way> {
        let kept = entry.kept.borrow();
        let way = |came: &Came, volume: u64| {
            let (history, volume) = (came.history.clone()?, VolumeId(volume));
            let (epoch, from) = (came.epoch, came.from);
            Some(Way {
                epoch,
                from,
                volume,
                history,
            })
        };
        let is_owner = kept.owner.is_owner();
        let own = { kept.came.as_ref() }.zip(kept.volume).filter(|_| is_owner);
        let own = own.and_then(|(came, volume)| way(came, volume));
        own.or_else(|| {
            let mut copies = kept.copies.iter();
            copies.find_map(|copy| way(copy.came.as_ref()?, copy.volume))
        })
    }

    /// Brings in the next snapshot. An error is what keeps it from coming; empty while others come first.
    async fn bring_one(self: &Rc<Self>, entry: &Entry, way: &Way) -> Result<Step, Option<String>> {
        let info = self.volume(way.volume.0);
        let Some(info) = info.filter(|_| !self.went_back(entry, way.epoch)) else {
            return Ok(Step::Unwanted);
        };
        if self.adoption(entry.id, way.epoch).is_some() || entry.pace.get().is_paused {
            return Err(None);
        }
        let ask = Ask::Past {
            id: entry.id,
            epoch: way.epoch,
            before: way.history.last,
        };
        let answered = self.ask(way.from, ask, Buf::empty()).await;
        let past = match answered.map_err(|error| Some(error.to_string()))?.say {
            Say::Past(Some(past)) => past,
            Say::Past(None) => return Ok(Step::Done),
            Say::Failed(Failure::NotThere) => {
                log::warn!("volume {}: its snapshots are not there any more", info.name);
                return Ok(Step::Unwanted);
            }
            _ => return Err(Some("it says nonsense".into())),
        };
        if way
            .history
            .last
            .is_some_and(|last| last.snapshot == past.id)
        {
            return Err(Some("it says the same snapshot again".into()));
        }
        let here = self.volumes.store().snapshots(info.id);
        let is_here = here.iter().any(|snapshot| snapshot.uuid == past.id.0);
        let label = label_of(&past).map_err(Some)?;
        let local = self.find_in_copies(entry, &past);
        let brought = match local {
            _ if is_here => Ok(()),
            // It was this appliance's before.
            Some(local) => {
                let moved = self.volumes.move_snapshot(local, info.id, &label).await;
                moved.map(drop)
            }
            None => self.become_past(entry, way, &past, &label).await,
        };
        match brought {
            Ok(()) => {}
            // It was deleted there, or what is here is compared with: the next look tells.
            Err(VolumeError::Origin(OriginError::NoExport)) => {
                entry.present.take();
                return Err(None);
            }
            Err(error) => return Err(Some(error.to_string())),
        }
        let noted = self.note_past(entry, way.epoch, |history| {
            history.last = Some(Moment {
                snapshot: past.id,
                created_at_nanos: past.created_at_nanos,
            });
        });
        noted.await.map_err(|error| Some(error.to_string()))?;
        Ok(Step::More)
    }

    /// Makes the history what a snapshot is, and keeps that.
    async fn become_past(
        self: &Rc<Self>,
        entry: &Entry,
        way: &Way,
        past: &Past,
        label: &SnapshotLabel,
    ) -> Result<(), VolumeError> {
        let (history, from) = self.present(entry, way, past.number).await?;
        let origin = PeerOrigin {
            shared: Rc::downgrade(self),
            from: way.from,
            of: Part::Past {
                id: entry.id,
                epoch: way.epoch,
                snapshot: (past.number, past.id),
                from,
            },
            copy: None,
            identity: past.id.0,
            version: 0,
            size_bytes: past.size_bytes,
        };
        let present = |number, toward| {
            let volume = history.0;
            *entry.present.borrow_mut() = Some(Present {
                volume,
                number,
                toward,
            });
        };
        present(from, Some(past.number));
        let end = past.size_bytes.next_multiple_of(BLOCK);
        let info = self.volume(history.0).ok_or(VolumeError::NoVolume)?;
        if info.size_bytes < end {
            self.volumes.store().grow_volume(history, end).await?;
        }
        let mut at = 0;
        while at < end {
            let len = EXTENTS_BYTES.min(past.size_bytes - at);
            for Extent { len, content } in origin.ask_extents(at, len).await? {
                let range = at..(at + len).next_multiple_of(BLOCK).min(end);
                at = range.end;
                match content {
                    Content::Same => {}
                    Content::Zero => self.discard_past(history, range).await?,
                    Content::Data => self.fetch_past(entry, &origin, history, range).await?,
                }
            }
        }
        // It had no more then.
        self.discard_past(history, end..info.size_bytes).await?;
        self.volumes.keep_for(history, way.volume, label).await?;
        present(Some(past.number), None);
        Ok(())
    }

    async fn discard_past(&self, history: VolumeId, range: Range<u64>) -> Result<(), VolumeError> {
        if range.is_empty() {
            return Ok(());
        }
        let len = range.end - range.start;
        let store = self.volumes.store();
        Ok(store.discard(history, range.start, len).await?)
    }

    async fn fetch_past(
        &self,
        entry: &Entry,
        origin: &PeerOrigin<D>,
        history: VolumeId,
        range: Range<u64>,
    ) -> Result<(), VolumeError> {
        let mut at = range.start;
        while at < range.end {
            let operations = self.volumes.operations();
            // Clients need what is left.
            if self.volumes.pool().fullness >= Fullness::Critical {
                return Err(StoreError::NoSpace.into());
            }
            let blocks = ((range.end - at) / BLOCK).min(Buf::PAGES_MAX as u64);
            let pages = usize::try_from(blocks).unwrap_or(1);
            let buf = origin.fetch(at, Buf::from_heap(pages)).await?;
            let len = blocks * BLOCK;
            let span = Span {
                offset: at,
                len: u32::try_from(len).unwrap_or(u32::MAX),
            };
            self.volumes.store().write(history, span, buf).await?;
            entry.past_bytes.set(entry.past_bytes.get() + len);
            at += len;
            if self.volumes.operations() != operations {
                self.exec.sleep(BREATH).await;
            }
            let nanos = len.saturating_mul(1_000_000_000);
            if let Some(nanos) = nanos.checked_div(entry.pace.get().rate) {
                self.exec.sleep(Duration::from_nanos(nanos)).await;
            }
            while entry.pace.get().is_paused {
                self.exec.sleep(REST).await;
            }
        }
        Ok(())
    }

    /// The history, and what all of it is that it is not on its way to become: the snapshot of that number, or what was given.
    async fn present(
        &self,
        entry: &Entry,
        way: &Way,
        wanted: u64,
    ) -> Result<(VolumeId, Option<u64>), VolumeError> {
        let history = VolumeId(way.history.volume);
        let known = entry.present.borrow().as_ref().and_then(|present| {
            let is_fit = present.toward.is_none_or(|toward| toward == wanted);
            (present.volume == history.0 && is_fit).then_some(present.number)
        });
        if let Some(number) = known {
            return Ok((history, number));
        }
        let store = self.volumes.store();
        let info = store.volume(history);
        if info.is_some_and(|info| info.snapshots == 0) && store.is_as_adopted(history) {
            return Ok((history, None));
        }
        // Something was interrupted, and where is not known.
        let new = self.begin_history(entry.id, history, way.history.last);
        let new = VolumeId(new.await?.volume);
        let noted = self.note_past(entry, way.epoch, |history| history.volume = new.0);
        if let Err(error) = noted.await {
            self.volumes.discard(new).await?;
            return Err(error);
        }
        self.volumes.discard(history).await?;
        Ok((new, None))
    }

    /// Changes what is kept of a history.
    async fn note_past(
        &self,
        entry: &Entry,
        epoch: Epoch,
        change: impl FnOnce(&mut History),
    ) -> Result<(), VolumeError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        let history = kept.came_mut(epoch).and_then(|came| came.history.as_mut());
        change(history.ok_or(VolumeError::NoVolume)?);
        Ok(self.keep(entry, kept).await?)
    }

    /// All have come, or nothing more is to.
    async fn finish_history(
        &self,
        entry: &Entry,
        epoch: Epoch,
        have_come: bool,
    ) -> Result<(), VolumeError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        let before = kept.came_for(epoch).cloned();
        if let Some(came) = kept.came_mut(epoch) {
            came.with_snapshots &= have_come;
            came.history = None;
        }
        self.keep(entry, kept).await?;
        entry.present.take();
        self.end_history(before.as_ref()).await
    }

    /// Whether what was given for an ownership went back to whom it had come from, who has its past.
    fn went_back(&self, entry: &Entry, epoch: Epoch) -> bool {
        let kept = entry.kept.borrow();
        let is_it = |came: Option<&Came>| came.is_some_and(|came| came.epoch == epoch);
        let mut copies = kept.copies.iter();
        copies.any(|copy| is_it(copy.came.as_ref()) && copy.went_back())
    }

    /// The same snapshot, in a copy that needs nothing from elsewhere.
    fn find_in_copies(&self, entry: &Entry, past: &Past) -> Option<volume::SnapshotId> {
        let kept = entry.kept.borrow();
        let mut copies = kept.copies.iter();
        copies.find_map(|copy| {
            let all = self.volumes.store().snapshots(VolumeId(copy.volume));
            let is_it = |info: &&volume::SnapshotInfo| {
                (info.uuid, info.size_bytes) == (past.id.0, past.size_bytes)
            };
            let found = all.iter().find(is_it)?;
            self.is_whole(copy.volume).then_some(found.id)
        })
    }
}

impl Kept {
    /// What came for an ownership.
    fn came_mut(&mut self, epoch: Epoch) -> Option<&mut Came> {
        let copies = { self.copies.iter_mut() }.filter_map(|copy| copy.came.as_mut());
        let mut all = self.came.iter_mut().chain(copies);
        all.find(|came| came.epoch == epoch)
    }
}

/// The volume whose history is called so: nothing that users would think of.
fn id_of_name(name: &str) -> Option<Id> {
    let (id, drawn) = name.strip_prefix(NAME)?.split_once('.')?;
    let is_drawn = drawn.len() == 8 && drawn.bytes().all(|byte| byte.is_ascii_hexdigit());
    id.parse().ok().filter(|_| is_drawn)
}

/// What another appliance says of a snapshot, if that can be.
fn label_of(past: &Past) -> Result<SnapshotLabel, String> {
    let is_sound = volume::check_name(&past.name).and(volume::check_size(past.size_bytes));
    is_sound.map_err(|error| format!("a snapshot cannot be: {error}"))?;
    Ok(SnapshotLabel {
        name: past.name.clone(),
        uuid: past.id.0,
        size_bytes: past.size_bytes,
        created_at_nanos: past.created_at_nanos,
    })
}
