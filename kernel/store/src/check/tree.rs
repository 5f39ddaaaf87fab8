//! The way through one map, from left to right.
//!
//! A map shares what it did not change with the map that it came from. What is shared is compared with what the parent has
//! at the same place, and not followed: so each block is met once, in the map that owns it.

use alloc::vec::Vec;

use hashbrown::HashMap;
use world::{BLOCK_SIZE, Buf, Disk};

use super::blocks::Data;
use super::family::{Bounds, Maps};
use super::usage::Mark;
use super::{Checker, Finding, Owner};
use crate::layout::{
    BASES_MAX, CatalogEntry, CatalogKind, FAN, HEIGHT_MAX, Kind, Pointer, PoolAddr, get_pointer,
    node_tag,
};

/// Blocks of data in the subtrees of a lineage that were walked, by the address of their node; leaves excepted.
pub type Counts = HashMap<PoolAddr, u64>;

/// Blocks below a pointer that is `height` levels above the blocks.
fn span(height: u8) -> u64 {
    (FAN as u64).saturating_pow(height.into())
}

/// Where a pointer is in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Levels below it; 0 for a block of data.
    height: u8,
    /// The first block below it.
    first: u64,
}

impl Place {
    fn end(self) -> u64 {
        self.first.saturating_add(span(self.height))
    }

    fn child(self, index: usize) -> Self {
        let height = self.height - 1;
        Self {
            height,
            first: self.first + index as u64 * span(height),
        }
    }

    fn owner(self, volume: u64) -> Owner {
        let (level, block) = (self.height.saturating_sub(1), self.first);
        match self.height {
            0 => Owner::Block { volume, block },
            _ => Owner::Node {
                volume,
                level,
                block,
            },
        }
    }
}

/// A node on the way.
struct Open {
    pointer: Pointer,
    place: Place,
    node: Buf,
    /// The next entry.
    index: usize,
    /// Blocks of data below, if nothing kept them from being counted.
    blocks: Option<u64>,
}

/// Nodes on the way to the last place looked up in another map, by height.
#[derive(Default)]
struct Trail([Option<(Pointer, Buf)>; HEIGHT_MAX as usize + 1]);

/// A map on its way from left to right.
pub struct Walk<'m> {
    maps: &'m Maps,
    map: u64,
    lineage: [u8; 16],
    /// Everything below is not part of the map any more.
    from: u64,
    bounds: Bounds,
    /// Whether what is shared is known to be in another map.
    compares: bool,
    /// Where its remote pointers may lead to.
    bases: [u64; BASES_MAX],
    start: Option<(Pointer, Place)>,
    path: Vec<Open>,
    trails: [Trail; 2],
    data: Vec<Data>,
    /// Blocks of data in the map, shared ones included, if they could all be counted.
    pub blocks: Option<u64>,
}

impl<'m> Walk<'m> {
    /// A way through a map of the catalog.
    pub fn of_map(maps: &'m Maps, entry: &CatalogEntry) -> Self {
        let mut walk = Self::new(maps, entry.id.get(), (entry.root, entry.height));
        walk.lineage = entry.lineage_uuid;
        if entry.kind() != CatalogKind::Base {
            walk.from = entry.collapse_cursor.get();
        }
        walk.bounds = maps.bounds(entry);
        walk.compares = true;
        walk.bases = entry.bases.map(|base| base.get());
        walk
    }

    /// A way through a subtree that was part of `map`: what was born after `boundary`, from block `from` of it on.
    pub fn of_subtree(
        maps: &'m Maps,
        map: u64,
        root: (Pointer, u8),
        (boundary, from): (u64, u64),
    ) -> Self {
        let mut walk = Self::new(maps, map, root);
        walk.bounds.after.birth = boundary;
        walk.from = from;
        // What it belonged to may be gone, and what that came from.
        let entry = maps.get(map);
        walk.bases =
            entry.map_or_else(Default::default, |entry| entry.bases.map(|base| base.get()));
        walk
    }

    /// A way through everything below `root`, which is `height` levels above the blocks.
    pub fn new(maps: &'m Maps, map: u64, (root, height): (Pointer, u8)) -> Self {
        let place = Place { height, first: 0 };
        Self {
            maps,
            map,
            lineage: [0; 16],
            from: 0,
            bounds: Bounds::default(),
            compares: false,
            bases: [0; BASES_MAX],
            start: Some((root, place)),
            path: Vec::new(),
            trails: Default::default(),
            data: Vec::new(),
            blocks: Some(0),
        }
    }

    pub fn with_lineage(self, lineage: [u8; 16]) -> Self {
        Self { lineage, ..self }
    }

    fn may_lead_to(&self, remote: &Pointer) -> bool {
        let base = remote.addr();
        *remote == Pointer::remote(base, remote.birth()) && base != 0 && self.bases.contains(&base)
    }

    /// The next pointer; closes nodes that come to their end before it.
    fn next(&mut self, counts: &mut Counts) -> Option<(Pointer, Place)> {
        if let Some(start) = self.start.take() {
            return Some(start);
        }
        loop {
            let open = self.path.last_mut()?;
            let index = open.index;
            if index < FAN {
                open.index += 1;
                return Some((
                    get_pointer(open.node.block(0), index),
                    open.place.child(index),
                ));
            }
            let closed = self.path.pop()?;
            let is_own = closed.pointer.birth() > self.bounds.at(closed.place.end()).birth;
            if let Some(blocks) = closed.blocks.filter(|_| is_own && closed.place.height > 1) {
                counts.insert(closed.pointer.addr(), blocks);
            }
            self.count(closed.blocks);
        }
    }

    /// Notes blocks of data below the node that is open, or that they are not known.
    fn count(&mut self, more: Option<u64>) {
        let blocks = match self.path.last_mut() {
            Some(open) => &mut open.blocks,
            None => &mut self.blocks,
        };
        *blocks = blocks
            .zip(more)
            .map(|(blocks, more)| blocks.saturating_add(more));
    }
}

impl<D: Disk> Checker<'_, D> {
    /// The next blocks of data that are the map's own, after checking all nodes on the way to them.
    pub async fn next_data(
        &mut self,
        walk: &mut Walk<'_>,
        counts: &mut Counts,
    ) -> Option<Vec<Data>> {
        while let Some((pointer, place)) = walk.next(counts) {
            if place.end() <= walk.from {
                walk.count(None);
            } else if pointer.birth() > walk.bounds.at(place.end()).birth {
                self.visit_own(walk, pointer, place).await;
            } else {
                self.visit_shared(walk, pointer, place, counts).await;
            }
            if walk.data.len() >= FAN {
                return Some(core::mem::take(&mut walk.data));
            }
        }
        let rest = core::mem::take(&mut walk.data);
        (!rest.is_empty()).then_some(rest)
    }

    async fn visit_own(&mut self, walk: &mut Walk<'_>, pointer: Pointer, place: Place) {
        let what = place.owner(walk.map);
        match (pointer.kind(), place.height) {
            (Kind::Data, 0) => {
                self.mark(what, pointer.addr());
                walk.data.push(Data {
                    volume: walk.map,
                    lba: place.first,
                    addr: pointer.addr(),
                    birth: pointer.birth(),
                    tag: pointer.tag(),
                    lineage: walk.lineage,
                });
                walk.count(Some(1));
            }
            (Kind::Node, 1..) => {
                self.summary.node_blocks += 1;
                // A node that was seen before is not followed again, so that a ring of nodes comes to an end.
                if self.mark(what, pointer.addr()) != Mark::First {
                    walk.count(None);
                    return;
                }
                let pool = self.pool_uuid;
                let sound = |block: &[u8; BLOCK_SIZE]| is_node(pool, &pointer, place, block);
                match self.read_verified(what, pointer.addr(), sound).await {
                    Some(node) => {
                        self.check_node(what, &pointer, place, &node);
                        open(walk, pointer, place, node);
                    }
                    None => walk.count(None),
                }
            }
            (Kind::Hole, _) if pointer == Pointer::hole(pointer.birth()) => {}
            (Kind::Remote, _) if walk.may_lead_to(&pointer) => {}
            (kind, _) => {
                walk.count(None);
                self.malformed(alloc::format!("{what} is of kind {kind:?}: {pointer:?}"));
            }
        }
    }

    fn check_node(&mut self, what: Owner, pointer: &Pointer, place: Place, node: &Buf) {
        let entries = (0..FAN).map(|index| get_pointer(node.block(0), index));
        let (mut newest, mut blocks) = (0, 0);
        for entry in entries {
            newest = newest.max(entry.birth());
            blocks += u64::from(entry.kind() == Kind::Data && place.height == 1);
        }
        let found = pointer.birth();
        if newest != found {
            self.find(Finding::Birth {
                what,
                found,
                newest,
            });
        }
        let found = pointer.leaf_blocks();
        if found != blocks {
            self.find(Finding::LeafCount {
                what,
                found,
                blocks,
            });
        }
    }

    async fn visit_shared(
        &mut self,
        walk: &mut Walk<'_>,
        pointer: Pointer,
        place: Place,
        counts: &Counts,
    ) {
        let end = place.end();
        if !walk.compares {
            return;
        }
        let bound = walk.bounds.at(end);
        let trail = &mut walk.trails[usize::from(end <= walk.bounds.cursor)];
        let theirs = self.look_up(walk.maps, trail, bound.map, place).await;
        if theirs.is_some_and(|theirs| theirs != pointer) {
            let what = place.owner(walk.map);
            self.find(match bound.map {
                0 => Finding::ImpossibleBirth {
                    what,
                    birth: pointer.birth(),
                },
                parent => Finding::Unlike { what, parent },
            });
        }
        // Of a node that both share, the part before the parent's cursor may be the map's own already.
        let straddles = place.first < walk.bounds.cursor && walk.bounds.cursor < end;
        let is_node = pointer.kind() == Kind::Node && place.height > 0;
        if is_node && straddles && pointer.birth() > walk.bounds.before.birth {
            match self.read_node(&pointer, place).await {
                Some(node) => open(walk, pointer, place, node),
                None => walk.count(None),
            }
            return;
        }
        walk.count(match (pointer.kind(), place.height) {
            (Kind::Data, 0) => Some(1),
            (Kind::Node, 1) => Some(pointer.leaf_blocks()),
            (Kind::Node, _) => counts.get(&pointer.addr()).copied(),
            _ => Some(0),
        });
    }

    /// What `map` has at this place; `None` when it cannot be read.
    async fn look_up(
        &self,
        maps: &Maps,
        trail: &mut Trail,
        map: u64,
        place: Place,
    ) -> Option<Pointer> {
        let Some(entry) = maps.get(map) else {
            return Some(Pointer::NEVER);
        };
        let (mut pointer, mut height) = (entry.root, entry.height);
        if place.first >= span(height) {
            return Some(Pointer::NEVER);
        }
        while height > place.height && height <= HEIGHT_MAX && pointer.kind() == Kind::Node {
            let here = &mut trail.0[usize::from(height)];
            if here.as_ref().is_none_or(|(known, _)| *known != pointer) {
                let first = place.first / span(height) * span(height);
                let node = self.read_node(&pointer, Place { height, first }).await?;
                *here = Some((pointer, node));
            }
            let (_, node) = here.as_ref()?;
            height -= 1;
            let index = place.first / span(height) % FAN as u64;
            pointer = get_pointer(node.block(0), usize::try_from(index).ok()?);
        }
        Some(pointer)
    }

    /// A node that somebody else owns: what is wrong with it is found there.
    async fn read_node(&self, pointer: &Pointer, place: Place) -> Option<Buf> {
        for (drive, at) in self.places(pointer.addr()) {
            if let Some(node) = self.drives[drive].read(at).await
                && is_node(self.pool_uuid, pointer, place, node.block(0))
            {
                return Some(node);
            }
        }
        None
    }
}

fn is_node(pool: [u8; 16], pointer: &Pointer, place: Place, block: &[u8; BLOCK_SIZE]) -> bool {
    let (addr, birth) = (pointer.addr(), pointer.birth());
    node_tag(pool, place.height - 1, addr, birth, block) == pointer.tag()
}

fn open(walk: &mut Walk<'_>, pointer: Pointer, place: Place, node: Buf) {
    walk.path.push(Open {
        pointer,
        place,
        node,
        index: 0,
        blocks: Some(0),
    });
}
