//! Differences between maps, and what deleting one would free: walks over two trees in lockstep that skip what is equal.

use std::collections::BTreeSet;

use anyhow::Result;

use super::mutant::Mutant;
use super::pointer::{Addr, Birth, FAN, Lba, Pointer, Root, span};
use super::{Disk, Kind, Lab, MapId, State};

/// What a tree has in place of a node: a pointer, or a smaller tree that lies inside.
fn part(disk: &Disk, root: Root, level: u8, first: Lba) -> Option<Pointer> {
    let inside = level >= root.height && first == 0 && root.height > 0;
    (!inside).then(|| super::pointer::covering(disk, root, level, first))
}

impl State {
    /// Blocks in which two maps differ. Their trees may be of unequal height.
    pub fn diff(&self, lab: &Lab, old: MapId, new: MapId) -> Result<Vec<Lba>> {
        let skip_to = match lab.has(Mutant::DiffBySeq) {
            true => self.map(old)?.seq,
            false => 0,
        };
        Ok(self.diff_roots(lab, self.root(old)?, self.root(new)?, skip_to))
    }

    /// Same where `old` is an ancestor of `new`: what is not newer than it has not changed.
    pub fn diff_to_descendant(&self, lab: &Lab, old: MapId, new: MapId) -> Result<Vec<Lba>> {
        let seq = self.map(old)?.seq;
        Ok(self.diff_roots(lab, self.root(old)?, self.root(new)?, seq))
    }

    /// Whether `old` is among the ancestors of `new`.
    pub fn is_ancestor(&self, old: MapId, new: MapId) -> Result<bool> {
        let mut at = self.map(new)?.parent;
        while let Some(id) = at {
            if id == old {
                return Ok(true);
            }
            at = self.map(id)?.parent;
        }
        Ok(false)
    }

    /// Same for two trees.
    pub fn diff_roots(&self, lab: &Lab, old: Root, new: Root, skip_to: Birth) -> Vec<Lba> {
        let diff = Diff {
            lab,
            old,
            new,
            skip_to,
        };
        let mut found = Vec::new();
        let height = old.height.max(new.height);
        if height > 0 {
            diff.below(height - 1, 0, &mut found);
        }
        found
    }
}

struct Diff<'a> {
    lab: &'a Lab,
    old: Root,
    new: Root,
    /// What is not newer is the same in both.
    skip_to: Birth,
}

impl Diff<'_> {
    fn below(&self, level: u8, first: Lba, found: &mut Vec<Lba>) {
        let disk = &self.lab.disk;
        let parts = (
            part(disk, self.old, level, first),
            part(disk, self.new, level, first),
        );
        if let (Some(old), Some(new)) = parts {
            let skipped = new.birth() <= self.skip_to && self.skip_to > 0;
            if old == new || skipped || (old.is_hole() && new.is_hole()) {
                return;
            }
            if level == 0 {
                let (old, new) = (disk.open(old), disk.open(new));
                let differs = |index: &usize| {
                    let (old, new) = (old[*index], new[*index]);
                    old != new && !(old.is_hole() && new.is_hole())
                };
                found.extend((0..FAN).filter(differs).map(|index| first + index as u64));
            }
        }
        if level > 0 {
            for index in 0..FAN as u64 {
                self.below(level - 1, first + index * span(level), found);
            }
        }
    }
}

impl State {
    /// What deleting a visible map frees, in a store at rest.
    ///
    /// With two or more children it only becomes hidden. Else it collapses; and if it has none and its parent is hidden and has
    /// one other child, the parent collapses onto that one.
    pub fn freed_by_delete(&self, lab: &Lab, id: MapId) -> Result<BTreeSet<Addr>> {
        let mut freed = BTreeSet::new();
        let children = self.children(id);
        if children.len() > 1 {
            return Ok(freed);
        }
        self.freed_by_collapse(lab, id, children.first().copied(), &mut freed)?;
        let Some(parent) = self.map(id)?.parent else {
            return Ok(freed);
        };
        let mut siblings = self.children(parent);
        siblings.retain(|child| *child != id);
        let waits = children.is_empty()
            && self.map(parent)?.kind == Kind::Deleted
            && siblings.len() == 1
            && !lab.has(Mutant::UniqueIgnoresHiddenParent);
        if waits {
            self.freed_by_collapse(lab, parent, siblings.first().copied(), &mut freed)?;
        }
        Ok(freed)
    }

    fn freed_by_collapse(
        &self,
        lab: &Lab,
        id: MapId,
        child: Option<MapId>,
        freed: &mut BTreeSet<Addr>,
    ) -> Result<()> {
        let root = self.root(id)?;
        self.freed_below(lab, (id, child), root.pointer, root.height, 0, freed)
    }

    fn freed_below(
        &self,
        lab: &Lab,
        (id, child): (MapId, Option<MapId>),
        mine: Pointer,
        height: u8,
        first: Lba,
        freed: &mut BTreeSet<Addr>,
    ) -> Result<()> {
        let (addr, birth) = match mine {
            Pointer::Data { addr, birth } | Pointer::Node { addr, birth } => (addr, birth),
            _ => return Ok(()),
        };
        let theirs = match height {
            0 => {
                let root = child.map_or(Ok(Root::default()), |child| self.root(child))?;
                super::pointer::look_up(&lab.disk, root, first)
            }
            _ => self.covering(&lab.disk, child, height - 1, first)?,
        };
        if mine == theirs || birth <= self.bound(lab, id, first + span(height))? {
            return Ok(());
        }
        freed.insert(addr);
        if mine.node().is_some() {
            let entries = lab.disk.node(addr);
            for (index, entry) in (0..).zip(entries) {
                let first = first + index * span(height - 1);
                self.freed_below(lab, (id, child), entry, height - 1, first, freed)?;
            }
        }
        Ok(())
    }

    /// The blocks of data that a map refers to.
    pub fn data_of(&self, lab: &Lab, id: MapId) -> Result<BTreeSet<Addr>> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.root(id)?.pointer];
        while let Some(pointer) = waiting.pop() {
            match pointer {
                Pointer::Data { addr, .. } => _ = found.insert(addr),
                Pointer::Node { addr, .. } => waiting.extend(lab.disk.node(addr)),
                _ => {}
            }
        }
        Ok(found)
    }
}
