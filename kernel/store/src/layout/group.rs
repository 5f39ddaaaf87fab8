//! Entries of the group table: where a group's replicas are, what it is used for, and the tag of its bitmap.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The most replicas of a group.
pub const REPLICAS_MAX: usize = 3;

/// State of a replica that is complete; 0 is one that is not there.
const IN_SYNC: u8 = 1;

/// One replica of a group: a chunk of a drive.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Replica {
    /// Member index of the drive.
    pub device: u8,
    /// 0: not there, 1: complete.
    pub state: u8,
    /// Chunk of the drive.
    pub chunk: U32,
}

/// What a group is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing; no chunk belongs to it.
    Free,
    /// Blocks of volumes, one replica.
    Data,
    /// Map nodes and blocks of internal volumes, two replicas.
    Meta,
}

/// One group, 64 bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct GroupEntry {
    /// Its chunks.
    pub replicas: [Replica; REPLICAS_MAX],
    class: u8,
    /// Which of the group's first two blocks holds the bitmap.
    pub slot: u8,
    /// Free blocks according to the bitmap.
    pub free: U16,
    reserved_a: [u8; 2],
    /// Checkpoint that wrote the bitmap.
    pub bitmap_checkpoint: U64,
    /// Checkpoint of the last write to the group.
    pub write_checkpoint: U64,
    /// Tag of the bitmap; all zero for an empty bitmap that was never written.
    pub tag: [u8; 16],
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<GroupEntry>() == 64);

impl GroupEntry {
    /// What it is used for; an unknown class counts as data that is never allocated from.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.class {
            0 => Class::Free,
            2 => Class::Meta,
            _ => Class::Data,
        }
    }

    /// Gives a free group chunks and a purpose; its bitmap is empty.
    #[must_use]
    pub fn assigned(class: Class, replicas: &[Replica], free: u16) -> Self {
        let mut entry = Self {
            class: match class {
                Class::Free => 0,
                Class::Data => 1,
                Class::Meta => 2,
            },
            free: free.into(),
            ..Self::default()
        };
        entry.replicas[..replicas.len()].copy_from_slice(replicas);
        entry
    }

    /// The replicas that are there.
    pub fn in_sync(&self) -> impl Iterator<Item = Replica> + '_ {
        self.replicas.iter().copied().filter(|r| r.state == IN_SYNC)
    }
}

impl Replica {
    /// A complete replica on `chunk` of drive `device`.
    #[must_use]
    pub fn in_sync(device: u8, chunk: u32) -> Self {
        Self {
            device,
            state: IN_SYNC,
            chunk: chunk.into(),
        }
    }
}
