//! Deliberate bugs for the simulator, compiled out unless the feature `mutants` is on.
//!
//! A simulator that does not notice one of these tests nothing. Each is one line where the engine does the right thing
//! otherwise; the simulator's hunt (`cargo xtask sim --mutants`) tells how many seeds it takes to notice it.

/// Names the deliberate bugs, and asks for each whether it is on.
macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:ident;)+) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// What is wrong with the store.
            #[must_use]
            pub fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl Mutants {
            $(
                #[cfg(feature = "mutants")]
                pub(crate) fn $name(self) -> bool {
                    self.active == Some(Mutant::$variant)
                }

                #[cfg(not(feature = "mutants"))]
                #[inline(always)]
                pub(crate) fn $name(self) -> bool {
                    false
                }
            )+
        }
    };
}

/// Which deliberate bug is on; without the feature always none, and no code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    active: Option<Mutant>,
}

impl Mutants {
    /// Switches one deliberate bug on.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn only(mutant: Mutant) -> Self {
        Self {
            active: Some(mutant),
        }
    }
}

mutants! {
    // Durability.
    /// Nothing is ever flushed, and flushes are acknowledged.
    NoFlush, no_flush;
    /// A superblock is written before what it leads to is durable.
    NoFlushBeforeSuperblock, no_flush_before_superblock;
    /// A checkpoint is published before its superblock is durable.
    NoFlushAfterSuperblock, no_flush_after_superblock;
    /// A FLUSH takes away the marks of writes that completed while it ran.
    FlushForgetsWrites, flush_forgets_writes;
    /// A flush does not wait for records that are in no frame yet.
    FlushForgetsRecords, flush_forgets_records;

    // The journal.
    /// Frames claim that they themselves are durable.
    DurableOffByOne, durable_off_by_one;
    /// A record is pushed, and the write acknowledged, before the data has completed.
    RecordBeforeData, record_before_data;
    /// Discards are not in the journal.
    DiscardNotJournalled, discard_not_journalled;
    /// Groups that were put to use are not in the journal.
    GroupNotJournalled, group_not_journalled;
    /// The record of a catalog change comes after the acknowledgement.
    LateControlRecord, late_control_record;
    /// A replay begins where the journal was at the end of the checkpoint, not at its cut.
    TailTooLate, tail_too_late;

    // Opening.
    /// Recovery believes the journal's tail without looking at the data.
    NoTailVerify, no_tail_verify;
    /// Of the blocks that a frame of the tail names only the first run is looked for.
    TailVerifiesFirst, tail_verifies_first;
    /// Blocks that the journal names are handed out again.
    TailNotMarked, tail_not_marked;
    /// What a power cut left on one drive only stays there.
    CopiesNotCompleted, copies_not_completed;
    /// The new mount is not noted, so births repeat.
    MountNotNoted, mount_not_noted;
    /// The first record of each frame is not replayed.
    ReplaySkipsRecord, replay_skips_record;
    /// The last frame is not replayed.
    ReplaySkipsFrame, replay_skips_frame;
    /// Replay takes parent and cursor of known maps from records.
    ReplayTakesParent, replay_takes_parent;
    /// A checkpoint cut in the middle of a replay covers maps that the journal makes behind the cut.
    CutCoversLaterMaps, cut_covers_later_maps;
    /// The cursor of a map that is being taken apart is forgotten.
    CursorForgotten, cursor_forgotten;

    // Space.
    /// Replaced blocks are reused before the checkpoint that freed them.
    EarlyReuse, early_reuse;
    /// Blocks that a checkpoint frees are handed out while it is still being written.
    FreeAtOnce, free_at_once;
    /// The old places of changed nodes are handed out while the checkpoint is still being written.
    NodesFreeAtOnce, nodes_free_at_once;
    /// Writes that a later one replaced before any checkpoint are never given back.
    SupersededLost, superseded_lost;
    /// The trim of a run covers one block more.
    TrimTooLong, trim_too_long;
    /// Blocks are handed out while a drive is being told that nobody needs them.
    TrimNotWithheld, trim_not_withheld;
    /// Data may take the groups that are kept for the maps.
    NoReserve, no_reserve;
    /// A write that found no space is acknowledged.
    NoSpaceForgotten, no_space_forgotten;
    /// A bitmap is written over the one of the checkpoint before.
    BitmapInPlace, bitmap_in_place;
    /// The group table is written over the one of the checkpoint before.
    TableInPlace, table_in_place;

    // Order.
    /// Overlapping changes run at the same time.
    NoOverlapRule, no_overlap_rule;
    /// A volume is deleted while changes of it are under way.
    DeleteWithoutWaiting, delete_without_waiting;
    /// A snapshot does not wait for changes that are under way.
    SnapshotWithoutTurn, snapshot_without_turn;
    /// The two halves of a snapshot are two records, and the second comes late.
    SnapshotHalves, snapshot_halves;
    /// The snapshots of a group are taken one after another.
    GroupOneByOne, group_one_by_one;
    /// The catalog in a checkpoint is that of now, not that of the cut.
    CatalogOfNow, catalog_of_now;

    // Maps.
    /// A hole that is newer than a write in the same checkpoint loses.
    HoleLoses, hole_loses;
    /// A discard erases a whole subtree when its last block is left over.
    EraseTooMuch, erase_too_much;
    /// Holes have no birth.
    HoleWithoutBirth, hole_without_birth;
    /// Pointers to leaves do not tell how many blocks those hold.
    NoLeafCount, no_leaf_count;
    /// Growing by several levels leaves one that nobody owns.
    GrowWithoutFiller, grow_without_filler;
    /// Blocks that are erased stay in the volume's count.
    ErasedStillCounted, erased_still_counted;
    /// Tags leave out which block of a request it is.
    TagOfFirstBlock, tag_of_first_block;
    /// Blocks are not compared with their tags when they are read.
    ReadUnverified, read_unverified;
    /// A partial write fills up from the snapshot instead of from the head.
    PartialOfParent, partial_of_parent;

    // Snapshots and clones.
    /// A map that begins as another one does not see changes that are in no checkpoint.
    NoSource, no_source;
    /// A map's first root is that of its source before the checkpoint, not after.
    SourceNotMerged, source_not_merged;
    /// The clock of a snapshot is one too late.
    SeqOffByOne, seq_off_by_one;
    /// A rollback goes on from the head instead of from the snapshot.
    RollbackToHead, rollback_to_head;
    /// A deleted volume leaves its snapshots behind.
    SnapshotsStay, snapshots_stay;
    /// A renamed volume is still found by its old name only.
    RenameKeepsIndex, rename_keeps_index;
    /// A discarded subtree takes the blocks of snapshots along.
    NoBoundary, no_boundary;
    /// A subtree that straddles the cursor is detached in one piece.
    DetachAcrossCursor, detach_across_cursor;
    /// Whose a block is does not depend on how far its parent is taken apart.
    BoundIgnoresCursor, bound_ignores_cursor;
    /// A deleted map with two children is taken apart.
    CollapseWithTwo, collapse_with_two;
    /// A deleted map gives up what its child still has.
    CollapseWithoutHeir, collapse_without_heir;
    /// The cursor stops in the middle of a leaf.
    CursorInLeaf, cursor_in_leaf;
    /// The child of a map that was taken apart keeps it as its parent.
    ParentNotPassedOn, parent_not_passed_on;

    // Volumes whose blocks are elsewhere.
    /// What has not arrived yet reads as zeros.
    RemoteReadsZeros, remote_reads_zeros;
    /// What arrived goes with the volume that was adopted, although clones need it.
    BaseGoesWithHead, base_goes_with_head;
    /// What arrived stays when nobody needs it any more.
    BaseStays, base_stays;
    /// What arrived is put into the maps below a level that says zeros of all else.
    BaseWithFiller, base_with_filler;
    /// What arrives late goes into a base that is being taken apart.
    FillAfterDelete, fill_after_delete;
    /// A clone of what was adopted does not keep what arrives.
    CloneWithoutBase, clone_without_base;

    // Looking.
    /// A difference leaves out what was discarded.
    DiffWithoutHoles, diff_without_holes;
    /// What a child still has counts as what a deletion frees.
    UsageCountsShared, usage_counts_shared;
    /// A scrub passes over what snapshots have.
    ScrubSkipsSnapshots, scrub_skips_snapshots;
    /// A scrub looks at the first replica only.
    ScrubFirstReplica, scrub_first_replica;
}
