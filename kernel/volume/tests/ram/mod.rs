//! A store on a drive in memory, and an executor whose time stands still unless everything waits. The tests of the
//! rooms above include this file too.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use exec::Exec;
use store::{Config, Environment, FormatOptions, Store};
use world::{
    BLOCK_SIZE, BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Entropy, Geometry, Instant, Page,
    Pool,
};

pub type Pages = BTreeMap<BlockAddr, Box<Page>>;

/// A drive in memory; clones are the same drive.
#[derive(Clone)]
pub struct RamDisk {
    blocks: u64,
    pages: Rc<RefCell<Pages>>,
    /// What a flush covered, and what none did so far.
    pub durable: Rc<RefCell<Pages>>,
    unflushed: Rc<RefCell<BTreeSet<BlockAddr>>>,
    /// Whether writes fail from now on.
    pub is_worn_out: Rc<Cell<bool>>,
    /// Turns that everybody else has before a write that begins now is done.
    pub turns: Rc<Cell<u32>>,
}

/// 1 GiB.
const BLOCKS: u64 = 1 << 18;

impl Default for RamDisk {
    fn default() -> Self {
        Self::of(BLOCKS)
    }
}

impl RamDisk {
    fn of(blocks: u64) -> Self {
        Self {
            blocks,
            pages: Rc::default(),
            durable: Rc::default(),
            unflushed: Rc::default(),
            is_worn_out: Rc::default(),
            turns: Rc::new(Cell::new(1)),
        }
    }
}

/// A drive with these pages, as after a power cut.
impl From<&Pages> for RamDisk {
    fn from(pages: &Pages) -> Self {
        let disk = Self::default();
        for all in [&disk.pages, &disk.durable] {
            let copies = pages.iter().map(|(at, page)| (*at, copy_of(page)));
            all.borrow_mut().extend(copies);
        }
        disk
    }
}

fn copy_of(page: &Page) -> Box<Page> {
    let mut copy = Page::new_box();
    copy.bytes.copy_from_slice(&page.bytes);
    copy
}

impl Disk for RamDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks,
            sector_bytes: 4096,
            transfer_blocks_max: 32,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        a_while().await;
        let pages = self.pages.borrow();
        for (index, to) in (at..).zip(into.pages_mut()) {
            match pages.get(&index) {
                Some(page) => to.bytes.copy_from_slice(&page.bytes),
                None => to.bytes.fill(0),
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        if at + from.blocks() as u64 > self.blocks {
            return (from, Err(DiskError::OutOfRange));
        }
        for _ in 0..self.turns.get() {
            a_while().await;
        }
        if self.is_worn_out.get() {
            return (from, Err(DiskError::ReadOnly));
        }
        let mut pages = self.pages.borrow_mut();
        for (index, page) in (at..).zip(from.pages()) {
            let to = pages.entry(index).or_insert_with(Page::new_box);
            to.bytes.copy_from_slice(&page.bytes[..BLOCK_SIZE]);
            self.unflushed.borrow_mut().insert(index);
        }
        drop(pages);
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let covered = self.unflushed.take();
        let pages = |at: &BlockAddr| (*at, copy_of(&self.pages.borrow()[at]));
        let covered: Vec<_> = covered.iter().map(pages).collect();
        a_while().await;
        self.durable.borrow_mut().extend(covered);
        Ok(())
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        Ok(())
    }
}

/// What a drive takes: everybody else has a turn first.
async fn a_while() {
    let mut is_over = false;
    poll_fn(|context| {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut is_over, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// A clock that only [`run`] moves.
#[derive(Default)]
pub struct StandingClock(Cell<u64>);

impl Clock for StandingClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        Some(1_700_000_000_000_000_000 + self.0.get())
    }
}

struct Counting(Cell<u8>);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0.set(self.0.get().wrapping_add(101));
            *byte = self.0.get();
        }
    }
}

/// An executor, its clock and a drive; clones are the same.
#[derive(Clone)]
pub struct Bench {
    /// The executor.
    pub exec: Exec,
    /// The drive that its stores are on.
    pub disk: RamDisk,
    clock: Rc<StandingClock>,
}

impl Bench {
    /// An executor at time zero, and an empty drive.
    pub fn new() -> Self {
        Self::with_blocks(BLOCKS)
    }

    /// The same with a drive of so many blocks.
    pub fn with_blocks(blocks: u64) -> Self {
        let disk = RamDisk::of(blocks);
        let clock = Rc::new(StandingClock::default());
        let exec = Exec::new(clock.clone());
        Self { exec, disk, clock }
    }

    /// A new store on the drive.
    pub fn store(&self) -> Store<RamDisk> {
        let bench = self.clone();
        self.run(async move {
            let disks = std::slice::from_ref(&bench.disk);
            let options = FormatOptions::default();
            Store::format(disks, &bench.environment(), options)
                .await
                .expect("format");
            bench.open(bench.disk.clone()).await
        })
    }

    /// The store on `disk`.
    pub async fn open(&self, disk: RamDisk) -> Store<RamDisk> {
        let config = Config::for_memory(8 << 20);
        let opened = Store::open(vec![disk], self.environment(), config).await;
        opened.expect("open")
    }

    fn environment(&self) -> Environment {
        Environment {
            exec: self.exec.clone(),
            entropy: Rc::new(Counting(Cell::new(1))),
            pool: Pool::new(1024),
        }
    }

    /// Runs everything until `future` is done. Time moves to the next timer whenever all tasks wait.
    ///
    /// # Panics
    /// When all tasks wait and there is no timer: a deadlock.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let out = Rc::new(RefCell::new(None));
        let slot = out.clone();
        self.exec.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        for _ in 0..20_000_000_u64 {
            if let Some(value) = out.borrow_mut().take() {
                return value;
            }
            if !self.exec.run_ready() {
                let next = self
                    .exec
                    .next_deadline()
                    .expect("everything waits for nothing");
                self.clock.0.set(next.as_nanos().max(self.clock.0.get()));
            }
        }
        panic!("not done after 20 million rounds");
    }
}
