//! What must hold at every moment: each block in use has exactly one owner, and all that can be seen is in use.

use anyhow::{Result, ensure};

use super::pointer::{Addr, Birth, Lba, Pointer, span};
use super::{Kind, Lab, Map, MapId, State};

/// Who owns what, by the rules alone.
struct Owners<'a> {
    lab: &'a Lab,
    /// By address.
    owners: Vec<Option<MapId>>,
    count: usize,
}

/// Where a map's own blocks begin, said once more than in [`State::bound`]: a mutant gets only that wrong.
#[derive(Clone, Copy)]
struct Claimant {
    id: MapId,
    /// Blocks before it have been given up.
    cursor: Lba,
    /// Up to here the parent has given up.
    parent_cursor: Lba,
    /// The bound up to there, and after it.
    bounds: (Birth, Birth),
}

impl Claimant {
    fn new(state: &State, id: MapId, map: &Map) -> Result<Self> {
        let seq = |map: Option<&Map>| map.map_or(0, |map| map.seq);
        let of = |id: Option<MapId>| id.map(|id| state.map(id)).transpose();
        let parent = of(map.parent)?;
        let above = of(parent.and_then(|parent| parent.parent))?;
        Ok(Self {
            id,
            cursor: map.cursor.unwrap_or(0),
            parent_cursor: parent.and_then(|parent| parent.cursor).unwrap_or(0),
            bounds: (seq(above), seq(parent)),
        })
    }

    fn owns(self, birth: Birth, end: Lba) -> bool {
        let passed = end <= self.parent_cursor;
        let bound = if passed { self.bounds.0 } else { self.bounds.1 };
        end > self.cursor && birth > bound
    }

    /// Whether it may own something below a pointer of this birth.
    fn may_own_below(self, birth: Birth) -> bool {
        let is_passing = self.parent_cursor > 0;
        birth
            > if is_passing {
                self.bounds.0
            } else {
                self.bounds.1
            }
    }
}

impl State {
    /// Checks owners, leaks, and what can be seen.
    pub fn check(&self, lab: &Lab) -> Result<()> {
        let places = lab.disk.0.len();
        let mut owners = Owners {
            lab,
            owners: vec![None; places],
            count: 0,
        };
        for (id, map) in &self.maps {
            for addr in map.active.blocks().chain(map.frozen.blocks()) {
                owners.claim(*id, addr)?;
            }
            if let Some(root) = map.root {
                let claimant = Claimant::new(self, *id, map)?;
                owners.walk(claimant, root.pointer, root.height, 0)?;
            }
        }
        for item in &self.reclaim {
            let claimant = Claimant {
                id: item.map,
                cursor: item.cursor,
                parent_cursor: 0,
                bounds: (item.boundary, item.boundary),
            };
            owners.walk(claimant, item.root, item.level + 1, item.first)?;
        }
        owners.compare(self)?;
        let mut seen = vec![false; places];
        for (id, map) in &self.maps {
            if let (Some(root), false) = (map.root, map.kind == Kind::Deleted) {
                owners.check_reachable(*id, root.pointer, &mut seen)?;
            }
        }
        Ok(())
    }
}

impl Owners<'_> {
    fn claim(&mut self, id: MapId, addr: Addr) -> Result<()> {
        let other = self.owners[addr].replace(id);
        ensure!(
            other.is_none(),
            "block {addr} has two owners: {id} and {other:?}"
        );
        self.count += 1;
        Ok(())
    }

    /// Claims what is owned below a pointer that covers `height` levels from `first` on.
    fn walk(&mut self, by: Claimant, pointer: Pointer, height: u8, first: Lba) -> Result<()> {
        let (Pointer::Data { addr, birth } | Pointer::Node { addr, birth }) = pointer else {
            return Ok(());
        };
        if !by.may_own_below(birth) {
            return Ok(());
        }
        let end = first + span(height);
        if by.owns(birth, end) {
            self.claim(by.id, addr)?;
        }
        if pointer.node().is_some() && end > by.cursor {
            for (index, entry) in (0..).zip(self.lab.disk.node(addr)) {
                self.walk(by, entry, height - 1, first + index * span(height - 1))?;
            }
        }
        Ok(())
    }

    /// What is in use is what somebody owns.
    fn compare(&self, state: &State) -> Result<()> {
        for addr in &state.allocated {
            ensure!(self.owners[*addr].is_some(), "block {addr} has leaked");
        }
        if self.count > state.allocated.len() {
            let owned = (0..self.owners.len()).filter(|addr| self.owners[*addr].is_some());
            for addr in owned {
                ensure!(
                    state.allocated.contains(&addr),
                    "block {addr} has an owner, but is free"
                );
            }
        }
        Ok(())
    }

    fn check_reachable(&self, id: MapId, pointer: Pointer, seen: &mut [bool]) -> Result<()> {
        let (Pointer::Data { addr, .. } | Pointer::Node { addr, .. }) = pointer else {
            return Ok(());
        };
        ensure!(
            self.owners[addr].is_some(),
            "map {id} refers to block {addr}, which is free"
        );
        if std::mem::replace(&mut seen[addr], true) || pointer.data().is_some() {
            return Ok(());
        }
        let entries = self.lab.disk.node(addr);
        let newest = entries.iter().map(|entry| entry.birth()).max();
        ensure!(
            newest == Some(pointer.birth()),
            "a node's birth is not that of its newest entry"
        );
        entries
            .iter()
            .try_for_each(|entry| self.check_reachable(id, *entry, seen))
    }
}
