//! x86 I/O ports.
//!
//! Trusted here: whoever names a port owns the device behind it. Ports that start DMA are not contained by this door.

use core::arch::asm;

/// Reads a byte from `port`.
#[must_use]
pub fn read8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: an I/O instruction touches no memory of ours; see the module doc for what is trusted.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads 16 bits from `port`.
#[must_use]
pub fn read16(port: u16) -> u16 {
    let value: u16;
    // SAFETY: as in `read8`.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads 32 bits from `port`.
#[must_use]
pub fn read32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as in `read8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes a byte to `port`.
pub fn write8(port: u16, value: u8) {
    // SAFETY: as in `read8`.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// Writes 16 bits to `port`.
pub fn write16(port: u16, value: u16) {
    // SAFETY: as in `read8`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    }
}

/// Writes 32 bits to `port`.
pub fn write32(port: u16, value: u32) {
    // SAFETY: as in `read8`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    }
}
