//! Where a function sits.

use core::fmt;

/// Bus, device and function; printed as `00:03.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Bus, as numbered by firmware.
    pub bus: u8,
    /// Device on the bus, below 32.
    pub device: u8,
    /// Function of the device, below 8.
    pub function: u8,
}

impl Address {
    /// The address of a function.
    ///
    /// # Panics
    /// When `device` is not below 32 or `function` not below 8.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        assert!(device < 32 && function < 8, "no such PCI address");
        Self {
            bus,
            device,
            function,
        }
    }

    /// The number both access mechanisms use: bus in bits 8 to 15, device in 3 to 7, function in 0 to 2.
    #[must_use]
    pub(crate) const fn number(self) -> u16 {
        (self.bus as u16) << 8 | (self.device as u16) << 3 | self.function as u16
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bus,
            device,
            function,
        } = self;
        write!(out, "{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn prints_as_people_write_it() {
        assert_eq!(Address::new(0x1a, 0x1f, 7).to_string(), "1a:1f.7");
        assert_eq!(Address::new(0, 3, 0).to_string(), "00:03.0");
    }
}
