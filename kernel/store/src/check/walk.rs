//! Walks the maps of the checkpoint.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::FromBytes;

use super::usage::Mark;
use super::{Checker, Finding, Owner};
use crate::groups::{bitmap_addr, bitmap_tag};
use crate::layout::{
    CatalogEntry, CatalogKind, Class, FAN, GROUP_BITS, Kind, Pointer, PoolAddr, data_tag,
    get_pointer, node_tag,
};
use crate::reclaim::Reclaim;
use crate::shared::{CATALOG, FIRST_VOLUME, RECLAIM};
use crate::tag::Tag;

/// The highest map: 128 TiB in five levels, and one to spare.
const HEIGHT_MAX: u8 = 6;

/// Blocks of data whose tags are compared together, in the order of their addresses.
const QUEUE_MAX: usize = 4096;

/// Births of a map are compared with each other up to this many blocks (128 MiB of memory).
const BIRTHS_MAX: usize = 1 << 24;

/// Blocks below a pointer of a node on `level`.
fn span(level: u8) -> u64 {
    (FAN as u64).saturating_pow(level.into())
}

/// A block of data that something refers to.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub volume: u64,
    pub lba: u64,
    pub addr: PoolAddr,
    pub birth: u64,
    pub tag: Tag,
    pub lineage: [u8; 16],
}

impl Data {
    pub fn owner(&self) -> Owner {
        Owner::Block {
            volume: self.volume,
            block: self.lba,
        }
    }

    /// Whether these are its bytes.
    pub fn is(&self, bytes: &[u8; BLOCK_SIZE]) -> bool {
        data_tag(self.lineage, self.lba, self.birth, bytes) == self.tag
    }
}

/// A map on its way from left to right.
struct Walk {
    volume: u64,
    /// Everything below is not part of the map any more.
    from: u64,
    /// Pointers to nodes: level and first block, the leftmost last.
    stack: Vec<(Pointer, u8, u64)>,
}

struct Leaf {
    first: u64,
    node: Buf,
}

/// Every map of the pool, by number, as the catalog describes it.
pub type Maps = BTreeMap<u64, Box<CatalogEntry>>;

impl<D: Disk> Checker<'_, D> {
    /// Walks everything that the superblock leads to and returns the catalog.
    pub async fn walk_maps(&mut self) -> Maps {
        let root = self.superblock.catalog_root;
        let height = u8::try_from(self.superblock.catalog_height.get()).unwrap_or(u8::MAX);
        let pool = self.pool_uuid;
        let mut maps = Maps::new();
        for block in self.read_map(CATALOG, (root, height), pool).await {
            for bytes in block.block(0).chunks_exact(size_of::<CatalogEntry>()) {
                if let Ok(entry) = CatalogEntry::read_from_bytes(bytes) {
                    self.add_entry(&mut maps, Box::new(entry));
                }
            }
        }
        let mut reclaim = Reclaim::default();
        if let Some(entry) = maps.get(&RECLAIM) {
            let start = (entry.root, entry.height);
            for block in self.read_map(RECLAIM, start, pool).await {
                reclaim.decode(block.block(0));
            }
        }
        let mut counts = BTreeMap::new();
        for (id, entry) in maps.iter().filter(|(id, _)| **id != RECLAIM) {
            let count = self.walk_volume(*id, entry).await;
            counts.insert(*id, count);
        }
        for item in reclaim.iter() {
            let level = item.level;
            let mut walk = self.walk(item.tree.get(), (item.root, level + 1), item.cursor.get());
            let count = counts.entry(item.tree.get()).or_default();
            while let Some(leaf) = self.next_leaf(&mut walk).await {
                for data in self.leaf_blocks(walk.volume, &leaf, [0; 16]) {
                    self.mark(data.owner(), data.addr);
                    *count += 1;
                    self.summary.data_blocks += 1;
                }
            }
        }
        for (id, entry) in maps
            .iter()
            .filter(|(_, entry)| entry.kind() == CatalogKind::Head)
        {
            let map = counts.get(id).copied().unwrap_or(0);
            let catalog = entry.blocks.get();
            if map != catalog {
                self.find(Finding::BlockCount {
                    volume: *id,
                    catalog,
                    map,
                });
            }
        }
        maps
    }

    fn add_entry(&mut self, maps: &mut Maps, entry: Box<CatalogEntry>) {
        let id = entry.id.get();
        match entry.kind() {
            CatalogKind::Free => return,
            CatalogKind::Internal if id < FIRST_VOLUME && id != CATALOG => {}
            CatalogKind::Head
                if (FIRST_VOLUME..self.superblock.next_node.get()).contains(&id)
                    && !entry.name().is_empty() => {}
            kind => self.malformed(format!("catalog: {kind:?} {id} cannot be")),
        }
        if entry.kind() == CatalogKind::Head
            && maps.values().any(|other| other.name() == entry.name())
        {
            self.malformed(format!("catalog: two volumes are called {}", entry.name()));
        }
        if maps.insert(id, entry).is_some() {
            self.malformed(format!("catalog: two entries have number {id}"));
        }
    }

    /// The blocks of one of the store's own maps, in order.
    async fn read_map(&mut self, id: u64, start: (Pointer, u8), pool: [u8; 16]) -> Vec<Buf> {
        let mut walk = self.walk(id, start, 0);
        let mut blocks = Vec::new();
        while let Some(leaf) = self.next_leaf(&mut walk).await {
            for data in self.leaf_blocks(id, &leaf, pool) {
                self.mark(data.owner(), data.addr);
                self.check_birth(&data, 0);
                self.summary.node_blocks += 1;
                let read = self.read_verified(data.owner(), data.addr, |block| data.is(block));
                blocks.extend(read.await);
            }
        }
        blocks
    }

    /// Walks a volume; returns its number of blocks.
    async fn walk_volume(&mut self, id: u64, entry: &CatalogEntry) -> u64 {
        let mut walk = self.walk(id, (entry.root, entry.height), 0);
        let size = entry.size_bytes.get().div_ceil(BLOCK_SIZE as u64);
        let is_head = entry.kind() == CatalogKind::Head;
        let (mut count, mut births) = (0, Vec::new());
        let mut queue = Vec::new();
        while let Some(leaf) = self.next_leaf(&mut walk).await {
            for data in self.leaf_blocks(id, &leaf, entry.lineage_uuid) {
                self.mark(data.owner(), data.addr);
                self.check_birth(&data, entry.epoch_bias.get());
                if is_head && data.lba >= size {
                    self.malformed(format!("{} is beyond its end", data.owner()));
                }
                count += 1;
                if births.len() < BIRTHS_MAX {
                    births.push(data.birth);
                }
                // The store's own maps have two replicas, and there is little of them.
                if self.options.verify_data || !is_head {
                    queue.push(data);
                }
            }
            if queue.len() >= QUEUE_MAX {
                self.verify(&mut queue).await;
            }
        }
        self.verify(&mut queue).await;
        self.summary.data_blocks += count;
        births.sort_unstable();
        for pair in births.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.malformed(format!(
                "two blocks of volume {id} have birth {:#x}",
                pair[0]
            ));
        }
        count
    }

    fn walk(&mut self, volume: u64, (root, height): (Pointer, u8), from: u64) -> Walk {
        let mut stack = Vec::new();
        match root.kind() {
            Kind::Node if (1..=HEIGHT_MAX).contains(&height) => stack.push((root, height - 1, 0)),
            Kind::Never | Kind::Hole => {}
            kind => self.malformed(format!(
                "the root of map {volume} is {kind:?} of {height} levels"
            )),
        }
        Walk {
            volume,
            from,
            stack,
        }
    }

    /// The next leaf, after checking all nodes on the way to it.
    async fn next_leaf(&mut self, walk: &mut Walk) -> Option<Leaf> {
        while let Some((pointer, level, first)) = walk.stack.pop() {
            let what = Owner::Node {
                volume: walk.volume,
                level,
                block: first,
            };
            self.summary.node_blocks += 1;
            // A node that was seen before is not followed again, so that a ring of nodes comes to an end.
            if self.mark(what, pointer.addr()) != Mark::First {
                continue;
            }
            let (pool, addr, birth) = (self.pool_uuid, pointer.addr(), pointer.birth());
            let sound = |block: &[u8; BLOCK_SIZE]| {
                node_tag(pool, level, addr, birth, block) == pointer.tag()
            };
            let Some(node) = self.read_verified(what, addr, sound).await else {
                continue;
            };
            let entries = (0..FAN).map(|index| get_pointer(node.block(0), index));
            let newest = entries
                .clone()
                .map(|entry| entry.birth())
                .max()
                .unwrap_or(0);
            if newest != birth {
                self.find(Finding::Birth {
                    what,
                    found: birth,
                    newest,
                });
            }
            if level == 0 {
                return Some(Leaf { first, node });
            }
            for (index, entry) in entries.enumerate().collect::<Vec<_>>().into_iter().rev() {
                let start = first + index as u64 * span(level);
                match entry.kind() {
                    Kind::Node if start + span(level) > walk.from => {
                        walk.stack.push((entry, level - 1, start));
                    }
                    Kind::Node | Kind::Never | Kind::Hole => {}
                    kind => self.malformed(format!("{what} has an entry of kind {kind:?}")),
                }
            }
        }
        None
    }

    fn leaf_blocks(&mut self, volume: u64, leaf: &Leaf, lineage: [u8; 16]) -> Vec<Data> {
        let mut blocks = Vec::new();
        for (lba, index) in (leaf.first..).zip(0..FAN) {
            let pointer = get_pointer(leaf.node.block(0), index);
            let (addr, birth, tag) = (pointer.addr(), pointer.birth(), pointer.tag());
            match pointer.kind() {
                Kind::Data => blocks.push(Data {
                    volume,
                    lba,
                    addr,
                    birth,
                    tag,
                    lineage,
                }),
                Kind::Never | Kind::Hole => {}
                kind => {
                    let what = Owner::Block { volume, block: lba };
                    self.malformed(format!("{what} is of kind {kind:?}"));
                }
            }
        }
        blocks
    }

    /// Notes that `what` is at `addr`.
    pub fn mark(&mut self, what: Owner, addr: PoolAddr) -> Mark {
        let mark = self.usage.mark(addr);
        let group = usize::try_from(addr >> GROUP_BITS).ok();
        let class = group
            .and_then(|group| self.groups.get(group))
            .map(|entry| entry.class());
        let is_free = class.is_none_or(|class| class == Class::Free);
        match mark {
            Mark::Again => self.find(Finding::UsedTwice { what, addr }),
            Mark::Bad => self.find(Finding::BadAddress { what, addr }),
            Mark::First if is_free => self.find(Finding::BadAddress { what, addr }),
            Mark::First => {}
        }
        mark
    }

    /// A birth is never zero and never later than the newest mount.
    pub fn check_birth(&mut self, data: &Data, epoch_bias: u64) {
        let newest = self.superblock.mount_gen.get().saturating_add(epoch_bias);
        if data.birth == 0 || data.birth >> 44 > newest {
            self.find(Finding::ImpossibleBirth {
                what: data.owner(),
                birth: data.birth,
            });
        }
    }

    /// Compares the tags of all blocks in `queue`, on every replica, and empties it.
    pub async fn verify(&mut self, queue: &mut Vec<Data>) {
        queue.sort_unstable_by_key(|data| data.addr);
        let groups = self.groups.len() as u64;
        let in_pool = |data: &Data| data.addr >> GROUP_BITS < groups;
        for same in queue
            .chunk_by(|a, b| a.addr + 1 == b.addr && a.addr >> GROUP_BITS == b.addr >> GROUP_BITS)
        {
            for run in same.chunks(Buf::PAGES_MAX).filter(|run| in_pool(&run[0])) {
                for (drive, at) in self.places(run[0].addr) {
                    self.verify_run(run, drive, at).await;
                }
            }
        }
        queue.clear();
    }

    /// Compares the tags of neighbours on one drive.
    async fn verify_run(&mut self, run: &[Data], drive: usize, at: u64) {
        let step = self.drives[drive].transfer_blocks();
        for (part, at) in run.chunks(step).zip((at..).step_by(step)) {
            let read = self.drives[drive]
                .read_into(at, Buf::from_heap(part.len()))
                .await;
            for (index, data) in part.iter().enumerate() {
                self.summary.verified += 1;
                let is_sound = match &read {
                    Ok(buf) => data.is(buf.block(index)),
                    // One bad block fails the whole read: ask for each.
                    Err(_) => {
                        let one = self.drives[drive].read(at + index as u64).await;
                        one.is_some_and(|buf| data.is(buf.block(0)))
                    }
                };
                if !is_sound {
                    let (what, addr) = (data.owner(), data.addr);
                    self.find(Finding::Damaged { what, addr, drive });
                }
            }
        }
    }

    /// What the bitmaps say is in use must be what was reached.
    pub async fn check_bitmaps(&mut self) {
        let blocks = 1_u32 << self.drives[0].header.group_shift.get();
        let pool = self.pool_uuid;
        for (group, entry) in (0..).zip(self.groups.clone()) {
            if entry.class() == Class::Free {
                continue;
            }
            let bitmap = if entry.tag == [0; 16] {
                let mut empty = Buf::from_heap(1);
                empty.block_mut(0)[0] = 0b11;
                Some(empty)
            } else {
                let version = entry.bitmap_checkpoint.get();
                let sound = |block: &[u8; BLOCK_SIZE]| {
                    bitmap_tag(pool, group, version, block).0 == entry.tag
                };
                let addr = bitmap_addr(group, entry.slot);
                self.read_verified(Owner::Bitmap { group }, addr, sound)
                    .await
            };
            let Some(bitmap) = bitmap else { continue };
            let is_set = |block: u32| bitmap.block(0)[block as usize / 8] >> (block % 8) & 1 != 0;
            let free = (0..blocks).filter(|block| !is_set(*block)).count();
            let (table, bitmap) = (entry.free.get().into(), u32::try_from(free).unwrap_or(0));
            if table != bitmap {
                self.find(Finding::FreeCount {
                    group,
                    table,
                    bitmap,
                });
            }
            if !(is_set(0) && is_set(1)) {
                self.malformed(format!("group {group} does not keep its own bitmaps"));
            }
            for block in 2..blocks {
                let addr = u64::from(group) << GROUP_BITS | u64::from(block);
                match (is_set(block), self.usage.is_used(group, block)) {
                    (true, false) => self.find(Finding::Leaked { addr }),
                    (false, true) => self.find(Finding::Dangling { addr }),
                    _ => {}
                }
            }
        }
    }
}
