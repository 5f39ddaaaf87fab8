//! Taking apart what nobody refers to any more, a bounded number of blocks with each checkpoint.
//!
//! Two things are taken apart leaf by leaf: subtrees that were discarded ([`reclaim`](crate::reclaim)), and hidden maps. A hidden
//! map with several children stays, since they share its blocks; with one child, it gives up what that child has not
//! (it *collapses*); with none, everything that is its own. Cursors stop only at ends of leaves and of equal subtrees and are
//! written with the checkpoint that freed what is behind them, so nothing is lost or freed twice.

use alloc::boxed::Box;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use world::{Buf, Disk, Page};

use crate::api::StoreError;
use crate::checkpoint::Cut;
use crate::layout::{CatalogKind, FAN, Kind, Pointer, get_pointer};
use crate::map::{Missing, index_in, reach, span};
use crate::shared::{Shared, Tree};

/// A map or subtree that is being taken apart.
struct Taking {
    /// Its root node, and the level of that.
    root: Missing,
    /// Blocks before this one are done with.
    cursor: u64,
    /// What was not born later belongs to an ancestor.
    boundary: u64,
    /// Root and height of the map that keeps what it has in the same places.
    heir: Option<(Pointer, u8)>,
}

impl Taking {
    fn is_done(&self) -> bool {
        self.cursor >= span(self.root.level + 1)
    }
}

impl<D: Disk> Shared<D> {
    /// Frees about `budget` blocks; part of a checkpoint, after the merges.
    pub async fn take_apart(&self, cut: &mut Cut, budget: usize) -> Result<(), StoreError> {
        let mut left = budget;
        self.state.borrow_mut().is_stalled = false;
        self.take_items(&mut left).await?;
        let mut waiting = self.state.borrow().directory.hidden.clone();
        while let Some(id) = waiting.pop_first() {
            if left == 0 {
                return Ok(());
            }
            if !self.can_collapse(id, cut) {
                continue;
            }
            let neighbours = self.neighbours(id);
            self.collapse(id, cut, &mut left).await?;
            left = left.saturating_sub(1);
            // What had to wait for this one can go on.
            let state = self.state.borrow();
            let is_hidden = |id: &u64| state.directory.hidden.contains(id);
            waiting.extend(neighbours.into_iter().filter(is_hidden));
        }
        Ok(())
    }

    /// The parent of a map and its children.
    fn neighbours(&self, id: u64) -> Vec<u64> {
        let state = self.state.borrow();
        let tree = state.trees.get(&id);
        let of = |tree: &Tree| tree.children.iter().copied().chain(tree.parent()).collect();
        tree.map_or_else(Vec::new, of)
    }

    /// Whether there is something that a checkpoint could take apart.
    pub fn has_waste(&self) -> bool {
        let state = self.state.borrow();
        let is_waste = |id: &u64| {
            let tree = state.trees.get(id);
            tree.is_some_and(|tree| tree.children.len() <= 1)
        };
        !state.reclaim.is_empty() || state.directory.hidden.iter().any(is_waste)
    }

    async fn take_items(&self, left: &mut usize) -> Result<(), StoreError> {
        while *left > 0 {
            let item = self.state.borrow().reclaim.first();
            let Some(mut item) = item else { break };
            let mut taking = Taking {
                root: Missing {
                    pointer: item.root,
                    level: item.level,
                },
                cursor: item.cursor.get(),
                boundary: item.boundary.get(),
                heir: None,
            };
            if !self.take_some(&mut taking, left).await? {
                break;
            }
            item.cursor = taking.cursor.into();
            self.state.borrow_mut().reclaim.advance(item);
            self.environment.exec.yield_now().await;
        }
        Ok(())
    }

    /// Whether a map was hidden at the cut, at most one map still needs it, and neither that nor its parent is being taken apart.
    fn can_collapse(&self, id: u64, cut: &Cut) -> bool {
        let state = self.state.borrow();
        let Some(tree) = state.trees.get(&id) else {
            return false;
        };
        let is_under_way = |id: &u64| state.trees.get(id).is_some_and(|tree| tree.cursor() > 0);
        id < cut.maps_end
            && tree.kind_at_cut() == CatalogKind::Hidden
            && tree.children.len() <= 1 + usize::from(self.config.mutants.collapse_with_two())
            && !tree.children.iter().any(is_under_way)
            && !tree.parent().iter().any(is_under_way)
    }

    /// Takes a hidden map apart as far as the budget allows.
    async fn collapse(&self, id: u64, cut: &mut Cut, left: &mut usize) -> Result<(), StoreError> {
        let taking = {
            let state = self.state.borrow();
            let Some(tree) = state.trees.get(&id) else {
                return Ok(());
            };
            let (root, height) = tree.newest_root();
            let boundary = state.bound(id).at(u64::MAX);
            let heir = tree
                .children
                .first()
                .and_then(|child| state.trees.get(child));
            let heir = heir.map(|tree| tree.newest_root());
            let heir = heir.filter(|_| !self.config.mutants.collapse_without_heir());
            let own = root.kind() == Kind::Node && root.birth() > boundary;
            own.then(|| Taking {
                root: Missing {
                    pointer: root,
                    level: height - 1,
                },
                cursor: tree.cursor(),
                boundary,
                heir,
            })
        };
        if let Some(mut taking) = taking {
            while *left > 0 && !taking.is_done() && self.take_some(&mut taking, left).await? {
                self.environment.exec.yield_now().await;
            }
            if !taking.is_done() {
                let state = &mut *self.state.borrow_mut();
                if let Some(tree) = state.trees.get_mut(&id) {
                    tree.change_in_checkpoint(|entry| entry.collapse_cursor = taking.cursor.into());
                    cut.touched.insert(tree.slot);
                }
                return Ok(());
            }
        }
        self.pass_on(id, cut);
        Ok(())
    }

    /// A map is taken apart: its child is now that of its parent.
    fn pass_on(&self, id: u64, cut: &mut Cut) {
        let state = &mut *self.state.borrow_mut();
        let Some(tree) = state.trees.get_mut(&id) else {
            return;
        };
        let parent = tree.entry.parent;
        cut.touched.insert(tree.slot);
        cut.gone.push(id);
        state.directory.hidden.remove(&id);
        let children = core::mem::take(&mut tree.children);
        for child in children {
            if let Some(tree) = state.trees.get_mut(&child) {
                if !self.config.mutants.parent_not_passed_on() {
                    tree.change_in_checkpoint(|entry| entry.parent = parent);
                }
                cut.touched.insert(tree.slot);
            }
            if let Some(parent) = state.trees.get_mut(&parent.get()) {
                parent.children.insert(child);
            }
        }
        if let Some(parent) = state.trees.get_mut(&parent.get()) {
            parent.children.remove(&id);
        }
    }

    /// Goes on by a leaf. False when that has to wait because a drive does not answer.
    async fn take_some(&self, taking: &mut Taking, left: &mut usize) -> Result<bool, StoreError> {
        match self.take_leaf(taking).await {
            Ok(freed) => {
                *left = left.saturating_sub(freed.max(1));
                Ok(true)
            }
            Err(StoreError::Disk(error)) => {
                log::warn!("what was deleted is taken apart later: {error}");
                self.state.borrow_mut().is_stalled = true;
                *left = 0;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Frees the next leaf and every node that is finished with it, and moves the cursor. Returns how many blocks that were.
    async fn take_leaf(&self, taking: &mut Taking) -> Result<usize, StoreError> {
        let mut cursor = taking.cursor;
        let mut trail = ArrayVec::<Missing, 8>::new();
        let mut at = taking.root;
        let mut freed = 0;
        let next = loop {
            let first = cursor / span(at.level + 1) * span(at.level + 1);
            let end = first + span(at.level + 1);
            let kept = self.heir_of(taking, at.level, first).await?;
            if kept == Some(at.pointer) {
                break end;
            }
            trail.push(at);
            let node = self.copy_sound(at).await?;
            let heir = match kept.filter(|kept| kept.kind() == Kind::Node) {
                Some(pointer) => {
                    let level = at.level;
                    self.copy_sound(Missing { pointer, level }).await?.map(Some)
                }
                None => Some(None),
            };
            // What is below an unreadable node is lost space; the checker tells.
            let (Some(node), Some(heir)) = (node, heir) else {
                break end;
            };
            let is_taken = |pointer: &Pointer, index| {
                let kept = heir.as_ref().map(|node| get_pointer(&node.bytes, index));
                pointer.birth() > taking.boundary && kept != Some(*pointer)
            };
            let start = index_in(at.level, cursor);
            if at.level == 0 {
                let space = &mut self.state.borrow_mut().space;
                for index in start..FAN {
                    let pointer = get_pointer(&node.bytes, index);
                    if pointer.kind() == Kind::Data && is_taken(&pointer, index) {
                        space.free(pointer.addr());
                        freed += 1;
                    }
                }
                if self.config.mutants.cursor_in_leaf() && start == 0 {
                    break first + FAN as u64 / 2;
                }
                break end;
            }
            let mut children = (start..FAN).map(|index| (index, get_pointer(&node.bytes, index)));
            let is_next = |(index, child): &(usize, Pointer)| {
                child.kind() == Kind::Node && is_taken(child, *index)
            };
            let Some((index, pointer)) = children.find(is_next) else {
                break end;
            };
            if index > start {
                cursor = first + index as u64 * span(at.level);
            }
            at = Missing {
                pointer,
                level: at.level - 1,
            };
        };
        taking.cursor = next;
        let space = &mut self.state.borrow_mut().space;
        for done in trail.iter().rev() {
            if !next.is_multiple_of(span(done.level + 1)) {
                break;
            }
            space.free(done.pointer.addr());
            freed += 1;
        }
        Ok(freed)
    }

    /// The heir's pointer to the subtree whose root node is of `level` and begins at block `first`.
    async fn heir_of(
        &self,
        taking: &Taking,
        level: u8,
        first: u64,
    ) -> Result<Option<Pointer>, StoreError> {
        let Some((mut pointer, mut height)) = taking.heir else {
            return Ok(None);
        };
        if height <= level || first >= reach(height) {
            return Ok(None);
        }
        while height > level + 1 && pointer.kind() == Kind::Node {
            height -= 1;
            let missing = Missing {
                pointer,
                level: height,
            };
            let Some(node) = self.copy_sound(missing).await? else {
                // Who knows what it keeps: so everything.
                return Ok(Some(pointer));
            };
            pointer = get_pointer(&node.bytes, index_in(height, first));
        }
        Ok(Some(pointer))
    }

    /// A node, or `None` if it is damaged.
    pub async fn copy_sound(&self, missing: Missing) -> Result<Option<Box<Page>>, StoreError> {
        let mut node = Page::new_box();
        match self.copy_node(missing, &mut node).await {
            Ok(()) => Ok(Some(node)),
            Err(StoreError::DamagedPool) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blocks of data below a node.
    pub async fn count_blocks(&self, root: Pointer, level: u8) -> Result<u64, StoreError> {
        let mut waiting = alloc::vec![Missing {
            pointer: root,
            level
        }];
        let mut count = 0;
        while let Some(at) = waiting.pop() {
            if at.level == 0 {
                count += at.pointer.leaf_blocks();
                continue;
            }
            // What cannot be read is not counted either: discarding it must not fail.
            let Some(node) = self.copy_sound(at).await? else {
                continue;
            };
            let children = (0..FAN).map(|index| get_pointer(&node.bytes, index));
            for pointer in children.filter(|child| child.kind() == Kind::Node) {
                let level = at.level - 1;
                waiting.push(Missing { pointer, level });
            }
        }
        Ok(count)
    }

    /// Copies a node from the cache, or from the drives into the cache and `into`.
    pub async fn copy_node(&self, missing: Missing, into: &mut Page) -> Result<(), StoreError> {
        if let Some(node) = self.state.borrow_mut().cache.get(&missing.pointer) {
            into.bytes.copy_from_slice(node);
            return Ok(());
        }
        // Not from the pool: the checkpoint must not wait for pages that its own clients hold.
        let mut buf = Buf::from_heap(1);
        self.read_node(missing, &mut buf).await?;
        into.bytes.copy_from_slice(buf.block(0));
        if missing.level > 0 {
            // It is needed again for each of its leaves.
            let page = &mut buf.pages_mut()[0];
            self.state.borrow_mut().cache.insert(&missing.pointer, page);
        }
        Ok(())
    }
}
