//! PCI enumeration, BARs, capabilities, MSI-X.
//!
//! Words introduced here:
//! - **[`Address`]**: bus, device and function of a function, printed `00:03.0`;
//! - **[`ConfigAccess`]**: a way to the configuration space, memory-mapped ([`Ecam`]) or by ports ([`Ports`]);
//! - **[`Function`]**: one function found by [`enumerate()`], the thing a driver is given;
//! - **[`Slot`]**: where functions are plugged in and pulled out.
//!
//! Firmware numbers the buses and places the BARs; nothing here moves what it placed. A function that was plugged in
//! afterwards has no place yet, and [`Function::assign`] gives it one inside the window of the bridge above it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod assign;
mod bar;
mod config;
mod enumerate;
#[cfg(test)]
mod fake;
mod function;
mod msix;
mod ports;
mod slot;

pub use address::Address;
pub use bar::Bar;
pub use config::{ConfigAccess, Ecam, config_access};
pub use enumerate::enumerate;
pub use function::{Class, Command, Function, PciError};
pub use msix::Msix;
pub use ports::Ports;
pub use slot::Slot;
