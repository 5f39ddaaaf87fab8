//! The console's files, and the figures that it draws.

use std::time::Duration;

use volume::{Access, Operation};

use crate::Rig;

#[test]
fn the_console_is_there_without_a_token() {
    let rig = Rig::new();
    let page = rig.call_with(&[], "GET", "/", None);
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.body.contains("/console/app.js"), "{}", page.body);

    let program = rig.call_with(&[], "GET", "/console/app.js", None);
    assert_eq!(
        program.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    rig.call_with(&[], "GET", "/console/", None)
        .is_problem(404, "nothing");
    let refused = rig.call_with(&[], "POST", "/", None);
    refused.is_problem(405, "only");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
}

#[test]
fn what_a_browser_has_is_not_sent_again() {
    let rig = Rig::new();
    let style = rig.call_with(&[], "GET", "/console/console.css", None);
    let tag = style.header("etag").unwrap();
    for known in [tag.to_string(), format!("\"x\", W/{tag}")] {
        let header = format!("If-None-Match: {known}");
        let again = rig.call_with(&[&header], "GET", "/console/console.css", None);
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        assert_eq!(again.header("etag"), Some(tag));
        assert_eq!(again.header("content-length"), None);
    }
    let other = rig.call_with(
        &["If-None-Match: \"x\""],
        "GET",
        "/console/console.css",
        None,
    );
    assert_eq!(other.status, 200);
}

#[test]
fn figures_are_for_those_with_a_token() {
    let rig = Rig::new();
    rig.call_with(&[], "GET", "/metrics", None)
        .is_problem(401, "token");
    rig.call(
        "POST",
        "/v1/volumes",
        Some(r#"{"name":"db","size":1048576}"#),
    );
    rig.call(
        "POST",
        "/v1/volumes",
        Some(r#"{"name":"idle","size":1048576}"#),
    );
    let client = rig.volumes.attach("db", Access::ReadWrite).unwrap();
    client
        .traffic()
        .note(Operation::Read, 4096, Duration::from_micros(40));
    client
        .traffic()
        .note(Operation::Read, 512, Duration::from_secs(2));

    let reply = rig.measures(&[
        "ferrite_volume_clients{volume=\"db\"} 1",
        "ferrite_volume_bytes_total{volume=\"db\",operation=\"read\"} 4608",
        "ferrite_volume_request_duration_seconds_bucket{volume=\"db\",operation=\"read\",le=\"0.000032768\"} 0",
        "ferrite_volume_request_duration_seconds_bucket{volume=\"db\",operation=\"read\",le=\"0.000065536\"} 1",
        "ferrite_volume_request_duration_seconds_bucket{volume=\"db\",operation=\"read\",le=\"+Inf\"} 2",
        "ferrite_volume_request_duration_seconds_sum{volume=\"db\",operation=\"read\"} 2.000040000",
        "ferrite_volume_request_duration_seconds_count{volume=\"db\",operation=\"read\"} 2",
    ]);
    let idle = "ferrite_volume_bytes_total{volume=\"idle\"";
    assert!(!reply.body.contains(idle), "nobody used it");
}
