//! Snapshots.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::{Value, json};
use upkeep::calendar::rfc3339;
use volume::{SnapshotId, SnapshotInfo, SnapshotOrder, Usage, VolumeError, Volumes};
use world::Disk;

use super::Backend;
use super::edits::tag_of;
use super::forms::{FORCE, LIMIT, NAME, NEXT, VOLUMES};
use super::problem::Problem;
use super::refusal::About;
use super::resources::{catalog, uuid};
use super::router::{Call, Handled, Response};
use super::volumes::{UsageResource, freshen, usage};

/// Snapshots of one answer when nobody says how many.
const PAGE: u64 = 1000;

#[derive(Serialize)]
struct SnapshotResource {
    name: String,
    volume: String,
    /// What NBD clients attach to.
    export: String,
    uuid: String,
    size: u64,
    /// Bytes that hold data, shared ones included; of the last checkpoint in lists. Not told of a snapshot that was just made,
    /// whose making costs the same whatever it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
    #[serde(flatten)]
    usage: Option<UsageResource>,
    /// Attached clients.
    clients: usize,
    /// `null` when the appliance had no clock then.
    created_at: Option<String>,
}

impl SnapshotResource {
    fn new<D: Disk + 'static>(
        volumes: &Volumes<D>,
        volume: &str,
        info: SnapshotInfo,
        usage: Option<Usage>,
    ) -> Self {
        Self {
            volume: volume.into(),
            export: format!("{volume}@{}", info.name),
            uuid: uuid(info.uuid),
            size: info.size_bytes,
            allocated: Some(usage.map_or(info.allocated_bytes, |usage| usage.referenced_bytes)),
            usage: usage.map(UsageResource::from),
            clients: volumes.clients(info.id),
            created_at: (info.created_at_nanos > 0).then(|| rfc3339(info.created_at_nanos)),
            name: info.name,
        }
    }

    /// As it was just made.
    fn made<D: Disk + 'static>(volumes: &Volumes<D>, volume: &str, info: SnapshotInfo) -> Self {
        Self {
            allocated: None,
            ..Self::new(volumes, volume, info, None)
        }
    }

    fn location(&self) -> String {
        format!("/v1/volumes/{}/snapshots/{}", self.volume, self.name)
    }
}

/// What can be edited.
pub(super) fn tag<D: Disk + 'static>(backend: &Backend<D>, call: &Call) -> Option<String> {
    let [volume, name] = names(call);
    let info = catalog(backend).ok()?.snapshot(volume, name).ok()?;
    Some(tag_of(&json!([info.uuid, info.name])))
}

pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let volume = &call.captures[0];
    freshen(&call, volumes).await;
    let after = call.query_text(&NEXT).map(read_token).transpose()?;
    let limit = call.query_number(&LIMIT).unwrap_or(PAGE);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than is shown tells whether there are more.
    let snapshots = volumes.snapshots(volume, after, limit + 1);
    let mut snapshots = snapshots.map_err(|error| About::volume(volume).refuse(volumes, error))?;
    let are_more = snapshots.len() > limit;
    snapshots.truncate(limit);
    let last = snapshots.last().filter(|_| are_more);
    let next = last.map(|info| write_token(info.order()));
    let list: Vec<_> = snapshots
        .into_iter()
        .map(|info| SnapshotResource::new(volumes, volume, info, None))
        .collect();
    let mut answer = json!({"snapshots": list});
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(Response::json(200, &answer))
}

fn write_token(order: SnapshotOrder) -> String {
    format!("{}-{}", order.created_at_nanos, order.id.0)
}

fn read_token(next: &str) -> Result<SnapshotOrder, Problem> {
    let (time, id) = next.split_once('-').ok_or_else(wrong_token)?;
    let number = |text: &str| text.parse().map_err(|_| wrong_token());
    Ok(SnapshotOrder {
        created_at_nanos: number(time)?,
        id: SnapshotId(number(id)?),
    })
}

/// The answer to a `next` that no answer of ours said.
pub(super) fn wrong_token() -> Problem {
    let detail = "the query parameter `next` must be what the answer before said";
    Problem::of_field(400, NEXT.name, detail)
}

pub(super) async fn create<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let volume = &call.captures[0];
    let name = call.text(&NAME).unwrap_or_default();
    let about = About::snapshot(volume, name).called(Some(name));
    let made = volumes.create_snapshot(volume, name).await;
    let info = made.map_err(|error| about.refuse(volumes, error))?;
    let resource = SnapshotResource::made(volumes, volume, info);
    let location = resource.location();
    Ok(Response::created(&resource, location))
}

pub(super) async fn create_group<D: Disk + 'static>(
    backend: Rc<Backend<D>>,
    call: Call,
) -> Handled {
    let volumes = catalog(&backend)?;
    let name = call.text(&NAME).unwrap_or_default();
    let group = call.body.get(VOLUMES.name).and_then(Value::as_array);
    let group: Vec<&str> = group
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for volume in &group {
        // Which of them it is has to be said.
        let refuse = |status, error: VolumeError| {
            let detail = format!("{error}: `{volume}`");
            Err(Problem::of_field(status, VOLUMES.name, detail))
        };
        match volumes.get(volume) {
            Ok(info) if volumes.store().find_snapshot(info.id, name).is_some() => {
                let detail = format!("`{volume}` has a snapshot `{name}` already");
                return Err(Problem::of_field(409, NAME.name, detail));
            }
            Ok(_) => {}
            Err(error) => return refuse(404, error),
        }
    }
    let made = volumes.create_snapshots(&group, name).await?;
    let made = made.into_iter().zip(group);
    let list: Vec<_> = made
        .map(|(info, volume)| SnapshotResource::made(volumes, volume, info))
        .collect();
    Ok(Response::json(201, &json!({"snapshots": list})))
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let [volume, name] = names(&call);
    let info = volumes.snapshot(volume, name);
    let info = info.map_err(|error| About::snapshot(volume, name).refuse(volumes, error))?;
    let usage = usage(&call, volumes, info.id).await;
    let resource = SnapshotResource::new(volumes, volume, info, usage);
    Ok(Response::json(200, &resource))
}

pub(super) async fn rename<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let [volume, name] = names(&call);
    let new_name = call.text(&NAME).unwrap_or_default();
    let about = About::snapshot(volume, name).called(Some(new_name));
    let renamed = volumes.rename_snapshot(volume, name, new_name).await;
    let info = renamed.map_err(|error| about.refuse(volumes, error))?;
    let resource = SnapshotResource::new(volumes, volume, info, None);
    Ok(Response::json(200, &resource))
}

pub(super) async fn delete<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let [volume, name] = names(&call);
    let force = call.query_flag(&FORCE);
    let deleted = volumes.delete_snapshot(volume, name, force).await;
    deleted.map_err(|error| About::snapshot(volume, name).refuse(volumes, error))?;
    Ok(Response::empty(204))
}

fn names(call: &Call) -> [&str; 2] {
    [&call.captures[0], &call.captures[1]]
}
