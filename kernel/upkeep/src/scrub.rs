//! The job that verifies every block in use, and remembers what it found.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Ref;
use core::time::Duration;

use serde::{Deserialize, Serialize};
use store::{Damage, ScrubPosition, ScrubStep, Store};
use volume::{SnapshotId, Source, StoreError, VolumeError, VolumeId};
use world::{BLOCK_SIZE, Disk};

use crate::jobs::{Job, JobState, Shared, Work};
use crate::pace;

/// The most damaged places that are remembered one by one. A record has room for so many.
const PLACES_MAX: usize = 40;
/// How often its position is kept.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// How far a scrub is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// The map and the block where the next step begins.
    position: (u64, u64),
    /// Blocks that were verified.
    pub checked_blocks: u64,
    /// Replicas that were bad and were written anew.
    pub repaired: u64,
    /// Blocks that cannot be read, each counted once however many volumes and snapshots share it.
    pub damaged_blocks: u64,
    /// Of these, blocks of the pool's own.
    pub damaged_pool_blocks: u64,
    /// Who has them, and where.
    pub places: Vec<Place>,
    /// Places that are not in the list, because it is full.
    pub places_more: u64,
}

/// A range that cannot be read. As short as it can be, for its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(bool, u64, u64, u64);

impl Place {
    fn new(source: Source, offset: u64, len: u64) -> Self {
        match source {
            Source::Volume(VolumeId(id)) => Self(false, id, offset, len),
            Source::Snapshot(SnapshotId(id)) => Self(true, id, offset, len),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Self(false, id, ..) => Source::Volume(VolumeId(id)),
            Self(true, id, ..) => Source::Snapshot(SnapshotId(id)),
        }
    }

    /// First byte.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.2
    }

    /// Bytes.
    #[must_use]
    pub fn len_bytes(self) -> u64 {
        self.3
    }
}

impl Scrub {
    /// Bytes that were verified.
    #[must_use]
    pub fn checked_bytes(&self) -> u64 {
        self.checked_blocks * BLOCK_SIZE as u64
    }

    /// Notes a step.
    fn add(&mut self, step: &ScrubStep) {
        self.checked_blocks += step.blocks;
        self.repaired += step.repaired;
        for damage in &step.damaged {
            self.add_damage(damage);
        }
        if let Some(next) = step.next {
            self.position = (next.map, next.block);
        }
    }

    fn add_damage(&mut self, damage: &Damage) {
        if damage.places.iter().any(|place| self.is_known(*place)) {
            // A deleted map was taken apart behind the scrub, which came upon its blocks again in the next one.
            return;
        }
        let blocks = damage.len.div_ceil(BLOCK_SIZE as u64);
        self.damaged_blocks += blocks;
        if damage.places.is_empty() {
            self.damaged_pool_blocks += blocks;
        }
        self.places_more += damage.places_more;
        for (source, offset) in &damage.places {
            let new = Place::new(*source, *offset, damage.len);
            let continues =
                |old: &&mut Place| (old.0, old.1) == (new.0, new.1) && old.2 + old.3 == new.2;
            if let Some(old) = self.places.iter_mut().find(continues) {
                old.3 += new.3;
            } else if self.places.len() < PLACES_MAX {
                self.places.push(new);
            } else {
                self.places_more += 1;
            }
        }
    }

    /// Whether this place is part of one that is in the list.
    fn is_known(&self, (source, offset): (Source, u64)) -> bool {
        let new = Place::new(source, offset, 0);
        let covers = |old: &Place| {
            (old.0, old.1) == (new.0, new.1) && (old.2..old.2 + old.3).contains(&offset)
        };
        self.places.iter().any(covers)
    }
}

/// How far a scrub is.
///
/// # Panics
/// When the job is none: a bug.
fn scrub_of(job: &Job) -> Ref<'_, Scrub> {
    Ref::map(job.work(), |work| match work {
        Work::Scrub(scrub) => scrub,
        Work::Hydrate(_) | Work::Migrate(_) => unreachable!("a scrub that is none"),
    })
}

/// Does the job, from where it is to its end or the store's.
pub(crate) async fn run<D: Disk + 'static>(shared: Rc<Shared<D>>, job: Rc<Job>) {
    let exec = &shared.exec;
    job.begin();
    if scrub_of(&job).checked_blocks == 0 {
        // What is not yet part of the maps would be left out. On a pool that takes no writes there is nothing such.
        let _ = shared.volumes.store().checkpoint().await;
    }
    let mut kept_at = exec.now();
    let mut operations = shared.volumes.operations();
    loop {
        if !job.may_go_on().await {
            return;
        }
        let seen = operations;
        operations = shared.volumes.operations();
        let is_busy = operations != seen;
        let begun = exec.now();
        let (map, block) = scrub_of(&job).position;
        let result = shared
            .volumes
            .store()
            .scrub(ScrubPosition { map, block }, pace::blocks(is_busy))
            .await;
        let step = match result {
            Ok(step) => step,
            // The next start goes on with it.
            Err(StoreError::Closed) => return,
            Err(error) => return end(&shared, &job, JobState::Failed, Some(error)).await,
        };
        // The list in the job has the others; a bad drive would fill the log.
        if let Some(damage) = step.damaged.first()
            && scrub_of(&job).damaged_blocks == 0
        {
            let place = describe(shared.volumes.store(), damage);
            log::warn!("job {}: there is damage, the first in {place}", job.id());
        }
        job.advance(exec.now(), |work| {
            if let Work::Scrub(scrub) = work {
                scrub.add(&step);
            }
        });
        if step.next.is_none() {
            return end(&shared, &job, JobState::Done, None).await;
        }
        if exec.now() - kept_at >= KEEP_EVERY {
            kept_at = exec.now();
            shared.keep_position(&job).await;
        }
        let bytes = step.blocks * BLOCK_SIZE as u64;
        shared.rest(&job, begun, is_busy, bytes).await;
    }
}

async fn end<D: Disk + 'static>(
    shared: &Shared<D>,
    job: &Job,
    state: JobState,
    error: Option<StoreError>,
) {
    job.end(
        state,
        error.map(|error| VolumeError::from(error).to_string()),
        shared.wall_nanos(),
    );
    shared.keep_position(job).await;
    let (id, scrub) = (job.id(), scrub_of(job).clone());
    let mib = scrub.checked_bytes() >> 20;
    match (error, scrub.damaged_blocks) {
        (Some(error), _) => log::error!("job {id}: the scrub failed after {mib} MiB: {error}"),
        (None, 0) => log::info!(
            "job {id}: scrubbed {mib} MiB, all sound, {} repaired",
            scrub.repaired
        ),
        (None, damaged) => {
            log::error!("job {id}: scrubbed {mib} MiB, {damaged} blocks are damaged");
        }
    }
}

/// Where damage is, in the words of its first owner.
fn describe<D: Disk + 'static>(store: &Store<D>, damage: &Damage) -> String {
    let Some((source, offset)) = damage.places.first() else {
        return "what the pool keeps for itself, or a deleted volume".to_string();
    };
    let name = match *source {
        Source::Volume(id) => store.volume(id).map(|volume| volume.name),
        Source::Snapshot(id) => store.snapshot(id).and_then(|snapshot| {
            let volume = store.volume(snapshot.volume)?.name;
            Some(format!("{volume}@{}", snapshot.name))
        }),
    };
    let name = name.unwrap_or_else(|| "a deleted volume".to_string());
    format!("{name} at byte {offset}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use world::Instant;

    fn damage(places: &[(Source, u64)]) -> Damage {
        Damage {
            places: places.to_vec(),
            places_more: 0,
            len: 4096,
        }
    }

    #[test]
    fn neighbouring_blocks_become_one_place() {
        let (db, monday) = (VolumeId(3).into(), SnapshotId(4).into());
        let mut scrub = Scrub::default();
        let step = ScrubStep {
            next: Some(ScrubPosition { map: 5, block: 6 }),
            blocks: 100,
            damaged: vec![
                damage(&[(db, 0), (monday, 0)]),
                damage(&[(db, 4096), (monday, 4096)]),
                damage(&[(db, 12288)]),
                damage(&[]),
                damage(&[(monday, 4096)]),
            ],
            repaired: 2,
        };
        scrub.add(&step);
        assert_eq!(scrub.position, (5, 6));
        assert_eq!((scrub.checked_blocks, scrub.repaired), (100, 2));
        assert_eq!((scrub.damaged_blocks, scrub.damaged_pool_blocks), (4, 1));
        let places: Vec<_> = scrub
            .places
            .iter()
            .map(|place| (place.source(), place.2, place.3))
            .collect();
        assert_eq!(
            places,
            [(db, 0, 8192), (monday, 0, 8192), (db, 12288, 4096)]
        );
    }

    #[test]
    fn any_number_of_damaged_places_fits_a_record() {
        let job = Job::new(u64::MAX, Work::Scrub(Scrub::default()), u64::MAX, u64::MAX);
        let mut damaged = Vec::new();
        for index in 0..1000 {
            let source = SnapshotId(u64::MAX - index).into();
            damaged.push(damage(&[(source, (128 << 40) - 4096 * index)]));
        }
        let step = ScrubStep {
            next: Some(ScrubPosition {
                map: u64::MAX,
                block: u64::MAX,
            }),
            blocks: 1 << 50,
            damaged,
            repaired: 1 << 50,
        };
        job.advance(Instant::ZERO, |work| {
            if let Work::Scrub(scrub) = work {
                scrub.add(&step);
            }
        });
        let error = VolumeError::from(StoreError::TooManyAtOnce);
        job.end(JobState::Failed, Some(error.to_string()), u64::MAX);
        assert!(job.encode().len() <= 3072);
        let scrub = scrub_of(&job);
        assert_eq!(scrub.places.len() as u64 + scrub.places_more, 1000);
    }
}
