//! Access to the configuration space by ports: configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2).

use hal::port;

use crate::{Address, ConfigAccess};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Bytes of configuration space per function that the mechanism reaches.
const SPACE: u16 = 256;

/// The ports 0xCF8 and 0xCFC; for machines without a memory-mapped space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports;

impl Ports {
    fn select(address: Address, offset: u16) -> u32 {
        1 << 31 | u32::from(address.number()) << 8 | u32::from(offset & 0xfc)
    }
}

impl ConfigAccess for Ports {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        if offset >= SPACE {
            return u32::MAX;
        }
        port::write32(ADDRESS, Self::select(address, offset));
        port::read32(DATA)
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if offset < SPACE {
            port::write32(ADDRESS, Self::select(address, offset));
            port::write32(DATA, value);
        }
    }

    fn space(&self) -> u16 {
        SPACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_selected_by_its_number() {
        let selected = Ports::select(Address::new(2, 0x1f, 3), 0x3c);
        assert_eq!(selected, 0x8002_fb3c);
    }
}
