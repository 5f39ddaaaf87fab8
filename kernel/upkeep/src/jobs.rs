//! Long work: what there is, how far it is, and what users want of it.
//!
//! ```text
//!            begins            pause
//! Queued ──────────► Running ◄───────► Paused
//!                       │ ╲      resume   │
//!                       ▼  ╲ cancel       │ cancel
//!                Done, Failed   ► Cancelled ◄
//! ```
//!
//! Each job is one record of the store, `job/NUMBER`. It is written when users change something, at the end, and every
//! few seconds, so after a restart a job goes on from about where it was. On a read-only pool jobs live until the
//! restart.

mod job;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use exec::{Exec, Semaphore};
use volume::{BaseId, StoreError, Volumes};
use world::{Disk, Instant};

pub(crate) use job::Job;
pub use job::{JobInfo, JobState, Work};

use crate::hydration::{self, Hydration};
use crate::pace;
use crate::scrub::{self, Scrub};

/// The most finished jobs that are remembered.
const FINISHED_MAX: usize = 16;
/// The most hydrations at work.
const HYDRATING_MAX: usize = 4;
/// What keys of records of jobs begin with.
const KEY: &str = "job/";

/// The jobs of one appliance; clones are the same ones.
pub struct Jobs<D> {
    pub(crate) shared: Rc<Shared<D>>,
}

impl<D> Clone for Jobs<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// What jobs run on.
pub(crate) struct Shared<D> {
    pub exec: Exec,
    pub volumes: Volumes<D>,
    table: RefCell<Table>,
    /// Hydrations at work; the others are queued.
    pub hydrating: Semaphore,
}

type Table = BTreeMap<u64, Rc<Job>>;

/// Why a wish was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobsError {
    /// There is no such job (any more).
    NoJob,
    /// It is over; this is how.
    Over(JobState),
    /// There can be only one such job at a time, and this one is not over.
    Already(u64),
    /// It is a migration whose volume is handed over: only the volume can be taken back.
    HandedOver,
    /// The store refused or failed.
    Store(StoreError),
}

impl fmt::Display for JobsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoJob => out.write_str("no such job"),
            Self::Over(state) => write!(out, "the job is {} already", state.name()),
            Self::Already(id) => write!(out, "job {id} does that already"),
            Self::HandedOver => {
                out.write_str("the volume is handed over; take it back to have it here again")
            }
            Self::Store(error) => error.fmt(out),
        }
    }
}

impl core::error::Error for JobsError {}

impl From<StoreError> for JobsError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<D: Disk + 'static> Jobs<D> {
    /// Reads what was kept and goes on with what was not over.
    pub(crate) async fn open(exec: Exec, volumes: Volumes<D>) -> Self {
        let shared = Shared {
            exec,
            volumes,
            table: RefCell::default(),
            hydrating: Semaphore::new(HYDRATING_MAX),
        };
        let jobs = Self {
            shared: Rc::new(shared),
        };
        jobs.load().await;
        for job in jobs.all().into_iter().filter(|job| !job.state().is_over()) {
            log::info!("job {}, to {}, goes on", job.id(), job.work().name());
            jobs.run(job);
        }
        jobs.hydrate_all().await;
        jobs
    }

    async fn load(&self) {
        let store = self.shared.volumes.store();
        for key in store.record_keys() {
            let Some(id) = key.strip_prefix(KEY).and_then(|id| id.parse().ok()) else {
                continue;
            };
            let job = match store.record(&key).await {
                Ok(Some(bytes)) => Job::decode(id, &bytes),
                _ => None,
            };
            match job {
                Some(job) => drop(self.shared.table.borrow_mut().insert(id, Rc::new(job))),
                None => log::warn!("what was kept of job {id} cannot be read; it is left alone"),
            }
        }
    }

    /// All jobs that are remembered, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<JobInfo> {
        self.all().iter().map(|job| self.describe(job)).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// [`JobsError::NoJob`].
    pub fn get(&self, id: u64) -> Result<JobInfo, JobsError> {
        Ok(self.describe(&*self.find(id)?))
    }

    /// Starts to verify every block in use, at most `rate` bytes in a second (0: as fast as clients leave room for).
    ///
    /// # Errors
    /// [`JobsError::Already`], and what the store says.
    pub async fn start_scrub(&self, rate: u64) -> Result<JobInfo, JobsError> {
        let job = {
            let mut table = self.shared.table.borrow_mut();
            let is_scrub = |job: &&Rc<Job>| matches!(*job.work(), Work::Scrub(_));
            let mut scrubs = table.values().filter(is_scrub);
            if let Some(other) = scrubs.find(|job| !job.state().is_over()) {
                return Err(JobsError::Already(other.id()));
            }
            self.add(&mut table, Work::Scrub(Scrub::default()), rate)
        };
        self.start(&job).await?;
        Ok(self.describe(&job))
    }

    /// Starts to bring in what is not here of an adopted volume, if no job does that; at most `rate` bytes in a second (0: no limit).
    ///
    /// # Errors
    /// [`JobsError::NoJob`] when all of it is here, and what the store says.
    pub async fn start_hydration(&self, base: BaseId, rate: u64) -> Result<JobInfo, JobsError> {
        if let Some(job) = self.hydration(base).filter(|job| !job.state().is_over()) {
            return Ok(self.describe(&job));
        }
        let info = self.shared.volumes.adoption(base);
        let base = info.ok_or(JobsError::NoJob)?.base;
        let work = Work::Hydrate(Hydration::new(&base));
        let job = self.begin_job(work, rate).await?;
        Ok(self.describe(&job))
    }

    /// Adds a job, keeps it and runs it.
    pub(crate) async fn begin_job(&self, work: Work, rate: u64) -> Result<Rc<Job>, JobsError> {
        let job = self.add(&mut self.shared.table.borrow_mut(), work, rate);
        self.start(&job).await?;
        Ok(job)
    }

    /// The newest job that brings in what is not here of an adopted volume.
    fn hydration(&self, base: BaseId) -> Option<Rc<Job>> {
        let table = self.shared.table.borrow();
        let is_it = |job: &&Rc<Job>| match &*job.work() {
            Work::Hydrate(hydration) => hydration.base == base.0,
            Work::Scrub(_) | Work::Migrate(_) => false,
        };
        table.values().rev().find(is_it).cloned()
    }

    /// As [`hydration`](Self::hydration), for users.
    #[must_use]
    pub fn hydration_of(&self, base: BaseId) -> Option<JobInfo> {
        self.hydration(base).map(|job| self.describe(&job))
    }

    /// Every adopted volume that is not wholly here has a job, but those whose job somebody cancelled.
    async fn hydrate_all(&self) {
        let adoptions = self.shared.volumes.adoptions().into_iter();
        for adoption in adoptions.filter(|adoption| !adoption.is_held) {
            let job = self.hydration(adoption.base.id);
            if job.is_some_and(|job| job.state() == JobState::Cancelled) {
                continue;
            }
            if let Err(error) = self.start_hydration(adoption.base.id, 0).await {
                log::warn!("{} is not brought in by itself: {error}", adoption.address);
            }
        }
    }

    fn add(&self, table: &mut Table, work: Work, rate: u64) -> Rc<Job> {
        let id = table.keys().next_back().map_or(1, |last| last + 1);
        let job = Rc::new(Job::new(id, work, rate, self.shared.wall_nanos()));
        table.insert(id, job.clone());
        job
    }

    /// Keeps a new job and runs it, or forgets it.
    async fn start(&self, job: &Rc<Job>) -> Result<(), JobsError> {
        if let Err(error) = self.shared.keep_if_it_can(job).await {
            self.shared.table.borrow_mut().remove(&job.id());
            return Err(error.into());
        }
        self.shared.forget_oldest().await;
        self.run(job.clone());
        Ok(())
    }

    /// Ends a job that is not over; what it has done stays done.
    ///
    /// # Errors
    /// No such job, one that is over, [`JobsError::HandedOver`], and what the store says.
    pub async fn cancel(&self, id: u64) -> Result<JobInfo, JobsError> {
        let job = self.unfinished(id)?;
        let is_given = match &*job.work() {
            Work::Migrate(migration) => migration.phase.is_given(),
            Work::Scrub(_) | Work::Hydrate(_) => false,
        };
        if is_given {
            return Err(JobsError::HandedOver);
        }
        job.end(JobState::Cancelled, None, self.shared.wall_nanos());
        self.shared.keep_if_it_can(&job).await?;
        Ok(self.describe(&job))
    }

    /// Pauses or resumes a job, and limits its bytes in a second (0: no limit), each if wanted.
    ///
    /// # Errors
    /// No such job, one that is over, and what the store says.
    pub async fn change(
        &self,
        id: u64,
        paused: Option<bool>,
        rate: Option<u64>,
    ) -> Result<JobInfo, JobsError> {
        let job = self.unfinished(id)?;
        job.change(paused, rate);
        self.shared.keep_if_it_can(&job).await?;
        Ok(self.describe(&job))
    }

    fn unfinished(&self, id: u64) -> Result<Rc<Job>, JobsError> {
        let job = self.find(id)?;
        match job.state() {
            state if state.is_over() => Err(JobsError::Over(state)),
            _ => Ok(job),
        }
    }

    fn find(&self, id: u64) -> Result<Rc<Job>, JobsError> {
        let table = self.shared.table.borrow();
        table.get(&id).cloned().ok_or(JobsError::NoJob)
    }

    pub(crate) fn all(&self) -> Vec<Rc<Job>> {
        self.shared.table.borrow().values().cloned().collect()
    }

    fn run(&self, job: Rc<Job>) {
        let Shared { exec, .. } = &*self.shared;
        let (shared, same) = (self.shared.clone(), job.clone());
        match &*job.work() {
            Work::Scrub(_) => exec.spawn(scrub::run(shared, same)),
            Work::Hydrate(_) => exec.spawn(hydration::run(shared, same)),
            // Who moves the volume does that.
            Work::Migrate(_) => {}
        }
    }

    pub(crate) fn describe(&self, job: &Job) -> JobInfo {
        let pool = self.shared.volumes.pool();
        job.describe(pool.used_bytes.saturating_sub(pool.pending_bytes))
    }
}

impl<D: Disk + 'static> Shared<D> {
    /// Nanoseconds since 1970, 0 without a clock.
    pub fn wall_nanos(&self) -> u64 {
        self.exec.clock().wall_nanos().unwrap_or(0)
    }

    /// Makes a job as it is now durable.
    pub async fn keep(&self, job: &Job) -> Result<(), StoreError> {
        // One at a time, so that the last record is the newest.
        let _turn = job.keeping().await;
        let bytes = job.encode();
        let store = self.volumes.store();
        store.set_record(&key(job.id()), Some(&bytes)).await
    }

    /// Keeps how far a job is, if that can be: on a pool that takes no writes there is work, too.
    pub async fn keep_position(&self, job: &Job) {
        if let Err(error) = self.keep(job).await {
            log::debug!("job {}: not kept: {error}", job.id());
        }
    }

    /// Leaves clients what is theirs, after a step of a job that was begun at `begun` and moved `bytes`.
    pub async fn rest(&self, job: &Job, begun: Instant, is_busy: bool, bytes: u64) {
        let exec = &self.exec;
        let rest = pace::rest(exec.now() - begun, is_busy, bytes, job.rate_max());
        if rest.is_zero() {
            exec.yield_now().await;
        } else {
            // Whoever wants something is heard at once.
            let _ = exec.timeout(rest, job.wanted.wait()).await;
        }
    }

    /// Makes a job as it is now durable, unless the pool takes no writes: a scrub is wanted most then.
    async fn keep_if_it_can(&self, job: &Job) -> Result<(), StoreError> {
        match self.keep(job).await {
            Err(StoreError::ReadOnly) => {
                let id = job.id();
                log::warn!("job {id} is as it is until the restart only: the pool is read-only");
                Ok(())
            }
            result => result,
        }
    }

    /// Whether a finished job says something of what is still to come: somebody cancelled it.
    fn is_remembered(&self, job: &Job) -> bool {
        match &*job.work() {
            Work::Hydrate(hydration) => self.volumes.adoption(BaseId(hydration.base)).is_some(),
            Work::Scrub(_) | Work::Migrate(_) => false,
        }
    }

    /// Forgets finished jobs beyond [`FINISHED_MAX`].
    async fn forget_oldest(&self) {
        let finished: Vec<u64> = {
            let table = self.table.borrow();
            let over = table.values().filter(|job| job.state().is_over());
            let over = over.filter(|job| !self.is_remembered(job));
            over.map(|job| job.id()).collect()
        };
        let excess = finished.len().saturating_sub(FINISHED_MAX);
        for id in finished.into_iter().take(excess) {
            self.table.borrow_mut().remove(&id);
            if let Err(error) = self.volumes.store().set_record(&key(id), None).await {
                log::warn!("job {id} is not forgotten: {error}");
            }
        }
    }
}

fn key(id: u64) -> String {
    format!("{KEY}{id}")
}
