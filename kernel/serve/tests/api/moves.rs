//! Volumes that move, as the API tells it: two appliances on a network in memory.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use migration::Moves;
use peer::Peers;
use serde_json::{Value, json};
use volume::{Access, Span, VolumeError, Volumes};
use world::{Buf, Entropy, Pool};

use crate::network::Network;
use crate::ram::RamDisk;
use crate::{Reply, Rig};

/// The appliance to which volumes go.
const OTHER: (&str, u16) = ("other", 1002);

/// Blocks of a volume that takes a while.
const BLOCKS: u64 = 2048;

/// Each number is another one.
struct Counting(Cell<u64>);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0.set(self.0.get() + 1);
            *byte = self.0.get() as u8;
        }
    }
}

/// No exports here.
struct NoOrigins;

impl volume::Origins for NoOrigins {
    fn open(&self, _: &volume::OriginAddress) -> volume::Answer<'_, Rc<dyn volume::Origin>> {
        Box::pin(async { Err(volume::OriginError::Unreachable) })
    }
}

/// The volumes of an appliance that move, before its jobs are there.
pub async fn open(
    exec: &Exec,
    volumes: &Volumes<RamDisk>,
    peers: &Peers<RamDisk>,
    way: Network,
) -> Moves<RamDisk> {
    let entropy = Rc::new(Counting(Cell::new(0)));
    let pages = Pool::new(128);
    let moves = Moves::new(
        exec.clone(),
        entropy,
        volumes.clone(),
        peers.clone(),
        way,
        pages,
    );
    volumes.reach_origins_by(moves.origins(Rc::new(NoOrigins)), 128);
    moves.load().await;
    moves
}

/// Listens for others.
pub fn serve(
    network: &Network,
    peers: &Peers<RamDisk>,
    moves: &Moves<RamDisk>,
) -> impl Future<Output = ()> + 'static {
    let listener = network.listen(SocketAddr::from(([127, 0, 0, 1], peers.me().port)));
    let moves = moves.clone();
    let handler = move |channel| moves.clone().serve(channel);
    peers.clone().serve(listener, handler)
}

impl Rig {
    /// Another appliance, on a drive of its own, that this one is paired with.
    fn neighbour(&self) -> Self {
        let mut bench = self.bench.clone();
        bench.disk = RamDisk::default();
        let volumes = Volumes::new(bench.store());
        let other = Self::at(bench, volumes, self.network.clone(), OTHER);
        let token = other.call("POST", "/v1/peers/tokens", None).json();
        let address = format!("127.0.0.1:{}", OTHER.1);
        let body = json!({"address": address, "token": token["token"]}).to_string();
        let paired = self.call("POST", "/v1/peers", Some(&body));
        assert_eq!(paired.status, 201, "{paired:?}");
        other
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        let body = Some(body)
            .filter(|body| !body.is_null())
            .map(Value::to_string);
        self.call("POST", path, body.as_deref())
    }

    fn shown(&self, name: &str) -> Value {
        self.call("GET", &format!("/v1/volumes/{name}"), None)
            .json()
    }

    fn job(&self, id: &Value) -> Value {
        self.call("GET", &format!("/v1/jobs/{id}"), None).json()
    }

    /// Waits until a volume is so there, for a minute.
    fn wait_for(&self, name: &str, state: &str) {
        for _ in 0..600 {
            if self.shown(name)["move"]["state"] == state {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("not {state}: {}", self.shown(name));
    }

    fn write_byte(&self, name: &'static str, byte: u8) -> Result<(), VolumeError> {
        let volumes = self.volumes.clone();
        self.bench.run(async move {
            let volume = volumes.attach(name, Access::ReadWrite)?;
            let mut buf = Buf::from_heap(1);
            buf.block_mut(0).fill(byte);
            volume
                .write(
                    Span {
                        offset: 0,
                        len: 4096,
                    },
                    buf,
                )
                .await
        })
    }

    fn read_byte(&self, name: &'static str, block: u64) -> Result<u8, VolumeError> {
        let volumes = self.volumes.clone();
        self.bench.run(async move {
            let volume = volumes.attach(name, Access::ReadOnly)?;
            let span = Span {
                offset: block * 4096,
                len: 4096,
            };
            let (buf, result) = volume.read(span, Buf::from_heap(1)).await;
            result.map(|_| buf.block(0)[7])
        })
    }
}

#[test]
fn a_volume_moves_and_its_job_tells_how_far_it_is() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", BLOCKS);
    assert!(rig.shown("db").get("move").is_none());
    let started = rig.post(
        "/v1/volumes/db/migrate",
        &json!({"to": "other", "rate": 512 << 10}),
    );
    assert_eq!(started.status, 202, "{started:?}");
    let job = started.json();
    assert_eq!(
        started.header("location"),
        Some(&*format!("/v1/jobs/{}", job["id"]))
    );
    assert_eq!(
        (&job["kind"], &job["volume"]),
        (&json!("migrate"), &json!("db"))
    );
    assert_eq!(job["result"]["to"], "other");
    rig.wait_for("db", "given");
    other.wait_for("db", "owned");
    let here = rig.shown("db");
    assert_eq!(
        (&here["move"]["peer"], &here["move"]["job"]),
        (&json!("other"), &job["id"])
    );
    let there = other.shown("db");
    assert_eq!(there["move"]["id"], here["move"]["id"]);
    assert_eq!(there["hydration"]["from"], "ferrite://box");
    assert_eq!(rig.write_byte("db", 9), Err(VolumeError::Elsewhere));
    assert_eq!(other.write_byte("db", 9), Ok(()));
    rig.pass(Duration::from_secs(6));
    let path = format!("/v1/jobs/{}", job["id"]);
    let following = rig.job(&job["id"]);
    assert_eq!(following["result"]["phase"], "following", "{following}");
    // 1 MiB at once, and then no more than 512 KiB in a second.
    assert!(
        following["done"].as_u64().unwrap() <= 5 << 20,
        "{following}"
    );
    rig.call("DELETE", &path, None)
        .is_problem(409, "take it back");
    rig.measures(&[
        "ferrite_volume_moves{state=\"given\"} 1",
        "ferrite_volume_moves{state=\"owned\"} 0",
    ]);
    // No limit any more.
    assert_eq!(rig.call("PATCH", &path, Some(r#"{"rate":0}"#)).status, 200);
    rig.pass(Duration::from_secs(60));
    let done = rig.job(&job["id"]);
    assert_eq!(
        (&done["state"], &done["done"]),
        (&json!("done"), &json!(BLOCKS * 4096)),
        "{done}"
    );
    let bytes = &done["result"]["bytes"];
    let data = bytes["on_demand"].as_u64().unwrap() + bytes["background"].as_u64().unwrap();
    // The first block was written over there before it had arrived.
    assert!(
        ((BLOCKS - 1) * 4096..=BLOCKS * 4096).contains(&data),
        "{done}"
    );
    assert_eq!(
        other.read_byte("db", BLOCKS - 1),
        Ok((BLOCKS - 1) as u8 % 100 + 1)
    );
    assert_eq!(other.read_byte("db", 0), Ok(9));
}

#[test]
fn who_waits_hands_over_and_takes_back() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", 16);
    let wish = json!({"to": "other", "hand_over": "wait", "after": "keep"});
    let job = rig.post("/v1/volumes/db/migrate", &wish).json();
    other.wait_for("db", "prepared");
    assert_eq!(other.read_byte("db", 3), Ok(4));
    assert_eq!(other.write_byte("db", 9), Err(VolumeError::NotYet));
    assert_eq!(rig.write_byte("db", 2), Ok(()));
    rig.post("/v1/volumes/db/migrate", &json!({"to": "other"}))
        .is_problem(409, "is being moved to `other` already");
    rig.post("/v1/volumes/db/take-over", &json!({"confirm": "db"}))
        .is_problem(409, "was not given");
    rig.call("DELETE", "/v1/volumes/db", None)
        .is_problem(409, "being moved");
    let given = rig.post("/v1/volumes/db/hand-over", &Value::Null);
    assert_eq!(given.status, 200, "{given:?}");
    assert_eq!(
        (
            &given.json()["move"]["state"],
            &given.json()["move"]["confirmed"]
        ),
        (&json!("given"), &json!(true))
    );
    assert_eq!(other.write_byte("db", 9), Ok(()));
    rig.post("/v1/volumes/db/migrate", &json!({"to": "other"}))
        .is_problem(409, "was given to `other`");
    let back = rig.post("/v1/volumes/db/take-back", &Value::Null);
    assert_eq!(
        (back.status, &back.json()["move"]["state"]),
        (200, &json!("owned")),
        "{back:?}"
    );
    assert_eq!(rig.read_byte("db", 0), Ok(9));
    assert_eq!(rig.write_byte("db", 8), Ok(()));
    rig.pass(Duration::from_secs(15));
    assert_eq!(rig.job(&job["id"])["state"], "cancelled");
    other
        .call("GET", "/v1/volumes/db", None)
        .is_problem(404, "`db`");
}

#[test]
fn a_cancelled_job_takes_the_offer_back() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", 16);
    let wish = json!({"to": "other", "hand_over": "wait"});
    let job = rig.post("/v1/volumes/db/migrate", &wish).json();
    other.wait_for("db", "prepared");
    let cancelled = rig.call("DELETE", &format!("/v1/jobs/{}", job["id"]), None);
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &json!("cancelled"))
    );
    rig.post("/v1/volumes/db/hand-over", &Value::Null)
        .is_problem(409, "not offered");
    rig.pass(Duration::from_secs(15));
    assert_eq!(rig.shown("db")["move"]["state"], "owned");
    other
        .call("GET", "/v1/volumes/db", None)
        .is_problem(404, "`db`");
}

#[test]
fn a_paused_job_is_not_handed_over() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", 16);
    let job = rig
        .post("/v1/volumes/db/migrate", &json!({"to": "other"}))
        .json();
    let path = format!("/v1/jobs/{}", job["id"]);
    let change = |state| rig.call("PATCH", &path, Some(&json!({"state": state}).to_string()));
    assert_eq!(change("paused").status, 200);
    other.wait_for("db", "prepared");
    rig.pass(Duration::from_secs(15));
    assert_eq!(rig.shown("db")["move"]["state"], "offered");
    assert_eq!(change("running").status, 200);
    other.wait_for("db", "owned");
}

#[test]
fn what_is_lost_elsewhere_is_taken_over_by_name_only() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", 16);
    assert_eq!(
        rig.post("/v1/volumes/db/take-over", &json!({"confirm": "db"}))
            .status,
        409
    );
    rig.post("/v1/volumes/db/migrate", &json!({"to": "other"}));
    other.wait_for("db", "owned");
    assert_eq!(other.write_byte("db", 9), Ok(()));
    let wrong = rig.post("/v1/volumes/db/take-over", &json!({"confirm": "other"}));
    wrong.is_problem(409, "is lost");
    assert_eq!(wrong.json()["field"], "confirm");
    let taken = rig.post("/v1/volumes/db/take-over", &json!({"confirm": "db"}));
    assert_eq!(
        (taken.status, &taken.json()["move"]["state"]),
        (200, &json!("owned")),
        "{taken:?}"
    );
    assert_eq!(rig.read_byte("db", 0), Ok(1));
}

#[test]
fn wrong_wishes_are_refused_with_what_to_do() {
    let rig = Rig::new();
    let _other = rig.neighbour();
    rig.fill("db", 16);
    for (volume, wish, status, field, about) in [
        (
            "db",
            json!({"to": "nobody"}),
            404,
            "to",
            "no such peer: `nobody`",
        ),
        ("none", json!({"to": "other"}), 404, "", "`none`"),
        (
            "db",
            json!({"to": "other", "hand_over": "later"}),
            422,
            "hand_over",
            "now, wait",
        ),
        (
            "db",
            json!({"to": "other", "after": "burn"}),
            422,
            "after",
            "keep, free, snapshot",
        ),
        ("db", json!({}), 422, "to", "`to` is missing"),
    ] {
        let refused = rig.post(&format!("/v1/volumes/{volume}/migrate"), &wish);
        refused.is_problem(status, about);
        let expected = Some(field).filter(|field| !field.is_empty());
        assert_eq!(refused.json()["field"].as_str(), expected, "{refused:?}");
    }
    for what in ["hand-over", "take-back"] {
        rig.post(&format!("/v1/volumes/db/{what}"), &Value::Null)
            .is_problem(409, "`db`");
        rig.post(&format!("/v1/volumes/none/{what}"), &Value::Null)
            .is_problem(404, "`none`");
    }
    assert_eq!(
        rig.call("GET", "/v1/jobs", None).json(),
        json!({"jobs": []})
    );
}

#[test]
fn a_snapshot_of_a_peer_becomes_a_volume() {
    let rig = Rig::new();
    let other = rig.neighbour();
    rig.fill("db", 16);
    let made = rig.post("/v1/volumes/db/snapshots", &json!({"name": "monday"}));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(rig.write_byte("db", 9), Ok(()));
    let adopt =
        |origin: Value| other.post("/v1/volumes", &json!({"name": "copy", "origin": origin}));
    for (origin, status, about) in [
        (
            json!({"appliance": "box", "volume": "db"}),
            422,
            "or migrate the volume",
        ),
        (json!({"appliance": "box"}), 422, "`appliance` and `volume`"),
        (
            json!({"appliance": "box", "nbd": "nbd://10.0.0.5/a", "volume": "db@monday"}),
            422,
            "`nbd`",
        ),
        (
            json!({"nbd": "ferrite://box/db@monday"}),
            422,
            "an NBD export",
        ),
        (
            json!({"nbd": "moved:000102030405060708090a0b0c0d0e0f/7"}),
            422,
            "an NBD export",
        ),
        (
            json!({"appliance": "nobody", "volume": "db@monday"}),
            404,
            "not paired",
        ),
        (
            json!({"appliance": "box", "volume": "db@friday"}),
            404,
            "no such",
        ),
    ] {
        adopt(origin).is_problem(status, about);
    }
    let adopted = adopt(json!({"appliance": "box", "volume": "db@monday"}));
    assert_eq!(adopted.status, 201, "{adopted:?}");
    assert_eq!(
        adopted.json()["hydration"]["from"],
        "ferrite://box/db@monday"
    );
    assert_eq!(other.read_byte("copy", 0), Ok(1));
    other.pass(Duration::from_secs(30));
    assert_eq!(other.shown("copy")["hydration"], Value::Null);
    assert_eq!(other.read_byte("copy", 15), Ok(16));
}
