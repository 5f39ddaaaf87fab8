//! Pairing, as the API tells it: appliances on a network in memory.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use peer::{Me, Peers};
use serde_json::{Value, json};
use store::Store;
use world::Entropy;

use crate::network::Network;
use crate::ram::RamDisk;
use crate::{Reply, Rig};

/// Where the appliance that is asked listens for peers.
pub const PORT: u16 = 1001;
/// Where the other one does.
const OTHER: &str = "127.0.0.1:1002";

/// Numbers that the seed decides.
struct Seeded(Cell<u64>);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005);
            self.0.set(next.wrapping_add(1_442_695_040_888_963_407));
            *byte = (self.0.get() >> 33) as u8;
        }
    }
}

/// The peers of an appliance with this name, at 127.0.0.1 and this port.
pub async fn open(exec: &Exec, store: &Store<RamDisk>, name: &str, port: u16) -> Peers<RamDisk> {
    let me = Me {
        name: name.into(),
        port,
    };
    let entropy = Rc::new(Seeded(Cell::new(port.into())));
    let peers = Peers::open(exec.clone(), store.clone(), entropy, me);
    peers.await.expect("peers")
}

/// Listens for others.
pub fn serve(network: &Network, peers: &Peers<RamDisk>) -> impl Future<Output = ()> + 'static {
    let listener = network.listen(SocketAddr::from(([127, 0, 0, 1], peers.me().port)));
    peers.clone().serve(listener, |channel| async move {
        let _ = channel.finish().await;
    })
}

impl Rig {
    /// Another appliance, on a drive of its own.
    fn other(&self, name: &str, port: u16) -> Peers<RamDisk> {
        let mut bench = self.bench.clone();
        bench.disk = RamDisk::default();
        let (exec, store, name) = (bench.exec.clone(), bench.store(), name.to_owned());
        let opening = async move { open(&exec, &store, &name, port).await };
        let peers = self.bench.run(opening);
        self.bench.exec.spawn(serve(&self.network, &peers));
        peers
    }

    fn pair(&self, address: &str, token: &str) -> Reply {
        let body = json!({"address": address, "token": token}).to_string();
        self.call("POST", "/v1/peers", Some(&body))
    }
}

fn token(of: &Peers<RamDisk>) -> String {
    of.make_token().expect("a token").text()
}

#[test]
fn a_peer_from_pairing_to_removal() {
    let rig = Rig::new();
    let other = rig.other("other", 1002);
    let alone = rig.call("GET", "/v1/peers", None).json();
    let key = alone["key"].as_str().unwrap();
    assert_eq!(
        alone,
        json!({"name": "box", "key": key, "port": 1001, "peers": []})
    );

    let token = token(&other);
    let paired = rig.pair(OTHER, &token);
    assert_eq!(paired.status, 201, "{paired:?}");
    assert_eq!(paired.header("location"), Some("/v1/peers/other"));
    let peer = paired.json();
    assert_eq!(
        peer,
        json!({"name": "other", "key": other.key().to_string(), "address": OTHER,
            "paired_at": "2023-11-14T22:13:20.000Z"})
    );
    let there = other.find("box").expect("both know each other");
    assert_eq!(
        (there.key.to_string().as_str(), there.address.port()),
        (key, PORT)
    );
    assert_eq!(
        rig.call("GET", "/v1/peers", None).json()["peers"],
        json!([peer])
    );
    let got = rig.call("GET", "/v1/peers/other", None);
    assert_eq!(got.json(), peer);

    let tag = format!("If-Match: {}", got.header("etag").unwrap());
    let headers = ["Authorization: Bearer secret", &tag];
    let moved = Some(r#"{"address":"[fd00::5]"}"#);
    let change = |headers: &[&str]| rig.call_with(headers, "PATCH", "/v1/peers/other", moved);
    let changed = change(&headers);
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.json()["address"], "[fd00::5]:10810");
    change(&headers).is_problem(412, "If-Match");

    assert_eq!(rig.call("DELETE", "/v1/peers/other", None).status, 204);
    for method in ["GET", "DELETE"] {
        rig.call(method, "/v1/peers/other", None)
            .is_problem(404, "no such peer: `other`");
    }
    assert!(other.find("box").is_some(), "there it is removed by itself");
}

#[test]
fn a_token_is_told_once_and_opens_once() {
    let rig = Rig::new();
    let other = rig.other("other", 1002);
    let made = rig.call("POST", "/v1/peers/tokens", None);
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(made["expires_in_ms"], 600_000);
    let token = made["token"].as_str().unwrap().to_owned();
    let (network, to) = (
        rig.network.clone(),
        SocketAddr::from(([127, 0, 0, 1], PORT)),
    );
    let paired = rig
        .bench
        .run(async move { other.pair(&network, to, &token).await });
    assert_eq!(paired.map(|peer| peer.name), Ok("box".into()));
    assert_eq!(
        rig.call("GET", "/v1/peers", None).json()["peers"][0]["name"],
        "other"
    );
    for _ in 0..4 {
        assert_eq!(rig.call("POST", "/v1/peers/tokens", None).status, 201);
    }
    rig.call("POST", "/v1/peers/tokens", None)
        .is_problem(409, "wait until they expire");
    rig.pass(Duration::from_secs(600));
    assert_eq!(rig.call("POST", "/v1/peers/tokens", None).status, 201);
}

#[test]
fn who_cannot_be_paired_is_told_why_and_what_to_do() {
    let rig = Rig::new();
    let other = rig.other("other", 1002);
    let namesake = rig.other("box", 1003);
    let second = rig.other("other", 1004);
    let used = token(&other);
    assert_eq!(rig.pair(OTHER, &used).status, 201);
    let own = rig.call("POST", "/v1/peers/tokens", None).json();
    let wrong = format!("ferrite_pair_{}", "ab".repeat(32));
    for (address, token, status, field, about) in [
        (
            OTHER,
            used,
            409,
            "token",
            "was used, or is older than 10 minutes",
        ),
        (OTHER, wrong.clone(), 409, "token", "make another one there"),
        (
            "127.0.0.1:9",
            wrong,
            404,
            "address",
            "nobody answers at 127.0.0.1:9",
        ),
        (
            "127.0.0.1:1001",
            own["token"].as_str().unwrap().into(),
            409,
            "address",
            "itself",
        ),
        (
            "127.0.0.1:1003",
            token(&namesake),
            409,
            "",
            "another `node.name`",
        ),
        (
            "127.0.0.1:1004",
            token(&second),
            409,
            "",
            "another `node.name`",
        ),
        (
            "box:1003",
            token(&second),
            422,
            "address",
            "names of machines cannot",
        ),
        (
            OTHER,
            "ferrite_pair_ab".into(),
            422,
            "token",
            "the other appliance made",
        ),
    ] {
        let refused = rig.pair(address, &token);
        refused.is_problem(status, about);
        let expected = Some(field).filter(|field| !field.is_empty());
        assert_eq!(refused.json()["field"].as_str(), expected, "{refused:?}");
    }
    // There, the name is taken, too.
    let third = rig.other("third", 1005);
    let (network, to) = (
        rig.network.clone(),
        SocketAddr::from(([127, 0, 0, 1], 1005)),
    );
    let made = token(&third);
    let paired = rig
        .bench
        .run(async move { namesake.pair(&network, to, &made).await });
    assert!(paired.is_ok(), "{paired:?}");
    rig.pair("127.0.0.1:1005", &token(&third))
        .is_problem(409, "has a peer `box` already");
    let names = rig.call("GET", "/v1/peers", None).json();
    assert_eq!(names["peers"].as_array().unwrap().len(), 1, "{names}");
}

#[test]
fn whatever_is_sent_as_a_token_is_not_noted() {
    let rig = Rig::new();
    let other = rig.other("other", 1002);
    let secret = token(&other);
    let good = format!(r#"{{"address":"{OTHER}","token":"{secret}"}}"#);
    let rejected = [
        format!(r#"{{"adress":"{secret}","token":"{secret}"}}"#),
        format!(r#"{{"address":"{secret}","token":"{OTHER}"}}"#),
        format!(r#"{{"address":"{OTHER}","token":"{secret}""#),
        format!(r#""{secret}""#),
        r#"{"address":"127.0.0.1:1002","token":"ferrite_of-the-api"}"#.into(),
    ];
    for body in &rejected {
        let status = rig.call("POST", "/v1/peers", Some(body)).status;
        assert!(matches!(status, 400 | 422), "{body}: {status}");
    }
    let path = format!("/v1/peers?token={secret}");
    assert_eq!(rig.call("POST", &path, Some(&good)).status, 400);
    assert_eq!(rig.call("POST", "/v1/peers", Some(&good)).status, 201);
    let made = rig.call("POST", "/v1/peers/tokens", None).json();
    let notes = rig.call("GET", "/v1/audit", None);
    for secret in [&secret[13..], made["token"].as_str().unwrap(), "of-the-api"] {
        assert!(!notes.body.contains(secret), "{}", notes.body);
    }
    let with: Vec<Value> = notes.json()["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["with"].clone())
        .collect();
    let hidden = json!({"address": OTHER, "token": "(hidden)"}).to_string();
    assert_eq!(with[..3], [json!(""), json!(hidden), json!("")]);
    assert_eq!(with.len(), 2 + 1 + rejected.len());
}
