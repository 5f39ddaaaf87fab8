//! Volumes.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use serde::Serialize;
use serde_json::{Value, json};
use upkeep::calendar::rfc3339;
use volume::{
    Network, OriginAddress, OriginError, Settings, SnapshotId, Source, Usage, VolumeError,
    VolumeInfo, Volumes, split_name,
};
use world::Disk;

use super::Backend;
use super::edits::tag_of;
use super::forms::{
    ALLOW, CLONE_OF, EXACT, FORCE, IOPS_MAX, NAME, NBD, NEW_NAME, ORIGIN, ORIGIN_PEER,
    ORIGIN_SNAPSHOT, RATE_MAX, READ_ONLY, SIZE, SNAPSHOT,
};
use super::moves::{self, MoveResource};
use super::pages::{listed, page};
use super::problem::Problem;
use super::refusal::About;
use super::resources::{catalog, uuid};
use super::router::{Call, Handled, Response};
use super::shape::Property;

#[derive(Serialize)]
struct VolumeResource {
    name: String,
    uuid: String,
    size: u64,
    /// Bytes that hold data, shared ones included.
    allocated: u64,
    #[serde(flatten)]
    usage: Option<UsageResource>,
    snapshots: usize,
    /// `VOLUME@SNAPSHOT` that it was cloned from, while that exists.
    origin: Option<String>,
    /// What is still to come.
    hydration: Option<HydrationResource>,
    /// Where it is on its way, if it moves or has moved.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    moved: Option<MoveResource>,
    /// Attached clients.
    clients: usize,
    read_only: bool,
    /// From where clients may come; none: from anywhere.
    allow: Vec<String>,
    /// The most requests and bytes of clients in a second.
    iops_max: Option<u64>,
    rate_max: Option<u64>,
    /// `null` when the appliance had no clock then.
    created_at: Option<String>,
}

/// How much of an adopted volume is here.
#[derive(Serialize)]
struct HydrationResource {
    from: String,
    /// Of so many bytes from the beginning on, everything is here.
    known: u64,
    /// Bytes of data that arrived.
    stored: u64,
    /// Bytes that were fetched since the start, for clients and else.
    on_demand: u64,
    background: u64,
    job: Option<u64>,
    error: Option<String>,
}

impl HydrationResource {
    fn new<D: Disk + 'static>(backend: &Backend<D>, info: &VolumeInfo) -> Option<Self> {
        let volumes = backend.volumes.as_ref()?;
        let adoption = info.bases.iter().find_map(|base| volumes.adoption(*base));
        let Some(adoption) = adoption else {
            let bases = info.bases.iter();
            let mut bases = bases.filter_map(|base| volumes.store().base(*base));
            let base = bases.find(|base| !base.is_complete())?;
            return Some(Self {
                from: "unknown".to_string(),
                known: base.known_bytes,
                stored: base.stored_bytes,
                on_demand: 0,
                background: 0,
                job: None,
                error: Some(OriginError::Forgotten.to_string()),
            });
        };
        let upkeep = backend.upkeep.as_ref();
        let job = upkeep.and_then(|upkeep| upkeep.jobs.hydration_of(adoption.base.id));
        Some(Self {
            from: moves::address(backend, &adoption.address),
            known: adoption.base.known_bytes,
            stored: adoption.base.stored_bytes,
            on_demand: adoption.demanded_bytes,
            background: adoption.background_bytes,
            job: job.map(|job| job.id),
            error: adoption.failure.map(|error| error.to_string()),
        })
    }
}

/// What is counted only for one thing at a time, because it has to be looked up.
#[derive(Serialize)]
pub(super) struct UsageResource {
    /// Bytes that its deletion frees.
    unique: u64,
    /// Bytes that something else refers to as well.
    shared: u64,
}

impl From<Usage> for UsageResource {
    fn from(usage: Usage) -> Self {
        Self {
            unique: usage.unique_bytes,
            shared: usage.shared_bytes(),
        }
    }
}

/// What something uses, or did two seconds ago. Damaged maps do not keep the rest from being told.
pub(super) async fn usage<D: Disk + 'static>(
    call: &Call,
    volumes: &Volumes<D>,
    of: impl Into<Source>,
) -> Option<Usage> {
    match volumes.recent_usage(of, || call.exec.now()).await {
        Ok(usage) => Some(usage),
        Err(error) => {
            log::debug!("usage cannot be told: {error}");
            None
        }
    }
}

/// Makes what lists tell that of the last two seconds, if that is wanted. Where it cannot be, they tell what they can.
pub(super) async fn freshen<D: Disk + 'static>(call: &Call, volumes: &Volumes<D>) {
    if call.query_flag(&EXACT)
        && let Err(error) = volumes.freshen(|| call.exec.now()).await
    {
        log::debug!("lists tell what the last checkpoint did: {error}");
    }
}

impl VolumeResource {
    fn new<D: Disk + 'static>(
        backend: &Backend<D>,
        volumes: &Volumes<D>,
        info: VolumeInfo,
        usage: Option<Usage>,
    ) -> Self {
        let settings = volumes.settings(info.id);
        Self {
            hydration: HydrationResource::new(backend, &info),
            moved: MoveResource::new(backend, info.id),
            clients: volumes.clients(info.id),
            read_only: settings.read_only,
            allow: settings.allow.iter().map(ToString::to_string).collect(),
            iops_max: settings.limits.iops,
            rate_max: settings.limits.rate_bytes,
            uuid: uuid(info.uuid),
            size: info.size_bytes,
            allocated: usage.map_or(info.allocated_bytes, |usage| usage.referenced_bytes),
            usage: usage.map(UsageResource::from),
            snapshots: info.snapshots,
            origin: info.origin.and_then(|id| snapshot_name(volumes, id)),
            created_at: (info.created_at_nanos > 0).then(|| rfc3339(info.created_at_nanos)),
            name: info.name,
        }
    }
}

/// `VOLUME@SNAPSHOT`, while both exist.
fn snapshot_name<D: Disk + 'static>(volumes: &Volumes<D>, id: SnapshotId) -> Option<String> {
    let snapshot = volumes.store().snapshot(id)?;
    let volume = volumes.store().volume(snapshot.volume)?;
    Some(format!("{}@{}", volume.name, snapshot.name))
}

/// What can be edited.
pub(super) fn tag<D: Disk + 'static>(backend: &Backend<D>, call: &Call) -> Option<String> {
    let volumes = catalog(backend).ok()?;
    let info = volumes.get(&call.captures[0]).ok()?;
    let Settings {
        read_only,
        allow,
        limits,
    } = volumes.settings(info.id);
    let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
    Some(tag_of(&json!([
        info.uuid,
        info.name,
        info.size_bytes,
        read_only,
        allow,
        [limits.iops, limits.rate_bytes]
    ])))
}

pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    freshen(&call, volumes).await;
    let all = volumes.list().into_iter();
    let (list, next) = page(&call, all.map(|info| (info.id.0, info)).collect());
    let list: Vec<_> = list
        .into_iter()
        .map(|info| VolumeResource::new(&backend, volumes, info, None))
        .collect();
    Ok(Response::json(200, &listed("volumes", json!(list), next)))
}

pub(super) async fn create<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let name = call.text(&NAME).unwrap_or_default();
    let about = About::volume(name).called(Some(name));
    let refuse = |error| about.refuse(volumes, error);
    // What a clone uses would have to be looked up, and making one costs the same whatever it holds.
    if let Some(address) = call.body.get(ORIGIN.name).map(origin) {
        let address = address.map_err(refuse)?;
        let info = adopt(&backend, volumes, name, (address, call.number(&SIZE))).await;
        return created(&backend, info.map_err(refuse)?, None);
    }
    let (info, usage) = match (call.number(&SIZE), call.text(&CLONE_OF)) {
        (Some(size), None) => {
            let made = volumes.create(name, size).await;
            (made.map_err(refuse)?, Some(Usage::default()))
        }
        (None, Some(origin)) => {
            let wrong = |status, detail: String| Problem::of_field(status, CLONE_OF.name, detail);
            let (volume, Some(snapshot)) = split_name(origin) else {
                let detail = "`from` must be a snapshot, as VOLUME@SNAPSHOT".into();
                return Err(wrong(422, detail));
            };
            match volumes.clone_snapshot(volume, snapshot, name).await {
                Err(error @ (VolumeError::NoVolume | VolumeError::NoSnapshot)) => {
                    return Err(wrong(404, format!("{error}: `{origin}`")));
                }
                result => (result.map_err(refuse)?, None),
            }
        }
        (Some(_), Some(_)) => {
            let detail = "a clone begins with the size of its snapshot; make it larger afterwards";
            return Err(Problem::of_field(422, SIZE.name, detail));
        }
        (None, None) => {
            let detail = "`size` is missing, or `from` for a clone of a snapshot";
            return Err(Problem::of_field(422, SIZE.name, detail));
        }
    };
    created(&backend, info, usage)
}

fn created<D: Disk + 'static>(
    backend: &Backend<D>,
    info: VolumeInfo,
    usage: Option<Usage>,
) -> Handled {
    let resource = VolumeResource::new(backend, catalog(backend)?, info, usage);
    let location = format!("/v1/volumes/{}", resource.name);
    Ok(Response::created(&resource, location))
}

/// Where a volume is adopted from, as the route's body says it.
fn origin(at: &Value) -> Result<OriginAddress, VolumeError> {
    let text = |property: &Property| at.get(property.name).and_then(Value::as_str);
    match (text(&ORIGIN_PEER), text(&ORIGIN_SNAPSHOT)) {
        (Some(peer), Some(snapshot)) => Ok(OriginAddress::Peer {
            peer: peer.into(),
            snapshot: snapshot.into(),
        }),
        _ => text(&NBD).unwrap_or_default().parse(),
    }
}

/// Makes a volume of what is elsewhere, and begins to bring it in. Without the job it is a volume as well, so that is not undone.
async fn adopt<D: Disk + 'static>(
    backend: &Backend<D>,
    volumes: &Volumes<D>,
    name: &str,
    (address, size): (OriginAddress, Option<u64>),
) -> Result<VolumeInfo, VolumeError> {
    let info = volumes.adopt(name, address, size).await?;
    if let Some(upkeep) = &backend.upkeep {
        for base in &info.bases {
            if let Err(error) = upkeep.jobs.start_hydration(*base, 0).await {
                log::warn!("`{name}` is brought in from the next start on: {error}");
            }
        }
    }
    Ok(info)
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let name = &call.captures[0];
    let info = volumes.get(name);
    let info = info.map_err(|error| About::volume(name).refuse(volumes, error))?;
    let usage = usage(&call, volumes, info.id).await;
    Ok(Response::json(
        200,
        &VolumeResource::new(&backend, volumes, info, usage),
    ))
}

/// A volume as it is now; as it was, if it is not here any more.
pub(super) fn answer<D: Disk + 'static>(
    backend: &Backend<D>,
    name: &str,
    before: VolumeInfo,
) -> Handled {
    let volumes = catalog(backend)?;
    let info = volumes.get(name).unwrap_or(before);
    let resource = VolumeResource::new(backend, volumes, info, None);
    Ok(Response::json(200, &resource))
}

pub(super) async fn change<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let name = &call.captures[0];
    let (new_name, size) = (call.text(&NEW_NAME), call.number(&SIZE));
    let about = About::volume(name).called(new_name);
    let refuse = |error| about.refuse(volumes, error);
    // All of it is checked before any of it is done.
    let mut info = volumes.check_change(name, new_name, size).map_err(refuse)?;
    let (read_only, allow) = settings(&call)?;
    let (iops, rate) = (limit(&call, &IOPS_MAX), limit(&call, &RATE_MAX));
    let is_set = read_only.is_some() || allow.is_some() || iops.is_some() || rate.is_some();
    if is_set {
        let change = |settings: &mut Settings| {
            settings.read_only = read_only.unwrap_or(settings.read_only);
            settings.allow = allow.unwrap_or_else(|| mem::take(&mut settings.allow));
            let limits = &mut settings.limits;
            limits.iops = iops.unwrap_or(limits.iops);
            limits.rate_bytes = rate.unwrap_or(limits.rate_bytes);
        };
        info = volumes.update(name, change).await.map_err(refuse)?;
    }
    if let Some(size) = size {
        info = volumes.grow(name, size).await.map_err(refuse)?;
    }
    if let Some(new_name) = new_name {
        info = volumes.rename(name, new_name).await.map_err(refuse)?;
    }
    Ok(Response::json(
        200,
        &VolumeResource::new(&backend, volumes, info, None),
    ))
}

/// What is wanted of a limit, if anything: another one, or none.
fn limit(call: &Call, property: &Property) -> Option<Option<u64>> {
    call.body.get(property.name).map(Value::as_u64)
}

/// What is wanted of a volume's settings: whether it is read-only, and from where clients may come.
fn settings(call: &Call) -> Result<(Option<bool>, Option<Vec<Network>>), VolumeError> {
    let read_only = call.body.get(READ_ONLY.name).and_then(Value::as_bool);
    let allow = call.body.get(ALLOW.name).and_then(Value::as_array);
    let networks = |list: &Vec<Value>| {
        let networks = list.iter().filter_map(Value::as_str).map(str::parse);
        networks.collect::<Result<_, _>>()
    };
    Ok((read_only, allow.map(networks).transpose()?))
}

pub(super) async fn delete<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let force = call.query_flag(&FORCE);
    let (volumes, name) = (catalog(&backend)?, &call.captures[0]);
    let deleted = volumes.delete(name, force).await;
    let about = About {
        with_snapshots: true,
        ..About::volume(name)
    };
    deleted.map_err(|error| about.refuse(volumes, error))?;
    Ok(Response::empty(204))
}

pub(super) async fn rollback<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let snapshot = call.text(&SNAPSHOT).unwrap_or_default();
    let force = call.query_flag(&FORCE);
    let name = &call.captures[0];
    let rolled = volumes.rollback(name, snapshot, force).await;
    let info = rolled.map_err(|error| {
        let about = match error {
            // Those of the volume itself, not of the snapshot.
            VolumeError::Attached(_) => About::volume(name),
            _ => About::snapshot(name, snapshot),
        };
        about.refuse(volumes, error)
    })?;
    Ok(Response::json(
        200,
        &VolumeResource::new(&backend, volumes, info, None),
    ))
}
