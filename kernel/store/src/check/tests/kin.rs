//! Damage to what snapshots and clones are made of, with all tags right: only the account of who owns what can tell.

use super::family::collapsing;
use super::lab::{Lab, Ram, lines};
use super::sound::fill;
use super::surgery::{change_entry, entry};
use crate::check::{Finding, Owner};
use crate::layout::{CatalogEntry, CatalogKind, first_birth};

/// The snapshots `first` and `middle` of the volume, its head, and a clone of `middle`.
pub const FIRST: u64 = 16;
pub const MIDDLE: u64 = 17;
pub const HEAD: u64 = 18;
pub const CLONE: u64 = 19;

/// A pool of four maps, each with blocks of its own in leaves that it shares with the others otherwise; nothing in the journal.
pub fn kin() -> Lab {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let using = store.clone();
    lab.run(async move {
        let base = using.create_volume("base", 40 << 20).await.unwrap().id;
        fill(&using, base, 640).await;
        using.create_snapshot(base, "first").await.unwrap();
        fill(&using, base, 320).await;
        let middle = using.create_snapshot(base, "middle").await.unwrap();
        fill(&using, base, 16).await;
        let clone = using.clone_snapshot(middle.id, "clone").await.unwrap();
        fill(&using, clone.id, 32).await;
        using.close().await.unwrap();
    });
    lab.cut(store);
    let summary = lab.expect_sound();
    assert_eq!((summary.volumes, summary.snapshots), (2, 2));
    lab
}

/// The snapshot `middle` is deleted and half taken apart.
pub fn half_collapsed() -> Lab {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let using = store.clone();
    lab.run(async move {
        collapsing(using.clone(), 1).await;
        let base = using.find("base").unwrap().id;
        let middle = using.find_snapshot(base, "middle").unwrap();
        using.delete_snapshot(middle.id).await.unwrap();
        using.checkpoint().await.unwrap();
    });
    lab.cut(store);
    lab.expect_sound();
    let cursor = entry(&lab.disks[0], MIDDLE).collapse_cursor.get();
    assert!((1..8960 - 256).contains(&cursor), "{cursor}");
    lab
}

type Found = fn(&Finding) -> bool;

/// What is done to a pool, and what then must be found.
type Damage<'a> = (&'a str, fn(&Ram), &'a [Found]);

/// Damages pools made by `make`, each in one way, and looks for what tells of it.
pub fn expect(make: fn() -> Lab, damages: &[Damage<'_>]) {
    let lab = make();
    let sound = lab.disks[0].image.borrow().clone();
    for (name, damage, expected) in damages {
        *lab.disks[0].image.borrow_mut() = sound.clone();
        damage(&lab.disks[0]);
        let findings = lab.check().1;
        for (index, found) in expected.iter().enumerate() {
            let all = lines(&findings);
            assert!(findings.iter().any(found), "{name}, {index}: {all}");
        }
    }
}

pub fn is_leaked(finding: &Finding) -> bool {
    matches!(finding, Finding::Leaked { .. })
}

pub fn is_dangling(finding: &Finding) -> bool {
    matches!(finding, Finding::Dangling { .. })
}

pub fn is_used_twice(finding: &Finding) -> bool {
    matches!(finding, Finding::UsedTwice { .. })
}

/// Tells of a relation of that map in these words.
pub fn tells(finding: &Finding, id: u64, words: &str) -> bool {
    matches!(finding, Finding::Relation { map, what } if *map == id && what.contains(words))
}

pub fn is_unlike(finding: &Finding, volume: u64, of: u64) -> bool {
    let owner = |what: &Owner| match what {
        Owner::Block { volume, .. } | Owner::Node { volume, .. } => *volume,
        Owner::Bitmap { .. } | Owner::Table { .. } => 0,
    };
    matches!(finding, Finding::Unlike { what, parent } if owner(what) == volume && *parent == of)
}

#[test]
fn wrong_relations_are_found() {
    expect(
        kin,
        &[
            (
                "no parent",
                |disk| change_entry(disk, HEAD, |entry| entry.parent = 0.into()),
                &[is_used_twice],
            ),
            (
                "the grandparent as parent",
                |disk| change_entry(disk, HEAD, |entry| entry.parent = FIRST.into()),
                &[is_used_twice],
            ),
            (
                "the parent is gone",
                |disk| change_entry(disk, FIRST, |entry| *entry = CatalogEntry::default()),
                &[
                    |finding| tells(finding, MIDDLE, "16 is not there"),
                    is_leaked,
                ],
            ),
            (
                "a volume as parent",
                |disk| change_entry(disk, CLONE, |entry| entry.parent = HEAD.into()),
                &[|finding| tells(finding, CLONE, "no older snapshot")],
            ),
            (
                "a deleted snapshot is gone before its time",
                |disk| {
                    change_entry(disk, MIDDLE, |entry| entry.set_kind(CatalogKind::Hidden));
                    change_entry(disk, MIDDLE, |entry| *entry = CatalogEntry::default());
                },
                &[|finding| tells(finding, CLONE, "not there"), is_leaked],
            ),
            (
                "another lineage",
                |disk| change_entry(disk, HEAD, |entry| entry.lineage_uuid = [9; 16]),
                &[|finding| tells(finding, HEAD, "lineage")],
            ),
            (
                "higher than its child",
                |disk| change_entry(disk, MIDDLE, |entry| entry.height = 5),
                &[|finding| tells(finding, HEAD, "lower")],
            ),
            (
                "taken apart though needed",
                |disk| change_entry(disk, MIDDLE, |entry| entry.collapse_cursor = 130.into()),
                &[
                    |finding| tells(finding, MIDDLE, "not deleted"),
                    |finding| tells(finding, MIDDLE, "within a leaf"),
                    |finding| tells(finding, MIDDLE, "2 maps need it"),
                ],
            ),
        ],
    );
}

#[test]
fn wrong_names_and_volumes_are_found() {
    expect(
        kin,
        &[
            (
                "two volumes of one name",
                |disk| change_entry(disk, CLONE, |entry| entry.set_name("base")),
                &[|finding| tells(finding, CLONE, "same name")],
            ),
            (
                "two snapshots of one name",
                |disk| change_entry(disk, MIDDLE, |entry| entry.set_name("first")),
                &[|finding| tells(finding, MIDDLE, "same name")],
            ),
            (
                "two heads",
                |disk| change_entry(disk, CLONE, |entry| entry.volume = FIRST.into()),
                &[|finding| tells(finding, CLONE, "same volume")],
            ),
            (
                "a snapshot of nothing",
                |disk| change_entry(disk, MIDDLE, |entry| entry.volume = 99.into()),
                &[|finding| tells(finding, MIDDLE, "no such volume")],
            ),
        ],
    );
}

#[test]
fn wrong_clocks_are_found() {
    expect(
        kin,
        &[
            (
                "a snapshot without",
                |disk| change_entry(disk, MIDDLE, |entry| entry.seq = 0.into()),
                &[|finding| tells(finding, MIDDLE, "clock")],
            ),
            (
                "a volume with one",
                |disk| change_entry(disk, HEAD, |entry| entry.seq = first_birth(1).into()),
                &[|finding| tells(finding, HEAD, "clock")],
            ),
            (
                "before what is in it",
                |disk| change_entry(disk, MIDDLE, |entry| entry.seq = entry.root.birth().into()),
                &[|finding| tells(finding, MIDDLE, "is in it")],
            ),
            (
                "before its parent's",
                |disk| {
                    let parent = entry(disk, FIRST).seq;
                    change_entry(disk, MIDDLE, |entry| entry.seq = parent);
                },
                &[|finding| tells(finding, MIDDLE, "its parent's")],
            ),
            (
                "too late: what a child wrote is not its own",
                |disk| {
                    let newest = entry(disk, CLONE).root.birth();
                    change_entry(disk, MIDDLE, |entry| entry.seq = newest.into());
                },
                &[
                    |finding| is_unlike(finding, CLONE, MIDDLE),
                    |finding| is_unlike(finding, HEAD, MIDDLE),
                    is_leaked,
                ],
            ),
            (
                "in the future",
                |disk| change_entry(disk, MIDDLE, |entry| entry.seq = first_birth(9).into()),
                &[|finding| tells(finding, MIDDLE, "not reached")],
            ),
        ],
    );
}
