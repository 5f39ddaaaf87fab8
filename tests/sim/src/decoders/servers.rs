//! Whole sessions with whatever a client may send.

use std::net::SocketAddr;
use std::rc::Rc;

use access::{Audit, Tokens};
use net::pipe::{Pipe, pipe_port};
use net::{Connect, NetError, Stream};
use peer::{Me, Peers};
use serve::api::{
    Backend, DriveInfo, FormatError, LogLevels, MemoryInfo, Node, NodeInfo, Peering, Pending,
    SettingInfo,
};
use serve::{api as api_server, nbd as nbd_server};
use store::{FormatOptions, Store};
use volume::Volumes;
use world::{Buf, Pool};

use super::{DEADLINE, entropy, environment, machine, replies, small_config};
use crate::disk::SimDisk;
use crate::machine::Machine;

/// Bytes that fit in a pipe.
const PIPE_BYTES: usize = 4096;

struct Rig {
    machine: Machine,
    volumes: Volumes<SimDisk>,
}

/// An appliance with one volume, `demo`, of 1 MiB, and a snapshot of it, `s`; data and holes alternate in both.
fn rig() -> Rig {
    let machine = machine(&[(64 << 20) / 4096]);
    let (environment, disks) = (environment(&machine), machine.disks.clone());
    let made = machine.block_on(DEADLINE, async move {
        Store::format(&disks, &environment, FormatOptions::default()).await?;
        let store = Store::open(disks, environment, small_config()).await?;
        let demo = store.create_volume("demo", 1 << 20).await?.id;
        for block in 0..4 {
            let span = crate::client::span(block * 8192, 4096);
            store.write(demo, span, Buf::from_heap(1)).await?;
        }
        store.create_snapshot(demo, "s").await?;
        store.discard(demo, 0, 4096).await?;
        let span = crate::client::span(4096, 4096);
        store.write(demo, span, Buf::from_heap(1)).await?;
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
fn talk(rig: Rig, dialer: net::pipe::PipeDialer, bytes: Vec<u8>) -> Vec<u8> {
    let exec = rig.machine.exec.clone();
    let answers = rig.machine.block_on(DEADLINE, async move {
        let mut answers = Vec::new();
        let Ok(stream) = dialer.connect() else {
            return answers;
        };
        let sender = stream.clone();
        exec.spawn(async move {
            if sender.write_all(&bytes).await.is_ok() {
                sender.finish();
            }
        });
        let mut answer = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut answer).await {
            answers.extend_from_slice(&answer[..len]);
        }
        answers
    });
    rig.machine.switch_off();
    answers.unwrap_or_else(|stop| panic!("a session that hangs: {stop:?}"))
}

/// An NBD connection on which a client sends `bytes`; with a first byte of 128 or more a proper handshake goes before, with one of 192 or more
/// one for extended headers and a metadata context. The answers must be ones that the protocol knows.
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
    replies::follow(&talk(rig, dialer, sent));
}

/// Requests that have a body.
const WITH_BODIES: [&str; 6] = [
    "POST /v1/volumes",
    "PATCH /v1/volumes/demo",
    "POST /v1/tokens",
    "PUT /v1/log/levels",
    "POST /v1/snapshots",
    "POST /v1/peers",
];

/// A network on which nobody is.
struct Nobody;

impl Connect for Nobody {
    type Stream = Pipe;

    async fn connect(&self, _to: SocketAddr) -> Result<Pipe, NetError> {
        Err(NetError::Unreachable)
    }
}

/// An HTTP connection. The first byte chooses: raw bytes, `bytes` as the body of one of the requests that have one, or
/// `bytes` as what was kept of tokens and of the audit log.
pub fn api(bytes: &[u8]) {
    let rig = rig();
    let (listener, dialer) = pipe_port(PIPE_BYTES);
    let exec = rig.machine.exec.clone();
    let (kind, body) = bytes.split_first().unwrap_or((&0, &[]));
    let kind = usize::from(*kind) % (WITH_BODIES.len() + 2);
    let kept = (kind == WITH_BODIES.len() + 1).then(|| body.to_vec());
    let (of, store) = (exec.clone(), rig.volumes.store().clone());
    let opened = rig.machine.block_on(DEADLINE, async move {
        for key in ["token/1", "audit/0"] {
            if let Some(kept) = &kept {
                let _ = store
                    .set_record(key, Some(&kept[..kept.len().min(3072)]))
                    .await;
            }
        }
        let entropy = Rc::new(entropy());
        let drawn = entropy.clone();
        let (tokens, _) = Tokens::open(of.clone(), store.clone(), drawn, Some("token")).await;
        let me = Me {
            name: "fuzz".to_string(),
            port: peer::PORT,
        };
        let peers = Peers::open(of.clone(), store.clone(), entropy, me).await;
        let audit = Audit::open(of, Some(store)).await;
        (tokens, audit, peers.expect("peers"))
    });
    let Ok((tokens, audit, peers)) = opened else {
        panic!("what was kept hangs");
    };
    let backend = Backend {
        node: Rc::new(QuietNode),
        volumes: Some(rig.volumes.clone()),
        upkeep: None,
        peers: Some(Peering::new(peers, Nobody)),
        moves: None,
        tokens,
        audit,
    };
    let server = api_server::Server::new(exec.clone(), backend, api_server::Limits::default());
    exec.spawn(server.serve(listener));
    let mut sent = Vec::new();
    if let Some(request) = WITH_BODIES.get(kind.wrapping_sub(1)) {
        let len = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\nIdempotency-Key: k\r\n\
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
            nbd_port: 10809,
            memory: MemoryInfo { total: 0, free: 0 },
            crash: None,
        }
    }

    fn drives(&self) -> Vec<DriveInfo> {
        Vec::new()
    }

    fn network(&self) -> net::NetCounters {
        net::NetCounters::default()
    }

    fn configuration(&self) -> Vec<SettingInfo> {
        Vec::new()
    }

    fn log_tail(&self, _lines: usize) -> Vec<String> {
        Vec::new()
    }

    fn log_levels(&self) -> LogLevels {
        LogLevels {
            level: log::LevelFilter::Info,
            modules: Vec::new(),
        }
    }

    fn log_modules(&self) -> &'static [&'static str] {
        &[]
    }

    fn set_log_levels(&self, _levels: LogLevels) {}

    fn format_drive(&self, _id: &str, _confirm: &str) -> Pending<Result<DriveInfo, FormatError>> {
        Box::pin(async { Err(FormatError::NoDrive) })
    }

    fn shutdown(&self) {}

    fn reboot(&self) {}
}
