//! A drive that counts what it is told, and takes its time.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use exec::{Exec, Semaphore};
use world::{BLOCK_SIZE, BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

/// Commands that the drive works on at a time; further ones wait, as in a drive's own queue.
const CHANNELS: usize = 16;
/// What a read takes.
const READ: Duration = Duration::from_micros(80);
/// What a write into the drive's cache takes.
const WRITE: Duration = Duration::from_micros(20);
/// What each further block of a command takes.
const BLOCK: Duration = Duration::from_micros(2);
/// What a flush takes.
const FLUSH: Duration = Duration::from_micros(500);

/// Commands and blocks, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Deallocations.
    pub discards: u64,
    /// Blocks that were read.
    pub read_blocks: u64,
    /// Blocks that were written.
    pub written_blocks: u64,
    /// Reads that did not begin where the one before ended.
    pub jumps: u64,
}

impl Counts {
    /// Bytes written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_blocks * BLOCK_SIZE as u64
    }
}

/// What is measured about a drive; clones are the same.
#[derive(Clone, Default)]
pub struct Meter {
    counts: Rc<Cell<Counts>>,
    read_end: Rc<Cell<u64>>,
}

impl Meter {
    /// What was counted since the last call.
    pub fn take(&self) -> Counts {
        self.counts.take()
    }

    fn add(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// `inner` with a meter and with the times of an ordinary NVMe drive.
#[derive(Clone)]
pub struct MeteredDrive<D> {
    inner: D,
    exec: Exec,
    channels: Rc<Semaphore>,
    meter: Meter,
}

impl<D: Disk> MeteredDrive<D> {
    /// Puts a meter before a drive.
    pub fn new(inner: D, exec: &Exec, meter: &Meter) -> Self {
        Self {
            inner,
            exec: exec.clone(),
            channels: Rc::new(Semaphore::new(CHANNELS)),
            meter: meter.clone(),
        }
    }

    async fn work(&self, first: Duration, blocks: usize) {
        let _channel = self.channels.acquire().await;
        let more = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        self.exec.sleep(first + BLOCK * more).await;
    }
}

impl<D: Disk> Disk for MeteredDrive<D> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn info(&self) -> DiskInfo {
        self.inner.info()
    }

    async fn read(&self, at: BlockAddr, into: Buf) -> (Buf, Result<(), DiskError>) {
        let blocks = into.blocks() as u64;
        let jumps = u64::from(self.meter.read_end.replace(at + blocks) != at);
        self.meter.add(|counts| {
            counts.reads += 1;
            counts.read_blocks += blocks;
            counts.jumps += jumps;
        });
        self.work(READ, into.blocks()).await;
        self.inner.read(at, into).await
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        let blocks = from.blocks() as u64;
        self.meter.add(|counts| {
            counts.writes += 1;
            counts.written_blocks += blocks;
        });
        self.work(WRITE, from.blocks()).await;
        self.inner.write(at, from).await
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.meter.add(|counts| counts.flushes += 1);
        self.exec.sleep(FLUSH).await;
        self.inner.flush().await
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        // What was there stays: the drive may do that, and nothing is spent on it.
        self.meter.add(|counts| counts.discards += 1);
        self.work(WRITE, 1).await;
        Ok(())
    }
}
