//! virtio network, block and entropy devices.
//!
//! Each driver speaks to its device through a [`Transport`] (PCI on the machine, a device in software in tests) and
//! one or two [`queue::Queue`]s. `virtio-drivers` finds the structures of a PCI device and reads and writes its
//! configuration; the rings are ours, because they must carry many requests at a time, of memory that is not copied,
//! and mistrust the device.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod blk;
mod entropy;
mod net;
mod offload;
mod pci;
pub mod queue;
mod transport;

#[cfg(test)]
mod fake;

pub use blk::{BlkConfig, BlkDisk};
pub use entropy::EntropySource;
pub use net::{NetConfig, NetLink};
pub use pci::{DeviceType, PciDevice, device_type};
pub use transport::{DeviceStatus, RingAddresses, Transport, VirtioError};
