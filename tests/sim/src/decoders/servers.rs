//! Whole sessions with whatever a client may send.

use std::rc::Rc;

use net::Stream;
use net::pipe::pipe_port;
use serve::api::{Backend, DriveInfo, MemoryInfo, Node, NodeInfo};
use serve::{api as api_server, nbd as nbd_server};
use store::{FormatOptions, Store};
use volume::Volumes;
use world::Pool;

use super::{DEADLINE, environment, machine, small_config};
use crate::disk::SimDisk;
use crate::machine::Machine;

/// Bytes that fit in a pipe.
const PIPE_BYTES: usize = 4096;

struct Rig {
    machine: Machine,
    volumes: Volumes<SimDisk>,
}

/// An appliance with one volume, `demo`, of 1 MiB.
fn rig() -> Rig {
    let machine = machine(&[(64 << 20) / 4096]);
    let (environment, disks) = (environment(&machine), machine.disks.clone());
    let made = machine.block_on(DEADLINE, async move {
        Store::format(&disks, &environment, FormatOptions::default()).await?;
        let store = Store::open(disks, environment, small_config()).await?;
        store.create_volume("demo", 1 << 20).await?;
        Ok::<_, store::StoreError>(store)
    });
    let Ok(Ok(store)) = made else {
        panic!("no pool for the server");
    };
    Rig {
        machine,
        volumes: Volumes::new(store),
    }
}

/// Sends `bytes` through `dialer` and takes answers until the server has no more.
fn talk(rig: Rig, dialer: net::pipe::PipeDialer, bytes: Vec<u8>) {
    let exec = rig.machine.exec.clone();
    let finished = rig.machine.block_on(DEADLINE, async move {
        let Ok(stream) = dialer.connect() else { return };
        let sender = stream.clone();
        exec.spawn(async move {
            if sender.write_all(&bytes).await.is_ok() {
                sender.finish();
            }
        });
        let mut answer = [0; 4096];
        while matches!(stream.read(&mut answer).await, Ok(1..)) {}
    });
    assert_eq!(finished, Ok(()), "a session that hangs");
    rig.machine.switch_off();
}

/// An NBD connection on which a client sends `bytes`; with a first byte of 128 or more a proper handshake goes before, with one of 192 or more
/// one for extended headers and a metadata context.
pub fn nbd_session(bytes: &[u8]) {
    let rig = rig();
    let (listener, dialer) = pipe_port(PIPE_BYTES);
    let exec = rig.machine.exec.clone();
    let limits = nbd_server::Limits::default();
    let pool = Pool::new(64);
    let server = nbd_server::Server::new(exec.clone(), rig.volumes.clone(), pool, limits);
    exec.spawn(server.serve(listener));
    let mut sent = Vec::new();
    if bytes.first().is_some_and(|byte| *byte >= 128) {
        sent.extend(3_u32.to_be_bytes());
        if bytes.first().is_some_and(|byte| *byte >= 192) {
            sent.extend(b"IHAVEOPT\0\0\0\x0b\0\0\0\0");
            sent.extend(b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01");
            sent.extend(b"\0\0\0\x0fbase:allocation");
        }
        sent.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    }
    sent.extend(bytes.get(1..).unwrap_or_default());
    talk(rig, dialer, sent);
}

/// An HTTP connection. The first byte chooses: raw bytes, or `bytes` as the body of one of the requests that have one.
pub fn api(bytes: &[u8]) {
    let rig = rig();
    let (listener, dialer) = pipe_port(PIPE_BYTES);
    let exec = rig.machine.exec.clone();
    let backend = Backend {
        node: Rc::new(QuietNode),
        volumes: Some(rig.volumes.clone()),
        upkeep: None,
        token: "token".to_string(),
    };
    let server = api_server::Server::new(exec.clone(), backend, api_server::Limits::default());
    exec.spawn(server.serve(listener));
    let (kind, body) = bytes.split_first().unwrap_or((&0, &[]));
    let request = match kind % 3 {
        0 => None,
        1 => Some("POST /v1/volumes"),
        _ => Some("PATCH /v1/volumes/demo"),
    };
    let mut sent = Vec::new();
    if let Some(request) = request {
        let len = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\
             Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        );
        sent.extend(head.into_bytes());
    }
    sent.extend(body);
    talk(rig, dialer, sent);
}

struct QuietNode;

impl Node for QuietNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "fuzz".to_string(),
            version: String::new(),
            uptime_ms: 0,
            memory: MemoryInfo { total: 0, free: 0 },
        }
    }

    fn drives(&self) -> Vec<DriveInfo> {
        Vec::new()
    }

    fn log_tail(&self, _lines: usize) -> Vec<String> {
        Vec::new()
    }

    fn shutdown(&self) {}

    fn reboot(&self) {}
}
