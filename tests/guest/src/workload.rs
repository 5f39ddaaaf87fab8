//! Writes that tell afterwards which of them had to survive.
//!
//! The unit is a sector of 512 bytes. Each write gives the sectors it covers a new version, and a sector's contents
//! follow from its number and version. A version is **issued** when it is sent and **durable** when a flush that was
//! sent after its acknowledgement is acknowledged. After a crash each sector must hold, whole, any version from the
//! last durable to the last issued one; version 0 is zeros.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::nbd::{FUA, Nbd, NbdError};

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// The longest write in sectors: 64 KiB.
const WRITE_SECTORS_MAX: u64 = 128;
/// Writes between two flushes, at most.
const BURST_MAX: u64 = 12;
/// How long the server may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What one writer knows about its part of the export.
#[derive(Debug)]
struct Part {
    /// First sector.
    first: u64,
    /// Per sector: the last durable and the last issued version.
    versions: Vec<(u64, u64)>,
    random: Random,
    clock: u64,
}

/// Several writers, each with a connection and a part of the export of its own, and what must be there.
#[derive(Debug)]
pub struct Workload {
    parts: Vec<Part>,
    flushes: u64,
}

impl Workload {
    /// `writers` writers on the first `bytes` bytes of an export that holds zeros.
    #[must_use]
    pub fn new(seed: u64, writers: usize, bytes: u64) -> Self {
        let each = bytes / SECTOR as u64 / writers as u64;
        let part = |index: u64| Part {
            first: index * each,
            versions: vec![(0, 0); usize::try_from(each).expect("parts fit into memory")],
            random: Random(seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            clock: 0,
        };
        Self {
            parts: (0..writers as u64).map(part).collect(),
            flushes: 0,
        }
    }

    /// Flushes that were acknowledged in all runs.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Writes until the server is gone or `until` returns; `until` runs meanwhile and usually ends with a kill.
    ///
    /// # Errors
    /// When a writer could not start, a request was refused, or `until` fails.
    pub fn run(
        &mut self,
        server: SocketAddr,
        export: &str,
        until: impl FnOnce(&AtomicU64) -> Result<()>,
    ) -> Result<()> {
        let (stop, flushes) = (AtomicBool::new(false), AtomicU64::new(0));
        // All of them before the first write: an early kill must not meet a connection half made.
        let connections = self
            .parts
            .iter()
            .map(|_| Nbd::connect(server, export, ANSWER_LIMIT))
            .collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let (stop, flushes) = (&stop, &flushes);
            let writers: Vec<_> = self
                .parts
                .iter_mut()
                .zip(connections)
                .map(|(part, nbd)| scope.spawn(move || part.write(nbd, stop, flushes)))
                .collect();
            let result = until(flushes);
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                writer
                    .join()
                    .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            }
            result
        })?;
        self.flushes += flushes.load(Ordering::Relaxed);
        Ok(())
    }

    /// Reads everything back and compares; what is found is what is known from then on.
    ///
    /// # Errors
    /// When a sector holds something that it must not.
    pub fn verify(&mut self, server: SocketAddr, export: &str) -> Result<()> {
        let mut nbd = Nbd::connect(server, export, ANSWER_LIMIT)?;
        self.parts
            .iter_mut()
            .try_for_each(|part| part.verify(&mut nbd))
    }
}

impl Part {
    fn write(&mut self, mut nbd: Nbd, stop: &AtomicBool, flushes: &AtomicU64) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            match self.burst(&mut nbd, flushes) {
                Ok(()) => {}
                Err(NbdError::Lost(_)) => return Ok(()),
                Err(error @ NbdError::Refused(_)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Some writes, then a flush.
    fn burst(&mut self, nbd: &mut Nbd, flushes: &AtomicU64) -> Result<(), NbdError> {
        for _ in 0..=self.random.below(BURST_MAX) {
            let count = 1 + self
                .random
                .below(WRITE_SECTORS_MAX)
                .min(self.random.below(WRITE_SECTORS_MAX));
            let at = self.random.below(self.versions.len() as u64 - count);
            let range = at as usize..(at + count) as usize;
            self.clock += 1;
            let version = self.clock;
            let mut bytes = Vec::with_capacity(range.len() * SECTOR);
            for sector in range.clone() {
                bytes.extend_from_slice(&contents(self.first + sector as u64, version));
                self.versions[sector].1 = version;
            }
            let durable = self.random.below(8) == 0;
            nbd.write(
                (self.first + at) * SECTOR as u64,
                &bytes,
                if durable { FUA } else { 0 },
            )?;
            if durable {
                self.versions[range]
                    .iter_mut()
                    .for_each(|known| known.0 = version);
            }
        }
        nbd.flush()?;
        flushes.fetch_add(1, Ordering::Relaxed);
        self.versions.iter_mut().for_each(|known| known.0 = known.1);
        Ok(())
    }

    fn verify(&mut self, nbd: &mut Nbd) -> Result<()> {
        let mut bytes = vec![0; 256 * SECTOR];
        for (index, chunk) in self.versions.chunks_mut(256).enumerate() {
            let first = self.first + index as u64 * 256;
            let bytes = &mut bytes[..chunk.len() * SECTOR];
            nbd.read(first * SECTOR as u64, bytes)?;
            for (sector, (known, found)) in
                (first..).zip(chunk.iter_mut().zip(bytes.chunks(SECTOR)))
            {
                let version = version_of(sector, found)
                    .with_context(|| format!("sector {sector}, versions {known:?} allowed"))?;
                ensure!(
                    (known.0..=known.1).contains(&version),
                    "sector {sector} holds version {version}; durable is {}, issued {}",
                    known.0,
                    known.1
                );
                // Reading it does not make it durable, but nothing older may come back either.
                known.0 = version;
                known.1 = version;
            }
        }
        Ok(())
    }
}

/// What a sector holds at a version.
#[must_use]
pub fn contents(sector: u64, version: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if version == 0 {
        return bytes;
    }
    let mut random = Random(sector.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ version.rotate_left(32));
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => sector,
            1 => version,
            _ => random.next(),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The version that `bytes` are of `sector`.
fn version_of(sector: u64, bytes: &[u8]) -> Result<u64> {
    let word = |index: usize| {
        let bytes = &bytes[index * 8..index * 8 + 8];
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    };
    let version = if bytes.iter().all(|&byte| byte == 0) {
        0
    } else {
        word(1)
    };
    if contents(sector, version) != *bytes {
        bail!(
            "contents of nobody: words {:#x} {:#x} {:#x}",
            word(0),
            word(1),
            word(2)
        );
    }
    Ok(version)
}

/// The same `bytes` bytes for the same seed.
#[must_use]
pub fn pseudo_random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_tell_sector_and_version() {
        assert_eq!(version_of(7, &contents(7, 3)).unwrap(), 3);
        assert_eq!(version_of(7, &[0; SECTOR]).unwrap(), 0);
        assert!(
            version_of(8, &contents(7, 3)).is_err(),
            "another sector's contents"
        );
        let mut torn = contents(7, 3);
        torn[256..].copy_from_slice(&contents(7, 4)[256..]);
        assert!(version_of(7, &torn).is_err(), "half of a version");
    }
}
