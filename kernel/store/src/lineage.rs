//! The tree that maps form: what each began as, which blocks are its own, and how it changes.
//!
//! ```text
//! snapshot of volume 16:   16 (head)      ─►  16 (snapshot) ◄─ 20 (head of volume 16)
//! clone of it:                                16 (snapshot) ◄─ 20, ◄─ 21 (head of volume 21)
//! rollback of volume 16:                      16 (snapshot) ◄─ 20 (hidden), ◄─ 21, ◄─ 22 (head of volume 16)
//! ```
//! Maps that are not heads never change, so a new map may share all of its parent's. Whose a block or node is follows from births
//! alone: a map owns what is younger than its parent ([`Bound`]). Numbers of children are greater than those of parents, so
//! ascending order is an order from parents to children.

use alloc::vec::Vec;

use arrayvec::ArrayVec;

use crate::api::{SnapshotId, SnapshotOrder, StoreError};
use crate::layout::{CatalogEntry, CatalogKind, Pointer};
use crate::shared::{FIRST_VOLUME, State, Tree};

/// The most maps that one read can have to ask for changes that are in no checkpoint yet.
pub const LAYERS_MAX: usize = 16;

/// A map and those whose changes it sees, nearest first; then the map whose nodes it sees.
pub type Layers = ArrayVec<u64, { 2 * LAYERS_MAX }>;

/// From which birth on blocks are a map's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// What ends at or before this block, of a parent that is being taken apart, was passed on already.
    cursor: u64,
    /// The bound there: that of the grandparent.
    below: u64,
    /// The bound elsewhere.
    above: u64,
}

impl Bound {
    /// What is not younger than this belongs to an ancestor, for something whose blocks end at `end`.
    pub fn at(&self, end: u64) -> u64 {
        if end <= self.cursor {
            self.below
        } else {
            self.above
        }
    }

    /// What is not younger than this belongs to an ancestor wherever it is.
    pub fn least(&self) -> u64 {
        if self.cursor > 0 {
            self.below
        } else {
            self.above
        }
    }

    /// Whether different bounds hold in this range.
    pub fn is_split_in(&self, start: u64, end: u64) -> bool {
        start < self.cursor && self.cursor < end
    }
}

/// What is read or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The map that a volume writes to, whichever that is at the moment.
    Volume(u64),
    /// This map.
    Map(u64),
}

impl Place {
    /// What somebody hears who asks for it when it is not there.
    pub fn missing(self) -> StoreError {
        match self {
            Place::Volume(_) => StoreError::NoVolume,
            Place::Map(_) => StoreError::NoSnapshot,
        }
    }
}

/// Where a snapshot is among those of its volume.
pub fn order_of(entry: &CatalogEntry) -> SnapshotOrder {
    SnapshotOrder {
        created_at_nanos: entry.created_at.get(),
        id: SnapshotId(entry.id.get()),
    }
}

impl State {
    /// The map of a place, if it is there and nobody is deleting it.
    pub fn tree_at(&self, place: Place) -> Option<&Tree> {
        let tree = match place {
            Place::Volume(volume) => self.trees.get(&self.directory.volume(volume)?.head)?,
            Place::Map(map) => self.trees.get(&map)?,
        };
        (!tree.leaving && tree.kind() != CatalogKind::Hidden).then_some(tree)
    }

    /// The bound of what map `id` owns.
    pub fn bound(&self, id: u64) -> Bound {
        let parent = |id: u64| self.trees.get(&self.trees.get(&id)?.parent()?);
        let seq = |tree: Option<&Tree>| tree.map_or(0, |tree| tree.entry.seq.get());
        let Some(first) = parent(id) else {
            return Bound::default();
        };
        Bound {
            cursor: if self.mutants.bound_ignores_cursor() {
                0
            } else {
                first.cursor()
            },
            below: seq(parent(first.id())),
            above: seq(Some(first)),
        }
    }

    /// The maps that a look-up in `id` asks, in order.
    pub fn layers(&self, id: u64) -> Layers {
        let mut layers = Layers::new();
        let mut at = Some(id);
        while let Some(id) = at {
            layers.push(id);
            at = self.trees.get(&id).and_then(|tree| tree.source);
        }
        layers
    }

    /// Whether the deltas have changes of this map.
    pub fn has_changes(&self, id: u64) -> bool {
        self.changed.iter().any(|changed| changed.contains(&id))
    }

    /// Makes a map begin as its parent is now, changes that are in no checkpoint included.
    pub fn inherit(&mut self, id: u64) {
        let parent = self.trees.get(&id).and_then(Tree::parent);
        let Some(parent) = parent.and_then(|parent| self.trees.get(&parent)) else {
            return;
        };
        let source = if self.mutants.no_source() {
            None
        } else if self.has_changes(parent.id()) {
            Some(parent.id())
        } else {
            parent.source
        };
        let (root, height) = (parent.root(), parent.height());
        let blocks = parent.entry.blocks;
        if source.is_some() {
            self.inheriting.insert(id);
        } else {
            self.inheriting.remove(&id);
        }
        if let Some(tree) = self.trees.get_mut(&id) {
            tree.source = source;
            (tree.entry.root, tree.entry.height) = (root, height);
            tree.entry.blocks = blocks;
        }
    }

    /// Adds a map as the catalog has it in `slot`.
    pub fn insert_tree(&mut self, entry: CatalogEntry, slot: Option<usize>) {
        let id = entry.id.get();
        let slot = self.directory.take_slot(id, slot);
        self.maps_end = self.maps_end.max(id + 1);
        self.next_node = self.next_node.max(self.maps_end);
        let mut tree = Tree::new(entry, slot);
        if self.mutants.cursor_forgotten() {
            tree.entry.collapse_cursor = 0.into();
        }
        if let Some(parent) = tree.parent().and_then(|id| self.trees.get_mut(&id)) {
            parent.children.insert(id);
        }
        if id >= FIRST_VOLUME {
            let (volume, name) = (tree.entry.volume.get(), tree.entry.name());
            match tree.kind() {
                CatalogKind::Head => self.directory.set_head(volume, name, id),
                CatalogKind::Snapshot => {
                    self.directory
                        .add_snapshot(volume, name, order_of(&tree.entry));
                }
                CatalogKind::Hidden => drop(self.directory.hidden.insert(id)),
                CatalogKind::Base => drop(self.directory.bases.insert(id)),
                CatalogKind::Free | CatalogKind::Internal => {}
            }
        }
        self.trees.insert(id, tree);
    }

    /// Notes that a map's entry differs from the catalog's.
    pub fn touch(&mut self, id: u64) {
        if let Some(tree) = self.trees.get_mut(&id)
            && !core::mem::replace(&mut tree.dirty, true)
        {
            self.dirty_trees.push(id);
        }
    }

    /// Changes the catalog, all at one instant; a replay does the same with the same entries.
    ///
    /// Maps that exist take over kind, names and sizes, new ones begin as their parents. A volume whose head is hidden without
    /// another one in its place is deleted, and its snapshots with it.
    pub fn apply(&mut self, entries: &[CatalogEntry]) {
        let mut hidden = Vec::new();
        for entry in entries {
            let id = entry.id.get();
            if !self.trees.contains_key(&id) {
                self.insert_tree(entry.clone(), None);
                self.inherit(id);
            } else if entry.kind() == CatalogKind::Hidden {
                hidden.push(id);
            } else {
                self.change(entry);
            }
            self.touch(id);
        }
        if hidden.is_empty() {
            return;
        }
        for id in hidden {
            self.hide(id);
        }
        self.hide_unneeded_bases();
    }

    /// A base goes with the last volume or snapshot that may refer to it.
    fn hide_unneeded_bases(&mut self) {
        let mut unneeded = self.directory.bases.clone();
        if unneeded.is_empty() || self.mutants.base_stays() {
            return;
        }
        let without_clones = self.mutants.base_goes_with_head();
        let is_visible = |tree: &&Tree| match tree.kind() {
            CatalogKind::Head => !without_clones || tree.entry.origin.get() == 0,
            CatalogKind::Snapshot => !without_clones,
            _ => false,
        };
        for tree in self.trees.values().filter(is_visible) {
            for base in tree.bases() {
                unneeded.remove(&base);
            }
        }
        for base in unneeded {
            self.hide(base);
        }
    }

    fn change(&mut self, new: &CatalogEntry) {
        let id = new.id.get();
        self.keep_entry_of_cut(id);
        let Some(tree) = self.trees.get_mut(&id) else {
            return;
        };
        let old = (tree.kind(), alloc::string::String::from(tree.entry.name()));
        let entry = &mut tree.entry;
        entry.set_kind(new.kind());
        entry.set_name(new.name());
        entry.size_bytes = new.size_bytes;
        entry.seq = new.seq;
        entry.snapshot_uuid = new.snapshot_uuid;
        entry.created_at = new.created_at;
        // A snapshot may become another volume's.
        let was_of = entry.volume.get();
        entry.volume = new.volume;
        if new.is_swept() {
            entry.set_swept();
        }
        if old.0 == CatalogKind::Base {
            entry.collapse_cursor = entry.collapse_cursor.max(new.collapse_cursor);
        }
        if self.mutants.replay_takes_parent() {
            (entry.parent, entry.collapse_cursor) = (new.parent, new.collapse_cursor);
        }
        let volume = entry.volume.get();
        match (old.0, new.kind()) {
            (CatalogKind::Head, CatalogKind::Head) if !self.mutants.rename_keeps_index() => {
                self.directory.rename(volume, &old.1, new.name());
            }
            (from, CatalogKind::Snapshot) => {
                if from == CatalogKind::Snapshot {
                    self.directory.remove_snapshot(was_of, &old.1);
                }
                let order = order_of(entry);
                self.directory.add_snapshot(volume, new.name(), order);
            }
            _ => {}
        }
    }

    fn hide(&mut self, id: u64) {
        self.keep_entry_of_cut(id);
        let Some(tree) = self.trees.get_mut(&id) else {
            return;
        };
        let was = tree.kind();
        tree.entry.set_kind(CatalogKind::Hidden);
        if was == CatalogKind::Base {
            (tree.entry.collapse_cursor, tree.entry.seq) = Default::default();
            self.directory.bases.remove(&id);
        }
        let (volume, name) = (tree.entry.volume.get(), tree.entry.name());
        let name = alloc::string::String::from(name);
        self.directory.hidden.insert(id);
        self.touch(id);
        let is_last = self
            .directory
            .volume(volume)
            .is_some_and(|now| now.head == id);
        if was == CatalogKind::Snapshot {
            self.directory.remove_snapshot(volume, &name);
        } else if is_last {
            for snapshot in self.directory.remove(volume, &name) {
                if !self.mutants.snapshots_stay() {
                    self.hide(snapshot);
                }
            }
        }
    }

    /// Forgets a map that was taken apart.
    pub fn remove_tree(&mut self, id: u64) {
        let Some(tree) = self.trees.remove(&id) else {
            return;
        };
        self.directory.free_slot(tree.slot);
        self.directory.hidden.remove(&id);
        self.inheriting.remove(&id);
        if let Some(parent) = tree.parent().and_then(|id| self.trees.get_mut(&id)) {
            parent.children.remove(&id);
        }
    }

    /// Root and height that a map without its own root begins this checkpoint with.
    pub fn inherited_root(&self, id: u64) -> Option<(Pointer, u8, u64)> {
        let source = self.trees.get(&self.trees.get(&id)?.source?)?;
        let (mut root, mut height) = source.newest_root();
        if self.mutants.source_not_merged() {
            (root, height) = (source.root(), source.height());
        }
        Some((root, height, source.entry.blocks.get()))
    }
}
