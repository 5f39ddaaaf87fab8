//! The appliance itself: its node, drives, pool and log.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use serde::Serialize;
use serde_json::json;
use upkeep::Upkeep;
use volume::{Fullness, PoolInfo, PoolState, Volumes, writable_bytes};
use world::Disk;

use super::Backend;
use super::forms::CONFIRM;
use super::node::{DriveInfo, DriveState, NodeInfo};
use super::openapi;
use super::problem::Problem;
use super::router::{Call, Handled, Response};
use super::routes::routes;

pub(super) async fn health<D>(_: Rc<Backend<D>>, _: Call) -> Handled {
    Ok(Response::json(200, &json!({"status": "ok"})))
}

pub(super) async fn openapi<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let document = call.document.get_or_init(|| {
        let version = backend.node.info().version;
        let document = openapi::document(routes::<D>(), &version);
        Rc::new(serde_json::to_vec(&document).expect("our own types become JSON"))
    });
    Ok(Response::shared(200, document.clone()))
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
    /// Of the free bytes: what can be written before writes are refused.
    writable: u64,
    pending: u64,
    reserved: u64,
    /// How close to full it is: `fine`, `low`, `critical` or `full`.
    fullness: &'static str,
    /// Bytes that the drives were told are not needed any more.
    deallocated: u64,
    checkpoints: u64,
    damaged_reads: u64,
}

impl From<PoolInfo> for PoolResource {
    fn from(info: PoolInfo) -> Self {
        let writable = writable_bytes(&info);
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
            writable,
            pending: info.pending_bytes,
            reserved: info.reserved_bytes,
            fullness: match info.fullness {
                Fullness::Fine => "fine",
                Fullness::Low => "low",
                Fullness::Critical => "critical",
                Fullness::Full => "full",
            },
            deallocated: info.deallocated_bytes,
            checkpoints: info.checkpoints,
            damaged_reads: info.damaged_reads,
        }
    }
}

pub(super) async fn node<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
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

pub(super) async fn configuration<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let options = backend.node.configuration();
    Ok(Response::json(200, &json!({"options": options})))
}

pub(super) async fn shutdown<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    backend.node.shutdown();
    Ok(Response::json(202, &json!({"status": "shutting down"})))
}

pub(super) async fn reboot<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    backend.node.reboot();
    Ok(Response::json(202, &json!({"status": "rebooting"})))
}

pub(super) async fn drives<D>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let drives = backend.node.drives();
    Ok(Response::json(200, &json!({"drives": drives})))
}

pub(super) async fn drive<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
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

pub(super) async fn format<D>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let confirm = call.text(&CONFIRM).unwrap_or_default();
    let drive = backend
        .node
        .format_drive(&call.captures[0], confirm)
        .await?;
    Ok(Response::json(200, &drive))
}

/// The volumes, if there is a pool.
pub(super) fn catalog<D>(backend: &Backend<D>) -> Result<&Volumes<D>, Problem> {
    backend.volumes.as_ref().ok_or_else(no_pool)
}

/// Jobs and schedules, if there is a pool.
pub(super) fn upkeep<D>(backend: &Backend<D>) -> Result<&Upkeep<D>, Problem> {
    backend.upkeep.as_ref().ok_or_else(no_pool)
}

pub(super) fn no_pool() -> Problem {
    Problem::new(503, "there is no pool; /v1/drives tells what was found")
}

/// The usual form of a UUID.
pub(super) fn uuid(bytes: [u8; 16]) -> String {
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
