//! Looking an address up.

use crate::{ENTRY_BYTES, HEADER_BYTES, MAGIC};

/// The table of an image, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    bytes: &'a [u8],
    base: u64,
    entries: &'a [[u8; ENTRY_BYTES]],
}

/// A function and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Demangled name.
    pub name: &'a str,
    /// Address of the function's first byte.
    pub start: u64,
    /// Distance of the address asked for from `start`, in bytes.
    pub offset: u64,
}

impl<'a> Table<'a> {
    /// Bytes that the table says it has, from its first [`HEADER_BYTES`] bytes; `None` where there is no table.
    #[must_use]
    pub fn len_of(header: &[u8]) -> Option<usize> {
        if header.len() < HEADER_BYTES || header[..8] != MAGIC {
            return None;
        }
        let len = u32_at(header, 8) as usize;
        (len >= HEADER_BYTES).then_some(len)
    }

    /// The table in `bytes`, or `None` when its header makes no sense.
    #[must_use]
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::len_of(bytes)?)?;
        let count = u32_at(bytes, 12) as usize;
        let entries = bytes.get(HEADER_BYTES..)?.as_chunks().0.get(..count)?;
        let base = u64::from_le_bytes(*bytes[16..].first_chunk()?);
        Some(Self {
            bytes,
            base,
            entries,
        })
    }

    /// Number of functions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The function that `address` lies in.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Symbol<'a>> {
        let wanted = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let after = self
            .entries
            .partition_point(|entry| u32_at(entry, 0) <= wanted);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        let (start, size) = (u32_at(entry, 0), u32_at(entry, 4));
        if wanted - start >= size {
            return None;
        }
        let name = self.bytes.get(u32_at(entry, 8) as usize..)?;
        let len = u16::from_le_bytes(*name.first_chunk()?);
        let name = core::str::from_utf8(name.get(2..2 + usize::from(len))?).ok()?;
        Some(Symbol {
            name,
            start: self.base + u64::from(start),
            offset: u64::from(wanted - start),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| u32::from_le_bytes(*word))
}
