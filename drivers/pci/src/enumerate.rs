//! Finding all functions.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::{Address, Command, ConfigAccess, Function};

/// Finds all functions on bus 0 and on every bus behind its bridges, in the order of their addresses per bus.
///
/// Bridges on the way are let pass on what functions behind them send: firmware need not have done that.
///
/// Further root buses are found through the functions of a host bridge with several functions (PCI Local Bus 3.0
/// leaves the rest to firmware tables). A bridge that nobody has numbered is listed, but nothing behind it is.
#[must_use]
pub fn enumerate(config: &Rc<dyn ConfigAccess>) -> Vec<Function> {
    let mut found = Vec::new();
    let mut seen = [false; 256];
    let mut buses = alloc::vec![(0_u8, None)];
    while let Some((bus, bridge)) = buses.pop() {
        // A bus that is reached twice means wrong numbers; every bus is scanned once.
        if core::mem::replace(&mut seen[usize::from(bus)], true) {
            continue;
        }
        for device in 0..32 {
            scan_device(config, bus, device, bridge, &mut found);
        }
        let bridges = found
            .iter()
            .filter(|function| function.address().bus == bus);
        for function in bridges {
            match function.secondary_bus() {
                Some(0) => log::warn!("pci: bridge {} leads to no bus", function.address()),
                Some(secondary) => {
                    function.set_command(function.command() | Command::BUS_MASTER);
                    buses.push((secondary, Some(function.address())));
                }
                None => {}
            }
        }
    }
    found.sort_by_key(Function::address);
    found
}

/// Adds the functions of one device to `found`.
pub(crate) fn scan_device(
    config: &Rc<dyn ConfigAccess>,
    bus: u8,
    device: u8,
    bridge: Option<Address>,
    found: &mut Vec<Function>,
) {
    let Some(first) = Function::find(config, Address::new(bus, device, 0), bridge) else {
        return;
    };
    let functions = if first.has_siblings() { 8 } else { 1 };
    found.push(first);
    found
        .extend((1..functions).filter_map(|number| {
            Function::find(config, Address::new(bus, device, number), bridge)
        }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeConfig, FakeFunction};

    #[test]
    fn functions_behind_bridges_are_found_once() {
        let config = FakeConfig::default();
        let device = || FakeFunction::device(0x1b36, 0x10, 0x0108_0200);
        config.insert(Address::new(0, 3, 0), device());
        config.insert(Address::new(0, 3, 1), device());
        config.insert(Address::new(0, 5, 0), device().with_siblings());
        config.insert(Address::new(0, 5, 7), device());
        config.insert(Address::new(0, 1, 0), FakeFunction::bridge(2));
        config.insert(Address::new(2, 0, 0), FakeFunction::bridge(3));
        config.insert(Address::new(3, 0, 0), device());
        // Bad numbers: a bridge back to the top, and one that is not numbered.
        config.insert(Address::new(3, 1, 0), FakeFunction::bridge(2));
        config.insert(Address::new(3, 2, 0), FakeFunction::bridge(0));
        let access: Rc<dyn ConfigAccess> = Rc::new(config);
        let found: Vec<_> = enumerate(&access)
            .iter()
            .map(|function| (function.address(), function.bridge()))
            .collect();
        let expected = [
            (Address::new(0, 1, 0), None),
            (Address::new(0, 3, 0), None),
            (Address::new(0, 5, 0), None),
            (Address::new(0, 5, 7), None),
            (Address::new(2, 0, 0), Some(Address::new(0, 1, 0))),
            (Address::new(3, 0, 0), Some(Address::new(2, 0, 0))),
            (Address::new(3, 1, 0), Some(Address::new(2, 0, 0))),
            (Address::new(3, 2, 0), Some(Address::new(2, 0, 0))),
        ];
        assert_eq!(found, expected);
        let passes_on = |address| {
            let bridge = Function::find(&access, address, None).unwrap();
            bridge.command().contains(Command::BUS_MASTER)
        };
        assert!(passes_on(Address::new(0, 1, 0)) && passes_on(Address::new(2, 0, 0)));
        assert!(!passes_on(Address::new(3, 2, 0)), "leads nowhere");
    }
}
