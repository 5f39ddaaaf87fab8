//! The real image in QEMU with real clients.
