//! Volumes that go round, and what is remembered of those that went by.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use migration::After;
use migration::rules::{Message, Reaction, Record, Rules, What};
use upkeep::JobState;
use volume::{Access, OriginError, VolumeError};

use super::lab::{Lab, read};
use super::{BLOCKS, expect_all, lab};

/// How a job ended, and why.
fn end_of(lab: &Lab, of: usize, job: u64) -> (JobState, String) {
    let info = lab.node(of).upkeep.jobs.get(job).expect("a job");
    (info.state, info.error.unwrap_or_default())
}

#[test]
fn who_sees_it_come_back_another_way_says_so() {
    let lab = lab(3);
    let go = |of, to, rate| {
        let job = lab.migrate_at(of, "db", to, true, After::Free, rate);
        lab.wait(to, "db", "owned");
        job.expect("a migration")
    };
    // By themselves the blocks would never arrive at the first two.
    let (to_b, to_c) = (go(0, 1, 1), go(1, 2, 1));
    lab.write(2, "db", 8, 5).expect("the owner writes");
    let to_a = go(2, 0, 0);
    lab.wait_for_all(0);
    lab.pass(Duration::from_secs(60));
    expect_all(&lab, 0, &[(8, 5)]);
    let (state, why) = end_of(&lab, 0, to_b);
    assert_eq!(state, JobState::Cancelled);
    assert!(why.contains("by way of another appliance"), "{why}");
    let (state, why) = end_of(&lab, 1, to_c);
    assert_eq!(state, JobState::Cancelled, "{why}");
    assert!(why.contains("went on from there"), "{why}");
    assert_eq!(end_of(&lab, 2, to_a).0, JobState::Done);
}

/// Names of volumes that go one after the other.
const NAMES: [&str; 6] = ["v0", "v1", "v2", "v3", "v4", "v5"];

/// Makes volumes at the first, and moves each to the second and from there to the third.
fn pass_on(lab: &Lab, name: &str) {
    lab.create(0, name, 64);
    lab.write(0, name, 1, 1).expect("a write");
    for of in 0..2 {
        let moved = lab.migrate(of, name, of + 1, true, After::Free);
        moved.expect("a migration");
        lab.wait(of + 1, name, "owned");
        lab.wait_for_all(of + 1);
        lab.pass(Duration::from_secs(15));
    }
}

#[test]
fn there_is_always_room_for_who_comes_when_others_have_gone() {
    let mut lab = Lab::new(3, 3);
    lab.node(1).moves.set_known_max(3);
    for name in NAMES {
        pass_on(&lab, name);
        assert!(lab.node(1).moves.known() <= 3);
    }
    // The newest ones are known: they came last.
    lab.kill(1);
    lab.start(1, false);
    assert_eq!(lab.node(1).moves.known(), 3, "what is forgotten is gone");
    lab.node(1).moves.set_known_max(3);
    // What is forgotten can come again, and go where it wants; who gave it once says nothing that counts.
    lab.kill(0);
    lab.start(0, false);
    for name in NAMES {
        let moved = lab.migrate(2, name, 1, true, After::Free);
        moved.expect("a migration");
        lab.wait(1, name, "owned");
        lab.wait_for_all(1);
        lab.pass(Duration::from_secs(15));
        assert_eq!(lab.read(1, name, 1), Ok(1));
        lab.write(1, name, 1, 2).expect("the owner writes");
        let moved = lab.migrate(1, name, 2, true, After::Free);
        moved.expect("a migration");
        lab.wait(2, name, "owned");
        lab.wait_for_all(2);
        lab.pass(Duration::from_secs(15));
        assert_eq!(lab.read(2, name, 1), Ok(2));
        assert_eq!(lab.read(1, name, 1), Err(VolumeError::NoVolume));
    }
}

#[test]
fn who_is_needed_is_not_forgotten_for_others() {
    let lab = Lab::new(2, 4);
    lab.node(1).moves.set_known_max(2);
    for name in &NAMES[..3] {
        lab.create(0, name, 64);
        lab.write(0, name, 1, 1).expect("a write");
        let moved = lab.migrate(0, name, 1, true, After::Keep);
        moved.expect("a migration");
        lab.pass(Duration::from_secs(15));
    }
    // They are volumes of the other one; the third is refused.
    assert_eq!(lab.state(1, "v0"), Some("owned"));
    assert_eq!(lab.state(1, "v1"), Some("owned"));
    assert_eq!(lab.state(0, "v2"), Some("owned"));
    lab.write(0, "v2", 1, 3).expect("the owner writes");
}

#[test]
fn a_deleted_volume_is_forgotten_at_the_next_start() {
    let mut lab = lab(2);
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    lab.wait_for_all(1);
    lab.pass(Duration::from_secs(15));
    let volumes = lab.node(1).volumes.clone();
    let id = volumes.get("db").expect("a volume").id;
    let deleted = lab.run(1, async move { volumes.store().delete_volume(id).await });
    deleted.expect("deleted");
    for of in 0..2 {
        lab.kill(of);
        lab.start(of, false);
    }
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.node(1).moves.known(), 0);
    let keys = lab.node(1).volumes.store().record_keys();
    assert!(keys.iter().all(|key| !key.starts_with("move/")), "{keys:?}");
    // Who gave it has its copy, and nothing troubles it.
    let here = lab.node(0).volumes.get("db").expect("the copy").id;
    let found = lab.node(0).moves.get(here).expect("it moved");
    assert_eq!((found.state, found.trouble), ("given", None));
    let moves = lab.node(0).moves.clone();
    let taken = lab.run(0, async move { moves.take_over("db").await });
    assert_eq!(taken.expect("by force").state, "owned");
    assert_eq!(lab.read(0, "db", BLOCKS - 8), Ok(1000 + BLOCKS - 8));
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
}

/// Three volumes that went from the first to the second and on to the third, of which most is still at the first; then that one is lost.
fn chain_without_its_beginning(present: &[u64]) -> Lab {
    let mut lab = lab(3);
    for name in ["v0", "v1"] {
        lab.create(0, name, BLOCKS);
        for block in (0..BLOCKS).step_by(8) {
            lab.write(0, name, block, block).expect("a write");
        }
    }
    for of in 0..2 {
        for name in ["db", "v0", "v1"] {
            let moved = lab.migrate_at(of, name, of + 1, true, After::Free, 1);
            moved.expect("a migration");
            lab.wait(of + 1, name, "owned");
        }
        if of == 0 {
            for &block in present {
                lab.write(1, "db", block, 9).expect("the owner writes");
            }
            // What is used most goes on by itself: something else.
            for _ in 0..present.len() + 1 {
                lab.write(1, "db", 512, 9).expect("the owner writes");
            }
        }
    }
    lab.pass(Duration::from_secs(5));
    lab.kill(0);
    lab
}

#[test]
fn what_the_second_has_is_read_while_others_wait_for_the_first() {
    let whole: Vec<u64> = (2048..2064).collect();
    let lab = chain_without_its_beginning(&whole);
    let node = lab.node(2);
    let failed = Rc::new(Cell::new(0));
    for name in ["v0", "v1"] {
        for block in [1024, 1536, 2048, 2560] {
            let volume = node
                .volumes
                .attach(name, Access::ReadOnly)
                .expect("a volume");
            let failed = failed.clone();
            node.exec.spawn(async move {
                let found = read(&volume, block).await;
                assert!(matches!(found, Err(VolumeError::Origin(_))), "{found:?}");
                failed.set(failed.get() + 1);
            });
        }
    }
    lab.pass(Duration::from_secs(1));
    let begun = node.exec.now();
    assert_eq!(lab.read(2, "db", 2050), Ok(9));
    assert!(node.exec.now() - begun < Duration::from_secs(5));
    lab.pass(Duration::from_secs(100));
    assert_eq!(failed.get(), 8);
}

#[test]
fn what_the_second_has_is_read_though_the_rest_is_lost() {
    let lab = chain_without_its_beginning(&[2050]);
    assert_eq!(lab.read(2, "db", 2050), Ok(9));
    let lost = lab.read(2, "db", 2056);
    assert_eq!(lost, Err(VolumeError::Origin(OriginError::Behind)));
}

#[test]
fn who_has_forgotten_takes_only_what_was_offered_since() {
    let takes = |floor, epoch| {
        let message = Message {
            other: 7,
            nonce: 1,
            what: What::Give(epoch, Some(())),
        };
        let reaction = Rules::default().hear(&Record::Nothing { floor }, &message, ());
        matches!(reaction, Reaction::Become(Record::Owned { .. }))
    };
    assert!(takes(4, 5), "a return that crossed an offer");
    // An older owner tells over its restarts what it gave.
    for (floor, epoch) in [(0, 1), (0, 2), (4, 4), (4, 6), (4, 1 << 32)] {
        assert!(!takes(floor, epoch), "{epoch} after {floor}");
    }
}
