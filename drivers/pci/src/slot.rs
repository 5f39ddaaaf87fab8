//! Slots that functions are plugged into while the machine runs (PCI Express Base 5.0, 6.7 and 7.5.3).
//!
//! ```text
//! empty ── plugged in ──► occupied, off ── power_on ──► link trains ──► functions answer
//!   ▲                                                                        │ button pressed: stop the driver
//!   └────── pulled out ◄── occupied, off ◄── power_off ◄─────────────────────┘
//! ```
//!
//! Nothing interrupts here: whoever owns the slots looks at them a few times a second.

use alloc::vec::Vec;

use crate::enumerate::scan_device;
use crate::{Command, Function};

const CAPABILITY: u8 = 0x10;
const HAS_SLOT: u16 = 1 << 8;
const CAPABILITIES: u16 = 0x14;
const CONTROL_AND_STATUS: u16 = 0x18;

const HAS_POWER_CONTROLLER: u32 = 1 << 1;
const HOT_PLUG: u32 = 1 << 6;

/// The lower half of the word: control.
const POWER_OFF: u32 = 1 << 10;
const POWER_INDICATOR: u32 = 3 << 8;
const POWER_INDICATOR_ON: u32 = 1 << 8;
const POWER_INDICATOR_OFF: u32 = 3 << 8;
/// The upper half: status. Bits that tell of an event are cleared by writing ones.
const BUTTON_PRESSED: u32 = 1 << 16;
const EVENTS: u32 = 0x011f << 16;
const OCCUPIED: u32 = 1 << (16 + 6);

/// A slot below a root port or a switch that functions may come and go in.
#[derive(Clone, Debug)]
pub struct Slot {
    port: Function,
    capability: u16,
    has_power_controller: bool,
}

impl Slot {
    /// The slot below `port`, if it has one for plugging while the machine runs.
    #[must_use]
    pub fn below(port: &Function) -> Option<Self> {
        let capability = port.capabilities(CAPABILITY).next()?;
        let described = port.read32(capability + CAPABILITIES);
        let has_slot = port.read16(capability + 2) & HAS_SLOT != 0;
        (has_slot && described & HOT_PLUG != 0).then(|| Self {
            port: port.clone(),
            capability,
            has_power_controller: described & HAS_POWER_CONTROLLER != 0,
        })
    }

    /// The port above the slot.
    #[must_use]
    pub fn port(&self) -> &Function {
        &self.port
    }

    /// Whether something is plugged in.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        // A port that is gone itself reads as all ones.
        self.port.is_present() && self.read() & OCCUPIED != 0
    }

    /// Whether the slot has power. One without a power controller always has.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.has_power_controller || self.read() & POWER_OFF == 0
    }

    /// Whether somebody has asked, since the last call, to take out what is plugged in (or to use what was plugged in).
    #[must_use]
    pub fn take_button_pressed(&self) -> bool {
        let held = self.read();
        if held & EVENTS != 0 {
            self.write(held);
        }
        self.port.is_present() && held & BUTTON_PRESSED != 0
    }

    /// Gives the slot power. Its functions answer [`functions`](Self::functions) some 100 ms later (6.6.1).
    pub fn power_on(&self) {
        let held = self.read();
        self.write(held & !EVENTS & !POWER_OFF & !POWER_INDICATOR | POWER_INDICATOR_ON);
        self.port
            .set_command(self.port.command() | Command::BUS_MASTER);
    }

    /// Takes the power away. The drivers of its functions must have ended.
    pub fn power_off(&self) {
        let held = self.read();
        self.write(held & !EVENTS & !POWER_INDICATOR | POWER_OFF | POWER_INDICATOR_OFF);
    }

    /// The functions plugged in that answer now.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        // Only device 0 exists below a port (7.3.1). A port that nobody numbered leads nowhere.
        if let Some(bus @ 1..) = self.port.secondary_bus().filter(|_| self.port.is_present()) {
            let bridge = Some(self.port.address());
            scan_device(self.port.config(), bus, 0, bridge, &mut found);
        }
        found
    }

    fn read(&self) -> u32 {
        self.port.read32(self.capability + CONTROL_AND_STATUS)
    }

    fn write(&self, value: u32) {
        self.port
            .write32(self.capability + CONTROL_AND_STATUS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use crate::fake::{FakeConfig, FakeFunction};

    fn port(described: u32) -> (FakeConfig, Function) {
        let config = FakeConfig::default();
        let address = Address::new(0, 1, 0);
        config.insert(
            address,
            FakeFunction::bridge(2).clears_by_ones(0x58, EVENTS),
        );
        config.set(address, 0x04, 0x0010_0000);
        config.set(address, 0x34, 0x40);
        config.set(address, 0x40, 0x0142_0010);
        config.set(address, 0x54, described);
        let port = config.function(address);
        (config, port)
    }

    #[test]
    fn a_function_comes_is_asked_for_and_goes() {
        let (config, port) = port(HOT_PLUG | HAS_POWER_CONTROLLER | 1);
        let at = port.address();
        config.set(at, 0x58, POWER_OFF | POWER_INDICATOR_OFF);
        let slot = Slot::below(&port).unwrap();
        assert!(!slot.is_occupied() && !slot.is_on());
        config.set(at, 0x58, port.read32(0x58) | OCCUPIED);
        assert!(slot.is_occupied());
        slot.power_on();
        assert!(slot.is_on());
        assert_eq!(port.read32(0x58) & POWER_INDICATOR, POWER_INDICATOR_ON);
        config.insert(
            Address::new(2, 0, 0),
            FakeFunction::device(0x1b36, 0x10, 0x0108_0200),
        );
        let functions = slot.functions();
        assert_eq!(functions[0].address(), Address::new(2, 0, 0));
        assert_eq!(functions[0].bridge(), Some(at));
        assert!(!slot.take_button_pressed());
        config.set(at, 0x58, port.read32(0x58) | BUTTON_PRESSED);
        assert!(slot.take_button_pressed());
        assert!(!slot.take_button_pressed(), "told once");
        config.set(at, 0x58, port.read32(0x58) | BUTTON_PRESSED);
        slot.power_off();
        assert!(!slot.is_on());
        assert!(
            slot.take_button_pressed(),
            "an event that came meanwhile is not lost"
        );
        config.remove(at);
        assert!(!slot.is_occupied() && slot.functions().is_empty());
    }

    #[test]
    fn ports_without_hot_plug_are_none() {
        assert!(Slot::below(&port(HAS_POWER_CONTROLLER).1).is_none());
        let (config, port) = port(HOT_PLUG);
        assert!(Slot::below(&port).is_some_and(|slot| slot.is_on()));
        config.set(port.address(), 0x40, 0x0042_0010);
        assert!(Slot::below(&port).is_none());
    }
}
