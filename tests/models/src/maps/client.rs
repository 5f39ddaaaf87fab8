//! What clients do: each operation is one record.

use anyhow::{Context, Result};

use super::delta::{Deltas, Hole};
use super::journal::Record;
use super::mutant::Mutant;
use super::pointer::{Birth, Lba, Pointer, Root};
use super::{Content, Kind, Map, MapId, Store};

impl Store {
    /// The next birth.
    pub fn tick(&mut self) -> Birth {
        self.clock += 1;
        self.clock
    }

    /// Maps of a kind that clients see.
    pub fn of_kind(&self, kind: Kind) -> Vec<MapId> {
        let maps = self.live.maps.iter().filter(|(_, map)| map.kind == kind);
        maps.map(|(id, _)| *id).collect()
    }

    /// Heads and snapshots.
    pub fn visible(&self) -> Vec<MapId> {
        let seen = |map: &Map| matches!(map.kind, Kind::Head | Kind::Snapshot);
        let maps = self.live.maps.iter().filter(|(_, map)| seen(map));
        maps.map(|(id, _)| *id).collect()
    }

    fn number(&mut self) -> MapId {
        self.next_map += 1;
        self.next_map
    }

    /// A map as the catalog has it.
    pub fn entry(&self, id: MapId) -> Result<Map> {
        let map = self.live.map(id)?;
        Ok(Map {
            active: Deltas::default(),
            frozen: Deltas::default(),
            ..map.clone()
        })
    }

    /// A new map without contents of its own.
    pub fn blank(kind: Kind, volume: u32, size: u64) -> Map {
        Map {
            kind,
            volume,
            size,
            parent: None,
            seq: 0,
            sources: 0,
            root: None,
            cursor: None,
            active: Deltas::default(),
            frozen: Deltas::default(),
        }
    }

    /// Makes an empty volume; returns its head.
    pub fn create(&mut self, size: u64) -> Result<MapId> {
        let id = self.number();
        self.commit(Record::Entries(vec![(
            id,
            Self::blank(Kind::Head, id, size),
        )]))?;
        Ok(id)
    }

    /// Makes a volume whose contents are all elsewhere, and the base for what arrives; returns the head.
    pub fn adopt(&mut self, source: u8, height: u8, size: u64, birth: Birth) -> Result<MapId> {
        let (base, id) = (self.number(), self.number());
        let pointer = Pointer::Remote { source, birth };
        let head = Map {
            root: Some(Root { pointer, height }),
            sources: 1 << source,
            ..Self::blank(Kind::Head, id, size)
        };
        let base = (base, Self::blank(Kind::Base { source }, 0, size));
        self.commit(Record::Entries(vec![base, (id, head)]))?;
        Ok(id)
    }

    /// A volume comes back to the snapshot that it left behind; what changed elsewhere is told afterwards. Returns the head.
    pub fn come_back(&mut self, snapshot: MapId, source: u8) -> Result<MapId> {
        let (base, id) = (self.number(), self.number());
        let mut head = self.child_of(snapshot, id)?;
        head.sources |= 1 << source;
        let base = (base, Self::blank(Kind::Base { source }, 0, head.size));
        self.commit(Record::Entries(vec![base, (id, head)]))?;
        Ok(id)
    }

    /// Writes a block with a birth drawn before (or elsewhere).
    pub fn write_born(
        &mut self,
        map: MapId,
        lba: Lba,
        birth: Birth,
        content: Content,
    ) -> Result<()> {
        let addr = self.live.allocate_data(&mut self.lab, content);
        self.commit(Record::Point {
            map,
            lba,
            pointer: Pointer::Data { addr, birth },
        })
    }

    /// Makes a range zeros.
    pub fn discard(&mut self, head: MapId, start: Lba, end: Lba) -> Result<()> {
        let birth = self.tick();
        self.commit(Record::Hole {
            map: head,
            hole: Hole { start, end, birth },
        })
    }

    /// Takes snapshots of several heads in one instant: each old map becomes the snapshot, a new one goes on. Returns the new
    /// heads.
    pub fn snapshot(&mut self, heads: &[MapId]) -> Result<Vec<MapId>> {
        let seq = self.tick();
        let (mut entries, mut new) = (Vec::new(), Vec::new());
        for head in heads {
            let old = self.entry(*head)?;
            let id = self.number();
            let next = Map {
                parent: Some(*head),
                root: None,
                ..old.clone()
            };
            entries.push((
                *head,
                Map {
                    kind: Kind::Snapshot,
                    seq,
                    ..old
                },
            ));
            entries.push((id, next));
            new.push(id);
        }
        self.lab.counts.snapshots += heads.len() as u64;
        self.commit(Record::Entries(entries))?;
        Ok(new)
    }

    /// A new volume that begins as the snapshot is.
    pub fn clone_snapshot(&mut self, snapshot: MapId) -> Result<MapId> {
        let id = self.number();
        let entry = self.child_of(snapshot, id)?;
        self.lab.counts.clones += 1;
        self.commit(Record::Entries(vec![(id, entry)]))?;
        Ok(id)
    }

    fn child_of(&self, snapshot: MapId, volume: u32) -> Result<Map> {
        let of = self.live.map(snapshot)?;
        Ok(Map {
            parent: Some(snapshot),
            sources: of.sources,
            ..Self::blank(Kind::Head, volume, of.size)
        })
    }

    /// Lets a volume begin anew from one of its snapshots; returns the new head.
    pub fn roll_back(&mut self, head: MapId, snapshot: MapId) -> Result<MapId> {
        let old = self.entry(head)?;
        let id = self.number();
        let mut next = self.child_of(snapshot, old.volume)?;
        if self.lab.has(Mutant::RollbackKeepsParent) {
            (next.parent, next.root) = (old.parent, self.live.map(snapshot)?.root);
        }
        self.lab.counts.rollbacks += 1;
        let deleted = Map {
            kind: Kind::Deleted,
            ..old
        };
        self.commit_with_bases(vec![(id, next), (head, deleted)])?;
        Ok(id)
    }

    /// Deletes maps in one instant, and the bases that nothing refers to then.
    pub fn delete(&mut self, maps: &[MapId]) -> Result<()> {
        let gone = |id: &MapId| {
            Ok((
                *id,
                Map {
                    kind: Kind::Deleted,
                    ..self.entry(*id)?
                },
            ))
        };
        let entries = maps.iter().map(gone).collect::<Result<Vec<_>>>()?;
        self.lab.counts.deletes += maps.len() as u64;
        self.commit_with_bases(entries)
    }

    /// Commits, and in the same record deletes bases that no visible map refers to any more.
    fn commit_with_bases(&mut self, mut entries: Vec<(MapId, Map)>) -> Result<()> {
        let lost = |entry: &&(MapId, Map)| entry.1.kind == Kind::Deleted;
        let changed = |id: &MapId| entries.iter().any(|entry| entry.0 == *id);
        let others = self.visible().into_iter().filter(|id| !changed(id));
        let mut needed = 0;
        for id in others {
            let map = self.live.map(id)?;
            if map.kind == Kind::Head || !self.lab.has(Mutant::BaseGoesWithHead) {
                needed |= map.sources;
            }
        }
        let stay = entries.iter().filter(|entry| !lost(entry));
        needed |= stay
            .map(|(_, map)| map.sources)
            .fold(0, |all, one| all | one);
        if self.lab.has(Mutant::BaseStays) {
            needed = u32::MAX;
        }
        let bases = self.live.maps.iter().filter(
            |(_, map)| matches!(map.kind, Kind::Base { source } if needed & 1 << source == 0),
        );
        let bases = bases.map(|(id, _)| *id).collect::<Vec<_>>();
        for id in bases {
            self.lab.counts.bases_freed += 1;
            entries.push((
                id,
                Map {
                    kind: Kind::Deleted,
                    ..self.entry(id)?
                },
            ));
        }
        self.commit(Record::Entries(entries))
    }

    /// Makes a volume larger. The tree stays as it is.
    pub fn grow(&mut self, head: MapId, size: u64) -> Result<()> {
        let entry = Map {
            size,
            ..self.entry(head)?
        };
        self.commit(Record::Entries(vec![(head, entry)]))
    }

    /// Writes a map's entry again as it is, like a change of its name.
    pub fn touch(&mut self, id: MapId) -> Result<()> {
        let entry = self.entry(id)?;
        self.commit(Record::Entries(vec![(id, entry)]))
    }

    /// The base map of a source.
    pub fn base(&self, source: u8) -> Result<MapId> {
        let bases = self.of_kind(Kind::Base { source });
        bases.first().copied().context("its base is gone")
    }
}
