//! Looking blocks up: the deltas first, then the map's nodes from the root down.

use arrayvec::ArrayVec;
use world::{BLOCK_SIZE, Buf, Disk, DiskError};

use crate::api::StoreError;
use crate::cache::NodeCache;
use crate::delta::key;
use crate::layout::{FAN, Kind, Pointer, get_pointer, node_tag};
use crate::lineage::Place;
use crate::shared::{Shared, State};

/// The pointers of one buffer's blocks.
pub type Pointers = ArrayVec<Pointer, { Buf::PAGES_MAX }>;

/// Bits of a block's number that choose a pointer of a node.
const FAN_BITS: u32 = FAN.trailing_zeros();

/// Blocks below a pointer of a node on `level` (0 is the lowest).
pub const fn span(level: u8) -> u64 {
    1 << (FAN_BITS * level as u32)
}

/// Blocks that a map of `height` levels can hold.
pub const fn reach(height: u8) -> u64 {
    span(height)
}

/// Which pointer of a node on `level` leads to `lba`.
pub const fn index_in(level: u8, lba: u64) -> usize {
    (lba >> (FAN_BITS * level as u32)) as usize % FAN
}

/// A node that has to be read before the look-up can go on.
#[derive(Clone, Copy)]
pub struct Missing {
    pub pointer: Pointer,
    pub level: u8,
}

/// Where the walk from a root ends.
enum Below {
    /// At a pointer.
    Pointer(Pointer),
    /// In a leaf, at this place of the cache.
    Leaf(usize),
}

/// What the nodes of the last checkpoint say of `lba`.
fn walk(cache: &mut NodeCache, (root, height): (Pointer, u8), lba: u64) -> Result<Below, Missing> {
    let (mut pointer, mut level) = (root, height);
    if lba >= reach(level) {
        return Ok(Below::Pointer(Pointer::NEVER));
    }
    while level > 0 && pointer.kind() == Kind::Node {
        level -= 1;
        let place = cache.find(&pointer).ok_or(Missing { pointer, level })?;
        if level == 0 {
            return Ok(Below::Leaf(place));
        }
        pointer = get_pointer(cache.node(place), index_in(level, lba));
    }
    Ok(Below::Pointer(pointer))
}

/// A leaf in the cache: its number in the map, and its place.
type Leaf = (u64, usize);

/// What the nodes of the last checkpoint have at `lba`. Blocks in a row are mostly in one leaf, which is remembered.
fn below(
    cache: &mut NodeCache,
    start: (Pointer, u8),
    leaf: &mut Option<Leaf>,
    lba: u64,
) -> Result<Pointer, Missing> {
    let number = lba / FAN as u64;
    let place = match *leaf {
        Some((of, place)) if of == number => place,
        _ => match walk(cache, start, lba)? {
            Below::Pointer(pointer) => return Ok(pointer),
            Below::Leaf(place) => place,
        },
    };
    *leaf = Some((number, place));
    Ok(get_pointer(cache.node(place), index_in(0, lba)))
}

impl State {
    /// The current pointers of `count` blocks from `lba` on, appended to `out`. What is there already is not looked up again.
    pub fn find_blocks(
        &mut self,
        tree: u64,
        lba: u64,
        count: usize,
        out: &mut Pointers,
    ) -> Result<(), Missing> {
        let (own, inherited);
        let layers = match self.trees.get(&tree) {
            Some(tree) if tree.source.is_none() => {
                own = [tree.id()];
                &own[..]
            }
            _ => {
                inherited = self.layers(tree);
                &inherited
            }
        };
        let last = layers.last().and_then(|last| self.trees.get(last));
        let start = last.map_or_else(Default::default, |tree| (tree.root(), tree.height()));
        let (mut leaf, mut remote_leaf) = (None, (0, None));
        for at in lba + out.len() as u64..lba + count as u64 {
            let delta = layers
                .iter()
                .find_map(|tree| self.find_delta(key(*tree, at)));
            let mut pointer = match delta {
                Some(pointer) => pointer,
                None => below(&mut self.cache, start, &mut leaf, at)?,
            };
            if pointer.kind() == Kind::Remote {
                pointer = self.find_remote(pointer, &mut remote_leaf, at)?;
            }
            out.push(pointer);
        }
        Ok(())
    }

    /// What a remote pointer stands for: what its base has; the same pointer if that is not here yet.
    fn find_remote(
        &mut self,
        remote: Pointer,
        leaf: &mut (u64, Option<Leaf>),
        lba: u64,
    ) -> Result<Pointer, Missing> {
        let base = remote.addr();
        if leaf.0 != base {
            *leaf = (base, None);
        }
        let Some(tree) = self.trees.get(&base) else {
            return Ok(remote);
        };
        let is_zero = lba < tree.known() || lba >= tree.blocks();
        let start = (tree.root(), tree.height());
        let found = match self.find_delta(key(base, lba)) {
            Some(pointer) => pointer,
            None => below(&mut self.cache, start, &mut leaf.1, lba)?,
        };
        Ok(match found.kind() {
            Kind::Never if !is_zero && !self.mutants.remote_reads_zeros() => remote,
            _ => found,
        })
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
        let mut out = Pointers::new();
        self.look_up(place, lba, count, &mut out).await?;
        Ok(out)
    }

    /// As [`lookup`](Self::lookup), in the place of what was in `out`.
    pub async fn look_up(
        &self,
        place: Place,
        lba: u64,
        count: usize,
        out: &mut Pointers,
    ) -> Result<(), StoreError> {
        let mut unreadable = None;
        loop {
            out.clear();
            let found = {
                let state = &mut *self.state.borrow_mut();
                let tree = state.tree_at(place).ok_or(place.missing())?.id();
                state.find_blocks(tree, lba, count, out)
            };
            let Err(missing) = found else { return Ok(()) };
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
