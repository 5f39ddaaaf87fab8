//! Drives in memory, a store on them, and its checker.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use exec::Exec;
use world::{BLOCK_SIZE, Buf, Clock, Disk, DiskError, DiskInfo, Entropy, Geometry, Instant, Pool};

use crate::api::{Config, Environment, FormatOptions, Span, StoreError};
use crate::check::{CheckOptions, Finding, Summary, check};
use crate::store::Store;

/// 64 MiB, the smallest drive.
pub const BLOCKS: u64 = 16_384;

pub type Image = BTreeMap<u64, Box<[u8; BLOCK_SIZE]>>;

/// What a drive did.
pub enum Event {
    Write {
        drive: usize,
        at: u64,
        block: Box<[u8; BLOCK_SIZE]>,
    },
    Flush {
        drive: usize,
    },
}

/// A drive in memory that remembers what was written in which order; clones are the same drive.
#[derive(Clone, Default)]
pub struct Ram {
    drive: usize,
    pub image: Rc<RefCell<Image>>,
    /// What all drives of the pool did, in order.
    pub log: Rc<RefCell<Vec<Event>>>,
    pub logs: Rc<Cell<bool>>,
}

impl Disk for Ram {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: BLOCKS,
            sector_bytes: 512,
            transfer_blocks_max: 7,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: u64, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        let image = self.image.borrow();
        assert!(into.blocks() <= 7);
        for (at, page) in (at..).zip(into.pages_mut()) {
            page.bytes = image.get(&at).map_or([0; BLOCK_SIZE], |block| **block);
        }
        (into, Ok(()))
    }

    async fn write(&self, at: u64, from: Buf) -> (Buf, Result<(), DiskError>) {
        assert!(from.blocks() <= 7);
        for (at, page) in (at..).zip(from.pages()) {
            self.put(at, &page.bytes);
        }
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        if self.logs.get() {
            self.log
                .borrow_mut()
                .push(Event::Flush { drive: self.drive });
        }
        Ok(())
    }

    async fn discard(&self, _: &[Range<u64>]) -> Result<(), DiskError> {
        Ok(())
    }
}

impl Ram {
    pub fn block(&self, at: u64) -> [u8; BLOCK_SIZE] {
        self.image
            .borrow()
            .get(&at)
            .map_or([0; BLOCK_SIZE], |block| **block)
    }

    pub fn put(&self, at: u64, bytes: &[u8; BLOCK_SIZE]) {
        if self.logs.get() {
            self.log.borrow_mut().push(Event::Write {
                drive: self.drive,
                at,
                block: Box::new(*bytes),
            });
        }
        self.image.borrow_mut().insert(at, Box::new(*bytes));
    }

    pub fn flip(&self, at: u64, bit: usize) {
        let mut block = self.block(at);
        block[bit / 8] ^= 1 << (bit % 8);
        self.put(at, &block);
    }
}

#[derive(Default)]
struct Still(Cell<u64>);

impl Clock for Still {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}

struct Count(Cell<u8>);

impl Entropy for Count {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0.set(self.0.get().wrapping_add(101));
            *byte = self.0.get();
        }
    }
}

/// Drives, and what is needed to run a store on them.
pub struct Lab {
    pub exec: Exec,
    clock: Rc<Still>,
    pub disks: Vec<Ram>,
}

impl Lab {
    pub fn new(drives: usize) -> Self {
        let clock = Rc::new(Still::default());
        Self {
            exec: Exec::new(clock.clone()),
            clock,
            disks: {
                let one = Ram::default();
                let (log, logs) = (one.log, one.logs);
                let new = |drive| Ram {
                    drive,
                    image: Rc::default(),
                    log: log.clone(),
                    logs: logs.clone(),
                };
                (0..drives).map(new).collect()
            },
        }
    }

    /// Runs the executor until `future` is done; time moves when everything waits.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let out = Rc::new(RefCell::new(None));
        let slot = out.clone();
        self.exec.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        for _ in 0..5_000_000 {
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
        panic!("not done in time");
    }

    pub fn environment(&self) -> Environment {
        Environment {
            exec: self.exec.clone(),
            entropy: Rc::new(Count(Cell::new(1))),
            pool: Pool::new(256),
        }
    }

    pub fn format(&self) {
        let (disks, environment) = (self.disks.clone(), self.environment());
        let made =
            async move { Store::format(&disks, &environment, FormatOptions::default()).await };
        self.run(made).unwrap();
    }

    pub fn open(&self) -> Store<Ram> {
        self.open_with(|_| {})
    }

    pub fn open_with(&self, change: impl FnOnce(&mut Config)) -> Store<Ram> {
        let (disks, environment) = (self.disks.clone(), self.environment());
        let mut config = Config::for_memory(8 << 20);
        change(&mut config);
        self.run(Store::open(disks, environment, config)).unwrap()
    }

    /// Whether the pool opens; nothing goes on afterwards.
    pub fn try_open(&self) -> Result<(), StoreError> {
        let (disks, environment) = (self.disks.clone(), self.environment());
        let config = Config::for_memory(8 << 20);
        let result = self.run(Store::open(disks, environment, config));
        self.exec.clear();
        result.map(drop)
    }

    /// The power goes: tasks are gone, what was written stays.
    pub fn cut(&self, store: Store<Ram>) {
        drop(store);
        self.exec.clear();
    }

    pub fn check(&self) -> (Result<Summary, StoreError>, Vec<Finding>) {
        check_disks(self.disks.clone())
    }

    pub fn expect_sound(&self) -> Summary {
        let (summary, findings) = self.check();
        assert_eq!(findings, [], "{}", lines(&findings));
        summary.unwrap()
    }
}

pub fn lines(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("\n  {finding}"))
        .collect()
}

pub fn check_disks(disks: Vec<Ram>) -> (Result<Summary, StoreError>, Vec<Finding>) {
    let findings = RefCell::new(Vec::new());
    let mut report = |finding: Finding| {
        assert!(!finding.to_string().is_empty());
        findings.borrow_mut().push(finding);
    };
    let options = CheckOptions { verify_data: true };
    let mut future = Box::pin(check(&disks, options, &mut report));
    let waker = core::task::Waker::noop();
    let result = match future
        .as_mut()
        .poll(&mut core::task::Context::from_waker(waker))
    {
        core::task::Poll::Ready(result) => result,
        core::task::Poll::Pending => panic!("these drives answer at once"),
    };
    drop(future);
    (result, findings.take())
}

/// Some of everything: two volumes and records stay, one volume is deleted; a part is only in the journal.
pub async fn work(store: Store<Ram>, seed: u64) {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    let names = ["one", "two", "gone"];
    let mut volumes = Vec::new();
    for name in names {
        let name = format!("{name}-{seed}");
        volumes.push(store.create_volume(&name, 40 << 20).await.unwrap().id);
    }
    store.set_record("token", Some(b"secret")).await.unwrap();
    for step in 0..120_u64 {
        let volume = volumes[random(3) as usize];
        let blocks = 1 + random(20);
        let at = random(10_000);
        let offset = at * BLOCK_SIZE as u64;
        match step % 12 {
            3 => store
                .discard(volume, offset, (blocks * 300) << 12)
                .await
                .unwrap_or(()),
            7 => store.flush().await.unwrap(),
            11 if step % 24 == 11 => store.checkpoint().await.unwrap(),
            _ => {
                let mut buf = Buf::from_heap(blocks as usize);
                for block in 0..blocks as usize {
                    buf.block_mut(block).fill((step + seed) as u8 | 1);
                }
                let span = Span {
                    offset,
                    len: (blocks as u32) << 12,
                };
                store.write(volume, span, buf).await.unwrap();
            }
        }
    }
    store.delete_volume(volumes[2]).await.unwrap();
    store.set_record("token", None).await.unwrap();
    store.set_record("peer", Some(&[7; 3000])).await.unwrap();
    store.flush().await.unwrap();
}
