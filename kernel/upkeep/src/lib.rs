//! What the appliance does by itself, and what users tell it about that.
//!
//! | file | what |
//! | --- | --- |
//! | [`jobs`] | long work: listed, paused, cancelled, kept in the store's records, so that it survives a restart |
//! | [`scrub`], [`pace`] | the job that verifies every block in use, and how much of the drives it takes |
//! | [`hydration`] | the job that brings in what is not here yet of an adopted volume |
//! | `sweep` | gives back what arrived of adopted volumes and nobody needs any more |
//! | [`migration`] | the job that moves a volume to another appliance; what it does is elsewhere |
//! | [`schedules`], [`policy`] | snapshots by the clock, and which of them stay |
//! | [`alert`] | a word in the log when space runs out |
//! | [`calendar`] | dates |
//!
//! Invariants:
//! - what was told to a user (a job exists, is paused, was cancelled; a schedule is set) is durable before, but for jobs on
//!   a pool that takes no writes;
//! - a schedule deletes no snapshot but those that it made ([`policy::made_at`]);
//! - work that is not a user's request yields to what is ([`pace`]).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod alert;
pub mod calendar;
mod hydration;
pub mod jobs;
mod migration;
pub mod pace;
pub mod policy;
pub mod schedules;
mod scrub;
mod sweep;

use exec::Exec;
use volume::Volumes;
use world::Disk;

pub use hydration::Hydration;
pub use jobs::{JobInfo, JobState, Jobs, JobsError, Work};
pub use migration::{Migration, Phase, Ticket};
pub use policy::{Keep, PolicyError, Schedule};
pub use schedules::{ScheduleInfo, Schedules};
pub use scrub::{Place, Scrub};

/// Jobs and schedules of one appliance; clones are the same ones.
pub struct Upkeep<D> {
    /// Long work.
    pub jobs: Jobs<D>,
    /// Snapshots by the clock.
    pub schedules: Schedules<D>,
}

impl<D> Clone for Upkeep<D> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
            schedules: self.schedules.clone(),
        }
    }
}

impl<D: Disk + 'static> Upkeep<D> {
    /// Reads what was kept, and goes on with it on `exec`; to be called when it is known whose the volumes are. What cannot be read is left
    /// out, with a word in the log.
    pub async fn open(exec: &Exec, volumes: &Volumes<D>) -> Self {
        let jobs = Jobs::open(exec.clone(), volumes.clone()).await;
        let schedules = Schedules::open(exec.clone(), volumes.clone()).await;
        exec.spawn(alert::watch(exec.clone(), volumes.clone()));
        exec.spawn(sweep::run(exec.clone(), volumes.clone()));
        Self { jobs, schedules }
    }
}
