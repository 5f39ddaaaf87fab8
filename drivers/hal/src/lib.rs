//! The only door to memory, ports and instructions.
//!
//! Everything here is a safe object around something that is not: a checked window of registers ([`Mmio`]), memory
//! that devices use ([`dma::DmaBuf`]), and so on. It knows no other room of the house, and all of it compiles on a
//! host, where tests use `fake` devices and nothing that needs ring 0 is called.

#![no_std]

extern crate alloc;

pub mod acpi;
pub mod clock;
pub mod cpu;
pub mod crash;
pub mod dma;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod fw_cfg;
pub mod heap;
pub mod irq;
pub mod log;
pub mod mmio;
mod pci_config;
pub mod port;
pub mod power;
pub mod reg;
pub mod serial;
pub mod virtio;
pub mod watchdog;

pub use mmio::{Mmio, set_mapper};
pub use reg::{ReadOnly, ReadWrite, Readable, Reg, Registers, Value, Writable, WriteOnly};
