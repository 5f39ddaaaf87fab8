//! A small NVMe controller in software, for tests. It does what commands say, unless it was told to misbehave.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hal::Registers;
use hal::fake::{device_read, device_write};

use crate::engine::Gate;

/// How the controller misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// Takes commands and never completes them.
    Silent,
    /// As silent, and does not let itself be disabled.
    Stubborn,
    /// Is not there any more.
    Vanished,
    /// Reports a fatal error and does nothing.
    Fatal,
    /// Completes with an id that was never used.
    WrongId,
    /// Completes with the id of another generation of the same slot.
    OldId,
    /// Completes every command twice.
    Twice,
    /// Says that it has read beyond the end of the queue.
    WrongHead,
    /// Completes on behalf of a queue that does not exist.
    WrongQueue,
    /// Fills the completion queue with the other phase.
    Garbage,
}

/// A namespace and its bytes.
pub struct FakeNamespace {
    pub bytes: Vec<u8>,
    pub lba_bytes: usize,
    pub metadata: u16,
}

impl FakeNamespace {
    pub fn new(bytes: usize, lba_bytes: usize) -> Self {
        Self {
            bytes: alloc::vec![0; bytes],
            lba_bytes,
            metadata: 0,
        }
    }
}

#[derive(Default)]
struct FakeQueue {
    submissions: u64,
    completions: u64,
    entries: u16,
    head: u16,
    completion_tail: u16,
    phase: bool,
}

/// One command as the controller saw it: queue, opcode, namespace, doublewords 10 to 12.
pub type Seen = (u16, u8, u32, [u32; 3]);

/// The controller.
#[derive(Default)]
pub struct FakeController {
    pub fault: Cell<Fault>,
    /// Completions are held back until [`FakeController::release`].
    pub is_holding: Cell<bool>,
    /// Never becomes ready.
    pub is_lame: Cell<bool>,
    pub namespaces: RefCell<BTreeMap<u32, FakeNamespace>>,
    pub seen: RefCell<Vec<Seen>>,
    /// Status fields to answer the next commands on blocks with.
    pub answers: RefCell<VecDeque<u16>>,
    /// Changes the description of the controller before it is sent.
    pub identity: RefCell<Vec<(usize, u8)>>,
    pub queue_entries: Cell<u16>,
    pub doorbell_writes: Cell<usize>,
    words: RefCell<BTreeMap<usize, u32>>,
    queues: RefCell<BTreeMap<u16, FakeQueue>>,
    held: RefCell<VecDeque<(u16, [u8; 16])>>,
}

impl FakeController {
    pub fn new(namespaces: impl IntoIterator<Item = (u32, FakeNamespace)>) -> Rc<Self> {
        let fake = Self::default();
        fake.queue_entries.set(1024);
        *fake.namespaces.borrow_mut() = namespaces.into_iter().collect();
        Rc::new(fake)
    }

    fn word(&self, offset: usize) -> u32 {
        self.words.borrow().get(&offset).copied().unwrap_or(0)
    }

    /// Whether it is enabled.
    pub fn is_enabled(&self) -> bool {
        self.word(0x14) & 1 != 0
    }

    /// Sends all completions held back, the last one first.
    pub fn release(&self) {
        self.is_holding.set(false);
        while let Some((number, entry)) = self.held.borrow_mut().pop_back() {
            self.post(number, entry);
        }
    }

    fn configure(&self, value: u32) {
        let was_enabled = self.is_enabled();
        self.words.borrow_mut().insert(0x14, value);
        if value & 1 != 0 && !was_enabled {
            let long =
                |offset| u64::from(self.word(offset + 4)) << 32 | u64::from(self.word(offset));
            let entries = (self.word(0x24) & 0xfff) as u16 + 1;
            self.add_queue(0, entries, long(0x28), long(0x30));
        } else if value & 1 == 0 && self.fault.get() != Fault::Stubborn {
            self.queues.borrow_mut().clear();
            self.held.borrow_mut().clear();
        }
    }

    fn status(&self) -> u32 {
        let enabled = self.is_enabled() || self.fault.get() == Fault::Stubborn;
        let ready = enabled && !self.is_lame.get();
        let shut_down = self.word(0x14) >> 14 & 3 != 0;
        u32::from(ready)
            | u32::from(self.fault.get() == Fault::Fatal && self.is_enabled()) << 1
            | u32::from(shut_down) << 3
    }

    fn add_queue(&self, number: u16, entries: u16, submissions: u64, completions: u64) {
        let queue = FakeQueue {
            submissions,
            completions,
            entries,
            phase: true,
            ..FakeQueue::default()
        };
        self.queues.borrow_mut().insert(number, queue);
    }

    fn run_queue(&self, number: u16, tail: u16) {
        loop {
            let mut entry = [0; 64];
            {
                let mut queues = self.queues.borrow_mut();
                let queue = queues.get_mut(&number).expect("a doorbell of a queue");
                assert!(tail < queue.entries, "a tail beyond the queue");
                if queue.head == tail {
                    return;
                }
                device_read(queue.submissions + u64::from(queue.head) * 64, &mut entry);
                queue.head = (queue.head + 1) % queue.entries;
            }
            if matches!(
                self.fault.get(),
                Fault::Silent | Fault::Stubborn | Fault::Fatal
            ) {
                continue;
            }
            let (result, status) = self.execute(number, &entry);
            let mut done = [0; 16];
            done[..4].copy_from_slice(&result.to_le_bytes());
            done[12..14].copy_from_slice(&entry[2..4]);
            done[14..].copy_from_slice(&(status << 1).to_le_bytes());
            if self.is_holding.get() {
                self.held.borrow_mut().push_back((number, done));
            } else {
                self.post(number, done);
            }
        }
    }

    fn post(&self, number: u16, mut entry: [u8; 16]) {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.get_mut(&number).expect("a queue to complete to");
        entry[8..10].copy_from_slice(&queue.head.to_le_bytes());
        entry[10..12].copy_from_slice(&number.to_le_bytes());
        entry[14] = entry[14] & !1 | u8::from(queue.phase);
        let mut copies = 1;
        match self.fault.get() {
            Fault::WrongId => entry[12] ^= 0x55,
            Fault::OldId => entry[13] ^= 0x01,
            Fault::Twice => copies = 2,
            Fault::WrongHead => entry[8..10].copy_from_slice(&0xfff0_u16.to_le_bytes()),
            Fault::WrongQueue => entry[10] = 9,
            Fault::Garbage => {
                for at in 0..queue.entries {
                    let at = queue.completions + u64::from(at) * 16;
                    device_write(at, &[0xff; 16]);
                }
                return;
            }
            _ => {}
        }
        for _ in 0..copies {
            let at = queue.completions + u64::from(queue.completion_tail) * 16;
            entry[14] = entry[14] & !1 | u8::from(queue.phase);
            device_write(at, &entry);
            queue.completion_tail = (queue.completion_tail + 1) % queue.entries;
            queue.phase ^= queue.completion_tail == 0;
        }
    }

    fn execute(&self, queue: u16, entry: &[u8; 64]) -> (u32, u16) {
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        let namespace = word(4);
        let words = [word(40), word(44), word(48)];
        self.seen
            .borrow_mut()
            .push((queue, entry[0], namespace, words));
        if queue == 0 {
            return self.administer(entry, namespace, words);
        }
        if let Some(status) = self.answers.borrow_mut().pop_front()
            && status != 0
        {
            return (0, status);
        }
        let mut namespaces = self.namespaces.borrow_mut();
        let Some(target) = namespaces.get_mut(&namespace) else {
            return (0, 0x00b);
        };
        let lba = u64::from(words[1]) << 32 | u64::from(words[0]);
        let start = lba as usize * target.lba_bytes;
        let count = ((words[2] & 0xffff) + 1) as usize * target.lba_bytes;
        let moves = matches!(entry[0], 1 | 2 | 8);
        if moves && start + count > target.bytes.len() {
            return (0, 0x080);
        }
        match entry[0] {
            0x00 => {}
            0x01 => for_pages(entry, count, |address, at, len| {
                device_read(address, &mut target.bytes[start + at..start + at + len]);
            }),
            0x02 => for_pages(entry, count, |address, at, len| {
                device_write(address, &target.bytes[start + at..start + at + len]);
            }),
            0x08 => target.bytes[start..start + count].fill(0),
            0x09 => {
                for index in 0..=u64::from(words[0] & 0xff) {
                    let mut range = [0; 16];
                    let list = u64::from_le_bytes(entry[24..32].try_into().unwrap());
                    device_read(list + index * 16, &mut range);
                    let lbas = u32::from_le_bytes(range[4..8].try_into().unwrap()) as usize;
                    let lba = u64::from_le_bytes(range[8..].try_into().unwrap()) as usize;
                    let from = lba * target.lba_bytes;
                    target.bytes[from..from + lbas * target.lba_bytes].fill(0xdd);
                }
            }
            _ => return (0, 0x001),
        }
        (0, 0)
    }

    fn administer(&self, entry: &[u8; 64], namespace: u32, words: [u32; 3]) -> (u32, u16) {
        let prp = u64::from_le_bytes(entry[24..32].try_into().unwrap());
        match entry[0] {
            0x01 => {
                let mut queues = self.queues.borrow_mut();
                let Some(queue) = queues.get_mut(&(words[0] as u16)) else {
                    return (0, 0x100);
                };
                queue.submissions = prp;
            }
            0x05 => self.add_queue(words[0] as u16, (words[0] >> 16) as u16 + 1, 0, prp),
            0x06 => {
                let mut page = alloc::vec![0; 4096];
                match words[0] {
                    0 => self.describe_namespace(namespace, &mut page),
                    1 => self.describe(&mut page),
                    2 => {
                        let namespaces = self.namespaces.borrow();
                        let active = namespaces.keys().filter(|number| **number > namespace);
                        for (bytes, number) in page.chunks_exact_mut(4).zip(active) {
                            bytes.copy_from_slice(&number.to_le_bytes());
                        }
                    }
                    _ => return (0, 0x002),
                }
                device_write(prp, &page);
            }
            0x09 => {}
            0x02 => device_write(prp + 1, &[0x2c, 0x01]),
            _ => return (0, 0x001),
        }
        (0, 0)
    }

    fn describe(&self, page: &mut [u8]) {
        page[4..10].copy_from_slice(b"serial");
        page[24..28].copy_from_slice(b"fake");
        page[77] = 4;
        (page[512], page[513]) = (0x66, 0x44);
        (page[516], page[520], page[525]) = (255, 0b1100, 1);
        for (at, byte) in &*self.identity.borrow() {
            page[*at] = *byte;
        }
    }

    fn describe_namespace(&self, number: u32, page: &mut [u8]) {
        if let Some(namespace) = self.namespaces.borrow().get(&number) {
            let lbas = (namespace.bytes.len() / namespace.lba_bytes) as u64;
            page[..8].copy_from_slice(&lbas.to_le_bytes());
            page[128..130].copy_from_slice(&namespace.metadata.to_le_bytes());
            page[130] = namespace.lba_bytes.trailing_zeros() as u8;
        }
    }
}

/// Calls `move_bytes` with address, offset and length for each page that the PRPs of `entry` describe.
fn for_pages(entry: &[u8; 64], count: usize, mut move_bytes: impl FnMut(u64, usize, usize)) {
    let prp = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
    let pages = count.div_ceil(4096);
    for page in 0..pages {
        let address = match (page, pages) {
            (0, _) => prp(24),
            (_, 2) => prp(32),
            _ => {
                let mut bytes = [0; 8];
                device_read(prp(32) + (page as u64 - 1) * 8, &mut bytes);
                u64::from_le_bytes(bytes)
            }
        };
        assert_eq!(address % 4096, 0, "a PRP that is not a page");
        move_bytes(address, page * 4096, (count - page * 4096).min(4096));
    }
}

impl Registers for FakeController {
    fn read32(&self, offset: usize) -> u32 {
        if self.fault.get() == Fault::Vanished {
            return u32::MAX;
        }
        match offset {
            // Contiguous queues, 1 s to become ready; NVM command set, doorbells 4 bytes apart.
            0x00 => u32::from(self.queue_entries.get() - 1) | 1 << 16 | 2 << 24,
            0x04 => 1 << 5,
            0x08 => 0x0001_0400,
            0x1c => self.status(),
            _ => self.word(offset),
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if self.fault.get() == Fault::Vanished {
            return;
        }
        match offset {
            0x14 => self.configure(value),
            0x1000.. => {
                self.doorbell_writes.set(self.doorbell_writes.get() + 1);
                let index = (offset - 0x1000) / 4;
                if index.is_multiple_of(2) {
                    self.run_queue(index as u16 / 2, value as u16);
                }
            }
            _ => {
                self.words.borrow_mut().insert(offset, value);
            }
        }
    }
}

/// A bus that can be closed, and whether closing it is certain.
#[derive(Clone, Default)]
pub struct FakeGate {
    pub is_certain: Rc<Cell<bool>>,
    pub is_closed: Rc<Cell<bool>>,
}

impl Gate for FakeGate {
    fn cut_off(&self) -> bool {
        self.is_closed.set(true);
        self.is_certain.get()
    }
}
