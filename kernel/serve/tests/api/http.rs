//! HTTP itself: framing, limits, patience.

use std::time::Duration;

use net::Stream;

use crate::{Reply, Rig, header};

#[test]
fn paths_and_methods() {
    let rig = Rig::new();
    for path in [
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
    rig.call("BREW", "/healthz", None).is_problem(405, "only");
    rig.call("get", "/healthz", None).is_problem(405, "only");
    rig.call("BREW", "/tea", None).is_problem(404, "nothing");
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

/// Clients that are slow or do nothing hold places only until others come.
#[test]
fn slow_clients_do_not_keep_others_out() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let mut slow = Vec::new();
        for index in 0..64 {
            let stream = port.connect().unwrap();
            let half: &[u8] = match index % 3 {
                0 => b"",
                1 => b"GET /healthz HT",
                _ => b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
            };
            let _ = stream.write_all(half).await;
            slow.push(stream);
        }
        exec.sleep(Duration::from_secs(2)).await;
        // They stay, and each finds a place.
        let mut others = Vec::new();
        for index in 0..32 {
            let other = port.connect().unwrap();
            let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
            other.write_all(ask).await.unwrap();
            assert_eq!(Reply::read(&other).await.status, 200, "{index}");
            others.push(other);
        }
        let start = exec.now();
        for stream in &slow {
            // Ended, or answered that it took too long.
            while matches!(stream.read(&mut [0; 512]).await, Ok(1..)) {}
        }
        assert!(exec.now().since(start) <= Duration::from_secs(60));
    });
}
