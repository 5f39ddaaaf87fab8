//! What is handed out when memory is short.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

/// Groups of 256 blocks.
const SHIFT: u32 = 8;

/// A group of data on this drive.
fn group(device: u8, chunk: u32) -> GroupEntry {
    GroupEntry::assigned(Class::Data, &[Replica::in_sync(device, chunk)], 254)
}

#[test]
fn groups_of_two_drives_do_not_push_each_other_out() {
    let entries = vec![group(0, 0), group(1, 0)];
    let mut space = Space::new(SHIFT, entries, &[1, 1], 1);
    let mut loaded = Vec::new();
    loop {
        let mut runs = Runs::new();
        match space.allocate(Class::Data, 8, &mut runs) {
            Ok(blocks) => break assert_eq!(blocks, 8),
            Err(Shortage::Load(group)) => {
                assert!(!loaded.contains(&group), "{loaded:?}, and {group} again");
                loaded.push(group);
                space.insert_open(group, Bitmap::empty());
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_nearly_empty_group_comes_before_a_fresh_one() {
    let replicas = [Replica::in_sync(0, 0), Replica::in_sync(0, 1)];
    let allocate = |class, free| {
        let copies = if class == Class::Meta { 2 } else { 1 };
        let mut entries = vec![GroupEntry::default(); 5];
        entries[0] = GroupEntry::assigned(class, &replicas[..copies], free);
        Space::new(SHIFT, entries, &[5], 16).allocate(class, 1, &mut Runs::new())
    };
    for (class, enough) in [(Class::Meta, 64), (Class::Data, 192)] {
        assert_eq!(allocate(class, 254), Err(Shortage::Load(0)));
        assert_eq!(allocate(class, enough), Err(Shortage::Load(0)));
        assert_eq!(allocate(class, enough - 1), Ok(1));
    }
}

#[test]
fn blocks_on_their_way_back_are_no_room_for_nodes() {
    let replicas = [Replica::in_sync(0, 0), Replica::in_sync(0, 1)];
    let entry = GroupEntry::assigned(Class::Meta, &replicas, 100);
    let mut space = Space::new(SHIFT, vec![entry], &[2], 16);
    space.set_node_reserve(1);
    assert_eq!(space.node_room(), 100);
    (10..70).for_each(|block| space.free(block));
    space.set_node_reserve(1);
    assert_eq!(space.node_room(), 100, "no entry counts them yet");
    space.count_freed();
    space.set_node_reserve(1);
    assert_eq!(space.node_room(), 40);
    space.publish(true);
    space.set_node_reserve(1);
    assert_eq!(space.node_room(), 40);
    let mut runs = Runs::new();
    assert_eq!(
        space.allocate(Class::Meta, 1, &mut runs),
        Err(Shortage::Load(0))
    );
}

#[test]
fn no_more_than_so_many_runs_wait_for_a_drive_to_be_told() {
    let groups = 300_u32;
    let entry = |chunk| GroupEntry::assigned(Class::Data, &[Replica::in_sync(0, chunk)], 0);
    let entries = (0..groups).map(entry).collect();
    let mut space = Space::new(SHIFT, entries, &[groups], 16);
    space.want_trims();
    // Fourteen runs of sixteen blocks in each group.
    for group in 0..u64::from(groups) {
        let runs = (0..14).flat_map(|run| 2 + run * 17..18 + run * 17);
        runs.for_each(|block| space.free(group << GROUP_BITS | block));
    }
    space.publish(true);
    space.publish(true);
    let mut waiting = 0;
    loop {
        let runs = space.begin_trims(16);
        if runs.is_empty() {
            break;
        }
        space.finish_trims();
        waiting += runs.len();
    }
    assert_eq!(waiting, 4096);
    assert!(!space.has_pending());
}
