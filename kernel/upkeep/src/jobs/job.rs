//! One job.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Ref, RefCell};
use core::time::Duration;

use exec::{Notify, Permit, Semaphore};
use serde::{Deserialize, Serialize};
use world::Instant;

use crate::hydration::Hydration;
use crate::migration::Migration;
use crate::scrub::Scrub;

/// How long the rate is taken over.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// The largest record that the store takes.
const RECORD_MAX: usize = 3072;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Not begun.
    Queued,
    /// At work.
    Running,
    /// Waiting to be resumed.
    Paused,
    /// Over, and everything was done.
    Done,
    /// Over, because something failed.
    Failed,
    /// Over, because somebody wanted it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more happens.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// One lowercase word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a job does, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Verifies every block in use.
    Scrub(Scrub),
    /// Brings in what is not here yet of an adopted volume.
    Hydrate(Hydration),
    /// Moves a volume to another appliance.
    Migrate(Migration),
}

impl Work {
    /// One word for what it does.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scrub(_) => "scrub",
            Self::Hydrate(_) => "hydrate",
            Self::Migrate(_) => "migrate",
        }
    }

    /// Bytes done.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        match self {
            Self::Scrub(scrub) => scrub.checked_bytes(),
            Self::Hydrate(hydration) => hydration.known_bytes,
            Self::Migrate(migration) => migration.known_bytes,
        }
    }
}

/// A job as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct JobInfo {
    /// Its number, never used again.
    pub id: u64,
    /// Where it is.
    pub state: JobState,
    /// From 0 to 1; 1 only when done.
    pub progress: f64,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in a second, while it runs.
    pub rate: Option<u64>,
    /// The most bytes in a second, if it is limited.
    pub rate_max: Option<u64>,
    /// Milliseconds until it is done, at the present rate.
    pub left_ms: Option<u64>,
    /// Nanoseconds since 1970 when it was asked for, 0 without a clock.
    pub created_at_nanos: u64,
    /// The same of its end; 0 while it is not over.
    pub ended_at_nanos: u64,
    /// Why it failed, or what keeps it from going on.
    pub error: Option<String>,
    /// What it does, and how far it is.
    pub work: Work,
}

/// What survives a restart.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    state: JobState,
    rate_max: u64,
    created_at: u64,
    ended_at: u64,
    error: Option<String>,
    #[serde(flatten)]
    work: Work,
}

/// A job.
pub(crate) struct Job {
    id: u64,
    kept: RefCell<Kept>,
    speed: RefCell<Speed>,
    keeping: Semaphore,
    /// Somebody wants something of it.
    pub wanted: Notify,
}

/// How fast it is.
#[derive(Default)]
struct Speed {
    since: Option<(Instant, u64)>,
    rate: Option<u64>,
}

impl Job {
    pub fn new(id: u64, work: Work, rate_max: u64, created_at: u64) -> Self {
        let kept = Kept {
            state: JobState::Queued,
            rate_max,
            created_at,
            ended_at: 0,
            error: None,
            work,
        };
        Self::with(id, kept)
    }

    fn with(id: u64, kept: Kept) -> Self {
        Self {
            id,
            kept: RefCell::new(kept),
            speed: RefCell::default(),
            keeping: Semaphore::new(1),
            wanted: Notify::default(),
        }
    }

    /// Reads a record.
    pub fn decode(id: u64, bytes: &[u8]) -> Option<Self> {
        Some(Self::with(id, serde_json::from_slice(bytes).ok()?))
    }

    /// The record of it as it is now.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(&*self.kept.borrow()).expect("our own types become JSON");
        assert!(bytes.len() <= RECORD_MAX, "what a job keeps is bounded");
        bytes
    }

    pub async fn keeping(&self) -> Permit {
        self.keeping.acquire().await
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn state(&self) -> JobState {
        self.kept.borrow().state
    }

    pub fn rate_max(&self) -> u64 {
        self.kept.borrow().rate_max
    }

    pub fn work(&self) -> Ref<'_, Work> {
        Ref::map(self.kept.borrow(), |kept| &kept.work)
    }

    /// Waits while it is paused; whether there is more to do then.
    pub async fn may_go_on(&self) -> bool {
        while self.state() == JobState::Paused {
            self.wanted.wait().await;
        }
        !self.state().is_over()
    }

    /// It is at work.
    pub fn begin(&self) {
        let mut kept = self.kept.borrow_mut();
        if kept.state == JobState::Queued {
            kept.state = JobState::Running;
        }
    }

    pub fn change(&self, paused: Option<bool>, rate: Option<u64>) {
        let mut kept = self.kept.borrow_mut();
        match paused {
            Some(true) => kept.state = JobState::Paused,
            Some(false) if kept.state == JobState::Paused => kept.state = JobState::Running,
            _ => {}
        }
        kept.rate_max = rate.unwrap_or(kept.rate_max);
        drop(kept);
        self.forget_speed();
        self.wanted.notify();
    }

    /// Ends it, unless it is over.
    pub fn end(&self, state: JobState, error: Option<String>, now_nanos: u64) {
        let mut kept = self.kept.borrow_mut();
        if kept.state.is_over() {
            return;
        }
        kept.state = state;
        kept.error = error;
        kept.ended_at = now_nanos;
        drop(kept);
        self.forget_speed();
        self.wanted.notify();
    }

    /// Notes work done.
    pub fn advance(&self, now: Instant, change: impl FnOnce(&mut Work)) {
        let mut kept = self.kept.borrow_mut();
        change(&mut kept.work);
        let done = kept.work.done_bytes();
        self.speed.borrow_mut().note(now, done);
    }

    /// Notes what keeps it from going on, or that nothing does.
    pub fn set_trouble(&self, trouble: Option<String>) {
        let mut kept = self.kept.borrow_mut();
        if !kept.state.is_over() {
            kept.error = trouble;
        }
    }

    fn forget_speed(&self) {
        *self.speed.borrow_mut() = Speed::default();
    }

    /// How it is, when about `used` bytes of the pool are in use.
    pub fn describe(&self, used: u64) -> JobInfo {
        let kept = self.kept.borrow();
        let done_bytes = kept.work.done_bytes();
        let total = match &kept.work {
            Work::Scrub(_) => used,
            Work::Hydrate(hydration) => hydration.size_bytes,
            Work::Migrate(migration) => migration.size_bytes,
        };
        let rate = match kept.state {
            JobState::Running => self.speed.borrow().rate,
            _ => None,
        };
        let left = total.saturating_sub(done_bytes);
        JobInfo {
            id: self.id,
            state: kept.state,
            progress: progress(kept.state, done_bytes, total),
            done_bytes,
            rate,
            rate_max: (kept.rate_max > 0).then_some(kept.rate_max),
            left_ms: rate.and_then(|rate| left.saturating_mul(1000).checked_div(rate)),
            created_at_nanos: kept.created_at,
            ended_at_nanos: kept.ended_at,
            error: kept.error.clone(),
            work: kept.work.clone(),
        }
    }
}

fn progress(state: JobState, done: u64, total: u64) -> f64 {
    match state {
        JobState::Done => 1.0,
        _ if total == 0 => 0.0,
        // What is written meanwhile may have been seen and be gone again, so it can be more than there is.
        _ => (done as f64 / total as f64).min(0.999),
    }
}

impl Speed {
    fn note(&mut self, now: Instant, done: u64) {
        let Some((since, before)) = self.since else {
            self.since = Some((now, done));
            return;
        };
        let took = now - since;
        if took >= RATE_WINDOW {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            let rate = u128::from(done.saturating_sub(before)) * 1_000_000_000 / u128::from(nanos);
            self.rate = u64::try_from(rate).ok();
            self.since = Some((now, done));
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn scrub(checked_blocks: u64) -> Work {
        let mut scrub = Scrub::default();
        scrub.checked_blocks = checked_blocks;
        Work::Scrub(scrub)
    }

    #[test]
    fn a_job_survives_as_a_record() {
        let job = Job::new(7, scrub(0), 1 << 20, 99);
        job.begin();
        job.advance(Instant::ZERO, |work| *work = scrub(10));
        let again = Job::decode(7, &job.encode()).unwrap();
        assert_eq!(again.describe(1 << 20), job.describe(1 << 20));
        let hydration = Hydration {
            base: 5,
            size_bytes: 100,
            known_bytes: 50,
            fetched_bytes: 40,
        };
        let job = Job::new(8, Work::Hydrate(hydration), 0, 1);
        job.set_trouble(Some("no answer".to_string()));
        let info = Job::decode(8, &job.encode()).unwrap().describe(7);
        assert_eq!(info, job.describe(9));
        assert_eq!((info.progress, info.work.name()), (0.5, "hydrate"));
        // As versions before wrote it.
        let old = br#"{"state":"paused","rate_max":0,"created_at":1,"ended_at":0,"error":null,
            "scrub":{"position":[0,0],"checked_blocks":3,"repaired":0,"damaged_blocks":0,
            "damaged_pool_blocks":0,"places":[],"places_more":0}}"#;
        assert_eq!(Job::decode(9, old).unwrap().describe(0).work, scrub(3));
        assert!(Job::decode(7, b"{}").is_none());
        assert!(Job::decode(7, b"\xff").is_none());
    }

    #[test]
    fn what_is_over_stays_as_it_ended() {
        let job = Job::new(1, scrub(0), 0, 5);
        job.end(JobState::Cancelled, None, 10);
        job.end(JobState::Done, None, 11);
        let info = job.describe(100);
        assert_eq!((info.state, info.ended_at_nanos), (JobState::Cancelled, 10));
        assert!(info.progress < 1.0);
    }

    #[test]
    fn rate_and_time_left_come_from_the_last_seconds() {
        let job = Job::new(1, scrub(0), 0, 0);
        job.begin();
        for second in 0..=4 {
            let now = Instant::from_nanos(second * S);
            job.advance(now, |work| *work = scrub(256 * second));
        }
        let info = job.describe(10 << 20);
        assert_eq!(info.rate, Some(1 << 20));
        assert_eq!(info.left_ms, Some(6000));
        assert_eq!(info.progress, 0.4);
        // More than there is now is not done yet.
        assert_eq!(job.describe(1 << 20).progress, 0.999);
        job.change(Some(true), None);
        assert_eq!(job.describe(10 << 20).rate, None);
        job.end(JobState::Done, None, 0);
        assert_eq!(job.describe(10 << 20).progress, 1.0);
    }

    #[test]
    fn pause_and_resume() {
        let job = Job::new(1, scrub(0), 0, 0);
        job.change(Some(false), Some(5));
        assert_eq!((job.state(), job.rate_max()), (JobState::Queued, 5));
        job.change(Some(true), None);
        job.begin();
        assert_eq!(job.state(), JobState::Paused);
        job.change(Some(false), None);
        assert_eq!((job.state(), job.rate_max()), (JobState::Running, 5));
    }
}
