//! What a client did, and what its volumes hold because of it.
//!
//! A client sends one request after another, so its story is a list. Volumes are known by the **stamps** of their sectors:
//! the number of the write that a sector is from, counted from 1 within the story, or 0 for zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use guest::workload::{SECTOR, contents};
use serde::{Deserialize, Serialize};

/// What one client did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Its number.
    pub client: u64,
    /// In order; all of them were acknowledged.
    pub events: Vec<Event>,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Length of the drive's record before it was sent.
    pub sent: u64,
    /// Length of the drive's record after it was acknowledged.
    pub acknowledged: u64,
    /// What was asked for.
    pub action: Action,
}

/// A request. Ranges are in sectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of the fields say it")]
pub enum Action {
    /// Data, with or without "durable before the answer".
    Write {
        volume: String,
        first: usize,
        count: usize,
        durable: bool,
    },
    /// Zeros, by TRIM or WRITE_ZEROES.
    Zero {
        volume: String,
        first: usize,
        count: usize,
    },
    /// Everything acknowledged becomes durable.
    Flush { volume: String },
    /// A new, empty volume.
    Create { volume: String, sectors: usize },
    /// A larger volume.
    Grow { volume: String, sectors: usize },
    /// No volume any more, and no snapshots of it.
    Delete { volume: String },
    /// Several volumes as they are, at one instant.
    Snapshot { volumes: Vec<String>, name: String },
    /// No snapshot any more.
    DeleteSnapshot { volume: String, name: String },
    /// A new volume from a snapshot.
    Clone {
        volume: String,
        snapshot: String,
        name: String,
    },
    /// A volume as it was.
    Rollback { volume: String, snapshot: String },
}

impl Action {
    /// Whether its acknowledgement promises that it (and all before it) survives.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        match self {
            Self::Write { durable, .. } => *durable,
            Self::Zero { .. } => false,
            _ => true,
        }
    }
}

/// Stamps of all sectors.
pub type Stamps = Arc<Vec<u32>>;

/// A volume and its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// As it is now.
    pub stamps: Stamps,
    /// By name.
    pub snapshots: BTreeMap<String, Stamps>,
}

/// All volumes of a client, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The volumes.
    pub volumes: BTreeMap<String, Volume>,
}

impl State {
    /// What is there after one more event, the one with this stamp.
    ///
    /// # Panics
    /// When the action makes no sense here: no such volume or snapshot.
    pub fn apply(&mut self, stamp: u32, action: &Action) {
        match action {
            Action::Flush { .. } => {}
            Action::Write {
                volume,
                first,
                count,
                ..
            } => self.fill(volume, *first, *count, stamp),
            Action::Zero {
                volume,
                first,
                count,
            } => self.fill(volume, *first, *count, 0),
            Action::Create { volume, sectors } => {
                let made = Volume {
                    stamps: Arc::new(vec![0; *sectors]),
                    snapshots: BTreeMap::new(),
                };
                self.volumes.insert(volume.clone(), made);
            }
            Action::Grow { volume, sectors } => {
                Arc::make_mut(&mut self.volume(volume).stamps).resize(*sectors, 0);
            }
            Action::Delete { volume } => {
                self.volumes.remove(volume);
            }
            Action::Snapshot { volumes, name } => {
                for volume in volumes {
                    let volume = self.volume(volume);
                    let kept = volume.stamps.clone();
                    volume.snapshots.insert(name.clone(), kept);
                }
            }
            Action::DeleteSnapshot { volume, name } => {
                self.volume(volume).snapshots.remove(name);
            }
            Action::Clone {
                volume,
                snapshot,
                name,
            } => {
                let made = Volume {
                    stamps: self.volume(volume).snapshots[snapshot].clone(),
                    snapshots: BTreeMap::new(),
                };
                self.volumes.insert(name.clone(), made);
            }
            Action::Rollback { volume, snapshot } => {
                let volume = self.volume(volume);
                volume.stamps = volume.snapshots[snapshot].clone();
            }
        }
    }

    fn fill(&mut self, volume: &str, first: usize, count: usize, stamp: u32) {
        let stamps = Arc::make_mut(&mut self.volume(volume).stamps);
        stamps[first..first + count].fill(stamp);
    }

    fn volume(&mut self, name: &str) -> &mut Volume {
        self.volumes.get_mut(name).expect("a volume of this story")
    }
}

/// What every volume of a client is called.
#[must_use]
pub fn prefix(client: u64) -> String {
    format!("c{client}-")
}

/// The bytes of a range of sectors that one write of a client leaves there.
#[must_use]
pub fn bytes_of(client: u64, stamp: u32, first: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * SECTOR);
    for sector in first..first + count {
        bytes.extend_from_slice(&contents(sector as u64, version(client, stamp)));
    }
    bytes
}

/// The stamps of what a volume of a client holds.
///
/// # Errors
/// When a sector holds what this client never wrote there.
pub fn stamps_of(client: u64, bytes: &[u8]) -> Result<Vec<u32>> {
    let stamp = |(sector, bytes): (u64, &[u8])| -> Result<u32> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(0);
        }
        let version = u64::from_le_bytes(bytes[8..16].try_into()?);
        ensure!(
            version >> 32 == client && contents(sector, version) == *bytes,
            "sector {sector} holds contents of nobody: {:02x?}",
            &bytes[..16]
        );
        Ok((version & 0xffff_ffff) as u32)
    };
    (0..).zip(bytes.chunks(SECTOR)).map(stamp).collect()
}

fn version(client: u64, stamp: u32) -> u64 {
    if stamp == 0 {
        return 0;
    }
    client << 32 | u64::from(stamp)
}
