//! What can be called, and what it answers.

use std::rc::Rc;
use std::time::Duration;

use access::{Audit, Tokens};
use net::pipe::pipe_port;
use serde_json::{Value, json};
use serve::api::{Backend, DriveState, Limits, Server};
use volume::{Access, Operation, Volumes};

use crate::ram::{Bench, RamDisk};
use crate::{FakeNode, Rig};

#[test]
fn a_volume_from_creation_to_deletion() {
    let rig = Rig::new();
    let reply = rig.call(
        "POST",
        "/v1/volumes",
        Some(r#"{"name":"db","size":1048576}"#),
    );
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("location"), Some("/v1/volumes/db"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let created = reply.json();
    assert_eq!(created["name"], "db");
    assert_eq!(created["size"], 1_048_576);
    assert_eq!(created["clients"], 0);
    assert_eq!(created["uuid"].as_str().unwrap().len(), 36);

    assert_eq!(rig.call("GET", "/v1/volumes/db", None).json(), created);
    // What has to be looked up is told of one volume at a time.
    let mut listed = created;
    for looked_up in ["unique", "shared"] {
        let removed = listed.as_object_mut().unwrap().remove(looked_up);
        assert_eq!(removed, Some(json!(0)), "{looked_up}");
    }
    assert_eq!(
        rig.call("GET", "/v1/volumes", None).json(),
        json!({"volumes": [listed]})
    );

    let grown = rig.call("PATCH", "/v1/volumes/db", Some(r#"{"size":2097152}"#));
    assert_eq!(
        (grown.status, &grown.json()["size"]),
        (200, &json!(2_097_152))
    );

    let deleted = rig.call("DELETE", "/v1/volumes/db", None);
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    assert_eq!(deleted.header("content-length"), None);
    rig.call("GET", "/v1/volumes/db", None)
        .is_problem(404, "no such volume");
    rig.call("DELETE", "/v1/volumes/db", None)
        .is_problem(404, "no such volume");
}

#[test]
fn the_node_its_drives_and_its_log() {
    let rig = Rig::new();
    let node = rig.call("GET", "/v1/node", None).json();
    assert_eq!(node["name"], "box");
    assert_eq!(node["uptime_ms"], 1234);
    assert_eq!(node["nbd_port"], 10809);
    assert_eq!(node["memory"], json!({"total": 2, "free": 1}));
    assert_eq!(node["crash"], serde_json::Value::Null);
    rig.measures(&["ferrite_last_run_crashed 0"]);
    *rig.node.crash.borrow_mut() = Some("it broke\n0: here".into());
    let told = rig.call("GET", "/v1/node", None).json();
    assert_eq!(told["crash"], "it broke\n0: here");
    rig.measures(&["ferrite_last_run_crashed 1"]);
    assert_eq!(node["pool"]["state"], "serving");
    assert_eq!(node["pool"]["fullness"], "fine");
    assert!(node["pool"]["size"].as_u64().unwrap() > 0);
    let summary = json!({"id": "nvme0n1", "state": "serving", "size": 1 << 30, "used": 4096});
    assert_eq!(node["drives"], json!([summary]));

    let told = rig.call("GET", "/v1/node/configuration", None).json();
    assert_eq!(told["options"][0]["value"], "box");

    let drive = rig.call("GET", "/v1/drives/nvme0n1", None).json();
    assert_eq!(
        (&drive["serial"], &drive["errors"]),
        (&json!("S"), &json!(0))
    );
    assert_eq!(
        rig.call("GET", "/v1/drives", None).json(),
        json!({"drives": [drive]})
    );
    rig.call("GET", "/v1/drives/sda", None)
        .is_problem(404, "no such drive");

    let log = rig.call("GET", "/v1/log?tail=2", None).json();
    assert_eq!(log, json!({"lines": ["line 0", "line 1"]}));
    for bad in ["0", "10001", "x", "", "-1", "+1", "99999999999999999999999"] {
        rig.call("GET", &format!("/v1/log?tail={bad}"), None)
            .is_problem(400, "`tail`");
    }
}

#[test]
fn a_drive_that_fails_is_told_everywhere() {
    let rig = Rig::new();
    rig.node.state.set(DriveState::Failing);
    *rig.node.trouble.borrow_mut() = Some("its last write failed: media".into());
    for (path, drives) in [("/v1/drives", "drives"), ("/v1/node", "drives")] {
        let answer = rig.call("GET", path, None).json();
        assert_eq!(answer[drives][0]["state"], "failing", "{path}");
    }
    let drive = rig.call("GET", "/v1/drives/nvme0n1", None).json();
    assert_eq!(drive["detail"], "its last write failed: media");
    assert!(drive.get("meters").is_none(), "{drive}");
    rig.measures(&[
        "ferrite_drive_serving{drive=\"nvme0n1\"} 0",
        "ferrite_drive_failing{drive=\"nvme0n1\"} 1",
        "ferrite_drive_failed{drive=\"nvme0n1\"} 0",
    ]);
}

#[test]
fn what_is_below_volumes_is_measured_too() {
    let rig = Rig::new();
    let took = Duration::from_micros(40);
    rig.node.meters.note(Operation::Write, 8192, took);
    let reply = rig.measures(&[
        "ferrite_drive_bytes_total{drive=\"nvme0n1\",operation=\"write\"} 8192",
        "ferrite_drive_operation_duration_seconds_bucket{drive=\"nvme0n1\",operation=\"write\",le=\"0.000065536\"} 1",
        "ferrite_drive_operation_duration_seconds_sum{drive=\"nvme0n1\",operation=\"write\"} 0.000040000",
        "ferrite_drive_operation_duration_seconds_count{drive=\"nvme0n1\",operation=\"read\"} 0",
        "ferrite_tcp_connections 5",
        "ferrite_tcp_half_open_connections 2",
        "ferrite_tcp_accepted_total 9",
        "ferrite_tcp_retransmissions_total 3",
    ]);
    let value = |body: &str, name: &str| {
        let line = body.lines().find(|line| line.starts_with(name)).unwrap();
        let (_, value) = line.split_once(' ').unwrap();
        value.parse::<u64>().unwrap()
    };
    assert!(value(&reply.body, "ferrite_tasks ") > 0);
    let size = value(&reply.body, "ferrite_journal_size_bytes");
    assert!(value(&reply.body, "ferrite_journal_used_bytes") < size);
    let most = value(&reply.body, "ferrite_cache_nodes_max");
    assert!(value(&reply.body, "ferrite_cache_nodes ") <= most);
}

#[test]
fn measures_are_told_as_prometheus_wants_them() {
    let rig = Rig::new();
    rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096}"#));
    let client = rig.volumes.attach("v", Access::ReadWrite).unwrap();
    let reply = rig.measures(&[
        "ferrite_uptime_seconds 1.234",
        "ferrite_drive_serving{drive=\"nvme0n1\"} 1",
        "ferrite_pool_writable 1",
        "ferrite_volume_size_bytes{volume=\"v\"} 4096",
        "ferrite_volume_clients{volume=\"v\"} 1",
        "ferrite_jobs{state=\"running\"} 0",
    ]);
    // Each family once, with its words, before its samples.
    let mut families: Vec<&str> = Vec::new();
    for line in reply.body.lines() {
        let mut words = line.split([' ', '{']);
        match words.next().unwrap() {
            "#" if words.next() == Some("TYPE") => {
                let name = words.next().unwrap();
                assert!(!families.contains(&name), "{name} twice");
                families.push(name);
            }
            "#" => {}
            name => {
                // Samples of a histogram have names of their own.
                let family = families.last().unwrap();
                let suffix = name.strip_prefix(family);
                let is_its = matches!(suffix, Some("" | "_bucket" | "_sum" | "_count"));
                assert!(is_its, "{name} among {family}");
            }
        }
    }
    drop(client);
}

#[test]
fn shutdown_and_reboot_are_handed_on_once_answered() {
    let rig = Rig::new();
    assert_eq!(rig.call("POST", "/v1/node/shutdown", None).status, 202);
    assert_eq!(rig.call("POST", "/v1/node/reboot", Some("{}")).status, 202);
    assert_eq!((rig.node.shutdowns.get(), rig.node.reboots.get()), (1, 1));
}

#[test]
fn only_health_is_open() {
    let rig = Rig::new();
    let get = |path: &str, authorization: &str| {
        rig.raw(format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n"
        ))
    };
    let health = get("/healthz", "");
    assert_eq!(
        (health.status, health.json()),
        (200, json!({"status": "ok"}))
    );
    for authorization in [
        "",
        "Authorization: Bearer wrong!\r\n",
        "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrets\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: secret\r\n",
        "Authorization: Basic secret\r\n",
    ] {
        for path in ["/v1/node", "/v1/volumes/x", "/v1/log"] {
            let reply = get(path, authorization);
            reply.is_problem(401, "Bearer");
            assert!(
                reply
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
    }
    assert_eq!(
        get("/v1/node", "authorization: bearer secret\r\n").status,
        200
    );
    let refused = rig.raw("POST /v1/node/shutdown HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((refused.status, rig.node.shutdowns.get()), (401, 0));
}

#[test]
fn wrong_bodies_are_refused_by_the_name_of_what_is_wrong() {
    let rig = Rig::new();
    rig.call(
        "POST",
        "/v1/volumes",
        Some(r#"{"name":"taken","size":4096}"#),
    );
    let long = format!(r#"{{"name":"{}","size":4096}}"#, "a".repeat(64));
    let deep = "[".repeat(10_000);
    for (body, status, about) in [
        ("", 400, "a JSON object is needed"),
        ("{", 400, "not JSON"),
        (deep.as_str(), 400, "not JSON"),
        ("{\"name\":\"\u{0}\"}", 400, "not JSON"),
        ("[]", 422, "JSON object"),
        ("{}", 422, "`name` is missing"),
        (r#"{"name":"a"}"#, 422, "`size` is missing"),
        (
            r#"{"name":"a","size":4096,"from":"b@c"}"#,
            422,
            "only one of `size`, `from`",
        ),
        (r#"{"name":"a","from":"b"}"#, 422, "VOLUME@SNAPSHOT"),
        (r#"{"name":"a","from":"b@c"}"#, 404, "`b@c`"),
        (r#"{"name":"a","from":"taken@c"}"#, 404, "no such snapshot"),
        (r#"{"name":1,"size":4096}"#, 422, "`name` must be a string"),
        (
            r#"{"name":"a","size":"4096"}"#,
            422,
            "`size` must be a whole number",
        ),
        (
            r#"{"name":"a","size":-1}"#,
            422,
            "`size` must be a whole number",
        ),
        (
            r#"{"name":"a","size":1.5}"#,
            422,
            "`size` must be a whole number",
        ),
        (
            r#"{"name":"a","size":null}"#,
            422,
            "`size` must be a whole number",
        ),
        (
            r#"{"name":"a","size":4096,"colour":"red"}"#,
            422,
            "`colour`",
        ),
        (r#"{"name":"A","size":4096}"#, 422, "name"),
        (long.as_str(), 422, "name"),
        (r#"{"name":"a","size":100}"#, 422, "multiple of 512"),
        (
            r#"{"name":"a","size":18446744073709551104}"#,
            422,
            "at most",
        ),
        (r#"{"name":"taken","size":4096}"#, 409, "taken"),
    ] {
        rig.call("POST", "/v1/volumes", Some(body))
            .is_problem(status, about);
    }
    for (body, status, about) in [
        (r#"{"size":1024}"#, 422, "at least 4096"),
        (r#"{"name":"B"}"#, 422, "begins with a letter"),
        (r#"{"name":"other","size":512}"#, 422, "at least 4096"),
        ("", 400, "JSON object"),
    ] {
        rig.call("PATCH", "/v1/volumes/taken", Some(body))
            .is_problem(status, about);
    }
    rig.call("GET", "/v1/volumes/other", None)
        .is_problem(404, "no such volume");
    rig.call("PATCH", "/v1/volumes/taken", Some(r#"{"size":8192}"#));
    let shrunk = rig.call("PATCH", "/v1/volumes/taken", Some(r#"{"size":4096}"#));
    shrunk.is_problem(409, "only grow");
    assert_eq!(shrunk.json()["field"], "size");
}

/// Whatever the document promises is there: each path and method is found, and each body is checked.
#[test]
fn the_document_describes_what_is_served() {
    let rig = Rig::new();
    let document = rig.call("GET", "/openapi.json", None).json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let mut count = 0;
    for (path, operations) in paths {
        let called = ["{volume}", "{snapshot}", "{job}", "{token}", "{drive}"]
            .iter()
            .fold(path.clone(), |path, name| path.replace(name, "x"));
        let captured = path.matches('{').count();
        for (method, operation) in operations.as_object().unwrap() {
            count += 1;
            let is_body = operation.get("requestBody").is_some();
            let reply = rig.call(&method.to_uppercase(), &called, is_body.then_some("[]"));
            assert_ne!(reply.status, 405);
            assert_eq!(
                reply.status == 404,
                captured > 0 && !is_body,
                "{method} {path}"
            );
            assert_eq!(reply.status == 422, is_body, "{method} {path}");
            let parameters = operation["parameters"].as_array().unwrap().iter();
            assert_eq!(
                parameters.filter(|one| one["in"] == "path").count(),
                captured
            );
            assert!(operation["summary"].as_str().unwrap().ends_with('.'));
        }
    }
    assert_eq!(count, 52);
    let create = &document["paths"]["/v1/volumes"]["post"]["requestBody"];
    let schema = &create["content"]["application/json"]["schema"];
    assert_eq!(schema["required"], json!(["name"]));
    let set = &document["paths"]["/v1/volumes/{volume}/schedule"]["put"]["requestBody"];
    let keep = &set["content"]["application/json"]["schema"]["properties"]["keep"];
    assert_eq!(keep["properties"]["daily"]["type"], "integer");
    let scrub = &document["paths"]["/v1/scrub"]["post"]["requestBody"];
    assert_eq!(scrub["required"], false);
    assert_eq!(document["paths"]["/healthz"]["get"]["security"], json!([]));
}

#[test]
fn a_volume_with_clients_needs_force_to_go() {
    let rig = Rig::new();
    rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096}"#));
    let client = rig.volumes.attach("v", Access::ReadWrite).unwrap();
    assert_eq!(rig.call("GET", "/v1/volumes/v", None).json()["clients"], 1);
    let address = "10.0.0.7".parse().unwrap();
    let other = rig.volumes.attach_from(address, "v", Access::ReadWrite);
    rig.call("DELETE", "/v1/volumes/v", None)
        .is_problem(409, "2 clients are attached to `v`, from 10.0.0.7; add");
    drop(other);
    rig.call("DELETE", "/v1/volumes/v", None)
        .is_problem(409, "a client is attached to `v`; add");
    rig.call("DELETE", "/v1/volumes/v?force=false", None)
        .is_problem(409, "?force=true");
    rig.call("DELETE", "/v1/volumes/v?force=yes", None)
        .is_problem(400, "`force`");
    rig.call("DELETE", "/v1/volumes/v?forse=true", None)
        .is_problem(400, "`forse`");
    rig.call("DELETE", "/v1/volumes/v?force=true&force=true", None)
        .is_problem(400, "twice");
    rig.call("DELETE", "/v1/volumes/v?force=%zz", None)
        .is_problem(400, "percent");
    assert_eq!(
        rig.call("DELETE", "/v1/volumes/v?force=true", None).status,
        204
    );
    drop(client);
}

#[test]
fn without_a_pool_the_node_still_answers() {
    let bench = Bench::new();
    let (listener, port) = pipe_port(16 << 10);
    let node = Rc::new(FakeNode::default());
    let audit = bench.run(Audit::open(bench.exec.clone(), None));
    let backend = Backend::<RamDisk> {
        node: node.clone(),
        volumes: None,
        upkeep: None,
        peers: None,
        moves: None,
        tokens: Tokens::only(bench.exec.clone(), "secret"),
        audit: audit.clone(),
    };
    let server = Server::new(bench.exec.clone(), backend, Limits::default());
    bench.exec.spawn(server.serve(listener));
    let store = bench.store();
    let rig = Rig {
        network: crate::Network::new(&bench.exec),
        bench,
        port,
        node,
        volumes: Volumes::new(store),
        audit,
    };
    assert_eq!(
        rig.call("GET", "/v1/node", None).json()["pool"],
        Value::Null
    );
    for path in ["/v1/volumes", "/v1/peers"] {
        rig.call("GET", path, None).is_problem(503, "no pool");
    }
}

#[test]
fn who_may_do_what_with_a_volume_is_set_and_shown() {
    let rig = Rig::new();
    rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096}"#));
    let path = "/v1/volumes/v";
    let shown = rig.call("GET", path, None).json();
    assert_eq!(
        (&shown["read_only"], &shown["allow"]),
        (&json!(false), &json!([]))
    );
    let client = rig.volumes.attach("v", Access::ReadWrite).unwrap();
    let set = rig.call(
        "PATCH",
        path,
        Some(r#"{"read_only":true,"allow":["10.1.2.3/8","::1"]}"#),
    );
    assert_eq!(set.status, 200, "{set:?}");
    assert_eq!(set.json()["allow"], json!(["10.0.0.0/8", "::1/128"]));
    assert!(client.is_read_only());
    let set = rig
        .call("PATCH", path, Some(r#"{"read_only":false}"#))
        .json();
    assert_eq!(
        (&set["read_only"], &set["allow"]),
        (&json!(false), &json!(["10.0.0.0/8", "::1/128"]))
    );
    assert!(!client.is_read_only());
    let set = rig.call("PATCH", path, Some(r#"{"allow":[]}"#)).json();
    assert_eq!(set["allow"], json!([]));
    let many = format!(r#"{{"allow":[{}"::"]}}"#, r#""::1","#.repeat(32));
    for (body, about) in [
        (r#"{"allow":["ten"]}"#, "networks"),
        (r#"{"allow":["10.0.0.0/33"]}"#, "networks"),
        (many.as_str(), "at most 32"),
        (r#"{"allow":"10.0.0.0/8"}"#, "list of at least 0"),
        (r#"{"read_only":1}"#, "`true` or `false`"),
    ] {
        rig.call("PATCH", path, Some(body)).is_problem(422, about);
    }
}
