//! Jobs, and the scrub.

use std::time::Duration;

use serde_json::json;
use upkeep::Upkeep;
use volume::{Access, Span};
use world::{Buf, Disk};

use crate::Rig;

impl Rig {
    /// A volume with `blocks` blocks of data.
    pub fn fill(&self, name: &'static str, blocks: u64) {
        let volumes = self.volumes.clone();
        self.bench.run(async move {
            volumes.create(name, blocks * 4096).await.unwrap();
            let volume = volumes.attach(name, Access::ReadWrite).unwrap();
            for block in 0..blocks {
                let mut buf = Buf::from_heap(1);
                buf.block_mut(0).fill(block as u8 % 100 + 1);
                let span = Span {
                    offset: block * 4096,
                    len: 4096,
                };
                volume.write(span, buf).await.unwrap();
            }
            volume.flush().await.unwrap();
        });
    }
}

#[test]
fn a_scrub_sees_every_block_and_its_result_stays() {
    let rig = Rig::new();
    rig.fill("db", 1000);
    let started = rig.call("POST", "/v1/scrub", None);
    assert_eq!(started.status, 202, "{started:?}");
    assert_eq!(started.header("location"), Some("/v1/jobs/1"));
    assert_eq!(started.json()["kind"], "scrub");
    rig.pass(Duration::from_secs(60));
    let done = rig.call("GET", "/v1/jobs/1", None).json();
    assert_eq!(
        (&done["state"], &done["progress"]),
        (&json!("done"), &json!(1.0)),
        "{done}"
    );
    assert_eq!(done["error"], json!(null));
    assert!(done["result"]["blocks"].as_u64().unwrap() >= 1000, "{done}");
    assert_eq!(done["result"]["damaged"], json!([]));
    assert!(done["ended_at"].as_str().is_some());
    assert_eq!(
        rig.call("GET", "/v1/jobs", None).json(),
        json!({"jobs": [done]})
    );

    for (method, body) in [("DELETE", None), ("PATCH", Some(r#"{"state":"paused"}"#))] {
        rig.call(method, "/v1/jobs/1", body)
            .is_problem(409, "done already");
    }
    for id in ["2", "x", "-1", "99999999999999999999"] {
        rig.call("GET", &format!("/v1/jobs/{id}"), None)
            .is_problem(404, "no such job");
    }
    let second = rig.call("POST", "/v1/scrub", Some("{}"));
    assert_eq!((second.status, &second.json()["id"]), (202, &json!(2)));
}

#[test]
fn a_scrub_is_paused_limited_resumed_and_cancelled() {
    let rig = Rig::new();
    rig.fill("db", 2000);
    // So slow that it has to be there when it is asked for.
    let started = rig.call("POST", "/v1/scrub", Some(r#"{"rate":409600}"#));
    assert_eq!(started.json()["rate_max"], 409_600);
    rig.call("POST", "/v1/scrub", None).is_problem(409, "job 1");
    rig.pass(Duration::from_secs(8));
    let running = rig.call("GET", "/v1/jobs/1", None).json();
    assert_eq!(running["state"], "running");
    let (progress, rate) = (&running["progress"], running["rate"].as_u64().unwrap());
    assert!(
        (0.1..0.9).contains(&progress.as_f64().unwrap()),
        "{running}"
    );
    assert!((300_000..=409_600).contains(&rate), "{running}");
    assert!(
        (5000..20_000).contains(&running["time_left_ms"].as_u64().unwrap()),
        "{running}"
    );

    let paused = rig.call("PATCH", "/v1/jobs/1", Some(r#"{"state":"paused"}"#));
    assert_eq!(paused.json()["state"], "paused");
    // The pool's own last checkpoint changes how much there is to do.
    rig.pass(Duration::from_secs(60));
    let before = rig.call("GET", "/v1/jobs/1", None).json();
    rig.pass(Duration::from_secs(600));
    let later = rig.call("GET", "/v1/jobs/1", None).json();
    assert_eq!(later, before);
    assert_eq!(later["time_left_ms"], json!(null));

    let body = Some(r#"{"state":"running","rate":0}"#);
    let resumed = rig.call("PATCH", "/v1/jobs/1", body).json();
    assert_eq!(
        (&resumed["state"], &resumed["rate_max"]),
        (&json!("running"), &json!(null))
    );
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.call("GET", "/v1/jobs/1", None).json()["state"], "done");

    rig.call("POST", "/v1/scrub", Some(r#"{"rate":4096}"#));
    let cancelled = rig.call("DELETE", "/v1/jobs/2", None);
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &json!("cancelled"))
    );
    rig.call("PATCH", "/v1/jobs/2", Some(r#"{"state":"off"}"#))
        .is_problem(422, "paused, running");
    assert_eq!(rig.call("POST", "/v1/scrub", None).status, 202);
}

#[test]
fn a_scrub_goes_on_after_a_restart_from_about_where_it_was() {
    let rig = Rig::new();
    rig.fill("db", 4000);
    rig.call("POST", "/v1/scrub", Some(r#"{"rate":409600}"#));
    rig.pass(Duration::from_secs(20));
    let before = rig.call("GET", "/v1/jobs/1", None).json();
    let done = before["done"].as_u64().unwrap();
    assert!(done > 4 << 20, "{before}");

    // The same store with new rooms above it is a restart as jobs see it.
    let (exec, volumes) = (rig.bench.exec.clone(), rig.volumes.clone());
    let again = rig
        .bench
        .run(async move { Upkeep::open(&exec, &volumes).await });
    let resumed = again.jobs.get(1).unwrap();
    assert_eq!(resumed.rate_max, Some(409_600));
    let lost = done - resumed.done_bytes;
    assert!(lost <= 6 * 409_600, "{lost} bytes are done again");
    rig.pass(Duration::from_secs(120));
    let ended = again.jobs.get(1).unwrap();
    assert_eq!(ended.state, upkeep::JobState::Done);
    // Once around, not from the beginning again.
    let all = rig.call("GET", "/v1/jobs/1", None).json()["done"]
        .as_u64()
        .unwrap();
    assert!(
        ended.done_bytes.abs_diff(all) < 1 << 20,
        "{} {all}",
        ended.done_bytes
    );
}

#[test]
fn only_so_many_finished_jobs_are_remembered() {
    let rig = Rig::new();
    for _ in 0..30 {
        assert_eq!(rig.call("POST", "/v1/scrub", None).status, 202);
        rig.pass(Duration::from_secs(60));
    }
    let jobs = rig.call("GET", "/v1/jobs", None).json();
    let ids: Vec<u64> = jobs["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (14..=30).collect::<Vec<_>>());
    let keys = rig.volumes.store().record_keys();
    assert_eq!(
        keys.iter().filter(|key| key.starts_with("job/")).count(),
        ids.len()
    );
}

#[test]
fn a_damaged_block_is_told_by_volume_snapshot_and_offset() {
    let rig = Rig::new();
    rig.fill("db", 200);
    rig.fill("other", 200);
    let body = Some(r#"{"name":"monday"}"#);
    assert_eq!(
        rig.call("POST", "/v1/volumes/db/snapshots", body).status,
        201
    );
    let volumes = rig.volumes.clone();
    rig.bench.run(async move {
        let volume = volumes.attach("db", Access::ReadWrite).unwrap();
        for (block, byte) in [(7, 0xa7), (8, 0xa8), (9, 0xa9)] {
            let mut buf = Buf::from_heap(1);
            buf.block_mut(0).fill(byte);
            let span = Span {
                offset: block * 4096,
                len: 4096,
            };
            volume.write(span, buf).await.unwrap();
        }
        volumes.create_snapshot("db", "tuesday").await.unwrap();
        volumes.store().checkpoint().await.unwrap();
        // Bits rot in blocks 8 and 9, which the volume and tuesday share.
        let disk = volumes.store().with_disks(|disks| disks[0].clone());
        for at in 0..disk.geometry().blocks {
            let (mut buf, _) = disk.read(at, Buf::from_heap(1)).await;
            if [[0xa8; 4096], [0xa9; 4096]].contains(buf.block(0)) {
                buf.block_mut(0)[99] ^= 1;
                disk.write(at, buf).await.1.unwrap();
            }
        }
    });
    rig.call("POST", "/v1/scrub", None);
    rig.pass(Duration::from_secs(60));
    let done = rig.call("GET", "/v1/jobs/1", None).json();
    assert_eq!(done["state"], "done");
    let result = &done["result"];
    assert_eq!(
        (&result["damaged_blocks"], &result["damaged_more"]),
        (&json!(2), &json!(0))
    );
    let mut damaged = result["damaged"].as_array().unwrap().clone();
    damaged.sort_by_key(|place| place["snapshot"].is_null());
    let place = |snapshot: Option<&str>| json!({"volume": "db", "snapshot": snapshot, "offset": 32768, "length": 8192});
    assert_eq!(damaged, [place(Some("tuesday")), place(None)], "{done}");
    assert!(result["blocks"].as_u64().unwrap() >= 403);
    // Names are those of now, and what is gone is damaged no more.
    rig.call("PATCH", "/v1/volumes/db", Some(r#"{"name":"data"}"#));
    rig.call("DELETE", "/v1/volumes/data/snapshots/tuesday", None);
    let later = rig.call("GET", "/v1/jobs/1", None).json();
    assert_eq!(later["result"]["damaged"].as_array().unwrap().len(), 1);
    assert_eq!(later["result"]["damaged"][0]["volume"], "data");
}

#[test]
fn a_pool_that_takes_no_writes_is_scrubbed_all_the_same() {
    let rig = Rig::new();
    rig.fill("db", 2000);
    let volumes = rig.volumes.clone();
    rig.bench.run(async move {
        volumes.store().checkpoint().await.unwrap();
        volumes
            .store()
            .with_disks(|disks| disks[0].is_worn_out.set(true));
        volumes.create("more", 4096).await.unwrap_err();
    });
    let body = Some(r#"{"name":"another","size":4096}"#);
    rig.call("POST", "/v1/volumes", body)
        .is_problem(503, "read-only");
    let started = rig.call("POST", "/v1/scrub", Some(r#"{"rate":40960}"#));
    assert_eq!(started.status, 202, "{started:?}");
    let body = Some(r#"{"state":"paused","rate":0}"#);
    let paused = rig.call("PATCH", "/v1/jobs/1", body);
    assert_eq!(
        (paused.status, &paused.json()["state"]),
        (200, &json!("paused"))
    );
    assert_eq!(rig.call("DELETE", "/v1/jobs/1", None).status, 200);
    assert_eq!(rig.call("POST", "/v1/scrub", None).status, 202);
    rig.pass(Duration::from_secs(60));
    let done = rig.call("GET", "/v1/jobs/2", None).json();
    assert_eq!(done["state"], "done", "{done}");
}
