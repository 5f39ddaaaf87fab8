//! What a loader told us, still in its own memory: no heap exists yet, so all lists are bounded.

use arrayvec::ArrayVec;

use crate::info::{Loader, MemoryRange};

/// Ranges of a firmware's memory map that are looked at; OVMF has about 30.
pub const RANGES_MAX: usize = 256;
/// Modules that are looked at.
pub const MODULES_MAX: usize = 8;
/// Bytes of the longest command line that is taken over.
pub const LINE_BYTES_MAX: u64 = 4096;

/// A span of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Address of the first byte.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
}

impl Span {
    /// The span of `len` bytes from `start` on, cut at the top of the address space.
    pub const fn at(start: u64, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// What a loader told us.
#[derive(Clone, Debug)]
pub struct Handover {
    /// Who it is.
    pub loader: Loader,
    /// The map of memory.
    pub ranges: ArrayVec<MemoryRange, RANGES_MAX>,
    /// Where the command line is, without its terminator.
    pub line: Span,
    /// Where each module is, and its own command line.
    pub modules: ArrayVec<(Span, Span), MODULES_MAX>,
    /// The ACPI root pointer.
    pub rsdp: Option<[u8; 36]>,
    /// Further memory that must not be reused before everything is copied.
    pub block: Span,
}

/// Physical memory as bytes. Tests have a small one of their own.
pub trait Physical {
    /// The `len` bytes at `address`, or `None` where there is no such memory.
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]>;

    /// The 32-bit word at `address`.
    fn u32(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(address, 4)?.try_into().ok()?))
    }

    /// The 64-bit word at `address`.
    fn u64(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?))
    }

    /// The text at `address` up to a zero byte, at most [`LINE_BYTES_MAX`] bytes.
    fn text(&self, address: u64) -> Span {
        if address == 0 {
            return Span::default();
        }
        let len = (0..LINE_BYTES_MAX)
            .find(|at| self.bytes(address + at, 1).is_none_or(|byte| byte[0] == 0));
        Span::at(address, len.unwrap_or(LINE_BYTES_MAX))
    }
}

/// The ACPI root pointer at `address`, or `None` where there is none (ACPI 6.5, 5.2.5.3).
pub fn rsdp_at(memory: &impl Physical, address: u64) -> Option<[u8; 36]> {
    let old = memory.bytes(address, 20)?;
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if !old.starts_with(b"RSD PTR ") || sum(old) != 0 {
        return None;
    }
    let mut pointer = [0; 36];
    pointer[..20].copy_from_slice(old);
    if old[15] >= 2 {
        pointer.copy_from_slice(memory.bytes(address, 36)?);
    }
    Some(pointer)
}

/// Looks for the ACPI root pointer where a BIOS leaves it (ACPI 6.5, 5.2.5.1).
pub fn find_rsdp(memory: &impl Physical) -> Option<[u8; 36]> {
    (0xe_0000..0x10_0000)
        .step_by(16)
        .find_map(|address| rsdp_at(memory, address))
}

#[cfg(test)]
pub mod fake {
    //! A few bytes of physical memory.

    use super::Physical;

    /// Memory from `base` on.
    pub struct Memory {
        pub base: u64,
        pub bytes: Vec<u8>,
    }

    impl Memory {
        pub fn put(&mut self, address: u64, bytes: &[u8]) {
            let at = (address - self.base) as usize;
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl Physical for Memory {
        fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
            let at = usize::try_from(address.checked_sub(self.base)?).ok()?;
            self.bytes.get(at..at.checked_add(len as usize)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Memory;
    use super::*;

    fn pointer(revision: u8) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[15] = revision;
        bytes[30] = 7;
        bytes[8] = bytes[..20]
            .iter()
            .fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        bytes
    }

    #[test]
    fn the_root_pointer_is_found_on_a_16_byte_border() {
        let mut memory = Memory {
            base: 0xe_0000,
            bytes: vec![0; 0x2_0000],
        };
        assert_eq!(find_rsdp(&memory), None);
        memory.put(0xf_1230, &pointer(2));
        assert_eq!(find_rsdp(&memory), Some(pointer(2)));
    }

    #[test]
    fn a_wrong_checksum_is_no_root_pointer() {
        let mut memory = Memory {
            base: 0,
            bytes: vec![0; 64],
        };
        let mut bytes = pointer(0);
        bytes[16] ^= 1;
        memory.put(0, &bytes);
        assert_eq!(rsdp_at(&memory, 0), None);
    }

    #[test]
    fn an_old_root_pointer_is_padded() {
        let mut memory = Memory {
            base: 0,
            bytes: vec![0xff; 36],
        };
        memory.put(0, &pointer(0)[..20]);
        assert_eq!(rsdp_at(&memory, 0).unwrap()[20..], [0; 16]);
    }

    #[test]
    fn text_ends_at_its_zero_byte() {
        let mut memory = Memory {
            base: 0x100,
            bytes: vec![0; 16],
        };
        memory.put(0x104, b"a=b");
        assert_eq!(
            memory.text(0x104),
            Span {
                start: 0x104,
                end: 0x107
            }
        );
        assert_eq!(memory.text(0), Span::default());
    }
}
