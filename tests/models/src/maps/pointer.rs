//! What a node's entry says, and where nodes lie over blocks.

/// Entries of a node; the engine has 128.
pub const FAN: usize = 4;

/// Levels that a map may have: 256 blocks.
pub const HEIGHT_MAX: u8 = 4;

/// Where a block is. Never handed out twice, so that every use of a freed block is noticed.
pub type Addr = usize;

/// When something was written; also the clock of snapshots.
pub type Birth = u64;

/// A block of a volume.
pub type Lba = u64;

/// An entry of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pointer {
    /// Never written.
    #[default]
    Never,
    /// Zeros since `birth`, in an inner node for everything below.
    Hole { birth: Birth },
    /// A block of data.
    Data { addr: Addr, birth: Birth },
    /// A node, one level down. `birth` is the newest of its entries.
    Node { addr: Addr, birth: Birth },
    /// Not known here: look into the base map of `source`. In an inner node for everything below.
    Remote { source: u8, birth: Birth },
}

impl Pointer {
    /// Its birth, 0 for what was never written.
    #[must_use]
    pub fn birth(self) -> Birth {
        match self {
            Self::Never => 0,
            Self::Hole { birth }
            | Self::Data { birth, .. }
            | Self::Node { birth, .. }
            | Self::Remote { birth, .. } => birth,
        }
    }

    /// Whether zeros are read there.
    #[must_use]
    pub fn is_hole(self) -> bool {
        matches!(self, Self::Never | Self::Hole { .. })
    }

    /// Where its node is, if it is one.
    #[must_use]
    pub fn node(self) -> Option<Addr> {
        match self {
            Self::Node { addr, .. } => Some(addr),
            _ => None,
        }
    }

    /// Where its data is, if it is any.
    #[must_use]
    pub fn data(self) -> Option<Addr> {
        match self {
            Self::Data { addr, .. } => Some(addr),
            _ => None,
        }
    }
}

/// Entries of a node.
pub type Entries = [Pointer; FAN];

/// Blocks below one entry of a node at `level`.
#[must_use]
pub fn span(level: u8) -> u64 {
    (FAN as u64).pow(u32::from(level))
}

/// The entry of the node at `level` that leads to `lba`.
#[must_use]
pub fn index_in(level: u8, lba: Lba) -> usize {
    (lba / span(level)) as usize % FAN
}

/// Where a map begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root {
    pub pointer: Pointer,
    /// Levels; the root node is at `height - 1`. 0 when there is nothing.
    pub height: u8,
}

impl Root {
    /// Blocks that it can hold.
    #[must_use]
    pub fn reach(self) -> u64 {
        if self.height == 0 {
            0
        } else {
            span(self.height)
        }
    }
}

/// What covers exactly the blocks of the node at `level` that begins at `first`, in the tree under `root`. Trees need not be
/// of equal height: beyond the reach of a lower one there is nothing, and what stands for everything below also stands for
/// this part.
#[must_use]
pub fn covering(disk: &super::Disk, root: Root, level: u8, first: Lba) -> Pointer {
    if first >= root.reach() || level >= root.height {
        return Pointer::Never;
    }
    let mut at = root.pointer;
    for above in (level + 1..root.height).rev() {
        let Some(addr) = at.node() else { return at };
        at = disk.node(addr)[index_in(above, first)];
    }
    at
}

/// What the tree under `root` says of one block.
#[must_use]
pub fn look_up(disk: &super::Disk, root: Root, lba: Lba) -> Pointer {
    let leaf = covering(disk, root, 0, lba / FAN as u64 * FAN as u64);
    match leaf.node() {
        Some(addr) => disk.node(addr)[index_in(0, lba)],
        None => leaf,
    }
}
