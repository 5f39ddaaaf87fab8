//! What the journal says of maps.

use alloc::vec::Vec;

use super::kin::{CLONE, FIRST, HEAD, MIDDLE, kin};
use super::lab::lines;
use super::sound::fill;
use super::surgery::{append_frame, entry, journal_writes};
use crate::check::{Finding, Owner};
use crate::layout::{CatalogEntry, CatalogKind, Record, first_birth};

/// What a pool's journal says of maps must be possible, too.
#[test]
fn wrong_changes_in_the_journal_are_found() {
    let lab = kin();
    let store = lab.open();
    let using = store.clone();
    lab.run(async move {
        let base = using.find("base").unwrap().id;
        fill(&using, base, 16).await;
        using.flush().await.unwrap();
    });
    lab.cut(store);
    lab.expect_sound();
    let disk = &lab.disks[0];
    let sound = disk.image.borrow().clone();
    let with = |id, change: fn(&mut CatalogEntry)| {
        let mut entry = entry(disk, id);
        change(&mut entry);
        entry
    };
    let snapshot: fn(&mut CatalogEntry) = |entry| {
        entry.set_kind(CatalogKind::Snapshot);
        entry.seq = first_birth(2).into();
    };
    let cases: Vec<(Vec<CatalogEntry>, &str)> = alloc::vec![
        (alloc::vec![with(HEAD, snapshot)], "but has birth"),
        (
            alloc::vec![with(MIDDLE, |entry| entry.set_kind(CatalogKind::Head))],
            "becomes Head"
        ),
        (alloc::vec![with(MIDDLE, |entry| entry.seq += 1)], "clock"),
        (
            alloc::vec![with(HEAD, |entry| entry.size_bytes = (4 << 20).into())],
            "size"
        ),
        (
            alloc::vec![with(CLONE, |entry| entry.lineage_uuid[3] ^= 1)],
            "another volume"
        ),
        (
            alloc::vec![with(CLONE, |entry| entry.id = 77.into()); 1],
            "same volume"
        ),
        (
            alloc::vec![with(CLONE, |entry| {
                entry.id = 77.into();
                entry.parent = HEAD.into();
            })],
            "is no snapshot",
        ),
        (
            alloc::vec![with(CLONE, |entry| {
                entry.id = 77.into();
                entry.parent = 66.into();
            })],
            "which is gone",
        ),
        (
            alloc::vec![with(MIDDLE, |entry| entry.id = 77.into())],
            "does not exist"
        ),
        (
            alloc::vec![with(CLONE, |entry| entry.set_name("base"))],
            "same name"
        ),
    ];
    for (entries, words) in cases {
        *disk.image.borrow_mut() = sound.clone();
        let mut records = Vec::new();
        Record::push_control(&mut records, &entries);
        append_frame(disk, &records);
        let findings = lab.check().1;
        let found = findings.iter().any(|finding| match finding {
            Finding::JournalRecord { what, .. } | Finding::Relation { what, .. } => {
                what.contains(words)
            }
            _ => false,
        });
        assert!(found, "{entries:?} {words}: {}", lines(&findings));
    }
    let old = entry(disk, FIRST).seq.get();
    for (map, birth, words) in [
        (MIDDLE, first_birth(2), "no longer a volume"),
        (HEAD, old, "older than the volume's snapshot"),
    ] {
        *disk.image.borrow_mut() = sound.clone();
        let mut records = Vec::new();
        Record::push_hole(&mut records, (map, 3), 4, birth);
        append_frame(disk, &records);
        let findings = lab.check().1;
        let tells = |finding: &Finding| matches!(finding, Finding::JournalRecord { what, .. } if what.contains(words));
        assert!(findings.iter().any(tells), "{words}: {}", lines(&findings));
    }
}

/// What only a snapshot has in the journal is verified though its volume wrote something else since.
#[test]
fn a_damaged_block_of_a_snapshot_in_the_journal_is_found() {
    let lab = kin();
    let store = lab.open();
    let using = store.clone();
    lab.run(async move {
        let base = using.find("base").unwrap().id;
        fill(&using, base, 16).await;
        let new = using.create_snapshot(base, "new").await.unwrap();
        fill(&using, base, 16).await;
        using.create_snapshot(base, "newer").await.unwrap();
        using.delete_snapshot(new.id).await.unwrap();
        using.flush().await.unwrap();
    });
    lab.cut(store);
    let before = lab.expect_sound();
    assert_eq!((before.snapshots, before.hidden), (3, 1));
    let disk = &lab.disks[0];
    let log = journal_writes(disk);
    let [(hidden, old), (shown, new)] = log[..] else {
        panic!("{log:?}");
    };
    assert_eq!((hidden, shown), (HEAD, HEAD + 2));
    disk.flip(old, 5);
    // The deleted snapshot's block is nobody's any more.
    lab.expect_sound();
    disk.flip(new, 5);
    let findings = lab.check().1;
    assert!(
        matches!(
            findings[..],
            [Finding::Damaged {
                what: Owner::Block { .. },
                ..
            }]
        ),
        "{}",
        lines(&findings)
    );
}
