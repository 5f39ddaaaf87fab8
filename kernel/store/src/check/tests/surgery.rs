//! Changes to a pool at rest, with all tags above made right again.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use world::BLOCK_SIZE;
use zerocopy::{FromBytes, IntoBytes};

use super::lab::{Lab, Ram, work};
use crate::groups::{bitmap_tag, table_tag, table_tags_tag, tag_blocks};
use crate::layout::{
    CatalogEntry, Class, FAN, FRAME_HEADER, FrameHeader, GroupEntry, Header, HeaderState, Kind,
    Pointer, PoolAddr, Record, Replica, SLOTS, Superblock, data_tag, get_pointer, node_tag,
    set_pointer,
};
use crate::space::ENTRIES_PER_BLOCK;

/// A pool with a checkpoint, and more in its journal.
pub fn used(drives: usize) -> Lab {
    let lab = Lab::new(drives);
    lab.format();
    let store = lab.open();
    lab.run(work(store.clone(), 5));
    lab.cut(store);
    lab.expect_sound();
    lab
}

pub fn header(disk: &Ram) -> Box<Header> {
    match Header::decode(&disk.block(0)) {
        HeaderState::Valid(header) => header,
        other => panic!("no header: {other:?}"),
    }
}

pub fn superblock(disk: &Ram) -> Superblock {
    let header = header(disk);
    let slots = (0..SLOTS).flat_map(|slot| header.regions.superblocks(slot));
    let all = slots.filter_map(|at| Superblock::decode(&disk.block(at), header.pool_uuid));
    all.max_by_key(|superblock| superblock.generation.get())
        .unwrap()
}

/// The group table's entries and where they are.
pub fn groups(disk: &Ram) -> Vec<(u64, usize, GroupEntry)> {
    let (header, superblock) = (header(disk), superblock(disk));
    let count = superblock.groups.get() as usize;
    let first = header.regions.table[superblock.area.get() as usize].get()
        + tag_blocks(count.div_ceil(ENTRIES_PER_BLOCK)) as u64;
    let entry = |index: usize| {
        let at = first + (index / ENTRIES_PER_BLOCK) as u64;
        let within = index % ENTRIES_PER_BLOCK * 64;
        let entry = GroupEntry::read_from_bytes(&disk.block(at)[within..within + 64]).unwrap();
        (at, within, entry)
    };
    (0..count).map(entry).collect()
}

/// Changes an entry of the group table of a pool of one drive, and all tags above.
pub fn change_group(disk: &Ram, group: usize, change: impl FnOnce(&mut GroupEntry)) {
    let (header, mut superblock) = (header(disk), superblock(disk));
    let (at, within, mut entry) = groups(disk)[group];
    change(&mut entry);
    let mut block = disk.block(at);
    block[within..within + 64].copy_from_slice(entry.as_bytes());
    disk.put(at, &block);
    let index = group / ENTRIES_PER_BLOCK;
    let tags_at = header.regions.table[superblock.area.get() as usize].get();
    let mut tags = disk.block(tags_at);
    let tag = table_tag(header.pool_uuid, index, &block);
    tags[index * 16..][..16].copy_from_slice(&tag.0);
    disk.put(tags_at, &tags);
    superblock.table_tags[0] = table_tags_tag(header.pool_uuid, 0, &tags).0;
    let mut block = [0; BLOCK_SIZE];
    superblock.encode(&mut block);
    for at in header
        .regions
        .superblocks(superblock.generation.get() % SLOTS)
    {
        disk.put(at, &block);
    }
}

/// Changes the bitmap of a group, and all tags above.
pub fn change_bitmap(disk: &Ram, group: usize, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
    let header = header(disk);
    let entry = groups(disk)[group].2;
    let places = replica_blocks(disk, group, u64::from(entry.slot));
    let mut bitmap = disk.block(places[0]);
    change(&mut bitmap);
    places.iter().for_each(|at| disk.put(*at, &bitmap));
    let version = entry.bitmap_checkpoint.get();
    let number = u32::try_from(group).unwrap();
    let tag = bitmap_tag(header.pool_uuid, number, version, &bitmap);
    change_group(disk, group, |entry| entry.tag = tag.0);
}

/// Where a block of a group is on the drive, for each replica.
pub fn replica_blocks(disk: &Ram, group: usize, block: u64) -> Vec<u64> {
    let replicas = groups(disk)[group].2;
    let place = |replica: Replica| chunk_start(disk, replica.chunk.get()) + block;
    replicas.in_sync().map(place).collect()
}

fn chunk_start(disk: &Ram, chunk: u32) -> u64 {
    let header = header(disk);
    header.regions.chunks_start.get() + (u64::from(chunk) << header.group_shift.get())
}

pub fn first_group(disk: &Ram, class: Class) -> usize {
    let wanted = |entry: &GroupEntry| entry.class() == class && entry.tag != [0; 16];
    groups(disk)
        .iter()
        .position(|(_, _, entry)| wanted(entry))
        .unwrap()
}

/// The first block that this bitmap has (not) set.
pub fn find_bit(bitmap: &[u8; BLOCK_SIZE], set: bool) -> u64 {
    (2..256)
        .find(|block| (bitmap[block / 8] >> (block % 8) & 1 != 0) == set)
        .unwrap() as u64
}

/// Appends a frame to the journal of a pool of one drive that claims to be durable.
pub fn append_frame(disk: &Ram, records: &[u8]) {
    append_changed_frame(disk, records, |_| {});
}

/// The same with another header.
pub fn append_changed_frame(disk: &Ram, records: &[u8], change: impl FnOnce(&mut FrameHeader)) {
    let (own, superblock) = (header(disk), superblock(disk));
    let ring = own.regions.journal.get();
    let frames = (0..own.regions.journal_blocks.get())
        .filter_map(|at| FrameHeader::decode(&disk.block(ring + at), own.pool_uuid));
    let last = frames.max_by_key(|frame| frame.seq.get()).unwrap();
    let mut next = FrameHeader::new(own.pool_uuid, superblock.fork_id.get());
    next.blocks = 1.into();
    next.seq = (last.seq.get() + 1).into();
    next.position = (last.position.get() + u64::from(last.blocks.get())).into();
    next.mount_gen = last.mount_gen;
    next.checkpoint = last.checkpoint;
    next.durable_seq = next.seq;
    next.prev_tag = last.tag;
    next.record_bytes = u32::try_from(records.len()).unwrap().into();
    let at = ring + next.position.get() % own.regions.journal_blocks.get();
    change(&mut next);
    let mut block = [0; BLOCK_SIZE];
    block[FRAME_HEADER..FRAME_HEADER + records.len()].copy_from_slice(records);
    next.tag = next.compute_tag(own.pool_uuid, core::iter::once(&block)).0;
    block[..FRAME_HEADER].copy_from_slice(next.as_bytes());
    disk.put(at, &block);
}

/// Writes the newest superblock of a pool of one drive again, changed and with the right tag.
pub fn change_superblock(disk: &Ram, change: impl FnOnce(&mut Superblock)) {
    let (header, mut superblock) = (header(disk), superblock(disk));
    let slot = superblock.generation.get() % SLOTS;
    change(&mut superblock);
    let mut block = [0; BLOCK_SIZE];
    superblock.encode(&mut block);
    for at in header.regions.superblocks(slot) {
        disk.put(at, &block);
    }
}

/// Map and place on the drive of the first block of each write that is only in the journal.
pub fn journal_writes(disk: &Ram) -> Vec<(u64, u64)> {
    let (own, tail) = (header(disk), superblock(disk).tails[0]);
    let ring = own.regions.journal.get();
    let (mut found, mut new) = (Vec::new(), BTreeMap::new());
    for at in 0..own.regions.journal_blocks.get() {
        let block = disk.block(ring + at);
        let frame = FrameHeader::decode(&block, own.pool_uuid);
        let Some(frame) = frame.filter(|frame| frame.seq >= tail.seq) else {
            continue;
        };
        let mut rest = &block[FRAME_HEADER..][..frame.record_bytes.get() as usize];
        while let Some((record, len)) = Record::decode(rest) {
            match record {
                Record::Group { group, entry } => {
                    new.insert(u64::from(group), entry);
                }
                Record::Write { tree, addr, .. } => {
                    let group = new.get(&(addr >> 15));
                    let chunk = group.map(|group| group.replicas[0].chunk.get());
                    found.push(match chunk {
                        Some(chunk) => (tree, chunk_start(disk, chunk) + (addr & 0x7fff)),
                        None => (tree, places(disk, addr)[0]),
                    });
                }
                Record::Hole { .. } | Record::Control(_) => {}
            }
            rest = &rest[len..];
        }
    }
    found
}

/// Where a block of the pool is on the drive, for each replica.
fn places(disk: &Ram, addr: PoolAddr) -> Vec<u64> {
    replica_blocks(disk, usize::try_from(addr >> 15).unwrap(), addr & 0x7fff)
}

/// Changes the pointer that spans 128^`depth` blocks around `lba`; returns what leads to the changed map.
pub fn change_pointer(
    disk: &Ram,
    (root, height): (Pointer, u8),
    (lba, depth): (u64, u8),
    change: &mut dyn FnMut(&mut Pointer),
) -> Pointer {
    let mut new = root;
    if height == depth {
        change(&mut new);
        return new;
    }
    assert_eq!(root.kind(), Kind::Node, "nothing is there");
    let places = places(disk, root.addr());
    let mut node = disk.block(places[0]);
    let level = height - 1;
    let index = usize::try_from(lba / (FAN as u64).pow(level.into())).unwrap() % FAN;
    let child = get_pointer(&node, index);
    let child = change_pointer(disk, (child, level), (lba, depth), change);
    set_pointer(&mut node, index, &child);
    places.iter().for_each(|at| disk.put(*at, &node));
    let entries = (0..FAN).map(|index| get_pointer(&node, index));
    let birth = entries.map(|entry| entry.birth()).max().unwrap();
    let tag = node_tag(header(disk).pool_uuid, level, root.addr(), birth, &node);
    if level > 0 {
        return Pointer::node(root.addr(), birth, tag);
    }
    Pointer::leaf(root.addr(), birth, tag, root.leaf_blocks() as u8)
}

/// Block and place of each entry of the catalog, with the entry.
fn catalog(disk: &Ram) -> Vec<(u64, usize, CatalogEntry)> {
    let superblock = superblock(disk);
    let root = (
        superblock.catalog_root,
        superblock.catalog_height.get() as u8,
    );
    let mut found = Vec::new();
    for lba in 0..FAN as u64 {
        let mut block = None;
        let mut note = |pointer: &mut Pointer| {
            block = (pointer.kind() == Kind::Data).then(|| pointer.addr());
        };
        change_pointer(disk, root, (lba, 0), &mut note);
        let Some(addr) = block else { continue };
        let bytes = disk.block(places(disk, addr)[0]);
        for (index, bytes) in bytes.chunks_exact(512).enumerate() {
            let entry = CatalogEntry::read_from_bytes(bytes).unwrap();
            found.push((lba, index * 512, entry));
        }
    }
    found
}

/// The catalog's entry of a map.
pub fn entry(disk: &Ram, id: u64) -> CatalogEntry {
    let all = catalog(disk).into_iter();
    let mut of_map = all.filter(|(.., entry)| entry.id.get() == id);
    of_map.next().unwrap().2
}

/// Changes the catalog's entry of a map of a pool of one drive.
pub fn change_entry(disk: &Ram, id: u64, change: impl FnOnce(&mut CatalogEntry)) {
    let all = catalog(disk).into_iter();
    let mut of_map = all.filter(|(.., entry)| entry.id.get() == id);
    let (lba, at, mut entry) = of_map.next().unwrap();
    change(&mut entry);
    let pool = header(disk).pool_uuid;
    let mut write = |pointer: &mut Pointer| {
        let places = places(disk, pointer.addr());
        let mut block = disk.block(places[0]);
        block[at..at + 512].copy_from_slice(entry.as_bytes());
        places.iter().for_each(|at| disk.put(*at, &block));
        let tag = data_tag(pool, lba, pointer.birth(), &block);
        *pointer = Pointer::data(pointer.addr(), pointer.birth(), tag);
    };
    let newest = superblock(disk);
    let root = (newest.catalog_root, newest.catalog_height.get() as u8);
    let root = change_pointer(disk, root, (lba, 0), &mut write);
    change_superblock(disk, |superblock| superblock.catalog_root = root);
}

/// Changes a pointer of a volume's or snapshot's map (see [`change_pointer`]).
pub fn change_map(disk: &Ram, id: u64, place: (u64, u8), change: impl FnOnce(&mut Pointer)) {
    let before = entry(disk, id);
    let mut change = Some(change);
    let mut once = |pointer: &mut Pointer| change.take().unwrap()(pointer);
    let root = change_pointer(disk, (before.root, before.height), place, &mut once);
    change_entry(disk, id, |entry| entry.root = root);
}
