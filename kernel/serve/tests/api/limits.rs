//! Limits as they are set, shown and taken away.

use serde_json::{Value, json};
use volume::{Access, Operation, Volumes};

use crate::Rig;

#[test]
fn limits_are_set_shown_and_taken_away() {
    let rig = Rig::new();
    rig.volume("v");
    let limits = |rig: &Rig| {
        let volume = rig.call("GET", "/v1/volumes/v", None).json();
        (volume["iops_max"].clone(), volume["rate_max"].clone())
    };
    assert_eq!(limits(&rig), (Value::Null, Value::Null));
    let tag = |rig: &Rig| {
        let reply = rig.call("GET", "/v1/volumes/v", None);
        reply.header("etag").unwrap().to_owned()
    };
    let before = tag(&rig);
    let change = |rig: &Rig, body: &str| rig.call("PATCH", "/v1/volumes/v", Some(body));
    let both = change(&rig, r#"{"iops_max":500,"rate_max":10485760}"#);
    assert_eq!((both.status, &both.json()["iops_max"]), (200, &json!(500)));
    assert_ne!(tag(&rig), before);
    rig.measures(&[
        r#"ferrite_volume_limit_requests_per_second{volume="v"} 500"#,
        r#"ferrite_volume_limit_bytes_per_second{volume="v"} 10485760"#,
    ]);
    // What is not spoken of stays.
    change(&rig, r#"{"read_only":false}"#);
    change(&rig, r#"{"iops_max":null}"#);
    assert_eq!(limits(&rig), (Value::Null, json!(10_485_760)));

    // After a restart, too.
    let again = Volumes::new(rig.volumes.store().clone());
    let volumes = again.clone();
    rig.bench.run(async move {
        assert!(volumes.load().await.is_empty());
    });
    let rig = Rig::on(rig.bench.clone(), again);
    assert_eq!(limits(&rig), (Value::Null, json!(10_485_760)));

    for (body, field) in [
        (r#"{"iops_max":0}"#, "iops_max"),
        (r#"{"iops_max":10000001}"#, "iops_max"),
        (r#"{"rate_max":65535}"#, "rate_max"),
        (r#"{"rate_max":"10MiB"}"#, "rate_max"),
    ] {
        let refused = change(&rig, body);
        refused.is_problem(422, field);
        assert_eq!(refused.json()["field"], field);
    }
    assert_eq!(limits(&rig), (Value::Null, json!(10_485_760)));
}

#[test]
fn waits_are_measured() {
    let rig = Rig::new();
    rig.volume("v");
    rig.call("PATCH", "/v1/volumes/v", Some(r#"{"iops_max":10}"#));
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    rig.bench.run(async move {
        let volume = volumes.attach("v", Access::ReadWrite).unwrap();
        for _ in 0..4 {
            volume.traffic().pace().admit(&exec, 1, 4096).await;
        }
        let took = std::time::Duration::ZERO;
        volume.traffic().note(Operation::Read, 4096, took);
    });
    // A tenth of a second's worth was saved up.
    rig.measures(&[
        r#"ferrite_volume_limited_total{volume="v"} 3"#,
        r#"ferrite_volume_limited_seconds_total{volume="v"} 0.300000000"#,
    ]);
}
