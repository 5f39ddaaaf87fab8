//! One function: identity, command register, BARs, capabilities.

use alloc::rc::Rc;
use core::fmt;

use bitflags::bitflags;
use hal::Mmio;

use crate::bar::{self, BARS_MAX};
use crate::{Address, Bar, ConfigAccess};

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const HEADER_TYPE: u16 = 0x0e;
const CAPABILITIES: u16 = 0x34;
const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;
/// A list of capabilities longer than the space for them is a loop.
const CAPABILITIES_MAX: usize = (256 - 64) / 4;

bitflags! {
    /// The command register (PCI Local Bus 3.0, 6.2.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// Answers at its port BARs.
        const PORTS = 1 << 0;
        /// Answers at its memory BARs.
        const MEMORY = 1 << 1;
        /// May read and write memory by itself, and send message interrupts.
        const BUS_MASTER = 1 << 2;
        /// Must not use its interrupt pin.
        const PIN_INTERRUPT_OFF = 1 << 10;
        const _ = !0;
    }
}

/// What a function is: base class, sub-class, programming interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub u8, pub u8, pub u8);

impl Class {
    /// An NVMe controller.
    pub const NVME: Self = Self(0x01, 0x08, 0x02);
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// The function has no such BAR, or it is not memory.
    NoBar(u8),
    /// Nobody has given the BAR an address.
    Unassigned(u8),
    /// The memory of the BAR cannot be mapped.
    Unmappable(u8),
    /// The windows of the bridge above have no room for the BAR.
    NoRoom(u8),
    /// The function has no MSI-X, or its description lies outside its BAR.
    NoMsix,
    /// The function does not answer any more.
    Gone,
}

impl fmt::Display for PciError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBar(index) => write!(out, "no memory BAR {index}"),
            Self::Unassigned(index) => write!(out, "BAR {index} has no address"),
            Self::Unmappable(index) => write!(out, "BAR {index} cannot be mapped"),
            Self::NoRoom(index) => write!(out, "no room for BAR {index} behind its bridge"),
            Self::NoMsix => out.write_str("no usable MSI-X"),
            Self::Gone => out.write_str("not there any more"),
        }
    }
}

impl core::error::Error for PciError {}

/// A function of a PCI device. Clones refer to the same one.
#[derive(Clone)]
pub struct Function {
    config: Rc<dyn ConfigAccess>,
    address: Address,
    /// The bridge above, or none on a root bus.
    bridge: Option<Address>,
    vendor: u16,
    device: u16,
    class: Class,
}

impl Function {
    /// Looks for a function at `address`, behind `bridge` if there is one above.
    #[must_use]
    pub fn find(
        config: &Rc<dyn ConfigAccess>,
        address: Address,
        bridge: Option<Address>,
    ) -> Option<Self> {
        let id = config.read32(address, 0);
        // A function that is still starting answers with vendor 1 (configuration retry); it is not there yet.
        if matches!(id & 0xffff, 0xffff | 0 | 1) {
            return None;
        }
        let [_, interface, sub, base] = config.read32(address, 0x08).to_le_bytes();
        Some(Self {
            config: config.clone(),
            address,
            bridge,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class: Class(base, sub, interface),
        })
    }

    /// Where it sits.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// The bridge above it; none on a root bus.
    #[must_use]
    pub fn bridge(&self) -> Option<Address> {
        self.bridge
    }

    /// Vendor number.
    #[must_use]
    pub fn vendor(&self) -> u16 {
        self.vendor
    }

    /// Device number, as the vendor gives them.
    #[must_use]
    pub fn device(&self) -> u16 {
        self.device
    }

    /// What it is.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether it is a bridge to another bus, and which one: its number is 0 when nobody has numbered it.
    #[must_use]
    pub fn secondary_bus(&self) -> Option<u8> {
        (self.read8(HEADER_TYPE) & 0x7f == 1).then(|| self.read8(0x19))
    }

    /// Whether the device has further functions.
    #[must_use]
    pub(crate) fn has_siblings(&self) -> bool {
        self.read8(HEADER_TYPE) & 0x80 != 0
    }

    /// Whether it still answers.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.read32(0) == u32::from(self.device) << 16 | u32::from(self.vendor)
    }

    /// The access it was found through.
    #[must_use]
    pub fn config(&self) -> &Rc<dyn ConfigAccess> {
        &self.config
    }

    /// Reads 8 bits of its configuration space.
    #[must_use]
    pub fn read8(&self, offset: u16) -> u8 {
        self.read32(offset & !3).to_le_bytes()[usize::from(offset & 3)]
    }

    /// Reads 16 bits of its configuration space; `offset` is a multiple of 2.
    #[must_use]
    pub fn read16(&self, offset: u16) -> u16 {
        (self.read32(offset & !3) >> (8 * (offset & 2))) as u16
    }

    /// Reads 32 bits of its configuration space; `offset` is a multiple of 4.
    #[must_use]
    pub fn read32(&self, offset: u16) -> u32 {
        self.config.read32(self.address, offset)
    }

    /// Writes 32 bits of its configuration space; `offset` is a multiple of 4.
    pub fn write32(&self, offset: u16, value: u32) {
        self.config.write32(self.address, offset, value);
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_bits_retain(self.read16(COMMAND))
    }

    /// Sets the command register.
    pub fn set_command(&self, command: Command) {
        // The upper half is the status register, whose bits are cleared by writing ones: zeros leave it alone.
        self.write32(COMMAND, command.bits().into());
    }

    /// Lets it answer at its memory BARs and read and write memory by itself; its interrupt pin is turned off.
    pub fn enable(&self) {
        self.set_command(
            self.command() | Command::MEMORY | Command::BUS_MASTER | Command::PIN_INTERRUPT_OFF,
        );
    }

    /// Allows or forbids it to read and write memory by itself and to send message interrupts.
    pub fn set_bus_master(&self, allowed: bool) {
        let mut command = self.command();
        command.set(Command::BUS_MASTER, allowed);
        self.set_command(command);
    }

    /// Its BARs with their sizes, by index. The second register of a wide one is `None`.
    ///
    /// Decoding is off for a moment, so the driver must not be using the function.
    #[must_use]
    pub fn bars(&self) -> [Option<Bar>; BARS_MAX as usize] {
        let command = self.command();
        self.set_command(command - Command::MEMORY - Command::PORTS);
        let count = if self.secondary_bus().is_some() {
            2
        } else {
            BARS_MAX
        };
        let mut bars = [None; BARS_MAX as usize];
        let mut index = 0;
        while index < count {
            let bar = bar::measure(self, index);
            bars[usize::from(index)] = bar;
            index += match bar {
                Some(Bar::Memory { wide: true, .. }) => 2,
                _ => 1,
            };
        }
        self.set_command(command);
        bars
    }

    /// Maps the memory of BAR `index`. Call [`enable`](Self::enable) before using it.
    ///
    /// # Errors
    /// When there is no such BAR, or it has no usable address.
    pub fn map_bar(&self, index: u8) -> Result<Mmio, PciError> {
        let bar = self.bars().get(usize::from(index)).copied().flatten();
        match bar {
            Some(Bar::Memory { address: 0, .. }) => Err(PciError::Unassigned(index)),
            Some(Bar::Memory { address, size, .. }) => usize::try_from(size)
                .ok()
                .and_then(|size| Mmio::try_map(address, size))
                .ok_or(PciError::Unmappable(index)),
            _ => Err(PciError::NoBar(index)),
        }
    }

    /// Offsets of its capabilities with the number `id`, in the order of the list.
    pub fn capabilities(&self, id: u8) -> impl Iterator<Item = u16> + '_ {
        let listed = self.read16(STATUS) & STATUS_HAS_CAPABILITIES != 0;
        let mut next = if listed { self.read8(CAPABILITIES) } else { 0 };
        core::iter::from_fn(move || {
            // Capabilities lie behind the 64 bytes of the header.
            let at = next & !3;
            (at >= 0x40).then(|| {
                next = self.read8(u16::from(at) + 1);
                u16::from(at)
            })
        })
        .take(CAPABILITIES_MAX)
        .filter(move |at| self.read8(*at) == id)
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {:04x}:{:04x} class {}",
            self.address, self.vendor, self.device, self.class
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeConfig, FakeFunction};
    use alloc::vec::Vec;

    fn nvme() -> (FakeConfig, Function) {
        let config = FakeConfig::default();
        let address = Address::new(0, 4, 0);
        config.insert(address, FakeFunction::device(0x1b36, 0x10, 0x0108_0200));
        (config.clone(), config.function(address))
    }

    #[test]
    fn identity_and_command() {
        let (config, function) = nvme();
        assert_eq!(function.class(), Class::NVME);
        assert_eq!((function.vendor(), function.device()), (0x1b36, 0x10));
        function.write32(COMMAND, 0xffff_0000 | 1 << 8);
        function.enable();
        let on = Command::MEMORY | Command::BUS_MASTER | Command::PIN_INTERRUPT_OFF;
        assert_eq!(function.command(), on | Command::from_bits_retain(1 << 8));
        function.set_bus_master(false);
        assert!(!function.command().contains(Command::BUS_MASTER));
        assert!(function.is_present());
        config.remove(function.address());
        assert!(!function.is_present());
    }

    #[test]
    fn capabilities_are_found_and_a_loop_ends() {
        let (config, function) = nvme();
        config.set(function.address(), 0x04, 0x0010_0000);
        config.set(function.address(), 0x34, 0x40);
        config.set(function.address(), 0x40, 0x0000_8011);
        config.set(function.address(), 0x80, 0x0000_6005);
        config.set(function.address(), 0x60, 0x0000_0011);
        assert_eq!(
            function.capabilities(0x11).collect::<Vec<_>>(),
            [0x40, 0x60]
        );
        config.set(function.address(), 0x60, 0x0000_4011);
        assert!(function.capabilities(0x11).count() > 2);
        assert_eq!(function.capabilities(0x10).count(), 0);
    }
}
