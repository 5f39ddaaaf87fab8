//! `ferrite scrub`, `ferrite jobs …`

use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::snapshot::moment;
use crate::console::Console;
use crate::describe::{describe, duration, items, size_of, text_of};
use crate::output::table;
use crate::progress::{Progress, percent};
use crate::{Client, Failure};

/// How often a job is asked how it is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Verify every block in use, and repair what can be
#[derive(Debug, Args)]
pub struct Scrub {
    /// The most bytes in a second, e.g. 50MiB; as fast as clients leave room for when left out
    #[arg(long, value_parser = qemu::size::parse)]
    rate: Option<u64>,
    /// Do not wait for the end; `ferrite jobs` shows how it is
    #[arg(long)]
    detach: bool,
}

/// Look at long work, pause it, cancel it
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List all jobs that are remembered
    List,
    /// Show one job and what it found
    Get {
        /// Its number
        id: u64,
    },
    /// Wait for its end
    Wait {
        /// Its number
        id: u64,
    },
    /// End it; what it has done stays done
    Cancel {
        /// Its number
        id: u64,
    },
    /// Let it rest, restarts of the appliance included
    Pause {
        /// Its number
        id: u64,
    },
    /// Let it go on
    Resume {
        /// Its number
        id: u64,
    },
    /// Limit what it does in a second
    Rate {
        /// Its number
        id: u64,
        /// Bytes, e.g. 50MiB; 0: as fast as clients leave room for
        #[arg(value_parser = rate)]
        rate: u64,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        text => qemu::size::parse(text).map_err(|error| error.to_string()),
    }
}

impl Scrub {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let wanted = match self.rate {
            Some(rate) => json!({"rate": rate}),
            None => json!({}),
        };
        let job = client.post("/v1/scrub", &wanted)?;
        match job["id"].as_u64() {
            Some(id) if !self.detach => wait(console, &client, id),
            _ => console.show(&job, text),
        }
    }
}

impl Jobs {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let patch = |id: u64, change: Value| {
            let changed = client.patch(&path(id), &change)?;
            console.show(&changed, text)
        };
        match self {
            Self::List => console.show(&client.get("/v1/jobs")?, jobs),
            Self::Get { id } => console.show(&client.get(&path(id))?, text),
            Self::Wait { id } => wait(console, &client, id),
            Self::Cancel { id } => console.show(&client.delete(&path(id))?, text),
            Self::Pause { id } => patch(id, json!({"state": "paused"})),
            Self::Resume { id } => patch(id, json!({"state": "running"})),
            Self::Rate { id, rate } => patch(id, json!({"rate": rate})),
        }
    }
}

fn path(id: u64) -> String {
    format!("/v1/jobs/{id}")
}

/// Shows a job until it is over, restarts of the appliance included.
pub fn wait(console: &Console, client: &Client, id: u64) -> Result<(), Failure> {
    let job = wait_until(client, id, |_| false)?;
    show(console, &job)
}

/// Shows how a job is until that is enough, or it is over; restarts of the appliance included.
pub fn wait_until(
    client: &Client,
    id: u64,
    is_enough: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    let progress = Progress::new();
    let mut job = client.get(&path(id))?;
    while !is_over(&job) && !is_enough(&job) {
        progress.show(&job);
        thread::sleep(ASK_EVERY);
        job = match client.get(&path(id)) {
            Err(Failure::Unreachable(_)) => continue,
            answer => answer?,
        };
    }
    progress.end();
    Ok(job)
}

fn is_over(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("done" | "failed" | "cancelled"))
}

/// Shows a job, and fails if it has.
pub fn show(console: &Console, job: &Value) -> Result<(), Failure> {
    console.show(job, text)?;
    let damaged = job["result"]["damaged_blocks"].as_u64().unwrap_or(0);
    match job["state"].as_str() {
        Some("failed" | "cancelled") => Err(Failure::Here(format!(
            "job {} is {}",
            text_of(job, "id"),
            text_of(job, "state")
        ))),
        _ if damaged > 0 => Err(Failure::Damaged(damaged)),
        _ => Ok(()),
    }
}

/// A job and what it found.
fn text(job: &Value) -> String {
    let mut shown = job.clone();
    let damaged = shown["result"]["damaged"].take();
    let mut text = describe(&shown);
    let rows = damaged.as_array().into_iter().flatten().map(|place| {
        let number = |key: &str| place[key].as_u64().unwrap_or(0).to_string();
        vec![
            text_of(place, "volume"),
            text_of(place, "snapshot"),
            number("offset"),
            number("length"),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        text += "\nDamaged:\n";
        text += &table(&["VOLUME", "SNAPSHOT", ">OFFSET", ">LENGTH"], &rows);
    }
    text
}

/// What a job does, and to what.
fn what(job: &Value) -> String {
    let kind = text_of(job, "kind");
    match (job["volume"].as_str(), job["result"]["to"].as_str()) {
        (Some(volume), Some(to)) => format!("{kind} {volume} to {to}"),
        (Some(volume), None) => format!("{kind} {volume}"),
        (None, _) => kind,
    }
}

fn jobs(answer: &Value) -> String {
    rows(items(answer, "jobs").iter())
}

/// Those of an answer that are not over, under a heading; nothing if there are none.
pub fn under_way(answer: &Value) -> String {
    let mut active = items(answer, "jobs").iter().filter(|job| !is_over(job));
    let Some(first) = active.next() else {
        return String::new();
    };
    let rows = rows([first].into_iter().chain(active));
    format!("\nUnder way:\n{rows}")
}

fn rows<'a>(all: impl Iterator<Item = &'a Value>) -> String {
    let rows = all.map(|job| {
        let left = job["time_left_ms"].as_u64();
        vec![
            text_of(job, "id"),
            what(job),
            text_of(job, "state"),
            percent(job["progress"].as_f64().unwrap_or(0.0)),
            size_of(job, "rate"),
            left.map_or_else(|| "-".into(), duration),
            moment(&text_of(job, "created_at")),
            text_of(&job["result"], "damaged_blocks"),
        ]
    });
    let headings = [
        ">ID",
        "WHAT",
        "STATE",
        ">PROGRESS",
        ">RATE/S",
        ">LEFT",
        "ASKED FOR",
        ">DAMAGED",
    ];
    table(&headings, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Value {
        json!({"id": 3, "kind": "scrub", "state": "running", "progress": 0.125, "done": 1 << 20,
            "rate": 1 << 20, "time_left_ms": 7000, "created_at": "2026-11-22T04:00:00.000Z", "error": null,
            "result": {"blocks": 256, "damaged_blocks": 1,
                "damaged": [{"volume": "db", "snapshot": null, "offset": 40960, "length": 4096}]}})
    }

    #[test]
    fn what_is_over_is_not_under_way() {
        let mut over = job();
        over["state"] = "done".into();
        assert_eq!(under_way(&json!({"jobs": [over]})), "");
        assert_eq!(under_way(&Value::Null), "");
        let bytes = json!({"known": 0, "on_demand": 0, "background": 0, "metadata": 0});
        let moving = json!({"id": 4, "kind": "migrate", "state": "running", "progress": 0.5, "volume": "db",
            "rate": null, "time_left_ms": null, "created_at": null, "result": {"to": "b", "bytes": bytes}});
        let told = under_way(&json!({"jobs": [over, moving]}));
        assert!(told.starts_with("\nUnder way:\n"), "{told}");
        assert!(told.contains("migrate db to b"), "{told}");
        assert_eq!(told.lines().count(), 4, "{told}");
    }

    #[test]
    fn jobs_are_listed_with_what_is_left() {
        assert_eq!(
            jobs(&json!({"jobs": [job()]})),
            "ID  WHAT   STATE    PROGRESS  RATE/S     LEFT  ASKED FOR            DAMAGED\n \
             3  scrub  running    12.5 %   1 MiB  7.000 s  2026-11-22 04:00:00        1\n"
        );
    }

    #[test]
    fn what_is_damaged_is_a_table() {
        let text = text(&job());
        assert!(text.contains("result.blocks          256\n"), "{text}");
        let damaged =
            "\nDamaged:\nVOLUME  SNAPSHOT  OFFSET  LENGTH\ndb      -          40960    4096\n";
        assert!(text.ends_with(damaged), "{text}");
    }
}
