//! Snapshots, clones, rollback and diff.

use serde_json::{Value, json};
use volume::{Access, Span, VolumeError};
use world::Buf;

use crate::Rig;

const MIB: u64 = 1 << 20;

impl Rig {
    pub fn volume(&self, name: &str) {
        let body = json!({"name": name, "size": MIB}).to_string();
        assert_eq!(self.call("POST", "/v1/volumes", Some(&body)).status, 201);
    }

    fn snapshot(&self, volume: &str, name: &str) -> Value {
        let path = format!("/v1/volumes/{volume}/snapshots");
        let body = json!({"name": name}).to_string();
        let made = self.call("POST", &path, Some(&body));
        assert_eq!(made.status, 201, "{made:?}");
        made.json()
    }

    /// Fills `blocks` of a volume with `byte`, or makes holes of them.
    fn write(&self, volume: &str, blocks: core::ops::Range<u64>, byte: u8) {
        let volume = self.volumes.attach(volume, Access::ReadWrite).unwrap();
        self.bench.run(async move {
            for block in blocks {
                let mut buf = Buf::from_heap(1);
                buf.block_mut(0).fill(byte);
                let span = Span {
                    offset: block * 4096,
                    len: 4096,
                };
                if byte == 0 {
                    volume.discard(span.offset, 4096).await.unwrap();
                } else {
                    volume.write(span, buf).await.unwrap();
                }
            }
            volume.flush().await.unwrap();
        });
    }

    /// The first byte of a block of what is attached by `name`.
    fn byte(&self, name: &str, block: u64) -> u8 {
        let volume = self.volumes.attach(name, Access::ReadOnly).unwrap();
        self.bench.run(async move {
            let span = Span {
                offset: block * 4096,
                len: 4096,
            };
            let (buf, result) = volume.read(span, Buf::from_heap(1)).await;
            result.unwrap();
            buf.block(0)[0]
        })
    }
}

#[test]
fn a_snapshot_from_creation_to_deletion() {
    let rig = Rig::new();
    rig.volume("db");
    rig.write("db", 0..10, 1);
    let body = Some(r#"{"name":"monday"}"#);
    let made = rig.call("POST", "/v1/volumes/db/snapshots", body);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(
        made.header("location"),
        Some("/v1/volumes/db/snapshots/monday")
    );
    let made = made.json();
    assert_eq!(made.get("allocated"), None);
    assert_eq!(
        (&made["volume"], &made["export"]),
        (&json!("db"), &json!("db@monday"))
    );
    assert_eq!((&made["size"], &made["clients"]), (&json!(MIB), &json!(0)));
    assert!(
        made["created_at"]
            .as_str()
            .unwrap()
            .starts_with("2023-11-14T22:13:2")
    );
    rig.call("POST", "/v1/volumes/db/snapshots", body)
        .is_problem(409, "taken");

    rig.write("db", 0..4, 2);
    assert_eq!((rig.byte("db", 0), rig.byte("db@monday", 0)), (2, 1));
    let shown = rig
        .call("GET", "/v1/volumes/db/snapshots/monday", None)
        .json();
    // Four blocks are only the snapshot's now, six are shared with the volume.
    assert_eq!(
        (&shown["allocated"], &shown["unique"]),
        (&json!(40_960), &json!(16_384))
    );
    assert_eq!(shown["shared"], 24_576);
    let volume = rig.call("GET", "/v1/volumes/db", None).json();
    assert_eq!(
        (&volume["allocated"], &volume["unique"]),
        (&json!(40_960), &json!(16_384))
    );
    assert_eq!(
        (&volume["snapshots"], &volume["origin"]),
        (&json!(1), &json!(null))
    );

    let path = "/v1/volumes/db/snapshots/monday";
    let renamed = rig
        .call("PATCH", path, Some(r#"{"name":"tuesday"}"#))
        .json();
    assert_eq!(
        (&renamed["name"], &renamed["uuid"]),
        (&json!("tuesday"), &made["uuid"])
    );
    rig.call("GET", path, None)
        .is_problem(404, "no such snapshot");
    assert_eq!(rig.names("db"), ["tuesday"]);
    assert_eq!(
        rig.call("DELETE", "/v1/volumes/db/snapshots/tuesday", None)
            .status,
        204
    );
    assert_eq!(rig.names("db"), [""; 0]);
    for (path, about) in [
        ("/v1/volumes/db/snapshots/tuesday", "no such snapshot"),
        ("/v1/volumes/none/snapshots/tuesday", "no such volume"),
    ] {
        rig.call("GET", path, None).is_problem(404, about);
        rig.call("DELETE", path, None).is_problem(404, about);
    }
    rig.call("GET", "/v1/volumes/none/snapshots", None)
        .is_problem(404, "no such volume");
    let body = Some(r#"{"name":"Monday!"}"#);
    rig.call("POST", "/v1/volumes/db/snapshots", body)
        .is_problem(422, "begins with a letter");
}

#[test]
fn a_clone_and_its_origin_go_their_own_ways() {
    let rig = Rig::new();
    rig.volume("db");
    rig.write("db", 0..4, 1);
    rig.snapshot("db", "monday");
    let body = Some(r#"{"name":"test","from":"db@monday"}"#);
    let made = rig.call("POST", "/v1/volumes", body);
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("/v1/volumes/test"))
    );
    assert_eq!(made.json()["origin"], "db@monday");
    let made = rig.call("GET", "/v1/volumes/test", None).json();
    assert_eq!(
        (&made["origin"], &made["size"]),
        (&json!("db@monday"), &json!(MIB))
    );
    assert_eq!(
        (&made["allocated"], &made["unique"]),
        (&json!(16_384), &json!(0))
    );
    rig.write("test", 0..1, 9);
    assert_eq!((rig.byte("test", 0), rig.byte("test", 1)), (9, 1));
    assert_eq!((rig.byte("db", 0), rig.byte("db@monday", 0)), (1, 1));
    rig.call("POST", "/v1/volumes", body)
        .is_problem(409, "taken");

    // With the volume go its snapshots, but not what was cloned from them.
    assert_eq!(rig.call("DELETE", "/v1/volumes/db", None).status, 204);
    assert_eq!((rig.byte("test", 0), rig.byte("test", 1)), (9, 1));
    let orphan = rig.call("GET", "/v1/volumes/test", None).json();
    assert_eq!(
        (&orphan["origin"], &orphan["unique"]),
        (&json!(null), &json!(16_384))
    );
}

#[test]
fn a_rollback_brings_contents_and_size_back_and_keeps_every_snapshot() {
    let rig = Rig::new();
    rig.volume("db");
    rig.write("db", 0..2, 1);
    rig.snapshot("db", "one");
    rig.call("PATCH", "/v1/volumes/db", Some(r#"{"size":2097152}"#));
    rig.write("db", 0..1, 2);
    rig.snapshot("db", "two");
    rig.write("db", 0..3, 3);
    let back = rig.call(
        "POST",
        "/v1/volumes/db/rollback",
        Some(r#"{"snapshot":"one"}"#),
    );
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(
        (&back.json()["size"], &back.json()["origin"]),
        (&json!(MIB), &json!(null))
    );
    assert_eq!([0, 1, 2].map(|block| rig.byte("db", block)), [1, 1, 0]);
    assert_eq!(rig.names("db"), ["one", "two"]);
    rig.call(
        "POST",
        "/v1/volumes/db/rollback",
        Some(r#"{"snapshot":"two"}"#),
    );
    assert_eq!([0, 1, 2].map(|block| rig.byte("db", block)), [2, 1, 0]);
    for (path, body, status, about) in [
        (
            "/v1/volumes/db/rollback",
            r#"{"snapshot":"three"}"#,
            404,
            "no such snapshot",
        ),
        (
            "/v1/volumes/no/rollback",
            r#"{"snapshot":"one"}"#,
            404,
            "no such volume",
        ),
        (
            "/v1/volumes/db/rollback",
            "{}",
            422,
            "`snapshot` is missing",
        ),
    ] {
        rig.call("POST", path, Some(body)).is_problem(status, about);
    }
}

#[test]
fn what_has_clients_is_neither_deleted_nor_rolled_back_without_force() {
    let rig = Rig::new();
    rig.volume("db");
    rig.snapshot("db", "monday");
    let reader = rig.volumes.attach("db@monday", Access::ReadWrite).unwrap();
    assert!(reader.is_read_only());
    let shown = rig
        .call("GET", "/v1/volumes/db/snapshots/monday", None)
        .json();
    assert_eq!(shown["clients"], 1);
    for path in ["/v1/volumes/db/snapshots/monday", "/v1/volumes/db"] {
        rig.call("DELETE", path, None)
            .is_problem(409, "attached to `db@monday`; add ?force=true");
    }
    // Its own contents are as they were, so nobody who reads it minds.
    let body = Some(r#"{"snapshot":"monday"}"#);
    assert_eq!(
        rig.call("POST", "/v1/volumes/db/rollback", body).status,
        200
    );
    let writer = rig.volumes.attach("db", Access::ReadWrite).unwrap();
    rig.call("POST", "/v1/volumes/db/rollback", body)
        .is_problem(409, "a client is attached to `db`; add");
    let forced = "/v1/volumes/db/rollback?force=true";
    assert_eq!(rig.call("POST", forced, body).status, 200);
    let check = |volume: &volume::Volume<_>| volume.check(Access::ReadOnly, 0, 4096);
    assert_eq!(check(&writer), Err(VolumeError::RolledBack));
    assert_eq!(check(&reader), Ok(()));
    let forced = "/v1/volumes/db/snapshots/monday?force=true";
    assert_eq!(rig.call("DELETE", forced, None).status, 204);
    assert_eq!(check(&reader), Err(VolumeError::Deleted));
    // Who attached before counts no more; who attaches now is served.
    assert_eq!(rig.call("GET", "/v1/volumes/db", None).json()["clients"], 0);
    let again = rig.volumes.attach("db", Access::ReadWrite).unwrap();
    drop(writer);
    assert_eq!(check(&again), Ok(()));
    assert_eq!(rig.call("GET", "/v1/volumes/db", None).json()["clients"], 1);
}

#[test]
fn a_group_is_of_one_instant_all_or_none() {
    let rig = Rig::new();
    rig.volume("data");
    rig.volume("log");
    let body = Some(r#"{"name":"night","volumes":["log","data"]}"#);
    let made = rig.call("POST", "/v1/snapshots", body);
    assert_eq!(made.status, 201, "{made:?}");
    let exports = |value: &Value| -> Vec<String> {
        let all = value["snapshots"].as_array().unwrap().iter();
        all.map(|one| one["export"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(exports(&made.json()), ["log@night", "data@night"]);
    assert_eq!(
        made.json()["snapshots"][0]["created_at"],
        made.json()["snapshots"][1]["created_at"]
    );

    rig.snapshot("log", "noon");
    for (body, status, about) in [
        (r#"{"name":"noon","volumes":["data","log"]}"#, 409, "`log`"),
        (r#"{"name":"n","volumes":["data","none"]}"#, 404, "`none`"),
        (r#"{"name":"n","volumes":["data","data"]}"#, 422, "twice"),
        (r#"{"name":"n","volumes":[]}"#, 422, "at least 1"),
        (
            r#"{"name":"n","volumes":[1]}"#,
            422,
            "`volumes` must be a list",
        ),
        (
            r#"{"name":"n!","volumes":["data"]}"#,
            422,
            "begins with a letter",
        ),
    ] {
        rig.call("POST", "/v1/snapshots", Some(body))
            .is_problem(status, about);
    }
    assert_eq!(rig.names("data"), ["night"]);
}

#[test]
fn a_diff_tells_data_and_zeros_page_by_page() {
    let rig = Rig::new();
    rig.volume("db");
    rig.write("db", 0..8, 1);
    rig.snapshot("db", "a");
    rig.write("db", 2..4, 2);
    rig.write("db", 6..7, 0);
    rig.snapshot("db", "b");
    rig.write("db", 100..101, 3);
    let range = |first: u64, blocks: u64, kind: &str| json!({"offset": first * 4096, "length": blocks * 4096, "kind": kind});
    let diff = |query: &str| rig.call("GET", &format!("/v1/volumes/db/diff{query}"), None);
    let changed = json!({"ranges": [range(2, 2, "data"), range(6, 1, "zero")]});
    assert_eq!(diff("?from=a&to=b").json(), changed);
    assert_eq!(diff("?from=db@a&to=db@b").json(), changed);
    let now = json!({"ranges": [range(100, 1, "data")]});
    assert_eq!(diff("?from=b").json(), now);
    assert_eq!(diff("?from=b&to=b").json(), json!({"ranges": []}));
    let all = json!({"ranges": [range(0, 6, "data"), range(7, 1, "data")]});
    assert_eq!(diff("?to=b").json(), all);

    let (mut pages, mut query) = (Vec::new(), String::from("?from=a&limit=1"));
    loop {
        let page = diff(&query).json();
        let ranges = page["ranges"].as_array().unwrap();
        assert!(ranges.len() <= 1);
        pages.extend(ranges.clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query = format!("?from=a&limit=1&next={next}");
    }
    assert_eq!(
        pages,
        [
            range(2, 2, "data"),
            range(6, 1, "zero"),
            range(100, 1, "data")
        ]
    );

    let next = diff("?from=a&limit=1").json()["next"]
        .as_str()
        .unwrap()
        .to_owned();
    diff(&format!("?from=b&next={next}")).is_problem(409, "between others");
    for (query, status, about) in [
        ("?from=c", 404, "`c`"),
        ("?to=none@b", 404, "`none@b`"),
        ("?next=1", 400, "`next`"),
        ("?next=0-v1-x", 400, "`next`"),
        ("?limit=0", 400, "`limit`"),
        ("?since=a", 400, "`since`"),
    ] {
        diff(query).is_problem(status, about);
    }
    rig.call("GET", "/v1/volumes/none/diff", None)
        .is_problem(404, "no such volume");
}

#[test]
fn many_snapshots_come_in_pages() {
    let rig = Rig::new();
    rig.volume("db");
    for index in 0..25 {
        rig.snapshot("db", &format!("s{index}"));
    }
    let (mut names, mut query) = (Vec::new(), String::from("?limit=10"));
    loop {
        let page = rig
            .call("GET", &format!("/v1/volumes/db/snapshots{query}"), None)
            .json();
        let list = page["snapshots"].as_array().unwrap().iter();
        names.extend(list.map(|one| one["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query = format!("?limit=10&next={next}");
    }
    assert_eq!(
        names,
        (0..25).map(|index| format!("s{index}")).collect::<Vec<_>>()
    );
    rig.call("GET", "/v1/volumes/db/snapshots?next=x", None)
        .is_problem(400, "`next`");
}

#[test]
fn a_renamed_volume_keeps_its_clients_and_its_snapshots() {
    let rig = Rig::new();
    rig.volume("db");
    rig.volume("other");
    rig.snapshot("db", "monday");
    let client = rig.volumes.attach("db", Access::ReadWrite).unwrap();
    let path = "/v1/volumes/db";
    rig.call("PATCH", path, Some(r#"{"name":"other"}"#))
        .is_problem(409, "taken");
    let both = rig
        .call("PATCH", path, Some(r#"{"name":"data","size":2097152}"#))
        .json();
    assert_eq!(
        (&both["name"], &both["size"], &both["clients"]),
        (&json!("data"), &json!(2 * MIB), &json!(1))
    );
    assert_eq!(client.check(Access::ReadWrite, MIB, MIB), Ok(()));
    rig.call("GET", path, None)
        .is_problem(404, "no such volume");
    assert_eq!(rig.names("data"), ["monday"]);
    rig.volumes.attach("data@monday", Access::ReadOnly).unwrap();
}

#[test]
fn refusals_say_of_what() {
    let rig = Rig::new();
    rig.volume("db");
    rig.volume("log");
    rig.snapshot("db", "monday");
    rig.snapshot("db", "tuesday");
    for (method, path, body, status, about) in [
        ("GET", "/v1/volumes/dp", "", 404, "no such volume: `dp`"),
        ("DELETE", "/v1/volumes/dp", "", 404, "no such volume: `dp`"),
        ("GET", "/v1/volumes/dp/snapshots", "", 404, "`dp`"),
        (
            "GET",
            "/v1/volumes/db/snapshots/friday",
            "",
            404,
            "no such snapshot: `db@friday`",
        ),
        (
            "DELETE",
            "/v1/volumes/db/snapshots/friday",
            "",
            404,
            "`db@friday`",
        ),
        (
            "POST",
            "/v1/volumes/db/rollback",
            r#"{"snapshot":"friday"}"#,
            404,
            "`db@friday`",
        ),
        (
            "GET",
            "/v1/volumes/dp/schedule",
            "",
            404,
            "no such volume: `dp`",
        ),
        (
            "GET",
            "/v1/volumes/dp/diff",
            "",
            404,
            "no such volume: `dp`",
        ),
        ("GET", "/v1/tokens/friend", "", 404, "`friend`"),
        ("DELETE", "/v1/tokens/friend", "", 404, "`friend`"),
        (
            "POST",
            "/v1/volumes",
            r#"{"name":"db","size":4096}"#,
            409,
            "a volume `db` already",
        ),
        (
            "POST",
            "/v1/volumes",
            r#"{"name":"db","from":"db@monday"}"#,
            409,
            "a volume `db` already",
        ),
        (
            "PATCH",
            "/v1/volumes/db",
            r#"{"name":"log"}"#,
            409,
            "a volume `log` already",
        ),
        (
            "POST",
            "/v1/volumes/db/snapshots",
            r#"{"name":"monday"}"#,
            409,
            "`db` has a snapshot `monday` already",
        ),
        (
            "PATCH",
            "/v1/volumes/db/snapshots/monday",
            r#"{"name":"tuesday"}"#,
            409,
            "`db` has a snapshot `tuesday` already",
        ),
        (
            "PATCH",
            "/v1/volumes/db",
            r#"{"size":4096}"#,
            409,
            "this one has 1 MiB",
        ),
    ] {
        let body = (!body.is_empty()).then_some(body);
        rig.call(method, path, body).is_problem(status, about);
    }
}
