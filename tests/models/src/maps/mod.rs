//! Maps (heads and snapshots) as small trees that share nodes, with changes that wait for a checkpoint.
//!
//! This is the part that the models `snapshots` and `fill` have in common. `README.md` has the rules in words; each file
//! here holds one of them.

pub mod check;
pub mod checkpoint;
pub mod client;
pub mod collapse;
pub mod compare;
pub mod delta;
pub mod journal;
pub mod mutant;
pub mod pointer;
pub mod reclaim;
pub mod update;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, ensure};

use crate::counts::Counts;
use delta::Deltas;
use journal::Record;
use mutant::Mutant;
use pointer::{Addr, Birth, Entries, FAN, Lba, Pointer, Root, covering, look_up};
use reclaim::Item;

/// Names a map; a child's number is greater than its parent's.
pub type MapId = u32;

/// What a block holds, half by half, so that a block can be changed in part. Each guest write writes a new number.
pub type Content = [u64; 2];

/// What a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes writes.
    Head,
    /// Never changes again.
    Snapshot,
    /// A deleted head or snapshot: hidden while it has two or more children, else being collapsed.
    Deleted,
    /// What is known of a remote source; no parent, no children, never a snapshot.
    Base { source: u8 },
}

/// A head, a snapshot, what is left of one, or a base.
#[derive(Clone, Debug)]
pub struct Map {
    pub kind: Kind,
    /// The head's and its snapshots' common name.
    pub volume: u32,
    /// Blocks that it may hold.
    pub size: u64,
    pub parent: Option<MapId>,
    /// The clock when it became a snapshot.
    pub seq: Birth,
    /// Sources that its REMOTE pointers may name, one bit each.
    pub sources: u32,
    /// Absent until the first checkpoint that knows the map: it looks like its parent then.
    pub root: Option<Root>,
    /// Blocks before it have been given up. Only a map that is being collapsed has one.
    pub cursor: Option<Lba>,
    /// Changes since the last cut.
    pub active: Deltas,
    /// Changes before the cut, while a checkpoint runs.
    pub frozen: Deltas,
}

/// All that a checkpoint writes.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub maps: BTreeMap<MapId, Map>,
    pub allocated: BTreeSet<Addr>,
    pub reclaim: VecDeque<Item>,
    /// What was allocated and freed since the cut, in order.
    pub ledger: Vec<Entry>,
}

/// A line of the ledger.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    Allocated(Addr),
    Freed(Addr),
}

#[derive(Clone, Copy, Debug)]
enum Block {
    Data(Content),
    Node(Entries),
}

/// What was ever written. Nothing is overwritten, since addresses are never handed out twice.
#[derive(Clone, Debug, Default)]
pub struct Disk(Vec<Block>);

impl Disk {
    /// The entries of a node.
    pub fn node(&self, addr: Addr) -> Entries {
        match self.0[addr] {
            Block::Node(entries) => entries,
            Block::Data(_) => unreachable!("pointers know what they point to"),
        }
    }

    /// What is in a block of data.
    pub fn data(&self, addr: Addr) -> Content {
        match self.0[addr] {
            Block::Data(content) => content,
            Block::Node(_) => unreachable!("pointers know what they point to"),
        }
    }

    /// The entries below a pointer of an inner node; what is not a node stands for the same everywhere below.
    pub fn open(&self, pointer: Pointer) -> Entries {
        match pointer {
            Pointer::Node { addr, .. } => self.node(addr),
            other => [other; FAN],
        }
    }
}

/// What is the same for all states: the drive, the deliberate bug, the counters.
#[derive(Clone, Debug, Default)]
pub struct Lab {
    pub disk: Disk,
    pub mutant: Option<Mutant>,
    pub counts: Counts,
}

impl Lab {
    /// Whether this deliberate bug is on.
    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// The store: its state now, at the last checkpoint, and at the cut of a running one.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub live: State,
    pub published: State,
    pub image: Option<State>,
    pub lab: Lab,
    pub clock: Birth,
    pub next_map: MapId,
    /// Since the cut of the last published checkpoint.
    pub journal: Vec<Record>,
    /// Records before the cut of the running checkpoint.
    pub cut: usize,
}

impl State {
    /// A map that must be there.
    pub fn map(&self, id: MapId) -> Result<&Map> {
        self.maps
            .get(&id)
            .ok_or_else(|| anyhow::anyhow!("map {id} is gone"))
    }

    /// Same, to change it.
    pub fn map_mut(&mut self, id: MapId) -> Result<&mut Map> {
        self.maps
            .get_mut(&id)
            .ok_or_else(|| anyhow::anyhow!("map {id} is gone"))
    }

    /// Maps whose parent is `id`.
    pub fn children(&self, id: MapId) -> Vec<MapId> {
        let children = self.maps.iter().filter(|(_, map)| map.parent == Some(id));
        children.map(|(id, _)| *id).collect()
    }

    /// The ownership rule: what covers blocks up to `end` belongs to map `id` iff its birth is greater than this.
    pub fn bound(&self, lab: &Lab, id: MapId, end: Lba) -> Result<Birth> {
        let Some(parent) = self.map(id)?.parent else {
            return Ok(0);
        };
        let parent = self.map(parent)?;
        let passed = parent.cursor.is_some_and(|cursor| end <= cursor);
        if passed && !lab.has(Mutant::IgnoreCursor) {
            // Of two neighbours only one is collapsed at a time, so the grandparent has no cursor.
            return parent.parent.map_or(Ok(0), |id| Ok(self.map(id)?.seq));
        }
        Ok(parent.seq)
    }

    /// Writes a block to a new place.
    pub fn allocate_data(&mut self, lab: &mut Lab, content: Content) -> Addr {
        lab.counts.blocks_written += 1;
        self.allocate(lab, Block::Data(content))
    }

    /// Writes a node to a new place.
    pub fn allocate_node(&mut self, lab: &mut Lab, entries: Entries) -> Addr {
        lab.counts.nodes_written += 1;
        self.allocate(lab, Block::Node(entries))
    }

    fn allocate(&mut self, lab: &mut Lab, block: Block) -> Addr {
        let addr = lab.disk.0.len();
        lab.disk.0.push(block);
        self.allocated.insert(addr);
        self.ledger.push(Entry::Allocated(addr));
        addr
    }

    /// Gives a block back.
    pub fn free(&mut self, lab: &mut Lab, addr: Addr) -> Result<()> {
        ensure!(self.allocated.remove(&addr), "block {addr} is freed twice");
        self.ledger.push(Entry::Freed(addr));
        lab.counts.freed += 1;
        Ok(())
    }

    /// What map `id` says of a block: its changes, those of ancestors that it has not taken over yet, the tree.
    pub fn read(&self, disk: &Disk, id: MapId, lba: Lba) -> Result<Pointer> {
        let mut at = self.map(id)?;
        loop {
            let delta = at.active.find(lba).or_else(|| at.frozen.find(lba));
            if let Some(pointer) = delta {
                return Ok(pointer);
            }
            match (at.root, at.parent) {
                (Some(root), _) => return Ok(look_up(disk, root, lba)),
                (None, None) => return Ok(Pointer::Never),
                (None, Some(parent)) => at = self.map(parent)?,
            }
        }
    }

    /// The root of a map that a checkpoint has seen.
    pub fn root(&self, id: MapId) -> Result<Root> {
        let root = self.map(id)?.root;
        root.ok_or_else(|| anyhow::anyhow!("map {id} has no tree yet"))
    }

    /// What covers exactly the blocks of a node, in the tree of `id`; nothing in the tree of nobody.
    pub fn covering(
        &self,
        disk: &Disk,
        id: Option<MapId>,
        level: u8,
        first: Lba,
    ) -> Result<Pointer> {
        id.map_or(Ok(Pointer::Never), |id| {
            Ok(covering(disk, self.root(id)?, level, first))
        })
    }
}
