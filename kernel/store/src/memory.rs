//! A placeholder that keeps blocks in memory behind the store's real interface, so that the rooms above can be built.
//! It goes when the store lands.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use world::{BLOCK_SIZE, Buf, Disk, Page};

use crate::{
    Config, Contents, Environment, FormatOptions, PoolInfo, PoolState, Span, StoreError, VolumeId,
    VolumeInfo,
};

/// The block store; clones refer to the same one.
pub struct Store<D> {
    shared: Rc<RefCell<State<D>>>,
}

impl<D> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct State<D> {
    disks: Vec<D>,
    volumes: Vec<VolumeInfo>,
    blocks: BTreeMap<(VolumeId, u64), Box<Page>>,
    records: BTreeMap<String, Vec<u8>>,
    next: u64,
}

impl<D: Disk + 'static> Store<D> {
    /// Tells what a drive holds, reading only.
    ///
    /// # Errors
    /// When the drive cannot be read.
    pub async fn inspect(_disk: &D) -> Result<Contents, StoreError> {
        Ok(Contents::Blank)
    }

    /// Makes a new pool on `disks`, whatever they hold. Costs the same for any size.
    ///
    /// # Errors
    /// A drive that fails or is too small.
    pub async fn format(
        _disks: &[D],
        _environment: &Environment,
        _options: FormatOptions,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// Opens the pool on `disks`, recovers what a power cut left, and starts its background work.
    ///
    /// # Errors
    /// Missing, failing or damaged drives.
    pub async fn open(
        disks: Vec<D>,
        _environment: Environment,
        _config: Config,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            shared: Rc::new(RefCell::new(State {
                disks,
                volumes: Vec::new(),
                blocks: BTreeMap::new(),
                records: BTreeMap::new(),
                next: 16,
            })),
        })
    }

    /// Finishes what runs, writes a checkpoint and refuses everything after.
    ///
    /// # Errors
    /// A drive that fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The drives, in the order of the pool's member table.
    pub fn with_disks<T>(&self, with: impl FnOnce(&[D]) -> T) -> T {
        with(&self.shared.borrow().disks)
    }

    /// Space and state of the pool.
    #[must_use]
    pub fn pool(&self) -> PoolInfo {
        PoolInfo {
            uuid: [0; 16],
            size_bytes: 1 << 33,
            used_bytes: 0,
            free_bytes: 1 << 33,
            pending_bytes: 0,
            reserved_bytes: 0,
            state: PoolState::Serving,
            checkpoints: 0,
            damaged_reads: 0,
        }
    }

    /// All volumes, oldest first.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        self.shared.borrow().volumes.clone()
    }

    /// Looks a volume up by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<VolumeInfo> {
        self.shared
            .borrow()
            .volumes
            .iter()
            .find(|volume| volume.name == name)
            .cloned()
    }

    /// Looks a volume up by number.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.shared
            .borrow()
            .volumes
            .iter()
            .find(|volume| volume.id == id)
            .cloned()
    }

    /// Makes an empty volume; durable when this returns.
    ///
    /// # Errors
    /// A bad or taken name, a bad size, or no space for its entry.
    pub async fn create_volume(
        &self,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        if self.find(name).is_some() {
            return Err(StoreError::NameTaken);
        }
        let mut state = self.shared.borrow_mut();
        state.next += 1;
        let info = VolumeInfo {
            id: VolumeId(state.next),
            name: name.to_string(),
            uuid: [0; 16],
            size_bytes,
            allocated_bytes: 0,
            created_at_nanos: 0,
        };
        state.volumes.push(info.clone());
        Ok(info)
    }

    /// Deletes a volume; gone for the caller at once and durably, its space comes back in the background.
    ///
    /// # Errors
    /// No such volume.
    pub async fn delete_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        let mut state = self.shared.borrow_mut();
        let count = state.volumes.len();
        state.volumes.retain(|volume| volume.id != id);
        if state.volumes.len() == count {
            Err(StoreError::NoVolume)
        } else {
            Ok(())
        }
    }

    /// Makes a volume larger; durable when this returns.
    ///
    /// # Errors
    /// No such volume, or a size below the present one.
    pub async fn grow_volume(&self, id: VolumeId, size_bytes: u64) -> Result<(), StoreError> {
        let mut state = self.shared.borrow_mut();
        let volume = state
            .volumes
            .iter_mut()
            .find(|volume| volume.id == id)
            .ok_or(StoreError::NoVolume)?;
        if size_bytes < volume.size_bytes {
            return Err(StoreError::BadSize);
        }
        volume.size_bytes = size_bytes;
        Ok(())
    }

    /// Reads `span` into the pages of `into` (see [`Span`]); bytes outside the span are arbitrary.
    ///
    /// # Errors
    /// A wrong range, a failing drive, or damaged blocks: never wrong data.
    pub async fn read(
        &self,
        id: VolumeId,
        span: Span,
        mut into: Buf,
    ) -> (Buf, Result<(), StoreError>) {
        let state = self.shared.borrow();
        for index in 0..into.blocks() {
            let at = span.offset / BLOCK_SIZE as u64 + index as u64;
            match state.blocks.get(&(id, at)) {
                Some(page) => into.block_mut(index).copy_from_slice(&page.bytes),
                None => into.block_mut(index).fill(0),
            }
        }
        (into, Ok(()))
    }

    /// Writes `span` from the pages of `from` (see [`Span`]). Durable after a later [`flush`](Self::flush).
    ///
    /// # Errors
    /// A wrong range, a full pool, a failing drive. The old contents stay then.
    pub async fn write(&self, id: VolumeId, span: Span, from: Buf) -> Result<(), StoreError> {
        let mut state = self.shared.borrow_mut();
        let block = BLOCK_SIZE as u64;
        let (first, end) = (span.offset / block, span.offset + u64::from(span.len));
        for index in 0..from.blocks() {
            let start = (first + index as u64) * block;
            let low = span.offset.max(start) - start;
            let high = end.min(start + block) - start;
            let page = state
                .blocks
                .entry((id, first + index as u64))
                .or_insert_with(Page::new_box);
            let range = low as usize..high as usize;
            page.bytes[range.clone()].copy_from_slice(&from.block(index)[range]);
        }
        Ok(())
    }

    /// Turns `len` bytes at `offset` into a hole that reads as zeros and uses no space; partial blocks at the ends are
    /// zeroed. Serves TRIM and WRITE_ZEROES alike. Ordered with writes like a write.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn discard(&self, id: VolumeId, offset: u64, len: u64) -> Result<(), StoreError> {
        let mut at = offset;
        while at < offset + len {
            let blocks = ((offset + len - at).min(4096 - at % 4096)) as u32;
            let mut zeros = Buf::from_heap(1);
            zeros.zero();
            self.write(
                id,
                Span {
                    offset: at,
                    len: blocks,
                },
                zeros,
            )
            .await?;
            at += u64::from(blocks);
        }
        Ok(())
    }

    /// Makes every write, discard and control operation that completed before this call durable.
    ///
    /// # Errors
    /// A failing drive; the pool is read-only then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Reads a record (durable settings of the rooms above), if there is one.
    ///
    /// # Errors
    /// A failing drive or damaged metadata.
    pub async fn record(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.shared.borrow().records.get(key).cloned())
    }

    /// Keeps `value` (at most 3 KiB) under `key` (at most 64 bytes), or forgets the key; durable when this returns.
    ///
    /// # Errors
    /// Too long, a full pool, a failing drive.
    pub async fn set_record(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut state = self.shared.borrow_mut();
        match value {
            Some(value) => state.records.insert(key.to_string(), value.to_vec()),
            None => state.records.remove(key),
        };
        Ok(())
    }
}
