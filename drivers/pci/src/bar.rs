//! Base address registers: where a function's own registers appear (PCI Local Bus 3.0, 6.2.5).

use crate::Function;

/// The most BARs of a function.
pub(crate) const BARS_MAX: u8 = 6;

/// What one base address register describes. Addresses are zero while nobody has placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// A range of memory addresses.
    Memory {
        /// Physical address of the first byte.
        address: u64,
        /// Length in bytes, a power of two.
        size: u64,
        /// Whether reads have no side effects, so that a bridge may fetch ahead.
        prefetchable: bool,
        /// Whether it takes two registers and may lie above 4 GiB.
        wide: bool,
    },
    /// A range of I/O ports.
    Ports {
        /// First port.
        first: u32,
        /// Number of ports.
        count: u32,
    },
}

impl Bar {
    /// Whether it still waits for a place.
    #[must_use]
    pub fn is_unassigned(&self) -> bool {
        matches!(
            self,
            Self::Memory { address: 0, .. } | Self::Ports { first: 0, .. }
        )
    }
}

/// The offset of BAR `index` in the configuration space.
pub(crate) const fn offset(index: u8) -> u16 {
    0x10 + index as u16 * 4
}

/// Reads BAR `index` and measures it. Decoding must be off, as the register moves while it is measured.
pub(crate) fn measure(function: &Function, index: u8) -> Option<Bar> {
    let at = offset(index);
    let (held, mask) = probe(function, at);
    if mask == 0 || mask == u32::MAX && held == u32::MAX {
        return None;
    }
    if held & 1 != 0 {
        // The upper half of a port register may be wired to zero.
        let mask = mask & !3;
        let count = if mask >> 16 == 0 {
            (!mask & 0xffff) + 1
        } else {
            !mask + 1
        };
        return Some(Bar::Ports {
            first: held & !3,
            count,
        });
    }
    let wide = held & 6 == 4;
    let (mut address, mut mask) = (u64::from(held & !15), u64::from(mask & !15));
    if wide {
        if index + 1 >= BARS_MAX {
            return None;
        }
        let (high, high_mask) = probe(function, at + 4);
        address |= u64::from(high) << 32;
        mask |= u64::from(high_mask) << 32;
    } else {
        mask |= 0xffff_ffff_0000_0000;
    }
    (mask != 0).then(|| Bar::Memory {
        address,
        size: mask & mask.wrapping_neg(),
        prefetchable: held & 8 != 0,
        wide,
    })
}

/// What the register at `at` holds, and which of its bits can be set.
fn probe(function: &Function, at: u16) -> (u32, u32) {
    let held = function.read32(at);
    function.write32(at, u32::MAX);
    let mask = function.read32(at);
    function.write32(at, held);
    (held, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use crate::fake::{FakeConfig, FakeFunction};

    fn function(bars: &[(u32, u32)]) -> Function {
        let config = FakeConfig::default();
        let address = Address::new(0, 1, 0);
        config.insert(
            address,
            FakeFunction::device(0x8086, 1, 0x0108_0200).bars(bars),
        );
        config.function(address)
    }

    #[test]
    fn sizes_of_all_kinds() {
        let function = function(&[
            (0xfebf_0004, 0xffff_c000),
            (0x0000_0001, 0xffff_ffff),
            (0xfebd_1008, 0xffff_f000),
            (0x0000_c001, 0x0000_ffe0),
            (0, 0),
            (0xfebd_1000, 0xffff_fff0),
        ]);
        let memory = |address, size, prefetchable, wide| {
            Some(Bar::Memory {
                address,
                size,
                prefetchable,
                wide,
            })
        };
        let expected = [
            memory(0x1_febf_0000, 0x4000, false, true),
            None,
            memory(0xfebd_1000, 0x1000, true, false),
            Some(Bar::Ports {
                first: 0xc000,
                count: 32,
            }),
            None,
            memory(0xfebd_1000, 16, false, false),
        ];
        assert_eq!(function.bars(), expected);
        // Measuring puts everything back.
        assert_eq!(
            (function.read32(0x10), function.read32(0x14)),
            (0xfebf_0004, 1)
        );
    }

    #[test]
    fn a_bar_larger_than_4_gib() {
        let function = function(&[(0x0000_000c, 0), (0x0000_0080, 0xffff_fff8)]);
        let expected = Bar::Memory {
            address: 0x80_0000_0000,
            size: 8 << 32,
            prefetchable: true,
            wide: true,
        };
        assert_eq!(function.bars()[0], Some(expected));
    }

    #[test]
    fn a_wide_bar_in_the_last_register_is_refused() {
        let last = [
            (0, 0),
            (0, 0),
            (0, 0),
            (0, 0),
            (0, 0),
            (0xfe00_0004, 0xffff_0000),
        ];
        assert_eq!(function(&last).bars(), [None; 6]);
    }
}
