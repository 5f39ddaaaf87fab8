//! Snapshot schedules.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::{Map, Value, json};
use upkeep::calendar::rfc3339;
use upkeep::policy::every_text;
use upkeep::{Keep, Schedule, ScheduleInfo};
use volume::VolumeError;
use world::Disk;

use super::Backend;
use super::edits::tag_of;
use super::forms::{EVERY, KEEP};
use super::pages::{listed, page};
use super::problem::Problem;
use super::refusal::About;
use super::resources::{catalog, upkeep};
use super::router::{Call, Handled, Response};

#[derive(Serialize)]
struct ScheduleResource {
    volume: String,
    every: String,
    /// Rules that keep something.
    keep: Map<String, Value>,
    /// When the next one is due.
    next_at: Option<String>,
    /// The newest snapshot that it made.
    newest: Option<String>,
    /// How many of its snapshots there are.
    snapshots: usize,
    /// Why it does not do what it should.
    problem: Option<String>,
}

impl From<ScheduleInfo> for ScheduleResource {
    fn from(info: ScheduleInfo) -> Self {
        let Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        } = info.schedule.keep;
        let rules = [
            ("last", last),
            ("hourly", hourly),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
            ("yearly", yearly),
        ];
        let rules = rules.into_iter().filter(|(_, count)| *count > 0);
        Self {
            volume: info.volume,
            every: every_text(info.schedule.every),
            keep: rules
                .map(|(name, count)| (name.into(), count.into()))
                .collect(),
            next_at: info.next_at_nanos.map(rfc3339),
            newest: info.newest,
            snapshots: info.snapshots,
            problem: info.problem,
        }
    }
}

/// What can be edited.
pub(super) fn tag<D: Disk + 'static>(backend: &Backend<D>, call: &Call) -> Option<String> {
    let info = upkeep(backend)
        .ok()?
        .schedules
        .get(&call.captures[0])
        .ok()??;
    let resource = ScheduleResource::from(info);
    Some(tag_of(&json!([
        resource.volume,
        resource.every,
        resource.keep
    ])))
}

pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let schedules = &upkeep(&backend)?.schedules;
    let number = |volume: &str| volumes.get(volume).map_or(0, |info| info.id.0);
    let all = schedules.list().into_iter();
    let all = all.map(|info| (number(&info.volume), info)).collect();
    let (list, next) = page(&call, all);
    let list: Vec<ScheduleResource> = list.into_iter().map(Into::into).collect();
    Ok(Response::json(200, &listed("schedules", json!(list), next)))
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let info = upkeep(&backend)?.schedules.get(&call.captures[0]);
    let info = info.map_err(|error| refuse(&backend, &call, error))?;
    let info = info.ok_or_else(no_schedule)?;
    Ok(Response::json(200, &ScheduleResource::from(info)))
}

pub(super) async fn set<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let rules = call.body.get(KEEP.name).and_then(Value::as_object);
    let count = |rule: &str| {
        let count = rules.and_then(|rules| rules.get(rule)?.as_u64());
        u32::try_from(count.unwrap_or(0)).unwrap_or(u32::MAX)
    };
    let keep = Keep {
        last: count("last"),
        hourly: count("hourly"),
        daily: count("daily"),
        weekly: count("weekly"),
        monthly: count("monthly"),
        yearly: count("yearly"),
    };
    let schedule = Schedule::new(call.text(&EVERY).unwrap_or_default(), keep)?;
    let schedules = &upkeep(&backend)?.schedules;
    let info = schedules.set(&call.captures[0], schedule).await;
    let info = info.map_err(|error| refuse(&backend, &call, error))?;
    Ok(Response::json(200, &ScheduleResource::from(info)))
}

pub(super) async fn remove<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let schedules = &upkeep(&backend)?.schedules;
    // Whether there was one makes no difference: there is none now.
    let removed = schedules.remove(&call.captures[0]).await;
    removed.map_err(|error| refuse(&backend, &call, error))?;
    Ok(Response::empty(204))
}

fn refuse<D: Disk + 'static>(backend: &Backend<D>, call: &Call, error: VolumeError) -> Problem {
    match catalog(backend) {
        Ok(volumes) => About::volume(&call.captures[0]).refuse(volumes, error),
        Err(problem) => problem,
    }
}

fn no_schedule() -> Problem {
    Problem::new(404, "this volume has no snapshot schedule")
}
