//! Capabilities, honest and not, in a configuration space of one function.

use super::*;
use alloc::rc::Rc;
use core::cell::RefCell;
use pci::{Address, ConfigAccess};

/// One function with a memory BAR 4 of 16 KiB at 0xfe00_0000.
struct Space(RefCell<[u32; 64]>);

impl ConfigAccess for Space {
    fn read32(&self, _: Address, offset: u16) -> u32 {
        self.0.borrow()[usize::from(offset) / 4]
    }

    fn write32(&self, _: Address, offset: u16, value: u32) {
        match offset {
            // The status half is cleared by ones only.
            0x04 => self.0.borrow_mut()[1] = 0x0010_0000 | value & 0xffff,
            0x20 => self.0.borrow_mut()[8] = value & 0xffff_c000 | 4,
            0x10..0x28 => {}
            _ => self.0.borrow_mut()[usize::from(offset) / 4] = value,
        }
    }

    fn space(&self) -> u16 {
        256
    }
}

/// A function with device number `device` and these capabilities: kind, length, BAR, offset, size.
fn function(device: u16, capabilities: &[(u8, u8, u8, u32, u32)]) -> Function {
    let mut words = [0; 64];
    words[0] = u32::from(device) << 16 | 0x1af4;
    words[1] = 0x0010_0000;
    words[8] = 0xfe00_0004;
    words[13] = 0x40;
    for (index, (kind, length, bar, offset, size)) in capabilities.iter().enumerate() {
        let at = 16 + 6 * index;
        let last = index + 1 == capabilities.len();
        let next = if last { 0 } else { 4 * (at as u8 + 6) };
        words[at] = u32::from_le_bytes([CAPABILITY_VENDOR, next, *length, *kind]);
        words[at + 1] = u32::from(*bar);
        (words[at + 2], words[at + 3], words[at + 4]) = (*offset, *size, 4);
    }
    let config: Rc<dyn ConfigAccess> = Rc::new(Space(RefCell::new(words)));
    Function::find(&config, Address::new(0, 2, 0), None).unwrap()
}

const HONEST: [(u8, u8, u8, u32, u32); 5] = [
    (5, 20, 0, 0, 0),
    (2, 20, 4, 0x3000, 0x1000),
    (4, 16, 4, 0x2000, 0x1000),
    (3, 16, 4, 0x1000, 0x1000),
    (1, 16, 4, 0, 0x1000),
];

#[test]
fn structures_are_found_wherever_they_are() {
    let place = |offset| Place {
        bar: 4,
        offset,
        size: 0x1000,
    };
    let expected = Structures {
        common: place(0),
        notify: place(0x3000),
        notify_multiplier: 4,
    };
    let found = Structures::find(&function(0x1041, &HONEST));
    assert_eq!(found, Some(expected));
}

#[test]
fn structures_outside_their_bar_are_refused() {
    let lies = [
        ("too long", 0, 0x4001, 4),
        ("behind the end", 0x4000, 1, 4),
        ("sum beyond 32 bits", 0xffff_f000, 0x1000, 4),
        ("no such BAR", 0, 0x1000, 2),
        ("no BAR at all", 0, 0x1000, 200),
    ];
    for (name, offset, size, bar) in lies {
        for index in 1..HONEST.len() {
            let mut capabilities = HONEST;
            let (kind, length, ..) = capabilities[index];
            capabilities[index] = (kind, length, bar, offset, size);
            let found = Structures::find(&function(0x1041, &capabilities));
            assert_eq!(found, None, "{name}, capability {index}");
        }
    }
    assert_eq!(Structures::find(&function(0x1041, &HONEST[..4])), None);
    assert_eq!(Structures::find(&function(0x1041, &HONEST[2..])), None);
}

#[test]
fn transitional_and_modern_devices_are_known() {
    for (device, kind) in [
        (0x1000, Some(DeviceType::Network)),
        (0x1041, Some(DeviceType::Network)),
        (0x1001, Some(DeviceType::Block)),
        (0x1042, Some(DeviceType::Block)),
        (0x1044, Some(DeviceType::EntropySource)),
        (0x1040, None),
    ] {
        assert_eq!(device_type(&function(device, &HONEST)), kind);
    }
}
