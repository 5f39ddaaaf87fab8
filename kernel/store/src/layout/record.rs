//! Records of the journal.

use alloc::vec::Vec;

use world::Buf;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::catalog::{BLOCKS_MAX, IDS_MAX};
use super::{CatalogEntry, CatalogKind, GroupEntry, PoolAddr};
use crate::tag::Tag;

/// Bytes of a write record without its tags (16 bytes for each block).
const WRITE_RECORD_SIZE: usize = size_of::<Fixed>();

/// Bytes of a hole record.
const HOLE_RECORD_SIZE: usize = size_of::<Fixed>();

/// Entries that one control record can change.
pub const CONTROL_MAX: usize = 120;

/// Bytes of a group record.
const GROUP_RECORD_SIZE: usize = size_of::<Head>() + size_of::<GroupEntry>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    kind: u8,
    key_slot: u8,
    /// Bytes of the record, this head included.
    len: U16,
    count: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    head: Head,
    tree: U64,
    lba: U64,
    /// Address of the first block (write) or number of blocks (hole).
    operand: U64,
    birth: U64,
}

const _: () = assert!(size_of::<Fixed>() == 40);

impl Fixed {
    /// Whether `count` blocks can be in a map, and at least one is.
    fn is_in_a_map(&self, count: u64) -> bool {
        count > 0 && self.tree.get() < IDS_MAX && ends_by(self.lba, count, BLOCKS_MAX)
    }
}

/// Whether `count` numbers from `first` on are all below `end`.
fn ends_by(first: U64, count: u64, end: u64) -> bool {
    first
        .get()
        .checked_add(count)
        .is_some_and(|last| last <= end)
}

/// Pool addresses are below this.
const ADDR_MAX: u64 = 1 << 48;

const WRITE: u8 = 1;
const HOLE: u8 = 2;
const CONTROL: u8 = 3;
const GROUP: u8 = 4;

/// One change, as the journal tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Blocks `lba..` of `tree` were written to `addr..` with births `birth..`.
    Write {
        /// Catalog id of the map.
        tree: u64,
        /// First block.
        lba: u64,
        /// First pool block.
        addr: PoolAddr,
        /// Birth of the first block.
        birth: u64,
        /// Tag of each block.
        tags: Vec<Tag>,
    },
    /// Blocks `lba..lba + count` of `tree` became a hole.
    Hole {
        /// Catalog id of the map.
        tree: u64,
        /// First block.
        lba: u64,
        /// Number of blocks.
        count: u64,
        /// Birth of the hole.
        birth: u64,
    },
    /// Catalog entries were made or changed, all at one instant; roots and counts are not part of the change.
    Control(Vec<CatalogEntry>),
    /// A free group was given chunks and a purpose.
    Group {
        /// Its number.
        group: u32,
        /// Its entry, with an empty bitmap.
        entry: GroupEntry,
    },
}

impl Record {
    /// Appends the record of a write without building one.
    pub fn push_write(
        out: &mut Vec<u8>,
        (tree, lba): (u64, u64),
        addr: PoolAddr,
        birth: u64,
        tags: &[Tag],
    ) {
        let len = WRITE_RECORD_SIZE + 16 * tags.len();
        push_fixed(out, WRITE, len, tags.len(), (tree, lba), addr, birth);
        for tag in tags {
            out.extend_from_slice(&tag.0);
        }
    }

    /// Appends the record of a hole.
    pub fn push_hole(out: &mut Vec<u8>, (tree, lba): (u64, u64), count: u64, birth: u64) {
        push_fixed(out, HOLE, HOLE_RECORD_SIZE, 0, (tree, lba), count, birth);
    }

    /// Appends the record of a catalog change.
    ///
    /// # Panics
    /// When more than [`CONTROL_MAX`] entries change.
    pub fn push_control(out: &mut Vec<u8>, entries: &[CatalogEntry]) {
        assert!(
            entries.len() <= CONTROL_MAX,
            "a change that was not checked"
        );
        let head = Head {
            kind: CONTROL,
            key_slot: 0,
            len: U16::new(u16::try_from(size_of::<Head>() + size_of_val(entries)).unwrap_or(0)),
            count: U32::new(u32::try_from(entries.len()).unwrap_or(0)),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(entries.as_bytes());
    }

    /// Appends the record of a group that was put to use.
    pub fn push_group(out: &mut Vec<u8>, group: u32, entry: &GroupEntry) {
        let len = U16::new(u16::try_from(GROUP_RECORD_SIZE).unwrap_or(u16::MAX));
        let head = Head {
            kind: GROUP,
            key_slot: 0,
            len,
            count: group.into(),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(entry.as_bytes());
    }

    /// Bytes of the record that `bytes` begins with; trusts its maker (the journal's own buffer).
    #[must_use]
    pub fn len_of(bytes: &[u8]) -> usize {
        Head::read_from_prefix(bytes).map_or(bytes.len(), |(head, _)| usize::from(head.len.get()))
    }

    /// Reads the first record of `bytes` and says how long it is; `None` for anything malformed.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, _) = Head::read_from_prefix(bytes).ok()?;
        let len = usize::from(head.len.get());
        let bytes = bytes.get(..len)?;
        let record = match head.kind {
            WRITE => {
                let (fixed, tags) = Fixed::read_from_prefix(bytes).ok()?;
                let count = usize::try_from(head.count.get()).ok()?;
                let fits = count <= Buf::PAGES_MAX
                    && tags.len() == count * 16
                    && ends_by(fixed.operand, count as u64, ADDR_MAX)
                    && ends_by(fixed.birth, count as u64, u64::MAX);
                if !fits || !fixed.is_in_a_map(count as u64) {
                    return None;
                }
                let tags = tags
                    .as_chunks::<16>()
                    .0
                    .iter()
                    .map(|chunk| Tag(*chunk))
                    .collect();
                Self::Write {
                    tree: fixed.tree.get(),
                    lba: fixed.lba.get(),
                    addr: fixed.operand.get(),
                    birth: fixed.birth.get(),
                    tags,
                }
            }
            HOLE => {
                let fixed = Fixed::read_from_bytes(bytes).ok()?;
                if !fixed.is_in_a_map(fixed.operand.get()) {
                    return None;
                }
                Self::Hole {
                    tree: fixed.tree.get(),
                    lba: fixed.lba.get(),
                    count: fixed.operand.get(),
                    birth: fixed.birth.get(),
                }
            }
            CONTROL => {
                let entries = bytes.get(size_of::<Head>()..)?;
                let count = usize::try_from(head.count.get()).ok()?;
                if !(1..=CONTROL_MAX).contains(&count)
                    || entries.len() != count * size_of::<CatalogEntry>()
                {
                    return None;
                }
                let entries: Option<Vec<CatalogEntry>> = entries
                    .chunks_exact(size_of::<CatalogEntry>())
                    .map(|bytes| CatalogEntry::read_from_bytes(bytes).ok())
                    .collect();
                let entries = entries?;
                let is_change = |entry: &CatalogEntry| {
                    entry.is_sound() && entry.kind() != CatalogKind::Internal
                };
                if !entries.iter().all(is_change) {
                    return None;
                }
                Self::Control(entries)
            }
            GROUP => {
                let entry = bytes.get(size_of::<Head>()..)?;
                let entry = GroupEntry::read_from_bytes(entry).ok()?;
                Self::Group {
                    group: head.count.get(),
                    entry,
                }
            }
            _ => return None,
        };
        Some((record, len))
    }
}

fn push_fixed(
    out: &mut Vec<u8>,
    kind: u8,
    len: usize,
    count: usize,
    (tree, lba): (u64, u64),
    operand: u64,
    birth: u64,
) {
    let fixed = Fixed {
        head: Head {
            kind,
            key_slot: 0,
            len: U16::new(u16::try_from(len).unwrap_or(u16::MAX)),
            count: U32::new(u32::try_from(count).unwrap_or(u32::MAX)),
        },
        tree: tree.into(),
        lba: lba.into(),
        operand: operand.into(),
        birth: birth.into(),
    };
    out.extend_from_slice(fixed.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn records_read_back() {
        let mut out = Vec::new();
        let tags = vec![Tag([1; 16]), Tag([2; 16])];
        Record::push_write(&mut out, (16, 5), 0x8003, 99, &tags);
        Record::push_hole(&mut out, (17, 6), 1 << 30, 100);
        let entries = [17, 18].map(|id| CatalogEntry::new(id, CatalogKind::Head));
        Record::push_control(&mut out, &entries);
        let (write, used) = Record::decode(&out).unwrap();
        assert_eq!(
            write,
            Record::Write {
                tree: 16,
                lba: 5,
                addr: 0x8003,
                birth: 99,
                tags
            }
        );
        let (hole, more) = Record::decode(&out[used..]).unwrap();
        assert_eq!(
            hole,
            Record::Hole {
                tree: 17,
                lba: 6,
                count: 1 << 30,
                birth: 100
            }
        );
        let (control, last) = Record::decode(&out[used + more..]).unwrap();
        assert_eq!(control, Record::Control(entries.to_vec()));
        assert_eq!(used + more + last, out.len());
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut out = Vec::new();
        Record::push_write(&mut out, (16, 5), 0x8003, 99, &[Tag([1; 16])]);
        for len in 0..out.len() {
            assert!(Record::decode(&out[..len]).is_none(), "{len}");
        }
    }

    /// Whoever damaged or forged a journal: no number that comes out of it is beyond what the maps can hold.
    #[test]
    fn impossible_numbers_are_refused() {
        let tags = [Tag([1; 16]); 2];
        let write = |tree, lba, addr, birth| {
            let mut out = Vec::new();
            Record::push_write(&mut out, (tree, lba), addr, birth, &tags);
            Record::decode(&out).is_some()
        };
        assert!(write(
            IDS_MAX - 1,
            BLOCKS_MAX - 2,
            ADDR_MAX - 2,
            u64::MAX - 2
        ));
        assert!(!write(IDS_MAX, 0, 0, 0) && !write(16, BLOCKS_MAX - 1, 0, 0));
        assert!(!write(16, u64::MAX, 0, 0) && !write(16, 0, ADDR_MAX - 1, 0));
        assert!(!write(16, 0, u64::MAX, 0) && !write(16, 0, 0, u64::MAX - 1));
        let hole = |tree, lba, count| {
            let mut out = Vec::new();
            Record::push_hole(&mut out, (tree, lba), count, 1);
            Record::decode(&out).is_some()
        };
        assert!(hole(17, 0, BLOCKS_MAX) && !hole(17, 1, BLOCKS_MAX));
        assert!(!hole(17, 0, 0) && !hole(17, u64::MAX, 1) && !hole(IDS_MAX, 0, 1));
        let mut long = Vec::new();
        Record::push_write(&mut long, (16, 0), 0, 0, &[Tag::default(); 33]);
        assert!(Record::decode(&long).is_none());
        let control = |id, change: fn(&mut CatalogEntry)| {
            let mut entry = CatalogEntry::new(id, CatalogKind::Head);
            change(&mut entry);
            let mut out = Vec::new();
            Record::push_control(&mut out, &[entry]);
            Record::decode(&out).is_some()
        };
        assert!(control(16, |_| {}) && control(16, |entry| entry.set_kind(CatalogKind::Free)));
        assert!(!control(0, |entry| entry.set_kind(CatalogKind::Free)) && !control(3, |_| {}));
        assert!(!control(3, |entry| entry.set_kind(CatalogKind::Internal)));
        assert!(!control(IDS_MAX, |_| {}) && !control(u64::MAX, |_| {}));
        assert!(
            !control(16, |entry| entry.height = 7)
                && !control(16, |entry| entry.parent = 16.into())
        );
        assert!(!control(16, |entry| entry.size_bytes = u64::MAX.into()));
        assert!(!control(16, |entry| entry.epoch_bias = u64::MAX.into()));
    }
}
