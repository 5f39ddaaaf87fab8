//! Snapshots by the clock.

use std::time::Duration;

use serde_json::json;
use upkeep::{Keep, Schedule, Upkeep};

use crate::Rig;

const PATH: &str = "/v1/volumes/db/schedule";

fn rig() -> Rig {
    let rig = Rig::new();
    rig.call(
        "POST",
        "/v1/volumes",
        Some(r#"{"name":"db","size":1048576}"#),
    );
    rig
}

impl Rig {
    pub fn pass(&self, time: Duration) {
        let exec = self.bench.exec.clone();
        self.bench.run(async move { exec.sleep(time).await });
    }

    pub fn names(&self, volume: &str) -> Vec<String> {
        let path = format!("/v1/volumes/{volume}/snapshots");
        let listed = self.call("GET", &path, None).json();
        let listed = listed["snapshots"].as_array().unwrap().iter();
        listed
            .map(|one| one["name"].as_str().unwrap().into())
            .collect()
    }
}

#[test]
fn a_schedule_from_set_to_removed() {
    let rig = rig();
    rig.call("GET", PATH, None)
        .is_problem(404, "no snapshot schedule");
    let body = r#"{"every":"60m","keep":{"hourly":3,"daily":7}}"#;
    let set = rig.call("PUT", PATH, Some(body));
    assert_eq!(set.status, 200, "{set:?}");
    let keep = json!({"hourly": 3, "daily": 7});
    assert_eq!(
        (&set.json()["every"], &set.json()["keep"]),
        (&json!("1h"), &keep)
    );

    // The rig's time began in the afternoon of 2023-11-14, at 22:13:20.
    rig.pass(Duration::from_secs(1));
    let shown = rig.call("GET", PATH, None).json();
    assert_eq!(shown["newest"], "auto-2023-11-14-221320");
    assert_eq!(shown["next_at"], "2023-11-14T23:00:00.000Z");
    assert_eq!(
        (&shown["problem"], &shown["snapshots"]),
        (&json!(null), &json!(1))
    );
    assert_eq!(
        rig.call("GET", "/v1/schedules", None).json(),
        json!({"schedules": [shown]})
    );

    // What users made stays, whatever it is called; what they renamed is theirs.
    for name in ["mine", "auto-2023-11-14-000000", "auto-mine"] {
        let body = format!(r#"{{"name":"{name}"}}"#);
        let made = rig.call("POST", "/v1/volumes/db/snapshots", Some(&body));
        assert_eq!(made.status, 201);
    }
    let renamed = "/v1/volumes/db/snapshots/auto-2023-11-14-221320";
    rig.call("PATCH", renamed, Some(r#"{"name":"before"}"#));
    rig.pass(Duration::from_secs(5 * 3600));
    let names = rig.names("db");
    let theirs = ["before", "mine", "auto-2023-11-14-000000", "auto-mine"];
    assert_eq!(names[..4], theirs);
    // Three hourly ones, and the newest of the day before.
    let made = [
        "auto-2023-11-14-230000",
        "auto-2023-11-15-010000",
        "auto-2023-11-15-020000",
        "auto-2023-11-15-030000",
    ];
    assert_eq!(names[4..], made);

    assert_eq!(rig.call("DELETE", PATH, None).status, 204);
    assert_eq!(rig.call("DELETE", PATH, None).status, 204, "it is gone");
    rig.call("GET", PATH, None)
        .is_problem(404, "no snapshot schedule");
    rig.pass(Duration::from_secs(5 * 3600));
    assert_eq!(rig.names("db").len(), 8);
}

#[test]
fn a_schedule_goes_with_its_volume_and_not_with_its_name() {
    let rig = rig();
    let body = r#"{"every":"1h","keep":{"last":2}}"#;
    rig.call("PUT", PATH, Some(body));
    rig.call("PATCH", "/v1/volumes/db", Some(r#"{"name":"data"}"#));
    let listed = rig.call("GET", "/v1/schedules", None).json();
    assert_eq!(listed["schedules"][0]["volume"], "data");
    rig.pass(Duration::from_secs(10 * 3600));
    assert_eq!(rig.names("data").len(), 2);

    rig.call("DELETE", "/v1/volumes/data", None);
    rig.pass(Duration::from_secs(3600));
    let store = rig.volumes.store();
    assert!(
        store
            .record_keys()
            .iter()
            .all(|key| !key.starts_with("schedule/"))
    );
    assert_eq!(
        rig.call("GET", "/v1/schedules", None).json(),
        json!({"schedules": []})
    );
}

#[test]
fn a_snapshot_that_is_read_stays_until_it_is_not() {
    let rig = rig();
    rig.call("PUT", PATH, Some(r#"{"every":"1m","keep":{"last":1}}"#));
    rig.pass(Duration::from_secs(1));
    let first = rig.names("db").remove(0);
    let reader = rig
        .volumes
        .attach(&format!("db@{first}"), volume::Access::ReadOnly)
        .unwrap();
    rig.pass(Duration::from_secs(300));
    let names = rig.names("db");
    assert_eq!((names.len(), &names[0]), (2, &first));
    drop(reader);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.names("db").len(), 1);
}

#[test]
fn wrong_schedules_are_refused() {
    let rig = rig();
    for (body, about) in [
        (r#"{"every":"1h"}"#, "`keep` is missing"),
        (r#"{"keep":{"last":1}}"#, "`every` is missing"),
        (r#"{"every":"1h","keep":{}}"#, "at least one"),
        (r#"{"every":"1h","keep":{"last":0}}"#, "at least one"),
        (r#"{"every":"often","keep":{"last":1}}"#, "`every`"),
        (r#"{"every":"0h","keep":{"last":1}}"#, "`every`"),
        (r#"{"every":"1h","keep":{"hour":1}}"#, "`keep.hour`"),
        (
            r#"{"every":"1h","keep":{"last":-1}}"#,
            "`keep.last` must be a number",
        ),
        (r#"{"every":"1h","keep":[1]}"#, "`keep` must be an object"),
    ] {
        rig.call("PUT", PATH, Some(body)).is_problem(422, about);
    }
    let body = Some(r#"{"every":"1h","keep":{"last":1}}"#);
    rig.call("PUT", "/v1/volumes/none/schedule", body)
        .is_problem(404, "no such volume");
}

#[test]
fn who_sets_and_removes_at_once_gets_one_or_the_other() {
    let rig = rig();
    let (exec, volumes) = (rig.bench.exec.clone(), rig.volumes.clone());
    let upkeep = rig
        .bench
        .run(async move { Upkeep::open(&exec, &volumes).await });
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    let schedule = Schedule::new("1h", keep).unwrap();
    let set = || {
        let upkeep = upkeep.clone();
        async move {
            upkeep.schedules.set("db", schedule).await.unwrap();
        }
    };
    let remove = || {
        let upkeep = upkeep.clone();
        async move {
            assert!(upkeep.schedules.remove("db").await.is_ok());
        }
    };
    for is_set_first in [true, false] {
        rig.bench.run(set());
        if is_set_first {
            rig.bench.exec.spawn(set());
            rig.bench.exec.spawn(remove());
        } else {
            rig.bench.exec.spawn(remove());
            rig.bench.exec.spawn(set());
        }
        rig.pass(Duration::from_secs(1));
        let keys = rig.volumes.store().record_keys();
        let is_kept = keys.iter().any(|key| key.starts_with("schedule/"));
        let is_known = upkeep.schedules.get("db").unwrap().is_some();
        assert_eq!(is_kept, is_known);
    }
}

/// Until its deletion is in the journal, a power cut brings the volume back, and its schedule has to be there then.
#[test]
fn a_schedule_outlives_its_volume() {
    let rig = rig();
    rig.volume("other");
    rig.call("PUT", PATH, Some(r#"{"every":"1h","keep":{"last":2}}"#));
    let (exec, volumes) = (rig.bench.exec.clone(), rig.volumes.clone());
    let upkeep = rig.bench.run({
        let (exec, volumes) = (exec.clone(), volumes.clone());
        async move { Upkeep::open(&exec, &volumes).await }
    });
    let id = volumes.get("db").unwrap().id;
    let key = format!("schedule/{}", id.0);
    let has_schedule = || volumes.store().record_keys().contains(&key);
    assert!(has_schedule());
    // What is under way is done with before the volume goes.
    let (store, turns) = (volumes.store().clone(), rig.bench.disk.turns.clone());
    exec.spawn(async move {
        let span = volume::Span {
            offset: 0,
            len: 4096,
        };
        let mut buf = world::Buf::from_heap(1);
        buf.block_mut(0).fill(1);
        store.write(id, span, buf).await.unwrap();
    });
    turns.set(1000);
    for _ in 0..10 {
        exec.run_ready();
    }
    turns.set(1);
    let deleting = volumes.clone();
    exec.spawn(async move { deleting.delete("db", true).await.unwrap() });
    exec.run_ready();
    assert!(volumes.store().volume(id).is_none() && !volumes.is_gone(id));
    // Somebody looks after schedules meanwhile.
    exec.spawn(async move {
        let keep = Keep {
            last: 1,
            ..Keep::default()
        };
        let schedule = Schedule::new("1h", keep).unwrap();
        upkeep.schedules.set("other", schedule).await.unwrap();
    });
    while !volumes.is_gone(id) {
        assert!(has_schedule());
        assert!(exec.run_ready(), "it stays for ever");
    }
    rig.pass(Duration::from_secs(120));
    assert!(!has_schedule());
}
