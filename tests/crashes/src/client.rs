//! A client of the real image that keeps a diary.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferrite::Failure;
use guest::Station;
use guest::nbd::{FUA, Nbd};
use guest::workload::SECTOR;
use offline::Random;
use serde_json::{Value, json};

use crate::record::Plan;
use crate::story::{Action, Event, State, Story, bytes_of, prefix};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a volume may be in use after its last client has gone.
const DETACH_LIMIT: Duration = Duration::from_secs(5);
/// What the API says of a volume that is in use.
const IN_USE: u16 = 409;

/// Volumes and snapshots of one client, at most.
const VOLUMES_MAX: usize = 3;
const SNAPSHOTS_MAX: usize = 5;
/// Sizes of new volumes, in sectors: 1 to 4 MiB.
const SECTORS_STEP: usize = 2048;
/// The longest write in sectors: 64 KiB.
const WRITE_SECTORS_MAX: u64 = 128;
/// Requests to volumes between two to the API, on average; one for each client in turn.
const DATA_PER_CONTROL: [u64; 3] = [24, 8, 60];

/// One client.
pub struct Client {
    story: Story,
    state: State,
    random: Random,
    snapshots: bool,
    /// Volumes and snapshots that were ever made, for their names.
    made: u64,
    server: SocketAddr,
    api: ferrite::Client,
    log: PathBuf,
    connections: BTreeMap<String, Nbd>,
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(number: u64, plan: &Plan, station: &Station, log: &Path) -> Self {
        Self {
            story: Story {
                client: number,
                events: Vec::new(),
            },
            state: State::default(),
            random: Random::new(plan.seed ^ (number + 1).wrapping_mul(0x2545_f491_4f6c_dd1d)),
            snapshots: plan.snapshots,
            made: 0,
            server: station.options.nbd,
            api: station.api(),
            log: log.to_path_buf(),
            connections: BTreeMap::new(),
        }
    }

    /// Sends requests while the appliance lives; the last one is a flush.
    pub fn live(&mut self, requests: u64) -> Result<()> {
        for _ in 0..requests {
            let action = self.draw();
            self.act(action)?;
        }
        let volumes: Vec<String> = self.state.volumes.keys().cloned().collect();
        for volume in volumes {
            self.act(Action::Flush { volume })?;
        }
        self.connections.clear();
        Ok(())
    }

    /// What it did.
    pub fn into_story(self) -> Story {
        self.story
    }

    fn draw(&mut self) -> Action {
        let data_per_control =
            DATA_PER_CONTROL[self.story.client as usize % DATA_PER_CONTROL.len()];
        if self.state.volumes.is_empty() || self.random.once_in(data_per_control) {
            return self.draw_control();
        }
        let volume = self.any_volume();
        let sectors = self.state.volumes[&volume].stamps.len() as u64;
        // Most requests meet in a small part, where they overwrite each other.
        let part = if self.random.once_in(3) {
            sectors
        } else {
            sectors / 8
        };
        let range = |max: u64| {
            let max = max.min(part);
            let count = 1 + self.random.below(max).min(self.random.below(max));
            let mut first = self.random.below(part - count + 1);
            if self.random.once_in(2) {
                first &= !7;
            }
            (first as usize, count as usize)
        };
        match self.random.below(16) {
            0..=2 => Action::Flush { volume },
            3 => {
                let (first, count) = range(4 * WRITE_SECTORS_MAX);
                Action::Zero {
                    volume,
                    first,
                    count,
                }
            }
            kind => {
                let (first, count) = range(WRITE_SECTORS_MAX);
                Action::Write {
                    volume,
                    first,
                    count,
                    durable: kind == 4,
                }
            }
        }
    }

    fn draw_control(&mut self) -> Action {
        let volumes = self.state.volumes.len();
        if volumes == 0 {
            return self.create();
        }
        let volume = self.any_volume();
        let there = &self.state.volumes[&volume];
        let names: Vec<&String> = there.snapshots.keys().collect();
        let snapshot = (!names.is_empty())
            .then(|| names[self.random.below(names.len() as u64) as usize].clone());
        let total: usize = (self.state.volumes.values())
            .map(|volume| volume.snapshots.len())
            .sum();
        match (self.random.below(10), snapshot) {
            (0, _) if volumes < VOLUMES_MAX => self.create(),
            (1, _) if volumes > 1 => Action::Delete { volume },
            (2, _) => Action::Grow {
                sectors: there.stamps.len() + 8 * (1 + self.random.below(16) as usize),
                volume,
            },
            (3 | 4, Some(name)) => Action::DeleteSnapshot { volume, name },
            (5, Some(snapshot)) => Action::Rollback { volume, snapshot },
            (6 | 7, Some(snapshot)) if volumes < VOLUMES_MAX => Action::Clone {
                volume,
                snapshot,
                name: self.new_name(),
            },
            (number, _) if self.snapshots && total < SNAPSHOTS_MAX => {
                let all = number == 8;
                let name = format!("s{}", self.made);
                self.made += 1;
                let volumes = if all {
                    self.state.volumes.keys().cloned().collect()
                } else {
                    vec![volume]
                };
                Action::Snapshot { volumes, name }
            }
            _ => Action::Flush { volume },
        }
    }

    fn create(&mut self) -> Action {
        Action::Create {
            volume: self.new_name(),
            sectors: SECTORS_STEP * (1 + self.random.below(4) as usize),
        }
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("{}{}", prefix(self.story.client), self.made)
    }

    fn any_volume(&self) -> String {
        let names: Vec<&String> = self.state.volumes.keys().collect();
        names[self.random.below(names.len() as u64) as usize].clone()
    }

    /// Sends one request, waits for the answer and writes both down.
    fn act(&mut self, action: Action) -> Result<()> {
        let stamp = u32::try_from(self.story.events.len() + 1)?;
        self.prepare(&action)?;
        let sent = self.log_length()?;
        self.send(stamp, &action).with_context(|| {
            format!(
                "request {stamp} of client {}: {action:?}",
                self.story.client
            )
        })?;
        let acknowledged = self.log_length()?;
        self.state.apply(stamp, &action);
        self.story.events.push(Event {
            sent,
            acknowledged,
            action,
        });
        Ok(())
    }

    /// Connects or disconnects, so that the request itself is all that is timed.
    fn prepare(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Write { volume, .. }
            | Action::Zero { volume, .. }
            | Action::Flush { volume }
                if !self.connections.contains_key(volume) =>
            {
                let nbd = Nbd::connect(self.server, volume, ANSWER_LIMIT)?;
                self.connections.insert(volume.clone(), nbd);
            }
            // A connection knows the size it was made with, and what is in use is not deleted.
            Action::Grow { volume, .. }
            | Action::Delete { volume }
            | Action::Rollback { volume, .. } => drop(self.connections.remove(volume)),
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, stamp: u32, action: &Action) -> Result<()> {
        let bytes = |sectors: &usize| sectors * SECTOR;
        match action {
            Action::Write {
                volume,
                first,
                count,
                durable,
            } => {
                let data = bytes_of(self.story.client, stamp, *first, *count);
                let flags = if *durable { FUA } else { 0 };
                self.connection(volume)?
                    .write(bytes(first) as u64, &data, flags)?;
            }
            Action::Zero {
                volume,
                first,
                count,
            } => {
                let (offset, len) = (bytes(first) as u64, u32::try_from(bytes(count))?);
                // Both in turn; they are to do the same.
                match stamp % 2 {
                    0 => self.connection(volume)?.trim(offset, len)?,
                    _ => self.connection(volume)?.write_zeroes(offset, len)?,
                }
            }
            Action::Flush { volume } => self.connection(volume)?.flush()?,
            Action::Create { volume, sectors } => {
                let body = json!({"name": volume, "size": bytes(sectors)});
                self.api.post("/v1/volumes", &body)?;
            }
            Action::Grow { volume, sectors } => {
                let body = json!({"size": bytes(sectors)});
                self.api.patch(&format!("/v1/volumes/{volume}"), &body)?;
            }
            Action::Delete { volume } => {
                detached(|| self.api.delete(&format!("/v1/volumes/{volume}")))?;
            }
            Action::Snapshot { volumes, name } => {
                self.api
                    .post("/v1/snapshots", &json!({"name": name, "volumes": volumes}))?;
            }
            Action::DeleteSnapshot { volume, name } => {
                self.api
                    .delete(&format!("/v1/volumes/{volume}/snapshots/{name}"))?;
            }
            Action::Clone {
                volume,
                snapshot,
                name,
            } => {
                let body = json!({"name": name, "from": format!("{volume}@{snapshot}")});
                self.api.post("/v1/volumes", &body)?;
            }
            Action::Rollback { volume, snapshot } => {
                let (path, body) = (
                    format!("/v1/volumes/{volume}/rollback"),
                    json!({"snapshot": snapshot}),
                );
                detached(|| self.api.post(&path, &body))?;
            }
        }
        Ok(())
    }

    fn connection(&mut self, volume: &str) -> Result<&mut Nbd> {
        self.connections.get_mut(volume).context("not connected")
    }

    /// Everything that the drive had done when the guest got its answer is within it.
    fn log_length(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }
}

/// Repeats a request while it is refused because the volume is in use: the server notices only by and by that we have
/// closed our connection.
fn detached(request: impl Fn() -> Result<Value, Failure>) -> Result<()> {
    let deadline = Instant::now() + DETACH_LIMIT;
    loop {
        match request() {
            Ok(_) => return Ok(()),
            Err(Failure::Refused { status: IN_USE, .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(error) => bail!(error),
        }
    }
}
