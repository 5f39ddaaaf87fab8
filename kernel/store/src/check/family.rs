//! Which map came from which, and what follows for who owns what.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use world::BLOCK_SIZE;

use crate::layout::{CatalogEntry, CatalogKind, FAN};
use crate::shared::FIRST_VOLUME;

/// Bits of a birth below the mount generation.
const COUNTER_BITS: u32 = 44;

/// Every map of the pool, by number, as the catalog describes it.
#[derive(Default)]
pub struct Maps {
    entries: BTreeMap<u64, Box<CatalogEntry>>,
}

/// What was not born later than `birth` is not a map's own: it is what `map` has at the same place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub birth: u64,
    /// 0: nothing is there.
    pub map: u64,
}

/// The bounds of a map. There are two while its parent is taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How far the parent is taken apart.
    pub cursor: u64,
    /// For places that end there or before.
    pub before: Bound,
    pub after: Bound,
}

impl Bounds {
    /// The bound of a place that ends at `end`.
    pub fn at(&self, end: u64) -> Bound {
        if end <= self.cursor {
            self.before
        } else {
            self.after
        }
    }
}

impl Maps {
    pub fn get(&self, id: u64) -> Option<&CatalogEntry> {
        self.entries.get(&id).map(|entry| &**entry)
    }

    /// Adds a map or replaces it; whether it was there.
    pub fn insert(&mut self, entry: CatalogEntry) -> bool {
        let old = self.entries.insert(entry.id.get(), Box::new(entry));
        old.is_some()
    }

    /// In the order of their numbers: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.entries.values().map(|entry| &**entry)
    }

    pub fn count(&self, kind: CatalogKind) -> u64 {
        self.iter().filter(|entry| entry.kind() == kind).count() as u64
    }

    fn parent(&self, entry: &CatalogEntry) -> Option<&CatalogEntry> {
        self.get(entry.parent.get())
    }

    /// Children of all maps.
    pub fn children(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut children: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for entry in self.iter().filter(|entry| entry.parent.get() != 0) {
            let of = children.entry(entry.parent.get()).or_default();
            of.push(entry.id.get());
        }
        children
    }

    pub fn bounds(&self, entry: &CatalogEntry) -> Bounds {
        let bound = |of: Option<&CatalogEntry>| Bound {
            birth: of.map_or(0, |of| of.seq.get()),
            map: of.map_or(0, |of| of.id.get()),
        };
        let parent = self.parent(entry);
        let is_hidden = parent.is_some_and(|parent| parent.kind() == CatalogKind::Hidden);
        Bounds {
            cursor: parent
                .filter(|_| is_hidden)
                .map_or(0, |parent| parent.collapse_cursor.get()),
            before: bound(parent.and_then(|parent| self.parent(parent))),
            after: bound(parent),
        }
    }

    /// A map for people.
    pub fn label(&self, id: u64) -> String {
        let Some(entry) = self.get(id) else {
            return format!("map {id}");
        };
        match entry.kind() {
            CatalogKind::Head => format!("volume {} `{}`", entry.volume, entry.name()),
            CatalogKind::Snapshot => {
                format!(
                    "snapshot {id} `{}` of volume {}",
                    entry.name(),
                    entry.volume
                )
            }
            CatalogKind::Hidden => format!("deleted map {id}"),
            CatalogKind::Base => format!("base {id} of an adopted volume"),
            CatalogKind::Internal | CatalogKind::Free => format!("internal map {id}"),
        }
    }

    /// Everything that is wrong with the family as a whole, with the number of a map that it is about.
    pub fn relations(&self, mount_gen: u64) -> BTreeSet<(u64, String)> {
        let children = self.children();
        let none = Vec::new();
        let mut found = BTreeSet::new();
        for entry in self.iter().filter(|entry| entry.id.get() >= FIRST_VOLUME) {
            let id = entry.id.get();
            let children = children.get(&id).unwrap_or(&none);
            let mut wrong = match entry.kind() {
                CatalogKind::Base => self.wrong_base(entry),
                _ => self.wrong_clock(entry, mount_gen),
            };
            wrong.extend(self.wrong_parent(entry));
            wrong.extend(self.wrong_cursor(entry, children));
            wrong.extend(self.wrong_bases(entry));
            found.extend(wrong.into_iter().map(|what| (id, what)));
        }
        found.extend(self.wrong_names());
        found
            .into_iter()
            .map(|(id, what)| (id, format!("{}: {what}", self.label(id))))
            .collect()
    }

    fn wrong_clock(&self, entry: &CatalogEntry, mount_gen: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let (seq, newest) = (entry.seq.get(), entry.root.birth());
        let has_clock = match entry.kind() {
            CatalogKind::Head => Some(false),
            CatalogKind::Snapshot => Some(true),
            _ => None,
        };
        if has_clock.is_some_and(|has_clock| has_clock != (seq != 0)) {
            wrong.push(format!("clock {seq:#x} cannot be"));
        }
        if seq >> COUNTER_BITS > mount_gen.saturating_add(entry.epoch_bias.get()) {
            wrong.push(format!("clock {seq:#x} is not reached yet"));
        }
        if seq != 0 && newest >= seq {
            wrong.push(format!(
                "its clock is {seq:#x}, but birth {newest:#x} is in it"
            ));
        }
        let parent = self.parent(entry).map_or(0, |parent| parent.seq.get());
        if seq != 0 && parent >= seq {
            wrong.push(format!("its clock is {seq:#x}, its parent's {parent:#x}"));
        }
        wrong
    }

    fn wrong_base(&self, entry: &CatalogEntry) -> Vec<String> {
        let mut wrong = Vec::new();
        let (seq, newest) = (entry.seq.get(), entry.root.birth());
        let blocks = entry.size_bytes.get().div_ceil(BLOCK_SIZE as u64);
        if seq == 0 || newest != 0 && !(seq..seq.saturating_add(blocks)).contains(&newest) {
            wrong.push(format!(
                "its births begin with {seq:#x}, but {newest:#x} is in it"
            ));
        }
        if entry.collapse_cursor.get() > blocks {
            wrong.push("more of it is said to have arrived than there is".into());
        }
        let visible = [CatalogKind::Head, CatalogKind::Snapshot];
        let mut others = self.iter().filter(|other| visible.contains(&other.kind()));
        if !others.any(|other| other.bases.contains(&entry.id)) {
            wrong.push("no volume and no snapshot needs it".into());
        }
        wrong
    }

    /// Remote pointers of a map lead to bases that are there.
    fn wrong_bases(&self, entry: &CatalogEntry) -> Vec<String> {
        let mut wrong = Vec::new();
        let bases = entry.bases.iter().filter(|base| base.get() != 0);
        if entry.kind() == CatalogKind::Hidden {
            return wrong;
        }
        for id in bases {
            let is_base = |base: &&CatalogEntry| {
                base.kind() == CatalogKind::Base && base.lineage_uuid == entry.lineage_uuid
            };
            if self.get(id.get()).filter(is_base).is_none() {
                wrong.push(format!("it needs base {id}, which is not there"));
            }
        }
        let parent = self.parent(entry);
        let is_lost =
            |base: &&zerocopy::little_endian::U64| base.get() != 0 && !entry.bases.contains(base);
        let parents = parent.into_iter().flat_map(|parent| &parent.bases);
        for base in parents.filter(is_lost) {
            wrong.push(format!("its parent needs base {base}, but it does not"));
        }
        wrong
    }

    fn wrong_parent(&self, entry: &CatalogEntry) -> Vec<String> {
        let mut wrong = Vec::new();
        let id = entry.parent.get();
        if id == 0 {
            return wrong;
        }
        let Some(parent) = self.get(id) else {
            wrong.push(format!("its parent {id} is not there"));
            return wrong;
        };
        let label = self.label(id);
        let is_fixed = matches!(parent.kind(), CatalogKind::Snapshot | CatalogKind::Hidden);
        if !is_fixed || parent.seq.get() == 0 || id >= entry.id.get() {
            wrong.push(format!("its parent is {label}, which is no older snapshot"));
        }
        if parent.lineage_uuid != entry.lineage_uuid || parent.epoch_bias != entry.epoch_bias {
            wrong.push(format!("its parent is {label} of another lineage"));
        }
        // It may have fewer bytes: snapshots from elsewhere begin as those of later times, when the volume was larger.
        if parent.height > entry.height {
            wrong.push(format!("it is lower than its parent, {label}"));
        }
        wrong
    }

    fn wrong_cursor(&self, entry: &CatalogEntry, children: &[u64]) -> Vec<String> {
        let mut wrong = Vec::new();
        let cursor = entry.collapse_cursor.get();
        if cursor == 0 || entry.kind() == CatalogKind::Base {
            return wrong;
        }
        if entry.kind() != CatalogKind::Hidden {
            wrong.push(format!(
                "it is not deleted, but taken apart up to block {cursor}"
            ));
        }
        if !cursor.is_multiple_of(FAN as u64) {
            wrong.push(format!(
                "block {cursor}, up to which it is taken apart, is within a leaf"
            ));
        }
        if children.len() > 1 {
            wrong.push(format!(
                "it is taken apart, but {} maps need it",
                children.len()
            ));
        }
        let parent = self.parent(entry);
        if parent.is_some_and(|parent| parent.collapse_cursor.get() != 0) {
            wrong.push("it is taken apart while its parent is".into());
        }
        wrong
    }

    /// Each volume has one head with a name of its own; its snapshots have different names.
    fn wrong_names(&self) -> Vec<(u64, String)> {
        let mut wrong = Vec::new();
        let (mut names, mut heads) = (BTreeMap::new(), BTreeMap::new());
        let of_kind = |kind| self.iter().filter(move |entry| entry.kind() == kind);
        for entry in of_kind(CatalogKind::Head) {
            let id = entry.id.get();
            if let Some(other) = names.insert(entry.name(), id) {
                wrong.push((id, format!("map {other} has the same name")));
            }
            if let Some(other) = heads.insert(entry.volume.get(), id) {
                wrong.push((id, format!("map {other} is the same volume")));
            }
        }
        let mut names = BTreeMap::new();
        for entry in of_kind(CatalogKind::Snapshot) {
            let (id, volume) = (entry.id.get(), entry.volume.get());
            if let Some(other) = names.insert((volume, entry.name()), id) {
                wrong.push((
                    id,
                    format!("snapshot {other} of that volume has the same name"),
                ));
            }
            if !heads.contains_key(&volume) {
                wrong.push((id, "there is no such volume".into()));
            }
        }
        wrong
    }
}
