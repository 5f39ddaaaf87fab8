//! Snapshots by the clock: one task makes what is due and lets go of what no rule wants any more.
//!
//! A schedule is one record of the store, `schedule/VOLUME`; it goes with its volume. What is right to make and to delete
//! is decided in [`policy`](crate::policy).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use exec::{Exec, Notify, Semaphore};
use volume::{SnapshotInfo, StoreError, VolumeError, VolumeId, VolumeInfo, Volumes};
use world::Disk;

use crate::policy::{Schedule, made_at, name_at, surplus};

/// What keys of records of schedules begin with.
const KEY: &str = "schedule/";
/// The longest time until the clock is looked at again, for somebody may set it; and until what failed is tried again.
const LOOK: Duration = Duration::from_secs(60);

/// The schedules of one appliance; clones are the same ones.
pub struct Schedules<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Schedules<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    exec: Exec,
    volumes: Volumes<D>,
    table: RefCell<BTreeMap<VolumeId, Rc<Entry>>>,
    changed: Notify,
    /// Whoever sets or forgets a schedule holds it, so that records and table say the same.
    turn: Semaphore,
}

struct Entry {
    schedule: Schedule,
    /// When its newest snapshot was made, in seconds since 1970, once that was looked up.
    last: Cell<Option<u64>>,
    is_looked_up: Cell<bool>,
    problem: RefCell<Option<String>>,
    /// After a failure, in seconds since 1970.
    not_before: Cell<u64>,
}

/// A volume's schedule and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleInfo {
    /// The volume's name.
    pub volume: String,
    /// When, and which stay.
    pub schedule: Schedule,
    /// When the next one is due, in nanoseconds since 1970, if there is a clock.
    pub next_at_nanos: Option<u64>,
    /// The newest snapshot that it made.
    pub newest: Option<String>,
    /// How many of its snapshots there are.
    pub snapshots: usize,
    /// Why it does not do what it should.
    pub problem: Option<String>,
}

impl<D: Disk + 'static> Schedules<D> {
    /// Reads what was kept and begins.
    pub(crate) async fn open(exec: Exec, volumes: Volumes<D>) -> Self {
        let shared = Rc::new(Shared {
            exec,
            volumes,
            table: RefCell::default(),
            changed: Notify::default(),
            turn: Semaphore::new(1),
        });
        shared.load().await;
        let exec = shared.exec.clone();
        exec.spawn(shared.clone().run());
        Self { shared }
    }

    /// All schedules, in the order of their volumes' ages.
    #[must_use]
    pub fn list(&self) -> Vec<ScheduleInfo> {
        let volumes = self.shared.volumes.list().into_iter();
        volumes
            .filter_map(|volume| self.describe(&volume))
            .collect()
    }

    /// The schedule of a volume, if it has one.
    ///
    /// # Errors
    /// No such volume.
    pub fn get(&self, volume: &str) -> Result<Option<ScheduleInfo>, VolumeError> {
        let volume = self.shared.volumes.get(volume)?;
        Ok(self.describe(&volume))
    }

    /// Gives a volume a schedule in place of the one that it may have; durable when this returns. The first snapshot is made
    /// at once, unless there is one of the present period; what no rule wants goes when the next one was made.
    ///
    /// # Errors
    /// No such volume, and what the store says.
    pub async fn set(&self, volume: &str, schedule: Schedule) -> Result<ScheduleInfo, VolumeError> {
        let shared = &self.shared;
        let _turn = shared.turn.acquire().await;
        let info = shared.volumes.get(volume)?;
        let bytes = serde_json::to_vec(&schedule).expect("our own types become JSON");
        shared.set_record(info.id, Some(&bytes)).await?;
        let entry = Rc::new(Entry::new(schedule));
        shared.table.borrow_mut().insert(info.id, entry);
        shared.changed.notify();
        self.describe(&info).ok_or(VolumeError::NoVolume)
    }

    /// Takes a volume's schedule away; durable when this returns. Its snapshots stay. Returns whether it had one.
    ///
    /// # Errors
    /// No such volume, and what the store says.
    pub async fn remove(&self, volume: &str) -> Result<bool, VolumeError> {
        let info = self.shared.volumes.get(volume)?;
        Ok(self.shared.forget(info.id).await?)
    }

    fn describe(&self, volume: &VolumeInfo) -> Option<ScheduleInfo> {
        let entry = self.shared.table.borrow().get(&volume.id).cloned()?;
        let made = self.shared.made(volume.id);
        let now = self.shared.now_seconds();
        let next = now.map(|now| match entry.is_due(now) {
            true => now.max(entry.not_before.get()),
            false => entry.schedule.next(now),
        });
        let problem = match now {
            None => Some(NO_CLOCK.to_string()),
            Some(_) => entry.problem.borrow().clone(),
        };
        Some(ScheduleInfo {
            volume: volume.name.clone(),
            schedule: entry.schedule,
            next_at_nanos: next.map(|next| next * 1_000_000_000),
            newest: made.last().map(|(_, info)| info.name.clone()),
            snapshots: made.len(),
            problem,
        })
    }
}

const NO_CLOCK: &str = "the appliance has no clock that tells the date, so nothing is ever due";

impl Entry {
    fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            last: Cell::new(None),
            is_looked_up: Cell::new(false),
            problem: RefCell::default(),
            not_before: Cell::new(0),
        }
    }

    fn is_due(&self, now: u64) -> bool {
        self.schedule.is_due(self.last.get(), now)
    }
}

impl<D: Disk + 'static> Shared<D> {
    async fn load(&self) {
        let store = self.volumes.store();
        for key in store.record_keys() {
            let Some(id) = key.strip_prefix(KEY).and_then(|id| id.parse().ok()) else {
                continue;
            };
            let schedule = match store.record(&key).await {
                Ok(Some(bytes)) => serde_json::from_slice(&bytes).ok(),
                _ => None,
            };
            match schedule {
                Some(schedule) => {
                    let entry = Rc::new(Entry::new(schedule));
                    self.table.borrow_mut().insert(VolumeId(id), entry);
                }
                None => log::warn!("the snapshot schedule {key} cannot be read; it is left alone"),
            }
        }
    }

    /// Seconds since 1970, if there is a clock.
    fn now_seconds(&self) -> Option<u64> {
        let nanos = self.exec.clock().wall_nanos()?;
        Some(nanos / 1_000_000_000)
    }

    async fn set_record(&self, id: VolumeId, value: Option<&[u8]>) -> Result<(), StoreError> {
        let key = format!("{KEY}{}", id.0);
        self.volumes.store().set_record(&key, value).await
    }

    async fn forget(&self, id: VolumeId) -> Result<bool, StoreError> {
        let _turn = self.turn.acquire().await;
        if !self.table.borrow().contains_key(&id) {
            return Ok(false);
        }
        self.set_record(id, None).await?;
        self.table.borrow_mut().remove(&id);
        Ok(true)
    }

    /// The snapshots that the schedule of a volume made, with the times, oldest first.
    fn made(&self, id: VolumeId) -> Vec<(u64, SnapshotInfo)> {
        let snapshots = self.volumes.store().snapshots(id).into_iter();
        let made = |info: SnapshotInfo| Some((made_at(&info.name, info.created_at_nanos)?, info));
        snapshots.filter_map(made).collect()
    }

    /// Does what is due, for ever.
    async fn run(self: Rc<Self>) {
        loop {
            let changed = self.changed.wait();
            match self.round().await {
                Some(wait) => {
                    let _ = self.exec.timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Does what is due now; returns how long nothing will be, or `None` when there are no schedules.
    async fn round(&self) -> Option<Duration> {
        let all: Vec<(VolumeId, Rc<Entry>)> = {
            let table = self.table.borrow();
            table
                .iter()
                .map(|(id, entry)| (*id, entry.clone()))
                .collect()
        };
        if all.is_empty() {
            return None;
        }
        let mut wait = LOOK;
        for (id, entry) in all {
            let Some(volume) = self.volumes.store().volume(id) else {
                // It goes with its volume, and not before: until that is gone for good, a power cut brings it back. Should
                // this fail, the next start tries again.
                if self.volumes.is_gone(id) {
                    let _ = self.forget(id).await;
                }
                continue;
            };
            if !entry.is_looked_up.replace(true) {
                entry.last.set(self.made(id).last().map(|(at, _)| *at));
            }
            let Some(now) = self.now_seconds() else {
                continue;
            };
            if entry.is_due(now) && entry.not_before.get() <= now {
                let result = self.serve(&volume, &entry, now).await;
                entry.note(&volume.name, now, result);
            }
            let next = entry.schedule.next(now).max(entry.not_before.get());
            wait = wait.min(Duration::from_secs(next.saturating_sub(now).max(1)));
        }
        Some(wait)
    }

    /// Makes a snapshot and deletes those that are too many now.
    async fn serve(&self, volume: &VolumeInfo, entry: &Entry, now: u64) -> Result<(), VolumeError> {
        let name = name_at(now);
        let created = self.volumes.create_snapshot(&volume.name, &name).await;
        if created.is_ok() {
            entry.last.set(Some(now));
        }
        // Also when there was no room for another one: that may be the reason.
        let made = self.made(volume.id);
        let times: Vec<u64> = made.iter().map(|(at, _)| *at).collect();
        for index in surplus(&entry.schedule.keep, &times) {
            let name = &made[index].1.name;
            match self
                .volumes
                .delete_snapshot(&volume.name, name, false)
                .await
            {
                Ok(()) => log::debug!("schedule: {}@{name} deleted", volume.name),
                // A client reads it; it goes another time. Or somebody else was quicker.
                Err(VolumeError::Attached(_) | VolumeError::NoSnapshot | VolumeError::Deleted) => {}
                Err(error) => return Err(error),
            }
        }
        created.map(drop)
    }
}

impl Entry {
    fn note(&self, volume: &str, now: u64, result: Result<(), VolumeError>) {
        let problem = result.err().map(|error| error.to_string());
        let mut told = self.problem.borrow_mut();
        if let Some(problem) = &problem {
            let patience = self.schedule.every.min(LOOK.as_secs());
            self.not_before.set(now + patience);
            if *told != Some(problem.clone()) {
                log::warn!("the snapshot schedule of {volume}: {problem}");
            }
        }
        *told = problem;
    }
}
