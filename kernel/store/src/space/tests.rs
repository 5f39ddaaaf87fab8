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
