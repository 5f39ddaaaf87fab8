//! The job that brings in what is not here yet of an adopted volume, while clients leave room for that: first what was used lately where it comes
//! from, then all of it from the beginning.
//!
//! It is over when everything is here, or nothing needs it any more. Whatever else keeps it from going on, an origin that does not answer or a
//! pool that is nearly full, it says so, and tries again.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::ops::Range;
use core::time::Duration;

use serde::{Deserialize, Serialize};
use volume::{BaseId, BaseInfo, Fullness, OriginError, StoreError, VolumeError};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::jobs::{Job, JobState, Shared, Work};
use crate::pace;

/// How often what has arrived is noted.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// While no client does anything, a step is so many times that of other work: each asks the origin first what it has.
const IDLE_FACTOR: u64 = 8;
/// The first rest when something keeps it from going on; each further one is twice as long.
const TROUBLE_REST: Duration = Duration::from_secs(1);
/// The longest of them.
const TROUBLE_REST_MAX: Duration = Duration::from_secs(30);

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hydration {
    /// Number of the base of what was adopted.
    pub base: u64,
    /// Bytes of it.
    pub size_bytes: u64,
    /// Of so many bytes from the beginning on, all is here.
    pub known_bytes: u64,
    /// Bytes of data that were fetched by this job.
    pub fetched_bytes: u64,
}

impl Hydration {
    pub(crate) fn new(base: &BaseInfo) -> Self {
        Self {
            base: base.id.0,
            size_bytes: base.size_bytes,
            known_bytes: base.known_bytes,
            fetched_bytes: 0,
        }
    }
}

/// Does the job, from where it is to its end or the store's.
pub(crate) async fn run<D: Disk + 'static>(shared: Rc<Shared<D>>, job: Rc<Job>) {
    let exec = &shared.exec;
    let (base, mut at) = match &*job.work() {
        Work::Hydrate(hydration) => (BaseId(hydration.base), hydration.known_bytes),
        Work::Scrub(_) | Work::Migrate(_) => return,
    };
    // What was said to have arrived may have been lost with the power.
    at = at.min(
        shared
            .volumes
            .store()
            .base(base)
            .map_or(0, |base| base.known_bytes),
    );
    let mut kept_at = exec.now();
    let mut trouble_rest = TROUBLE_REST;
    let mut operations = shared.volumes.operations();
    let mut slot = None;
    // What is to come first; asked for when there is somebody to ask.
    let mut hottest: Option<VecDeque<Range<u64>>> = None;
    loop {
        // Others go on while this one is paused.
        if job.state() == JobState::Paused {
            slot = None;
        }
        if !job.may_go_on().await {
            return;
        }
        if slot.is_none() {
            // Few at a time: each has a connection and buffers.
            slot = Some(shared.hydrating.acquire().await);
            job.begin();
            continue;
        }
        let Some(info) = shared.volumes.adoption(base) else {
            return end(&shared, &job, base).await;
        };
        let is_busy =
            core::mem::replace(&mut operations, shared.volumes.operations()) != operations;
        let begun = exec.now();
        let max = step_bytes(is_busy, job.rate_max());
        let is_through = at >= info.base.size_bytes;
        let result = match shared.volumes.pool().fullness {
            // Clients need what is left.
            Fullness::Critical | Fullness::Full if !is_through => Err(StoreError::NoSpace.into()),
            _ if is_through || begun - kept_at >= KEEP_EVERY => {
                kept_at = begun;
                let noted = shared.volumes.note_arrived(base, at).await;
                shared.keep_position(&job).await;
                noted.map(|()| None)
            }
            _ => match &hottest {
                None => shared.volumes.hottest(base).await.map(|parts| {
                    hottest = Some(parts.into());
                    None
                }),
                Some(parts) => {
                    let (start, max) = match parts.front() {
                        Some(hot) => (hot.start, max.min(hot.end - hot.start)),
                        None => (at, max),
                    };
                    shared.volumes.bring_in(base, start, max).await.map(Some)
                }
            },
        };
        match result {
            Ok(Some(step)) => {
                match hottest.as_mut().filter(|parts| !parts.is_empty()) {
                    Some(parts) => pass(parts, step.next),
                    None => at = step.next,
                }
                trouble_rest = TROUBLE_REST;
                job.set_trouble(None);
                job.advance(exec.now(), |work| {
                    if let Work::Hydrate(hydration) = work {
                        hydration.known_bytes = at;
                        hydration.fetched_bytes += step.bytes;
                    }
                });
                let took = exec.now() - begun;
                let rest = pace::rest_of_arrival(took, is_busy, step.bytes, job.rate_max());
                // Whoever wants something is heard at once.
                let _ = exec.timeout(rest, job.wanted.wait()).await;
            }
            Ok(None) => {}
            // The next start goes on with it.
            Err(VolumeError::Store(StoreError::Closed)) => return,
            Err(VolumeError::NoVolume) => {}
            Err(error) => {
                log::debug!("job {}: {error}", job.id());
                job.set_trouble(Some(error.to_string()));
                let _ = exec.timeout(trouble_rest, job.wanted.wait()).await;
                trouble_rest = (trouble_rest * 2).min(TROUBLE_REST_MAX);
            }
        }
    }
}

/// Of the first of these parts, all before byte `until` is done.
fn pass(parts: &mut VecDeque<Range<u64>>, until: u64) {
    if let Some(first) = parts.front_mut() {
        first.start = until;
        if first.start >= first.end {
            parts.pop_front();
        }
    }
}

/// Bytes of the next step.
fn step_bytes(is_busy: bool, rate: u64) -> u64 {
    let factor = if is_busy { 1 } else { IDLE_FACTOR };
    let bytes = factor * pace::blocks(is_busy) * BLOCK_SIZE as u64;
    match rate {
        0 => bytes,
        // A limit is one of each second, not of each minute.
        rate => bytes.min(rate.max(Buf::PAGES_MAX as u64 * BLOCK_SIZE as u64)),
    }
}

/// The origin is not needed any more: all is here, or nothing needs it.
async fn end<D: Disk + 'static>(shared: &Shared<D>, job: &Job, base: BaseId) {
    let (state, error) = match shared.volumes.store().base(base) {
        None => (JobState::Cancelled, None),
        Some(base) if base.is_complete() => (JobState::Done, None),
        // What was kept of it cannot be read.
        Some(_) => (JobState::Failed, Some(OriginError::Forgotten.to_string())),
    };
    job.end(state, error, shared.wall_nanos());
    shared.keep_position(job).await;
    match state {
        JobState::Done => log::info!("job {}: everything is here, the origin can go", job.id()),
        JobState::Failed => log::error!("job {}: where the rest is cannot be told", job.id()),
        _ => log::info!("job {}: nothing needs what was adopted any more", job.id()),
    }
}
