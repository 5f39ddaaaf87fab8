//! What differs between two maps, and who uses how much.

use arrayvec::ArrayVec;
use world::{BLOCK_SIZE, Disk};

use crate::api::{Change, Changes, Source, StoreError, Usage};
use crate::layout::{CatalogKind, FAN, Kind, Pointer};
use crate::lineage::Place;
use crate::lockstep::Root;
use crate::shared::{Shared, State, Tree};

/// One answer looks at so many leaves at most (2 GiB that differ), however few ranges they make.
const LEAVES_MAX: usize = 4096;

/// How often a walk begins again because a checkpoint freed what it looked at.
const TRIES_MAX: usize = 4;

impl<D: Disk + 'static> Shared<D> {
    pub async fn diff(
        &self,
        from: Option<Source>,
        to: Source,
        start: u64,
        max: usize,
    ) -> Result<Changes, StoreError> {
        let to = self.place_of(to)?;
        let from = from.map(|from| self.place_of(from)).transpose()?;
        for place in from.iter().chain([&to]) {
            self.settle(*place, start == 0).await?;
        }
        let mut changes = Changes::default();
        let mut at = start / BLOCK_SIZE as u64;
        let mut tries = 0;
        let mut leaves_left = LEAVES_MAX;
        loop {
            let (roots, end) = self.roots_of(from, to)?;
            if at >= end {
                return Ok(changes);
            }
            let blind = self.config.mutants.diff_without_holes();
            let is_difference =
                |old: &Pointer, new: &Pointer| is_difference(old, new) && !(blind && new.is_hole());
            let differ = |[old, new]: [&Pointer; 2], _| is_difference(old, new);
            let leaves = match self.next_leaves(roots, at, differ).await {
                Ok(leaves) => leaves,
                Err(error) => {
                    tries += 1;
                    let is_new = self.roots_of(from, to)?.0 != roots;
                    if is_new && tries < TRIES_MAX {
                        continue;
                    }
                    return Err(error);
                }
            };
            let Some(leaves) = leaves else {
                return Ok(changes);
            };
            let last = (leaves.first + FAN as u64).min(end);
            for lba in at.max(leaves.first)..last {
                let pair = leaves.pair(usize::try_from(lba - leaves.first).unwrap_or(0));
                let [old, new] = {
                    let state = self.state.borrow();
                    pair.map(|pointer| state.within_origin(pointer, lba))
                };
                if is_difference(&old, &new) && !changes.add(lba, new.is_hole(), max) {
                    changes.next = Some(lba * BLOCK_SIZE as u64);
                    return Ok(changes);
                }
            }
            at = last;
            leaves_left -= 1;
            if leaves_left == 0 {
                changes.next = Some(at * BLOCK_SIZE as u64);
                return Ok(changes);
            }
            self.environment.exec.yield_now().await;
        }
    }

    /// Roots of both as of the last checkpoint, and the size of the newer one in blocks.
    fn roots_of(&self, from: Option<Place>, to: Place) -> Result<([Root; 2], u64), StoreError> {
        let state = self.state.borrow();
        let tree = state.tree_at(to).ok_or(to.missing())?;
        let old = match from {
            Some(from) => root_of(state.tree_at(from).ok_or(from.missing())?),
            None => Root::default(),
        };
        Ok(([old, root_of(tree)], tree.blocks()))
    }

    /// Waits until a map's nodes say all that its deltas said (of a head: when `is_wanted`).
    pub async fn settle(&self, place: Place, is_wanted: bool) -> Result<(), StoreError> {
        loop {
            {
                let state = self.state.borrow();
                state.require_open()?;
                let tree = state.tree_at(place).ok_or(place.missing())?;
                let is_head = tree.kind() == CatalogKind::Head;
                let is_changed = state.has_changes(tree.id()) && (is_wanted || !is_head);
                if tree.source.is_none() && !is_changed {
                    return Ok(());
                }
            }
            self.checkpoint_reached(self.want_checkpoint()).await?;
            // A head may have changed again: what it had when this began is in its nodes now.
            if matches!(place, Place::Volume(_)) {
                return Ok(());
            }
        }
    }

    pub async fn usage(&self, source: Source) -> Result<Usage, StoreError> {
        let place = self.place_of(source)?;
        self.settle(place, true).await?;
        self.settle_others(place).await?;
        let mut tries = 0;
        loop {
            let (referenced, walk, bases) = {
                let state = self.state.borrow();
                let tree = state.tree_at(place).ok_or(place.missing())?;
                let own = tree.entry.blocks.get();
                (own, state.freed_with(tree), state.base_blocks(tree))
            };
            let unique = match &walk {
                // All of it, with nobody to share it with.
                Some(walk) if walk.boundary == 0 && walk.heir == Root::default() => Ok(referenced),
                Some(walk) => self.count(walk).await,
                None => Ok(0),
            };
            tries += 1;
            match unique {
                Ok(unique) => {
                    return Ok(Usage {
                        referenced_bytes: (referenced + bases.0) * BLOCK_SIZE as u64,
                        // The number is that of a checkpoint under way already, the walk's root perhaps not yet.
                        unique_bytes: (unique.min(referenced) + bases.1) * BLOCK_SIZE as u64,
                    });
                }
                Err(error) if tries == TRIES_MAX => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Waits until the nodes of those who keep what a map has, and of its bases, say all that their deltas said when this began.
    async fn settle_others(&self, place: Place) -> Result<(), StoreError> {
        let is_settled = {
            let state = self.state.borrow();
            state.require_open()?;
            let tree = state.tree_at(place).ok_or(place.missing())?;
            let mut heirs = state.keepers(tree).into_iter();
            let is_changed = |base| state.has_changes(base);
            heirs.all(|heir| heir.source.is_none() && !state.has_changes(heir.id()))
                && !tree.bases().any(is_changed)
        };
        if !is_settled {
            self.checkpoint_reached(self.want_checkpoint()).await?;
        }
        Ok(())
    }

    /// Blocks of data that a map has, its heir has not, and no ancestor has.
    async fn count(
        &self,
        Walk {
            map,
            heir,
            boundary,
        }: &Walk,
    ) -> Result<u64, StoreError> {
        let is_freed = |[own, kept]: [&Pointer; 2], _: u64| {
            let is_kept = own == kept && !self.config.mutants.usage_counts_shared();
            // What is elsewhere is the base's.
            let is_own = !own.is_hole() && own.kind() != Kind::Remote;
            is_own && own.birth() > *boundary && !is_kept
        };
        let (mut at, mut count) = (0, 0);
        while let Some(leaves) = self.next_leaves([*map, *heir], at, is_freed).await? {
            let pairs = (0..FAN).map(|index| leaves.pair(index));
            count += pairs
                .filter(|[own, kept]| own.kind() == Kind::Data && is_freed([own, kept], 0))
                .count() as u64;
            at = leaves.first + FAN as u64;
            self.environment.exec.yield_now().await;
        }
        Ok(count)
    }
}

/// What of a map would be freed if only its heir were left of those that began as it.
struct Walk {
    map: Root,
    heir: Root,
    boundary: u64,
}

impl State {
    /// What the deletion of a map frees of what it has: its own blocks that its only heir has not. If it has none, it may
    /// be one of two for whom a deleted map was kept: then also what it has of that one and the other has not.
    fn freed_with(&self, tree: &Tree) -> Option<Walk> {
        let seq = |tree: Option<(&Tree, u64)>| tree.map_or(0, |(tree, _)| tree.entry.seq.get());
        let heir = match self.keepers(tree)[..] {
            [] => Root::default(),
            [heir] => root_of(heir),
            _ => return None,
        };
        let parent = self.lasting_parent(tree);
        let boundary = match parent {
            Some((parent, via)) if self.is_kept_for_two(tree, parent, via) => {
                seq(self.lasting_parent(parent))
            }
            parent => seq(parent),
        };
        Some(Walk {
            map: root_of(tree),
            heir,
            boundary,
        })
    }

    /// Blocks of data in the bases of a map, and how many of them are freed with it.
    pub fn base_blocks(&self, tree: &Tree) -> (u64, u64) {
        let (mut all, mut freed) = (0, 0);
        for base in tree.bases() {
            let blocks = self
                .trees
                .get(&base)
                .map_or(0, |base| base.entry.blocks.get());
            let needs = |other: &&Tree| other.is_visible() && other.may_lead_to(base);
            all += blocks;
            if self.trees.values().filter(needs).count() == 1 {
                freed += blocks;
            }
        }
        (all, freed)
    }

    /// Who keeps what a map has when it is taken apart, at most two of them.
    fn keepers(&self, tree: &Tree) -> ArrayVec<&Tree, 2> {
        match self.lasting_parent(tree) {
            Some((parent, via)) if self.is_kept_for_two(tree, parent, via) => {
                self.heirs(parent, Some(via))
            }
            _ => self.heirs(tree, None),
        }
    }

    /// Whether the deleted map `parent` was kept for two, of which this map, on the way `via` and without heirs, is one.
    fn is_kept_for_two(&self, tree: &Tree, parent: &Tree, via: u64) -> bool {
        parent.kind() == CatalogKind::Hidden
            && self.heirs(tree, None).is_empty()
            && self.heirs(parent, Some(via)).len() == 1
    }

    /// Those whose maps began as this one, at most two of them: its children, without the one on the way `via`, and without those
    /// that are about to be taken apart themselves.
    fn heirs(&self, tree: &Tree, via: Option<u64>) -> ArrayVec<&Tree, 2> {
        let mut heirs = ArrayVec::new();
        for child in tree.children.iter().filter(|child| Some(**child) != via) {
            let mut at = self.trees.get(child);
            while let Some(tree) = at.filter(|tree| tree.kind() == CatalogKind::Hidden) {
                match tree.children.len() {
                    0 | 1 => at = tree.children.first().and_then(|id| self.trees.get(id)),
                    _ => break,
                }
            }
            if let Some(heir) = at
                && heirs.try_push(heir).is_err()
            {
                break;
            }
        }
        heirs
    }

    /// The nearest ancestor that is not about to be taken apart, and its child on the way.
    fn lasting_parent(&self, tree: &Tree) -> Option<(&Tree, u64)> {
        let mut via = tree.id();
        let mut parent = self.trees.get(&tree.parent()?)?;
        while parent.kind() == CatalogKind::Hidden && self.heirs(parent, Some(via)).is_empty() {
            via = parent.id();
            parent = self.trees.get(&parent.parent()?)?;
        }
        Some((parent, via))
    }
}

impl Changes {
    /// Adds a block; false when that would be one range too many.
    fn add(&mut self, lba: u64, is_zero: bool, max: usize) -> bool {
        let block = BLOCK_SIZE as u64;
        let offset = lba * block;
        let is_full = self.ranges.len() >= max.max(1);
        match self.ranges.last_mut() {
            Some(last) if last.is_zero == is_zero && last.offset + last.len == offset => {
                last.len += block;
            }
            _ if is_full => return false,
            _ => self.ranges.push(Change {
                offset,
                len: block,
                is_zero,
            }),
        }
        true
    }
}

/// Whether somebody who has `old` must be told of `new`: two holes are the same.
pub fn is_difference(old: &Pointer, new: &Pointer) -> bool {
    old != new && !(old.is_hole() && new.is_hole())
}

pub fn root_of(tree: &Tree) -> Root {
    (tree.root(), tree.height())
}
