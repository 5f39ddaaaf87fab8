//! The store in this process, without a machine: what it tells the drive and what it executes is counted exactly.
//!
//! Time is the drive's: it passes only when everything waits ([`drive`] says how long a command takes), so latencies and
//! rates of a [`Laboratory`] do not depend on the host's load, and say nothing of the processor's part.

pub mod drive;
pub mod instructions;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exec::{Exec, join_all};
use offline::{Image, RamDrive, Random};
use store::{Config, Environment, FormatOptions, Span, Store, StoreError, VolumeId};
use world::{BLOCK_SIZE, Buf, Clock, Disk, Instant, Pool};

use drive::{Counts, Meter, MeteredDrive};

/// Bytes of a block.
pub const BLOCK: u64 = BLOCK_SIZE as u64;
/// Pages of the store, as in a machine of 256 MiB.
const STORE_PAGES: usize = 4096;
/// Pages of clients.
const CLIENT_PAGES: usize = 4096;
/// What a round of the executor takes, so that who yields sees time pass.
const ROUND_NANOS: u64 = 1000;
/// 2026-01-01.
const FIRST_DAY_NANOS: u64 = 1_767_225_600_000_000_000;

/// The drive of a laboratory unless it brings its own.
pub type Drive = MeteredDrive<RamDrive>;

/// Time that passes only when everything waits for it.
#[derive(Default)]
struct JumpingClock(Cell<u64>);

impl Clock for JumpingClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        Some(FIRST_DAY_NANOS + self.0.get())
    }
}

/// What one measured piece of work came to.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Operations of clients, at least 1.
    pub operations: u64,
    /// What the drive was told meanwhile.
    pub counts: Counts,
    /// How long it took by the drive's clock.
    pub time: Duration,
    /// Instructions; 0 unless they are counted.
    pub instructions: u64,
}

impl Section {
    /// `count` for each operation.
    #[must_use]
    pub fn each(&self, count: u64) -> f64 {
        count as f64 / self.operations as f64
    }
}

/// An executor, a clock and a meter.
pub struct Laboratory {
    /// Runs everything.
    pub exec: Exec,
    clock: Rc<JumpingClock>,
    /// Of the drive.
    pub meter: Meter,
    /// Pages of clients.
    pages: Pool,
}

impl Default for Laboratory {
    fn default() -> Self {
        let clock = Rc::new(JumpingClock::default());
        Self {
            exec: Exec::new(clock.clone()),
            clock,
            meter: Meter::default(),
            pages: Pool::new(CLIENT_PAGES),
        }
    }
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        // Tasks hold the executor that holds them.
        self.exec.clear();
    }
}

impl Laboratory {
    /// A new pool on a blank drive of `bytes`.
    ///
    /// # Errors
    /// The store's.
    pub fn new_pool(&self, bytes: u64, config: Config) -> Result<Client<Drive>> {
        let inner = RamDrive::new(Image::blank(bytes));
        self.pool_on(MeteredDrive::new(inner, &self.exec, &self.meter), config)
    }

    /// A new pool on this drive.
    ///
    /// # Errors
    /// The store's.
    pub fn pool_on<D>(&self, disk: D, config: Config) -> Result<Client<D>>
    where
        D: Disk + Clone + 'static,
    {
        let (environment, new) = (self.environment(), disk.clone());
        self.run(
            async move { Store::format(&[new], &environment, FormatOptions::default()).await },
        )??;
        self.open_on(disk, config)
    }

    /// The pool on this drive.
    ///
    /// # Errors
    /// The store's.
    pub fn open_on<D: Disk + 'static>(&self, disk: D, config: Config) -> Result<Client<D>> {
        let environment = self.environment();
        let store = self.run(Store::open(vec![disk], environment, config))??;
        Ok(Client {
            store,
            exec: self.exec.clone(),
            pages: self.pages.clone(),
            random: Rc::new(Random::new(2)),
        })
    }

    /// What opening the pool on this drive costs.
    ///
    /// # Errors
    /// The store's.
    pub fn measure_open<D: Disk + 'static>(&self, disk: D, config: Config) -> Result<Section> {
        let environment = self.environment();
        self.measure(1, async move {
            let opened = Store::open(vec![disk], environment, config).await;
            opened.map(drop)
        })
    }

    fn environment(&self) -> Environment {
        Environment {
            exec: self.exec.clone(),
            entropy: Rc::new(Random::new(1)),
            pool: Pool::new(STORE_PAGES),
        }
    }

    /// Runs everything until `work` is done.
    ///
    /// # Errors
    /// When everything waits for something that never comes.
    pub fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> Result<T> {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        self.exec.spawn(async move {
            let value = work.await;
            *result.borrow_mut() = Some(value);
        });
        while slot.borrow().is_none() {
            if self.exec.run_ready() {
                self.clock.0.set(self.clock.0.get() + ROUND_NANOS);
                continue;
            }
            let next = self.exec.next_deadline();
            let next = next.context("everything waits for nothing")?;
            self.clock.0.set(next.as_nanos().max(self.clock.0.get()));
        }
        slot.take().context("no result")
    }

    /// Lets `seconds` pass, in which background work ends.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn rest(&self, seconds: u64) -> Result<()> {
        self.run(self.exec.sleep(Duration::from_secs(seconds)))
    }

    /// Runs `work`, of `operations` operations, and counts. Measured sections follow each other in the same order whenever the
    /// same scenario runs, which is how [`instructions`] finds them.
    ///
    /// # Errors
    /// As [`run`](Self::run), and when the store refused something.
    pub fn measure(
        &self,
        operations: u64,
        work: impl Future<Output = Result<(), StoreError>> + 'static,
    ) -> Result<Section> {
        self.meter.take();
        let start = self.exec.now();
        let mut work = Some(work);
        let mut result = None;
        instructions::section(&mut || result = work.take().map(|work| self.run(work)));
        result.context("measured twice")???;
        Ok(Section {
            operations: operations.max(1),
            counts: self.meter.take(),
            time: self.exec.now().since(start),
            instructions: 0,
        })
    }
}

/// Somebody who uses a store.
pub struct Client<D> {
    /// The store.
    pub store: Store<D>,
    /// Where it runs.
    pub exec: Exec,
    pages: Pool,
    /// Where it goes next.
    pub random: Rc<Random>,
}

impl<D> Clone for Client<D> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            exec: self.exec.clone(),
            pages: self.pages.clone(),
            random: self.random.clone(),
        }
    }
}

impl<D: Disk + 'static> Client<D> {
    /// Writes `blocks` blocks at a block.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(&self, id: VolumeId, at: u64, blocks: usize) -> Result<(), StoreError> {
        let mut buf = self.pages.take(blocks).await;
        let stamp = self.random.next().to_le_bytes();
        for page in buf.pages_mut() {
            page.bytes[..8].copy_from_slice(&stamp);
        }
        self.store.write(id, span(at, blocks), buf).await
    }

    /// Reads `blocks` blocks at a block.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, id: VolumeId, at: u64, blocks: usize) -> Result<(), StoreError> {
        let buf = self.pages.take(blocks).await;
        self.store.read(id, span(at, blocks), buf).await.1?;
        Ok(())
    }

    /// Writes all of the first `blocks` blocks once, in order, 128 KiB at a time.
    ///
    /// # Errors
    /// The store's.
    pub async fn fill(&self, id: VolumeId, blocks: u64) -> Result<(), StoreError> {
        let step = Buf::PAGES_MAX as u64;
        for at in (0..blocks).step_by(Buf::PAGES_MAX) {
            let count = step.min(blocks - at) as usize;
            self.write(id, at, count).await?;
        }
        Ok(())
    }

    /// `count` writes of a block each, anywhere in the first `blocks` blocks, `depth` at a time.
    ///
    /// # Errors
    /// The store's.
    pub async fn random_writes(
        &self,
        id: VolumeId,
        blocks: u64,
        count: u64,
        depth: u64,
    ) -> Result<(), StoreError> {
        let left = Rc::new(Cell::new(count));
        let worker = || async {
            while left.get() > 0 {
                left.set(left.get() - 1);
                self.write(id, self.random.below(blocks), 1).await?;
            }
            Ok(())
        };
        let workers = (0..depth).map(|_| worker());
        join_all(workers).await.into_iter().collect()
    }

    /// `count` reads of a block each, anywhere in the first `blocks` blocks, one at a time.
    ///
    /// # Errors
    /// The store's.
    pub async fn random_reads(
        &self,
        id: VolumeId,
        blocks: u64,
        count: u64,
    ) -> Result<(), StoreError> {
        for _ in 0..count {
            self.read(id, self.random.below(blocks), 1).await?;
        }
        Ok(())
    }
}

/// The range of whole blocks.
#[must_use]
pub fn span(at: u64, blocks: usize) -> Span {
    Span {
        offset: at * BLOCK,
        len: (blocks * BLOCK_SIZE) as u32,
    }
}

/// Memory of the store in a machine of `mib` MiB, roughly.
#[must_use]
pub fn memory_of(mib: usize) -> usize {
    (mib << 20) / 4
}

/// Fails unless the pool is sound: counts of a damaged pool are worth nothing.
///
/// # Errors
/// When it is read-only.
pub fn require_sound<D: Disk + 'static>(client: &Client<D>) -> Result<()> {
    let pool = client.store.pool();
    ensure!(
        pool.state == store::PoolState::Serving && pool.damaged_reads == 0,
        "the pool is not sound: {pool:?}"
    );
    Ok(())
}
