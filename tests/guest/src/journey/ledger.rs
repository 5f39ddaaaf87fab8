//! What each block of a volume may be: any version from the last durable one to the last that was begun.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::nbd::{FUA, Nbd, NbdError};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 2048;
/// Bytes of the volume.
pub const SIZE: u64 = BLOCKS * BLOCK as u64;
/// Blocks that are read or filled at a time.
const RUN: u64 = 64;
/// Longer than any wait of the appliance.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The error of a volume that takes no writes.
const EPERM: u32 = 1;
/// A step that visits all blocks.
const STRIDE: u64 = 797;

/// Durable and begun versions, by block.
#[derive(Debug)]
pub struct Ledger {
    versions: Vec<(u64, u64)>,
    clock: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            versions: vec![(0, 0); BLOCKS as usize],
            clock: 0,
        }
    }
}

impl Ledger {
    /// Writes all blocks.
    pub fn fill(&mut self, server: SocketAddr) -> Result<()> {
        let mut nbd = Nbd::connect(server, "db", ANSWER_LIMIT)?;
        self.clock += 1;
        for first in (0..BLOCKS).step_by(RUN as usize) {
            let run = first..first + RUN;
            let bytes: Vec<u8> = run.flat_map(|block| contents(block, self.clock)).collect();
            nbd.write(first * BLOCK as u64, &bytes, 0)?;
        }
        nbd.flush()?;
        self.versions.fill((self.clock, self.clock));
        Ok(())
    }

    /// Writes until somebody refuses, is gone, or it is enough.
    pub fn write_on(&mut self, server: SocketAddr, has_ended: &AtomicBool) -> Result<()> {
        let Ok(mut nbd) = Nbd::connect(server, "db", ANSWER_LIMIT) else {
            return Ok(());
        };
        while !has_ended.load(Ordering::Relaxed) && self.write(&mut nbd) {}
        Ok(())
    }

    /// Whether a write is taken; durable then.
    pub fn try_write(&mut self, server: SocketAddr) -> Result<bool> {
        match Nbd::connect(server, "db", ANSWER_LIMIT) {
            Ok(mut nbd) => Ok(self.write(&mut nbd)),
            Err(error) => {
                ensure!(format!("{error:#}").contains("refused"), "{error:#}");
                Ok(false)
            }
        }
    }

    fn write(&mut self, nbd: &mut Nbd) -> bool {
        self.clock += 1;
        let block = self.clock * STRIDE % BLOCKS;
        let known = &mut self.versions[block as usize];
        let before = std::mem::replace(&mut known.1, self.clock);
        let bytes = contents(block, self.clock);
        match nbd.write(block * BLOCK as u64, &bytes, FUA) {
            Ok(()) => {
                known.0 = self.clock;
                true
            }
            // It is another appliance's: this must be nowhere.
            Err(NbdError::Refused(EPERM)) => {
                known.1 = before;
                false
            }
            Err(_) => false,
        }
    }

    /// Reads everything; what is found is what is known from then on.
    pub fn verify(&mut self, server: SocketAddr) -> Result<()> {
        let mut nbd = Nbd::connect(server, "db", ANSWER_LIMIT)?;
        let mut bytes = vec![0; RUN as usize * BLOCK];
        for first in (0..BLOCKS).step_by(RUN as usize) {
            nbd.read(first * BLOCK as u64, &mut bytes)?;
            for (block, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
                let known = &mut self.versions[block as usize];
                let version = version_of(block, bytes);
                let version = version.with_context(|| format!("block {block} is nobody's"))?;
                ensure!(
                    (known.0..=known.1).contains(&version),
                    "block {block} is of version {version}; durable is {}, begun {}",
                    known.0,
                    known.1
                );
                *known = (version, version);
            }
        }
        Ok(())
    }
}

fn contents(block: u64, version: u64) -> Vec<u8> {
    let pair = [block.to_le_bytes(), version.to_le_bytes()].concat();
    pair.repeat(BLOCK / pair.len())
}

fn version_of(block: u64, bytes: &[u8]) -> Option<u64> {
    let version = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (contents(block, version) == bytes).then_some(version)
}
