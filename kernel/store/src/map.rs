//! Looking blocks up: the deltas first, then the map's nodes from the root down.

use arrayvec::ArrayVec;
use world::{BLOCK_SIZE, Buf, Disk, DiskError};

use crate::api::StoreError;
use crate::delta::key;
use crate::layout::{FAN, Kind, Pointer, get_pointer, node_tag};
use crate::lineage::Place;
use crate::shared::{Shared, State};

/// The pointers of one buffer's blocks.
pub type Pointers = ArrayVec<Pointer, { Buf::PAGES_MAX }>;

/// Blocks below a pointer of a node on `level` (0 is the lowest).
pub const fn span(level: u8) -> u64 {
    (FAN as u64).pow(level as u32)
}

/// Blocks that a map of `height` levels can hold.
pub const fn reach(height: u8) -> u64 {
    span(height)
}

/// Which pointer of a node on `level` leads to `lba`.
pub const fn index_in(level: u8, lba: u64) -> usize {
    (lba / span(level) % FAN as u64) as usize
}

/// A node that has to be read before the look-up can go on.
#[derive(Clone, Copy)]
pub struct Missing {
    pub pointer: Pointer,
    pub level: u8,
}

impl State {
    /// What the nodes of the last checkpoint say of `lba`.
    fn find_in_nodes(
        &mut self,
        (root, height): (Pointer, u8),
        lba: u64,
    ) -> Result<Pointer, Missing> {
        let (mut pointer, mut level) = (root, height);
        if lba >= reach(level) {
            return Ok(Pointer::NEVER);
        }
        while level > 0 && pointer.kind() == Kind::Node {
            level -= 1;
            let node = self.cache.get(&pointer).ok_or(Missing { pointer, level })?;
            pointer = get_pointer(node, index_in(level, lba));
        }
        Ok(pointer)
    }

    /// The current pointers of `count` blocks from `lba` on, appended to `out`. What is there already is not looked up again.
    fn find_blocks(
        &mut self,
        tree: u64,
        lba: u64,
        count: usize,
        out: &mut Pointers,
    ) -> Result<(), Missing> {
        let layers = self.layers(tree);
        let last = layers.last().and_then(|last| self.trees.get(last));
        let start = last.map_or_else(Default::default, |tree| (tree.root(), tree.height()));
        for at in lba + out.len() as u64..lba + count as u64 {
            let delta = layers
                .iter()
                .find_map(|tree| self.find_delta(key(*tree, at)));
            let pointer = match delta {
                Some(pointer) => pointer,
                None => self.find_in_nodes(start, at)?,
            };
            out.push(pointer);
        }
        Ok(())
    }
}

impl<D: Disk> Shared<D> {
    /// The current pointers of `count` blocks (at most a buffer's) from `lba` on, all of one moment.
    ///
    /// # Errors
    /// A drive's; `NoVolume` when what is looked at was deleted.
    pub async fn lookup(
        &self,
        place: Place,
        lba: u64,
        count: usize,
    ) -> Result<Pointers, StoreError> {
        let mut unreadable = None;
        loop {
            let mut out = Pointers::new();
            let found = {
                let state = &mut *self.state.borrow_mut();
                let tree = state.tree_at(place).ok_or(StoreError::NoVolume)?.id();
                state.find_blocks(tree, lba, count, &mut out)
            };
            let Err(missing) = found else { return Ok(out) };
            if let Err(error) = self.load_node(missing).await {
                // A checkpoint may have freed the node meanwhile; then the next look leads elsewhere.
                if unreadable.replace(missing.pointer) == Some(missing.pointer) {
                    return Err(error);
                }
            }
        }
    }

    /// Reads, verifies and caches a node.
    pub async fn load_node(&self, missing: Missing) -> Result<(), StoreError> {
        let mut buf = self.environment.pool.take(1).await;
        self.read_node(missing, &mut buf).await?;
        let page = &mut buf.pages_mut()[0];
        self.state.borrow_mut().cache.insert(&missing.pointer, page);
        Ok(())
    }

    /// Reads a node from the first replica that holds it undamaged.
    ///
    /// # Errors
    /// `DamagedPool` when no replica does; a drive's own error when one did not answer.
    pub async fn read_node(&self, missing: Missing, buf: &mut Buf) -> Result<(), StoreError> {
        let Missing { pointer, level } = missing;
        let expected = |bytes: &[u8; BLOCK_SIZE]| {
            node_tag(
                self.pool_uuid,
                level,
                pointer.addr(),
                pointer.birth(),
                bytes,
            ) == pointer.tag()
        };
        let mut verdict = StoreError::DamagedPool;
        for replica in self.replicas(pointer.addr())? {
            let (back, result) = self
                .read_replica(replica, pointer.addr(), core::mem::take(buf))
                .await;
            *buf = back;
            if buf.is_empty() {
                *buf = Buf::from_heap(1);
            }
            match result {
                Ok(()) if expected(buf.block(0)) => return Ok(()),
                Ok(()) | Err(DiskError::Media) => log::warn!(
                    "map node {:#x} is damaged on drive {}",
                    pointer.addr(),
                    replica.device
                ),
                // That says nothing about the node.
                Err(error) => verdict = error.into(),
            }
        }
        Err(verdict)
    }
}
