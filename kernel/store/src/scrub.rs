//! Scrub: every block in use is read and compared with its tag, on every replica.
//!
//! Each map verifies what is its own, so blocks that snapshots and clones share are read once; then come the parts of
//! the pool that are in no map. What has changed since the last checkpoint is left to the next scrub.

use alloc::vec::Vec;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk, DiskError};

use crate::api::{Damage, ScrubPosition, ScrubStep, SnapshotId, Source, StoreError, VolumeId};
use crate::io::read_disk;
use crate::layout::{CatalogKind, FAN, Kind, Pointer, get_pointer, node_tag};
use crate::lineage::{Bound, Place};
use crate::map::{Missing, index_in, reach, span};
use crate::read::is_block;
use crate::shared::{FIRST_VOLUME, Shared, State, Tree};

mod own;

use own::OWN_PARTS;

/// Runs of blocks that are read at the same time.
const AT_ONCE: usize = 8;
/// Places that are named for a damaged block.
const PLACES_MAX: usize = 64;

/// A map under scrub.
struct Scrubbed {
    id: u64,
    lineage: [u8; 16],
    root: Pointer,
    height: u8,
    blocks: u64,
    /// What lies before is taken apart already.
    cursor: u64,
    bound: Bound,
}

/// Copies of a block.
#[derive(Default)]
pub(super) struct Copies {
    pub good: Option<Buf>,
    /// Drive and block of the others.
    pub bad: Vec<(usize, u64)>,
}

/// Where a scrub of a map goes on.
enum Found {
    /// A leaf: its first block and its entries.
    Leaf(u64, Vec<Pointer>),
    /// Nothing below this node can be read: its first block, and how many there are.
    Damaged(u64, u64),
    End,
}

/// A block or node of a map's own.
#[derive(Clone, Copy)]
struct Block {
    /// First block of its place.
    lba: u64,
    /// Levels below it and itself: 0 for data.
    height: u8,
    pointer: Pointer,
}

impl<D: Disk + 'static> Shared<D> {
    pub async fn scrub(&self, from: ScrubPosition, blocks: u64) -> Result<ScrubStep, StoreError> {
        let mut step = ScrubStep::default();
        let mut at = from;
        // Maps with nothing of their own take time, too.
        let mut seen = 0;
        loop {
            let map = self.scrubbed(at.map)?;
            let next = map.as_ref().map_or(OWN_PARTS, |map| map.id);
            if next != at.map {
                at = ScrubPosition {
                    map: next,
                    block: 0,
                };
            }
            let is_more = match &map {
                Some(map) => self.scrub_leaf(map, &mut at.block, &mut step).await?,
                None => self.scrub_own_part(&mut at.block, &mut step).await?,
            };
            seen += 1;
            // Steps with damage are short, so that a list of it never is long.
            let is_enough = step.blocks.max(seen) >= blocks || !step.damaged.is_empty();
            match is_more {
                true if is_enough => {
                    step.next = Some(at);
                    return Ok(step);
                }
                true => {}
                false if map.is_none() => return Ok(step),
                false => {
                    at = ScrubPosition {
                        map: next + 1,
                        block: 0,
                    };
                }
            }
            self.environment.exec.yield_now().await;
        }
    }

    /// The first map from number `id` on.
    fn scrubbed(&self, id: u64) -> Result<Option<Scrubbed>, StoreError> {
        let state = self.state.borrow();
        state.require_open()?;
        let skips = self.config.mutants.scrub_skips_snapshots();
        let is_seen = |tree: &&Tree| !skips || tree.kind() != CatalogKind::Snapshot;
        let later = || {
            let seen = state.trees.values().filter(is_seen);
            seen.filter(|other| other.id() > id)
                .min_by_key(|tree| tree.id())
        };
        let tree = state.trees.get(&id).filter(is_seen).or_else(later);
        Ok(tree.map(|tree| Scrubbed {
            id: tree.id(),
            lineage: tree.entry.lineage_uuid,
            root: tree.root(),
            // What a map sees of another one before its first checkpoint is that one's.
            height: if tree.source.is_some() {
                0
            } else {
                tree.height()
            },
            blocks: tree.blocks(),
            cursor: tree.cursor(),
            bound: state.bound(tree.id()),
        }))
    }

    /// Verifies the next leaf with what leads to it. False at the end of the map.
    async fn scrub_leaf(
        &self,
        map: &Scrubbed,
        at: &mut u64,
        step: &mut ScrubStep,
    ) -> Result<bool, StoreError> {
        let (first, entries) = match self.find_leaf(map, at, step).await? {
            Found::End => return Ok(false),
            Found::Damaged(first, count) => {
                *at = first + count;
                let places = self.places_below(map.id, first);
                let count = count.min(map.blocks.saturating_sub(first));
                step.damaged
                    .push(places.into_damage(count * BLOCK_SIZE as u64));
                return Ok(true);
            }
            Found::Leaf(first, entries) => (first, entries),
        };
        *at = first + FAN as u64;
        let own = (first..).zip(entries).filter(|(lba, pointer)| {
            pointer.kind() == Kind::Data && pointer.birth() > map.bound.at(lba + 1)
        });
        let mut own: Vec<Block> = own
            .map(|(lba, pointer)| Block {
                lba,
                height: 0,
                pointer,
            })
            .collect();
        own.sort_unstable_by_key(|block| block.pointer.addr());
        step.blocks += own.len() as u64;
        let runs: Vec<&[Block]> = own
            .chunk_by(|one, two| one.pointer.addr() + 1 == two.pointer.addr())
            .flat_map(|run| run.chunks(Buf::PAGES_MAX))
            .collect();
        for some in runs.chunks(AT_ONCE) {
            for bad in join_all(some.iter().map(|run| self.verify_run(map, run))).await {
                for block in bad? {
                    self.report(map, block, step).await?;
                }
            }
        }
        Ok(true)
    }

    /// The next leaf with something of the map's own. Nodes that are entered for the first time are verified.
    async fn find_leaf(
        &self,
        map: &Scrubbed,
        at: &mut u64,
        step: &mut ScrubStep,
    ) -> Result<Found, StoreError> {
        *at = (*at).max(map.cursor);
        'search: while map.height > 0 && *at < reach(map.height) {
            let (mut pointer, mut level) = (map.root, map.height);
            loop {
                level -= 1;
                let first = *at / span(level + 1) * span(level + 1);
                let end = first + span(level + 1);
                // Something below can be the map's own although the node is not: behind the cursor of a parent that
                // is taken apart.
                if pointer.kind() != Kind::Node || pointer.birth() <= map.bound.least() {
                    *at = end;
                    continue 'search;
                }
                let missing = Missing { pointer, level };
                let node = Block {
                    lba: first,
                    height: level + 1,
                    pointer,
                };
                let mut is_sound = true;
                if first >= *at && pointer.birth() > map.bound.at(end) {
                    step.blocks += 1;
                    is_sound = self.verify_block(map, node, step).await?;
                }
                let page = self.copy_sound(missing).await?;
                let Some(page) = page.filter(|_| is_sound) else {
                    // It may have been freed and used again meanwhile.
                    if self.still_has(map.id, node).await? {
                        return Ok(Found::Damaged(first, span(level + 1)));
                    }
                    *at = end;
                    continue 'search;
                };
                let entries = (0..FAN).map(|index| get_pointer(&page.bytes, index));
                if level == 0 {
                    return Ok(Found::Leaf(first, entries.collect()));
                }
                let start = index_in(level, *at);
                let is_next = |(_, child): &(usize, Pointer)| {
                    child.kind() == Kind::Node && child.birth() > map.bound.least()
                };
                let Some((index, child)) = entries.enumerate().skip(start).find(is_next) else {
                    *at = end;
                    continue 'search;
                };
                *at = (*at).max(first + index as u64 * span(level));
                pointer = child;
            }
        }
        Ok(Found::End)
    }

    /// Reads a block from all replicas; bad ones are written anew. False when there is no good one.
    async fn verify_block(
        &self,
        map: &Scrubbed,
        block: Block,
        step: &mut ScrubStep,
    ) -> Result<bool, StoreError> {
        // Blocks that are in use now are not handed out again before another checkpoint is published.
        let _published = self.publishing.acquire().await;
        let addr = block.pointer.addr();
        let first_only = self.config.mutants.scrub_first_replica();
        let most = if first_only { 1 } else { usize::MAX };
        let replicas = self.replicas(addr)?.into_iter().take(most);
        let places: Vec<_> = replicas
            .map(|replica| self.disk_block(replica, addr))
            .collect();
        let copies = self
            .compare(&places, |bytes| self.is_sound(map, block, bytes))
            .await?;
        let is_lost = copies.good.is_none();
        if !copies.bad.is_empty() && self.still_has(map.id, block).await? {
            self.mend(copies, step).await?;
        }
        Ok(!is_lost)
    }

    /// Reads a block from all of its places.
    pub(super) async fn compare(
        &self,
        places: &[(usize, u64)],
        is_sound: impl Fn(&[u8; BLOCK_SIZE]) -> bool,
    ) -> Result<Copies, StoreError> {
        let mut copies = Copies::default();
        for (device, block) in places {
            let read = read_disk(&self.disks[*device], *block, Buf::from_heap(1)).await;
            match read {
                (buf, Ok(())) if is_sound(buf.block(0)) => copies.good = Some(buf),
                (_, Ok(()) | Err(DiskError::Media)) => copies.bad.push((*device, *block)),
                (_, Err(error)) => return Err(error.into()),
            }
        }
        Ok(copies)
    }

    /// Writes bad copies anew, if there is a good one.
    pub(super) async fn mend(
        &self,
        copies: Copies,
        step: &mut ScrubStep,
    ) -> Result<(), StoreError> {
        let Copies { good, bad } = copies;
        if let Some(good) = good
            && !bad.is_empty()
            && self.state.borrow().require_serving().is_ok()
        {
            self.write_places(&bad, good).await?;
            step.repaired += bad.len() as u64;
        }
        Ok(())
    }

    fn is_sound(&self, map: &Scrubbed, block: Block, bytes: &[u8; BLOCK_SIZE]) -> bool {
        let Block {
            lba,
            height,
            pointer,
        } = block;
        match height {
            0 => is_block(map.lineage, lba, &pointer, bytes),
            _ => {
                let (addr, birth) = (pointer.addr(), pointer.birth());
                node_tag(self.pool_uuid, height - 1, addr, birth, bytes) == pointer.tag()
            }
        }
    }

    /// Blocks of a run that do not hold what they should; the run is contiguous in the pool.
    async fn verify_run(&self, map: &Scrubbed, run: &[Block]) -> Result<Vec<Block>, StoreError> {
        let addr = run[0].pointer.addr();
        let mut bad = Vec::new();
        for replica in self.replicas(addr)? {
            let buf = Buf::from_heap(run.len());
            let (buf, result) = self.read_replica(replica, addr, buf).await;
            match result {
                Ok(()) => {
                    let here = run.iter().enumerate();
                    let here = here
                        .filter(|(index, block)| !self.is_sound(map, **block, buf.block(*index)));
                    bad.extend(here.map(|(_, block)| *block));
                }
                // One bad block fails the whole read: each of them is looked at.
                Err(DiskError::Media) => bad.extend(run),
                Err(error) => return Err(error.into()),
            }
        }
        bad.sort_unstable_by_key(|block| block.lba);
        bad.dedup_by_key(|block| block.lba);
        Ok(bad)
    }

    /// Looks at a suspicious block again, repairs it if that can be done, and says who has lost it if not.
    async fn report(
        &self,
        map: &Scrubbed,
        block: Block,
        step: &mut ScrubStep,
    ) -> Result<(), StoreError> {
        if self.still_has(map.id, block).await?
            && !self.verify_block(map, block, step).await?
            && self.still_has(map.id, block).await?
        {
            let places = self.places_of(map.id, block).await;
            step.damaged.push(places.into_damage(BLOCK_SIZE as u64));
        }
        Ok(())
    }

    /// Whether a map's nodes lead to this block. Otherwise it may have been freed and used again.
    async fn still_has(&self, map: u64, block: Block) -> Result<bool, StoreError> {
        let start = {
            let state = self.state.borrow();
            let tree = state.trees.get(&map);
            let end = block.lba + span(block.height);
            let tree = tree.filter(|tree| tree.cursor() < end);
            tree.map(|tree| (tree.root(), tree.height()))
        };
        let Some((mut pointer, mut level)) = start else {
            return Ok(false);
        };
        if block.lba >= reach(level) {
            return Ok(false);
        }
        while level > block.height && pointer.kind() == Kind::Node {
            level -= 1;
            let Some(node) = self.copy_sound(Missing { pointer, level }).await? else {
                return Ok(false);
            };
            pointer = get_pointer(&node.bytes, index_in(level, block.lba));
        }
        Ok(pointer == block.pointer && level == block.height)
    }

    /// Who has this block of `map`: the map itself, and those that began as it and have not replaced it.
    async fn places_of(&self, map: u64, block: Block) -> Places {
        let mut places = Places::default();
        let mut waiting = alloc::vec![map];
        while let Some(id) = waiting.pop() {
            let (source, heirs) = {
                let state = self.state.borrow();
                let Some(tree) = state.trees.get(&id) else {
                    continue;
                };
                (source_of(tree), state.heirs_of(tree))
            };
            if let Some((source, place)) = source {
                // Damage to the other map itself is found when its turn comes.
                match self.lookup(place, block.lba, 1).await {
                    Ok(found) if found[0] == block.pointer => {
                        places.add(source, block.lba);
                    }
                    _ => continue,
                }
            }
            waiting.extend(heirs);
        }
        places
    }

    /// Who may have lost what is below a node of `map`: those that share it cannot be told from those that do not.
    fn places_below(&self, map: u64, first: u64) -> Places {
        let state = self.state.borrow();
        let mut places = Places::default();
        let mut waiting = alloc::vec![map];
        while let Some(id) = waiting.pop() {
            let Some(tree) = state.trees.get(&id) else {
                continue;
            };
            waiting.extend(state.heirs_of(tree));
            if first < tree.blocks()
                && let Some((source, _)) = source_of(tree)
            {
                places.add(source, first);
            }
        }
        places
    }
}

impl State {
    /// Maps that may have what this one has: those that began as it; of a base, the first in each family whose remote pointers lead to it.
    fn heirs_of(&self, tree: &Tree) -> Vec<u64> {
        if tree.kind() != CatalogKind::Base {
            return tree.children.iter().copied().collect();
        }
        let needs = |other: &&Tree| other.may_lead_to(tree.id());
        let is_first = |other: &&Tree| {
            let parent = other.parent().and_then(|parent| self.trees.get(&parent));
            parent.filter(needs).is_none()
        };
        let trees = self.trees.values().filter(needs).filter(is_first);
        trees.map(Tree::id).collect()
    }
}

/// Who has something.
#[derive(Default)]
struct Places {
    named: Vec<(Source, u64)>,
    more: u64,
}

impl Places {
    fn add(&mut self, source: Source, lba: u64) {
        if self.named.len() < PLACES_MAX {
            self.named.push((source, lba * BLOCK_SIZE as u64));
        } else {
            self.more += 1;
        }
    }

    fn into_damage(mut self, len: u64) -> Damage {
        self.named.sort_unstable();
        Damage {
            places: self.named,
            places_more: self.more,
            len,
        }
    }
}

/// What users call a map; nothing for those that they cannot see.
fn source_of(tree: &Tree) -> Option<(Source, Place)> {
    let id = tree.id();
    match tree.kind() {
        CatalogKind::Head if id >= FIRST_VOLUME => {
            let volume = tree.entry.volume.get();
            Some((Source::Volume(VolumeId(volume)), Place::Volume(volume)))
        }
        CatalogKind::Snapshot => Some((Source::Snapshot(SnapshotId(id)), Place::Map(id))),
        _ => None,
    }
}
