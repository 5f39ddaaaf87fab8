//! Memory that devices read and write by themselves.
//!
//! The image maps memory one to one, so the address a device uses is the physical address is the pointer. Without an
//! IOMMU nothing contains a driver that gives a device a wrong address; drivers therefore take addresses only from
//! here: [`DmaBuf::device_address`] for queues, [`lend`] for pages of data.
//!
//! Rules for drivers:
//! - memory lent to a device stays owned by the driver until the device is known to be done with it; memory of a lost
//!   command that cannot be proven idle is leaked;
//! - [`publish`] stands between the last write to memory and the register write that tells the device about it;
//! - [`observe`] stands between the read that shows the device is done and the first read of what it wrote.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Bytes of a page, the unit and alignment of [`DmaBuf`].
pub const PAGE_SIZE: usize = 4096;

/// Contiguous, page-aligned memory shared with a device: queues, rings and tables.
///
/// Accesses are volatile and little-endian, and go through `&self` because the device shares the memory anyway.
#[derive(Debug)]
pub struct DmaBuf {
    base: NonNull<u8>,
    /// At least a page.
    bytes: usize,
}

impl DmaBuf {
    /// Allocates `pages` zeroed pages.
    ///
    /// # Panics
    /// When `pages` is zero or the memory does not exist.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        assert!(pages > 0, "a DMA buffer without pages");
        let layout = Self::layout(pages);
        // SAFETY: the layout has a size, as there is at least one page.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        #[cfg(any(test, feature = "fake"))]
        crate::fake::lent(base.as_ptr(), pages * PAGE_SIZE);
        let bytes = layout.size();
        Self { base, bytes }
    }

    fn layout(pages: usize) -> Layout {
        pages
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| Layout::from_size_align(bytes, PAGE_SIZE).ok())
            .unwrap_or_else(|| panic!("a DMA buffer larger than memory"))
    }

    /// The address under which a device finds the first byte.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one page")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Reads 16 bits at `offset` bytes.
    #[must_use]
    pub fn read16(&self, offset: usize) -> u16 {
        // SAFETY: `at` checked bounds and alignment; the memory is only accessed volatile.
        u16::from_le(unsafe { self.at::<u16>(offset).read_volatile() })
    }

    /// Reads 32 bits at `offset` bytes.
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: as in `read16`.
        u32::from_le(unsafe { self.at::<u32>(offset).read_volatile() })
    }

    /// Reads 64 bits at `offset` bytes.
    #[must_use]
    pub fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as in `read16`.
        u64::from_le(unsafe { self.at::<u64>(offset).read_volatile() })
    }

    /// Writes 16 bits at `offset` bytes.
    pub fn write16(&self, offset: usize, value: u16) {
        // SAFETY: as in `read16`.
        unsafe { self.at::<u16>(offset).write_volatile(value.to_le()) }
    }

    /// Writes 32 bits at `offset` bytes.
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as in `read16`.
        unsafe { self.at::<u32>(offset).write_volatile(value.to_le()) }
    }

    /// Writes 64 bits at `offset` bytes.
    pub fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as in `read16`.
        unsafe { self.at::<u64>(offset).write_volatile(value.to_le()) }
    }

    /// Copies the bytes from `offset` on into `into`. The device must not be writing them.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        let from = self.range(offset, into.len());
        // SAFETY: (1) `range` checked the bounds; (2) `into` is other memory, as nothing refers to this buffer's.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `from` to `offset` and following. The device must not be using these bytes.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        let into = self.range(offset, from.len());
        // SAFETY: as in `read_bytes`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
    }

    /// Sets `len` bytes from `offset` on to zero. The device must not be using them.
    pub fn zero(&self, offset: usize, len: usize) {
        let into = self.range(offset, len);
        // SAFETY: `range` checked the bounds.
        unsafe { into.write_bytes(0, len) }
    }

    /// Gives the memory up for ever, for when a device may still be using it.
    pub fn leak(self) {
        core::mem::forget(self);
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(size_of::<T>()),
            "misaligned access to a DMA buffer"
        );
        self.range(offset, size_of::<T>()).cast()
    }

    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= self.len() && len <= self.len() - offset,
            "access outside a DMA buffer"
        );
        // SAFETY: the assertion keeps the result inside the allocation or one past its end.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        #[cfg(any(test, feature = "fake"))]
        crate::fake::returned(self.base.as_ptr());
        // SAFETY: allocated in `new` with the same layout, and nothing refers to it any more.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.bytes / PAGE_SIZE)) }
    }
}

/// The address under which a device finds `bytes`; valid while the driver owns them.
#[must_use]
pub fn device_address_of(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// Lends `bytes` to a device and returns the address under which it finds them.
///
/// The caller keeps them, untouched, until it calls [`reclaim`]. Test devices refuse to touch what is not lent.
#[must_use]
pub fn lend(bytes: &mut [u8]) -> u64 {
    #[cfg(any(test, feature = "fake"))]
    crate::fake::lent(bytes.as_mut_ptr(), bytes.len());
    bytes.as_mut_ptr().expose_provenance() as u64
}

/// Takes lent bytes back from a device that is done with them.
pub fn reclaim(bytes: &mut [u8]) {
    #[cfg(any(test, feature = "fake"))]
    crate::fake::returned(bytes.as_mut_ptr());
    // The device's writes happened behind the compiler's back; handing out the pointer here makes it forget.
    core::hint::black_box(bytes.as_mut_ptr());
}

/// Makes everything written to memory visible to devices before any later register write.
pub fn publish() {
    // x86 keeps the order of ordinary and uncached stores, so this costs nothing but holds the compiler.
    fence(Ordering::Release);
}

/// Keeps reads of what a device wrote behind the read that showed it is done.
pub fn observe() {
    fence(Ordering::Acquire);
}

/// Like [`publish`], and also keeps later *reads* of memory behind earlier writes (rings with event suppression).
pub fn publish_then_observe() {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_keeps_what_is_written() {
        let buf = DmaBuf::new(2);
        assert!(buf.device_address().is_multiple_of(PAGE_SIZE as u64));
        let mut bytes = [1; 8];
        buf.read_bytes(PAGE_SIZE - 4, &mut bytes);
        assert_eq!(bytes, [0; 8]);
        buf.write32(PAGE_SIZE, 0x0403_0201);
        buf.write16(PAGE_SIZE - 2, 0xbbaa);
        buf.read_bytes(PAGE_SIZE - 4, &mut bytes);
        assert_eq!(bytes, [0, 0, 0xaa, 0xbb, 1, 2, 3, 4]);
        assert_eq!(buf.read64(PAGE_SIZE), 0x0403_0201);
        buf.zero(PAGE_SIZE, 2);
        assert_eq!(buf.read32(PAGE_SIZE), 0x0403_0000);
    }

    #[test]
    #[should_panic(expected = "outside a DMA buffer")]
    fn an_access_across_the_end_panics() {
        DmaBuf::new(1).write_bytes(PAGE_SIZE - 1, &[0; 2]);
    }

    #[test]
    fn a_device_reaches_only_what_is_lent() {
        let mut page = alloc::vec![7_u8; PAGE_SIZE];
        let address = lend(&mut page);
        assert!(crate::fake::is_lent(address, PAGE_SIZE));
        crate::fake::device_write(address + 1, &[9]);
        reclaim(&mut page);
        assert_eq!(page[..3], [7, 9, 7]);
        assert!(!crate::fake::is_lent(address, 1));
        let buf = DmaBuf::new(1);
        buf.write32(8, 5);
        let mut bytes = [0; 4];
        crate::fake::device_read(buf.device_address() + 8, &mut bytes);
        assert_eq!(bytes, [5, 0, 0, 0]);
        assert!(!crate::fake::is_lent(buf.device_address() + 1, PAGE_SIZE));
    }
}
