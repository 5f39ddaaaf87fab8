//! Two people at once, one person twice, and lists in pages.

use net::Stream;
use serde_json::json;

use crate::{Reply, Rig};

const TOKEN: &str = "Authorization: Bearer secret";

#[test]
fn an_edit_of_what_somebody_else_changed_is_refused() {
    let rig = Rig::new();
    rig.volume("v");
    let path = "/v1/volumes/v";
    let seen = rig.call("GET", path, None);
    let tag = seen.header("etag").expect("a tag").to_owned();
    assert_eq!(
        rig.call("GET", path, None).header("etag"),
        Some(tag.as_str())
    );
    let edit = |tag: &str, method: &str, body: Option<&str>| {
        let condition = format!("If-Match: {tag}");
        rig.call_with(&[TOKEN, &condition], method, path, body)
    };
    let changed = edit(&tag, "PATCH", Some(r#"{"size":2097152}"#));
    assert_eq!(changed.status, 200);
    let new_tag = changed.header("etag").unwrap().to_owned();
    assert_ne!(new_tag, tag);
    edit(&tag, "PATCH", Some(r#"{"read_only":true}"#)).is_problem(412, "If-Match");
    edit(&tag, "DELETE", None).is_problem(412, "If-Match");
    edit("x", "DELETE", None).is_problem(400, "tags in quotes");
    assert_eq!(rig.call("GET", path, None).json()["read_only"], false);
    let both = format!("{tag}, {new_tag}");
    assert_eq!(
        edit(&both, "PATCH", Some(r#"{"read_only":true}"#)).status,
        200
    );
    assert_eq!(edit("*", "DELETE", None).status, 204);
    edit("*", "DELETE", None).is_problem(404, "no such volume");

    // A schedule that must not be there yet.
    rig.volume("v");
    let path = "/v1/volumes/v/schedule";
    let body = Some(r#"{"every":"1h","keep":{"last":1}}"#);
    let new = [TOKEN, "If-None-Match: *"];
    assert_eq!(rig.call_with(&new, "PUT", path, body).status, 200);
    rig.call_with(&new, "PUT", path, body)
        .is_problem(412, "If-None-Match");
    for path in [path, "/v1/log/levels"] {
        let reply = rig.call("GET", path, None);
        assert!(reply.header("etag").is_some(), "{path}");
    }
}

/// Both see the same tag; one of them wins, whoever is first.
#[test]
fn of_two_edits_at_once_one_is_refused() {
    let rig = Rig::new();
    rig.volume("v");
    let tag = rig.call("GET", "/v1/volumes/v", None);
    let tag = tag.header("etag").unwrap().to_owned();
    let exec = rig.bench.exec.clone();
    let results = rig.bench.run({
        let port = rig.port.clone();
        async move {
            let edit = |network: &'static str| {
                let (stream, tag) = (port.connect().unwrap(), tag.clone());
                async move {
                    let body = json!({"allow": [network]}).to_string();
                    let text = format!(
                        "PATCH /v1/volumes/v HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\nIf-Match: {tag}\r\n\
                         Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(text.as_bytes()).await.unwrap();
                    Reply::read(&stream).await.status
                }
            };
            let _ = exec;
            let mut results = exec::join_all([edit("10.0.0.0/8"), edit("192.0.2.0/24")]).await;
            results.sort_unstable();
            results
        }
    });
    assert_eq!(results, [200, 412]);
}

#[test]
fn a_request_that_comes_twice_is_done_once() {
    let rig = Rig::new();
    let post = |key: &str, path: &str, body: &str| {
        let key = format!("Idempotency-Key: {key}");
        rig.call_with(&[TOKEN, &key], "POST", path, Some(body))
    };
    let body = r#"{"name":"v","size":4096}"#;
    let first = post("one", "/v1/volumes", body);
    let second = post("one", "/v1/volumes", body);
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("location"), Some("/v1/volumes/v"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    post("two", "/v1/volumes", body).is_problem(409, "taken");
    post("one", "/v1/volumes", r#"{"name":"w","size":4096}"#).is_problem(409, "another request");
    post("one", "/v1/volumes/v/snapshots", r#"{"name":"s"}"#).is_problem(409, "another request");
    let long = "x".repeat(129);
    post(&long, "/v1/volumes", body).is_problem(400, "128 visible");
    // What was refused can be tried again.
    rig.call("DELETE", "/v1/volumes/v", None);
    assert_eq!(post("two", "/v1/volumes", body).status, 201);
    // Keys are each token's own.
    let other = rig.call(
        "POST",
        "/v1/tokens",
        Some(r#"{"name":"t","role":"operator"}"#),
    );
    let other = other.json()["token"].as_str().unwrap().to_owned();
    let other = format!("Authorization: Bearer {other}");
    let body = Some(r#"{"name":"x","size":4096}"#);
    let mine = rig.call_with(
        &[&other, "Idempotency-Key: one"],
        "POST",
        "/v1/volumes",
        body,
    );
    assert_eq!(
        (mine.status, mine.json()["name"].as_str()),
        (201, Some("x"))
    );
}

#[test]
fn lists_come_in_pages() {
    let rig = Rig::new();
    let names: Vec<String> = (0..7).map(|number| format!("v{number}")).collect();
    for name in &names {
        rig.volume(name);
        let path = format!("/v1/volumes/{name}/schedule");
        rig.call("PUT", &path, Some(r#"{"every":"1h","keep":{"last":1}}"#));
    }
    for (path, key, name) in [
        ("/v1/volumes", "volumes", "name"),
        ("/v1/schedules", "schedules", "volume"),
    ] {
        let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
        for count in [3, 3, 1] {
            let page = rig.call("GET", &format!("{path}{query}"), None).json();
            let list = page[key].as_array().unwrap();
            assert_eq!(list.len(), count, "{page}");
            seen.extend(
                list.iter()
                    .map(|one| one[name].as_str().unwrap().to_owned()),
            );
            match page.get("next") {
                Some(next) => query = format!("?limit=3&next={}", next.as_str().unwrap()),
                None => assert_eq!(seen, names),
            }
        }
        assert_eq!(seen, names);
        let all = rig.call("GET", path, None).json();
        assert_eq!(
            (all[key].as_array().unwrap().len(), all.get("next")),
            (7, None)
        );
    }
    rig.call("GET", "/v1/volumes?next=x", None)
        .is_problem(400, "`next`");
    rig.call("GET", "/v1/volumes?limit=0", None)
        .is_problem(400, "`limit`");
}

#[test]
fn levels_of_the_log_are_set_while_it_runs() {
    let rig = Rig::new();
    let path = "/v1/log/levels";
    assert_eq!(
        rig.call("GET", path, None).json(),
        json!({"level": "info", "modules": {}})
    );
    let wanted = json!({"level": "warn", "modules": {"nvme": "trace"}});
    let set = rig.call("PUT", path, Some(&wanted.to_string()));
    assert_eq!((set.status, set.json()), (200, wanted));
    assert_eq!(rig.node.levels.borrow().modules.len(), 1);
    let unknown = r#"{"level":"info","modules":{"store":"debug","nvmee":"debug"}}"#;
    rig.call("PUT", path, Some(unknown))
        .is_problem(404, "no such module: `nvmee`");
    assert_eq!(rig.node.levels.borrow().modules.len(), 1);
    let known = rig.call("GET", "/v1/log/modules", None).json();
    assert_eq!(known, json!({"modules": ["nvme", "store"]}));
    for (body, about) in [
        (r#"{"level":"loud"}"#, "one of off, error"),
        (
            r#"{"level":"info","modules":{"nvme":1}}"#,
            "`modules` must be",
        ),
        (
            r#"{"level":"info","modules":{"NVMe":"info"}}"#,
            "`modules` must be",
        ),
        (r#"{"modules":{}}"#, "`level` is missing"),
    ] {
        rig.call("PUT", path, Some(body)).is_problem(422, about);
    }
}

#[test]
fn a_drive_is_given_up_by_its_serial_number_only() {
    let rig = Rig::new();
    let give_up = |id: &str, confirm: &str| {
        let body = json!({"confirm": confirm}).to_string();
        rig.call("POST", &format!("/v1/drives/{id}/format"), Some(&body))
    };
    give_up("sda", "S").is_problem(404, "no such drive");
    give_up("nvme0n1", "s").is_problem(409, "serial number");
    assert_eq!(give_up("nvme0n1", "S").status, 200);
}

/// Numbers are the same however JSON writes them.
#[test]
fn whole_numbers_may_have_a_point() {
    let rig = Rig::new();
    let made = rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096.0}"#));
    assert_eq!((made.status, &made.json()["size"]), (201, &json!(4096)));
    let made = rig.call("POST", "/v1/volumes", Some(r#"{"name":"w","size":1e6}"#));
    made.is_problem(422, "multiple of 512");
}
