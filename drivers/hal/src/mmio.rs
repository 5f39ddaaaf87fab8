//! Windows into the registers of devices.
//!
//! Trusted here: the mapper that boot installs returns memory that stays mapped, uncached, for ever, and refuses (with
//! null) what it cannot map or what is ordinary memory. Given that, a window cannot reach anything but its own bytes.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::reg::Registers;

/// Makes `len` bytes of device memory at a physical address accessible; null when that cannot be done.
pub type Mapper = fn(physical: u64, len: usize) -> *mut u8;

static MAPPER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets how device memory is mapped. Boot calls this once, before the first [`Mmio::map`].
pub fn set_mapper(mapper: Mapper) {
    MAPPER.store(mapper as *mut (), Ordering::Release);
}

fn mapper() -> Option<Mapper> {
    let stored = MAPPER.load(Ordering::Acquire);
    if stored.is_null() {
        return None;
    }
    // SAFETY: (1) the only store puts a `Mapper` there; (2) function and data pointers have one size on x86-64.
    Some(unsafe { core::mem::transmute::<*mut (), Mapper>(stored) })
}

/// A window of device memory. Every access is one volatile instruction and is checked against the window.
///
/// Clones and [sub-windows](Mmio::window) refer to the same registers.
#[derive(Clone, Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: usize,
    physical: u64,
}

// SAFETY: (1) the mapping is the same for all cores and never ends; (2) every access is one volatile instruction, and
// the order of accesses to a device is its driver's business, not a matter of memory safety.
unsafe impl Send for Mmio {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// Maps `len` bytes of device memory at `physical`.
    ///
    /// # Panics
    /// When it cannot be mapped; use [`try_map`](Self::try_map) for an address that a device or its firmware chose.
    #[must_use]
    pub fn map(physical: u64, len: usize) -> Self {
        Self::try_map(physical, len)
            .unwrap_or_else(|| panic!("cannot map {len:#x} bytes at {physical:#x}"))
    }

    /// Maps `len` bytes of device memory at `physical`, or `None` where there cannot be any.
    #[must_use]
    pub fn try_map(physical: u64, len: usize) -> Option<Self> {
        physical.checked_add(len as u64)?;
        let base = NonNull::new(mapper()?(physical, len))?;
        Some(Self {
            base,
            len,
            physical,
        })
    }

    /// The part of this window from `offset` on that is `len` bytes long, or `None` if it does not lie inside.
    #[must_use]
    pub fn window(&self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most the length of the window, so the result is inside it or one past its end.
        let base = unsafe { self.base.add(offset) };
        Some(Self {
            base,
            len,
            physical: self.physical + offset as u64,
        })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the window has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte, for code that checks its own accesses.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The physical address of the first byte.
    #[must_use]
    pub fn physical(&self) -> u64 {
        self.physical
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(
            offset.is_multiple_of(size) && offset <= self.len && self.len - offset >= size,
            "register {offset:#x} outside its window of {:#x} bytes",
            self.len
        );
        // SAFETY: the assertion keeps the whole access inside the window.
        let at = unsafe { self.base.as_ptr().add(offset) };
        assert!(at.addr().is_multiple_of(size), "misaligned window");
        at.cast()
    }
}

impl Registers for Mmio {
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: `at` checked bounds and alignment; device memory stays mapped and is only accessed volatile.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    fn read8(&self, offset: usize) -> u8 {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u8>(offset).read_volatile() }
    }

    fn read16(&self, offset: usize) -> u16 {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u16>(offset).read_volatile() }
    }

    fn write8(&self, offset: usize, value: u8) {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u8>(offset).write_volatile(value) }
    }

    fn write16(&self, offset: usize, value: u16) {
        // SAFETY: as in `read32`.
        unsafe { self.at::<u16>(offset).write_volatile(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Maps" leaked host memory; page 0 stands for what cannot be mapped.
    fn leak(physical: u64, len: usize) -> *mut u8 {
        if physical == 0 {
            return core::ptr::null_mut();
        }
        alloc::vec![0_u64; len.div_ceil(8)]
            .leak()
            .as_mut_ptr()
            .cast()
    }

    #[test]
    fn a_window_reads_what_was_written_and_nothing_outside() {
        set_mapper(leak);
        assert!(Mmio::try_map(0, 16).is_none());
        assert!(Mmio::try_map(u64::MAX, 16).is_none());
        let regs = Mmio::map(0x1000, 16);
        regs.write32(4, 0x8765_4321);
        regs.write8(5, 0xff);
        assert_eq!(regs.read64(0), 0x8765_ff21_0000_0000);
        let part = regs.window(4, 12).unwrap();
        assert_eq!((part.read16(0), part.physical()), (0xff21, 0x1004));
        assert!(regs.window(8, 9).is_none());
        assert!(regs.window(usize::MAX, 2).is_none());
    }

    #[test]
    #[should_panic(expected = "outside its window")]
    fn an_access_across_the_end_panics() {
        set_mapper(leak);
        let _ = Mmio::map(0x1000, 6).read32(4);
    }
}
