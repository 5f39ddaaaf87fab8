//! Registers as typed constants over a window that may be real or scripted.
//!
//! A driver writes one line per register, with its offset, what may be done to it, its type and the section of the
//! standard, and then reads and writes values instead of numbers:
//!
//! ```
//! use hal::{ReadWrite, Reg, Registers, register_value};
//!
//! #[derive(Clone, Copy)]
//! struct Control(u32);
//! register_value!(Control: u32);
//!
//! /// Controller Configuration (NVMe Base 2.0, 3.1.4.5).
//! const CC: Reg<ReadWrite, Control> = Reg::at(0x14);
//!
//! fn enable(regs: &impl Registers) {
//!     let control = regs.read(CC);
//!     regs.write(CC, Control(control.0 | 1));
//! }
//! ```

use alloc::rc::Rc;
use core::marker::PhantomData;

/// A window of registers: [`Mmio`](crate::Mmio) on the machine, a scripted device in tests.
///
/// Only 32-bit accesses are required; the others are made of them unless the window can do better. A window may panic
/// on an offset outside of it: offsets that a device chose are to be checked first.
pub trait Registers {
    /// Reads 32 bits at `offset` (bytes, a multiple of 4).
    fn read32(&self, offset: usize) -> u32;

    /// Writes 32 bits at `offset` (bytes, a multiple of 4).
    fn write32(&self, offset: usize, value: u32);

    /// Reads 8 bits at `offset`.
    fn read8(&self, offset: usize) -> u8 {
        self.read32(offset & !3).to_le_bytes()[offset & 3]
    }

    /// Reads 16 bits at `offset` (a multiple of 2).
    fn read16(&self, offset: usize) -> u16 {
        (self.read32(offset & !3) >> (8 * (offset & 2))) as u16
    }

    /// Reads 64 bits at `offset` (a multiple of 4), low half first.
    fn read64(&self, offset: usize) -> u64 {
        let low = self.read32(offset);
        u64::from(self.read32(offset + 4)) << 32 | u64::from(low)
    }

    /// Writes 8 bits at `offset`; by default as a 32-bit read and write of the word around it.
    fn write8(&self, offset: usize, value: u8) {
        let mut bytes = self.read32(offset & !3).to_le_bytes();
        bytes[offset & 3] = value;
        self.write32(offset & !3, u32::from_le_bytes(bytes));
    }

    /// Writes 16 bits at `offset` (a multiple of 2); by default as a 32-bit read and write of the word around it.
    fn write16(&self, offset: usize, value: u16) {
        let shift = 8 * (offset & 2);
        let rest = self.read32(offset & !3) & !(0xffff << shift);
        self.write32(offset & !3, rest | u32::from(value) << shift);
    }

    /// Writes 64 bits at `offset` (a multiple of 4), low half first.
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    /// Reads a register.
    fn read<A: Readable, T: Value>(&self, reg: Reg<A, T>) -> T
    where
        Self: Sized,
    {
        T::read(self, reg.offset)
    }

    /// Writes a register.
    fn write<A: Writable, T: Value>(&self, reg: Reg<A, T>, value: T)
    where
        Self: Sized,
    {
        value.write(self, reg.offset);
    }
}

/// Passes every access on, so that a window can be shared.
macro_rules! forward_registers {
    ($($window:ty),*) => {$(
        impl<R: Registers + ?Sized> Registers for $window {
            fn read32(&self, offset: usize) -> u32 {
                (**self).read32(offset)
            }
            fn write32(&self, offset: usize, value: u32) {
                (**self).write32(offset, value);
            }
            fn read8(&self, offset: usize) -> u8 {
                (**self).read8(offset)
            }
            fn read16(&self, offset: usize) -> u16 {
                (**self).read16(offset)
            }
            fn read64(&self, offset: usize) -> u64 {
                (**self).read64(offset)
            }
            fn write8(&self, offset: usize, value: u8) {
                (**self).write8(offset, value);
            }
            fn write16(&self, offset: usize, value: u16) {
                (**self).write16(offset, value);
            }
            fn write64(&self, offset: usize, value: u64) {
                (**self).write64(offset, value);
            }
        }
    )*};
}
forward_registers!(&R, Rc<R>);

/// A register: its offset, what may be done to it (`A`) and what it holds (`T`).
pub struct Reg<A, T> {
    offset: usize,
    kind: PhantomData<fn() -> (A, T)>,
}

impl<A, T> Reg<A, T> {
    /// The register at `offset` bytes from the start of its window.
    #[must_use]
    pub const fn at(offset: usize) -> Self {
        Self {
            offset,
            kind: PhantomData,
        }
    }

    /// The same register of a repeated group, `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: usize) -> Self {
        Self::at(self.offset + bytes)
    }

    /// Bytes from the start of the window.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.offset
    }
}

impl<A, T> Clone for Reg<A, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, T> Copy for Reg<A, T> {}

/// A register that is only read.
pub struct ReadOnly;

/// A register that is only written.
pub struct WriteOnly;

/// A register that is read and written.
pub struct ReadWrite;

/// Registers that may be read.
pub trait Readable {}

/// Registers that may be written.
pub trait Writable {}

impl Readable for ReadOnly {}
impl Readable for ReadWrite {}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}

/// What a register can hold: an unsigned number, or a type made one by [`register_value!`](crate::register_value).
pub trait Value: Copy {
    /// Reads it at `offset`.
    fn read(regs: &impl Registers, offset: usize) -> Self;

    /// Writes it at `offset`.
    fn write(self, regs: &impl Registers, offset: usize);
}

macro_rules! number_values {
    ($($number:ty: $read:ident $write:ident),*) => {$(
        impl Value for $number {
            fn read(regs: &impl Registers, offset: usize) -> Self {
                regs.$read(offset)
            }
            fn write(self, regs: &impl Registers, offset: usize) {
                regs.$write(offset, self);
            }
        }
    )*};
}
number_values!(u8: read8 write8, u16: read16 write16, u32: read32 write32, u64: read64 write64);

/// Lets a tuple struct around an unsigned number be held by a register.
#[macro_export]
macro_rules! register_value {
    ($name:ident: $number:ty) => {
        impl $crate::Value for $name {
            fn read(regs: &impl $crate::Registers, offset: usize) -> Self {
                Self(<$number as $crate::Value>::read(regs, offset))
            }
            fn write(self, regs: &impl $crate::Registers, offset: usize) {
                <$number as $crate::Value>::write(self.0, regs, offset);
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;

    /// Eight bytes that only know 32-bit accesses.
    struct Words(RefCell<[u32; 2]>);

    impl Registers for Words {
        fn read32(&self, offset: usize) -> u32 {
            assert_eq!(offset % 4, 0);
            self.0.borrow()[offset / 4]
        }

        fn write32(&self, offset: usize, value: u32) {
            assert_eq!(offset % 4, 0);
            self.0.borrow_mut()[offset / 4] = value;
        }
    }

    #[test]
    fn other_widths_are_made_of_words() {
        let regs = Words(RefCell::new([0x3322_1100, 0x7766_5544]));
        assert_eq!(regs.read8(5), 0x55);
        assert_eq!(regs.read16(2), 0x3322);
        assert_eq!(regs.read64(0), 0x7766_5544_3322_1100);
        regs.write8(3, 0xaa);
        regs.write16(4, 0xbbcc);
        assert_eq!(*regs.0.borrow(), [0xaa22_1100, 0x7766_bbcc]);
        regs.write64(0, 0x0123_4567_89ab_cdef);
        assert_eq!(*regs.0.borrow(), [0x89ab_cdef, 0x0123_4567]);
    }

    #[test]
    fn a_typed_register_uses_its_width_and_place() {
        #[derive(Clone, Copy, PartialEq, Debug)]
        struct Status(u16);
        register_value!(Status: u16);
        const STATUS: Reg<ReadWrite, Status> = Reg::at(0);
        let regs = Rc::new(Words(RefCell::new([0; 2])));
        regs.write(STATUS.plus(6), Status(0xbeef));
        assert_eq!(*regs.0.borrow(), [0, 0xbeef_0000]);
        assert_eq!(regs.read(STATUS.plus(6)), Status(0xbeef));
    }
}
