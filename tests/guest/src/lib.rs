//! The real image in QEMU with real clients.

pub mod linux;
