//! Volumes that are adopted from an origin in memory: what clients read, and what is fetched for it.

mod ram;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ram::{Bench, RamDisk};
use volume::{
    Access, Answer, BaseId, Origin, OriginAddress, OriginError, OriginExtent, Origins, Settings,
    Span, StoreError, Volume, VolumeError, Volumes,
};
use world::Buf;

const BLOCK: usize = 4096;
/// Not whole blocks: the last one is half there.
const SIZE: usize = 2000 * BLOCK + 2048;

/// A machine elsewhere with one export; clones are the same.
#[derive(Clone)]
struct Elsewhere {
    bench: Bench,
    bytes: Rc<RefCell<Vec<u8>>>,
    /// How often each block was read.
    reads: Rc<RefCell<Vec<u32>>>,
    opened: Rc<Cell<u32>>,
    failure: Rc<Cell<Option<OriginError>>>,
}

impl Elsewhere {
    fn new(bench: &Bench) -> Self {
        let mut bytes = vec![0; SIZE];
        for (index, part) in bytes.chunks_mut(64 * BLOCK).enumerate() {
            if index % 3 != 2 {
                for (at, byte) in part.iter_mut().enumerate() {
                    *byte = (index * 31 + at / 512 + 1) as u8 | 1;
                }
            }
        }
        Self {
            bench: bench.clone(),
            bytes: Rc::new(RefCell::new(bytes)),
            reads: Rc::new(RefCell::new(vec![0; SIZE.div_ceil(BLOCK)])),
            opened: Rc::default(),
            failure: Rc::default(),
        }
    }

    fn is_zero(&self, block: usize) -> bool {
        let bytes = self.bytes.borrow();
        let end = bytes.len().min((block + 1) * BLOCK);
        bytes[block * BLOCK..end].iter().all(|byte| *byte == 0)
    }

    async fn answer<T>(&self, value: T) -> Result<T, OriginError> {
        self.bench
            .exec
            .sleep(std::time::Duration::from_millis(1))
            .await;
        self.failure.get().map_or(Ok(value), Err)
    }
}

impl Origins for Elsewhere {
    fn open(&self, address: &OriginAddress) -> Answer<'_, Rc<dyn Origin>> {
        let OriginAddress::Nbd { export, .. } = address.clone() else {
            panic!("{address}");
        };
        Box::pin(async move {
            self.opened.set(self.opened.get() + 1);
            self.answer(()).await?;
            match export.as_str() {
                "disk" => Ok(Rc::new(self.clone()) as Rc<dyn Origin>),
                _ => Err(OriginError::NoExport),
            }
        })
    }
}

impl Origin for Elsewhere {
    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn extents(&self, offset: u64, len: u64) -> Answer<'_, Vec<OriginExtent>> {
        let (mut at, end) = (offset as usize, (offset + len) as usize);
        assert!(len > 0 && end <= self.bytes.borrow().len());
        let mut extents = Vec::new();
        while at < end && extents.len() < 5 {
            let is_zero = self.is_zero(at / BLOCK);
            let mut next = at;
            while next < end && self.is_zero(next / BLOCK) == is_zero {
                next = (next / BLOCK + 1) * BLOCK;
            }
            let len = (next.min(end) - at) as u64;
            extents.push(OriginExtent { len, is_zero });
            at = next;
        }
        Box::pin(self.answer(extents))
    }

    fn read(&self, offset: u64, mut into: Buf) -> Answer<'_, Buf> {
        let first = offset as usize / BLOCK;
        into.zero();
        for index in 0..into.blocks() {
            let bytes = self.bytes.borrow();
            self.reads.borrow_mut()[first + index] += 1;
            let start = (first + index) * BLOCK;
            let part = &bytes[start..bytes.len().min(start + BLOCK)];
            into.block_mut(index)[..part.len()].copy_from_slice(part);
        }
        Box::pin(self.answer(into))
    }
}

fn address() -> OriginAddress {
    "nbd://10.0.0.5/disk".parse().unwrap()
}

struct Lab {
    bench: Bench,
    elsewhere: Elsewhere,
    volumes: Volumes<RamDisk>,
}

impl Lab {
    fn new() -> Self {
        let bench = Bench::new();
        let elsewhere = Elsewhere::new(&bench);
        let volumes = Volumes::new(bench.store());
        volumes.reach_origins_by(Rc::new(elsewhere.clone()), 64);
        Self {
            bench,
            elsewhere,
            volumes,
        }
    }

    fn adopt(&self) -> BaseId {
        let volumes = self.volumes.clone();
        let made = self
            .bench
            .run(async move { volumes.adopt("db", address(), None).await });
        let made = made.unwrap();
        assert_eq!(made.size_bytes, SIZE as u64);
        made.bases[0]
    }

    fn attach(&self) -> Rc<Volume<RamDisk>> {
        Rc::new(self.volumes.attach("db", Access::ReadWrite).unwrap())
    }

    /// The power goes.
    fn restart(&mut self) {
        self.bench.exec.clear();
        let disk = RamDisk::from(&*self.bench.disk.durable.borrow());
        self.bench.disk = disk;
        let bench = self.bench.clone();
        let opened = async move { bench.open(bench.disk.clone()).await };
        let store = self.bench.run(opened);
        self.volumes = Volumes::new(store);
        self.volumes
            .reach_origins_by(Rc::new(self.elsewhere.clone()), 64);
        let volumes = self.volumes.clone();
        let unreadable = self.bench.run(async move {
            volumes.load().await;
            volumes.load_adoptions().await
        });
        assert_eq!(unreadable, []);
    }

    /// Brings in everything, from wherever it is.
    fn bring_in_all(&self, base: BaseId) {
        let volumes = self.volumes.clone();
        self.bench.run(async move {
            let mut at = volumes.adoption(base).unwrap().base.known_bytes;
            while at < SIZE as u64 {
                let step = volumes.bring_in(base, at, 1 << 20).await.unwrap();
                assert!(step.next > at);
                at = step.next;
                volumes.note_arrived(base, at).await.unwrap();
            }
        });
    }
}

fn span(offset: usize, len: usize) -> Span {
    Span {
        offset: offset as u64,
        len: len as u32,
    }
}

async fn read(volume: &Volume<RamDisk>, offset: usize, len: usize) -> Result<Vec<u8>, VolumeError> {
    let span = span(offset, len);
    let (buf, result) = volume.read(span, Buf::from_heap(span.blocks())).await;
    result?;
    let mut bytes = vec![0; len];
    buf.copy_to(offset % BLOCK, &mut bytes);
    Ok(bytes)
}

async fn write(volume: &Volume<RamDisk>, offset: usize, bytes: &[u8]) -> Result<(), VolumeError> {
    let span = span(offset, bytes.len());
    let mut buf = Buf::from_heap(span.blocks());
    buf.copy_from(offset % BLOCK, bytes);
    volume.write(span, buf).await
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The first byte that differs, without pages of numbers.
#[track_caller]
fn same(found: Result<Vec<u8>, VolumeError>, expected: &[u8], what: impl std::fmt::Debug) {
    let found = found.unwrap_or_else(|error| panic!("{what:?}: {error}"));
    assert_eq!(found.len(), expected.len());
    let differs = (0..found.len()).find(|at| found[*at] != expected[*at]);
    if let Some(at) = differs {
        panic!(
            "{what:?}: {} instead of {} at {at}",
            found[at], expected[at]
        );
    }
}

#[test]
fn an_adopted_volume_reads_as_its_origin_and_keeps_what_is_written() {
    for seed in 1..12 {
        let mut lab = Lab::new();
        let mut model = lab.elsewhere.bytes.borrow().clone();
        let base = lab.adopt();
        let mut random = Random(seed * 0x9e37_79b9);
        for life in 0..3 {
            let volume = lab.attach();
            for _ in 0..60 {
                // Some at the same time; what they write does not meet, what they fetch does.
                let mut tasks = Vec::new();
                let start = random.below(SIZE / 512 - 2000) * 512;
                for lane in 0..4 {
                    let offset = start + lane * 250 * 512 + random.below(60) * 512;
                    let len = (1 + random.below(160)) * 512;
                    let len = len.min(SIZE - offset);
                    let what = random.below(10);
                    let byte = (random.below(255) + 1) as u8;
                    tasks.push((offset, len, what, byte));
                }
                let expected: Vec<_> = tasks
                    .iter()
                    .map(|(at, len, ..)| model[*at..at + len].to_vec())
                    .collect();
                for (offset, len, what, byte) in &tasks {
                    match what {
                        0..3 => model[*offset..offset + len].fill(*byte),
                        3 => model[*offset..offset + len].fill(0),
                        _ => {}
                    }
                }
                let volume = volume.clone();
                lab.bench.run(async move {
                    let one = async |index: usize| {
                        let (offset, len, what, byte) = tasks[index];
                        match what {
                            0..3 => write(&volume, offset, &vec![byte; len]).await.unwrap(),
                            3 => volume.discard(offset as u64, len as u64).await.unwrap(),
                            _ => same(
                                read(&volume, offset, len).await,
                                &expected[index],
                                (offset, len),
                            ),
                        }
                    };
                    exec::join_all((0..4).map(one)).await;
                });
            }
            let (volumes, flushed) = (lab.volumes.clone(), volume);
            lab.bench.run(async move {
                flushed.flush().await.unwrap();
                volumes.store().flush().await.unwrap()
            });
            lab.restart();
            if life == 1 {
                lab.bring_in_all(base);
                assert_eq!(lab.volumes.adoptions(), []);
                assert_eq!(lab.volumes.store().record_keys(), [""; 0]);
            }
        }
        // Nothing more can be had from there, and need be.
        lab.elsewhere.failure.set(Some(OriginError::Unreachable));
        let volume = lab.attach();
        lab.bench.run(async move {
            for offset in (0..SIZE).step_by(31 * BLOCK) {
                let len = (31 * BLOCK).min(SIZE - offset);
                assert!(read(&volume, offset, len).await.unwrap() == model[offset..offset + len]);
            }
        });
        let reads = lab.elsewhere.reads.borrow();
        assert!(
            reads.iter().all(|reads| *reads <= 1),
            "a block was fetched twice"
        );
    }
}

#[test]
fn what_is_zeros_or_written_over_is_not_fetched() {
    let lab = Lab::new();
    let base = lab.adopt();
    let volume = lab.attach();
    lab.bench.run(async move {
        write(&volume, 0, &[7; 16 * BLOCK]).await.unwrap();
        volume.discard(64 << 10, 64 << 10).await.unwrap();
        assert_eq!(
            read(&volume, 0, 17 * BLOCK).await.unwrap()[15 * BLOCK..],
            [[7; BLOCK], [0; BLOCK]].concat()
        );
    });
    assert!(lab.elsewhere.reads.borrow().iter().all(|reads| *reads == 0));
    lab.bring_in_all(base);
    // The first 32 blocks are written over, or zeros.
    for (block, reads) in lab.elsewhere.reads.borrow().iter().enumerate() {
        let is_wanted = block >= 32 && !lab.elsewhere.is_zero(block);
        assert_eq!(*reads, u32::from(is_wanted), "{block}");
    }
}

#[test]
fn many_who_wait_for_a_block_cause_one_fetch_and_fail_together() {
    let lab = Lab::new();
    lab.adopt();
    let volume = lab.attach();
    let elsewhere = lab.elsewhere.clone();
    elsewhere.failure.set(Some(OriginError::Failed(5)));
    let failing = volume.clone();
    lab.bench.run(async move {
        let reads = (0..20).map(|_| read(&failing, 512, 512));
        for result in exec::join_all(reads).await {
            assert_eq!(result, Err(VolumeError::Origin(OriginError::Failed(5))));
        }
        // Never zeros; nor is a part of a block written into nothing.
        let result = write(&failing, 512, &[1; 512]).await;
        assert_eq!(result, Err(VolumeError::Origin(OriginError::Failed(5))));
        let result = failing.discard(512, 512).await;
        assert_eq!(result, Err(VolumeError::Origin(OriginError::Failed(5))));
        // What needs nothing from there works.
        write(&failing, 20 * BLOCK, &[1; BLOCK]).await.unwrap();
    });
    let info = &lab.volumes.adoptions()[0];
    assert_eq!(info.failure, Some(OriginError::Failed(5)));
    elsewhere.failure.set(None);
    elsewhere.reads.borrow_mut().fill(0);
    lab.bench.run(async move {
        let reads = (0..20).map(|_| read(&volume, 512, 512));
        let bytes = elsewhere.bytes.borrow()[512..1024].to_vec();
        for result in exec::join_all(reads).await {
            assert_eq!(result, Ok(bytes.clone()));
        }
        assert_eq!(elsewhere.reads.borrow()[0], 1);
    });
    let info = &lab.volumes.adoptions()[0];
    assert_eq!((info.failure, info.demanded_bytes), (None, 64 << 10));
}

#[test]
fn an_origin_that_changed_its_size_is_not_used() {
    let mut lab = Lab::new();
    lab.adopt();
    lab.restart();
    lab.elsewhere.bytes.borrow_mut().truncate(SIZE / 2);
    let volume = lab.attach();
    let result = lab.bench.run(async move { read(&volume, 0, 512).await });
    let size = (SIZE / 2) as u64;
    assert_eq!(result, Err(VolumeError::Origin(OriginError::Size(size))));
}

#[test]
fn what_cannot_be_adopted_leaves_nothing() {
    let lab = Lab::new();
    let volumes = lab.volumes.clone();
    let elsewhere = lab.elsewhere.clone();
    lab.bench.run(async move {
        let adopt = async |name: &str, uri: &str| {
            let address = uri.parse().unwrap();
            volumes.adopt(name, address, None).await.map(drop)
        };
        let none = Err(VolumeError::Origin(OriginError::NoExport));
        assert_eq!(adopt("db", "nbd://10.0.0.5/other").await, none);
        assert_eq!(
            adopt("No", "nbd://10.0.0.5/disk").await,
            Err(VolumeError::BadName)
        );
        volumes.create("db", 1 << 20).await.unwrap();
        let opened = elsewhere.opened.get();
        assert_eq!(
            adopt("db", "nbd://10.0.0.5/disk").await,
            Err(VolumeError::NameTaken)
        );
        assert_eq!(elsewhere.opened.get(), opened);
        elsewhere.bytes.borrow_mut().push(1);
        let size = SIZE as u64 + 1;
        let bad = Err(VolumeError::Origin(OriginError::Size(size)));
        assert_eq!(adopt("two", "nbd://10.0.0.5/disk").await, bad);
        assert_eq!(volumes.list().len(), 1);
        assert_eq!(volumes.adoptions(), []);
        assert_eq!(volumes.store().record_keys(), [""; 0]);
    });
}

#[test]
fn an_adoption_goes_with_its_volume_and_stays_with_a_clone() {
    let mut lab = Lab::new();
    let base = lab.adopt();
    let volumes = lab.volumes.clone();
    lab.bench.run(async move {
        volumes.create_snapshot("db", "s").await.unwrap();
        volumes.clone_snapshot("db", "s", "copy").await.unwrap();
        volumes.delete("db", false).await.unwrap();
        assert_eq!(volumes.adoptions().len(), 1);
        volumes.set("copy", Settings::default()).await.unwrap();
    });
    lab.restart();
    let volumes = lab.volumes.clone();
    let expected = lab.elsewhere.bytes.borrow()[..BLOCK].to_vec();
    lab.bench.run(async move {
        let copy = volumes.attach("copy", Access::ReadOnly).unwrap();
        assert_eq!(read(&copy, 0, BLOCK).await.unwrap(), expected);
        drop(copy);
        volumes.delete("copy", false).await.unwrap();
        assert_eq!(volumes.adoptions(), []);
        assert_eq!(volumes.store().record_keys(), [""; 0]);
        let result = volumes.bring_in(base, 0, 1).await;
        assert!(result.is_err());
    });
}

/// What cannot be kept is passed on.
#[test]
fn a_full_pool_still_reads_through() {
    let lab = Lab::new();
    lab.adopt();
    lab.bench.disk.is_worn_out.set(true);
    let volume = lab.attach();
    let expected = lab.elsewhere.bytes.borrow()[512..9 * 512].to_vec();
    lab.bench.run(async move {
        // The first one finds out that the pool takes no writes.
        let mut result = read(&volume, 512, 8 * 512).await;
        for _ in 0..3 {
            if result.is_err() {
                result = read(&volume, 512, 8 * 512).await;
            }
        }
        same(result, &expected, ());
        let result = write(&volume, 512, &[1; 512]).await;
        assert!(
            matches!(
                result,
                Err(VolumeError::Store(
                    StoreError::ReadOnly | StoreError::Disk(_)
                ))
            ),
            "{result:?}"
        );
    });
}
