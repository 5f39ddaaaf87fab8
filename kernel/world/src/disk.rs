//! What a drive can do.

use core::fmt;
use core::ops::Range;

use crate::buf::Buf;

/// A position on a drive, in blocks of [`BLOCK_SIZE`](crate::BLOCK_SIZE) bytes.
pub type BlockAddr = u64;

/// The size and abilities of a drive; they never change while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Usable blocks of 4096 bytes.
    pub blocks: u64,
    /// The drive's own sector in bytes, 512 or 4096: what it writes without tearing.
    pub sector_bytes: u32,
    /// The most blocks one read or write may carry, at least 1.
    pub transfer_blocks_max: u32,
    /// Whether [`Disk::discard`] tells the drive anything.
    pub can_discard: bool,
}

/// Who a drive is, for people and for the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskInfo {
    /// Short stable name within this appliance, e.g. `nvme0n1`.
    pub id: alloc::string::String,
    /// Model name as the drive reports it.
    pub model: alloc::string::String,
    /// Serial number as the drive reports it.
    pub serial: alloc::string::String,
    /// Where it is plugged in, e.g. a PCI address.
    pub slot: alloc::string::String,
}

/// Why a drive operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The drive is not there any more; every later operation fails the same way.
    Gone,
    /// The drive did not answer within its deadline and was disabled.
    Timeout,
    /// The drive cannot read (or keep) these blocks; others may be fine.
    Media,
    /// The range does not lie on the drive. A bug of the caller or a drive that shrank.
    OutOfRange,
    /// The drive takes no writes (worn out, or write-protected).
    ReadOnly,
    /// The drive answered with an error; the number is its own status code.
    Device(u16),
}

impl fmt::Display for DiskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => out.write_str("the drive is gone"),
            Self::Timeout => out.write_str("the drive did not answer in time"),
            Self::Media => out.write_str("unreadable or unwritable blocks"),
            Self::OutOfRange => out.write_str("beyond the end of the drive"),
            Self::ReadOnly => out.write_str("the drive is read-only"),
            Self::Device(status) => write!(out, "drive error, status {status:#06x}"),
        }
    }
}

impl core::error::Error for DiskError {}

/// A drive. Operations may run concurrently and complete in any order.
///
/// A write is durable only after a [`flush`](Disk::flush) that was *started* after the write completed. Buffers go in
/// by value and come back with the result; a driver that had to quarantine the memory of a lost command returns an
/// empty buffer.
pub trait Disk {
    /// Size and abilities.
    fn geometry(&self) -> Geometry;

    /// Model, serial number and place.
    fn info(&self) -> DiskInfo;

    /// Fills all pages of `into` from the blocks at `at`.
    fn read(&self, at: BlockAddr, into: Buf) -> impl Future<Output = (Buf, Result<(), DiskError>)>;

    /// Writes all pages of `from` to the blocks at `at`.
    fn write(&self, at: BlockAddr, from: Buf)
    -> impl Future<Output = (Buf, Result<(), DiskError>)>;

    /// Makes every write that completed before this call durable.
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>>;

    /// Tells the drive that the contents of these blocks are not needed, in as few commands as it takes. They read as
    /// anything afterwards, some of them also after an error.
    fn discard(&self, ranges: &[Range<BlockAddr>]) -> impl Future<Output = Result<(), DiskError>>;
}
