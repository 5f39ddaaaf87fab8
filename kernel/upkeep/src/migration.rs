//! The job that moves a volume to another appliance, as far as it is a job: who moves it keeps to what users want of it, and says how far it is.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use world::{Disk, Instant};

use crate::jobs::{Job, JobInfo, JobState, Jobs, JobsError, Shared, Work};

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The other appliance is asked.
    Offering,
    /// It is ready; somebody has to say that the volume is to be handed over.
    Prepared,
    /// The volume is being handed over.
    Giving,
    /// The other appliance has the volume, and brings in what it has not.
    Following,
}

impl Phase {
    /// Whether the volume is the other appliance's, or about to be.
    #[must_use]
    pub fn is_given(self) -> bool {
        matches!(self, Self::Giving | Self::Following)
    }

    /// One lowercase word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offering => "offering",
            Self::Prepared => "prepared",
            Self::Giving => "giving",
            Self::Following => "following",
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Identity of the volume, the same on all appliances.
    pub id: [u8; 16],
    /// What it was called.
    pub volume: String,
    /// Name of the other appliance.
    pub to: String,
    /// Where it is.
    pub phase: Phase,
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Of so many bytes from the beginning on, all is there.
    pub known_bytes: u64,
    /// Bytes of data that went because somebody wanted them.
    pub demanded_bytes: u64,
    /// Bytes of data that went in the background.
    pub background_bytes: u64,
    /// Bytes that were said about the data.
    pub metadata_bytes: u64,
}

/// A migration's job, for whoever moves the volume.
pub struct Ticket<D> {
    shared: Rc<Shared<D>>,
    job: Rc<Job>,
}

impl<D> Clone for Ticket<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            job: self.job.clone(),
        }
    }
}

impl<D: Disk + 'static> Ticket<D> {
    /// How it is now.
    #[must_use]
    pub fn migration(&self) -> Option<Migration> {
        match &*self.job.work() {
            Work::Migrate(migration) => Some(migration.clone()),
            Work::Scrub(_) | Work::Hydrate(_) => None,
        }
    }

    /// The job's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.job.id()
    }

    /// What users want of it.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.job.state()
    }

    /// The most bytes in a second; 0: no limit.
    #[must_use]
    pub fn rate_max(&self) -> u64 {
        self.job.rate_max()
    }

    /// Waits until users want something of it.
    pub async fn wanted(&self) {
        self.job.wanted.wait().await;
    }

    /// Notes how far it is.
    pub fn advance(&self, now: Instant, change: impl FnOnce(&mut Migration)) {
        self.job.begin();
        self.job.advance(now, |work| {
            if let Work::Migrate(migration) = work {
                change(migration);
            }
        });
    }

    /// Notes what keeps it from going on, or that nothing does.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.job.set_trouble(trouble);
    }

    /// Keeps how far it is.
    pub async fn keep(&self) {
        self.shared.keep_position(&self.job).await;
    }

    /// It is over.
    pub async fn end(&self, state: JobState, why: Option<String>) {
        self.job.end(state, why, self.shared.wall_nanos());
        self.keep().await;
    }
}

impl<D: Disk + 'static> Jobs<D> {
    /// Makes a job for a migration, at most `rate` bytes in a second (0: no limit). The caller moves the volume.
    ///
    /// # Errors
    /// What the store says.
    pub async fn start_migration(
        &self,
        migration: Migration,
        rate: u64,
    ) -> Result<Ticket<D>, JobsError> {
        let job = self.begin_job(Work::Migrate(migration), rate).await?;
        Ok(self.ticket(job))
    }

    /// Migrations that are not over.
    #[must_use]
    pub fn migrations(&self) -> Vec<Ticket<D>> {
        let unfinished = self.all().into_iter().filter(|job| !job.state().is_over());
        let all = unfinished.filter(|job| matches!(*job.work(), Work::Migrate(_)));
        all.map(|job| self.ticket(job)).collect()
    }

    /// The job, for users.
    #[must_use]
    pub fn describe_ticket(&self, ticket: &Ticket<D>) -> JobInfo {
        self.describe(&ticket.job)
    }

    fn ticket(&self, job: Rc<Job>) -> Ticket<D> {
        Ticket {
            shared: self.shared.clone(),
            job,
        }
    }
}
