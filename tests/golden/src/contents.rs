//! A pool that is used and remembered at the same time.

use std::collections::BTreeMap;

use offline::{RamDrive, Random};
use store::{Span, Store, StoreError, VolumeId};
use world::{BLOCK_SIZE, Buf};

use crate::manifest::{Contents, Volume};

/// The longest request in bytes.
const REQUEST_MAX: u64 = (Buf::PAGES_MAX * BLOCK_SIZE) as u64;
const SECTOR: u64 = 512;

/// What a volume should hold.
#[derive(Clone, Debug)]
struct Expected {
    id: VolumeId,
    uuid: [u8; 16],
    bytes: Vec<u8>,
    snapshots: BTreeMap<String, Contents>,
    /// Bytes of the snapshots, for clones and rollbacks.
    kept: BTreeMap<String, Vec<u8>>,
}

/// A store, and beside it what its volumes should hold.
pub struct Shadow {
    /// The store.
    pub store: Store<RamDrive>,
    volumes: BTreeMap<String, Expected>,
    /// Makes every write different.
    writes: u64,
}

impl Shadow {
    /// A store without volumes of this kind.
    #[must_use]
    pub fn new(store: Store<RamDrive>) -> Self {
        Self {
            store,
            volumes: BTreeMap::new(),
            writes: 0,
        }
    }

    /// What the volumes should hold, as a manifest says it.
    #[must_use]
    pub fn volumes(&self) -> BTreeMap<String, Volume> {
        let volume = |(name, volume): (&String, &Expected)| {
            let described = Volume {
                contents: Contents::of(volume.uuid, &volume.bytes),
                snapshots: volume.snapshots.clone(),
            };
            (name.clone(), described)
        };
        self.volumes.iter().map(volume).collect()
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// Those of the store, as all of these.
    pub async fn create(&mut self, name: &str, size: u64) -> Result<(), StoreError> {
        let info = self.store.create_volume(name, size).await?;
        let bytes = vec![0; index(size)];
        self.insert(name, info.id, info.uuid, bytes);
        Ok(())
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn grow(&mut self, name: &str, size: u64) -> Result<(), StoreError> {
        self.store.grow_volume(self.id(name), size).await?;
        self.of(name).bytes.resize(index(size), 0);
        Ok(())
    }

    /// Deletes a volume and its snapshots.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete(&mut self, name: &str) -> Result<(), StoreError> {
        self.store.delete_volume(self.id(name)).await?;
        self.volumes.remove(name);
        Ok(())
    }

    /// Keeps volumes as they are at one instant.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn snapshot(&mut self, volumes: &[&str], name: &str) -> Result<(), StoreError> {
        let wanted: Vec<_> = volumes
            .iter()
            .map(|volume| (self.id(volume), name))
            .collect();
        let made = self.store.create_snapshots(&wanted).await?;
        for (volume, info) in volumes.iter().zip(made) {
            let volume = self.of(volume);
            let contents = Contents::of(info.uuid, &volume.bytes);
            volume.snapshots.insert(name.into(), contents);
            volume.kept.insert(name.into(), volume.bytes.clone());
        }
        Ok(())
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_snapshot(&mut self, volume: &str, name: &str) -> Result<(), StoreError> {
        let snapshot = self.snapshot_id(volume, name)?;
        self.store.delete_snapshot(snapshot).await?;
        let volume = self.of(volume);
        volume.snapshots.remove(name);
        volume.kept.remove(name);
        Ok(())
    }

    /// Makes a volume from a snapshot.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn clone_snapshot(
        &mut self,
        volume: &str,
        snapshot: &str,
        name: &str,
    ) -> Result<(), StoreError> {
        let id = self.snapshot_id(volume, snapshot)?;
        let info = self.store.clone_snapshot(id, name).await?;
        let bytes = self.of(volume).kept[snapshot].clone();
        self.insert(name, info.id, info.uuid, bytes);
        Ok(())
    }

    /// Makes a volume what it was.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rollback(&mut self, volume: &str, snapshot: &str) -> Result<(), StoreError> {
        let id = self.snapshot_id(volume, snapshot)?;
        self.store.rollback(self.id(volume), id).await?;
        let volume = self.of(volume);
        volume.bytes = volume.kept[snapshot].clone();
        Ok(())
    }

    /// Writes a range with contents of its own.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&mut self, name: &str, offset: u64, len: u64) -> Result<(), StoreError> {
        self.writes += 1;
        let mut at = offset;
        while at < offset + len {
            let part = (offset + len - at).min(REQUEST_MAX - at % BLOCK_SIZE as u64);
            self.write_part(name, at, part).await?;
            at += part;
        }
        Ok(())
    }

    async fn write_part(&mut self, name: &str, offset: u64, len: u64) -> Result<(), StoreError> {
        // Each sector tells its place and write, sixteen bytes over and over: different everywhere, and small when packed.
        let mut bytes = Vec::with_capacity(index(len));
        for sector in offset / SECTOR..(offset + len) / SECTOR {
            let words = [sector.to_le_bytes(), self.writes.to_le_bytes()];
            bytes.extend_from_slice(&words.concat().repeat(32));
        }
        let span = Span {
            offset,
            len: len as u32,
        };
        let mut buf = Buf::from_heap(span.blocks());
        buf.copy_from(index(offset) % BLOCK_SIZE, &bytes);
        self.store.write(self.id(name), span, buf).await?;
        self.of(name).bytes[index(offset)..index(offset + len)].copy_from_slice(&bytes);
        Ok(())
    }

    /// Turns a range into a hole.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn discard(&mut self, name: &str, offset: u64, len: u64) -> Result<(), StoreError> {
        self.store.discard(self.id(name), offset, len).await?;
        self.of(name).bytes[index(offset)..index(offset + len)].fill(0);
        Ok(())
    }

    /// Some writes and discards of 512 bytes to 32 KiB, all over the first `within` bytes of a volume.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn scatter(
        &mut self,
        name: &str,
        within: u64,
        count: u64,
        seed: u64,
    ) -> Result<(), StoreError> {
        let random = Random::new(seed);
        for _ in 0..count {
            let sectors = 1 + random.below(64).min(random.below(64));
            let mut offset = random.below(within / SECTOR - sectors) * SECTOR;
            if random.once_in(2) {
                offset -= offset % BLOCK_SIZE as u64;
            }
            if random.once_in(6) {
                self.discard(name, offset, sectors * SECTOR).await?;
            } else {
                self.write(name, offset, sectors * SECTOR).await?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, name: &str, id: VolumeId, uuid: [u8; 16], bytes: Vec<u8>) {
        let made = Expected {
            id,
            uuid,
            bytes,
            snapshots: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        self.volumes.insert(name.into(), made);
    }

    fn of(&mut self, name: &str) -> &mut Expected {
        self.volumes.get_mut(name).expect("a volume that was made")
    }

    fn id(&self, name: &str) -> VolumeId {
        self.volumes[name].id
    }

    fn snapshot_id(&self, volume: &str, name: &str) -> Result<store::SnapshotId, StoreError> {
        let info = self.store.find_snapshot(self.id(volume), name);
        Ok(info.ok_or(StoreError::NoSnapshot)?.id)
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("fits into memory")
}
