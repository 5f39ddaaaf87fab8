//! Every mixture of drives that has a rule.

use world::DiskError;

use super::*;

const ROOM: u64 = 1 << 18;

fn drive(contents: Contents) -> Inspected {
    Inspected {
        blocks: ROOM,
        contents: Ok(contents),
    }
}

fn blank() -> Inspected {
    drive(Contents::Blank)
}

fn foreign() -> Inspected {
    drive(Contents::Foreign("an ext4 file system".into()))
}

fn member(pool: u8, device: u8, members: usize) -> Inspected {
    drive(Contents::Member {
        pool_uuid: [pool; 16],
        device_uuid: [device; 16],
        members,
    })
}

fn unreadable() -> Inspected {
    Inspected {
        blocks: ROOM,
        contents: Err(StoreError::Disk(DiskError::Media)),
    }
}

fn states(plan: &Plan) -> Vec<DriveState> {
    plan.verdicts.iter().map(|verdict| verdict.state).collect()
}

/// The reason for serving nothing.
fn refusal(drives: &[Inspected]) -> String {
    match decide(drives, true).action {
        Action::Nothing(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_pool_is_opened_and_what_is_beside_it_left_alone() {
    let drives = [
        blank(),
        member(1, 2, 2),
        foreign(),
        member(1, 1, 2),
        unreadable(),
    ];
    let plan = decide(&drives, false);
    assert_eq!(plan.action, Action::Open([1, 3].into()));
    use DriveState::{Blank, Failed, Foreign, Serving};
    assert_eq!(states(&plan), [Blank, Serving, Foreign, Serving, Failed]);
    let detail = plan.verdicts[2].detail.as_deref();
    assert_eq!(detail, Some("holds an ext4 file system; left alone"));
}

#[test]
fn blank_drives_become_a_pool_and_no_others() {
    let mut small = blank();
    small.blocks = BLOCKS_MIN - 1;
    let plan = decide(&[blank(), foreign(), small, blank()], true);
    assert_eq!(plan.action, Action::Format([0, 3].into()));
    use DriveState::{Blank, Foreign, Serving};
    assert_eq!(states(&plan), [Serving, Foreign, Blank, Serving]);
}

#[test]
fn nothing_is_made_while_a_drive_may_hide_a_pool() {
    assert!(refusal(&[blank(), unreadable()]).contains("may hold a pool"));
    let plan = decide(&[blank()], false);
    assert!(matches!(plan.action, Action::Nothing(_)));
    assert_eq!(states(&plan), [DriveState::Blank]);
}

#[test]
fn parts_and_mixtures_of_pools_are_refused_with_a_reason() {
    let why = refusal(&[member(0xab, 1, 3), member(0xab, 2, 3), blank()]);
    assert_eq!(
        why,
        "only 2 of 3 drives of pool abababab are here: 1 missing"
    );
    let why = refusal(&[member(1, 1, 1), member(2, 1, 1)]);
    assert!(
        why.contains("2 pools") && why.contains("01010101, 02020202"),
        "{why}"
    );
    let why = refusal(&[member(1, 1, 1), member(1, 1, 1)]);
    assert!(why.contains("the same drive of pool 01010101"), "{why}");
    assert!(refusal(&[]).contains("no drive"));
    assert!(refusal(&[foreign()]).contains("none is blank"));
}
