//! Deliberate bugs. A model that does not notice one of them says nothing about the rule that it breaks.

/// A rule that is left out or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A deleted snapshot with two children is collapsed onto the first.
    CollapseBranch,
    /// A map answers to its parent's bound, however far the parent's collapse has come.
    IgnoreCursor,
    /// A subtree is detached with one boundary although its parent's cursor is inside it.
    DetachStraddling,
    /// A reclaim item is freed by the bound of its map now, not by that at its detaching.
    ReclaimWithBoundOfNow,
    /// A node is freed when a collapse enters it.
    NodesFreedOnEntry,
    /// A collapse begins beside another.
    CollapseNeighbours,
    /// A collapse frees what the child shares.
    SharedSubtreesFreed,
    /// Trees of unequal height are taken to share nothing.
    EqualHeightsOnly,
    /// A hole has no birth in the tree.
    HolesWithoutBirth,
    /// A level is added when the size grows, without a new entry.
    GrowWithoutEntry,
    /// Two levels are added at once, and the lower one has no new entry.
    BareLevels,
    /// A block is refused because a hole in its place seems newer.
    RefuseOlderThanHole,
    /// Maps are merged children first.
    ChildMergedFirst,
    /// A write that began before a snapshot ends in the head after it.
    WriteAcrossSnapshot,
    /// A volume rolled back keeps its parent and takes the snapshot's tree.
    RollbackKeepsParent,
    /// Replay believes an entry's parent, cursor and root.
    ReplayTrustsEntry,
    /// What a delete frees is told from the map alone, although its parent is hidden and waits for it.
    UniqueIgnoresHiddenParent,
    /// A difference skips what is not newer than the older snapshot, although the newer map may come from another branch.
    DiffBySeq,

    /// A fill goes into the map that was read, with the origin's birth.
    FillIntoReader,
    /// A fill goes into the map that was read, with a birth of its own.
    FillIntoReaderAsWrite,
    /// A fill goes into the oldest map that has the REMOTE pointer.
    FillIntoOwner,
    /// A fill is not dropped when the base has the block already.
    FillWithoutCheck,
    /// A fill does not look whether its base is still there.
    FillAfterFree,
    /// The base goes with the volume's head, although snapshots or clones need it.
    BaseGoesWithHead,
    /// The base is never freed.
    BaseStays,
    /// In a base, zeros next to what is not known yet make all of it zeros.
    BaseHolesSpread,
    /// What the base does not have reads as zeros.
    RemoteReadsZeros,
    /// The base is asked before the map.
    BaseFirst,
    /// Next to a written block, REMOTE becomes never-written.
    RemoteOpensAsNever,
    /// A partial write takes zeros for what is not here.
    PartialWriteOnZeros,
    /// A partial write and a write of the same block run side by side.
    PartialWriteUnordered,
    /// Replacing a REMOTE pointer frees the block in the base.
    RemoteIsOwned,
    /// A sweep of the base looks at heads only.
    SweepHeadsOnly,
    /// The origin is let go when the heads have everything.
    HydratedByHeads,
    /// The origin is let go before what arrived is durable.
    HydratedBeforeFlush,
    /// Births of a volume that comes back continue after its newest block, not after the snapshot it left behind.
    BiasBelowSnapshot,
}
