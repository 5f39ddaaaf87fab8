//! Changing a map: a path of open nodes moves forward through it, nodes that changed are written to new places.
//!
//! Changes come in ascending order, so each node is read and written at most once and only one node of each level is in
//! memory.

use alloc::boxed::Box;
use alloc::vec::Vec;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk, Page};

use crate::api::StoreError;
use crate::layout::{
    Class, FAN, Kind, POINTER_SIZE, Pointer, PoolAddr, get_pointer, get_pointer_in, node_tag,
    set_pointer,
};
use crate::lineage::Bound;
use crate::map::{Missing, index_in, reach, span};
use crate::reclaim::Item;
use crate::shared::Shared;
use crate::space::{Runs, Shortage, Space};

/// Nodes that are written together.
const BATCH: usize = 32;

/// Pages for what checkpoints write: a batch, a copy of it for each replica, and a frame of the journal on each of some drives.
/// Nobody waits for one while holding what another one waits for, except that a batch never takes more than its part.
pub const META_PAGES: usize = 4 * BATCH;

/// Other tasks get a turn after this many nodes.
const NODES_PER_TURN: usize = 8;

/// New blocks of metadata on their way to the drives.
#[derive(Default)]
pub struct Batch {
    waiting: Vec<(PoolAddr, Buf)>,
    since_turn: usize,
}

/// A node that is being changed.
struct Open {
    level: u8,
    /// First block of the map below it.
    first: u64,
    page: Box<Page>,
    old: Pointer,
    changed: bool,
}

/// A map that is being changed.
pub struct Update<'a, D> {
    shared: &'a Shared<D>,
    batch: &'a mut Batch,
    tree: u64,
    /// What is older belongs to an ancestor and stays in use.
    bound: Bound,
    pub root: Pointer,
    pub height: u8,
    /// Whether what was never written is something else than zeros there.
    is_base: bool,
    /// From the root down.
    path: Vec<Open>,
    /// Pages of nodes that were closed, for the next ones.
    spare: Vec<Box<Page>>,
    /// Data blocks that came and went.
    pub added: u64,
    pub removed: u64,
}

impl<D: Disk> Shared<D> {
    /// A block for metadata of the running checkpoint.
    pub async fn allocate_meta(&self) -> Result<PoolAddr, StoreError> {
        loop {
            let mut runs = Runs::new();
            let got = {
                let mut state = self.state.borrow_mut();
                let got = state.space.allocate(Class::Meta, 1, &mut runs);
                state.journal_new_groups();
                if let Some(run) = runs.first() {
                    state.space.settle(run.addr);
                }
                got
            };
            match got {
                Ok(_) => return Ok(runs[0].addr),
                Err(Shortage::Load(group)) => self.load_group(group).await?,
                Err(Shortage::Open | Shortage::Full) => return Err(StoreError::NoSpace),
            }
        }
    }

    /// Queues a block of metadata for writing.
    pub async fn queue_meta(
        &self,
        batch: &mut Batch,
        addr: PoolAddr,
        bytes: &[u8; BLOCK_SIZE],
    ) -> Result<(), StoreError> {
        let mut buf = self.meta_pages.take(1).await;
        buf.block_mut(0).copy_from_slice(bytes);
        batch.waiting.push((addr, buf));
        batch.since_turn += 1;
        if batch.waiting.len() >= BATCH {
            self.write_batch(batch).await?;
        } else if batch.since_turn >= NODES_PER_TURN {
            batch.since_turn = 0;
            self.environment.exec.yield_now().await;
        }
        Ok(())
    }

    /// Writes everything queued, neighbours together.
    pub async fn write_batch(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.waiting.sort_unstable_by_key(|(addr, _)| *addr);
        let mut runs: Vec<(PoolAddr, Buf)> = Vec::new();
        for (addr, buf) in batch.waiting.drain(..) {
            match runs.last_mut() {
                // No run leaves its group: each begins with two blocks that are never handed out.
                Some((first, run)) if *first + run.blocks() as u64 == addr => run.append(buf),
                _ => runs.push((addr, buf)),
            }
        }
        let writes = { runs.into_iter() }.map(|(addr, buf)| self.write_replicas(addr, buf));
        join_all(writes).await.into_iter().collect()
    }
}

impl<'a, D: Disk> Update<'a, D> {
    pub fn new(
        shared: &'a Shared<D>,
        batch: &'a mut Batch,
        tree: u64,
        (root, height): (Pointer, u8),
    ) -> Self {
        let (bound, is_base) = {
            let state = shared.state.borrow();
            let is_base = state.directory.bases.contains(&tree);
            let fills_up = shared.config.mutants.base_with_filler();
            (state.bound(tree), is_base && !fills_up)
        };
        Self {
            shared,
            batch,
            tree,
            bound,
            root,
            height,
            is_base,
            path: Vec::new(),
            spare: Vec::new(),
            added: 0,
            removed: 0,
        }
    }

    /// Puts a block of data at `lba`; the block there before is freed if it is the map's own.
    pub async fn set(&mut self, lba: u64, pointer: Pointer) -> Result<(), StoreError> {
        self.reach_leaf(lba, pointer.birth()).await?;
        let state = &mut *self.shared.state.borrow_mut();
        self.set_in_leaf(&mut state.space, lba, pointer)
    }

    /// Opens the leaf of `lba`, which will have `birth`.
    pub async fn reach_leaf(&mut self, lba: u64, birth: u64) -> Result<(), StoreError> {
        self.grow(lba, birth).await?;
        self.leave(0, lba).await?;
        while self.path.last().is_none_or(|open| open.level > 0) {
            let child = self.child(lba);
            self.open(child, lba).await?;
        }
        Ok(())
    }

    /// As [`set`](Self::set), in the leaf that was [reached](Self::reach_leaf).
    pub fn set_in_leaf(
        &mut self,
        space: &mut Space,
        lba: u64,
        pointer: Pointer,
    ) -> Result<(), StoreError> {
        let index = index_in(0, lba);
        let Some(leaf) = self.path.last_mut() else {
            return Err(StoreError::DamagedPool);
        };
        debug_assert!(leaf.level == 0 && leaf.first == lba - index as u64);
        let old = get_pointer(&leaf.page.bytes, index);
        // A hole may look younger than it is: a node that is all holes becomes one hole of the newest birth.
        if old.kind() == Kind::Data && old.birth() >= pointer.birth() {
            log::error!(
                "block {lba} of map {} is younger than what replaces it",
                self.tree
            );
            return Err(StoreError::DamagedPool);
        }
        set_pointer(&mut leaf.page.bytes, index, &pointer);
        leaf.changed = true;
        if old.kind() != Kind::Data {
            self.added += 1;
        } else if old.birth() > self.bound.at(lba + 1) {
            space.free(old.addr());
        }
        Ok(())
    }

    /// Frees a block whose place ends at `end`, unless it belongs to an ancestor.
    fn release(&self, old: &Pointer, end: u64) {
        if old.birth() > self.bound.at(end) {
            self.shared.state.borrow_mut().space.free(old.addr());
        }
    }

    /// Makes a hole of what is at `lba`, as much at once as lies in one piece below `end`. Returns where to go on.
    pub async fn erase(&mut self, lba: u64, end: u64, birth: u64) -> Result<u64, StoreError> {
        if self.is_base {
            // Zeros are something that is known.
            self.grow(end - 1, birth).await?;
        }
        if self.height == 0 || lba >= reach(self.height) {
            return Ok(end);
        }
        let mut level = self.height - 1;
        let mutants = self.shared.config.mutants;
        let too_much = u64::from(mutants.erase_too_much());
        let is_whole =
            |level| lba.is_multiple_of(span(level)) && lba + span(level) <= end + too_much;
        let is_split = |level| {
            self.bound.is_split_in(lba, lba + span(level)) && !mutants.detach_across_cursor()
        };
        // What is detached has one bound.
        while !is_whole(level) || is_split(level) {
            level -= 1;
        }
        self.leave(level, lba).await?;
        while self.path.last().is_none_or(|open| open.level > level) {
            let child = self.child(lba);
            if is_zero(&child, self.is_base) {
                // Nothing below: the whole span of this pointer is a hole already.
                let spanned = span(self.path.last().map_or(self.height, |open| open.level));
                return Ok(((lba / spanned + 1) * spanned).min(end));
            }
            self.open(child, lba).await?;
        }
        let Some(node) = self.path.last_mut() else {
            return Err(StoreError::DamagedPool);
        };
        let index = index_in(level, lba);
        let old = get_pointer(&node.page.bytes, index);
        if !is_zero(&old, self.is_base) {
            let birth = if mutants.hole_without_birth() {
                0
            } else {
                birth
            };
            set_pointer(&mut node.page.bytes, index, &Pointer::hole(birth));
            node.changed = true;
            match old.kind() {
                Kind::Node => self.detach(old, level - 1, lba).await?,
                // That is the base's, or nobody's.
                Kind::Remote | Kind::Never => {}
                _ => {
                    self.release(&old, lba + 1);
                    self.removed += u64::from(!mutants.erased_still_counted());
                }
            }
        }
        Ok(lba + span(level))
    }

    /// Hands over the map's own part of a subtree to be taken apart. `level` is that of its root.
    async fn detach(&mut self, root: Pointer, level: u8, lba: u64) -> Result<(), StoreError> {
        self.removed += self.shared.count_blocks(root, level).await?;
        let mut boundary = self.bound.at(lba + span(level + 1));
        if self.shared.config.mutants.no_boundary() {
            boundary = 0;
        }
        if root.birth() > boundary {
            let item = Item::new(root, level, self.tree, boundary);
            self.shared.state.borrow_mut().reclaim.push(item);
        }
        Ok(())
    }

    /// Closes what is open. `root` and `height` are valid afterwards.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        while !self.path.is_empty() {
            self.close().await?;
        }
        if self.root.is_hole() && self.root.birth() == 0 {
            self.height = 0;
        }
        Ok(())
    }

    /// Adds levels until `lba`, which will have `birth`, is within reach.
    async fn grow(&mut self, lba: u64, birth: u64) -> Result<(), StoreError> {
        while self.height == 0 || lba >= reach(self.height) {
            while !self.path.is_empty() {
                self.close().await?;
            }
            if self.root != Pointer::NEVER {
                let mut page = Page::new_box();
                set_pointer(&mut page.bytes, 0, &self.root);
                // A level between the old root and the new one must be younger than the parent, too, or nobody owns it. A base has no
                // parent, and holes would be zeros there.
                if !self.is_base && !self.shared.config.mutants.grow_without_filler() {
                    set_pointer(&mut page.bytes, FAN - 1, &Pointer::hole(birth));
                }
                let level = self.height;
                let old = Pointer::NEVER;
                self.path.push(Open {
                    level,
                    first: 0,
                    page,
                    old,
                    changed: true,
                });
            }
            self.height += 1;
        }
        Ok(())
    }

    /// Closes nodes below `level` and nodes that `lba` is not in.
    async fn leave(&mut self, level: u8, lba: u64) -> Result<(), StoreError> {
        while let Some(open) = self.path.last() {
            let inside = lba >= open.first && lba - open.first < span(open.level + 1);
            if inside && open.level >= level {
                break;
            }
            self.close().await?;
        }
        Ok(())
    }

    /// The pointer that leads on towards `lba` from the lowest open node.
    fn child(&self, lba: u64) -> Pointer {
        match self.path.last() {
            Some(open) => get_pointer(&open.page.bytes, index_in(open.level, lba)),
            None => self.root,
        }
    }

    /// Opens the node that `pointer` leads to, or makes one where there is none.
    async fn open(&mut self, pointer: Pointer, lba: u64) -> Result<(), StoreError> {
        let level = self.path.last().map_or(self.height, |open| open.level) - 1;
        let mut page = self.spare.pop().unwrap_or_else(Page::new_box);
        match pointer.kind() {
            Kind::Node => {
                self.shared
                    .copy_node(Missing { pointer, level }, &mut page)
                    .await?
            }
            // A hole stands for holes of the same birth everywhere below, and so does what is elsewhere.
            Kind::Hole | Kind::Remote => {
                (0..FAN).for_each(|index| set_pointer(&mut page.bytes, index, &pointer));
            }
            Kind::Never => page.bytes.fill(0),
            Kind::Data | Kind::Unknown => return Err(StoreError::DamagedPool),
        }
        let first = lba / span(level + 1) * span(level + 1);
        self.path.push(Open {
            level,
            first,
            page,
            old: pointer,
            changed: false,
        });
        Ok(())
    }

    /// Writes the lowest open node if it changed, and tells its parent.
    async fn close(&mut self) -> Result<(), StoreError> {
        let Some(mut open) = self.path.pop() else {
            return Ok(());
        };
        if !open.changed {
            self.spare.push(open.page);
            return Ok(());
        }
        if open.old.kind() == Kind::Node {
            self.release(&open.old, open.first + span(open.level + 1));
            if self.shared.config.mutants.nodes_free_at_once() {
                let space = &mut self.shared.state.borrow_mut().space;
                space.make_available(open.old.addr());
            }
        }
        let Summary {
            birth,
            blocks,
            empty,
        } = summary(&open.page.bytes, self.is_base);
        let pointer = if empty {
            if birth == 0 {
                Pointer::NEVER
            } else {
                Pointer::hole(birth)
            }
        } else {
            let addr = self.shared.allocate_meta().await?;
            let tag = node_tag(
                self.shared.pool_uuid,
                open.level,
                addr,
                birth,
                &open.page.bytes,
            );
            let uncounted = self.shared.config.mutants.no_leaf_count();
            let pointer = if open.level == 0 && !uncounted {
                Pointer::leaf(addr, birth, tag, blocks)
            } else {
                Pointer::node(addr, birth, tag)
            };
            self.shared
                .queue_meta(self.batch, addr, &open.page.bytes)
                .await?;
            self.shared
                .state
                .borrow_mut()
                .cache
                .insert(&pointer, &mut open.page);
            pointer
        };
        match self.path.last_mut() {
            Some(parent) => {
                let index = index_in(parent.level, open.first);
                set_pointer(&mut parent.page.bytes, index, &pointer);
                parent.changed = true;
            }
            None => self.root = pointer,
        }
        self.spare.push(open.page);
        Ok(())
    }
}

/// What a node's own pointer says of it.
struct Summary {
    /// The newest birth in it.
    birth: u64,
    /// Its blocks of data.
    blocks: u8,
    /// Whether it holds nothing but holes.
    empty: bool,
}

/// Whether a pointer says that all below it is zeros; in a base, what was never written is not known.
fn is_zero(pointer: &Pointer, is_base: bool) -> bool {
    match pointer.kind() {
        Kind::Never => !is_base,
        kind => kind == Kind::Hole,
    }
}

fn summary(node: &[u8; BLOCK_SIZE], is_base: bool) -> Summary {
    let (mut birth, mut blocks, mut holes) = (0, 0, 0);
    let (pointers, _) = node.as_chunks::<POINTER_SIZE>();
    for pointer in pointers {
        let pointer = get_pointer_in(pointer);
        birth = birth.max(pointer.birth());
        blocks += u8::from(pointer.kind() == Kind::Data);
        holes += u8::from(is_zero(&pointer, is_base));
    }
    Summary {
        birth,
        blocks,
        empty: usize::from(holes) == FAN,
    }
}
