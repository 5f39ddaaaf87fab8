//! Merging changes into the trees. Nodes are never overwritten: one that changes is written to a new place, and the old
//! one is freed if it belongs to the map.

use anyhow::{Result, ensure};

use super::delta::{Deltas, Hole};
use super::mutant::Mutant;
use super::pointer::{Birth, Entries, FAN, Lba, Pointer, Root, index_in, span};
use super::reclaim::Item;
use super::{Kind, Lab, MapId, State};

/// A node in the tree that is being changed, or what stands in its place.
#[derive(Clone, Copy)]
struct Place {
    pointer: Pointer,
    level: u8,
    first: Lba,
}

impl Place {
    fn end(self) -> Lba {
        self.first + span(self.level + 1)
    }

    fn child(self, entries: &Entries, index: usize) -> Self {
        Self {
            pointer: entries[index],
            level: self.level - 1,
            first: self.first + index as u64 * span(self.level),
        }
    }
}

impl State {
    /// Merges the frozen changes of all maps, parents first: a map without a tree starts with its parent's, which must have the
    /// parent's changes in it.
    pub fn merge_all(&mut self, lab: &mut Lab) -> Result<()> {
        let mut order = self.maps.keys().copied().collect::<Vec<_>>();
        if lab.has(Mutant::ChildMergedFirst) {
            order.reverse();
        }
        for id in order {
            let (root, parent) = (self.map(id)?.root, self.map(id)?.parent);
            let root = match (root, parent) {
                (Some(root), _) => root,
                (None, Some(parent)) => self.map(parent)?.root.unwrap_or_default(),
                (None, None) => Root::default(),
            };
            let deltas = std::mem::take(&mut self.map_mut(id)?.frozen);
            let root = self.merge(lab, id, root, &deltas)?;
            self.map_mut(id)?.root = Some(root);
        }
        Ok(())
    }

    fn merge(&mut self, lab: &mut Lab, id: MapId, mut root: Root, deltas: &Deltas) -> Result<Root> {
        if lab.has(Mutant::GrowWithoutEntry) && root.height > 0 {
            while root.reach() < self.map(id)?.size {
                let mut entries = [Pointer::Never; FAN];
                entries[0] = root.pointer;
                root.pointer = self.write_node(lab, id, entries);
                root.height += 1;
            }
        }
        // Points that a hole covers are gone already, so those that are left are newer.
        for hole in &deltas.holes {
            let place = Place {
                pointer: root.pointer,
                level: root.height.max(1) - 1,
                first: 0,
            };
            if root.height > 0 {
                root.pointer = self.erase(lab, id, place, *hole)?;
            }
        }
        for (lba, pointer) in &deltas.points {
            root = self.set(lab, id, root, *lba, *pointer)?;
        }
        Ok(root)
    }

    /// Puts `new` at `lba`, with as many more levels as that takes.
    fn set(
        &mut self,
        lab: &mut Lab,
        id: MapId,
        root: Root,
        lba: Lba,
        new: Pointer,
    ) -> Result<Root> {
        if lba < root.reach() {
            let place = Place {
                pointer: root.pointer,
                level: root.height - 1,
                first: 0,
            };
            let pointer = self.put(lab, id, place, lba, new)?;
            return Ok(Root {
                pointer,
                height: root.height,
            });
        }
        let level = root.height;
        let height = level + 1;
        if root.pointer == Pointer::Never {
            return self.set(lab, id, Root { height, ..root }, lba, new);
        }
        lab.counts.levels_added += 1;
        // Only the topmost new level gets the new entry. Holes of its birth make the others the map's own as well: else they
        // would look like nodes of an ancestor, and nobody would free them.
        let inherits = self.map(id)?.parent.is_some() && !lab.has(Mutant::BareLevels);
        let spreads = lab.has(Mutant::BaseHolesSpread);
        let filler = match inherits || spreads {
            true => Pointer::Hole { birth: new.birth() },
            false => Pointer::Never,
        };
        let mut entries = [filler; FAN];
        entries[0] = root.pointer;
        if lba < span(height) {
            let index = index_in(level, lba);
            let pointer = entries[index];
            entries[index] = if level == 0 {
                new
            } else {
                let first = index as u64 * span(level);
                self.put(
                    lab,
                    id,
                    Place {
                        pointer,
                        level: level - 1,
                        first,
                    },
                    lba,
                    new,
                )?
            };
        }
        let root = Root {
            pointer: self.write_node(lab, id, entries),
            height,
        };
        if lba < root.reach() {
            Ok(root)
        } else {
            self.set(lab, id, root, lba, new)
        }
    }

    fn put(
        &mut self,
        lab: &mut Lab,
        id: MapId,
        place: Place,
        lba: Lba,
        new: Pointer,
    ) -> Result<Pointer> {
        let mut entries = match place.pointer {
            Pointer::Remote { .. } if lab.has(Mutant::RemoteOpensAsNever) => [Pointer::Never; FAN],
            pointer => lab.disk.open(pointer),
        };
        let index = index_in(place.level, lba);
        let old = entries[index];
        entries[index] = if place.level == 0 {
            // A hole may seem newer: where all are holes, one with the newest birth stands for them.
            ensure!(
                old.birth() < new.birth()
                    || (old.data().is_none() && !lab.has(Mutant::RefuseOlderThanHole)),
                "block {lba} of map {id}: {old:?} is not older than {new:?}"
            );
            self.free_old_data(lab, id, old, lba)?;
            new
        } else {
            self.put(lab, id, place.child(&entries, index), lba, new)?
        };
        self.replace(lab, id, place, entries)
    }

    /// Makes zeros of what is in `hole`. What lies wholly inside is detached in one piece.
    fn erase(&mut self, lab: &mut Lab, id: MapId, place: Place, hole: Hole) -> Result<Pointer> {
        if place.pointer.is_hole() || place.first >= hole.end || place.end() <= hole.start {
            return Ok(place.pointer);
        }
        let birth = if lab.has(Mutant::HolesWithoutBirth) {
            0
        } else {
            hole.birth
        };
        let zeros = Pointer::Hole { birth };
        let before = lab.disk.open(place.pointer);
        let mut entries = before;
        for index in 0..FAN {
            let first = place.first + index as u64 * span(place.level);
            let end = first + span(place.level);
            let old = before[index];
            if old.is_hole() || first >= hole.end || end <= hole.start {
                continue;
            }
            let inside = hole.start <= first && end <= hole.end;
            entries[index] = match old {
                Pointer::Data { .. } => {
                    self.free_old_data(lab, id, old, first)?;
                    zeros
                }
                Pointer::Node { .. } if inside && self.may_detach(lab, id, first, end)? => {
                    self.detach(lab, id, place.child(&before, index))?;
                    zeros
                }
                Pointer::Remote { .. } if inside => zeros,
                _ => self.erase(lab, id, place.child(&before, index), hole)?,
            };
        }
        if entries == before {
            return Ok(place.pointer);
        }
        self.replace(lab, id, place, entries)
    }

    /// A reclaim item has one boundary, so a subtree may only be detached when all of it is on one side of the cursor of the
    /// map's parent.
    fn may_detach(&self, lab: &mut Lab, id: MapId, first: Lba, end: Lba) -> Result<bool> {
        let parent = self.map(id)?.parent;
        let cursor = parent.map_or(Ok(None), |parent| {
            Ok::<_, anyhow::Error>(self.map(parent)?.cursor)
        })?;
        let straddles = cursor.is_some_and(|cursor| first < cursor && cursor < end);
        lab.counts.straddles += u64::from(straddles);
        Ok(!straddles || lab.has(Mutant::DetachStraddling))
    }

    fn detach(&mut self, lab: &mut Lab, id: MapId, place: Place) -> Result<()> {
        let boundary = self.bound(lab, id, place.end())?;
        if place.pointer.birth() > boundary {
            lab.counts.subtrees_detached += 1;
            self.reclaim.push_back(Item {
                map: id,
                root: place.pointer,
                level: place.level,
                first: place.first,
                boundary,
                cursor: place.first,
            });
        }
        Ok(())
    }

    fn free_old_data(&mut self, lab: &mut Lab, id: MapId, old: Pointer, lba: Lba) -> Result<()> {
        match old {
            Pointer::Data { addr, birth } if birth > self.bound(lab, id, lba + 1)? => {
                self.free(lab, addr)
            }
            Pointer::Remote { source, .. } if lab.has(Mutant::RemoteIsOwned) => {
                self.free_in_base(lab, source, lba)
            }
            _ => Ok(()),
        }
    }

    /// Writes the changed node at `place`; the old one is freed if it belongs to the map.
    fn replace(
        &mut self,
        lab: &mut Lab,
        id: MapId,
        place: Place,
        entries: Entries,
    ) -> Result<Pointer> {
        if let Pointer::Node { addr, birth } = place.pointer
            && birth > self.bound(lab, id, place.end())?
        {
            self.free(lab, addr)?;
        }
        Ok(self.write_node(lab, id, entries))
    }

    fn write_node(&mut self, lab: &mut Lab, id: MapId, entries: Entries) -> Pointer {
        let birth: Birth = entries.iter().map(|entry| entry.birth()).max().unwrap_or(0);
        // In a base, never-written means not known yet, which is not the same as zeros.
        let is_base = self
            .maps
            .get(&id)
            .is_some_and(|map| matches!(map.kind, Kind::Base { .. }));
        let all_known = !is_base || lab.has(Mutant::BaseHolesSpread) || birth == 0;
        let is_hole = |entry: &Pointer| entry.is_hole() && (all_known || *entry != Pointer::Never);
        if entries.iter().all(is_hole) {
            return if birth == 0 {
                Pointer::Never
            } else {
                Pointer::Hole { birth }
            };
        }
        Pointer::Node {
            addr: self.allocate_node(lab, entries),
            birth,
        }
    }
}
