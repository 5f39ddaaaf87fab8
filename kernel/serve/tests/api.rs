//! The HTTP API as clients see it: requests in, responses out, over a pipe and a store in memory.

#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use net::Stream;
use net::pipe::{Pipe, PipeDialer, pipe_port};
use ram::{Bench, RamDisk};
use serde_json::{Value, json};
use serve::api::{Backend, DriveInfo, DriveState, Limits, MemoryInfo, Node, NodeInfo, Server};
use volume::{Access, Volumes};

#[derive(Default)]
struct FakeNode {
    shutdowns: Cell<u32>,
    reboots: Cell<u32>,
}

impl Node for FakeNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "box".into(),
            version: "0.1.0".into(),
            uptime_ms: 1234,
            memory: MemoryInfo { total: 2, free: 1 },
        }
    }

    fn drives(&self) -> Vec<DriveInfo> {
        vec![DriveInfo {
            id: "nvme0n1".into(),
            model: "M".into(),
            serial: "S".into(),
            slot: "0000:00:04.0".into(),
            state: DriveState::Serving,
            detail: None,
            size: 1 << 30,
            used: 4096,
            errors: 0,
        }]
    }

    fn log_tail(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|line| format!("line {line}")).collect()
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
}

impl Rig {
    fn new() -> Self {
        let bench = Bench::new();
        let volumes = Volumes::new(bench.store());
        let (listener, port) = pipe_port(16 << 10);
        let rig = Self {
            port,
            node: Rc::default(),
            bench,
            volumes,
        };
        let backend = Backend {
            node: rig.node.clone(),
            volumes: Some(rig.volumes.clone()),
            token: "secret".into(),
        };
        let server = Server::new(rig.bench.exec.clone(), backend, Limits::default());
        rig.bench.exec.spawn(server.serve(listener));
        rig
    }

    fn story<F: Future<Output = ()> + 'static>(&self, story: impl FnOnce(PipeDialer) -> F) {
        self.bench.run(story(self.port.clone()));
    }

    /// One request with the token.
    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
        text += "Authorization: Bearer secret\r\nConnection: close\r\n";
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
    assert_eq!(
        rig.call("GET", "/v1/volumes", None).json(),
        json!({"volumes": [created]})
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
    assert_eq!(node["memory"], json!({"total": 2, "free": 1}));
    assert_eq!(node["pool"]["state"], "serving");
    assert!(node["pool"]["size"].as_u64().unwrap() > 0);
    let summary = json!({"id": "nvme0n1", "state": "serving", "size": 1 << 30, "used": 4096});
    assert_eq!(node["drives"], json!([summary]));

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
        for path in [
            "/v1/node",
            "/v1/drives",
            "/v1/volumes",
            "/v1/volumes/x",
            "/v1/log",
        ] {
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
        (r#"{"name":"b"}"#, 422, "`name`"),
        ("", 400, "JSON object"),
    ] {
        rig.call("PATCH", "/v1/volumes/taken", Some(body))
            .is_problem(status, about);
    }
    rig.call("PATCH", "/v1/volumes/taken", Some(r#"{"size":8192}"#));
    let shrunk = rig.call("PATCH", "/v1/volumes/taken", Some(r#"{"size":4096}"#));
    shrunk.is_problem(422, "only grow");
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
        let (called, mut captured) = (path.replace("{id}", "x").replace("{v}", "x"), 0);
        captured += path.matches('{').count();
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
    assert_eq!(count, 13);
    let create = &document["paths"]["/v1/volumes"]["post"]["requestBody"];
    let schema = &create["content"]["application/json"]["schema"];
    assert_eq!(schema["required"], json!(["name", "size"]));
    assert_eq!(document["paths"]["/healthz"]["get"]["security"], json!([]));
}

#[test]
fn a_volume_with_clients_needs_force_to_go() {
    let rig = Rig::new();
    rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096}"#));
    let client = rig.volumes.attach("v", Access::ReadWrite).unwrap();
    assert_eq!(rig.call("GET", "/v1/volumes/v", None).json()["clients"], 1);
    rig.call("DELETE", "/v1/volumes/v", None)
        .is_problem(409, "attached");
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
fn paths_and_methods() {
    let rig = Rig::new();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/volumes/",
        "/v1/volumes/a/b",
        "/v2/node",
        "*",
    ] {
        rig.call("GET", path, None)
            .is_problem(404, "nothing at this path");
    }
    for (method, path, allow) in [
        ("DELETE", "/v1/volumes", "HEAD, GET, POST"),
        ("PUT", "/v1/volumes/a", "HEAD, GET, PATCH, DELETE"),
        ("GET", "/v1/node/shutdown", "POST"),
        ("TRACE", "/healthz", "HEAD, GET"),
        ("OPTIONS", "/v1/node", "HEAD, GET"),
    ] {
        let reply = rig.call(method, path, None);
        reply.is_problem(405, "only");
        assert_eq!(reply.header("allow"), Some(allow));
    }
    rig.call("BREW", "/healthz", None).is_problem(501, "method");
    rig.call("get", "/healthz", None).is_problem(501, "method");
    rig.call("GET", "/v1/volumes/%2e%2E%2Fx", None)
        .is_problem(404, "no such volume");
}

#[test]
fn head_has_the_length_and_no_body() {
    let rig = Rig::new();
    rig.story(async |port| {
        let stream = port.connect().unwrap();
        let text =
            "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(text.as_bytes()).await.unwrap();
        let head = Reply::read_head(&stream).await;
        let get = Reply::read(&stream).await;
        assert_eq!(
            header(&head, "content-length"),
            get.header("content-length")
        );
        assert_eq!(get.status, 200);
    });
}

#[test]
fn a_connection_is_kept_for_pipelined_requests_and_refusals() {
    let rig = Rig::new();
    rig.story(async |port| {
        let stream = port.connect().unwrap();
        let body = r#"{"name":"p","size":4096}"#;
        let post = format!(
            "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let refused = post.replace("secret", "wrong");
        let text = format!("\r\n{refused}{post}GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n{post}");
        stream.write_all(text.as_bytes()).await.unwrap();
        for status in [401, 201, 404, 409] {
            assert_eq!(Reply::read(&stream).await.status, status);
        }
    });
}

#[test]
fn bodies_wait_for_the_go_ahead_when_asked_to() {
    let rig = Rig::new();
    rig.story(async |port| {
        let ask = |token: &str, len: usize| {
            format!(
                "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
                 Expect: 100-continue\r\nContent-Length: {len}\r\n\r\n"
            )
        };
        let body = r#"{"name":"e","size":4096}"#;
        let stream = port.connect().unwrap();
        stream
            .write_all(ask("secret", body.len()).as_bytes())
            .await
            .unwrap();
        assert_eq!(
            Reply::read_head(&stream).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        stream.write_all(body.as_bytes()).await.unwrap();
        assert_eq!(Reply::read(&stream).await.status, 201);

        for (token, len, status) in [("wrong", 10, 401), ("secret", 70_000, 413)] {
            let stream = port.connect().unwrap();
            stream.write_all(ask(token, len).as_bytes()).await.unwrap();
            let reply = Reply::read(&stream).await;
            reply.is_problem(status, "");
            assert_eq!(reply.header("connection"), Some("close"));
            assert_eq!(stream.read(&mut [0]).await, Ok(0));
        }
    });
}

#[test]
fn what_is_not_http_or_too_much_is_answered_and_closed() {
    let rig = Rig::new();
    let large = "x".repeat(70_000);
    for (text, status) in [
        ("NBDMAGIC\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nHost: x\r\n\r\n".to_owned(), 505),
        (format!("GET /{large} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
        (
            format!("GET / HTTP/1.1\r\nHost: x\r\nX: {large}\r\n\r\n"),
            431,
        ),
        (
            "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            501,
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nExpect: much\r\n\r\n".into(),
            417,
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
            400,
        ),
        (
            format!(
                "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
                 Content-Length: 70000\r\n\r\n{large}"
            ),
            413,
        ),
    ] {
        let reply = rig.raw(text);
        reply.is_problem(status, "");
        assert_eq!(reply.header("connection"), Some("close"), "{reply:?}");
    }
    let form = "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
                Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1\r\n\r\na";
    rig.raw(form).is_problem(415, "application/json");
}

#[test]
fn slow_clients_are_not_waited_for() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let start = exec.now();
        let idle = port.connect().unwrap();
        assert_eq!(idle.read(&mut [0]).await, Ok(0));
        assert_eq!(exec.now().since(start), Duration::from_secs(60));

        let slow = port.connect().unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        Reply::read(&slow).await.is_problem(408, "too long");

        let slow = port.connect().unwrap();
        let half = "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1";
        slow.write_all(half.as_bytes()).await.unwrap();
        Reply::read(&slow).await.is_problem(408, "too long");

        // One that asks and asks and takes no answer: its pipe fills up.
        let deaf = port.connect().unwrap();
        let asking = deaf.clone();
        exec.spawn(async move {
            let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
            while asking.write_all(ask).await.is_ok() {}
        });
        exec.sleep(Duration::from_secs(60)).await;
        assert!(deaf.read(&mut [0]).await.is_err());
    });
}

#[test]
fn without_a_pool_the_node_still_answers() {
    let bench = Bench::new();
    let (listener, port) = pipe_port(16 << 10);
    let node = Rc::new(FakeNode::default());
    let backend = Backend::<RamDisk> {
        node: node.clone(),
        volumes: None,
        token: "secret".into(),
    };
    let server = Server::new(bench.exec.clone(), backend, Limits::default());
    bench.exec.spawn(server.serve(listener));
    let store = bench.store();
    let rig = Rig {
        bench,
        port,
        node,
        volumes: Volumes::new(store),
    };
    assert_eq!(
        rig.call("GET", "/v1/node", None).json()["pool"],
        Value::Null
    );
    rig.call("GET", "/v1/volumes", None)
        .is_problem(503, "no pool");
}

/// Requests with bytes flipped, cut, repeated and inserted: every connection ends, and the server lives.
#[test]
fn noise_hurts_nobody_else() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let valid = b"POST /v1/volumes?x=%41 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
                      Content-Type: application/json\r\nExpect: 100-continue\r\n\
                      Content-Length: 24\r\n\r\n{\"name\":\"p\",\"size\":4096}\
                      GET /v1/volumes/p?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n";
        let mut random = 0x5eed_u64;
        let mut below = move |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % bound.max(1) as u64) as usize
        };
        for _ in 0..5000 {
            let mut bytes = valid.to_vec();
            for _ in 0..=below(3) {
                let at = below(bytes.len());
                match below(4) {
                    0 if !bytes.is_empty() => bytes[at] = below(256) as u8,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, b"\r\n :%&={}\""[below(10)]),
                    _ => {
                        let part = bytes[at..(at + below(40)).min(bytes.len())].to_vec();
                        bytes.splice(at..at, part);
                    }
                }
            }
            let stream = port.connect().unwrap();
            let _ = stream.write_all(&bytes).await;
            stream.finish();
            let mut sink = [0; 4096];
            while matches!(stream.read(&mut sink).await, Ok(1..)) {}
        }
        exec.sleep(Duration::from_secs(5)).await;
        let stream = port.connect().unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
        assert_eq!(Reply::read(&stream).await.status, 200);
    });
}
