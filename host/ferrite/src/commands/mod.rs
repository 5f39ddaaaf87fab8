//! What each group of commands does.
//!
//! A name that nothing has is answered with what was probably meant ([`explain`]).

pub mod config;
pub mod context;
pub mod diff;
pub mod job;
pub mod log;
pub mod migrate;
pub mod peer;
pub mod schedule;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod support;
pub mod token;
pub mod top;
pub mod volume;

use std::str::FromStr;

use serde_json::Value;

use crate::client::segment;
use crate::suggest::nearest;
use crate::{Client, Failure};

/// A snapshot as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotName {
    /// Its volume.
    pub volume: String,
    /// Its own name.
    pub snapshot: String,
}

impl FromStr for SnapshotName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('@') {
            Some((volume, snapshot)) if !volume.is_empty() && !snapshot.is_empty() => Ok(Self {
                volume: volume.into(),
                snapshot: snapshot.into(),
            }),
            _ => Err("a snapshot is written VOLUME@SNAPSHOT, like db@monday"),
        }
    }
}

impl std::fmt::Display for SnapshotName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}@{}", self.volume, self.snapshot)
    }
}

impl SnapshotName {
    /// Where the API has it.
    fn path(&self) -> String {
        let (volume, snapshot) = (segment(&self.volume), segment(&self.snapshot));
        format!("/v1/volumes/{volume}/snapshots/{snapshot}")
    }
}

/// Where the API has a volume.
fn volume_path(name: &str) -> String {
    format!("/v1/volumes/{}", segment(name))
}

/// `?force=true`, if that is wanted.
fn force_query(force: bool) -> &'static str {
    if force { "?force=true" } else { "" }
}

/// A volume with what it uses now: answers to changes tell what the last checkpoint knew. As it was answered if it is gone.
fn looked_up(client: &Client, volume: Value) -> Value {
    let name = volume["name"].as_str().unwrap_or_default();
    client.get(&volume_path(name)).unwrap_or(volume)
}

/// All elements of a list that comes in pages, under `key`. The path may have a query.
fn pages(client: &Client, path: &str, key: &str) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut query = String::new();
    let sign = if path.contains('?') { '&' } else { '?' };
    loop {
        let mut page = client.get(&format!("{path}{query}"))?;
        if let Some(Value::Array(list)) = page.get_mut(key).map(Value::take) {
            all.extend(list);
        }
        match page["next"].as_str() {
            Some(next) => query = format!("{sign}next={}", segment(next)),
            None => return Ok(all),
        }
    }
}

/// The snapshots of a volume, oldest first.
fn snapshots(client: &Client, volume: &str) -> Result<Vec<Value>, Failure> {
    let path = format!("{}/snapshots?exact=true", volume_path(volume));
    pages(client, &path, "snapshots")
}

/// Adds to the refusal of a volume's name, or of a snapshot's, what was probably meant.
fn explain(client: &Client, failure: Failure, volume: &str, snapshot: Option<&str>) -> Failure {
    match failure {
        Failure::Refused {
            status: 404,
            message,
        } => Failure::Refused {
            status: 404,
            message: missing(client, volume, snapshot).unwrap_or(message),
        },
        other => other,
    }
}

/// What was probably meant by a name, as the end of a sentence.
fn guess(name: &str, all: &[String]) -> String {
    match nearest(name, all.iter().map(String::as_str)) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => String::new(),
    }
}

/// What is missing; `None` when nothing is, or it cannot be found out.
fn missing(client: &Client, volume: &str, snapshot: Option<&str>) -> Option<String> {
    let names = |list: &[Value]| -> Vec<String> {
        let names = list.iter().filter_map(|one| one["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let volumes = names(&pages(client, "/v1/volumes", "volumes").ok()?);
    if !volumes.iter().any(|name| name == volume) {
        return Some(format!("no volume `{volume}`{}", guess(volume, &volumes)));
    }
    let snapshot = snapshot?;
    let all = names(&snapshots(client, volume).ok()?);
    let is_there = all.iter().any(|name| name == snapshot);
    (!is_there).then(|| {
        format!(
            "no snapshot `{snapshot}` of `{volume}`{}",
            guess(snapshot, &all)
        )
    })
}
