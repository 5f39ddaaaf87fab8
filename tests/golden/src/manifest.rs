//! What is in the golden pools.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// Its file, beside the images.
const FILE: &str = "manifest.json";

/// The pools of one format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version that made them.
    pub made_by: String,
    /// In the order of making.
    pub pools: Vec<Pool>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its files are called after it.
    pub name: String,
    /// What is special about it.
    pub about: String,
    /// Whether it lost power, with changes that only its journal knows.
    pub has_journal: bool,
    /// Maps of deleted volumes and snapshots that are still there.
    pub hidden: u64,
    /// Files of its drives.
    pub drives: Vec<String>,
    /// Its volumes, by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Its records, by key; all of them are text.
    pub records: BTreeMap<String, String>,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// As it is.
    pub contents: Contents,
    /// Its snapshots, by name.
    pub snapshots: BTreeMap<String, Contents>,
}

/// What a volume or a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Its identity, in hexadecimal.
    pub uuid: String,
    /// In bytes.
    pub size: u64,
    /// XXH3 (128 bits, seed 0) of all bytes, in hexadecimal.
    pub hash: String,
}

impl Contents {
    /// Those of a volume with these bytes.
    #[must_use]
    pub fn of(uuid: [u8; 16], bytes: &[u8]) -> Self {
        Self {
            uuid: format!("{:032x}", u128::from_be_bytes(uuid)),
            size: bytes.len() as u64,
            hash: format!("{:032x}", xxh3_128(bytes)),
        }
    }
}

impl Manifest {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(folder.join(FILE), text).context("cannot write the manifest")
    }
}
