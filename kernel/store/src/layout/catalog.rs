//! Catalog entries: one for each map, that is for each volume and each snapshot: 512 bytes, eight in a block.

use core::fmt;

use world::BLOCK_SIZE;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Pointer;
use crate::shared::FIRST_VOLUME;

/// The longest name in bytes.
pub const NAME_MAX: usize = 63;

/// What an entry describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CatalogKind {
    /// Nothing: the slot is free, or the entry was deleted.
    Free = 0,
    /// A volume as it is now: the only kind that changes.
    Head = 1,
    /// A snapshot.
    Snapshot = 2,
    /// Deleted, but not taken apart yet: maps that came from it may share its blocks.
    Hidden = 3,
    /// A map of the store itself.
    Internal = 4,
    /// What arrived so far of a volume that was adopted; remote pointers of its maps lead here.
    Base = 5,
}

/// The most bases that remote pointers of one map can lead to.
pub const BASES_MAX: usize = 3;

/// One entry.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CatalogEntry {
    /// Number of the map; never used again.
    pub id: U64,
    kind: u8,
    /// Levels of the map above its blocks.
    pub height: u8,
    key_slot: u8,
    /// 1: a base of which what nobody needs may be gone.
    flags: u8,
    reserved_a: [u8; 4],
    /// The map that this one began as; 0 if it began empty. Always of a smaller number.
    pub parent: U64,
    /// Of a snapshot: the birth up to which everything is in it. Of a base: the birth of its first block; each one behind it was born one later.
    pub seq: U64,
    /// The map's root.
    pub root: Pointer,
    /// Size in bytes.
    pub size_bytes: U64,
    /// Identity across pools.
    pub volume_uuid: [u8; 16],
    /// Identity of its data: clones share it, and it is part of every data tag.
    pub lineage_uuid: [u8; 16],
    /// Identity of a snapshot across pools.
    pub snapshot_uuid: [u8; 16],
    owner_epoch: U64,
    /// Added to the mount generation in births.
    pub epoch_bias: U64,
    /// Nanoseconds since 1970; 0 when unknown.
    pub created_at: U64,
    /// Bases that remote pointers of this map may lead to; 0: none.
    pub bases: [U64; BASES_MAX],
    /// Of a hidden map: the blocks before this one are taken apart. Of a base: of these blocks all that is not zeros is here.
    pub collapse_cursor: U64,
    quota: U64,
    /// Blocks of data in the map, shared ones included.
    pub blocks: U64,
    name_len: u8,
    name: [u8; NAME_MAX],
    /// The volume that this is, or is a snapshot of: the number of its first map.
    pub volume: U64,
    /// The snapshot that the volume was cloned from; it may be gone. 0 if it was not.
    pub origin: U64,
    reserved: [u8; 240],
}

const _: () = assert!(size_of::<CatalogEntry>() == 512);

impl Default for CatalogEntry {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for CatalogEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} {} `{}`", self.kind(), self.id, self.name())
    }
}

/// The flag of a base that was swept.
const SWEPT: u8 = 1;

/// Maps are numbered below this.
pub const IDS_MAX: u64 = 1 << 28;

/// The most blocks of a map: 128 TiB, five levels.
pub const BLOCKS_MAX: u64 = 1 << 35;

/// The most levels of a map: one to spare.
pub const HEIGHT_MAX: u8 = 6;

/// Mounts are counted up to here; births have no room for more.
pub const MOUNTS_MAX: u64 = (1 << 20) - 1;

impl CatalogEntry {
    /// An entry without name, size and identity.
    #[must_use]
    pub fn new(id: u64, kind: CatalogKind) -> Self {
        let mut entry = Self {
            id: id.into(),
            volume: id.into(),
            ..Self::default()
        };
        entry.set_kind(kind);
        entry
    }

    /// Whether all numbers are within what the store can work with, whoever wrote them.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let id = self.id.get();
        let is_volume = |id| (FIRST_VOLUME..IDS_MAX).contains(&id);
        let (parent, volume) = (self.parent.get(), self.volume.get());
        let is_known = match self.kind {
            0 => is_volume(id),
            1..=3 => {
                is_volume(id)
                    && (parent == 0 || is_volume(parent) && parent < id)
                    && is_volume(volume)
            }
            4 => (1..FIRST_VOLUME).contains(&id) && parent == 0,
            5 => is_volume(id) && parent == 0,
            _ => false,
        };
        let is_base = |base: &U64| base.get() == 0 || is_volume(base.get());
        is_known
            && self.height <= HEIGHT_MAX
            && self.size_bytes.get() <= BLOCKS_MAX * BLOCK_SIZE as u64
            && self.blocks.get() <= BLOCKS_MAX
            && self.epoch_bias.get() < MOUNTS_MAX
            && self.bases.iter().all(is_base)
    }

    /// Whether it is a base of which what nobody needs may be gone.
    #[must_use]
    pub fn is_swept(&self) -> bool {
        self.flags & SWEPT != 0
    }

    /// Notes that.
    pub fn set_swept(&mut self) {
        self.flags |= SWEPT;
    }

    /// What it describes.
    #[must_use]
    pub fn kind(&self) -> CatalogKind {
        match self.kind {
            1 => CatalogKind::Head,
            2 => CatalogKind::Snapshot,
            3 => CatalogKind::Hidden,
            4 => CatalogKind::Internal,
            5 => CatalogKind::Base,
            _ => CatalogKind::Free,
        }
    }

    /// Changes what it describes.
    pub fn set_kind(&mut self, kind: CatalogKind) {
        self.kind = kind as u8;
    }

    /// The name; empty for internal maps and for damaged entries.
    #[must_use]
    pub fn name(&self) -> &str {
        let bytes = self
            .name
            .get(..usize::from(self.name_len))
            .unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Sets the name.
    ///
    /// # Panics
    /// When it is longer than [`NAME_MAX`].
    pub fn set_name(&mut self, name: &str) {
        assert!(name.len() <= NAME_MAX, "a name that was not checked");
        self.name = [0; NAME_MAX];
        self.name[..name.len()].copy_from_slice(name.as_bytes());
        self.name_len = u8::try_from(name.len()).unwrap_or(0);
    }
}
