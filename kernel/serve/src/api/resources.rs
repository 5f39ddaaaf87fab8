//! What can be called, and what it does.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};
use volume::{PoolInfo, PoolState, VolumeInfo, Volumes};
use world::Disk;

use super::Backend;
use super::node::{DriveInfo, DriveState, NodeInfo};
use super::openapi;
use super::problem::Problem;
use super::router::{Call, Method, Response, Route};
use super::shape::{Kind, Property};
use super::time::rfc3339;

/// The most log lines of one answer.
const LOG_LINES_MAX: u64 = 10_000;
/// Log lines when nobody says how many.
const LOG_LINES: u64 = 100;

const NAME: Property = Property {
    name: "name",
    kind: Kind::Text,
    is_required: true,
    about: "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.",
};

const SIZE: Property = Property {
    name: "size",
    kind: Kind::Size,
    is_required: true,
    about: "Bytes: a multiple of 512, at least 4096.",
};

const NEW_SIZE: Property = Property {
    name: "size",
    kind: Kind::Size,
    is_required: false,
    about: "Bytes: a multiple of 512, not less than now.",
};

const FORCE: Property = Property {
    name: "force",
    kind: Kind::Flag,
    is_required: false,
    about: "Even while clients are attached.",
};

const TAIL: Property = Property {
    name: "tail",
    kind: Kind::Number(1, LOG_LINES_MAX),
    is_required: false,
    about: "The most lines; 100 when absent.",
};

/// A route to an `async fn` of this file: method, path, query, body, handler, and what it does.
macro_rules! route {
    ($method:ident $path:literal, $query:expr, $body:expr, $handler:path, $about:literal) => {
        Route {
            method: Method::$method,
            path: $path,
            about: $about,
            query: &$query,
            body: &$body,
            needs_token: true,
            handler: |backend, call| Box::pin($handler(backend, call)),
        }
    };
}

/// The table of everything that can be called.
pub(super) fn routes<D: Disk + 'static>() -> &'static [Route<D>] {
    struct Table<D>(D);
    impl<D: Disk + 'static> Table<D> {
        const ROUTES: &'static [Route<D>] = &[
            Route {
                needs_token: false,
                ..route!(Get "/healthz", [], [], health, "Tells that the API serves.")
            },
            route!(Get "/openapi.json", [], [], openapi, "This document."),
            route!(Get "/v1/node", [], [], node, "Name, version, uptime, memory, pool, drives."),
            route!(Post "/v1/node/shutdown", [], [], shutdown, "Saves everything and turns off."),
            route!(Post "/v1/node/reboot", [], [], reboot, "Saves everything and starts again."),
            route!(Get "/v1/drives", [], [], drives, "All drives."),
            route!(Get "/v1/drives/{id}", [], [], drive, "One drive."),
            route!(Get "/v1/volumes", [], [], volumes, "All volumes, oldest first."),
            route!(Post "/v1/volumes", [], [NAME, SIZE], create_volume, "Makes an empty volume."),
            route!(Get "/v1/volumes/{v}", [], [], volume, "One volume."),
            route!(Patch "/v1/volumes/{v}", [], [NEW_SIZE], change_volume, "Makes a volume larger."),
            route!(Delete "/v1/volumes/{v}", [FORCE], [], delete_volume, "Deletes a volume."),
            route!(Get "/v1/log", [TAIL], [], log, "The most recent log lines, oldest first."),
        ];
    }
    Table::<D>::ROUTES
}

type Handled = Result<Response, Problem>;

async fn health<D>(_: Rc<Backend<D>>, _: Call) -> Handled {
    Ok(Response::json(200, &json!({"status": "ok"})))
}

async fn openapi<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let version = backend.node.info().version;
    Ok(Response::json(
        200,
        &openapi::document(routes::<D>(), &version),
    ))
}

/// A node: what the appliance says of itself, with its pool and drives in short.
#[derive(Serialize)]
struct NodeResource {
    #[serde(flatten)]
    info: NodeInfo,
    pool: Option<PoolResource>,
    drives: Vec<DriveSummary>,
}

#[derive(Serialize)]
struct DriveSummary {
    id: String,
    state: DriveState,
    size: u64,
    used: u64,
}

#[derive(Serialize)]
struct PoolResource {
    uuid: String,
    state: &'static str,
    /// Why it takes no writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    redundancy: &'static str,
    size: u64,
    used: u64,
    free: u64,
    pending: u64,
    reserved: u64,
    checkpoints: u64,
    damaged_reads: u64,
}

impl From<PoolInfo> for PoolResource {
    fn from(info: PoolInfo) -> Self {
        let (state, reason) = match info.state {
            PoolState::Serving => ("serving", None),
            PoolState::ReadOnly(reason) => ("read-only", Some(reason)),
        };
        Self {
            uuid: uuid(info.uuid),
            state,
            reason,
            redundancy: "none",
            size: info.size_bytes,
            used: info.used_bytes,
            free: info.free_bytes,
            pending: info.pending_bytes,
            reserved: info.reserved_bytes,
            checkpoints: info.checkpoints,
            damaged_reads: info.damaged_reads,
        }
    }
}

async fn node<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let summary = |drive: DriveInfo| DriveSummary {
        id: drive.id,
        state: drive.state,
        size: drive.size,
        used: drive.used,
    };
    let node = NodeResource {
        info: backend.node.info(),
        pool: backend
            .volumes
            .as_ref()
            .map(|volumes| volumes.pool().into()),
        drives: backend.node.drives().into_iter().map(summary).collect(),
    };
    Ok(Response::json(200, &node))
}

async fn shutdown<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    backend.node.shutdown();
    Ok(Response::json(202, &json!({"status": "shutting down"})))
}

async fn reboot<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    backend.node.reboot();
    Ok(Response::json(202, &json!({"status": "rebooting"})))
}

async fn drives<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let drives = backend.node.drives();
    Ok(Response::json(200, &json!({"drives": drives})))
}

async fn drive<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let id = &call.captures[0];
    let drive = backend
        .node
        .drives()
        .into_iter()
        .find(|drive| drive.id == *id);
    match drive {
        Some(drive) => Ok(Response::json(200, &drive)),
        None => Err(Problem::new(404, "no such drive")),
    }
}

#[derive(Serialize)]
struct VolumeResource {
    name: String,
    uuid: String,
    size: u64,
    allocated: u64,
    /// Attached clients.
    clients: usize,
    /// `null` when the appliance had no clock then.
    created_at: Option<String>,
}

impl VolumeResource {
    fn new<D: Disk + 'static>(volumes: &Volumes<D>, info: VolumeInfo) -> Self {
        Self {
            clients: volumes.clients(&info),
            uuid: uuid(info.uuid),
            size: info.size_bytes,
            allocated: info.allocated_bytes,
            created_at: (info.created_at_nanos > 0).then(|| rfc3339(info.created_at_nanos)),
            name: info.name,
        }
    }
}

fn catalog<D>(backend: &Backend<D>) -> Result<&Volumes<D>, Problem> {
    let volumes = backend.volumes.as_ref();
    volumes.ok_or_else(|| Problem::new(503, "there is no pool; /v1/drives tells what was found"))
}

async fn volumes<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let list = volumes.list().into_iter();
    let list: Vec<_> = list
        .map(|info| VolumeResource::new(volumes, info))
        .collect();
    Ok(Response::json(200, &json!({"volumes": list})))
}

async fn create_volume<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let name = call
        .body
        .get(NAME.name)
        .and_then(Value::as_str)
        .unwrap_or_default();
    let size = call
        .body
        .get(SIZE.name)
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let info = volumes.create(name, size).await?;
    let resource = VolumeResource::new(volumes, info);
    let mut response = Response::json(201, &resource);
    // Names need no percent-encoding.
    let location = format!("/v1/volumes/{}", resource.name);
    response.headers.push(("Location", location));
    Ok(response)
}

async fn volume<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let info = volumes.get(&call.captures[0])?;
    Ok(Response::json(200, &VolumeResource::new(volumes, info)))
}

async fn change_volume<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let volumes = catalog(&backend)?;
    let size = call.body.get(NEW_SIZE.name).and_then(Value::as_u64);
    let name = &call.captures[0];
    let info = match size {
        Some(size) => volumes.grow(name, size).await?,
        None => volumes.get(name)?,
    };
    Ok(Response::json(200, &VolumeResource::new(volumes, info)))
}

async fn delete_volume<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let force = call
        .query
        .get(FORCE.name)
        .and_then(Value::as_bool)
        .unwrap_or(false);
    catalog(&backend)?.delete(&call.captures[0], force).await?;
    Ok(Response::empty(204))
}

async fn log<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let lines = call
        .query
        .get(TAIL.name)
        .and_then(Value::as_u64)
        .unwrap_or(LOG_LINES);
    let lines = backend
        .node
        .log_tail(usize::try_from(lines).unwrap_or(usize::MAX));
    Ok(Response::json(200, &json!({"lines": lines})))
}

/// The usual form of a UUID.
fn uuid(bytes: [u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
