//! Answers of origins: what becomes of them, when an origin may be let go, and what a base need not keep.

use anyhow::Result;

use super::Scenario;
use crate::maps::journal::Record;
use crate::maps::mutant::Mutant;
use crate::maps::pointer::{Lba, Pointer};
use crate::maps::{Kind, MapId};
use crate::workload::Workload;

/// A block that an origin was asked for.
#[derive(Clone, Copy)]
pub struct Fetch {
    source: u8,
    base: MapId,
    lba: Lba,
    /// Who asked.
    reader: MapId,
}

impl Scenario {
    /// Somebody reads a block that may be elsewhere.
    pub fn ask(&mut self) -> Result<()> {
        let clients = &mut self.clients;
        let visible = clients.store.visible();
        let Some(reader) = clients.random.pick(&visible) else {
            return Ok(());
        };
        let lba = clients.random.below(clients.store.live.map(reader)?.size);
        self.ask_for(reader, lba)
    }

    fn ask_for(&mut self, reader: MapId, lba: Lba) -> Result<()> {
        let clients = &mut self.clients;
        if clients.look(reader, lba)?.is_some() {
            return Ok(());
        }
        if let Some(source) = clients.source(reader, lba)? {
            let base = clients.store.base(source)?;
            clients.origins[usize::from(source)].ask(lba)?;
            clients.store.lab.counts.fetches += 1;
            self.fetches.push(Fetch {
                source,
                base,
                lba,
                reader,
            });
        }
        Ok(())
    }

    /// An answer arrives, in any order.
    pub fn answer(&mut self) -> Result<()> {
        if self.fetches.is_empty() {
            return Ok(());
        }
        let fetch = self
            .fetches
            .swap_remove(self.clients.random.index(self.fetches.len()));
        self.fill(fetch)
    }

    fn fill(&mut self, fetch: Fetch) -> Result<()> {
        let clients = &mut self.clients;
        let Fetch { source, lba, .. } = fetch;
        let answer = clients.origins[usize::from(source)].blocks[lba as usize];
        let (mut birth, content) = answer.unwrap_or((1, [0; 2]));
        let lab = &clients.store.lab;
        let mut into = fetch.base;
        if lab.has(Mutant::FillIntoReader) || lab.has(Mutant::FillIntoReaderAsWrite) {
            into = fetch.reader;
        } else if lab.has(Mutant::FillIntoOwner) {
            into = owner(clients, fetch)?;
        }
        if lab.has(Mutant::FillIntoReaderAsWrite) {
            birth = clients.store.tick();
        }
        if !may_fill(clients, fetch, into)? {
            clients.store.lab.counts.fills_dropped += 1;
            return Ok(());
        }
        clients.store.lab.counts.fills += 1;
        if content == [0; 2] {
            // As a pointer, not as a range: in a base, zeros are something that is known.
            let pointer = Pointer::Hole { birth };
            clients.store.commit(Record::Point {
                map: into,
                lba,
                pointer,
            })?;
        } else {
            clients.store.write_born(into, lba, birth, content)?;
        }
        clients.note();
        Ok(())
    }

    /// Fetches all that is missing of a source, and then lets the origin go.
    pub fn hydrate(&mut self) -> Result<()> {
        let chosen = self.pick_source();
        let lab = &self.clients.store.lab;
        let elsewhere = [
            Mutant::FillIntoReader,
            Mutant::FillIntoReaderAsWrite,
            Mutant::FillIntoOwner,
        ];
        // Designs without a base are judged by what they do to trees, not by how they would keep count of what is missing.
        let source = chosen.filter(|_| !elsewhere.into_iter().any(|one| lab.has(one)));
        let Some(source) = source else {
            return Ok(());
        };
        let heads_only = self.clients.store.lab.has(Mutant::HydratedByHeads);
        for (reader, lba) in self.remote_blocks(source, heads_only)? {
            if self.clients.look(reader, lba)?.is_none() {
                let base = self.clients.store.base(source)?;
                self.fill(Fetch {
                    source,
                    base,
                    lba,
                    reader,
                })?;
            }
        }
        // A write in flight may have asked, too.
        self.clients.settle_all()?;
        self.fetches.retain(|fetch| fetch.source != source);
        if !self.clients.store.lab.has(Mutant::HydratedBeforeFlush) {
            self.clients.history.flush();
        }
        self.clients.origins[usize::from(source)].is_there = false;
        if self.clients.random.one_in(3) {
            self.clients.crash()
        } else {
            Ok(())
        }
    }

    /// Takes out of a base what no map refers to any more.
    pub fn sweep(&mut self) -> Result<()> {
        let Some(source) = self.pick_source() else {
            return Ok(());
        };
        let heads_only = self.clients.store.lab.has(Mutant::SweepHeadsOnly);
        let needed = self.remote_blocks(source, heads_only)?;
        let clients = &mut self.clients;
        let base = clients.store.base(source)?;
        clients.store.lab.counts.sweeps += 1;
        for lba in 0..clients.store.live.map(base)?.size {
            let is_needed = needed.iter().any(|block| block.1 == lba);
            let found = clients
                .store
                .live
                .read(&clients.store.lab.disk, base, lba)?;
            if !is_needed && found.data().is_some() {
                clients.store.discard(base, lba, lba + 1)?;
                clients.note();
            }
        }
        Ok(())
    }

    fn pick_source(&mut self) -> Option<u8> {
        let kinds = self.clients.store.live.maps.values().map(|map| map.kind);
        let sources = kinds.filter_map(|kind| match kind {
            Kind::Base { source } => Some(source),
            _ => None,
        });
        self.clients.random.pick(&sources.collect::<Vec<_>>())
    }

    /// All blocks of all visible maps that are to be sought at a source.
    fn remote_blocks(&self, source: u8, heads_only: bool) -> Result<Vec<(MapId, Lba)>> {
        let mut found = Vec::new();
        for id in self.clients.store.visible() {
            let map = self.clients.store.live.map(id)?;
            if map.kind == Kind::Head || !heads_only {
                for lba in 0..map.size {
                    if self.clients.source(id, lba)? == Some(source) {
                        found.push((id, lba));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A fill is dropped when the base is gone or has something in its place.
fn may_fill(clients: &Workload, fetch: Fetch, into: MapId) -> Result<bool> {
    let (live, lab) = (&clients.store.live, &clients.store.lab);
    if into != fetch.base {
        // The designs that fill other maps: only where the map is still there and still says REMOTE.
        let kind = live.maps.get(&into).map(|map| map.kind);
        let known = match lab.has(Mutant::FillIntoOwner) {
            true => kind.is_some_and(|kind| kind != Kind::Deleted),
            false => kind == Some(Kind::Head),
        };
        return Ok(known && clients.source(into, fetch.lba)?.is_some());
    }
    let is_there = clients.store.base(fetch.source).is_ok();
    if !is_there {
        return Ok(lab.has(Mutant::FillAfterFree));
    }
    let absent = live.read(&lab.disk, into, fetch.lba)? == Pointer::Never;
    Ok(absent || lab.has(Mutant::FillWithoutCheck))
}

/// The oldest map that has the REMOTE pointer which the reader met.
fn owner(clients: &Workload, fetch: Fetch) -> Result<MapId> {
    let mut at = fetch.reader;
    while let Some(map) = clients.store.live.maps.get(&at)
        && let Some(parent) = map.parent
        && clients.source(parent, fetch.lba)?.is_some()
    {
        at = parent;
    }
    Ok(at)
}
