//! A run of the real image with clients, recorded.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest::Station;
use qemu::{Appliance, Drive, sparse_file};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::story::Story;
use crate::write_log::WriteLog;

/// How long QEMU may take to end when it is told to.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Files of a recording.
const LOG: &str = "writes.log";
const STORIES: &str = "stories.json";

/// How much is recorded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Size of the drive.
    pub drive_bytes: u64,
    /// Starts of the appliance. In between its power fails, and after the last it is turned off in order.
    pub lives: u32,
    /// Clients at the same time.
    pub clients: u64,
    /// Requests of each client in each life.
    pub requests: u64,
    /// Decides what clients ask for. When they ask it is not decided by anybody.
    pub seed: u64,
    /// Whether they take snapshots.
    pub snapshots: bool,
}

/// What was recorded.
#[derive(Debug)]
pub struct Recording {
    /// Size of the drive.
    pub drive_bytes: u64,
    /// What happened to it.
    pub log: WriteLog,
    /// What the clients did.
    pub stories: Vec<Story>,
}

/// What is kept beside the record itself.
#[derive(Serialize, Deserialize)]
struct Notes {
    drive_bytes: u64,
    stories: Vec<Story>,
}

impl Recording {
    /// Reads one that was made in `folder`.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("no recording: {}", path.display()))
        };
        let notes: Notes = serde_json::from_slice(&read(STORIES)?)?;
        Ok(Self {
            drive_bytes: notes.drive_bytes,
            log: WriteLog::parse(read(LOG)?)?,
            stories: notes.stories,
        })
    }
}

/// Runs the image as planned and leaves the recording in `folder`, which exists.
///
/// # Errors
/// When the image is not built, does not serve, refuses a request, or does not end.
pub fn record(plan: &Plan, folder: &Path) -> Result<Recording> {
    let log = std::path::absolute(folder.join(LOG))?;
    let drive = folder.join("drive.raw");
    for path in [&log, &drive] {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    fs::write(&log, [])?;
    let mut station = Station::new("crashes")?;
    let mut drive = Drive::new(sparse_file(drive, plan.drive_bytes)?);
    drive.write_log = Some(log.clone());
    station.options.machine.drives = vec![drive];

    let mut clients: Vec<Client> = (0..plan.clients)
        .map(|number| Client::new(number, plan, &station, &log))
        .collect();
    for life in 1..=plan.lives {
        let appliance = station.start()?;
        let left = thread::scope(|scope| {
            let running: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| client.live(plan.requests)))
                .collect();
            running.into_iter().try_for_each(|client| {
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))?
            })
        });
        left.with_context(|| format!("life {life}\n{}", appliance.running.evidence()))?;
        if life < plan.lives {
            cut_power(appliance)?;
        } else {
            station.power_down(appliance)?;
        }
    }
    let notes = Notes {
        drive_bytes: plan.drive_bytes,
        stories: clients.into_iter().map(Client::into_story).collect(),
    };
    fs::write(folder.join(STORIES), serde_json::to_vec(&notes)?)?;
    Recording::load(folder)
}

/// Ends the machine as a power cut of the appliance does, but not of its drive: QEMU brings the record to its end.
fn cut_power(mut appliance: Appliance) -> Result<()> {
    appliance.running.qmp()?.quit()?;
    let status = appliance.running.wait(END_LIMIT)?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}
