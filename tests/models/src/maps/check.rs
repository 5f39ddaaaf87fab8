//! What must hold at every moment: each block in use has exactly one owner, and all that can be seen is in use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::pointer::{Addr, Birth, Lba, Pointer, span};
use super::{Kind, Lab, MapId, State};

/// Who owns what, by the rules alone.
struct Owners<'a> {
    state: &'a State,
    lab: &'a Lab,
    owners: BTreeMap<Addr, MapId>,
}

impl State {
    /// Checks owners, leaks, and what can be seen.
    pub fn check(&self, lab: &Lab) -> Result<()> {
        let mut owners = Owners {
            state: self,
            lab,
            owners: BTreeMap::new(),
        };
        for (id, map) in &self.maps {
            for addr in map.active.blocks().chain(map.frozen.blocks()) {
                owners.claim(*id, addr)?;
            }
            if let Some(root) = map.root {
                let floor = self.floor(*id)?;
                owners.walk(*id, root.pointer, root.height, 0, floor)?;
            }
        }
        for item in &self.reclaim {
            owners.walk_item(
                item.map,
                item.root,
                item.level,
                item.first,
                (item.boundary, item.cursor),
            )?;
        }
        for (addr, owner) in &owners.owners {
            ensure!(
                self.allocated.contains(addr),
                "block {addr} of map {owner} is lost"
            );
        }
        if owners.owners.len() != self.allocated.len() {
            let leaked = self
                .allocated
                .iter()
                .find(|addr| !owners.owners.contains_key(addr));
            anyhow::bail!("block {leaked:?} has leaked");
        }
        let mut seen = BTreeSet::new();
        for (id, map) in &self.maps {
            if let (Some(root), false) = (map.root, map.kind == Kind::Deleted) {
                self.check_reachable(lab, *id, root.pointer, &mut seen)?;
            }
        }
        Ok(())
    }

    /// The least bound that any block of a map has.
    fn floor(&self, id: MapId) -> Result<Birth> {
        let Some(parent) = self.map(id)?.parent else {
            return Ok(0);
        };
        let parent = self.map(parent)?;
        match (parent.cursor, parent.parent) {
            (None, _) => Ok(parent.seq),
            (Some(_), None) => Ok(0),
            (Some(_), Some(above)) => Ok(self.map(above)?.seq),
        }
    }

    fn check_reachable(
        &self,
        lab: &Lab,
        id: MapId,
        pointer: Pointer,
        seen: &mut BTreeSet<Addr>,
    ) -> Result<()> {
        let addr = match pointer {
            Pointer::Data { addr, .. } | Pointer::Node { addr, .. } => addr,
            _ => return Ok(()),
        };
        ensure!(
            self.allocated.contains(&addr),
            "map {id} refers to block {addr}, which is free"
        );
        if !seen.insert(addr) || pointer.data().is_some() {
            return Ok(());
        }
        let entries = lab.disk.node(addr);
        let newest = entries.iter().map(|entry| entry.birth()).max();
        ensure!(
            newest == Some(pointer.birth()),
            "a node's birth is not that of its newest entry"
        );
        entries
            .iter()
            .try_for_each(|entry| self.check_reachable(lab, id, *entry, seen))
    }
}

impl Owners<'_> {
    fn claim(&mut self, id: MapId, addr: Addr) -> Result<()> {
        let other = self.owners.insert(addr, id);
        ensure!(
            other.is_none(),
            "block {addr} has two owners: {id} and {other:?}"
        );
        Ok(())
    }

    /// Claims what map `id` owns below a pointer that covers `height` levels from `first` on. A node that straddles a
    /// cursor may belong to an ancestor and yet have entries that belong to the map, so the walk turns back at the least
    /// bound, and each block is judged by its own.
    fn walk(
        &mut self,
        id: MapId,
        pointer: Pointer,
        height: u8,
        first: Lba,
        floor: Birth,
    ) -> Result<()> {
        let (addr, birth) = match pointer {
            Pointer::Data { addr, birth } | Pointer::Node { addr, birth } if birth > floor => {
                (addr, birth)
            }
            _ => return Ok(()),
        };
        let end = first + span(height);
        let cursor = self.state.map(id)?.cursor.unwrap_or(0);
        // By the rule itself, also where a mutant gets it wrong.
        let bound = self.state.bound(&Lab::default(), id, end)?;
        if birth > bound && end > cursor {
            self.claim(id, addr)?;
        }
        if pointer.node().is_some() {
            let entries = self.lab.disk.node(addr);
            for (index, entry) in (0..).zip(entries) {
                let first = first + index * span(height - 1);
                self.walk(id, entry, height - 1, first, floor)?;
            }
        }
        Ok(())
    }

    fn walk_item(
        &mut self,
        id: MapId,
        pointer: Pointer,
        level: u8,
        first: Lba,
        (boundary, cursor): (Birth, Lba),
    ) -> Result<()> {
        let Pointer::Node { addr, birth } = pointer else {
            return Ok(());
        };
        if birth <= boundary || first + span(level + 1) <= cursor {
            return Ok(());
        }
        self.claim(id, addr)?;
        let entries = self.lab.disk.node(addr);
        for (index, entry) in (0..).zip(entries) {
            let first = first + index * span(level);
            match entry {
                Pointer::Data { addr, birth } if birth > boundary => self.claim(id, addr)?,
                Pointer::Node { .. } => {
                    self.walk_item(id, entry, level - 1, first, (boundary, cursor))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
