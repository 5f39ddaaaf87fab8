//! A pool that is filled, with what should be in it.

use core::time::Duration;
use std::collections::BTreeMap;

use exec::{Exec, join_all};
use store::{PoolState, SnapshotId, Source, Span, Store, StoreError, VolumeId};
use world::{BLOCK_SIZE, Buf};

use super::super::state::encode;
use super::super::tape::TapeDisk;
use super::{DRIVE, Event, Filling, Keeping};

/// Blocks of the volume: more than the drives have, in 512 leaves.
const VOLUME: u64 = LEAVES * LEAF;
const LEAVES: u64 = 512;
const LEAF: u64 = 128;

/// A full pool has room for discards of so many single blocks, even when each needs a new node.
const DISCARDS: usize = 128;

/// The most blocks of a request.
const RUN: u64 = 32;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks that are not zeros, and which write each is from.
type Blocks = BTreeMap<u64, u64>;

/// What should be in the pool.
#[derive(Clone, Debug)]
pub struct Kept {
    volume: VolumeId,
    now: Blocks,
    snapshots: Vec<(SnapshotId, Blocks)>,
    clone: Option<(VolumeId, Blocks)>,
    /// The last write.
    stamp: u64,
}

/// A pool that is filled.
pub struct Life {
    store: Store<TapeDisk>,
    exec: Exec,
    kept: Kept,
    names: u64,
}

type Done = Result<(), String>;

impl Life {
    pub async fn begin(store: Store<TapeDisk>, exec: Exec) -> Result<Self, String> {
        let made = store.create_volume("v0", VOLUME * BLOCK).await;
        let volume = made.map_err(|error| format!("the first volume failed: {error:?}"))?;
        let kept = Kept {
            volume: volume.id,
            now: Blocks::new(),
            snapshots: Vec::new(),
            clone: None,
            stamp: 0,
        };
        Ok(Self::go_on(store, exec, kept))
    }

    pub fn go_on(store: Store<TapeDisk>, exec: Exec, kept: Kept) -> Self {
        Self {
            store,
            exec,
            kept,
            names: 0,
        }
    }

    /// Makes all of it durable: what the next start must find.
    pub async fn flush(self) -> Result<Kept, String> {
        let flushed = self.store.flush().await;
        flushed.map_err(|error| format!("a flush failed: {error:?}"))?;
        Ok(self.kept)
    }

    fn next_name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    /// Writes blocks that are zeros until there is no space.
    pub async fn fill(&mut self, filling: Filling, round: usize) -> Done {
        let count = match filling {
            Filling::Runs => RUN,
            Filling::Scattered | Filling::Worn => 1,
        };
        let mut written = 0;
        for number in 0..VOLUME / count {
            let lba = match filling {
                Filling::Runs => number * RUN,
                Filling::Scattered | Filling::Worn => number % LEAVES * LEAF + number / LEAVES,
            };
            if self.kept.now.range(lba..lba + count).next().is_some() {
                continue;
            }
            if !self.write(lba, count).await? {
                let enough = DRIVE / 2;
                return match (round, written < enough) {
                    (0, true) => Err(format!("refused after {written} blocks, without reason")),
                    _ => Ok(()),
                };
            }
            written += count;
        }
        Err("a volume larger than the pool was filled".to_string())
    }

    /// Writes over the same blocks as often as the drives have them.
    pub async fn wear(&mut self) -> Done {
        for number in 0..2 * DRIVE / RUN {
            if !self.write(number % 64 * RUN, RUN).await? {
                return Err("refused while nearly all is free".to_string());
            }
        }
        Ok(())
    }

    /// Writes; false when there is no space.
    async fn write(&mut self, lba: u64, count: u64) -> Result<bool, String> {
        let first = self.kept.stamp + 1;
        self.kept.stamp += count;
        let (span, buf) = content(lba, count, first);
        let result = self.store.write(self.kept.volume, span, buf).await;
        self.note(result, lba, count, first)
    }

    /// Notes what became of a write.
    fn note(
        &mut self,
        result: Result<(), StoreError>,
        lba: u64,
        count: u64,
        first: u64,
    ) -> Result<bool, String> {
        match result {
            Ok(()) => {
                self.kept.now.extend((lba..lba + count).zip(first..));
                Ok(true)
            }
            Err(StoreError::NoSpace) => Ok(false),
            Err(error) => Err(format!(
                "a write of {count} blocks at {lba} failed: {error:?}"
            )),
        }
    }

    /// Discards; false when there is no space for that.
    async fn discard(&mut self, lba: u64, count: u64) -> Result<bool, String> {
        let (at, len) = (lba * BLOCK, count * BLOCK);
        match self.store.discard(self.kept.volume, at, len).await {
            Ok(()) => {
                let mut from = self.kept.now.split_off(&lba);
                let mut behind = from.split_off(&(lba + count));
                self.kept.now.append(&mut behind);
                Ok(true)
            }
            Err(StoreError::NoSpace) => Ok(false),
            Err(error) => Err(format!("a discard of {count} at {lba} failed: {error:?}")),
        }
    }

    /// The first block in use of each leaf that has one.
    fn one_of_each_leaf(&self) -> Vec<u64> {
        let first = |leaf: u64| {
            let mut blocks = self.kept.now.range(leaf * LEAF..(leaf + 1) * LEAF);
            blocks.next().map(|(lba, _)| *lba)
        };
        (0..LEAVES).filter_map(first).collect()
    }

    pub async fn go_through(&mut self, keeping: Keeping, event: Event) -> Done {
        if keeping != Keeping::Nothing {
            self.snapshot().await?;
        }
        if keeping == Keeping::Clone && self.kept.clone.is_none() {
            let (id, blocks) = self.kept.snapshots[0].clone();
            let name = self.next_name();
            let made = self.store.clone_snapshot(id, &name).await;
            let made = made.map_err(|error| format!("a clone failed: {error:?}"))?;
            self.kept.clone = Some((made.id, blocks));
        }
        match event {
            Event::Discards => self.discard_some().await?,
            Event::MoreDiscards => {
                for _ in 0..3 {
                    for lba in self.one_of_each_leaf() {
                        self.discard(lba, 1).await?;
                    }
                    self.rest().await?;
                }
            }
            Event::DiscardAll => self.must_discard(0, VOLUME).await?,
            Event::Overwrites => {
                for lba in self.one_of_each_leaf() {
                    self.write(lba, 1).await?;
                }
            }
            Event::Together => self.write_together().await?,
            Event::Snapshots => self.take_many().await?,
            Event::Delete => self.replace().await?,
        }
        while let Some((id, _)) = self.kept.snapshots.pop() {
            self.delete_snapshot(id).await?;
        }
        Ok(())
    }

    async fn discard_some(&mut self) -> Done {
        for lba in self.one_of_each_leaf().into_iter().take(DISCARDS) {
            self.must_discard(lba, 1).await?;
        }
        Ok(())
    }

    async fn must_discard(&mut self, lba: u64, count: u64) -> Done {
        match self.discard(lba, count).await? {
            true => Ok(()),
            false => Err(format!("a discard of {count} blocks at {lba} was refused")),
        }
    }

    async fn write_together(&mut self) -> Done {
        self.discard_some().await?;
        self.rest().await?;
        let mut places = Vec::new();
        let mut writes = Vec::new();
        for lba in (0..VOLUME).rev().step_by(RUN as usize).take(16) {
            let (lba, first) = (lba + 1 - RUN, self.kept.stamp + 1);
            self.kept.stamp += RUN;
            let (span, buf) = content(lba, RUN, first);
            places.push((lba, first));
            writes.push(self.store.write(self.kept.volume, span, buf));
        }
        let results = join_all(writes).await;
        for (result, (lba, first)) in results.into_iter().zip(places) {
            self.note(result, lba, RUN, first)?;
        }
        Ok(())
    }

    async fn snapshot(&mut self) -> Done {
        let name = self.next_name();
        let made = self.store.create_snapshot(self.kept.volume, &name).await;
        let made = made.map_err(|error| format!("a snapshot failed: {error:?}"))?;
        let now = self.kept.now.clone();
        self.kept.snapshots.push((made.id, now));
        Ok(())
    }

    /// Each snapshot keeps the nodes that the last change gave up.
    async fn take_many(&mut self) -> Done {
        for _ in 0..40 {
            self.snapshot().await?;
            let mut any = false;
            for lba in self.one_of_each_leaf().into_iter().take(DISCARDS) {
                any |= self.discard(lba, 1).await?;
            }
            if !any {
                break;
            }
        }
        Ok(())
    }

    async fn delete_snapshot(&mut self, id: SnapshotId) -> Done {
        let deleted = self.store.delete_snapshot(id).await;
        deleted.map_err(|error| format!("deleting a snapshot failed: {error:?}"))
    }

    async fn delete_volume(&mut self, id: VolumeId) -> Done {
        let deleted = self.store.delete_volume(id).await;
        deleted.map_err(|error| format!("deleting a volume failed: {error:?}"))
    }

    async fn replace(&mut self) -> Done {
        self.delete_volume(self.kept.volume).await?;
        self.kept.snapshots.clear();
        self.kept.now.clear();
        let name = self.next_name();
        let made = self.store.create_volume(&name, VOLUME * BLOCK).await;
        let made = made.map_err(|error| format!("a volume failed: {error:?}"))?;
        self.kept.volume = made.id;
        Ok(())
    }

    /// What was given up comes back.
    pub async fn rest(&mut self) -> Done {
        for _ in 0..4 {
            let written = self.store.checkpoint().await;
            written.map_err(|error| format!("a checkpoint failed: {error:?}"))?;
            self.exec.sleep(Duration::from_secs(3)).await;
        }
        match self.store.pool() {
            pool if pool.state == PoolState::Serving => Ok(()),
            pool => Err(format!("a checkpoint failed: {pool:?}")),
        }
    }

    /// Looks at everything.
    pub async fn compare(&self) -> Done {
        let Kept {
            volume,
            now,
            snapshots,
            clone,
            ..
        } = &self.kept;
        let volumes = clone.iter().map(|(id, blocks)| (*id, blocks));
        let volumes = volumes.chain([(*volume, now)]);
        let volumes = volumes.map(|(id, blocks)| (Source::from(id), blocks));
        let snapshots = snapshots.iter().map(|(id, blocks)| ((*id).into(), blocks));
        for (source, blocks) in volumes.chain(snapshots) {
            for lba in (0..VOLUME).step_by(RUN as usize) {
                self.compare_run(source, lba, blocks).await?;
            }
        }
        Ok(())
    }

    async fn compare_run(&self, source: Source, first: u64, blocks: &Blocks) -> Done {
        let span = span(first, RUN);
        let buf = Buf::from_heap(span.blocks());
        let (buf, read) = self.store.read(source, span, buf).await;
        read.map_err(|error| format!("a read of {source:?} at {first} failed: {error:?}"))?;
        for (index, lba) in (first..first + RUN).enumerate() {
            let mut expected = [0; BLOCK_SIZE];
            if let Some(stamp) = blocks.get(&lba) {
                encode(*stamp, &mut expected);
            }
            if *buf.block(index) != expected {
                let stamp = blocks.get(&lba);
                return Err(format!(
                    "block {lba} of {source:?} is not what {stamp:?} wrote"
                ));
            }
        }
        Ok(())
    }

    /// Deletes everything; all space comes back.
    pub async fn empty(&mut self, free_at_first: u64) -> Done {
        self.delete_volume(self.kept.volume).await?;
        if let Some((id, _)) = self.kept.clone.take() {
            self.delete_volume(id).await?;
        }
        // The paths of empty internal maps stay.
        let wanted = free_at_first.saturating_sub(2 << 20);
        for _ in 0..300 {
            self.rest().await?;
            if self.store.pool().free_bytes >= wanted {
                let closed = self.store.close().await;
                return closed.map_err(|error| format!("a close failed: {error:?}"));
            }
        }
        Err(format!("space does not come back: {:?}", self.store.pool()))
    }
}

/// What a write of these blocks writes, the first of them with this stamp.
fn content(lba: u64, count: u64, first: u64) -> (Span, Buf) {
    let span = span(lba, count);
    let mut buf = Buf::from_heap(span.blocks());
    for (index, stamp) in (first..).take(span.blocks()).enumerate() {
        encode(stamp, buf.block_mut(index));
    }
    (span, buf)
}

fn span(lba: u64, count: u64) -> Span {
    Span {
        offset: lba * BLOCK,
        len: u32::try_from(count * BLOCK).unwrap_or(0),
    }
}
