//! Volumes move between appliances, and everybody has what they should.

#[path = "moves/journeys.rs"]
mod journeys;
#[path = "moves/lab/mod.rs"]
mod lab;
#[path = "moves/random.rs"]
mod random;

use lab::{BLOCK, Lab};
use migration::{After, MigrateOptions, MoveError};
use upkeep::JobState;
use volume::VolumeError;

const BLOCKS: u64 = 4096;

/// A volume at the first of some appliances, with data in every eighth block.
fn lab(count: usize) -> Lab {
    let lab = Lab::new(count, 1);
    lab.create(0, "db", BLOCKS);
    for block in (0..BLOCKS).step_by(8) {
        lab.write(0, "db", block, 1000 + block).expect("a write");
    }
    lab
}

fn expect_all(lab: &Lab, of: usize, changed: &[(u64, u64)]) {
    for block in 0..BLOCKS {
        let changed = changed.iter().rfind(|(at, _)| *at == block);
        let expected = changed.map_or_else(
            || if block % 8 == 0 { 1000 + block } else { 0 },
            |(_, value)| *value,
        );
        assert_eq!(lab.read(of, "db", block), Ok(expected), "block {block}");
    }
}

fn job_state(lab: &Lab, of: usize, job: u64) -> JobState {
    lab.node(of).upkeep.jobs.get(job).expect("a job").state
}

#[test]
fn a_volume_moves_and_its_blocks_follow() {
    let lab = lab(2);
    let job = lab
        .migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(0, "db", "given");
    lab.wait(1, "db", "owned");
    assert_eq!(lab.write(0, "db", 0, 7), Err(VolumeError::Elsewhere));
    assert_eq!(lab.read(0, "db", 0), Err(VolumeError::Elsewhere));
    lab.write(1, "db", 9, 5).expect("the new owner writes");
    assert_eq!(lab.read(1, "db", 8), Ok(1008));
    lab.wait_for_all(1);
    lab.pass(std::time::Duration::from_secs(15));
    assert_eq!(job_state(&lab, 0, job), JobState::Done);
    expect_all(&lab, 1, &[(9, 5)]);
    let info = lab.node(0).upkeep.jobs.get(job).expect("a job");
    let upkeep::Work::Migrate(migration) = info.work else {
        panic!("{info:?}");
    };
    // Each block of data once, and no hole.
    let sent = migration.demanded_bytes + migration.background_bytes;
    assert_eq!(sent, BLOCKS / 8 * BLOCK);
}

#[test]
fn who_is_prepared_reads_what_is_there_now_and_writes_nothing() {
    let lab = lab(2);
    lab.migrate(0, "db", 1, false, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "prepared");
    assert_eq!(lab.read(1, "db", 8), Ok(1008));
    lab.write(0, "db", 8, 2).expect("the owner writes");
    assert_eq!(lab.read(1, "db", 8), Ok(2));
    assert_eq!(lab.write(1, "db", 8, 3), Err(VolumeError::NotYet));
    lab.hand_over(0, "db").expect("a hand-over");
    assert_eq!(lab.read(1, "db", 8), Ok(2));
    lab.write(1, "db", 8, 3).expect("the new owner writes");
    lab.wait_for_all(1);
    expect_all(&lab, 1, &[(8, 3)]);
}

#[test]
fn an_offer_that_is_taken_back_leaves_nothing() {
    let lab = lab(2);
    let job = lab
        .migrate(0, "db", 1, false, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "prepared");
    lab.take_back(0, "db").expect("taken back");
    lab.write(0, "db", 8, 2).expect("the owner writes");
    lab.pass(std::time::Duration::from_secs(15));
    assert_eq!(job_state(&lab, 0, job), JobState::Cancelled);
    assert_eq!(lab.read(1, "db", 8), Err(VolumeError::NoVolume));
    assert_eq!(lab.hand_over(0, "db"), Err(MoveError::NotOffered));
    // And again.
    lab.migrate(0, "db", 1, true, After::Free)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    expect_all(&lab, 1, &[(8, 2)]);
    lab.pass(std::time::Duration::from_secs(15));
    assert!(lab.node(0).volumes.list().is_empty(), "the copy is freed");
}

#[test]
fn what_nobody_changed_is_back_at_once() {
    let lab = lab(2);
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.cut(0, 1);
    lab.mend();
    lab.take_back(0, "db").expect("taken back");
    lab.write(0, "db", 8, 2).expect("the owner writes");
    assert!(lab.node(0).volumes.adoptions().is_empty(), "it has all");
    lab.pass(std::time::Duration::from_secs(15));
    assert!(lab.node(1).volumes.list().is_empty(), "nothing stays there");
    expect_all(&lab, 0, &[(8, 2)]);
}

#[test]
fn a_large_volume_that_nobody_changed_is_back_for_who_stayed() {
    let lab = Lab::new(2, 1);
    // More than one answer tells of.
    lab.create(0, "db", 1 << 20);
    for block in (0..1 << 20).step_by(2048) {
        lab.write(0, "db", block, 1000 + block).expect("a write");
    }
    let here = lab.node(0).volumes.list()[0].id;
    lab.migrate_at(0, "db", 1, true, After::Keep, 100_000)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.pass(std::time::Duration::from_secs(2));
    assert!(!lab.node(1).volumes.adoptions().is_empty(), "it arrives");
    lab.take_back(0, "db").expect("taken back");
    // Clients are attached to a volume, not to a name.
    assert_eq!(lab.node(0).volumes.list()[0].id, here);
    assert_eq!(lab.read(0, "db", 2048), Ok(3048));
    assert!(lab.node(0).volumes.adoptions().is_empty(), "it has all");
}

#[test]
fn only_what_is_newer_comes_back() {
    let lab = lab(2);
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.write(1, "db", 8, 21).expect("a write");
    lab.write(1, "db", 11, 22).expect("a write");
    lab.take_back(0, "db").expect("taken back");
    lab.write(0, "db", 12, 23).expect("the owner writes");
    assert_eq!(lab.read(0, "db", 8), Ok(21));
    expect_all(&lab, 0, &[(8, 21), (11, 22), (12, 23)]);
    lab.wait_for_all(0);
    lab.pass(std::time::Duration::from_secs(15));
    expect_all(&lab, 0, &[(8, 21), (11, 22), (12, 23)]);
    for of in 0..2 {
        let left = lab.node(of).volumes.list();
        assert_eq!(left.len(), 1 - of, "{left:?}");
    }
}

#[test]
fn there_and_back_by_migration_moves_differences() {
    let lab = lab(2);
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    lab.pass(std::time::Duration::from_secs(15));
    lab.write(1, "db", 8, 21).expect("a write");
    lab.write(1, "db", 11, 22).expect("a write");
    let job = lab
        .migrate(1, "db", 0, false, After::Keep)
        .expect("a migration");
    lab.wait(0, "db", "prepared");
    assert_eq!(lab.read(0, "db", 8), Ok(21));
    assert_eq!(lab.read(0, "db", 16), Ok(1016));
    lab.hand_over(1, "db").expect("a hand-over");
    lab.write(0, "db", 12, 23).expect("the owner writes");
    lab.wait_for_all(0);
    lab.pass(std::time::Duration::from_secs(15));
    expect_all(&lab, 0, &[(8, 21), (11, 22), (12, 23)]);
    assert_eq!(job_state(&lab, 1, job), JobState::Done);
    // And forth again.
    lab.write(0, "db", 0, 24).expect("the owner writes");
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    expect_all(&lab, 1, &[(0, 24), (8, 21), (11, 22), (12, 23)]);
}

#[test]
fn a_volume_goes_on_before_it_has_arrived() {
    let mut lab = lab(3);
    lab.migrate_at(0, "db", 1, true, After::Free, 100_000)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.write(1, "db", 9, 31).expect("a write");
    lab.migrate(1, "db", 2, true, After::Free)
        .expect("a migration");
    lab.wait(2, "db", "owned");
    lab.write(2, "db", 10, 32).expect("a write");
    expect_all(&lab, 2, &[(9, 31), (10, 32)]);
    lab.wait_for_all(2);
    lab.pass(std::time::Duration::from_secs(30));
    lab.kill(0);
    lab.kill(1);
    expect_all(&lab, 2, &[(9, 31), (10, 32)]);
}

#[test]
fn who_is_away_is_waited_for() {
    let mut lab = lab(2);
    lab.cut(0, 1);
    lab.migrate_at(0, "db", 1, true, After::Keep, 100_000)
        .expect("a migration");
    lab.pass(std::time::Duration::from_secs(60));
    assert_eq!(lab.state(0, "db"), Some("offered"));
    lab.write(0, "db", 8, 2).expect("the owner writes");
    lab.mend();
    lab.wait(1, "db", "owned");
    assert_eq!(lab.read(1, "db", 8), Ok(2));
    lab.kill(0);
    let read = lab.read(1, "db", BLOCKS - 8);
    assert!(matches!(read, Err(VolumeError::Origin(_))), "{read:?}");
    lab.start(0, false);
    lab.wait_for_all(1);
    expect_all(&lab, 1, &[(8, 2)]);
}

#[test]
fn wrong_wishes_are_refused() {
    let lab = lab(2);
    let nobody = lab.migrate(0, "none", 1, true, After::Keep);
    assert_eq!(nobody, Err(MoveError::Volume(VolumeError::NoVolume)));
    assert_eq!(lab.hand_over(0, "db"), Err(MoveError::NotOffered));
    assert_eq!(lab.take_back(0, "db"), Err(MoveError::NotGiven));
    lab.create(1, "db", BLOCKS);
    let job = lab.migrate(0, "db", 1, true, After::Keep).expect("a job");
    lab.pass(std::time::Duration::from_secs(5));
    let info = lab.node(0).upkeep.jobs.get(job).expect("a job");
    assert_eq!(info.state, JobState::Failed);
    assert!(info.error.expect("why").contains("another volume"));
    lab.write(0, "db", 8, 2).expect("the owner writes");
}

#[test]
fn snapshots_are_not_freed_with_a_copy() {
    let lab = lab(2);
    let volumes = lab.node(0).volumes.clone();
    let made = lab.run(
        0,
        async move { volumes.create_snapshot("db", "monday").await },
    );
    made.expect("a snapshot");
    let job = lab
        .migrate(0, "db", 1, true, After::Free)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    let volumes = lab.node(1).volumes.clone();
    let made = lab.run(
        1,
        async move { volumes.create_snapshot("db", "tuesday").await },
    );
    made.expect("a snapshot");
    lab.wait_for_all(1);
    lab.pass(std::time::Duration::from_secs(15));
    assert_eq!(job_state(&lab, 0, job), JobState::Done);
    assert_eq!(lab.read(0, "db@monday", 8), Ok(1008));
    // What comes back brings those that were made there.
    lab.take_back(0, "db").expect("taken back");
    lab.wait_for_all(0);
    lab.pass(std::time::Duration::from_secs(15));
    for snapshot in ["db@monday", "db@tuesday"] {
        assert_eq!(lab.read(0, snapshot, 8), Ok(1008), "{snapshot}");
    }
    assert!(lab.node(1).volumes.list().is_empty(), "nothing stays there");
    expect_all(&lab, 0, &[]);
}

#[test]
fn what_is_taken_over_by_force_has_one_owner_as_soon_as_they_meet() {
    let mut lab = lab(2);
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    lab.write(1, "db", 9, 51).expect("a write");
    lab.kill(1);
    let refused = lab.take_back(0, "db");
    assert_eq!(refused, Err(MoveError::Unconfirmed));
    let moves = lab.node(0).moves.clone();
    let taken = lab.run(0, async move { moves.take_over("db").await });
    assert_eq!(taken.expect("by force").state, "owned");
    lab.write(0, "db", 10, 52).expect("the owner writes");
    // Over a restart, too.
    lab.kill(0);
    lab.start(0, false);
    lab.start(1, false);
    lab.pass(std::time::Duration::from_secs(30));
    assert_eq!(lab.write(1, "db", 9, 53), Err(VolumeError::Elsewhere));
    expect_all(&lab, 0, &[(10, 52)]);
    // And it can go there again.
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    expect_all(&lab, 1, &[(10, 52)]);
}

#[test]
fn the_largest_volume_is_there_as_fast_as_a_small_one() {
    let lab = Lab::new(2, 5);
    for (name, blocks) in [("small", 256), ("large", (16 << 40) / BLOCK)] {
        lab.create(0, name, blocks);
        lab.write(0, name, blocks - 1, 77).expect("a write");
        let before = lab.node(1).moves.questions();
        lab.migrate_at(0, name, 1, true, After::Keep, 1)
            .expect("a migration");
        lab.wait(1, name, "owned");
        assert_eq!(lab.read(1, name, blocks - 1), Ok(77));
        let asked = lab.node(1).moves.questions() - before;
        // Those of whoever brings in the rest among them.
        assert!(asked <= 16, "{name}: {asked} questions");
    }
}

/// The first block of each snapshot that `has_past` makes.
const MOMENTS: [(&str, u64); 3] = [("s1", 100), ("s2", 200), ("s3", 300)];

/// A volume with a past: each snapshot has ten blocks otherwise than the one before, and the volume ten more.
fn has_past(lab: &Lab) -> Vec<[u8; 16]> {
    let mut uuids = Vec::new();
    for (name, first) in MOMENTS {
        for block in first..first + 10 {
            lab.write(0, "db", block, first).expect("a write");
        }
        uuids.push(lab.keep(0, "db", name).expect("a snapshot"));
        lab.pass(std::time::Duration::from_secs(1));
    }
    for block in 95..105 {
        lab.write(0, "db", block, 9).expect("a write");
    }
    uuids
}

fn expect_past(lab: &Lab, of: usize, uuids: &[[u8; 16]]) {
    let volume = lab.node(of).volumes.get("db").expect("a volume").id;
    let found = lab.node(of).volumes.store().snapshots(volume);
    let labels: Vec<_> = found
        .iter()
        .map(|info| (&info.name[..], info.uuid))
        .collect();
    let names = MOMENTS.iter().map(|(name, _)| *name);
    let expected: Vec<_> = names.zip(uuids.iter().copied()).collect();
    assert_eq!(labels[..3], expected);
    for (index, info) in found[..3].iter().enumerate() {
        assert_eq!(info.size_bytes, BLOCKS * BLOCK);
        let read = lab.read_snapshot(of, info.id, BLOCKS);
        for (block, found) in (0..BLOCKS).zip(read) {
            let mut expected = if block % 8 == 0 { 1000 + block } else { 0 };
            for (_, first) in &MOMENTS[..=index] {
                if (*first..first + 10).contains(&block) {
                    expected = *first;
                }
            }
            assert_eq!(found, expected, "block {block} of {}", info.name);
        }
    }
}

fn with_snapshots(to: &str, after: After) -> MigrateOptions {
    MigrateOptions {
        to: to.into(),
        at_once: true,
        after,
        with_snapshots: true,
        rate: 0,
    }
}

/// Waits until a job is done, for ten minutes; bytes that it fetched.
fn wait_for(lab: &Lab, of: usize, job: u64) -> u64 {
    for _ in 0..600 {
        lab.pass(std::time::Duration::from_secs(1));
        if job_state(lab, of, job) == JobState::Done {
            let info = lab.node(of).upkeep.jobs.get(job).expect("a job");
            let upkeep::Work::Migrate(migration) = info.work else {
                panic!("{info:?}");
            };
            return migration.demanded_bytes + migration.background_bytes;
        }
    }
    panic!("{:?}", lab.node(of).upkeep.jobs.get(job));
}

#[test]
fn snapshots_go_along_and_what_they_share_goes_once() {
    let lab = lab(2);
    let uuids = has_past(&lab);
    let options = with_snapshots("b", After::Free);
    let job = lab.migrate_as(0, "db", options).expect("a migration");
    lab.wait(1, "db", "owned");
    // What was given stays in the snapshots, whatever is written now.
    for block in 0..400 {
        lab.write(1, "db", block, 7).expect("the new owner writes");
    }
    let fetched = wait_for(&lab, 0, job);
    expect_past(&lab, 1, &uuids);
    assert_eq!(lab.read(1, "db", 399), Ok(7));
    // The blocks of the volume, but for holes; and of each snapshot those of which the next has something else.
    let own = (0..BLOCKS)
        .filter(|at| at % 8 == 0 || is_in_past(*at))
        .count() as u64;
    assert_eq!(fetched, (own + 6 + 1 + 2) * BLOCK);
    lab.pass(std::time::Duration::from_secs(15));
    assert!(
        lab.node(0).volumes.store().volumes().is_empty(),
        "the copy is freed"
    );
    assert_eq!(lab.node(1).volumes.store().volumes().len(), 1);
}

/// Whether the volume has a block there that was written after it was filled.
fn is_in_past(block: u64) -> bool {
    let mut moments = MOMENTS.iter();
    (95..105).contains(&block) || moments.any(|(_, first)| (*first..first + 10).contains(&block))
}

#[test]
fn snapshots_come_back_and_only_what_is_new_of_them() {
    let lab = lab(2);
    let uuids = has_past(&lab);
    let job = lab.migrate_as(0, "db", with_snapshots("b", After::Keep));
    wait_for(&lab, 0, job.expect("a migration"));
    lab.write(1, "db", 500, 8).expect("the new owner writes");
    let new = lab.keep(1, "db", "new").expect("a snapshot");
    lab.write(1, "db", 500, 9).expect("the new owner writes");
    let job = lab.migrate_as(1, "db", with_snapshots("a", After::Free));
    let fetched = wait_for(&lab, 1, job.expect("a migration"));
    expect_past(&lab, 0, &uuids);
    // The rest was here before; what went to the volume from the copy counts, too.
    let own = (0..BLOCKS).filter(|at| at % 8 == 0 || is_in_past(*at) || *at == 500);
    assert_eq!(fetched, (own.count() as u64 + 1) * BLOCK);
    let found = lab.snapshots(0);
    let new = found.iter().find(|info| info.uuid == new).expect("it came");
    assert_eq!(lab.read_snapshot(0, new.id, BLOCKS)[500], 8);
    lab.pass(std::time::Duration::from_secs(15));
    assert!(
        lab.node(1).volumes.store().volumes().is_empty(),
        "the copy is freed"
    );
    assert_eq!(lab.node(0).volumes.store().volumes().len(), 1);
}

#[test]
fn snapshots_that_stayed_are_the_volumes_again_when_it_comes_back() {
    let lab = lab(2);
    let uuids = has_past(&lab);
    let job = lab.migrate(0, "db", 1, true, After::Keep);
    wait_for(&lab, 0, job.expect("a migration"));
    assert_eq!(lab.snapshots(1), []);
    lab.write(1, "db", 500, 8).expect("the new owner writes");
    lab.take_back(0, "db").expect("taken back");
    lab.wait_for_all(0);
    lab.pass(std::time::Duration::from_secs(15));
    expect_past(&lab, 0, &uuids);
    assert_eq!(lab.read(0, "db", 500), Ok(8));
    assert_eq!(lab.node(0).volumes.store().volumes().len(), 1);
}

#[test]
fn snapshots_arrive_whole_whatever_is_interrupted() {
    for cut in 0..12 {
        let mut lab = lab(2);
        let uuids = has_past(&lab);
        let job = lab.migrate_as(0, "db", with_snapshots("b", After::Keep));
        let job = job.expect("a migration");
        lab.wait(1, "db", "owned");
        let kept = || lab.snapshots(1).len() as u64;
        while lab.node(1).volumes.adoptions().len() == 1 && kept() < cut / 4 {
            lab.turns(5);
        }
        lab.turns(cut * 40);
        lab.kill(1);
        lab.start(1, false);
        wait_for(&lab, 0, job);
        expect_past(&lab, 1, &uuids);
        assert_eq!(lab.node(1).volumes.store().volumes().len(), 1);
    }
}

#[test]
fn what_arrived_and_was_overwritten_since_is_given_back() {
    let lab = lab(2);
    has_past(&lab);
    let job = lab.migrate_as(0, "db", with_snapshots("b", After::Free));
    wait_for(&lab, 0, job.expect("a migration"));
    let stored = || {
        let bases = lab.node(1).volumes.store().bases();
        bases.iter().map(|base| base.stored_bytes).sum::<u64>()
    };
    let before = stored();
    // Of what is overwritten here, the last snapshot has the blocks 96 and 104 otherwise; it needs the rest.
    for block in (96..1000).step_by(8) {
        lab.write(1, "db", block, 7).expect("a write");
    }
    lab.pass(std::time::Duration::from_secs(700));
    assert_eq!(stored(), before - 2 * BLOCK);
    for info in lab.snapshots(1) {
        let volumes = lab.node(1).volumes.clone();
        let deleted = lab.run(1, async move {
            volumes.delete_snapshot("db", &info.name, false).await
        });
        deleted.expect("a deletion");
    }
    lab.pass(std::time::Duration::from_secs(700));
    // Nobody has done anything since the last look.
    lab.read(1, "db", 0).expect("a read");
    lab.pass(std::time::Duration::from_secs(700));
    assert_eq!(stored(), before - 113 * BLOCK);
    for block in 0..1000 {
        let was_written = (96..1000).contains(&block) && block % 8 == 0;
        let read = lab.read(1, "db", block).expect("a read");
        assert!(!was_written || read == 7, "{block}");
    }
}

#[test]
fn a_volume_that_users_call_a_history_is_none() {
    let mut lab = Lab::new(2, 1);
    lab.create(0, "history-db", BLOCKS);
    lab.write(0, "history-db", 8, 5).expect("a write");
    lab.keep(0, "history-db", "monday").expect("a snapshot");
    let moved = lab.migrate_as(0, "history-db", with_snapshots("b", After::Keep));
    let job = moved.expect("a migration");
    wait_for(&lab, 0, job);
    lab.kill(1);
    lab.start(1, false);
    assert_eq!(lab.read(1, "history-db", 8), Ok(5));
    assert_eq!(lab.read(1, "history-db@monday", 8), Ok(5));
}
