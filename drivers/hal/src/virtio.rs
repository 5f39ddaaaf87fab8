//! The door for `virtio-drivers`: its PCI transport, over our configuration space and our mapper.
//!
//! Trusted here: what [`crate::mmio`] trusts of the mapper. The caller must have seen that the capabilities of the
//! function point inside its BARs. The transport's registers may also be reached through an [`Mmio`](crate::Mmio) of
//! the same BAR; both sides use volatile accesses only, so neither is a reference that the other could break.

use alloc::alloc::{dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
pub use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::dma::{DmaBuf, PAGE_SIZE};
use crate::mmio::Mmio;

/// The configuration space of one PCI function. Clones refer to the same one.
pub trait ConfigSpace: Clone {
    /// Bus, device below 32, function below 8.
    fn place(&self) -> (u8, u8, u8);

    /// Reads 32 bits at `offset`, a multiple of 4.
    fn read32(&self, offset: u8) -> u32;

    /// Writes 32 bits at `offset`, a multiple of 4.
    fn write32(&self, offset: u8, value: u32);
}

/// Opens the virtio device at `space`, whose BARs have addresses and whose memory is switched on.
///
/// # Errors
/// When it is not a modern virtio device.
pub fn open(space: impl ConfigSpace) -> Result<PciTransport, VirtioPciError> {
    let (bus, device, function) = space.place();
    let place = DeviceFunction {
        bus,
        device,
        function,
    };
    PciTransport::new::<Memory, _>(&mut PciRoot::new(Access(space)), place)
}

/// A configuration space as `virtio-drivers` wants it. It holds one function, so the place is not looked at.
struct Access<S>(S);

impl<S: ConfigSpace> ConfigurationAccess for Access<S> {
    fn read_word(&self, _: DeviceFunction, offset: u8) -> u32 {
        self.0.read32(offset)
    }

    fn write_word(&mut self, _: DeviceFunction, offset: u8, data: u32) {
        self.0.write32(offset, data);
    }

    // SAFETY: nothing to uphold here; clones of a `ConfigSpace` are safe to use side by side.
    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Memory as `virtio-drivers` wants it: mapped one to one.
struct Memory;

// SAFETY: (1) `dma_alloc` returns the zeroed, page-aligned memory of a `DmaBuf` that is given up, so nothing else
// refers to it until `dma_dealloc`; (2) `mmio_phys_to_virt` returns what the trusted mapper returned, or panics;
// (3) memory is mapped one to one, so sharing is naming the address.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let buf = DmaBuf::new(pages);
        let address = buf.device_address();
        buf.leak();
        let Some(base) = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))
        else {
            handle_alloc_error(layout(pages))
        };
        (address, base)
    }

    // SAFETY: callers pass what `dma_alloc` returned.
    unsafe fn dma_dealloc(_: PhysAddr, base: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the memory of a `DmaBuf` comes from the global allocator with this layout.
        unsafe { dealloc(base.as_ptr(), layout(pages)) };
        0
    }

    // SAFETY: callers pass a range inside a BAR.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        Mmio::map(address, size).base()
    }

    // SAFETY: nothing to uphold here; naming an address is harmless.
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>().expose_provenance() as PhysAddr
    }

    // SAFETY: nothing to uphold here; there is nothing to undo.
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn layout(pages: usize) -> Layout {
    let bytes = pages.saturating_mul(PAGE_SIZE);
    Layout::from_size_align(bytes, PAGE_SIZE)
        .unwrap_or_else(|_| panic!("a DMA buffer larger than memory"))
}
