//! The image's table of function names: written after linking ([`pack()`]), read by backtraces ([`Table`]).
//!
//! A linked image holds 16 zero bytes in section `.symbols`, alone in its segment and last in memory. `pack` strips
//! the image down to what is loaded and lets that segment grow to hold the table:
//!
//! ```text
//!   0  magic "FESYMS01"
//!   8  bytes of the whole table, u32      12  number of entries, u32
//!  16  address that offsets count from, u64
//!  24  entries by rising address: {offset u32, size u32, name u32}
//!   …  names: {length u16, UTF-8}, found by their distance from the start of the table
//! ```
//!
//! All integers are little-endian. A reader checks every bound, so a damaged table costs names, never a fault.

#![cfg_attr(not(any(test, feature = "pack")), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "pack"))]
mod pack;
mod table;

#[cfg(any(test, feature = "pack"))]
pub use pack::{PackError, encode, pack};
pub use table::{Symbol, Table};

/// First bytes of a table.
pub const MAGIC: [u8; 8] = *b"FESYMS01";
/// Bytes before the first entry.
pub const HEADER_BYTES: usize = 24;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 12;
