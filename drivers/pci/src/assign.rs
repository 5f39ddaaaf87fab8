//! Places for functions that were plugged in after firmware had placed the rest.
//!
//! A bridge passes two windows of memory on: one for ordinary BARs, below 4 GiB, and one for prefetchable ones. A BAR
//! gets the lowest free, aligned place in the window of its kind; nothing else behind the bridge moves.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{Address, Bar, Command, Function, PciError, bar};

impl Function {
    /// Gives every memory BAR without an address a place behind the bridge above. Placed BARs stay where they are.
    ///
    /// # Errors
    /// [`PciError::NoRoom`] when the bridge has no window with enough room, and on a root bus, whose windows only
    /// firmware knows.
    pub fn assign(&self) -> Result<(), PciError> {
        let bars = self.bars();
        let mut taken = self.taken_around();
        for (index, bar) in (0_u8..).zip(bars) {
            let Some(Bar::Memory {
                address: 0,
                size,
                prefetchable,
                wide,
            }) = bar
            else {
                continue;
            };
            let windows = self.bridge().map(|bridge| self.windows(bridge));
            let [ordinary, fetched] = windows.ok_or(PciError::NoRoom(index))?;
            // An ordinary window serves any BAR; a prefetchable one only its own kind, and only wide ones high up.
            let reachable = prefetchable && (wide || fetched.end <= 1 << 32);
            let place = reachable
                .then(|| lowest(&fetched, size, &taken))
                .flatten()
                .or_else(|| lowest(&ordinary, size, &taken))
                .ok_or(PciError::NoRoom(index))?;
            taken.push(place..place + size);
            self.write32(bar::offset(index), place as u32);
            if wide {
                self.write32(bar::offset(index + 1), (place >> 32) as u32);
            }
            log::info!("pci: {} BAR {index} placed at {place:#x}", self.address());
        }
        if let Some(bridge) = self.bridge() {
            self.open(bridge);
        }
        Ok(())
    }

    /// Memory of everything on the same bus, and windows of the bridges there.
    fn taken_around(&self) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        for number in 0..=u8::MAX {
            let address = Address::new(self.address().bus, number >> 3, number & 7);
            let Some(other) = Function::find(self.config(), address, self.bridge()) else {
                continue;
            };
            for bar in other.bars().into_iter().flatten() {
                if let Bar::Memory { address, size, .. } = bar
                    && address != 0
                {
                    taken.push(address..address.saturating_add(size));
                }
            }
            if other.secondary_bus().is_some() {
                taken.extend(self.windows(address));
            }
        }
        taken
    }

    /// The windows of `bridge`, ordinary and prefetchable; empty ones pass nothing on (PCI-to-PCI Bridge 1.2, 3.2.5).
    fn windows(&self, bridge: Address) -> [Range<u64>; 2] {
        let read = |offset| self.config().read32(bridge, offset);
        let range = |low: u32, base_high: u32, limit_high: u32| {
            let base = u64::from(base_high) << 32 | u64::from((low & 0xfff0) << 16);
            let limit = u64::from(limit_high) << 32 | u64::from(low & 0xfff0_0000) | 0xf_ffff;
            // Zeros are what is there before firmware comes, not a window at the start of memory.
            if base == 0 {
                0..0
            } else {
                base..(limit + 1).max(base)
            }
        };
        let fetched = read(0x24);
        let (base_high, limit_high) = match fetched & 0xf {
            1 => (read(0x28), read(0x2c)),
            _ => (0, 0),
        };
        [
            range(read(0x20), 0, 0),
            range(fetched, base_high, limit_high),
        ]
    }

    /// Lets `bridge` pass accesses on in both directions.
    fn open(&self, bridge: Address) {
        if let Some(bridge) = Function::find(self.config(), bridge, None) {
            bridge.set_command(bridge.command() | Command::MEMORY | Command::BUS_MASTER);
        }
    }
}

/// The lowest place of `size` bytes inside `window` that is aligned to its size and clear of everything `taken`.
fn lowest(window: &Range<u64>, size: u64, taken: &[Range<u64>]) -> Option<u64> {
    let mut place = window.start.max(size).checked_next_multiple_of(size)?;
    // Each step passes one taken range or ends.
    loop {
        let end = place.checked_add(size)?;
        if end > window.end {
            return None;
        }
        let Some(clash) = taken
            .iter()
            .find(|range| range.start < end && place < range.end)
        else {
            return Some(place);
        };
        place = clash.end.checked_next_multiple_of(size)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeConfig, FakeFunction};

    #[test]
    fn a_new_function_gets_a_free_place_in_the_window() {
        let config = FakeConfig::default();
        let (bridge, old, new) = (
            Address::new(0, 1, 0),
            Address::new(2, 0, 0),
            Address::new(2, 1, 0),
        );
        config.insert(bridge, FakeFunction::bridge(2));
        config.set(bridge, 0x20, 0xfe90_fe80);
        config.set(bridge, 0x24, 0x0011_0001);
        config.set(bridge, 0x28, 0x80);
        config.set(bridge, 0x2c, 0x80);
        let device = || FakeFunction::device(0x1b36, 0x10, 0x0108_0200);
        config.insert(
            old,
            device().bars(&[(0xfe80_0004, 0xffff_c000), (0, u32::MAX)]),
        );
        config.insert(
            new,
            device().bars(&[
                (4, 0xffff_c000),
                (0, u32::MAX),
                (0xc, 0xfff0_0000),
                (0, u32::MAX),
                (0, 0xffff_f000),
                (8, 0xffff_f000),
            ]),
        );
        let function = config.behind(new, Some(bridge));
        function.assign().unwrap();
        let address = |index: usize| match function.bars()[index] {
            Some(Bar::Memory { address, .. }) => address,
            _ => 0,
        };
        assert_eq!(address(0), 0xfe80_4000, "behind what is there already");
        assert_eq!(address(2), 0x80_0000_0000, "wide and prefetchable: up high");
        assert_eq!(address(4), 0xfe80_8000);
        assert_eq!(address(5), 0xfe80_9000, "not wide: down low");
        let on = Command::MEMORY | Command::BUS_MASTER;
        assert!(config.function(bridge).command().contains(on));
    }

    #[test]
    fn too_large_is_refused() {
        let config = FakeConfig::default();
        let (bridge, new) = (Address::new(0, 1, 0), Address::new(2, 0, 0));
        config.insert(bridge, FakeFunction::bridge(2));
        config.set(bridge, 0x20, 0xfe80_fe80);
        config.set(bridge, 0x24, 0x0000_fff0);
        let device = FakeFunction::device(0x1b36, 0x10, 0x0108_0200);
        config.insert(new, device.bars(&[(0, 0xffe0_0000)]));
        let refused = config.behind(new, Some(bridge)).assign();
        assert_eq!(refused, Err(PciError::NoRoom(0)));
        assert_eq!(config.behind(new, None).assign(), Err(PciError::NoRoom(0)));
        config.set(bridge, 0x20, 0);
        config.set(bridge, 0x24, 0);
        let small = FakeFunction::device(0x1b36, 0x10, 0x0108_0200);
        config.insert(new, small.bars(&[(0, 0xffff_c000)]));
        let function = config.behind(new, Some(bridge));
        assert_eq!(
            function.assign(),
            Err(PciError::NoRoom(0)),
            "nobody set its windows"
        );
    }
}
