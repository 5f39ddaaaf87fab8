//! What goes wrong with a drive, how long it takes, and how often each happened.

use core::fmt;

/// What goes wrong with a drive, in parts per million of the operations concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read fails once ([`DiskError::Device`](world::DiskError::Device)); the next attempt may succeed.
    pub read_error: u32,
    /// A write fails; each of its sectors keeps its old or gets its new contents.
    pub write_error: u32,
    /// A flush fails and makes nothing durable.
    pub flush_error: u32,
    /// A flush is reported done and makes nothing durable.
    pub lying_flush: u32,
    /// A write is reported done and changes nothing.
    pub lost_write: u32,
    /// A write is reported done, but lands on other blocks.
    pub misdirected_write: u32,
    /// A read returns other blocks.
    pub misdirected_read: u32,
    /// A write leaves one of its blocks unreadable until it is written again.
    pub unreadable: u32,
    /// A read finds a flipped bit on the medium, which stays flipped.
    pub rot: u32,
    /// While the power is off, a block rots or becomes unreadable.
    pub decay: u32,
}

/// How long operations take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The least of a read or write.
    pub transfer_min: u64,
    /// The most of a read or write.
    pub transfer_max: u64,
    /// The most of a flush.
    pub flush_max: u64,
    /// Parts per million of operations that take a thousand times as long.
    pub outliers: u32,
    /// Parts per million of operations with which the whole drive falls silent for up to ten seconds.
    pub stalls: u32,
}

impl Latency {
    /// The same without what is out of the ordinary.
    #[must_use]
    pub fn calm(self) -> Self {
        Self {
            outliers: 0,
            stalls: 0,
            ..self
        }
    }
}

/// A kind of fault that struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    ReadError,
    WriteError,
    FlushError,
    LyingFlush,
    LostWrite,
    MisdirectedWrite,
    MisdirectedRead,
    Unreadable,
    Rot,
    Stall,
}

const KINDS: [&str; 10] = [
    "read errors",
    "write errors",
    "flush errors",
    "lying flushes",
    "lost writes",
    "misdirected writes",
    "misdirected reads",
    "unreadable blocks",
    "rotten blocks",
    "stalls",
];

/// How often each kind of fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck([u64; KINDS.len()]);

impl Struck {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// The numbers, kind by kind.
    pub fn numbers(&self) -> impl Iterator<Item = &u64> {
        self.0.iter()
    }

    /// The numbers, kind by kind.
    pub fn numbers_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.0.iter_mut()
    }

    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl core::ops::AddAssign for Struck {
    fn add_assign(&mut self, other: Self) {
        for (own, more) in self.0.iter_mut().zip(other.0) {
            *own += more;
        }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (count, kind) in self.0.iter().zip(KINDS).filter(|(count, _)| **count > 0) {
            write!(out, "{between}{count} {kind}")?;
            between = ", ";
        }
        Ok(())
    }
}
