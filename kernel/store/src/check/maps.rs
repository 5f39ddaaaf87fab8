//! All maps that the superblock leads to.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::blocks::{Data, QUEUE_MAX};
use super::family::Maps;
use super::tree::{Counts, Walk};
use super::{Checker, Finding};
use crate::layout::{CatalogEntry, CatalogKind, HEIGHT_MAX, Kind, Pointer};
use crate::shared::{CATALOG, FIRST_VOLUME, RECLAIM};

/// Births of a lineage are compared with each other up to this many blocks (128 MiB of memory).
const BIRTHS_MAX: usize = 1 << 24;

/// A subtree that a discard detached, as the reclaim queue holds it.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Detached {
    root: Pointer,
    level: u8,
    reserved: [u8; 7],
    map: U64,
    cursor: U64,
    boundary: U64,
}

/// What is known of a volume with its snapshots and clones.
#[derive(Default)]
struct Lineage {
    counts: Counts,
    births: Vec<u64>,
}

impl Lineage {
    fn add_birth(&mut self, birth: u64) {
        if self.births.len() < BIRTHS_MAX {
            self.births.push(birth);
        }
    }
}

impl<D: Disk> Checker<'_, D> {
    /// Walks everything that the superblock leads to and returns the catalog.
    pub async fn walk_maps(&mut self) -> Maps {
        let maps = self.load_catalog().await;
        for (map, what) in maps.relations(self.superblock.mount_gen.get()) {
            self.find(Finding::Relation { map, what });
        }
        let mut detached: BTreeMap<[u8; 16], Vec<Detached>> = BTreeMap::new();
        for item in self.load_detached(&maps).await {
            // The map may be gone meanwhile, and its relatives with it.
            let map = maps.get(item.map.get());
            let lineage = map.map_or(self.pool_uuid, |entry| entry.lineage_uuid);
            detached.entry(lineage).or_default().push(item);
        }
        let mut lineages: BTreeMap<[u8; 16], Vec<&CatalogEntry>> = BTreeMap::new();
        for entry in maps.iter() {
            match (entry.kind(), entry.id.get()) {
                (_, RECLAIM) => {}
                (CatalogKind::Internal, _) => {
                    self.walk_map(&maps, entry, &mut Lineage::default()).await;
                }
                _ => lineages.entry(entry.lineage_uuid).or_default().push(entry),
            }
        }
        for (uuid, entries) in lineages {
            let mut lineage = Lineage::default();
            for entry in &entries {
                self.walk_map(&maps, entry, &mut lineage).await;
            }
            for item in detached.remove(&uuid).unwrap_or_default() {
                self.walk_detached(&maps, item, &mut lineage).await;
            }
            self.check_births(entries[0].id.get(), lineage.births);
        }
        for item in detached.into_values().flatten() {
            self.walk_detached(&maps, item, &mut Lineage::default())
                .await;
        }
        maps
    }

    async fn load_catalog(&mut self) -> Maps {
        let root = self.superblock.catalog_root;
        let height = u8::try_from(self.superblock.catalog_height.get()).unwrap_or(u8::MAX);
        let mut maps = Maps::default();
        for block in self.read_internal(CATALOG, (root, height)).await {
            for bytes in block.block(0).chunks_exact(size_of::<CatalogEntry>()) {
                if let Ok(entry) = CatalogEntry::read_from_bytes(bytes)
                    && bytes.iter().any(|byte| *byte != 0)
                {
                    self.add_entry(&mut maps, entry);
                }
            }
        }
        maps
    }

    fn add_entry(&mut self, maps: &mut Maps, entry: CatalogEntry) {
        let id = entry.id.get();
        let is_known = (FIRST_VOLUME..self.superblock.next_node.get()).contains(&id);
        let is_possible = match entry.kind() {
            CatalogKind::Free => false,
            CatalogKind::Internal => id < FIRST_VOLUME && id != CATALOG,
            CatalogKind::Hidden => is_known,
            CatalogKind::Base => is_known && entry.name().is_empty(),
            CatalogKind::Head | CatalogKind::Snapshot => is_known && !entry.name().is_empty(),
        };
        if !is_possible || !entry.is_sound() {
            self.malformed(format!("catalog: {entry:?} cannot be"));
        }
        if entry.is_sound() && maps.insert(entry) {
            self.malformed(format!("catalog: two entries have number {id}"));
        }
    }

    async fn load_detached(&mut self, maps: &Maps) -> Vec<Detached> {
        let Some(entry) = maps.get(RECLAIM) else {
            return Vec::new();
        };
        let mut items = Vec::new();
        for block in self
            .read_internal(RECLAIM, (entry.root, entry.height))
            .await
        {
            for bytes in block.block(0).chunks_exact(size_of::<Detached>()) {
                let Ok(item) = Detached::read_from_bytes(bytes) else {
                    continue;
                };
                if item.root.kind() == Kind::Node && item.level < HEIGHT_MAX {
                    items.push(item);
                } else if bytes.iter().any(|byte| *byte != 0) {
                    self.malformed("the reclaim queue has an entry that cannot be".into());
                }
            }
        }
        items
    }

    /// The blocks of one of the store's own maps, in order.
    async fn read_internal(&mut self, id: u64, root: (Pointer, u8)) -> Vec<Buf> {
        let maps = Maps::default();
        let mut blocks = Vec::new();
        if !self.is_root(id, root) {
            return blocks;
        }
        let mut walk = Walk::new(&maps, id, root).with_lineage(self.pool_uuid);
        while let Some(part) = self.next_data(&mut walk, &mut Counts::new()).await {
            for data in part {
                self.check_birth(&data, 0);
                self.summary.node_blocks += 1;
                let sound = |block: &[u8; BLOCK_SIZE]| data.is(block);
                blocks.extend(self.read_verified(data.owner(), data.addr, sound).await);
            }
        }
        blocks
    }

    fn is_root(&mut self, id: u64, (root, height): (Pointer, u8)) -> bool {
        let is_root = match root.kind() {
            Kind::Node | Kind::Remote => (1..=HEIGHT_MAX).contains(&height),
            Kind::Never | Kind::Hole => height <= HEIGHT_MAX,
            Kind::Data | Kind::Unknown => false,
        };
        if !is_root {
            let kind = root.kind();
            self.malformed(format!(
                "the root of map {id} is {kind:?} of {height} levels"
            ));
        }
        is_root
    }

    /// Walks what a map owns.
    async fn walk_map(&mut self, maps: &Maps, entry: &CatalogEntry, lineage: &mut Lineage) {
        let id = entry.id.get();
        if !self.is_root(id, (entry.root, entry.height)) {
            return;
        }
        let is_internal = entry.kind() == CatalogKind::Internal;
        let is_base = entry.kind() == CatalogKind::Base;
        let size = entry.size_bytes.get().div_ceil(BLOCK_SIZE as u64);
        let mut walk = Walk::of_map(maps, entry);
        let mut queue: Vec<Data> = Vec::new();
        while let Some(part) = self.next_data(&mut walk, &mut lineage.counts).await {
            for data in part {
                self.check_birth(&data, entry.epoch_bias.get());
                let (birth, first) = (data.birth, entry.seq.get());
                if is_base && Some(birth) != first.checked_add(data.lba) {
                    let what = data.owner();
                    self.find(Finding::ImpossibleBirth { what, birth });
                }
                if !is_internal && data.lba >= size {
                    self.malformed(format!("{} is beyond its end", data.owner()));
                }
                lineage.add_birth(data.birth);
                self.summary.data_blocks += 1;
                // The store's own maps have two replicas, and there is little of them.
                if self.options.verify_data || is_internal {
                    queue.push(data);
                }
            }
            if queue.len() >= QUEUE_MAX {
                self.verify(&mut queue).await;
            }
        }
        self.verify(&mut queue).await;
        let catalog = entry.blocks.get();
        let counted = walk.blocks.filter(|_| !is_internal);
        if let Some(map) = counted.filter(|map| *map != catalog) {
            self.find(Finding::BlockCount {
                volume: id,
                catalog,
                map,
            });
        }
    }

    /// Walks what a discard left behind. Its tags tell nothing: a subtree does not say which blocks of the volume it was.
    async fn walk_detached(&mut self, maps: &Maps, item: Detached, lineage: &mut Lineage) {
        let scope = (item.boundary.get(), item.cursor.get());
        let root = (item.root, item.level + 1);
        let mut walk = Walk::of_subtree(maps, item.map.get(), root, scope);
        while let Some(part) = self.next_data(&mut walk, &mut Counts::new()).await {
            for data in part {
                lineage.add_birth(data.birth);
                self.summary.data_blocks += 1;
            }
        }
    }

    fn check_births(&mut self, map: u64, mut births: Vec<u64>) {
        births.sort_unstable();
        for pair in births.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.find(Finding::BirthTwice {
                map,
                birth: pair[0],
            });
        }
    }
}
