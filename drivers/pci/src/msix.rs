//! Message interrupts: MSI-X (PCI Local Bus 3.0, 6.8.2).
//!
//! The table is 16 bytes for each entry: address low, address high, data, vector control (bit 0 masks).

use hal::{Mmio, Registers};

use crate::{Function, PciError};

const CAPABILITY: u8 = 0x11;
const ENTRY_BYTES: usize = 16;
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;

/// The message interrupts of one function.
pub struct Msix<R = Mmio> {
    function: Function,
    capability: u16,
    table: R,
    entries: u16,
}

impl Msix {
    /// Finds the function's table and masks all of its entries. The interrupts stay off until
    /// [`enable`](Self::enable).
    ///
    /// # Errors
    /// [`PciError::NoMsix`] when there is none, or the errors of [`Function::map_bar`].
    pub fn new(function: &Function) -> Result<Self, PciError> {
        let place = Place::find(function)?;
        let table = function
            .map_bar(place.bar)?
            .window(place.offset, place.bytes())
            .ok_or(PciError::NoMsix)?;
        Ok(Self::with_table(function, place, table))
    }
}

impl<R: Registers> Msix<R> {
    fn with_table(function: &Function, place: Place, table: R) -> Self {
        let msix = Self {
            function: function.clone(),
            capability: place.capability,
            table,
            entries: place.entries,
        };
        // The table is memory of the function, which must answer there; nothing may be sent before all are masked.
        function.set_command(function.command() | crate::Command::MEMORY);
        msix.control(MASK_ALL, ENABLE);
        for entry in 0..msix.entries {
            msix.mask(entry);
        }
        msix
    }

    /// Number of entries, at least 1.
    #[must_use]
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Sends `message` (address and data, as `hal::irq::Vector::msi_message` gives them) for `entry` from now on.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn route(&self, entry: u16, message: (u64, u32)) {
        self.mask(entry);
        let at = usize::from(entry) * ENTRY_BYTES;
        self.table.write32(at, message.0 as u32);
        self.table.write32(at + 4, (message.0 >> 32) as u32);
        self.table.write32(at + 8, message.1);
        self.table.write32(at + 12, 0);
    }

    /// Holds the interrupts of `entry` back.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn mask(&self, entry: u16) {
        assert!(entry < self.entries, "no such MSI-X entry");
        self.table.write32(usize::from(entry) * ENTRY_BYTES + 12, 1);
    }

    /// Turns message interrupts on.
    pub fn enable(&self) {
        self.control(ENABLE, MASK_ALL);
    }

    /// Turns message interrupts off.
    pub fn disable(&self) {
        self.control(0, ENABLE);
    }

    fn control(&self, set: u32, clear: u32) {
        let held = self.function.read32(self.capability);
        self.function.write32(self.capability, held & !clear | set);
    }
}

/// Where the table of a function lies.
struct Place {
    capability: u16,
    bar: u8,
    offset: usize,
    entries: u16,
}

impl Place {
    fn find(function: &Function) -> Result<Self, PciError> {
        let capability = function
            .capabilities(CAPABILITY)
            .next()
            .ok_or(PciError::NoMsix)?;
        let table = function.read32(capability + 4);
        Ok(Self {
            capability,
            bar: (table & 7) as u8,
            offset: (table & !7) as usize,
            entries: (function.read16(capability + 2) & 0x7ff) + 1,
        })
    }

    fn bytes(&self) -> usize {
        usize::from(self.entries) * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use crate::fake::{FakeConfig, FakeFunction};
    use hal::fake::FakeRegisters;

    #[test]
    fn entries_start_masked_and_are_routed_one_by_one() {
        let config = FakeConfig::default();
        let address = Address::new(0, 4, 0);
        config.insert(address, FakeFunction::device(0x1b36, 0x10, 0x0108_0200));
        config.set(address, 0x04, 0x0010_0000);
        config.set(address, 0x34, 0x40);
        config.set(address, 0x40, 0x8002_0011);
        config.set(address, 0x44, 0x2004);
        let function = config.function(address);
        let place = Place::find(&function).unwrap();
        assert_eq!((place.bar, place.offset, place.bytes()), (4, 0x2000, 48));
        let msix = Msix::with_table(&function, place, FakeRegisters::new(48));
        assert_eq!(function.read32(0x40), 0x4002_0011, "off and masked");
        assert_eq!([12, 28, 44].map(|at| msix.table.get(at)), [1; 3]);
        msix.route(1, (0x1_fee0_0000, 0x31));
        let entry = [16, 20, 24, 28].map(|at| msix.table.get(at));
        assert_eq!(entry, [0xfee0_0000, 1, 0x31, 0]);
        msix.enable();
        assert_eq!(function.read32(0x40), 0x8002_0011);
        msix.disable();
        assert_eq!(function.read32(0x40), 0x0002_0011);
    }

    #[test]
    fn a_function_without_it_is_refused() {
        let config = FakeConfig::default();
        let address = Address::new(0, 4, 0);
        config.insert(address, FakeFunction::device(0x1b36, 0x10, 0x0108_0200));
        let refused = Msix::new(&config.function(address)).err();
        assert_eq!(refused, Some(PciError::NoMsix));
    }
}
