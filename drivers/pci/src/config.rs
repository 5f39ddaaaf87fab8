//! Access to the configuration space, and the memory-mapped way.

use alloc::rc::Rc;

use hal::{Mmio, Registers, acpi};

use crate::{Address, Ports};

/// A way to the configuration space of all functions.
///
/// Functions that do not exist, and offsets that a mechanism does not reach, read as all ones and ignore writes.
pub trait ConfigAccess {
    /// Reads 32 bits at `offset` (a multiple of 4).
    fn read32(&self, address: Address, offset: u16) -> u32;

    /// Writes 32 bits at `offset` (a multiple of 4).
    fn write32(&self, address: Address, offset: u16, value: u32);

    /// Bytes of configuration space that each function has here: 4096, or 256 without extended space.
    fn space(&self) -> u16;
}

/// The best access to this machine's first segment: memory-mapped where firmware says so, else by ports.
#[must_use]
pub fn config_access() -> Rc<dyn ConfigAccess> {
    let windows = acpi::facts().ecam;
    // Enumeration begins at bus 0, so a window without it is of no use.
    let window = windows
        .iter()
        .find(|it| it.segment == 0 && it.bus_first == 0);
    match window.and_then(|it| Ecam::map(it.base, it.bus_first, it.bus_last)) {
        Some(ecam) => Rc::new(ecam),
        None => Rc::new(Ports),
    }
}

/// Bytes of extended configuration space per function.
const SPACE: u16 = 4096;

/// The enhanced configuration access mechanism: 4 KiB of memory for each function (PCI Express Base, 7.2.2).
pub struct Ecam<R = Mmio> {
    window: R,
    first_bus: u8,
    last_bus: u8,
}

impl Ecam {
    /// Maps the space of the buses from `first_bus` to `last_bus`, as listed by the ACPI table MCFG.
    ///
    /// `base` is the table's own field: the address of bus 0, even when `first_bus` is another one.
    #[must_use]
    pub fn map(base: u64, first_bus: u8, last_bus: u8) -> Option<Self> {
        let buses = usize::from(last_bus.checked_sub(first_bus)?) + 1;
        let start = base.checked_add(u64::from(first_bus) << 20)?;
        let window = Mmio::try_map(start, buses << 20)?;
        Some(Self::new(window, first_bus, last_bus))
    }
}

impl<R: Registers> Ecam<R> {
    /// Uses `window`, which begins with function 0 of device 0 of `first_bus`.
    #[must_use]
    pub fn new(window: R, first_bus: u8, last_bus: u8) -> Self {
        Self {
            window,
            first_bus,
            last_bus,
        }
    }

    fn place(&self, address: Address, offset: u16) -> Option<usize> {
        let known = (self.first_bus..=self.last_bus).contains(&address.bus) && offset < SPACE;
        let first = usize::from(self.first_bus) << 20;
        known.then(|| (usize::from(address.number()) << 12) - first + usize::from(offset & !3))
    }
}

impl<R: Registers> ConfigAccess for Ecam<R> {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        self.place(address, offset)
            .map_or(u32::MAX, |place| self.window.read32(place))
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if let Some(place) = self.place(address, offset) {
            self.window.write32(place, value);
        }
    }

    fn space(&self) -> u16 {
        SPACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::fake::{Access, FakeRegisters};

    #[test]
    fn each_function_has_its_page_and_unknown_buses_are_empty() {
        let ecam = Ecam::new(FakeRegisters::new(2 << 20), 4, 5);
        ecam.write32(Address::new(5, 3, 1), 0x104, 9);
        let place = 1 << 20 | 3 << 15 | 1 << 12 | 0x104;
        assert_eq!(ecam.window.take_log(), [Access::Write(place, 9)]);
        assert_eq!(ecam.read32(Address::new(5, 3, 1), 0x104), 9);
        assert_eq!(ecam.read32(Address::new(3, 0, 0), 0), u32::MAX);
        assert_eq!(ecam.read32(Address::new(6, 0, 0), 0), u32::MAX);
        assert_eq!(ecam.read32(Address::new(4, 0, 0), 4096), u32::MAX);
    }
}
