//! A store on a drive in memory, and an executor whose time stands still unless everything waits. The tests of the
//! rooms above include this file too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use exec::Exec;
use store::{Config, Environment, FormatOptions, Store};
use world::{
    BLOCK_SIZE, BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Entropy, Geometry, Instant, Page,
    Pool,
};

/// A drive in memory; clones are the same drive.
#[derive(Clone, Default)]
pub struct RamDisk {
    pages: Rc<RefCell<BTreeMap<BlockAddr, Box<Page>>>>,
    /// Whether writes fail from now on.
    pub is_worn_out: Rc<Cell<bool>>,
}

/// 1 GiB.
const BLOCKS: u64 = 1 << 18;

impl Disk for RamDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: BLOCKS,
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
        if at + from.blocks() as u64 > BLOCKS {
            return (from, Err(DiskError::OutOfRange));
        }
        a_while().await;
        if self.is_worn_out.get() {
            return (from, Err(DiskError::ReadOnly));
        }
        let mut pages = self.pages.borrow_mut();
        for (index, page) in (at..).zip(from.pages()) {
            let to = pages.entry(index).or_insert_with(Page::new_box);
            to.bytes.copy_from_slice(&page.bytes[..BLOCK_SIZE]);
        }
        drop(pages);
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        a_while().await;
        Ok(())
    }

    async fn discard(&self, _at: BlockAddr, _blocks: u64) -> Result<(), DiskError> {
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

/// An executor and its clock.
pub struct Bench {
    /// The executor.
    pub exec: Exec,
    clock: Rc<StandingClock>,
}

impl Bench {
    /// An executor at time zero.
    pub fn new() -> Self {
        let clock = Rc::new(StandingClock::default());
        let exec = Exec::new(clock.clone());
        Self { exec, clock }
    }

    /// A new store on a new drive.
    pub fn store(&self) -> Store<RamDisk> {
        let environment = Environment {
            exec: self.exec.clone(),
            entropy: Rc::new(Counting(Cell::new(1))),
            pool: Pool::new(1024),
        };
        let config = Config::for_memory(8 << 20);
        self.run(async move {
            let disks = vec![RamDisk::default()];
            let options = FormatOptions::default();
            Store::format(&disks, &environment, options)
                .await
                .expect("format");
            Store::open(disks, environment, config).await.expect("open")
        })
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
