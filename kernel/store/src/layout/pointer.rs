//! Pointers of the maps: 32 bytes each, 128 of them in a node.

use world::BLOCK_SIZE;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::PoolAddr;
use crate::tag::Tag;

/// Pointers in a node.
pub const FAN: usize = 128;

/// Bytes of a pointer.
pub const POINTER_SIZE: usize = 32;

const _: () = assert!(FAN * POINTER_SIZE == BLOCK_SIZE && size_of::<Pointer>() == POINTER_SIZE);

const ADDR_MASK: u64 = (1 << 48) - 1;

/// What a pointer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Never written: reads as zeros.
    Never,
    /// Discarded or zeroed at its birth: reads as zeros.
    Hole,
    /// A block of data.
    Data,
    /// A node of the level below.
    Node,
    /// In the base whose number the address is; if it is not there, to be had from the origin of that.
    Remote,
    /// A kind of a later version: an I/O error for this block, nothing more.
    Unknown,
}

/// `address 48 | kind 4 | reserved 4 | key slot or count 8`, birth, tag.
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
pub struct Pointer {
    word: U64,
    birth: U64,
    tag: [u8; 16],
}

impl Pointer {
    /// All zero: never written.
    pub const NEVER: Self = Self {
        word: U64::ZERO,
        birth: U64::ZERO,
        tag: [0; 16],
    };

    /// A block of data.
    #[must_use]
    pub fn data(addr: PoolAddr, birth: u64, tag: Tag) -> Self {
        Self::new(2, addr, birth, tag)
    }

    /// A node.
    #[must_use]
    pub fn node(addr: PoolAddr, birth: u64, tag: Tag) -> Self {
        Self::new(3, addr, birth, tag)
    }

    /// A node of the lowest level with `blocks` blocks of data: counting those of a subtree takes no look at its leaves.
    #[must_use]
    pub fn leaf(addr: PoolAddr, birth: u64, tag: Tag, blocks: u8) -> Self {
        let mut pointer = Self::node(addr, birth, tag);
        pointer.word |= U64::new(u64::from(blocks) << 56);
        pointer
    }

    /// A hole that was made at `birth`.
    #[must_use]
    pub fn hole(birth: u64) -> Self {
        Self::new(1, 0, birth, Tag::default())
    }

    /// Something that a base has or will have. No block of the base is younger than `birth`.
    #[must_use]
    pub fn remote(base: u64, birth: u64) -> Self {
        Self::new(4, base, birth, Tag::default())
    }

    fn new(kind: u64, addr: PoolAddr, birth: u64, tag: Tag) -> Self {
        debug_assert!(addr <= ADDR_MASK, "an address has 48 bits");
        Self {
            word: U64::new(addr | kind << 48),
            birth: U64::new(birth),
            tag: tag.0,
        }
    }

    /// What it stands for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.word.get() >> 48 & 0xff {
            0 => Kind::Never,
            1 => Kind::Hole,
            2 => Kind::Data,
            3 => Kind::Node,
            4 => Kind::Remote,
            _ => Kind::Unknown,
        }
    }

    /// Whether it reads as zeros.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        matches!(self.kind(), Kind::Never | Kind::Hole)
    }

    /// Where the block is, for data and nodes; the base of what is remote.
    #[must_use]
    pub fn addr(&self) -> PoolAddr {
        self.word.get() & ADDR_MASK
    }

    /// Blocks of data below a node of the lowest level.
    #[must_use]
    pub fn leaf_blocks(&self) -> u64 {
        self.word.get() >> 56
    }

    /// When it was written.
    #[must_use]
    pub fn birth(&self) -> u64 {
        self.birth.get()
    }

    /// What the block's tag must be.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(self.tag)
    }
}

/// Pointer `index` of a node.
///
/// # Panics
/// When there are not that many.
#[must_use]
pub fn get_pointer(node: &[u8; BLOCK_SIZE], index: usize) -> Pointer {
    get_pointer_in(&node.as_chunks().0[index])
}

/// The pointer in these bytes of a node.
#[must_use]
pub fn get_pointer_in(bytes: &[u8; POINTER_SIZE]) -> Pointer {
    zerocopy::transmute!(*bytes)
}

/// Replaces pointer `index` of a node.
///
/// # Panics
/// When there are not that many.
pub fn set_pointer(node: &mut [u8; BLOCK_SIZE], index: usize, pointer: &Pointer) {
    let at = index * POINTER_SIZE;
    node[at..at + POINTER_SIZE].copy_from_slice(pointer.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_of_each_kind() {
        let tag = Tag(*b"0123456789abcdef");
        assert_eq!(hex(Pointer::NEVER.as_bytes()), "00".repeat(32));
        assert_eq!(
            hex(Pointer::hole(0x0102).as_bytes()),
            format!("0000000000000100{}{}", "0201000000000000", "00".repeat(16))
        );
        assert_eq!(
            hex(Pointer::data(0x1122_3344_5566, 7, tag).as_bytes()),
            "66554433221102000700000000000000303132333435363738396162636465 66".replace(' ', "")
        );
        let leaf = Pointer::leaf(0x1122_3344_5566, 7, tag, 128);
        assert_eq!(hex(&leaf.as_bytes()[..8]), "6655443322110380");
        assert_eq!((leaf.kind(), leaf.leaf_blocks()), (Kind::Node, 128));
        assert_eq!((leaf.addr(), leaf.birth()), (0x1122_3344_5566, 7));
        assert_eq!(Pointer::node(5, 1, tag).leaf_blocks(), 0);
        let remote = Pointer::remote(0x11, 7);
        assert_eq!(
            hex(&remote.as_bytes()[..16]),
            "11000000000004000700000000000000"
        );
        assert!(remote.kind() == Kind::Remote && !remote.is_hole());
    }

    #[test]
    fn a_node_holds_what_was_set() {
        let mut node = [0; BLOCK_SIZE];
        let pointer = Pointer::data(9, 8, Tag([7; 16]));
        set_pointer(&mut node, 127, &pointer);
        assert_eq!(get_pointer(&node, 127), pointer);
        assert_eq!(get_pointer(&node, 126), Pointer::NEVER);
    }
}
