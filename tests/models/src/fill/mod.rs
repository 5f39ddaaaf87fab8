//! The model `fill`: blocks that arrive from somewhere else.
//!
//! Adopting a volume makes a head whose root is one REMOTE pointer, and a hidden *base* map for its source. REMOTE means: look
//! into the base, and ask the origin if it is not there. What arrives goes into the base only, with the origin's birth, and only
//! where nothing is yet. A client's write changes the head as always, so it always wins; and REMOTE pointers own nothing, so
//! ownership, snapshots and collapse need no new rule. A volume that comes back is a child of the snapshot that it
//! left behind, with REMOTE pointers where it changed elsewhere.

mod arrival;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::counts::Counts;
use crate::maps::Kind;
use crate::maps::journal::Record;
use crate::maps::mutant::Mutant;
use crate::maps::pointer::{Birth, Lba, Pointer, Root, span};
use crate::oracle::{BLOCKS_MAX, Block};
use crate::workload::{Origin, Workload};
use arrival::Fetch;

/// Steps of a seed.
const STEPS: u64 = 400;

/// Births of origins are smaller: the clock of an adopted volume goes on above them.
const EPOCH: Birth = 10_000;

/// Sources of a seed.
const SOURCES_MAX: usize = 6;

/// The deliberate bugs that this model must notice, each with the seeds within which it must.
pub const MUTANTS: [(Mutant, u64); 19] = [
    (Mutant::FillIntoReader, 20),
    (Mutant::FillIntoReaderAsWrite, 20),
    (Mutant::FillIntoOwner, 20),
    (Mutant::FillWithoutCheck, 50),
    (Mutant::FillAfterFree, 100),
    (Mutant::BaseGoesWithHead, 50),
    (Mutant::BaseStays, 20),
    (Mutant::BaseHolesSpread, 50),
    (Mutant::RemoteReadsZeros, 20),
    (Mutant::BaseFirst, 20),
    (Mutant::RemoteOpensAsNever, 20),
    (Mutant::PartialWriteOnZeros, 20),
    (Mutant::PartialWriteUnordered, 100),
    (Mutant::RemoteIsOwned, 50),
    (Mutant::SweepHeadsOnly, 50),
    (Mutant::HydratedByHeads, 100),
    (Mutant::HydratedBeforeFlush, 100),
    (Mutant::BiasBelowSnapshot, 100),
    (Mutant::IgnoreCursor, 100),
];

/// Runs one seed.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Counts> {
    let mut clients = Workload::new(seed, mutant);
    clients.store.clock = EPOCH;
    let mut scenario = Scenario {
        clients,
        fetches: Vec::new(),
        adopted: BTreeMap::new(),
    };
    scenario.adopt()?;
    scenario.clients.create()?;
    for _ in 0..STEPS {
        scenario.step()?;
        scenario.clients.after_step()?;
        scenario.check_bases()?;
    }
    scenario.clients.end()?;
    Ok(scenario.clients.store.lab.counts)
}

struct Scenario {
    clients: Workload,
    fetches: Vec<Fetch>,
    /// What the root of each adopted source was.
    adopted: BTreeMap<u8, Root>,
}

impl Scenario {
    fn step(&mut self) -> Result<()> {
        let clients = &mut self.clients;
        let (room, sources) = (clients.has_room(), clients.origins.len());
        match clients.random.below(1000) {
            0..4 if room && sources < SOURCES_MAX => self.adopt(),
            4..12 if room && sources < SOURCES_MAX => self.come_back(),
            12..140 => self.ask(),
            140..250 => self.answer(),
            250..253 => self.hydrate(),
            253..260 => self.sweep(),
            260..265 => self.check_diffs(),
            _ => clients.step(),
        }
    }

    /// A volume of somebody else becomes ours; nothing of it is here.
    fn adopt(&mut self) -> Result<()> {
        let clients = &mut self.clients;
        let height = 2 + clients.random.below(2) as u8;
        let size = span(height);
        let mut blocks = vec![None; BLOCKS_MAX];
        for block in &mut blocks[..size as usize] {
            let birth = 1 + clients.random.below(EPOCH - 1);
            let content = if clients.random.one_in(6) {
                [0; 2]
            } else {
                [birth; 2]
            };
            *block = (!clients.random.one_in(4)).then_some((birth, content));
        }
        let newest = blocks
            .iter()
            .flatten()
            .map(|block| block.0)
            .max()
            .unwrap_or(1);
        let source = clients.origins.len() as u8;
        let id = clients.store.adopt(source, height, size, newest)?;
        clients.history.now.create(id);
        for (lba, block) in (0..).zip(&blocks) {
            let content = block.map_or([0; 2], |(_, content)| content);
            clients.history.now.put(
                id,
                lba,
                Block {
                    content,
                    is_ours: false,
                },
            );
        }
        clients.note();
        clients.origins.push(Origin {
            blocks,
            is_there: true,
            moved: vec![true; BLOCKS_MAX],
        });
        clients.store.lab.counts.adoptions += 1;
        let pointer = Pointer::Remote {
            source,
            birth: newest,
        };
        self.adopted.insert(source, Root { pointer, height });
        Ok(())
    }

    /// A volume was given away, changed there, and comes back: as a child of the snapshot that stayed here.
    fn come_back(&mut self) -> Result<()> {
        let clients = &mut self.clients;
        let snapshots = clients.store.of_kind(Kind::Snapshot);
        let Some(snapshot) = clients.random.pick(&snapshots) else {
            return Ok(());
        };
        let size = clients.store.live.map(snapshot)?.size;
        let seq = clients.store.live.map(snapshot)?.seq;
        let source = clients.origins.len() as u8;
        let mut origin = Origin {
            blocks: vec![None; BLOCKS_MAX],
            is_there: true,
            moved: vec![false; BLOCKS_MAX],
        };
        let id = clients.store.come_back(snapshot, source)?;
        clients.history.now.copy(snapshot, id);
        clients.note();
        for lba in 0..size {
            if !clients.random.one_in(5) {
                continue;
            }
            // The snapshot may be newer than its newest block; births elsewhere go on above the snapshot.
            let below = clients.store.lab.has(Mutant::BiasBelowSnapshot);
            let birth = if below { seq } else { clients.store.tick() };
            let content = if clients.random.one_in(6) {
                [0; 2]
            } else {
                [birth; 2]
            };
            origin.blocks[lba as usize] = Some((birth, content));
            origin.moved[lba as usize] = true;
            let pointer = Pointer::Remote { source, birth };
            clients.store.commit(Record::Point {
                map: id,
                lba,
                pointer,
            })?;
            clients.history.now.put(
                id,
                lba,
                Block {
                    content,
                    is_ours: false,
                },
            );
            clients.note();
        }
        clients.origins.push(origin);
        clients.store.lab.counts.returns += 1;
        Ok(())
    }

    /// A source has a base exactly as long as a visible map may refer to it.
    fn check_bases(&self) -> Result<()> {
        let store = &self.clients.store;
        let mut needed = 0;
        for id in store.visible() {
            needed |= store.live.map(id)?.sources;
        }
        for source in 0..self.clients.origins.len() as u8 {
            let there = store.base(source).is_ok();
            ensure!(
                there == (needed >> source & 1 == 1),
                "the base of {source} is there: {there}"
            );
        }
        Ok(())
    }

    /// What an adopted volume has changed is found by its pointers, and is what clients changed: nothing else moves when it goes
    /// back.
    fn check_diffs(&mut self) -> Result<()> {
        self.clients.settle_all()?;
        self.clients.rest()?;
        let store = &mut self.clients.store;
        for id in store.visible() {
            let sources = store.live.map(id)?.sources;
            let source = sources.trailing_zeros() as u8;
            let Some(adopted) = self
                .adopted
                .get(&source)
                .filter(|_| sources.is_power_of_two())
            else {
                continue;
            };
            let found = store
                .live
                .diff_roots(&store.lab, *adopted, store.live.root(id)?, 0);
            let ours = |lba: &Lba| self.clients.history.now.block(id, *lba).is_ours;
            let size = store.live.map(id)?.size;
            // Births would tell a fill from a write, if fills were in the same map.
            let is_write = |lba: &Lba| {
                let pointer = store.live.read(&store.lab.disk, id, *lba);
                pointer.is_ok_and(|pointer| pointer.birth() > EPOCH)
            };
            let within = span(adopted.height).min(size);
            let found = found
                .into_iter()
                .filter(|lba| *lba < within)
                .filter(is_write)
                .collect::<Vec<_>>();
            let expected = (0..within).filter(ours).collect::<Vec<_>>();
            store.lab.counts.diffs += 1;
            ensure!(
                found == expected,
                "map {id} changed {expected:?}, but {found:?} would move"
            );
        }
        Ok(())
    }
}
