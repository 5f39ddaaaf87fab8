//! What a driver needs from the bus its device sits on, and the steps every device goes through.
//!
//! Start-up and reset follow virtio 1.2, 3.1.1 and 2.4. All waiting is bounded: a device that does not answer is an
//! error here, never a hang.

use core::fmt;

use log::warn;
pub use virtio_drivers::device::common::Feature;
pub use virtio_drivers::transport::DeviceStatus;

use crate::queue::Queue;

/// How often the status is read before a reset counts as unanswered. Each read leaves the guest, so this is some
/// hundred milliseconds on the machines seen.
const RESET_READS_MAX: u32 = 100_000;

/// Features that each of our drivers understands.
const COMMON_FEATURES: Feature = Feature::VERSION_1
    .union(Feature::RING_INDIRECT_DESC)
    .union(Feature::RING_EVENT_IDX);

/// Where the three rings of a queue are, as device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table, 16 bytes an entry.
    pub descriptors: u64,
    /// The ring the driver writes.
    pub available: u64,
    /// The ring the device writes.
    pub used: u64,
}

/// A virtio device on its bus: registers that are set up once, and one doorbell per queue.
pub trait Transport {
    /// Reads the feature bits the device offers.
    fn device_features(&mut self) -> u64;

    /// Writes the feature bits the driver takes.
    fn set_driver_features(&mut self, features: u64);

    /// Reads the status. A device that was pulled out reads as all ones.
    fn status(&self) -> DeviceStatus;

    /// Writes the status; an empty one starts a reset.
    fn set_status(&mut self, status: DeviceStatus);

    /// Reads the most entries `queue` may have; 0 when there is no such queue.
    fn queue_size_max(&mut self, queue: u16) -> u16;

    /// Tells the device where `queue` is, routes its interrupts and enables it.
    ///
    /// # Errors
    /// [`VirtioError::Refused`] when the device does not take the interrupt vector or has no doorbell for it.
    fn set_queue(&mut self, queue: u16, size: u16, rings: RingAddresses)
    -> Result<(), VirtioError>;

    /// Rings the doorbell of `queue`.
    fn notify(&mut self, queue: u16);

    /// Reads the byte at `offset` of the device's own configuration, or 0 beyond its end.
    fn config8(&self, offset: usize) -> u8;

    /// Reads the aligned 16-bit word at `offset` of the device's own configuration, or 0 beyond its end.
    fn config16(&self, offset: usize) -> u16;

    /// Reads the aligned 32-bit word at `offset` of the device's own configuration, or 0 beyond its end.
    fn config32(&self, offset: usize) -> u32;

    /// Reads the counter that changes whenever the configuration does.
    fn config_generation(&self) -> u32;
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioError {
    /// Not a device this driver knows, or its capabilities make no sense. Leave it alone.
    Unknown,
    /// The device is older than virtio 1.0 or insists on something this driver does not do.
    Refused,
    /// The device did not come out of a reset.
    Stuck,
    /// The device is not there any more.
    Gone,
    /// The device answered with something the standard forbids and was shut down.
    Lied,
}

impl fmt::Display for VirtioError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unknown => "not a virtio device this driver knows",
            Self::Refused => "device and driver cannot agree on features",
            Self::Stuck => "the device does not come out of reset",
            Self::Gone => "the device is gone",
            Self::Lied => "the device broke the protocol",
        })
    }
}

impl core::error::Error for VirtioError {}

/// Whether `status` is what an empty slot reads as.
pub(crate) fn is_gone(status: DeviceStatus) -> bool {
    status == DeviceStatus::all()
}

/// Resets the device and waits for it, boundedly. After `Ok` the device touches no memory.
pub(crate) fn reset<T: Transport>(transport: &mut T) -> Result<(), VirtioError> {
    transport.set_status(DeviceStatus::empty());
    for _ in 0..RESET_READS_MAX {
        let status = transport.status();
        if status.is_empty() {
            return Ok(());
        }
        if is_gone(status) {
            return Err(VirtioError::Gone);
        }
        core::hint::spin_loop();
    }
    Err(VirtioError::Stuck)
}

/// Resets the device and agrees on features: those of `wanted` that it offers, and the common ones.
pub(crate) fn negotiate<T: Transport>(transport: &mut T, wanted: u64) -> Result<u64, VirtioError> {
    reset(transport)?;
    let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(status);
    let features = transport.device_features() & (wanted | COMMON_FEATURES.bits());
    if features & Feature::VERSION_1.bits() == 0 {
        return refuse(transport);
    }
    transport.set_driver_features(features);
    transport.set_status(status | DeviceStatus::FEATURES_OK);
    if !transport.status().contains(DeviceStatus::FEATURES_OK) {
        return refuse(transport);
    }
    Ok(features)
}

fn refuse<T: Transport>(transport: &mut T) -> Result<u64, VirtioError> {
    transport.set_status(DeviceStatus::FAILED);
    Err(VirtioError::Refused)
}

/// Makes queue number `index` of at most `size_limit` entries and tells the device about it.
pub(crate) fn open_queue<T: Transport>(
    transport: &mut T,
    index: u16,
    size_limit: u16,
    segments_max: u16,
    features: u64,
) -> Result<Queue, VirtioError> {
    let offered = transport.queue_size_max(index).min(size_limit);
    if offered == 0 {
        return Err(VirtioError::Refused);
    }
    // Sizes of split rings are powers of two (2.7).
    let size = 1 << offered.ilog2();
    let queue = Queue::new(size, segments_max, Feature::from_bits_truncate(features))
        .ok_or(VirtioError::Refused)?;
    transport.set_queue(index, size, queue.addresses())?;
    Ok(queue)
}

/// Lets the device begin.
pub(crate) fn go<T: Transport>(transport: &mut T) -> Result<(), VirtioError> {
    let ready = DeviceStatus::ACKNOWLEDGE
        | DeviceStatus::DRIVER
        | DeviceStatus::FEATURES_OK
        | DeviceStatus::DRIVER_OK;
    transport.set_status(ready);
    let status = transport.status();
    if is_gone(status) {
        return Err(VirtioError::Gone);
    }
    if status == ready {
        Ok(())
    } else {
        Err(VirtioError::Refused)
    }
}

/// Shuts a device down whose driver goes away. Whether it confirmed: if not, memory it knows must never be reused.
pub(crate) fn shut_down<T: Transport>(transport: &mut T) -> bool {
    let done = reset(transport);
    if let Err(error) = done {
        warn!("virtio: no clean shutdown, its memory is set aside: {error}");
    }
    done.is_ok()
}

/// Reads something of several words from the configuration without tearing (2.5.1).
pub(crate) fn read_config<T: Transport, V>(
    transport: &T,
    read: impl Fn(&T) -> V,
) -> Result<V, VirtioError> {
    /// A configuration that changes more often than this while being read is not real.
    const TRIES_MAX: u32 = 64;
    for _ in 0..TRIES_MAX {
        let before = transport.config_generation();
        let value = read(transport);
        if transport.config_generation() == before {
            return Ok(value);
        }
    }
    Err(VirtioError::Lied)
}

/// Reads the 64-bit word at `offset` of the device's own configuration.
pub(crate) fn config64<T: Transport>(transport: &T, offset: usize) -> u64 {
    u64::from(transport.config32(offset)) | u64::from(transport.config32(offset + 4)) << 32
}
