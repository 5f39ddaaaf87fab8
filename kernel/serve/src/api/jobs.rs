//! Jobs.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::json;
use upkeep::calendar::rfc3339;
use upkeep::{JobInfo, Place, Scrub, Work};
use volume::{BaseId, Source, Volumes};
use world::Disk;

use super::Backend;
use super::edits::tag_of;
use super::forms::{PAUSED, RATE, STATE};
use super::problem::Problem;
use super::resources::{catalog, upkeep};
use super::router::{Call, Handled, Response};

#[derive(Serialize)]
struct JobResource {
    id: u64,
    kind: &'static str,
    state: &'static str,
    /// From 0 to 1.
    progress: f64,
    /// Bytes done.
    done: u64,
    /// Bytes in a second, while it runs.
    rate: Option<u64>,
    /// The most bytes in a second.
    rate_max: Option<u64>,
    /// At the present rate.
    time_left_ms: Option<u64>,
    created_at: Option<String>,
    ended_at: Option<String>,
    error: Option<String>,
    /// Of an adopted volume that is brought in: a volume that has a part in it. Of a migration: the volume that moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    result: ResultResource,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ResultResource {
    Scrub(ScrubResource),
    Hydration {
        /// Bytes of data that were fetched.
        fetched: u64,
    },
    Migration {
        /// Name of the other appliance.
        to: String,
        phase: &'static str,
        bytes: MovedResource,
    },
}

/// Bytes of a volume that moves.
#[derive(Serialize)]
struct MovedResource {
    /// Of so many from the beginning on, all is there.
    known: u64,
    /// Data that went because somebody there wanted it, and that went in the background.
    on_demand: u64,
    background: u64,
    /// What was said about the data.
    metadata: u64,
}

#[derive(Serialize)]
struct ScrubResource {
    /// Blocks verified.
    blocks: u64,
    /// Replicas written anew.
    repaired: u64,
    /// Blocks that cannot be read, each once however many share it.
    damaged_blocks: u64,
    /// Of these, blocks of the pool's own.
    damaged_pool_blocks: u64,
    damaged: Vec<PlaceResource>,
    /// Places beyond those listed.
    damaged_more: u64,
}

#[derive(Serialize)]
struct PlaceResource {
    volume: String,
    /// `null`: the volume as it is now.
    snapshot: Option<String>,
    offset: u64,
    length: u64,
}

impl JobResource {
    fn new<D: Disk + 'static>(volumes: &Volumes<D>, info: JobInfo) -> Self {
        let time = |nanos| (nanos > 0).then(|| rfc3339(nanos));
        Self {
            id: info.id,
            kind: info.work.name(),
            state: info.state.name(),
            progress: info.progress,
            done: info.done_bytes,
            rate: info.rate,
            rate_max: info.rate_max,
            time_left_ms: info.left_ms,
            created_at: time(info.created_at_nanos),
            ended_at: time(info.ended_at_nanos),
            error: info.error,
            volume: volume(volumes, &info.work),
            result: match &info.work {
                Work::Scrub(scrub) => ResultResource::Scrub(result(volumes, scrub)),
                Work::Hydrate(hydration) => ResultResource::Hydration {
                    fetched: hydration.fetched_bytes,
                },
                Work::Migrate(migration) => ResultResource::Migration {
                    to: migration.to.clone(),
                    phase: migration.phase.name(),
                    bytes: MovedResource {
                        known: migration.known_bytes,
                        on_demand: migration.demanded_bytes,
                        background: migration.background_bytes,
                        metadata: migration.metadata_bytes,
                    },
                },
            },
        }
    }
}

fn volume<D: Disk + 'static>(volumes: &Volumes<D>, work: &Work) -> Option<String> {
    let hydration = match work {
        Work::Hydrate(hydration) => hydration,
        Work::Migrate(migration) => return Some(migration.volume.clone()),
        Work::Scrub(_) => return None,
    };
    let all = volumes.list().into_iter();
    let mut adopted = all.filter(|info| info.bases.contains(&BaseId(hydration.base)));
    adopted.next().map(|info| info.name)
}

fn result<D: Disk + 'static>(volumes: &Volumes<D>, scrub: &Scrub) -> ScrubResource {
    // What was deleted since is damaged no more.
    let places = scrub.places.iter();
    let damaged = places.filter_map(|place| place_resource(volumes, *place));
    ScrubResource {
        blocks: scrub.checked_blocks,
        repaired: scrub.repaired,
        damaged_blocks: scrub.damaged_blocks,
        damaged_pool_blocks: scrub.damaged_pool_blocks,
        damaged: damaged.collect(),
        damaged_more: scrub.places_more,
    }
}

fn place_resource<D: Disk + 'static>(volumes: &Volumes<D>, place: Place) -> Option<PlaceResource> {
    let store = volumes.store();
    let (volume, snapshot) = match place.source() {
        Source::Volume(id) => (id, None),
        Source::Snapshot(id) => {
            let info = store.snapshot(id)?;
            (info.volume, Some(info.name))
        }
    };
    Some(PlaceResource {
        volume: store.volume(volume)?.name,
        snapshot,
        offset: place.offset(),
        length: place.len_bytes(),
    })
}

/// What can be edited.
pub(super) fn tag<D: Disk + 'static>(backend: &Backend<D>, call: &Call) -> Option<String> {
    let info = upkeep(backend).ok()?.jobs.get(id(call).ok()?).ok()?;
    Some(tag_of(&json!([info.id, info.state.name(), info.rate_max])))
}

pub(super) async fn scrub<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let rate = call.number(&RATE).unwrap_or(0);
    let info = upkeep(&backend)?.jobs.start_scrub(rate).await?;
    started(&backend, info)
}

/// A job that was just begun, and where it is.
pub(super) fn started<D: Disk + 'static>(backend: &Backend<D>, info: JobInfo) -> Handled {
    let location = format!("/v1/jobs/{}", info.id);
    let resource = JobResource::new(catalog(backend)?, info);
    let mut response = Response::json(202, &resource);
    response.headers.push(("Location", location));
    Ok(response)
}

pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let (jobs, volumes) = (&upkeep(&backend)?.jobs, catalog(&backend)?);
    let list = jobs.list().into_iter();
    let list: Vec<_> = list.map(|info| JobResource::new(volumes, info)).collect();
    Ok(Response::json(200, &json!({"jobs": list})))
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let info = upkeep(&backend)?.jobs.get(id(&call)?)?;
    answer(&backend, info)
}

pub(super) async fn change<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let paused = call.text(&STATE).map(|state| state == PAUSED);
    let jobs = &upkeep(&backend)?.jobs;
    let info = jobs.change(id(&call)?, paused, call.number(&RATE)).await?;
    answer(&backend, info)
}

pub(super) async fn cancel<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let info = upkeep(&backend)?.jobs.cancel(id(&call)?).await?;
    answer(&backend, info)
}

fn answer<D: Disk + 'static>(backend: &Backend<D>, info: JobInfo) -> Handled {
    let resource = JobResource::new(catalog(backend)?, info);
    Ok(Response::json(200, &resource))
}

fn id(call: &Call) -> Result<u64, Problem> {
    let text = &call.captures[0];
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = is_number.then(|| text.parse().ok()).flatten();
    id.ok_or_else(|| Problem::new(404, "no such job"))
}
