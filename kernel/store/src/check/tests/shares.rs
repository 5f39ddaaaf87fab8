//! Damage to what maps share, and to the account of it, with all tags right.

use super::kin::{
    CLONE, FIRST, HEAD, MIDDLE, expect, half_collapsed, is_dangling, is_leaked, is_unlike,
    is_used_twice, kin, tells,
};
use super::surgery::{change_entry, change_map};
use crate::check::{Finding, Owner};
use crate::layout::{CatalogEntry, CatalogKind, FAN, Pointer};

#[test]
fn wrong_counts_are_found() {
    expect(
        kin,
        &[
            (
                "of a snapshot",
                |disk| change_entry(disk, MIDDLE, |entry| entry.blocks = 639.into()),
                &[|finding| {
                    *finding
                        == Finding::BlockCount {
                            volume: MIDDLE,
                            catalog: 639,
                            map: 640,
                        }
                }],
            ),
            (
                "of a clone",
                |disk| change_entry(disk, CLONE, |entry| entry.blocks = 641.into()),
                &[|finding| matches!(finding, Finding::BlockCount { volume: CLONE, .. })],
            ),
            (
                "of a leaf",
                |disk| {
                    change_map(disk, HEAD, (0, 1), |pointer| {
                        *pointer = recounted(pointer, 127);
                    });
                },
                &[|finding| {
                    *finding
                        == Finding::LeafCount {
                            what: Owner::Node {
                                volume: HEAD,
                                level: 0,
                                block: 0,
                            },
                            found: 127,
                            blocks: 128,
                        }
                }],
            ),
            (
                "where none belongs",
                |disk| change_map(disk, HEAD, (0, 2), |root| *root = recounted(root, 5)),
                &[|finding| matches!(finding, Finding::LeafCount { found: 5, .. })],
            ),
        ],
    );
}

fn recounted(pointer: &Pointer, blocks: u8) -> Pointer {
    Pointer::leaf(pointer.addr(), pointer.birth(), pointer.tag(), blocks)
}

#[test]
fn shared_pointers_that_are_not_the_same_are_found() {
    expect(
        kin,
        &[
            (
                "a block",
                |disk| {
                    change_map(disk, HEAD, (100, 0), |block| {
                        *block = Pointer::data(block.addr() + 1, block.birth(), block.tag());
                    });
                },
                &[|finding| is_unlike(finding, HEAD, MIDDLE)],
            ),
            (
                "a block that the clone lost",
                |disk| change_map(disk, CLONE, (100, 0), |block| *block = Pointer::NEVER),
                &[
                    |finding| is_unlike(finding, CLONE, MIDDLE),
                    |finding| matches!(finding, Finding::LeafCount { .. }),
                ],
            ),
            (
                "a leaf",
                |disk| {
                    change_map(disk, HEAD, (600, 1), |leaf| {
                        *leaf = recounted(leaf, leaf.leaf_blocks() as u8 - 1);
                    });
                },
                &[|finding| is_unlike(finding, HEAD, MIDDLE)],
            ),
            (
                "a block that the snapshot lost",
                |disk| change_map(disk, MIDDLE, (600, 1), |leaf| *leaf = Pointer::NEVER),
                &[
                    |finding| is_unlike(finding, MIDDLE, FIRST),
                    |finding| is_unlike(finding, CLONE, MIDDLE),
                ],
            ),
            (
                "somebody else's block",
                |disk| {
                    let mut other = Pointer::NEVER;
                    change_map(disk, HEAD, (3, 0), |block| other = *block);
                    change_map(disk, CLONE, (3, 0), |block| *block = other);
                },
                &[is_used_twice, |finding| {
                    matches!(finding, Finding::BirthTwice { .. })
                }],
            ),
        ],
    );
}

#[test]
fn wrong_cursors_are_found() {
    expect(
        half_collapsed,
        &[
            (
                "too far",
                |disk| {
                    change_entry(disk, MIDDLE, |entry| {
                        entry.collapse_cursor += FAN as u64;
                    });
                },
                &[is_leaked],
            ),
            (
                "back",
                |disk| {
                    change_entry(disk, MIDDLE, |entry| {
                        entry.collapse_cursor -= FAN as u64;
                    });
                },
                &[is_dangling],
            ),
            (
                "at the beginning",
                |disk| change_entry(disk, MIDDLE, |entry| entry.collapse_cursor = 0.into()),
                &[is_dangling],
            ),
            (
                "at the end",
                |disk| {
                    change_entry(disk, MIDDLE, |entry| {
                        entry.collapse_cursor = (FAN as u64).pow(2).into();
                    });
                },
                &[is_leaked],
            ),
            (
                "forgotten with its map",
                |disk| {
                    change_entry(disk, MIDDLE, |entry| *entry = CatalogEntry::default());
                    change_entry(disk, HEAD, |entry| entry.parent = FIRST.into());
                },
                &[is_leaked],
            ),
            (
                "while the parent is taken apart, too",
                |disk| {
                    change_entry(disk, FIRST, |entry| {
                        entry.set_kind(CatalogKind::Hidden);
                        entry.collapse_cursor = (FAN as u64).into();
                    });
                },
                &[|finding| tells(finding, MIDDLE, "while its parent is")],
            ),
        ],
    );
}
