//! The other side of the bus, for tests: registers that follow a script, and the memory that devices may touch.
//!
//! Compiled for tests and with the feature `fake` only, never into the image. The list of lent memory belongs to a
//! thread, as a driver and its scripted device run in one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::reg::Registers;

extern crate std;

std::thread_local! {
    /// Memory that drivers of this thread have lent: start, and bytes.
    static LENT: RefCell<BTreeMap<usize, (*mut u8, usize)>> = const { RefCell::new(BTreeMap::new()) };
}

pub(crate) fn lent(base: *mut u8, len: usize) {
    LENT.with_borrow_mut(|lent| lent.insert(base.addr(), (base, len)));
}

pub(crate) fn returned(base: *mut u8) {
    LENT.with_borrow_mut(|lent| lent.remove(&base.addr()));
}

/// Whether all of the `len` bytes at `address` are lent to devices.
#[must_use]
pub fn is_lent(address: u64, len: usize) -> bool {
    find(address, len).is_some()
}

/// Reads memory as a device does.
///
/// # Panics
/// When any of it is not lent: the driver gave a wrong address, or took the memory back too early.
pub fn device_read(address: u64, into: &mut [u8]) {
    let from = find(address, into.len())
        .unwrap_or_else(|| panic!("the device reads {address:#x}, which is not lent to it"));
    // SAFETY: (1) `find` saw that the range is lent, so it is allocated; (2) its owner does not touch lent memory, and
    // runs on this thread.
    unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
}

/// Writes memory as a device does.
///
/// # Panics
/// As [`device_read`].
pub fn device_write(address: u64, bytes: &[u8]) {
    let into = find(address, bytes.len())
        .unwrap_or_else(|| panic!("the device writes {address:#x}, which is not lent to it"));
    // SAFETY: as in `device_read`.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), into, bytes.len()) }
}

fn find(address: u64, len: usize) -> Option<*mut u8> {
    let address = usize::try_from(address).ok()?;
    LENT.with_borrow(|lent| {
        let (start, (base, size)) = lent.range(..=address).next_back()?;
        let offset = address - start;
        (offset <= *size && len <= size - offset).then(|| base.wrapping_add(offset))
    })
}

/// One access to [`FakeRegisters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The 32 bits at an offset were read.
    Read(usize, u32),
    /// The 32 bits at an offset were written.
    Write(usize, u32),
}

type ReadHook = Box<dyn FnMut(u32) -> u32>;
type WriteHook = Box<dyn FnMut(&FakeRegisters, u32)>;

/// Registers that remember what is written, with scripted answers and effects, and a log of all accesses.
#[derive(Default)]
pub struct FakeRegisters {
    words: RefCell<Vec<u32>>,
    reads: RefCell<BTreeMap<usize, ReadHook>>,
    writes: RefCell<BTreeMap<usize, WriteHook>>,
    log: RefCell<Vec<Access>>,
    vanished: Cell<bool>,
}

impl FakeRegisters {
    /// A window of `len` bytes of zeros.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            words: RefCell::new(alloc::vec![0; len.div_ceil(4)]),
            ..Self::default()
        }
    }

    /// What the device holds at `offset`, without an entry in the log.
    #[must_use]
    pub fn get(&self, offset: usize) -> u32 {
        self.words.borrow()[offset / 4]
    }

    /// Sets what the device holds at `offset`, without an entry in the log.
    pub fn set(&self, offset: usize, value: u32) {
        self.words.borrow_mut()[offset / 4] = value;
    }

    /// Lets `answer` turn what is held at `offset` into what is read there.
    pub fn on_read(&self, offset: usize, answer: impl FnMut(u32) -> u32 + 'static) {
        self.reads.borrow_mut().insert(offset, Box::new(answer));
    }

    /// Calls `effect` for each write to `offset` instead of storing the value; it may [`set`](Self::set) registers.
    pub fn on_write(&self, offset: usize, effect: impl FnMut(&Self, u32) + 'static) {
        self.writes.borrow_mut().insert(offset, Box::new(effect));
    }

    /// Pulls the device out: from now on reads give all ones and writes are lost.
    pub fn vanish(&self) {
        self.vanished.set(true);
    }

    /// Takes the accesses since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Access> {
        core::mem::take(&mut self.log.borrow_mut())
    }
}

impl Registers for FakeRegisters {
    fn read32(&self, offset: usize) -> u32 {
        let value = if self.vanished.get() {
            u32::MAX
        } else {
            let held = self.get(offset);
            match self.reads.borrow_mut().get_mut(&offset) {
                Some(answer) => answer(held),
                None => held,
            }
        };
        self.log.borrow_mut().push(Access::Read(offset, value));
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.log.borrow_mut().push(Access::Write(offset, value));
        if self.vanished.get() {
            return;
        }
        match self.writes.borrow_mut().get_mut(&offset) {
            Some(effect) => effect(self, value),
            None => self.set(offset, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_answers_acts_and_is_logged() {
        let regs = FakeRegisters::new(16);
        regs.set(0, 1);
        regs.on_read(0, |held| held + 1);
        regs.on_write(4, |regs, value| regs.set(8, value * 2));
        assert_eq!(regs.read32(0), 2);
        regs.write32(4, 21);
        assert_eq!((regs.read32(8), regs.get(4)), (42, 0));
        let expected = [
            Access::Read(0, 2),
            Access::Write(4, 21),
            Access::Read(8, 42),
        ];
        assert_eq!(regs.take_log(), expected);
        regs.vanish();
        regs.write32(8, 0);
        assert_eq!((regs.read32(8), regs.get(8)), (u32::MAX, 42));
    }
}
