//! Deleted maps with at most one child vanish: what they do not share with the child is freed, the rest becomes the child's.
//!
//! A cursor moves over the map, leaf by leaf. Before it, the child answers to the grandparent's bound; behind it, to the map's.

use anyhow::{Result, ensure};

use super::mutant::Mutant;
use super::pointer::{FAN, Lba, Pointer, span};
use super::{Kind, Lab, MapId, State};

impl State {
    /// Begins every collapse that may begin.
    pub fn begin_collapses(&mut self, lab: &mut Lab) -> Result<()> {
        for id in self.maps.keys().copied().collect::<Vec<_>>() {
            if self.may_collapse(lab, id)? {
                self.map_mut(id)?.cursor = Some(0);
            }
        }
        Ok(())
    }

    fn may_collapse(&self, lab: &mut Lab, id: MapId) -> Result<bool> {
        let map = self.map(id)?;
        if map.kind != Kind::Deleted || map.cursor.is_some() {
            return Ok(false);
        }
        let children = self.children(id);
        let most = if lab.has(Mutant::CollapseBranch) {
            2
        } else {
            1
        };
        if children.len() > most {
            lab.counts.hidden += 1;
            return Ok(false);
        }
        // A bound looks past one cursor only.
        let collapsing = |id: &MapId| self.maps.get(id).is_some_and(|map| map.cursor.is_some());
        let neighbour = map.parent.iter().chain(&children).any(collapsing);
        Ok(!neighbour || lab.has(Mutant::CollapseNeighbours))
    }

    /// Maps that are being collapsed.
    pub fn collapsing(&self) -> Vec<MapId> {
        let collapsing = self.maps.iter().filter(|(_, map)| map.cursor.is_some());
        collapsing.map(|(id, _)| *id).collect()
    }

    /// Moves the cursor of `id` past the next leaf, or past the next subtree that there is nothing to free in.
    pub fn collapse_step(&mut self, lab: &mut Lab, id: MapId) -> Result<()> {
        let map = self.map(id)?;
        let (root, parent) = (self.root(id)?, map.parent);
        let Some(cursor) = map.cursor else {
            return Ok(());
        };
        let child = self.children(id).first().copied();
        let bound = parent.map_or(Ok(0), |parent| {
            Ok::<_, anyhow::Error>(self.map(parent)?.seq)
        })?;
        if cursor >= root.reach() {
            return self.end_collapse(lab, id, child);
        }
        let mut trail = Vec::new();
        let (mut pointer, mut level, mut first) = (root.pointer, root.height - 1, 0);
        let cursor_next = loop {
            let end: Lba = first + span(level + 1);
            let theirs = self.counterpart(lab, id, child, level, first)?;
            let shared = pointer == theirs && !lab.has(Mutant::SharedSubtreesFreed);
            let Pointer::Node { addr, birth } = pointer else {
                self.collapse_remote(lab, pointer, theirs, first, end)?;
                break end;
            };
            if shared || birth <= bound {
                lab.counts.subtrees_skipped += 1;
                break end;
            }
            trail.push((addr, end));
            let entries = lab.disk.node(addr);
            if level == 0 {
                let theirs = lab.disk.open(theirs);
                for index in 0..FAN {
                    let (mine, lba) = (entries[index], first + index as u64);
                    match mine {
                        Pointer::Data { addr, birth } if birth > bound && mine != theirs[index] => {
                            self.free(lab, addr)?;
                        }
                        _ => self.collapse_remote(lab, mine, theirs[index], lba, lba + 1)?,
                    }
                }
                break end;
            }
            if lab.has(Mutant::NodesFreedOnEntry) && cursor == first {
                self.free(lab, addr)?;
            }
            let index = ((cursor - first) / span(level)) as usize % FAN;
            pointer = entries[index];
            first += index as u64 * span(level);
            level -= 1;
        };
        for (level, (addr, end)) in trail.iter().rev().enumerate() {
            // A node is needed to find the way until the cursor has passed its end.
            let early = lab.has(Mutant::NodesFreedOnEntry) && level > 0;
            if *end <= cursor_next && !early {
                self.free(lab, *addr)?;
            }
        }
        self.map_mut(id)?.cursor = Some(cursor_next);
        Ok(())
    }

    /// What the child has in place of a node of `id`.
    fn counterpart(
        &self,
        lab: &Lab,
        id: MapId,
        child: Option<MapId>,
        level: u8,
        first: Lba,
    ) -> Result<Pointer> {
        if let (Some(child), true) = (child, lab.has(Mutant::EqualHeightsOnly))
            && self.root(child)?.height != self.root(id)?.height
        {
            return Ok(Pointer::Never);
        }
        self.covering(&lab.disk, child, level, first)
    }

    /// REMOTE pointers own nothing.
    fn collapse_remote(
        &mut self,
        lab: &mut Lab,
        mine: Pointer,
        theirs: Pointer,
        first: Lba,
        end: Lba,
    ) -> Result<()> {
        match mine {
            Pointer::Remote { source, .. } if lab.has(Mutant::RemoteIsOwned) && mine != theirs => {
                (first..end).try_for_each(|lba| self.free_in_base(lab, source, lba))
            }
            _ => Ok(()),
        }
    }

    fn end_collapse(&mut self, lab: &mut Lab, id: MapId, child: Option<MapId>) -> Result<()> {
        let map = self.map(id)?;
        ensure!(map.frozen.is_empty(), "map {id} vanishes with changes");
        let parent = map.parent;
        if let Some(child) = child {
            self.map_mut(child)?.parent = parent;
        }
        self.maps.remove(&id);
        lab.counts.collapses += 1;
        Ok(())
    }

    /// Only for a deliberate bug: frees what the base map of `source` has at `lba`.
    pub fn free_in_base(&mut self, lab: &mut Lab, source: u8, lba: Lba) -> Result<()> {
        let base = self
            .maps
            .iter()
            .find(|(_, map)| map.kind == Kind::Base { source });
        let Some((id, _)) = base else { return Ok(()) };
        match self.read(&lab.disk, *id, lba)? {
            Pointer::Data { addr, .. } => self.free(lab, addr),
            _ => Ok(()),
        }
    }
}
