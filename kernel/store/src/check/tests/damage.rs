//! Each kind of damage is found.

use alloc::vec;
use alloc::vec::Vec;

use world::BLOCK_SIZE;

use super::lab::{Lab, Ram, check_disks, lines};
use super::surgery::{
    append_changed_frame, append_frame, change_bitmap, change_entry, change_group,
    change_superblock, find_bit, first_group, groups, header, replica_blocks, superblock, used,
};
use crate::api::StoreError;
use crate::check::{Finding, Owner};
use crate::layout::{
    CatalogEntry, Class, FrameHeader, GroupEntry, Kind, Record, SLOTS, Superblock, first_birth,
    get_pointer,
};
use crate::tag::Tag;

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

/// The checker reads the same numbers, and answers.
#[test]
fn impossible_numbers_with_right_tags_do_not_stop_the_checker() {
    let numbers: [fn(&mut Superblock); 12] = [
        |superblock| superblock.catalog_height = 6.into(),
        |superblock| superblock.groups = 0.into(),
        |superblock| superblock.groups = u32::MAX.into(),
        |superblock| superblock.live_max = u64::MAX.into(),
        |superblock| superblock.mount_gen = u64::MAX.into(),
        |superblock| superblock.next_node = 0.into(),
        |superblock| superblock.generation = u64::MAX.into(),
        |superblock| superblock.checkpoint = u64::MAX.into(),
        |superblock| superblock.tails[0].position = u64::MAX.into(),
        |superblock| superblock.tails[0].position = (u64::MAX - 3).into(),
        |superblock| superblock.tails[0].seq = u64::MAX.into(),
        |superblock| superblock.tails[0].seq = 0.into(),
    ];
    for change in numbers {
        let lab = used_once();
        change_superblock(&lab.disks[0], change);
        let (result, findings) = lab.check();
        assert!(result.is_ok() || findings.is_empty());
    }
    let entries: [fn(&mut GroupEntry); 4] = [
        |entry| entry.free = u16::MAX.into(),
        |entry| entry.replicas[0].device = 9,
        |entry| entry.replicas[0].chunk = u32::MAX.into(),
        |entry| entry.slot = 255,
    ];
    for change in entries {
        let lab = used_once();
        let group = first_group(&lab.disks[0], Class::Meta);
        change_group(&lab.disks[0], group, change);
        let (result, findings) = lab.check();
        assert!(result.is_err() || !findings.is_empty());
    }
    let maps: [fn(&mut CatalogEntry); 6] = [
        |entry| entry.height = 255,
        |entry| entry.height += 1,
        |entry| entry.size_bytes = u64::MAX.into(),
        |entry| entry.epoch_bias = u64::MAX.into(),
        |entry| entry.seq = u64::MAX.into(),
        |entry| entry.collapse_cursor = u64::MAX.into(),
    ];
    for change in maps {
        let lab = used_once();
        change_entry(&lab.disks[0], 16, change);
        assert_ne!(lab.check().1, []);
    }
    let frames: [fn(&mut FrameHeader); 5] = [
        |frame| frame.seq = u64::MAX.into(),
        |frame| frame.position = u64::MAX.into(),
        |frame| frame.durable_seq = u64::MAX.into(),
        |frame| frame.mount_gen = u64::MAX.into(),
        |frame| frame.checkpoint = u64::MAX.into(),
    ];
    for change in frames {
        let lab = used_once();
        append_changed_frame(&lab.disks[0], &[], change);
        let (result, findings) = lab.check();
        assert!(result.is_ok() || findings.is_empty());
    }
}
