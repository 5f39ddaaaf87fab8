//! A long use of snapshots and clones, with a copy of everything that should be in them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf};

use super::lab::Ram;
use crate::api::{BaseId, SnapshotId, SnapshotInfo, Source, Span, StoreError, VolumeId};
use crate::store::Store;

/// Blocks of a volume at first; some grow.
const BLOCKS: u64 = 10_240;

/// Volumes and snapshots are not more than this.
const MAPS_MAX: usize = 14;

/// A first byte for each block.
pub type Contents = Vec<u8>;

/// A store and what should be in it.
pub struct Play {
    pub store: Store<Ram>,
    state: u64,
    step: u64,
    /// Some are small and dense, so that maps of different heights meet.
    pub contents: BTreeMap<Source, Contents>,
    snapshots: Vec<(VolumeId, SnapshotId)>,
    /// What the origins of adopted volumes have.
    pub origins: BTreeMap<BaseId, Contents>,
}

impl Play {
    pub fn new(store: Store<Ram>, seed: u64) -> Self {
        Self {
            store,
            state: seed,
            step: 0,
            contents: BTreeMap::new(),
            snapshots: Vec::new(),
            origins: BTreeMap::new(),
        }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.state >> 33) % below
    }

    fn volumes(&self) -> Vec<VolumeId> {
        let volume = |source: &Source| match source {
            Source::Volume(id) => Some(*id),
            Source::Snapshot(_) => None,
        };
        self.contents.keys().filter_map(volume).collect()
    }

    /// Does `steps` things; a full pool and a full memory are no reason to stop.
    pub async fn go_on(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step += 1;
            match self.do_one().await {
                Ok(()) | Err(StoreError::NoSpace) => {}
                Err(error) => panic!("step {}: {error}", self.step),
            }
        }
    }

    async fn do_one(&mut self) -> Result<(), StoreError> {
        let volumes = self.volumes();
        if volumes.is_empty() {
            return self.create().await;
        }
        let volume = volumes[self.random(volumes.len() as u64) as usize];
        let has_room = self.contents.len() < MAPS_MAX;
        let name = format!("n{}-{}", self.state, self.step);
        match self.random(100) {
            0..50 => self.write(volume).await,
            50..60 => self.discard(volume).await,
            60..70 if has_room => {
                let made = self.store.create_snapshot(volume, &name).await?;
                self.snapshots.push((volume, made.id));
                let now = self.contents[&Source::Volume(volume)].clone();
                self.contents.insert(Source::Snapshot(made.id), now);
                Ok(())
            }
            70..74 if has_room && !self.snapshots.is_empty() => {
                let (_, snapshot) = self.any_snapshot();
                let made = self.store.clone_snapshot(snapshot, &name).await?;
                let now = self.contents[&Source::Snapshot(snapshot)].clone();
                self.contents.insert(Source::Volume(made.id), now);
                Ok(())
            }
            74..78 if !self.snapshots.is_empty() => {
                let (volume, snapshot) = self.any_snapshot();
                self.store.rollback(volume, snapshot).await?;
                let then = self.contents[&Source::Snapshot(snapshot)].clone();
                self.contents.insert(Source::Volume(volume), then);
                Ok(())
            }
            78..86 if !self.snapshots.is_empty() => {
                let (_, snapshot) = self.any_snapshot();
                self.store.delete_snapshot(snapshot).await?;
                self.snapshots.retain(|(_, id)| *id != snapshot);
                self.contents.remove(&Source::Snapshot(snapshot));
                Ok(())
            }
            86 => self.delete(volume).await,
            87 if has_room && self.random(2) == 0 => self.adopt().await,
            87 if has_room => self.create().await,
            88..90 => self.grow(volume).await,
            90 => self.store.rename_volume(volume, &name).await.map(drop),
            91 if !self.snapshots.is_empty() => {
                let (_, snapshot) = self.any_snapshot();
                self.store.rename_snapshot(snapshot, &name).await.map(drop)
            }
            92 if !self.snapshots.is_empty() => self.move_snapshot(volume).await,
            93 if has_room => self.keep_for_another(volume).await,
            92..95 => self.store.checkpoint().await,
            95..98 if !self.origins.is_empty() => self.arrive().await,
            _ => self.store.flush().await,
        }
    }

    /// A snapshot becomes this volume's.
    async fn move_snapshot(&mut self, to: VolumeId) -> Result<(), StoreError> {
        let (_, snapshot) = self.any_snapshot();
        let mut label = self.store.snapshot(snapshot).unwrap().label();
        label.name = self.new_name();
        label.created_at_nanos = self.random(1000);
        let moved = self.store.move_snapshot(snapshot, to, &label).await?;
        assert_eq!((moved.volume, moved.label()), (to, label));
        let of = self.snapshots.iter_mut().find(|(_, id)| *id == snapshot);
        of.unwrap().0 = to;
        let all = self.store.snapshots(to);
        assert!(all.is_sorted_by_key(SnapshotInfo::order));
        assert!(all.iter().any(|info| info.id == snapshot));
        Ok(())
    }

    /// A volume is as it was when it was smaller, and that is kept as a snapshot of some volume.
    async fn keep_for_another(&mut self, volume: VolumeId) -> Result<(), StoreError> {
        let block = BLOCK_SIZE as u64;
        let blocks = self.contents[&Source::Volume(volume)].len() as u64;
        let left = 1 + self.random(blocks - 1);
        let (offset, len) = (left * block, (blocks - left) * block);
        self.store.discard(volume, offset, len).await?;
        self.fill(volume, left, blocks - left, 0);
        let name = self.new_name();
        let made = self.store.create_snapshot(volume, &name).await?;
        self.snapshots.push((volume, made.id));
        let mut now = self.contents[&Source::Volume(volume)].clone();
        let mut label = made.label();
        label.size_bytes = left * block;
        let volumes = self.volumes();
        let to = volumes[self.random(volumes.len() as u64) as usize];
        if to != volume {
            self.store.move_snapshot(made.id, to, &label).await?;
            self.snapshots.last_mut().unwrap().0 = to;
            now.truncate(left as usize);
        }
        self.contents.insert(Source::Snapshot(made.id), now);
        Ok(())
    }

    fn any_snapshot(&mut self) -> (VolumeId, SnapshotId) {
        let index = self.random(self.snapshots.len() as u64) as usize;
        self.snapshots[index]
    }

    /// A name that nothing has.
    pub fn new_name(&self) -> String {
        format!("v{}-{}", self.state, self.step)
    }

    async fn create(&mut self) -> Result<(), StoreError> {
        let name = self.new_name();
        let size = BLOCKS * BLOCK_SIZE as u64;
        let made = self.store.create_volume(&name, size).await?;
        let empty = vec![0; BLOCKS as usize];
        self.contents.insert(Source::Volume(made.id), empty);
        Ok(())
    }

    async fn grow(&mut self, volume: VolumeId) -> Result<(), StoreError> {
        let contents = &self.contents[&Source::Volume(volume)];
        let blocks = (contents.len() as u64 * 2).min(4 * BLOCKS);
        let size = blocks * BLOCK_SIZE as u64;
        self.store.grow_volume(volume, size).await?;
        if let Some(contents) = self.contents.get_mut(&Source::Volume(volume)) {
            contents.resize(blocks as usize, 0);
        }
        Ok(())
    }

    async fn delete(&mut self, volume: VolumeId) -> Result<(), StoreError> {
        self.store.delete_volume(volume).await?;
        self.contents.remove(&Source::Volume(volume));
        let gone: Vec<SnapshotId> = self
            .snapshots
            .extract_if(.., |(of, _)| *of == volume)
            .map(|(_, id)| id)
            .collect();
        for id in gone {
            self.contents.remove(&Source::Snapshot(id));
        }
        Ok(())
    }

    /// Blocks close to each other, mostly: in few leaves, which several maps change.
    fn place(&mut self, volume: VolumeId, most: u64) -> (u64, u64) {
        let size = self.contents[&Source::Volume(volume)].len() as u64;
        let reach = [100, 600, 600, size][self.random(4) as usize].min(size);
        let first = self.random(reach);
        (first, (1 + self.random(most)).min(size - first))
    }

    async fn write(&mut self, volume: VolumeId) -> Result<(), StoreError> {
        let (first, blocks) = self.place(volume, 20);
        let value = (self.random(255) + 1) as u8;
        let mut buf = Buf::from_heap(blocks as usize);
        for block in 0..blocks as usize {
            buf.block_mut(block).fill(value);
        }
        let span = Span {
            offset: first * BLOCK_SIZE as u64,
            len: blocks as u32 * BLOCK_SIZE as u32,
        };
        self.store.write(volume, span, buf).await?;
        self.fill(volume, first, blocks, value);
        Ok(())
    }

    async fn discard(&mut self, volume: VolumeId) -> Result<(), StoreError> {
        let most = [30, 300, 6000][self.random(3) as usize];
        let (first, blocks) = self.place(volume, most);
        let (offset, len) = (first * BLOCK_SIZE as u64, blocks * BLOCK_SIZE as u64);
        self.store.discard(volume, offset, len).await?;
        self.fill(volume, first, blocks, 0);
        Ok(())
    }

    fn fill(&mut self, volume: VolumeId, first: u64, blocks: u64, value: u8) {
        let contents = self.contents.get_mut(&Source::Volume(volume)).unwrap();
        contents[first as usize..][..blocks as usize].fill(value);
    }

    /// Reads everything, and compares.
    pub async fn compare(&self) {
        for (source, contents) in &self.contents {
            for (index, expected) in contents.chunks(32).enumerate() {
                let span = Span {
                    offset: index as u64 * 32 * BLOCK_SIZE as u64,
                    len: (expected.len() * BLOCK_SIZE) as u32,
                };
                let into = Buf::from_heap(expected.len());
                let (buf, result) = self.store.read(*source, span, into).await;
                if result == Err(StoreError::Absent) {
                    self.compare_absent(*source, span, expected).await;
                    continue;
                }
                result.unwrap();
                let found: Vec<u8> = (0..expected.len()).map(|at| buf.block(at)[17]).collect();
                assert_eq!(found, expected, "{source:?} from block {} on", index * 32);
            }
        }
    }
}
