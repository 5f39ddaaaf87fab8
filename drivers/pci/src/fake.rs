//! A configuration space in memory, for tests.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::RefCell;

use crate::{Address, ConfigAccess, Function};

/// Functions by address; clones share them.
#[derive(Clone, Default)]
pub struct FakeConfig {
    functions: Rc<RefCell<BTreeMap<Address, FakeFunction>>>,
}

impl FakeConfig {
    pub fn insert(&self, address: Address, function: FakeFunction) {
        self.functions.borrow_mut().insert(address, function);
    }

    pub fn remove(&self, address: Address) {
        self.functions.borrow_mut().remove(&address);
    }

    /// Sets what is read at `offset`, whatever its bits allow.
    pub fn set(&self, address: Address, offset: u16, value: u32) {
        let mut functions = self.functions.borrow_mut();
        let function = functions.get_mut(&address).unwrap();
        function.words[usize::from(offset / 4)] = value;
    }

    pub fn function(&self, address: Address) -> Function {
        self.behind(address, None)
    }

    pub fn behind(&self, address: Address, bridge: Option<Address>) -> Function {
        let access: Rc<dyn ConfigAccess> = Rc::new(self.clone());
        Function::find(&access, address, bridge).unwrap()
    }
}

impl ConfigAccess for FakeConfig {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        let functions = self.functions.borrow();
        functions
            .get(&address)
            .map_or(u32::MAX, |function| function.words[usize::from(offset / 4)])
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        if let Some(function) = self.functions.borrow_mut().get_mut(&address) {
            function.write(usize::from(offset / 4), value);
        }
    }

    fn space(&self) -> u16 {
        256
    }
}

/// One function: its words, and the bits of each that a write can change.
pub struct FakeFunction {
    words: [u32; 64],
    writable: [u32; 64],
    /// Bits that a one clears.
    events: [u32; 64],
}

impl FakeFunction {
    pub fn device(vendor: u16, device: u16, class_and_revision: u32) -> Self {
        let mut function = Self {
            words: [0; 64],
            writable: [u32::MAX; 64],
            events: [0; 64],
        };
        function.words[0] = u32::from(device) << 16 | u32::from(vendor);
        function.words[2] = class_and_revision;
        // Commands can be written, the status beside them cannot.
        function.writable[1] = 0xffff;
        function.writable[4..10].fill(0);
        function
    }

    pub fn bridge(secondary: u8) -> Self {
        let mut function = Self::device(0x1b36, 0xc, 0x0604_0000);
        function.words[3] = 0x0001_0000;
        function.words[6] = u32::from(secondary) << 8;
        function.writable[6..10].fill(u32::MAX);
        function
    }

    pub fn with_siblings(mut self) -> Self {
        self.words[3] |= 0x0080_0000;
        self
    }

    /// Sets the BARs: what each holds, and which of its bits can be written.
    pub fn bars(mut self, bars: &[(u32, u32)]) -> Self {
        for (index, (held, writable)) in bars.iter().enumerate() {
            self.words[4 + index] = *held;
            self.writable[4 + index] = *writable;
        }
        self
    }

    /// Makes `bits` of the word at `offset` events, and the rest of its upper half read-only.
    pub fn clears_by_ones(mut self, offset: u16, bits: u32) -> Self {
        let index = usize::from(offset / 4);
        (self.writable[index], self.events[index]) = (0xffff, bits);
        self
    }

    fn write(&mut self, index: usize, value: u32) {
        let (writable, events) = (self.writable[index], self.events[index]);
        let held = self.words[index];
        self.words[index] = held & !writable & !(events & value) | value & writable;
    }
}
