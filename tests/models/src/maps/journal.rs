//! Records of what happened since a checkpoint. An operation is a record that is applied; replay applies them again.

use anyhow::{Result, ensure};

use super::delta::Hole;
use super::mutant::Mutant;
use super::pointer::{Lba, Pointer};
use super::{Entry, Kind, Lab, Map, MapId, State, Store};

/// What the journal says.
#[derive(Clone, Debug)]
pub enum Record {
    /// A block was written (or filled, or became REMOTE).
    Point {
        map: MapId,
        lba: Lba,
        pointer: Pointer,
    },
    /// A range became zeros.
    Hole { map: MapId, hole: Hole },
    /// Entries of the catalog as they are now, all or none of them.
    Entries(Vec<(MapId, Map)>),
}

impl State {
    /// Does what a record says, for the first time or again.
    pub fn apply(&mut self, lab: &mut Lab, record: &Record) -> Result<()> {
        match record {
            Record::Point { map, lba, pointer } => {
                if let Some(addr) = pointer.data()
                    && self.allocated.insert(addr)
                {
                    self.ledger.push(Entry::Allocated(addr));
                }
                let replaced = self.map_mut(*map)?.active.add_point(*lba, *pointer);
                replaced.map_or(Ok(()), |addr| self.free(lab, addr))
            }
            Record::Hole { map, hole } => {
                let replaced = self.map_mut(*map)?.active.add_hole(*hole);
                replaced
                    .into_iter()
                    .try_for_each(|addr| self.free(lab, addr))
            }
            Record::Entries(entries) => {
                let mut entries = entries.iter();
                entries.try_for_each(|(id, entry)| self.apply_entry(lab, *id, entry))
            }
        }
    }

    /// Of a map that is known, only what clients decide is taken over: where its tree is, how far its collapse has come and
    /// what its parent is belong to checkpoints, and one may have been published since the record was made.
    fn apply_entry(&mut self, lab: &mut Lab, id: MapId, entry: &Map) -> Result<()> {
        let Some(map) = self.maps.get_mut(&id) else {
            let parent = entry
                .parent
                .is_none_or(|parent| self.maps.contains_key(&parent));
            ensure!(parent, "map {id} has a parent that is gone");
            self.maps.insert(id, entry.clone());
            return Ok(());
        };
        let was = map.kind;
        (map.kind, map.seq, map.size) = (entry.kind, entry.seq, entry.size);
        if lab.has(Mutant::ReplayTrustsEntry) {
            (map.parent, map.cursor, map.root) = (entry.parent, entry.cursor, entry.root);
        }
        // A snapshot's changes are still needed, by its children.
        if entry.kind == Kind::Deleted && was != Kind::Snapshot {
            let dropped = std::mem::take(&mut map.active);
            dropped.blocks().try_for_each(|addr| self.free(lab, addr))?;
        }
        Ok(())
    }
}

impl Store {
    /// Applies a record and keeps it.
    pub fn commit(&mut self, record: Record) -> Result<()> {
        self.live.apply(&mut self.lab, &record)?;
        self.journal.push(record);
        Ok(())
    }

    /// Loses the power: the first `kept` records survived. Recovers.
    pub fn crash(&mut self, kept: usize) -> Result<()> {
        self.journal.truncate(kept);
        self.image = None;
        self.cut = 0;
        self.live = self.published.clone();
        for record in &self.journal {
            self.live.apply(&mut self.lab, record)?;
        }
        self.lab.counts.crashes += 1;
        self.lab.counts.records_replayed += kept as u64;
        Ok(())
    }
}
