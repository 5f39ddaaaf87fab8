//! Where there is data and what changed, against a model: each block has the number of the write that made it, or none.

mod ram;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ram::{Bench, RamDisk};
use volume::{Access, Content, Extent, SnapshotId, Span, Volume, VolumeError, Volumes};
use world::Buf;

const BLOCK: u64 = 4096;
/// 256 GiB: four levels of maps, and too much for one fine sketch.
const BLOCKS: u64 = 1 << 26;

type Blocks = BTreeMap<u64, u64>;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Mostly near the beginning, where blocks meet; sometimes anywhere.
    fn place(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(BLOCKS - 4096),
            1 => self.below(8) << 20,
            _ => self.below(4096),
        }
    }
}

/// The runs of `range`, in bytes.
fn expected(old: &Blocks, new: &Blocks, range: Range<u64>) -> Vec<Extent> {
    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
    let keys = [old, new].map(|map| map.range(blocks.clone()).map(|(lba, _)| *lba));
    let [one, two] = keys;
    let touched: BTreeSet<u64> = one.chain(two).collect();
    let mut runs: Vec<Extent> = Vec::new();
    let mut at = range.start;
    let mut add = |until: u64, content| {
        let until = (until * BLOCK).min(range.end);
        if until <= at {
            return;
        }
        let len = until - at;
        at = until;
        match runs.last_mut() {
            Some(last) if last.content == content => last.len += len,
            _ => runs.push(Extent { len, content }),
        }
    };
    for lba in touched {
        add(lba, Content::Same);
        let content = match (old.get(&lba), new.get(&lba)) {
            (old, new) if old == new => Content::Same,
            (_, None) => Content::Zero,
            _ => Content::Data,
        };
        add(lba + 1, content);
    }
    add(blocks.end, Content::Same);
    runs
}

/// Asks for `range` until all of it was told, at most `max` extents at a time.
async fn told(
    volume: &Volume<RamDisk>,
    from: Option<SnapshotId>,
    range: Range<u64>,
    max: usize,
) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let part = volume.extents(from, at, range.end - at, max).await.unwrap();
        assert!((1..=max).contains(&part.len()), "{} extents", part.len());
        for extent in part {
            assert!(extent.len > 0);
            at += extent.len;
            match all.last_mut() {
                Some(last) if last.content == extent.content => last.len += extent.len,
                _ => all.push(extent),
            }
        }
        assert!(at <= range.end);
    }
    all
}

async fn write(volume: &Volume<RamDisk>, lba: u64, blocks: u64) {
    let mut buf = Buf::from_heap(blocks as usize);
    for index in 0..blocks as usize {
        buf.block_mut(index).fill(7);
    }
    let len = (blocks * BLOCK) as u32;
    let offset = lba * BLOCK;
    volume.write(Span { offset, len }, buf).await.unwrap();
}

/// What the model and the store have.
struct Story {
    volumes: Volumes<RamDisk>,
    volume: Volume<RamDisk>,
    random: Random,
    now: Blocks,
    kept: Vec<(SnapshotId, String, Blocks)>,
    writes: u64,
}

impl Story {
    async fn change(&mut self, bench: &exec::Exec) {
        let lba = self.random.place();
        match self.random.below(20) {
            0..9 => {
                let blocks = 1 + self.random.below(32);
                self.writes += 1;
                write(&self.volume, lba, blocks).await;
                self.now
                    .extend((lba..lba + blocks).map(|lba| (lba, self.writes)));
            }
            9..15 => {
                let most = [8, 300, BLOCKS / 64][self.random.below(3) as usize];
                let blocks = (1 + self.random.below(most)).min(BLOCKS - lba);
                self.volume
                    .discard(lba * BLOCK, blocks * BLOCK)
                    .await
                    .unwrap();
                self.now.retain(|at, _| !(lba..lba + blocks).contains(at));
            }
            15 | 16 => self.volumes.store().checkpoint().await.unwrap(),
            17 => {
                // It goes on while others ask.
                let store = self.volumes.store().clone();
                bench.spawn(async move { store.checkpoint().await.unwrap() });
            }
            18 if self.kept.len() < 6 => {
                let name = format!("s{}", self.writes);
                let Ok(info) = self.volumes.create_snapshot("v", &name).await else {
                    return;
                };
                self.kept.push((info.id, name, self.now.clone()));
            }
            _ if self.kept.len() > 2 => {
                let at = self.random.below(self.kept.len() as u64) as usize;
                let (id, name, _) = self.kept.remove(at);
                self.volumes
                    .delete_snapshot("v", &name, false)
                    .await
                    .unwrap();
                let gone = self.volume.extents(Some(id), 0, BLOCK, 1).await;
                assert_eq!(gone, Err(VolumeError::NoSnapshot));
            }
            _ => {}
        }
    }

    async fn ask(&mut self) {
        let start = self.random.place() * BLOCK + 512 * self.random.below(8);
        let most = [1 << 20, 1 << 32, BLOCKS * BLOCK][self.random.below(3) as usize];
        let len = (1 + self.random.below(most / 512)) * 512;
        let range = start..(start + len).min(BLOCKS * BLOCK);
        let max = [1, 3, 1000][self.random.below(3) as usize];
        let nothing = Blocks::new();
        let holds = told(&self.volume, None, range.clone(), max).await;
        assert_eq!(holds, expected(&nothing, &self.now, range.clone()));
        for (id, name, then) in &self.kept {
            let changed = told(&self.volume, Some(*id), range.clone(), max).await;
            assert_eq!(changed, expected(then, &self.now, range.clone()), "{name}");
        }
        if let Some((id, _, then)) = self.kept.first()
            && let Some((_, name, later)) = self.kept.last()
        {
            let snapshot = format!("v@{name}");
            let snapshot = self.volumes.attach(&snapshot, Access::ReadWrite).unwrap();
            let holds = told(&snapshot, None, range.clone(), max).await;
            assert_eq!(holds, expected(&nothing, later, range.clone()));
            let changed = told(&snapshot, Some(*id), range.clone(), max).await;
            assert_eq!(changed, expected(then, later, range));
        }
    }
}

#[test]
fn extents_are_what_was_written_and_discarded() {
    for seed in [0x51c7, 0xb0a7, 0x9e37] {
        let bench = Bench::new();
        let volumes = Volumes::new(bench.store());
        let exec = bench.exec.clone();
        bench.run(async move {
            volumes.create("v", BLOCKS * BLOCK).await.unwrap();
            let volume = volumes.attach("v", Access::ReadWrite).unwrap();
            let mut story = Story {
                volumes,
                volume,
                random: Random(seed),
                now: Blocks::new(),
                kept: Vec::new(),
                writes: 0,
            };
            for round in 0..600 {
                story.change(&exec).await;
                if round % 3 == 0 {
                    story.ask().await;
                }
            }
            assert!(story.writes > 100 && !story.now.is_empty());
        });
    }
}

/// However many changes are in memory, an answer about little looks at little.
#[test]
fn a_full_list_ends_early_and_goes_on_where_it_ended() {
    let bench = Bench::new();
    let volumes = Volumes::new(bench.store());
    bench.run(async move {
        volumes.create("v", BLOCKS * BLOCK).await.unwrap();
        let volume = volumes.attach("v", Access::ReadWrite).unwrap();
        for lba in (0..2000).step_by(2) {
            write(&volume, lba, 1).await;
        }
        let part = volume.extents(None, 0, BLOCKS * BLOCK, 10).await.unwrap();
        assert_eq!(part.len(), 10);
        assert!(part.iter().all(|extent| extent.len == BLOCK));
        let all = told(&volume, None, 0..BLOCKS * BLOCK, 64).await;
        assert_eq!(all.len(), 2000);
        assert_eq!(all[1999].len, (BLOCKS - 1999) * BLOCK);
    });
}

#[test]
fn wrong_ranges_are_refused() {
    let bench = Bench::new();
    let volumes = Volumes::new(bench.store());
    bench.run(async move {
        volumes.create("v", 1 << 20).await.unwrap();
        let volume = volumes.attach("v", Access::ReadOnly).unwrap();
        for (offset, len, error) in [
            (0, (1 << 20) + 512, VolumeError::OutOfRange),
            (u64::MAX - 511, 512, VolumeError::OutOfRange),
            (1, 512, VolumeError::Unaligned),
        ] {
            let told = volume.extents(None, offset, len, 1).await;
            assert_eq!(told, Err(error));
        }
    });
}
