//! The HTTP API as clients see it: requests in, responses out, over a pipe and a store in memory.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../peer/tests/peer/network.rs"]
mod network;
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

#[path = "api/console.rs"]
mod console;
#[path = "api/edits.rs"]
mod edits;
#[path = "api/http.rs"]
mod http;
#[path = "api/jobs.rs"]
mod jobs;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/moves.rs"]
mod moves;
#[path = "api/peers.rs"]
mod peers;
#[path = "api/reference.rs"]
mod reference;
#[path = "api/resources.rs"]
mod resources;
#[path = "api/room.rs"]
mod room;
#[path = "api/schedules.rs"]
mod schedules;
#[path = "api/snapshots.rs"]
mod snapshots;
#[path = "api/tokens.rs"]
mod tokens;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use access::{Audit, Tokens};
use net::pipe::{Pipe, PipeDialer, pipe_port};
use net::{NetCounters, Stream};
use network::Network;
use ram::{Bench, RamDisk};
use serde_json::Value;
use serve::api::{
    Backend, DriveInfo, DriveState, FormatError, Limits, LogLevels, MemoryInfo, Node, NodeInfo,
    Peering, Pending, Server, SettingInfo,
};
use upkeep::Upkeep;
use volume::{Meters, Volumes};
use world::Entropy;

struct FakeNode {
    shutdowns: Cell<u32>,
    reboots: Cell<u32>,
    levels: RefCell<LogLevels>,
    crash: RefCell<Option<String>>,
    /// The drive's state, reason and work.
    state: Cell<DriveState>,
    trouble: RefCell<Option<String>>,
    meters: Rc<Meters>,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self {
            shutdowns: Cell::default(),
            reboots: Cell::default(),
            levels: RefCell::new(LogLevels {
                level: log::LevelFilter::Info,
                modules: Vec::new(),
            }),
            crash: RefCell::default(),
            state: Cell::new(DriveState::Serving),
            trouble: RefCell::default(),
            meters: Rc::default(),
        }
    }
}

/// Counts: no two secrets are the same.
struct Counting(Cell<u8>);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.set(self.0.get() + 1);
        bytes.fill(self.0.get());
    }
}

impl Node for FakeNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "box".into(),
            version: "0.1.0".into(),
            uptime_ms: 1234,
            nbd_port: 10809,
            memory: MemoryInfo { total: 2, free: 1 },
            crash: self.crash.borrow().clone(),
        }
    }

    fn drives(&self) -> Vec<DriveInfo> {
        vec![DriveInfo {
            id: "nvme0n1".into(),
            model: "M".into(),
            serial: "S".into(),
            slot: "0000:00:04.0".into(),
            state: self.state.get(),
            detail: self.trouble.borrow().clone(),
            size: 1 << 30,
            used: 4096,
            errors: 0,
            meters: self.meters.clone(),
        }]
    }

    fn network(&self) -> NetCounters {
        NetCounters {
            accepted: 9,
            retransmissions: 3,
            sockets: 5,
            half_open: 2,
            ..NetCounters::default()
        }
    }

    fn configuration(&self) -> Vec<SettingInfo> {
        vec![SettingInfo {
            key: "node.name",
            value: Some("box".into()),
            default: "ferrite",
            about: "Its name.",
        }]
    }

    fn log_tail(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|line| format!("line {line}")).collect()
    }

    fn log_levels(&self) -> LogLevels {
        self.levels.borrow().clone()
    }

    fn log_modules(&self) -> &'static [&'static str] {
        &["nvme", "store"]
    }

    fn set_log_levels(&self, levels: LogLevels) {
        *self.levels.borrow_mut() = levels;
    }

    fn format_drive(&self, id: &str, confirm: &str) -> Pending<Result<DriveInfo, FormatError>> {
        let drive = self.drives().into_iter().find(|drive| drive.id == id);
        let confirmed = confirm == "S";
        Box::pin(async move {
            let drive = drive.ok_or(FormatError::NoDrive)?;
            match confirmed {
                true => Ok(drive),
                false => Err(FormatError::WrongSerial),
            }
        })
    }

    fn shutdown(&self) {
        self.shutdowns.set(self.shutdowns.get() + 1);
    }

    fn reboot(&self) {
        self.reboots.set(self.reboots.get() + 1);
    }
}

struct Rig {
    bench: Bench,
    port: PipeDialer,
    node: Rc<FakeNode>,
    volumes: Volumes<RamDisk>,
    audit: Audit<RamDisk>,
    /// Where other appliances are.
    network: Network,
}

impl Rig {
    fn new() -> Self {
        let bench = Bench::new();
        let store = bench.store();
        Self::on(bench, Volumes::new(store))
    }

    /// The rooms above a store.
    fn on(bench: Bench, volumes: Volumes<RamDisk>) -> Self {
        let network = Network::new(&bench.exec);
        Self::at(bench, volumes, network, ("box", peers::PORT))
    }

    /// The same, as an appliance with this name, and this port for peers, on a network.
    fn at(
        bench: Bench,
        volumes: Volumes<RamDisk>,
        network: Network,
        (name, port): (&'static str, u16),
    ) -> Self {
        let (exec, of, way) = (bench.exec.clone(), volumes.clone(), network.clone());
        let (moves, upkeep, tokens, audit, peers) = bench.run(async move {
            let store = of.store();
            let peers = peers::open(&exec, store, name, port).await;
            let moves = moves::open(&exec, &of, &peers, way).await;
            let upkeep = Upkeep::open(&exec, &of).await;
            moves.begin(&upkeep.jobs);
            let entropy = Rc::new(Counting(Cell::new(0)));
            let tokens = Tokens::open(exec.clone(), store.clone(), entropy, Some("secret"));
            let (tokens, first) = tokens.await;
            assert!(first.is_none());
            let audit = Audit::open(exec.clone(), Some(store.clone())).await;
            (moves, upkeep, tokens, audit, peers)
        });
        let (listener, port) = pipe_port(16 << 10);
        let rig = Self {
            port,
            node: Rc::default(),
            bench,
            volumes,
            audit: audit.clone(),
            network: network.clone(),
        };
        rig.bench.exec.spawn(moves::serve(&network, &peers, &moves));
        let backend = Backend {
            node: rig.node.clone(),
            volumes: Some(rig.volumes.clone()),
            upkeep: Some(upkeep),
            peers: Some(Peering::new(peers, network)),
            moves: Some(moves),
            tokens,
            audit,
        };
        let server = Server::new(rig.bench.exec.clone(), backend, Limits::default());
        rig.bench.exec.spawn(server.serve(listener));
        rig
    }

    fn story<F: Future<Output = ()> + 'static>(&self, story: impl FnOnce(PipeDialer) -> F) {
        self.bench.run(story(self.port.clone()));
    }

    /// The answer of `/metrics`, which must have these lines.
    fn measures(&self, lines: &[&str]) -> Reply {
        let reply = self.call("GET", "/metrics", None);
        assert_eq!(reply.status, 200);
        let kind = reply.header("content-type").unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"));
        for line in lines {
            let is_there = reply.body.lines().any(|one| one == *line);
            assert!(is_there, "no {line} in {}", reply.body);
        }
        reply
    }

    /// One request with the token.
    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Reply {
        self.call_with(&["Authorization: Bearer secret"], method, path, body)
    }

    /// One request with these headers.
    fn call_with(&self, headers: &[&str], method: &str, path: &str, body: Option<&str>) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for header in headers {
            text += &format!("{header}\r\n");
        }
        if let Some(body) = body {
            text += "Content-Type: application/json\r\n";
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body.unwrap_or_default();
        self.raw(text)
    }

    /// One request as it is.
    fn raw(&self, text: impl Into<String>) -> Reply {
        let (stream, text) = (self.port.connect().unwrap(), text.into());
        self.bench.run(async move {
            let _ = stream.write_all(text.as_bytes()).await;
            Reply::read(&stream).await
        })
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    async fn read(stream: &Pipe) -> Self {
        let head = Self::read_head(stream).await;
        let len = header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await.expect("a whole body");
        let body = String::from_utf8(body).unwrap();
        Self::new(head, body)
    }

    async fn read_head(stream: &Pipe) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("a whole head");
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    fn new(head: String, body: String) -> Self {
        assert!(head.starts_with("HTTP/1.1 "), "{head:?}");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// Checks that this is a problem, and that it speaks of `about`.
    fn is_problem(&self, status: u16, about: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(about),
            "{detail:?} does not speak of {about:?}"
        );
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}
