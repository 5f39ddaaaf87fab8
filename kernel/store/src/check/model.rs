//! What the journal makes of the maps of the checkpoint.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};

use super::blocks::Data;
use super::family::Maps;
use crate::layout::{CatalogEntry, CatalogKind};
use crate::shared::FIRST_VOLUME;

/// The maps, and what the journal wrote to each.
#[derive(Default)]
pub struct Model {
    /// As they are after the journal, roots and counts excepted.
    pub maps: Maps,
    /// The newest write of each block (map, block), and whether the journal says that it was durable.
    points: BTreeMap<(u64, u64), (Data, bool)>,
    /// First block, end and birth of the holes of each map.
    holes: HashMap<u64, Vec<(u64, u64, u64)>>,
    /// Births of blocks that the journal wrote.
    births: HashSet<u64>,
    /// The newest birth that the journal gave to a map.
    newest: HashMap<u64, u64>,
}

impl Model {
    pub fn new(maps: Maps) -> Self {
        Self {
            maps,
            ..Self::default()
        }
    }

    /// Changes what the catalog says, all at one instant; returns what is wrong with that.
    pub fn control(&mut self, entries: Vec<CatalogEntry>) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut new, mut ended) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            let id = entry.id.get();
            if entry.kind() == CatalogKind::Hidden {
                let was = self.maps.get(id);
                let head = was.filter(|was| was.kind() == CatalogKind::Head);
                ended.extend(head.map(|head| head.volume.get()));
            }
            match self.maps.get(id).cloned() {
                Some(old) => wrong.extend(self.change(&old, entry)),
                None => new.push(entry),
            }
        }
        // Where it begins may have become a snapshot in the same instant.
        for mut entry in new {
            let id = entry.id.get();
            let parent = self.maps.get(entry.parent.get());
            let can_be_new = matches!(entry.kind(), CatalogKind::Head | CatalogKind::Base);
            if id < FIRST_VOLUME || !can_be_new {
                wrong.push(format!("{entry:?} does not exist"));
            }
            if let Some(parent) = parent {
                (entry.root, entry.height) = (parent.root, parent.height);
                if parent.kind() != CatalogKind::Snapshot {
                    let label = self.maps.label(parent.id.get());
                    wrong.push(format!("{entry:?} begins as {label}, which is no snapshot"));
                }
                if parent.size_bytes != entry.size_bytes {
                    wrong.push(format!(
                        "{entry:?} begins with another size than its snapshot"
                    ));
                }
            } else if entry.parent.get() != 0 {
                wrong.push(format!(
                    "{entry:?} begins as {}, which is gone",
                    entry.parent
                ));
            }
            ended.remove(&entry.volume.get());
            self.maps.insert(entry);
        }
        self.hide_snapshots(&ended);
        self.hide_bases();
        wrong
    }

    /// A volume whose head is deleted without another one in its place takes its snapshots with it.
    fn hide_snapshots(&mut self, volumes: &BTreeSet<u64>) {
        if volumes.is_empty() {
            return;
        }
        let snapshots = self.maps.iter().filter(|entry| {
            entry.kind() == CatalogKind::Snapshot && volumes.contains(&entry.volume.get())
        });
        let snapshots: Vec<CatalogEntry> = snapshots.cloned().collect();
        for mut entry in snapshots {
            entry.set_kind(CatalogKind::Hidden);
            self.maps.insert(entry);
        }
    }

    /// A base goes with the last volume or snapshot that needs it.
    fn hide_bases(&mut self) {
        let visible = [CatalogKind::Head, CatalogKind::Snapshot];
        let needs = |base: &CatalogEntry| {
            let mut others = self.maps.iter();
            others.any(|entry| visible.contains(&entry.kind()) && entry.bases.contains(&base.id))
        };
        let bases = self.maps.iter();
        let bases = bases.filter(|entry| entry.kind() == CatalogKind::Base && !needs(entry));
        let bases: Vec<CatalogEntry> = bases.cloned().collect();
        for mut entry in bases {
            entry.set_kind(CatalogKind::Hidden);
            (entry.seq, entry.collapse_cursor) = Default::default();
            self.maps.insert(entry);
        }
    }

    /// A map changes; what it holds and where it came from does not.
    fn change(&mut self, old: &CatalogEntry, mut entry: CatalogEntry) -> Vec<String> {
        use CatalogKind::{Base, Head, Hidden, Snapshot};
        let mut wrong = Vec::new();
        let (id, label) = (old.id.get(), self.maps.label(old.id.get()));
        let (from, to) = (old.kind(), entry.kind());
        let may = matches!(
            (from, to),
            (Head, Head | Snapshot | Hidden) | (Snapshot, Snapshot | Hidden) | (Base, Base)
        );
        if !may {
            wrong.push(format!("{label} becomes {to:?}"));
        }
        let newest = self.newest.get(&id).copied().unwrap_or(0);
        if (from, to) == (Head, Snapshot) {
            if entry.seq.get() <= newest {
                let seq = entry.seq;
                wrong.push(format!(
                    "{label} gets clock {seq:#x}, but has birth {newest:#x}"
                ));
            }
        } else if entry.seq != old.seq {
            wrong.push(format!("the clock of {label} changes"));
        }
        // A snapshot that becomes another volume's is called what it was where it came from.
        let is_moved = (from, to) == (Snapshot, Snapshot) && entry.volume != old.volume;
        let has_volume = |entry: &CatalogEntry| {
            let mut maps = self.maps.iter();
            maps.any(|map| map.kind() == Head && map.volume == entry.volume)
        };
        if is_moved && !has_volume(&entry) {
            wrong.push(format!("{label} moves to a volume that is not there"));
        }
        if entry.size_bytes < old.size_bytes && !is_moved
            || entry.size_bytes > old.size_bytes && (from, to) != (Head, Head)
        {
            wrong.push(format!(
                "the size of {label} changes to {}",
                entry.size_bytes
            ));
        }
        if entry.lineage_uuid != old.lineage_uuid
            || entry.epoch_bias != old.epoch_bias
            || entry.volume != old.volume && !is_moved
            || entry.volume_uuid != old.volume_uuid
            || entry.bases != old.bases
        {
            wrong.push(format!("{label} becomes another volume"));
        }
        (entry.root, entry.height) = (old.root, old.height);
        entry.blocks = old.blocks;
        entry.parent = old.parent;
        if from != Base || entry.collapse_cursor < old.collapse_cursor {
            entry.collapse_cursor = old.collapse_cursor;
        }
        self.maps.insert(entry);
        wrong
    }

    /// Notes that `map` was changed at `birth`; false if that is not after everything that it began with.
    pub fn born(&mut self, map: u64, birth: u64) -> bool {
        let newest = self.newest.entry(map).or_default();
        *newest = birth.max(*newest);
        let entry = self.maps.get(map);
        entry.is_none_or(|entry| self.maps.bounds(entry).after.birth < birth)
    }

    /// Notes a write; returns the birth of a newer one that came before it.
    pub fn write(&mut self, data: Data, durable: bool) -> Option<u64> {
        let old = self.points.insert((data.volume, data.lba), (data, durable));
        let old = old.map(|(old, _)| old.birth);
        old.filter(|old| *old > data.birth)
    }

    /// Whether no block had that birth before.
    pub fn is_new_birth(&mut self, birth: u64) -> bool {
        self.births.insert(birth)
    }

    /// Makes a hole.
    pub fn hole(&mut self, map: u64, (lba, end): (u64, u64), birth: u64) {
        let covered = self.points.range((map, lba)..(map, end));
        let covered: Vec<(u64, u64)> = covered
            .filter(|(_, (data, _))| data.birth < birth)
            .map(|(key, _)| *key)
            .collect();
        for key in covered {
            self.points.remove(&key);
        }
        self.holes.entry(map).or_default().push((lba, end, birth));
    }

    /// The durable writes that somebody can still read.
    pub fn current(&self) -> Vec<Data> {
        let children = self.maps.children();
        let points = self.points.values();
        points
            .filter(|(data, durable)| *durable && self.is_visible(data, &children))
            .map(|(data, _)| *data)
            .collect()
    }

    /// Whether a volume or snapshot has this block: the map itself or one that came from it and has nothing newer there.
    fn is_visible(&self, data: &Data, children: &BTreeMap<u64, Vec<u64>>) -> bool {
        let mut maps = alloc::vec![data.volume];
        while let Some(map) = maps.pop() {
            let entry = self.maps.get(map);
            if entry.is_some_and(|entry| entry.kind() != CatalogKind::Hidden) {
                return true;
            }
            let of_this = children.get(&map).into_iter().flatten();
            maps.extend(of_this.filter(|child| !self.has_own(**child, data.lba)));
        }
        false
    }

    fn has_own(&self, map: u64, lba: u64) -> bool {
        let mut holes = self.holes.get(&map).into_iter().flatten();
        self.points.contains_key(&(map, lba))
            || holes.any(|(start, end, _)| (*start..*end).contains(&lba))
    }
}
