//! PCI configuration space of bus 0 through ports 0xCF8 and 0xCFC: just enough for watchdogs and the reset register.
//! Devices that are driven are found by the `pci` crate.

use crate::port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

fn select(device: u8, function: u8, offset: u8) -> u16 {
    let place = u32::from(device) << 11 | u32::from(function) << 8 | u32::from(offset & !3);
    port::write32(ADDRESS, 1 << 31 | place);
    DATA + u16::from(offset & 3)
}

/// Reads 32 bits at a multiple of 4; all ones where there is no function.
pub fn read32(device: u8, function: u8, offset: u8) -> u32 {
    port::read32(select(device, function, offset))
}

/// Writes a byte.
pub fn write8(device: u8, function: u8, offset: u8, value: u8) {
    port::write8(select(device, function, offset), value);
}

/// Writes 16 bits at a multiple of 2.
pub fn write16(device: u8, function: u8, offset: u8, value: u16) {
    port::write16(select(device, function, offset), value);
}

/// Device and function of the first function on bus 0 that `wanted` accepts by vendor and device id.
pub fn find(wanted: impl Fn(u16, u16) -> bool) -> Option<(u8, u8)> {
    (0..32)
        .flat_map(|device| (0..8).map(move |function| (device, function)))
        .find(|&(device, function)| {
            let id = read32(device, function, 0);
            wanted(id as u16, (id >> 16) as u16)
        })
}
