//! What is on the drive of the model `crash`.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Blocks of the only volume.
pub const LBAS: usize = 16;
/// Entries of a node.
pub const FAN: usize = 4;
/// Nodes of the map.
pub const NODES: usize = LBAS / FAN;
/// Blocks of the pool.
pub const BLOCKS: usize = 72;
/// Frames of the journal's ring.
pub const RING: u64 = 16;
/// Records of a frame.
pub const RECORDS_MAX: usize = 3;

/// Stands for a hash of contents and place.
pub type Tag = u64;

/// Mount generation and counter: never repeats, and orders writes.
pub type Birth = (u64, u64);

/// A place on the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Super(u64),
    Frame(u64),
    Block(usize),
}

/// What a place holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Super(Superblock),
    Frame(Frame),
    Data { lba: usize, birth: Birth },
    Node(Node),
}

/// Where the blocks of one part of the volume are.
pub type Node = [Option<(usize, Birth)>; FAN];

/// One write, in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub lba: usize,
    pub addr: usize,
    pub birth: Birth,
}

/// A frame of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub seq: u64,
    /// The mount that wrote it.
    pub mount: u64,
    /// Frames up to this one were durable, with their data, when this one was made.
    pub durable: u64,
    /// Tag of the frame before.
    pub prev: Tag,
    pub records: Vec<Record>,
}

impl Frame {
    /// Its tag.
    pub fn tag(&self) -> Tag {
        tag_of(self)
    }
}

/// A superblock with all that a checkpoint says. Group tables and bitmaps are left out: they are written before it, like nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub generation: u64,
    pub mount: u64,
    pub nodes: [Option<(usize, Tag)>; NODES],
    pub used: BTreeSet<usize>,
    /// The first frame to be replayed, and the tag of the one before.
    pub tail: u64,
    pub prev: Tag,
}

/// The tag of anything.
pub fn tag_of(value: &impl Hash) -> Tag {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
