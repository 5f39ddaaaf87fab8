//! Who may do what, and the notes of who did.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use access::{Audit, Refusal, Role, Tokens};
use serde_json::json;
use volume::Volumes;

use crate::{Counting, Rig};

impl Rig {
    /// A new token's secret.
    fn token(&self, name: &str, role: &str) -> String {
        let body = json!({"name": name, "role": role}).to_string();
        let made = self.call("POST", "/v1/tokens", Some(&body));
        assert_eq!(made.status, 201, "{made:?}");
        made.json()["token"].as_str().unwrap().into()
    }

    fn with_token(
        &self,
        secret: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> crate::Reply {
        let header = format!("Authorization: Bearer {secret}");
        self.call_with(&[&header], method, path, body)
    }
}

#[test]
fn a_token_from_creation_to_revocation() {
    let rig = Rig::new();
    let made = rig.call(
        "POST",
        "/v1/tokens",
        Some(r#"{"name":"backup","role":"operator"}"#),
    );
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("location"), Some("/v1/tokens/backup"));
    let mut token = made.json();
    let secret = token.as_object_mut().unwrap().remove("token").unwrap();
    let secret = secret.as_str().unwrap();
    assert!(secret.len() > 64);
    assert_eq!(
        token,
        json!({"name": "backup", "role": "operator", "created_at": "2023-11-14T22:13:20.000Z",
            "last_seen_at": null, "configured": false})
    );
    assert_eq!(rig.call("GET", "/v1/tokens/backup", None).json(), token);
    let listed = rig.call("GET", "/v1/tokens", None);
    assert!(!listed.body.contains(secret), "shown again");
    let names = ["configuration", "backup"];
    for (token, name) in listed.json()["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .zip(names)
    {
        assert_eq!(token["name"], name);
    }
    assert_eq!(rig.with_token(secret, "GET", "/v1/node", None).status, 200);
    let seen = rig.call("GET", "/v1/tokens/backup", None).json()["last_seen_at"].clone();
    assert!(
        seen.as_str().unwrap().starts_with("2023-11-14T22:13"),
        "{seen}"
    );
    let who = rig.with_token(secret, "GET", "/v1/whoami", None).json();
    assert_eq!(who, json!({"name": "backup", "role": "operator"}));
    rig.call_with(&[], "GET", "/v1/whoami", None)
        .is_problem(401, "token");

    let taken = Some(r#"{"name":"backup","role":"admin"}"#);
    rig.call("POST", "/v1/tokens", taken)
        .is_problem(409, "taken");
    for (body, about) in [
        (
            r#"{"name":"x","role":"root"}"#,
            "read-only, operator, admin",
        ),
        (r#"{"name":"X","role":"admin"}"#, "begins with a letter"),
        (r#"{"name":"x"}"#, "`role` is missing"),
    ] {
        rig.call("POST", "/v1/tokens", Some(body))
            .is_problem(422, about);
    }
    rig.call("DELETE", "/v1/tokens/configuration", None)
        .is_problem(409, "configuration");
    rig.call("DELETE", "/v1/tokens/nobody", None)
        .is_problem(404, "no such token");

    assert_eq!(rig.call("DELETE", "/v1/tokens/backup", None).status, 204);
    rig.with_token(secret, "GET", "/v1/node", None)
        .is_problem(401, "right token");
    rig.call("GET", "/v1/tokens/backup", None)
        .is_problem(404, "no such token");
}

#[test]
fn each_role_may_do_its_part() {
    let rig = Rig::new();
    let (looks, works) = (
        rig.token("looks", "read-only"),
        rig.token("works", "operator"),
    );
    let volume = Some(r#"{"name":"v","size":4096}"#);
    for path in [
        "/v1/node",
        "/v1/peers",
        "/v1/volumes",
        "/v1/jobs",
        "/v1/log",
        "/openapi.json",
    ] {
        assert_eq!(
            rig.with_token(&looks, "GET", path, None).status,
            200,
            "{path}"
        );
    }
    for (method, path, body) in [
        ("POST", "/v1/volumes", volume),
        ("POST", "/v1/scrub", None),
        ("GET", "/v1/audit", None),
        ("GET", "/v1/tokens", None),
        ("POST", "/v1/node/reboot", None),
    ] {
        rig.with_token(&looks, method, path, body)
            .is_problem(403, "`looks` has read-only");
    }
    assert_eq!(
        rig.with_token(&works, "POST", "/v1/volumes", volume).status,
        201
    );
    assert_eq!(rig.with_token(&works, "GET", "/v1/audit", None).status, 200);
    let levels = Some(r#"{"level":"debug"}"#);
    for (method, path, body) in [
        ("GET", "/v1/tokens", None),
        (
            "POST",
            "/v1/tokens",
            Some(r#"{"name":"me","role":"admin"}"#),
        ),
        ("DELETE", "/v1/tokens/works", None),
        ("POST", "/v1/peers", Some("{}")),
        ("POST", "/v1/peers/tokens", None),
        ("DELETE", "/v1/peers/other", None),
        ("POST", "/v1/node/shutdown", None),
        ("PUT", "/v1/log/levels", levels),
        (
            "POST",
            "/v1/drives/nvme0n1/format",
            Some(r#"{"confirm":"S"}"#),
        ),
    ] {
        rig.with_token(&works, method, path, body)
            .is_problem(403, "needs the role admin");
    }
    assert_eq!((rig.node.shutdowns.get(), rig.node.reboots.get()), (0, 0));
    let lasting = rig.token("boss", "admin");
    assert_eq!(
        rig.with_token(&lasting, "PUT", "/v1/log/levels", levels)
            .status,
        200
    );
}

#[test]
fn tokens_and_notes_survive_a_restart_and_secrets_are_nowhere() {
    let rig = Rig::new();
    let secret = rig.token("backup", "operator");
    assert_eq!(
        rig.call("POST", "/v1/volumes", Some(r#"{"name":"v","size":4096}"#))
            .status,
        201
    );
    rig.pass(Duration::from_secs(2));
    let holds = |bytes: &[u8]| {
        bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes())
    };
    let pages = rig.bench.disk.durable.borrow();
    assert!(!pages.values().any(|page| holds(&page.bytes)), "on a drive");
    drop(pages);

    // What a power cut leaves.
    let disk = (&*rig.bench.disk.durable.borrow()).into();
    let bench = rig.bench.clone();
    let store = rig.bench.run(async move { bench.open(disk).await });
    let again = Rig::on(rig.bench.clone(), Volumes::new(store));
    let known = again.with_token(&secret, "GET", "/v1/volumes", None);
    assert_eq!(known.status, 200, "{known:?}");
    let notes = again.call("GET", "/v1/audit", None).json();
    let notes = notes["entries"].as_array().unwrap();
    assert_eq!(notes[0]["what"], "POST /v1/volumes");
    assert_eq!(notes[1]["with"], r#"{"name":"backup","role":"operator"}"#);
    let made = again.call("DELETE", "/v1/volumes/v", None);
    assert_eq!(made.status, 204);
    let newest = again.call("GET", "/v1/audit?limit=1", None).json();
    assert_eq!(newest["entries"][0]["id"], 3);
    assert_eq!(again.call("DELETE", "/v1/tokens/backup", None).status, 204);
}

#[test]
fn every_change_is_noted_with_who_and_what_came_of_it() {
    let rig = Rig::new();
    let works = rig.token("works", "operator");
    let volume = Some("{\"name\":\"v\",\n\"size\":4096}");
    rig.with_token(&works, "POST", "/v1/volumes", volume);
    rig.with_token(&works, "POST", "/v1/volumes", volume);
    rig.with_token(&works, "POST", "/v1/node/reboot", None);
    rig.call("DELETE", "/v1/volumes/v?force=true", None);
    rig.call("GET", "/v1/volumes", None);
    rig.call("DELETE", "/v1/volumes/v?forse=true", None);
    let notes = rig.call("GET", "/v1/audit", None).json();
    let noted: Vec<_> = notes["entries"].as_array().unwrap().iter().rev().collect();
    let expected = [
        ("configuration", "POST /v1/tokens", 201, None),
        ("works", "POST /v1/volumes", 201, None),
        ("works", "POST /v1/volumes", 409, Some("taken")),
        ("works", "POST /v1/node/reboot", 403, Some("role admin")),
        (
            "configuration",
            "DELETE /v1/volumes/v?force=true",
            204,
            None,
        ),
        (
            "configuration",
            "DELETE /v1/volumes/v?forse=true",
            400,
            Some("`forse`"),
        ),
    ];
    assert_eq!(noted.len(), expected.len(), "{notes}");
    for (note, (who, what, status, error)) in noted.iter().zip(expected) {
        assert_eq!((&note["who"], &note["what"]), (&json!(who), &json!(what)));
        assert_eq!(note["status"], status);
        assert_eq!(note["from"], "127.0.0.1");
        match error {
            None => assert_eq!(note["error"], json!(null)),
            Some(error) => assert!(note["error"].as_str().unwrap().contains(error), "{note}"),
        }
    }
    assert_eq!(noted[1]["with"], "{\"name\":\"v\", \"size\":4096}");

    let page = rig.call("GET", "/v1/audit?limit=4", None).json();
    let next = page["next"].as_str().unwrap();
    let rest = rig
        .call("GET", &format!("/v1/audit?limit=4&next={next}"), None)
        .json();
    assert_eq!(rest["entries"].as_array().unwrap().len(), 2);
    assert_eq!(rest.get("next"), None);
}

/// Thousands of changes: the oldest notes go, all that stay are in order, and a restart finds them.
#[test]
fn notes_are_bounded() {
    let rig = Rig::new();
    for _ in 0..3000 {
        rig.audit.note(access::Entry {
            who: "x".repeat(100),
            what: "y".repeat(100),
            ..access::Entry::default()
        });
        if rig.audit.list(None, 1)[0].id.is_multiple_of(100) {
            rig.pass(Duration::from_secs(2));
        }
    }
    rig.pass(Duration::from_secs(2));
    let kept = rig.audit.list(None, usize::MAX);
    assert!((200..1000).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[0].id, 3000);
    assert!(kept.windows(2).all(|pair| pair[0].id == pair[1].id + 1));
    let (exec, store) = (rig.bench.exec.clone(), rig.volumes.store().clone());
    let again = rig.bench.run(Audit::open(exec, Some(store)));
    assert_eq!(again.list(None, usize::MAX), kept);
}

#[test]
fn guessing_is_slowed_down_but_locks_nobody_out() {
    let rig = Rig::new();
    let secret = rig.token("backup", "read-only");
    for _ in 0..10 {
        rig.with_token("guess", "GET", "/v1/node", None)
            .is_problem(401, "right token");
    }
    let refused = rig.with_token("guess", "GET", "/v1/node", None);
    refused.is_problem(401, "too many");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    // A short one could be guessed, so it is not looked at; a long one cannot.
    rig.call("GET", "/v1/node", None)
        .is_problem(401, "too many");
    assert_eq!(rig.with_token(&secret, "GET", "/v1/node", None).status, 200);
    assert_eq!(rig.call_with(&[], "GET", "/v1/node", None).status, 401);
    rig.pass(Duration::from_secs(wait));
    assert_eq!(rig.call("GET", "/v1/node", None).status, 200);
    rig.with_token("guess", "GET", "/v1/node", None)
        .is_problem(401, "right token");
    rig.with_token("guess", "GET", "/v1/node", None)
        .is_problem(401, "too many");
}

/// An appliance that nobody configured makes one token for its console, once.
#[test]
fn the_first_token_is_made_once_and_there_is_always_an_admin() {
    let rig = Rig::new();
    let starts = Cell::new(0);
    let open = || {
        let (exec, store) = (rig.bench.exec.clone(), rig.volumes.store().clone());
        starts.set(starts.get() + 50);
        let entropy = Rc::new(Counting(starts.clone()));
        rig.bench.run(Tokens::open(exec, store, entropy, None))
    };
    let peer = "10.0.0.1".parse().unwrap();
    let (tokens, first) = open();
    let first = first.expect("a first token");
    assert_eq!(
        tokens.admit(peer, first.text()).map(|who| who.role),
        Ok(Role::Admin)
    );
    let (tokens, none) = open();
    assert!(none.is_none(), "shown once");
    assert_eq!(tokens.list().len(), 1);
    let (last, other) = (tokens.clone(), tokens.clone());
    assert_eq!(
        rig.bench.run(async move { last.revoke("first").await }),
        Err(access::TokenError::LastAdmin)
    );
    rig.bench.run(async move {
        other
            .create("boss", Role::Admin)
            .await
            .expect("another admin");
        other.revoke("first").await.expect("not the last one");
    });
    assert_eq!(tokens.admit(peer, first.text()), Err(Refusal::Wrong));
    assert!(open().1.is_none());
}
