//! Each kind of damage is found.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use world::BLOCK_SIZE;
use zerocopy::{FromBytes, IntoBytes};

use super::lab::{Lab, Ram, check_disks, lines, work};
use crate::api::StoreError;
use crate::check::{Finding, Owner};
use crate::groups::{bitmap_tag, table_tag, table_tags_tag, tag_blocks};
use crate::layout::{
    Class, FRAME_HEADER, FrameHeader, GroupEntry, Header, HeaderState, Kind, Record, Replica,
    SLOTS, Superblock, first_birth, get_pointer,
};
use crate::space::ENTRIES_PER_BLOCK;
use crate::tag::Tag;

/// A pool with a checkpoint, and more in its journal.
fn used(drives: usize) -> Lab {
    let lab = Lab::new(drives);
    lab.format();
    let store = lab.open();
    lab.run(work(store.clone(), 5));
    lab.cut(store);
    lab.expect_sound();
    lab
}

fn header(disk: &Ram) -> Box<Header> {
    match Header::decode(&disk.block(0)) {
        HeaderState::Valid(header) => header,
        other => panic!("no header: {other:?}"),
    }
}

fn superblock(disk: &Ram) -> Superblock {
    let header = header(disk);
    let slots = (0..SLOTS).flat_map(|slot| header.regions.superblocks(slot));
    let all = slots.filter_map(|at| Superblock::decode(&disk.block(at), header.pool_uuid));
    all.max_by_key(|superblock| superblock.generation.get())
        .unwrap()
}

/// The group table's entries and where they are.
fn groups(disk: &Ram) -> Vec<(u64, usize, GroupEntry)> {
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
fn change_group(disk: &Ram, group: usize, change: impl FnOnce(&mut GroupEntry)) {
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
fn change_bitmap(disk: &Ram, group: usize, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
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
fn replica_blocks(disk: &Ram, group: usize, block: u64) -> Vec<u64> {
    let header = header(disk);
    let replicas = groups(disk)[group].2;
    let place = |replica: Replica| {
        let chunk = u64::from(replica.chunk.get()) << header.group_shift.get();
        header.regions.chunks_start.get() + chunk + block
    };
    replicas.in_sync().map(place).collect()
}

fn first_group(disk: &Ram, class: Class) -> usize {
    let wanted = |entry: &GroupEntry| entry.class() == class && entry.tag != [0; 16];
    groups(disk)
        .iter()
        .position(|(_, _, entry)| wanted(entry))
        .unwrap()
}

/// The first block that this bitmap has (not) set.
fn find_bit(bitmap: &[u8; BLOCK_SIZE], set: bool) -> u64 {
    (2..256)
        .find(|block| (bitmap[block / 8] >> (block % 8) & 1 != 0) == set)
        .unwrap() as u64
}

#[test]
fn a_leaked_and_a_dangling_block_are_found() {
    for class in [Class::Data, Class::Meta] {
        for set in [false, true] {
            let lab = used(1);
            let disk = &lab.disks[0];
            let group = first_group(disk, class);
            let mut found = 0;
            change_bitmap(disk, group, |bitmap| {
                found = find_bit(bitmap, set);
                bitmap[found as usize / 8] ^= 1 << (found % 8);
            });
            let (summary, findings) = lab.check();
            let addr = (group as u64) << 15 | found;
            let expected = if set {
                Finding::Dangling { addr }
            } else {
                Finding::Leaked { addr }
            };
            assert!(findings.contains(&expected), "{}", lines(&findings));
            let counted = |finding: &Finding| matches!(finding, Finding::FreeCount { .. });
            assert!(findings.iter().any(counted));
            let summary = summary.unwrap();
            assert_eq!(
                (summary.leaked, summary.dangling),
                (u64::from(!set), u64::from(set))
            );
        }
    }
}

#[test]
fn every_flipped_bit_of_a_used_block_is_found() {
    let lab = used(1);
    let disk = &lab.disks[0];
    let header = header(disk);
    for (class, copies) in [(Class::Data, 1), (Class::Meta, 2)] {
        let group = first_group(disk, class);
        let slot = u64::from(groups(disk)[group].2.slot);
        let bitmap = disk.block(replica_blocks(disk, group, slot)[0]);
        let used = (2..1_u64 << header.group_shift.get())
            .filter(|block| bitmap[*block as usize / 8] >> (block % 8) & 1 != 0);
        for block in used.step_by(17).chain([slot]) {
            let places = replica_blocks(disk, group, block);
            assert_eq!(places.len(), copies);
            for at in places {
                disk.flip(at, (block * 331) as usize % 32768);
                let (summary, findings) = lab.check();
                let addr = (group as u64) << 15 | block;
                let found = |finding: &Finding| matches!(finding, Finding::Damaged { addr: at, drive: 0, .. } if *at == addr);
                assert!(
                    findings.iter().any(found),
                    "{addr:#x}: {}",
                    lines(&findings)
                );
                assert!(copies == 1 || findings.len() == 1, "{}", lines(&findings));
                assert!(!summary.unwrap().is_clean());
                disk.flip(at, (block * 331) as usize % 32768);
            }
        }
    }
    lab.expect_sound();
}

#[test]
fn damaged_roots_are_found() {
    let lab = used(2);
    let disk = &lab.disks[1];
    let (own, newest) = (header(disk), superblock(disk));
    for at in [0, own.regions.label_b()] {
        disk.flip(at, 999);
        assert_eq!(lab.check().1, [Finding::Header { drive: 1 }]);
        disk.flip(at, 999);
    }
    let table = own.regions.table[newest.area.get() as usize].get();
    for at in [table, table + 1] {
        disk.flip(at, 5);
        let (summary, findings) = lab.check();
        assert!(
            matches!(findings[..], [Finding::Damaged { drive: 1, .. }]),
            "{findings:?}"
        );
        assert_eq!(summary.unwrap().damaged, 1);
        disk.flip(at, 5);
    }
    // One of four copies of the superblock is enough, and a power cut leaves as many.
    for disk in &lab.disks {
        disk.flip(
            own.regions.superblocks(newest.generation.get() % SLOTS)[0],
            77,
        );
    }
    lab.expect_sound();
}

#[test]
fn without_headers_or_drives_there_is_nothing_to_check() {
    let lab = used(2);
    let one = vec![lab.disks[0].clone()];
    assert_eq!(check_disks(one).0, Err(StoreError::Incomplete));
    assert_eq!(check_disks(Vec::new()).0, Err(StoreError::Incomplete));
    assert_eq!(
        check_disks(vec![Ram::default()]).0,
        Err(StoreError::Unsupported)
    );
    let swapped = vec![lab.disks[1].clone(), lab.disks[0].clone()];
    assert_eq!(check_disks(swapped).1, []);
}

/// Appends a frame to the journal of a pool of one drive that claims to be durable.
fn append_frame(disk: &Ram, records: &[u8]) {
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
    let mut block = [0; BLOCK_SIZE];
    block[FRAME_HEADER..FRAME_HEADER + records.len()].copy_from_slice(records);
    next.tag = next.compute_tag(own.pool_uuid, core::iter::once(&block)).0;
    block[..FRAME_HEADER].copy_from_slice(next.as_bytes());
    disk.put(
        ring + next.position.get() % own.regions.journal_blocks.get(),
        &block,
    );
}

#[test]
fn a_journal_that_uses_a_block_again_is_found() {
    let lab = used(1);
    let disk = &lab.disks[0];
    let group = first_group(disk, Class::Data);
    let slot = u64::from(groups(disk)[group].2.slot);
    let bitmap = disk.block(replica_blocks(disk, group, slot)[0]);
    let addr = (group as u64) << 15 | find_bit(&bitmap, true);
    let mut records = Vec::new();
    let (birth, tags) = (first_birth(1) + 999_999, [Tag([1; 16])]);
    Record::push_write(&mut records, (16, 3), addr, birth, &tags);
    Record::push_write(&mut records, (16, 4), 0x7fff_0000_0000, birth + 1, &tags);
    Record::push_write(&mut records, (16, 1 << 30), addr, birth, &tags);
    Record::push_write(&mut records, (999, 0), addr, first_birth(1 << 19), &tags);
    append_frame(disk, &records);
    let (_, findings) = lab.check();
    let block = |block| Owner::Block { volume: 16, block };
    let missing = |finding: &Finding| matches!(finding, Finding::JournalRecord { what, .. } if what.contains("999"));
    let beyond = |finding: &Finding| matches!(finding, Finding::JournalRecord { what, .. } if what.contains("beyond"));
    assert!(
        findings.contains(&Finding::UsedTwice {
            what: block(3),
            addr
        }),
        "{findings:?}"
    );
    let bad = Finding::BadAddress {
        what: block(4),
        addr: 0x7fff_0000_0000,
    };
    assert!(findings.contains(&bad), "{findings:?}");
    let again = Finding::ImpossibleBirth {
        what: block(1 << 30),
        birth,
    };
    assert!(findings.contains(&again), "{findings:?}");
    let later = |finding: &Finding| {
        matches!(
            finding,
            Finding::ImpossibleBirth {
                what: Owner::Block { volume: 999, .. },
                ..
            }
        )
    };
    assert!(findings.iter().any(later), "{findings:?}");
    assert!(
        findings.iter().any(missing) && findings.iter().any(beyond),
        "{findings:?}"
    );
}

#[test]
fn a_durable_frame_that_is_lost_is_found_and_a_torn_tail_is_none() {
    for drives in [1, 2] {
        let lab = used(drives);
        let disk = &lab.disks[0];
        let (own, newest) = (header(disk), superblock(disk));
        let ring = own.regions.journal.get();
        let in_ring = (0..own.regions.journal_blocks.get()).filter_map(|at| {
            Some((
                ring + at,
                FrameHeader::decode(&disk.block(ring + at), own.pool_uuid)?,
            ))
        });
        let mut live: Vec<(u64, FrameHeader)> = in_ring
            .filter(|(_, frame)| frame.seq >= newest.tails[0].seq)
            .collect();
        live.sort_by_key(|(_, frame)| frame.seq.get());
        assert!(live.len() >= 2, "{live:?}");
        let durable = live
            .iter()
            .map(|(_, frame)| frame.durable_seq.get())
            .max()
            .unwrap();
        for (at, frame) in &live {
            disk.flip(*at, 4000);
            let seq = frame.seq.get();
            let findings = lab.check().1;
            match (seq <= durable, drives) {
                (true, 1) => assert_eq!(findings, [Finding::JournalLost { seq, durable }]),
                (true, _) => assert_eq!(findings, [Finding::JournalReplica { seq, drive: 0 }]),
                (false, _) => assert_eq!(findings, []),
            }
            disk.flip(*at, 4000);
        }
    }
}

/// Whatever the roots say, the checker answers and comes to an end.
#[test]
fn random_damage_never_stops_the_checker() {
    let lab = used(1);
    let disk = &lab.disks[0];
    let written: Vec<u64> = disk.image.borrow().keys().copied().collect();
    let mut state = 7_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for _ in 0..150 {
        let (at, other) = (
            written[random() % written.len()],
            written[random() % written.len()],
        );
        let (mine, theirs) = (disk.block(at), disk.block(other));
        // A right block in a wrong place.
        disk.put(at, &theirs);
        let (result, findings) = lab.check();
        assert!(result.is_ok() || findings.is_empty());
        disk.put(at, &mine);
    }
    lab.expect_sound();
    // The catalog's root node leads somewhere, so the walk above was not over nothing.
    let root = superblock(disk).catalog_root;
    assert_eq!(root.kind(), Kind::Node);
    let group = usize::try_from(root.addr() >> 15).unwrap();
    let node = disk.block(replica_blocks(disk, group, root.addr() & 0x7fff)[0]);
    assert_eq!(get_pointer(&node, 0).kind(), Kind::Data);
}

/// A used pool without a superblock to go back to.
fn used_once() -> Lab {
    let lab = used(1);
    let disk = &lab.disks[0];
    let newest = superblock(disk).generation.get() % SLOTS;
    for slot in (0..SLOTS).filter(|slot| *slot != newest) {
        for at in header(disk).regions.superblocks(slot) {
            disk.put(at, &[0; BLOCK_SIZE]);
        }
    }
    lab
}

/// Writes the newest superblock of a pool of one drive again, changed and with the right tag.
fn change_superblock(disk: &Ram, change: impl FnOnce(&mut Superblock)) {
    let (header, mut superblock) = (header(disk), superblock(disk));
    let slot = superblock.generation.get() % SLOTS;
    change(&mut superblock);
    let mut block = [0; BLOCK_SIZE];
    superblock.encode(&mut block);
    for at in header.regions.superblocks(slot) {
        disk.put(at, &block);
    }
}

/// Whoever can write to a drive can compute tags: impossible numbers must neither stop the machine nor make it wait for ever.
#[test]
fn impossible_roots_with_right_tags_are_refused() {
    assert_eq!(used_once().try_open(), Ok(()));
    let numbers: [fn(&mut Superblock); 10] = [
        |superblock| superblock.catalog_height = 6.into(),
        |superblock| superblock.groups = 0.into(),
        |superblock| superblock.groups = (superblock.groups.get() - 1).into(),
        |superblock| superblock.live_max = 0.into(),
        |superblock| superblock.mount_gen = u64::MAX.into(),
        |superblock| superblock.next_node = u64::MAX.into(),
        |superblock| superblock.generation = u64::MAX.into(),
        |superblock| superblock.checkpoint = u64::MAX.into(),
        |superblock| superblock.tails[0].position = u64::MAX.into(),
        |superblock| superblock.tails[0].seq = 0.into(),
    ];
    for (index, change) in numbers.into_iter().enumerate() {
        let lab = used_once();
        change_superblock(&lab.disks[0], change);
        assert_eq!(
            lab.try_open(),
            Err(StoreError::DamagedPool),
            "number {index}"
        );
    }
    let entries: [fn(&mut GroupEntry); 4] = [
        |entry| entry.free = u16::MAX.into(),
        |entry| entry.replicas[0].device = 9,
        |entry| entry.replicas[0].chunk = u32::MAX.into(),
        |entry| entry.replicas = Default::default(),
    ];
    for (index, change) in entries.into_iter().enumerate() {
        let lab = used_once();
        let group = first_group(&lab.disks[0], Class::Data);
        change_group(&lab.disks[0], group, change);
        assert_eq!(
            lab.try_open(),
            Err(StoreError::DamagedPool),
            "entry {index}"
        );
    }
    let lab = used_once();
    let chunk = groups(&lab.disks[0])[first_group(&lab.disks[0], Class::Meta)]
        .2
        .replicas[0];
    let group = first_group(&lab.disks[0], Class::Data);
    change_group(&lab.disks[0], group, |entry| entry.replicas[0] = chunk);
    assert_eq!(
        lab.try_open(),
        Err(StoreError::DamagedPool),
        "a chunk of two groups"
    );
}
