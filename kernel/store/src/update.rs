//! Changing a map: a path of open nodes moves forward through it, nodes that changed are written to new places.
//!
//! Changes come in ascending order, so each node is read and written at most once and only one node of each level is in
//! memory.

use alloc::boxed::Box;
use alloc::vec::Vec;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk, Page};

use crate::api::StoreError;
use crate::layout::{Class, FAN, Kind, Pointer, PoolAddr, get_pointer, node_tag, set_pointer};
use crate::map::{Missing, index_in, reach, span};
use crate::reclaim::Item;
use crate::shared::Shared;
use crate::space::{Runs, Shortage};

/// Nodes that are written together.
const BATCH: usize = 32;

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
    pub root: Pointer,
    pub height: u8,
    /// From the root down.
    path: Vec<Open>,
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
        let mut buf = Buf::from_heap(1);
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

    /// Writes everything queued.
    pub async fn write_batch(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let writes = batch
            .waiting
            .drain(..)
            .map(|(addr, buf)| self.write_replicas(addr, buf));
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
        Self {
            shared,
            batch,
            tree,
            root,
            height,
            path: Vec::new(),
            added: 0,
            removed: 0,
        }
    }

    /// Puts a block of data at `lba`; the block there before is freed.
    pub async fn set(&mut self, lba: u64, pointer: Pointer) -> Result<(), StoreError> {
        self.grow(lba).await?;
        self.leave(0, lba).await?;
        while self.path.last().is_none_or(|open| open.level > 0) {
            let child = self.child(lba);
            self.open(child, lba).await?;
        }
        let index = index_in(0, lba);
        let Some(leaf) = self.path.last_mut() else {
            return Err(StoreError::DamagedPool);
        };
        let old = get_pointer(&leaf.page.bytes, index);
        if old.birth() >= pointer.birth() {
            log::error!(
                "block {lba} of map {} is younger than what replaces it",
                self.tree
            );
            return Err(StoreError::DamagedPool);
        }
        set_pointer(&mut leaf.page.bytes, index, &pointer);
        leaf.changed = true;
        if old.kind() == Kind::Data {
            self.shared.state.borrow_mut().space.free(old.addr());
        } else {
            self.added += 1;
        }
        Ok(())
    }

    /// Makes a hole of what is at `lba`, as much at once as lies in one piece below `end`. Returns where to go on.
    pub async fn erase(&mut self, lba: u64, end: u64, birth: u64) -> Result<u64, StoreError> {
        if self.height == 0 || lba >= reach(self.height) {
            return Ok(end);
        }
        let mut level = self.height - 1;
        while !lba.is_multiple_of(span(level)) || lba + span(level) > end {
            level -= 1;
        }
        self.leave(level, lba).await?;
        while self.path.last().is_none_or(|open| open.level > level) {
            let child = self.child(lba);
            if child.kind() != Kind::Node {
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
        if !old.is_hole() {
            set_pointer(&mut node.page.bytes, index, &Pointer::hole(birth));
            node.changed = true;
            let mut state = self.shared.state.borrow_mut();
            if old.kind() == Kind::Node {
                let item = Item::new(old, level - 1, self.tree);
                state.reclaim.push(item);
            } else {
                state.space.free(old.addr());
                self.removed += 1;
            }
        }
        Ok(lba + span(level))
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

    /// Adds levels until `lba` is within reach.
    async fn grow(&mut self, lba: u64) -> Result<(), StoreError> {
        while self.height == 0 || lba >= reach(self.height) {
            while !self.path.is_empty() {
                self.close().await?;
            }
            if self.root != Pointer::NEVER {
                let mut page = Page::new_box();
                set_pointer(&mut page.bytes, 0, &self.root);
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
        let mut page = Page::new_box();
        match pointer.kind() {
            Kind::Node => self.load(Missing { pointer, level }, &mut page).await?,
            // A hole stands for holes of the same birth everywhere below.
            Kind::Hole => {
                (0..FAN).for_each(|index| set_pointer(&mut page.bytes, index, &pointer));
            }
            Kind::Never => {}
            Kind::Data | Kind::Remote | Kind::Unknown => return Err(StoreError::DamagedPool),
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

    async fn load(&self, missing: Missing, page: &mut Page) -> Result<(), StoreError> {
        if let Some(node) = self.shared.state.borrow_mut().cache.get(&missing.pointer) {
            page.bytes.copy_from_slice(node);
            return Ok(());
        }
        // Not from the pool: the checkpoint must not wait for pages that its own clients hold.
        let mut buf = Buf::from_heap(1);
        self.shared.read_node(missing, &mut buf).await?;
        page.bytes.copy_from_slice(buf.block(0));
        Ok(())
    }

    /// Writes the lowest open node if it changed, and tells its parent.
    async fn close(&mut self) -> Result<(), StoreError> {
        let Some(mut open) = self.path.pop() else {
            return Ok(());
        };
        if !open.changed {
            return Ok(());
        }
        if open.old.kind() == Kind::Node {
            self.shared.state.borrow_mut().space.free(open.old.addr());
        }
        let (birth, empty) = summary(&open.page.bytes);
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
            let pointer = Pointer::node(addr, birth, tag);
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
        Ok(())
    }
}

/// The newest birth in a node, and whether it holds nothing but holes.
pub fn summary(node: &[u8; BLOCK_SIZE]) -> (u64, bool) {
    (0..FAN)
        .map(|index| get_pointer(node, index))
        .fold((0, true), |(birth, empty), pointer| {
            (birth.max(pointer.birth()), empty && pointer.is_hole())
        })
}
