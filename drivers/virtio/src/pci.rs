//! virtio devices on PCI (virtio 1.2, 4.1), modern interface only.
//!
//! `virtio-drivers` finds the structures and sets up queues. What it leaves out is here: the interrupt vector of each
//! queue, doorbells that cost one access instead of three, and a look at the capabilities before anything trusts them.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;

use hal::{Mmio, Registers};
use log::warn;
use pci::{Bar, Function, Msix};
pub use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::Transport as _;
use virtio_drivers::transport::pci::bus::{DeviceFunctionInfo, HeaderType};
use virtio_drivers::transport::pci::{
    PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CAP_ISR_CFG,
    VIRTIO_PCI_CAP_NOTIFY_CFG, virtio_device_type,
};

use crate::transport::{DeviceStatus, RingAddresses, Transport, VirtioError};

const CAPABILITY_VENDOR: u8 = 0x09;
/// Offsets in a virtio capability (4.1.4).
const CAP_LENGTH: u16 = 2;
const CAP_TYPE: u16 = 3;
const CAP_BAR: u16 = 4;
const CAP_OFFSET: u16 = 8;
const CAP_SIZE: u16 = 12;
const CAP_NOTIFY_MULTIPLIER: u16 = 16;

/// Offsets in the common configuration (4.1.4.3).
const QUEUE_SELECT: usize = 0x16;
const QUEUE_MSIX_VECTOR: usize = 0x1a;
const QUEUE_NOTIFY_OFF: usize = 0x1e;

const NO_VECTOR: u16 = 0xffff;
/// All queues of a device share this entry of its MSI-X table: handlers only count, and the loop polls all queues.
const VECTOR: u16 = 0;

/// What kind of virtio device `function` is, or `None` when it is not one.
#[must_use]
pub fn device_type(function: &Function) -> Option<DeviceType> {
    virtio_device_type(&DeviceFunctionInfo {
        vendor_id: function.vendor(),
        device_id: function.device(),
        class: function.class().0,
        subclass: function.class().1,
        prog_if: function.class().2,
        revision: function.read8(8),
        header_type: HeaderType::Standard,
    })
}

/// A virtio device on PCI.
pub struct PciDevice {
    function: Function,
    /// Never dropped: its own destructor waits without bound for a device that may be gone. Drivers reset instead.
    transport: ManuallyDrop<PciTransport>,
    common: Mmio,
    notify: Mmio,
    notify_multiplier: usize,
    /// Offsets of the queues' doorbells.
    doorbells: Vec<usize>,
    msix: Option<Msix>,
}

impl PciDevice {
    /// Takes over `function` and routes its interrupts to `message` (address and data); without one, or without
    /// MSI-X, the device has to be polled.
    ///
    /// # Errors
    /// [`VirtioError::Unknown`] when it is no modern virtio device or its capabilities point outside its BARs.
    pub fn open(function: &Function, message: Option<(u64, u32)>) -> Result<Self, VirtioError> {
        function.enable();
        let structures = Structures::find(function).ok_or(VirtioError::Unknown)?;
        let map = |place: Place| {
            let bar = function.map_bar(place.bar).ok()?;
            bar.window(place.offset, place.size)
        };
        let transport = hal::virtio::open(ConfigSpace(function.clone())).map_err(|error| {
            warn!("virtio at {}: {error}", function.address());
            VirtioError::Unknown
        })?;
        // Guarded before the first `?`, so that no destructor runs.
        let transport = ManuallyDrop::new(transport);
        let msix = message.and_then(|message| {
            let msix = Msix::new(function).ok()?;
            msix.route(VECTOR, message);
            msix.enable();
            Some(msix)
        });
        if message.is_some() && msix.is_none() {
            warn!("virtio at {}: no message interrupts", function.address());
        }
        Ok(Self {
            common: map(structures.common).ok_or(VirtioError::Unknown)?,
            notify: map(structures.notify).ok_or(VirtioError::Unknown)?,
            notify_multiplier: structures.notify_multiplier,
            function: function.clone(),
            transport,
            doorbells: Vec::new(),
            msix,
        })
    }

    /// The function it sits on.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Whether it raises interrupts; otherwise it has to be polled.
    #[must_use]
    pub fn has_interrupts(&self) -> bool {
        self.msix.is_some()
    }
}

impl Transport for PciDevice {
    fn device_features(&mut self) -> u64 {
        self.transport.read_device_features()
    }

    fn set_driver_features(&mut self, features: u64) {
        self.transport.write_driver_features(features);
    }

    fn status(&self) -> DeviceStatus {
        self.transport.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.transport.set_status(status);
    }

    fn queue_size_max(&mut self, queue: u16) -> u16 {
        // A device that is gone answers all ones here.
        let size = self.transport.max_queue_size(queue);
        u16::try_from(size).unwrap_or(0)
    }

    fn set_queue(
        &mut self,
        queue: u16,
        size: u16,
        rings: RingAddresses,
    ) -> Result<(), VirtioError> {
        self.common.write16(QUEUE_SELECT, queue);
        if self.msix.is_some() {
            self.common.write16(QUEUE_MSIX_VECTOR, VECTOR);
            if self.common.read16(QUEUE_MSIX_VECTOR) == NO_VECTOR {
                return Err(VirtioError::Refused);
            }
        }
        let bell = usize::from(self.common.read16(QUEUE_NOTIFY_OFF)) * self.notify_multiplier;
        if self.notify.window(bell, 2).is_none() {
            return Err(VirtioError::Refused);
        }
        let index = usize::from(queue);
        if self.doorbells.len() <= index {
            self.doorbells.resize(index + 1, 0);
        }
        self.doorbells[index] = bell;
        self.transport.queue_set(
            queue,
            u32::from(size),
            rings.descriptors,
            rings.available,
            rings.used,
        );
        Ok(())
    }

    fn notify(&mut self, queue: u16) {
        self.notify
            .write16(self.doorbells[usize::from(queue)], queue);
    }

    fn config8(&self, offset: usize) -> u8 {
        self.transport.read_config_space(offset).unwrap_or(0)
    }

    fn config16(&self, offset: usize) -> u16 {
        self.transport.read_config_space(offset).unwrap_or(0)
    }

    fn config32(&self, offset: usize) -> u32 {
        self.transport.read_config_space(offset).unwrap_or(0)
    }

    fn config_generation(&self) -> u32 {
        self.transport.read_config_generation()
    }
}

/// The configuration space of one function, for `virtio-drivers`.
#[derive(Clone)]
struct ConfigSpace(Function);

impl hal::virtio::ConfigSpace for ConfigSpace {
    fn place(&self) -> (u8, u8, u8) {
        let address = self.0.address();
        (address.bus, address.device, address.function)
    }

    fn read32(&self, offset: u8) -> u32 {
        self.0.read32(offset.into())
    }

    fn write32(&self, offset: u8, value: u32) {
        self.0.write32(offset.into(), value);
    }
}

/// A structure within a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: usize,
    size: usize,
}

/// The structures we touch ourselves.
#[derive(Debug, PartialEq, Eq)]
struct Structures {
    common: Place,
    notify: Place,
    notify_multiplier: usize,
}

impl Structures {
    /// Finds the structures; `None` unless the first of each kind, which is the one in use, lies inside its BAR.
    fn find(function: &Function) -> Option<Self> {
        let bars = function.bars();
        let (mut common, mut notify, mut seen) = (None, None, [false; 5]);
        for at in function.capabilities(CAPABILITY_VENDOR) {
            let kind = function.read8(at + CAP_TYPE);
            let known = matches!(
                kind,
                VIRTIO_PCI_CAP_COMMON_CFG
                    | VIRTIO_PCI_CAP_NOTIFY_CFG
                    | VIRTIO_PCI_CAP_ISR_CFG
                    | VIRTIO_PCI_CAP_DEVICE_CFG
            );
            if !known || function.read8(at + CAP_LENGTH) < 16 {
                continue;
            }
            if core::mem::replace(&mut seen[usize::from(kind)], true) {
                continue;
            }
            let place = read_place(function, at, &bars)?;
            match kind {
                VIRTIO_PCI_CAP_COMMON_CFG => common = Some(place),
                VIRTIO_PCI_CAP_NOTIFY_CFG => {
                    notify = Some((place, function.read32(at + CAP_NOTIFY_MULTIPLIER)));
                }
                _ => {}
            }
        }
        let (notify, multiplier) = notify?;
        Some(Self {
            common: common?,
            notify,
            notify_multiplier: multiplier as usize,
        })
    }
}

fn read_place(function: &Function, at: u16, bars: &[Option<Bar>]) -> Option<Place> {
    let bar = function.read8(at + CAP_BAR);
    let (offset, size) = (
        function.read32(at + CAP_OFFSET),
        function.read32(at + CAP_SIZE),
    );
    let Some(Bar::Memory { size: room, .. }) = bars.get(usize::from(bar)).copied().flatten() else {
        return None;
    };
    // The sum must fit 32 bits too: `virtio-drivers` adds them so.
    let end = offset.checked_add(size)?;
    (u64::from(end) <= room).then_some(Place {
        bar,
        offset: offset as usize,
        size: size as usize,
    })
}

#[cfg(test)]
mod tests;
