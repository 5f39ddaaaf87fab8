//! Page tables, 4 levels, one to one (Intel SDM volume 3, 5.5).
//!
//! The builder is pure: it sees tables only through [`TableMemory`], so tests run it on a handful of arrays. Nothing is
//! ever unmapped or changed once mapped, so the processor's translation cache needs no flush after a mapping is added.

use crate::handover::Span;

/// What a page may be used for. No combination is both writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code.
    ReadExecute,
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
    /// Registers of devices: not cached.
    Device,
}

/// Why something could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// A page of it is mapped already, with another access.
    Taken,
    /// No memory for a table.
    NoMemory,
    /// Beyond what four levels reach one to one.
    TooHigh,
}

/// Where tables are.
pub trait TableMemory {
    /// A new table of zeros, as its physical address.
    fn allocate(&mut self) -> Option<u64>;
    /// The table at `address`.
    fn table(&mut self, address: u64) -> &mut [u64; 512];
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits of an entry that say what the page may be used for.
const ACCESS: u64 = WRITE | WRITE_THROUGH | UNCACHED | NO_EXECUTE;

/// First address that has no one-to-one place: the lower half of 48 bits.
const TOP: u64 = 1 << 47;

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadExecute => 0,
            Self::Read => NO_EXECUTE,
            Self::ReadWrite => WRITE | NO_EXECUTE,
            Self::Device => WRITE | NO_EXECUTE | UNCACHED | WRITE_THROUGH,
        }
    }
}

/// A tree of page tables.
#[derive(Debug)]
pub struct PageTables<M> {
    root: u64,
    giant_pages: bool,
    memory: M,
}

impl<M: TableMemory> PageTables<M> {
    /// An empty tree; `giant_pages` says whether the processor has pages of 1 GiB.
    pub fn new(mut memory: M, giant_pages: bool) -> Result<Self, MapError> {
        let root = memory.allocate().ok_or(MapError::NoMemory)?;
        Ok(Self {
            root,
            giant_pages,
            memory,
        })
    }

    /// Address of the top table, for CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The source of tables, to give it another supply.
    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Maps the pages of `span` (whole pages) with the largest pages that fit. What is mapped with the same access
    /// already stays as it is.
    pub fn map(&mut self, span: Span, access: Access) -> Result<(), MapError> {
        assert!(
            span.start.is_multiple_of(4096) && span.end.is_multiple_of(4096),
            "whole pages"
        );
        if span.end > TOP {
            return Err(MapError::TooHigh);
        }
        let mut at = span.start;
        while at < span.end {
            at += self.map_one(at, span.end, access)?;
        }
        Ok(())
    }

    /// Maps the largest page that begins at `at` and ends by `end`; returns how many bytes are mapped from `at` on.
    fn map_one(&mut self, at: u64, end: u64, access: Access) -> Result<u64, MapError> {
        let mut table = self.root;
        for level in (0..4).rev() {
            let shift = 12 + 9 * level;
            let size = 1_u64 << shift;
            let index = (at >> shift) as usize % 512;
            let entry = self.memory.table(table)[index];
            let leaf = entry & PRESENT != 0 && (level == 0 || entry & LARGE != 0);
            if leaf {
                let same = entry & ACCESS == access.bits();
                return if same {
                    Ok(size - at % size)
                } else {
                    Err(MapError::Taken)
                };
            }
            let fits = level <= 1 || (level == 2 && self.giant_pages);
            if entry == 0 && fits && at.is_multiple_of(size) && end - at >= size {
                let large = if level == 0 { 0 } else { LARGE };
                self.memory.table(table)[index] = at | access.bits() | large | PRESENT;
                return Ok(size);
            }
            table = if entry == 0 {
                let new = self.memory.allocate().ok_or(MapError::NoMemory)?;
                self.memory.table(table)[index] = new | PRESENT | WRITE;
                new
            } else {
                entry & ADDRESS
            };
        }
        unreachable!("the last level always fits")
    }

    /// The access of the page at `address`, or `None` where nothing is mapped.
    pub fn access(&mut self, address: u64) -> Option<Access> {
        if address >= TOP {
            return None;
        }
        let mut table = self.root;
        for level in (0..4).rev() {
            let entry = self.memory.table(table)[(address >> (12 + 9 * level)) as usize % 512];
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & LARGE != 0 {
                let all = [
                    Access::ReadExecute,
                    Access::Read,
                    Access::ReadWrite,
                    Access::Device,
                ];
                return all
                    .into_iter()
                    .find(|access| access.bits() == entry & ACCESS);
            }
            table = entry & ADDRESS;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        tables: Vec<[u64; 512]>,
        limit: usize,
    }

    impl TableMemory for Fake {
        fn allocate(&mut self) -> Option<u64> {
            (self.tables.len() < self.limit).then(|| {
                self.tables.push([0; 512]);
                self.tables.len() as u64 * 4096
            })
        }

        fn table(&mut self, address: u64) -> &mut [u64; 512] {
            &mut self.tables[(address / 4096 - 1) as usize]
        }
    }

    fn tables(giant_pages: bool, limit: usize) -> PageTables<Fake> {
        PageTables::new(
            Fake {
                tables: Vec::new(),
                limit,
            },
            giant_pages,
        )
        .unwrap()
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn only_code_is_executable_and_it_is_never_writable() {
        let bits = |access: Access| (access.bits() & NO_EXECUTE == 0, access.bits() & WRITE != 0);
        assert_eq!(bits(Access::ReadExecute), (true, false));
        assert_eq!(bits(Access::Read), (false, false));
        assert_eq!(bits(Access::ReadWrite), (false, true));
        assert_eq!(bits(Access::Device), (false, true));
    }

    #[test]
    fn only_what_was_asked_for_is_mapped() {
        let mut tables = tables(false, 100);
        tables
            .map(
                Span {
                    start: 0x1000,
                    end: 0x40_3000,
                },
                Access::ReadWrite,
            )
            .unwrap();
        tables
            .map(
                Span {
                    start: 0x40_3000,
                    end: 0x40_4000,
                },
                Access::ReadExecute,
            )
            .unwrap();
        for (address, access) in [
            (0, None),
            (0xfff, None),
            (0x1000, Some(Access::ReadWrite)),
            (0x20_0000, Some(Access::ReadWrite)),
            (0x40_2fff, Some(Access::ReadWrite)),
            (0x40_3000, Some(Access::ReadExecute)),
            (0x40_4000, None),
            (TOP - 1, None),
            (u64::MAX, None),
        ] {
            assert_eq!(tables.access(address), access, "{address:#x}");
        }
    }

    #[test]
    fn large_pages_save_tables() {
        let mut small = tables(false, 100);
        small
            .map(
                Span {
                    start: 0,
                    end: 16 * GIB,
                },
                Access::ReadWrite,
            )
            .unwrap();
        assert_eq!(small.memory.tables.len(), 2 + 16);
        let mut giant = tables(true, 100);
        giant
            .map(
                Span {
                    start: 0,
                    end: 16 * GIB,
                },
                Access::ReadWrite,
            )
            .unwrap();
        assert_eq!(giant.memory.tables.len(), 2);
        assert_eq!(giant.access(5 * GIB + 12345), Some(Access::ReadWrite));
    }

    #[test]
    fn mapping_twice_is_fine_with_the_same_access_only() {
        let mut tables = tables(false, 100);
        let span = Span {
            start: 0x20_0000,
            end: 0x60_0000,
        };
        tables.map(span, Access::Device).unwrap();
        let part = Span {
            start: 0x30_1000,
            end: 0x61_0000,
        };
        assert_eq!(tables.map(part, Access::Device), Ok(()));
        assert_eq!(tables.access(0x60_f000), Some(Access::Device));
        assert_eq!(tables.map(part, Access::ReadWrite), Err(MapError::Taken));
    }

    #[test]
    fn limits_are_errors() {
        let mut tables = tables(true, 2);
        let low = Span {
            start: 0,
            end: 0x1000,
        };
        assert_eq!(tables.map(low, Access::Read), Err(MapError::NoMemory));
        let high = Span {
            start: TOP - 4096,
            end: TOP + 4096,
        };
        assert_eq!(tables.map(high, Access::Read), Err(MapError::TooHigh));
    }
}
