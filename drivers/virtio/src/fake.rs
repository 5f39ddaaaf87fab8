//! A virtio device in software, for tests: it walks the same rings in the same memory, and can be told to lie.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hal::fake::{device_read, device_write};
use virtio_drivers::device::common::Feature;
use world::{Clock, Instant};

use crate::queue::Segment;
use crate::transport::{DeviceStatus, RingAddresses, Transport, VirtioError};

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

/// A request as the device sees it.
#[derive(Clone, Debug)]
pub struct Chain {
    pub head: u16,
    pub segments: Vec<Segment>,
    /// Whether it came through an indirect table.
    pub indirect: bool,
}

impl Chain {
    /// All bytes the device may read.
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in self.segments.iter().filter(|segment| !segment.writable) {
            let start = bytes.len();
            bytes.resize(start + segment.len as usize, 0);
            device_read(segment.address, &mut bytes[start..]);
        }
        bytes
    }

    /// Writes `bytes` to the front of what the device may write.
    pub fn write(&self, mut bytes: &[u8]) {
        for segment in self.segments.iter().filter(|segment| segment.writable) {
            let (now, rest) = bytes.split_at(bytes.len().min(segment.len as usize));
            device_write(segment.address, now);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "the driver offers too little room");
    }

    /// Bytes the device may write.
    pub fn writable(&self) -> usize {
        let writable = self.segments.iter().filter(|segment| segment.writable);
        writable.map(|segment| segment.len as usize).sum()
    }
}

/// The device's side of a queue.
#[derive(Clone, Copy)]
struct Ring {
    at: RingAddresses,
    size: u16,
    next_available: u16,
    used: u16,
}

type NotifyHook = Box<dyn FnMut(&FakeDevice, u16)>;

#[derive(Default)]
struct Chip {
    offered: u64,
    taken: Cell<u64>,
    status: Cell<u8>,
    config: RefCell<Vec<u8>>,
    queue_sizes: Vec<u16>,
    rings: RefCell<Vec<Option<Ring>>>,
    notifications: Cell<usize>,
    interrupts: Cell<usize>,
    vanished: Cell<bool>,
    ignores_reset: Cell<bool>,
    refuses_features: Cell<bool>,
    on_notify: RefCell<Option<NotifyHook>>,
}

/// The device; clones are the same one. It is also the transport that the driver gets.
#[derive(Clone, Default)]
pub struct FakeDevice {
    chip: Rc<Chip>,
}

impl FakeDevice {
    /// A device that offers `features` (and virtio 1), with queues of these sizes.
    pub fn new(features: u64, queue_sizes: &[u16], config: &[u8]) -> Self {
        Self {
            chip: Rc::new(Chip {
                offered: features | Feature::VERSION_1.bits(),
                config: RefCell::new(config.to_vec()),
                queue_sizes: queue_sizes.to_vec(),
                rings: RefCell::new(alloc::vec![None; queue_sizes.len()]),
                ..Chip::default()
            }),
        }
    }

    /// A device from before virtio 1.
    pub fn legacy(queue_sizes: &[u16]) -> Self {
        Self {
            chip: Rc::new(Chip {
                queue_sizes: queue_sizes.to_vec(),
                ..Chip::default()
            }),
        }
    }

    /// Makes the device turn down whatever features the driver takes.
    pub fn refuse_features(&self) {
        self.chip.refuses_features.set(true);
    }

    /// Calls `hook` when a doorbell rings.
    pub fn on_notify(&self, hook: impl FnMut(&Self, u16) + 'static) {
        *self.chip.on_notify.borrow_mut() = Some(Box::new(hook));
    }

    /// Makes the device answer nothing any more.
    pub fn vanish(&self) {
        self.chip.vanished.set(true);
    }

    /// Makes the device keep its status when it is told to reset.
    pub fn ignore_reset(&self) {
        self.chip.ignores_reset.set(true);
    }

    /// Makes the device ask for a reset.
    pub fn give_up(&self) {
        let status = self.chip.status.get() | DeviceStatus::DEVICE_NEEDS_RESET.bits() as u8;
        self.chip.status.set(status);
    }

    pub fn set_config8(&self, offset: usize, value: u8) {
        self.chip.config.borrow_mut()[offset] = value;
    }

    /// The features that the driver took.
    pub fn taken(&self) -> u64 {
        self.chip.taken.get()
    }

    pub fn is_running(&self) -> bool {
        self.chip.status.get() & DeviceStatus::DRIVER_OK.bits() as u8 != 0
    }

    pub fn notifications(&self) -> usize {
        self.chip.notifications.get()
    }

    pub fn interrupts(&self) -> usize {
        self.chip.interrupts.get()
    }

    /// Takes the next request from `queue` and, when that was the last, asks for a doorbell at the next.
    pub fn take(&self, queue: u16) -> Option<Chain> {
        let mut rings = self.chip.rings.borrow_mut();
        let ring = rings[usize::from(queue)].as_mut()?;
        if read16(ring.at.available + 2) == ring.next_available {
            return None;
        }
        let position = u64::from(ring.next_available % ring.size);
        let head = read16(ring.at.available + 4 + 2 * position);
        ring.next_available = ring.next_available.wrapping_add(1);
        self.set_avail_event(ring, ring.next_available);
        Some(ring.read_chain(head))
    }

    /// Answers a request taken before.
    pub fn answer(&self, queue: u16, chain: &Chain, written: usize) {
        self.answer_raw(queue, chain.head.into(), written as u32);
    }

    /// Puts anything into the used ring, and raises an interrupt if the driver wants one.
    pub fn answer_raw(&self, queue: u16, id: u32, written: u32) {
        let mut rings = self.chip.rings.borrow_mut();
        let Some(ring) = rings[usize::from(queue)].as_mut() else {
            panic!("no queue {queue}")
        };
        let entry = ring.at.used + 4 + 8 * u64::from(ring.used % ring.size);
        device_write(entry, &id.to_le_bytes());
        device_write(entry + 4, &written.to_le_bytes());
        let old = ring.used;
        ring.used = old.wrapping_add(1);
        device_write(ring.at.used + 2, &ring.used.to_le_bytes());
        let wanted = if self.taken() & Feature::RING_EVENT_IDX.bits() != 0 {
            read16(ring.at.available + 4 + 2 * u64::from(ring.size)) == old
        } else {
            read16(ring.at.available) & 1 == 0
        };
        self.chip
            .interrupts
            .set(self.chip.interrupts.get() + usize::from(wanted));
    }

    /// Claims to have answered `count` requests without saying which.
    pub fn advance_used(&self, queue: u16, count: u16) {
        let rings = self.chip.rings.borrow();
        let Some(ring) = rings[usize::from(queue)] else {
            panic!("no queue {queue}")
        };
        device_write(
            ring.at.used + 2,
            &ring.used.wrapping_add(count).to_le_bytes(),
        );
    }

    /// Asks for no doorbells (without event indices).
    pub fn mute(&self, queue: u16) {
        let rings = self.chip.rings.borrow();
        if let Some(ring) = rings[usize::from(queue)] {
            device_write(ring.at.used, &1_u16.to_le_bytes());
        }
    }

    /// Continues `queue` at `index`, as the driver's own queue was told to.
    pub fn start_at(&self, queue: u16, index: u16) {
        let mut rings = self.chip.rings.borrow_mut();
        if let Some(ring) = rings[usize::from(queue)].as_mut() {
            (ring.next_available, ring.used) = (index, index);
            self.set_avail_event(ring, index);
        }
    }

    fn set_avail_event(&self, ring: &Ring, index: u16) {
        if self.taken() & Feature::RING_EVENT_IDX.bits() != 0 {
            let at = ring.at.used + 4 + 8 * u64::from(ring.size);
            device_write(at, &index.to_le_bytes());
        }
    }
}

impl Ring {
    fn read_chain(&self, head: u16) -> Chain {
        let mut chain = Chain {
            head,
            segments: Vec::new(),
            indirect: false,
        };
        let (mut table, mut index, mut limit) = (self.at.descriptors, head, self.size);
        loop {
            assert!(index < limit, "descriptor {index} of {limit}");
            let at = table + 16 * u64::from(index);
            let mut bytes = [0; 16];
            device_read(at, &mut bytes);
            let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
            let next = u16::from_le_bytes(bytes[14..].try_into().unwrap());
            if flags & FLAG_INDIRECT != 0 {
                assert!(!chain.indirect && chain.segments.is_empty() && len % 16 == 0);
                chain.indirect = true;
                (table, index, limit) = (address, 0, (len / 16) as u16);
                continue;
            }
            let writable = flags & FLAG_WRITE != 0;
            let after_writable = chain.segments.last().is_some_and(|last| last.writable);
            assert!(writable || !after_writable, "readable after writable");
            chain.segments.push(Segment {
                address,
                len,
                writable,
            });
            assert!(chain.segments.len() <= usize::from(self.size), "too long");
            if flags & FLAG_NEXT == 0 {
                return chain;
            }
            index = next;
        }
    }
}

fn read16(address: u64) -> u16 {
    let mut bytes = [0; 2];
    device_read(address, &mut bytes);
    u16::from_le_bytes(bytes)
}

impl Transport for FakeDevice {
    fn device_features(&mut self) -> u64 {
        self.chip.offered
    }

    fn set_driver_features(&mut self, features: u64) {
        assert_eq!(features & !self.chip.offered, 0, "features never offered");
        self.chip.taken.set(features);
    }

    fn status(&self) -> DeviceStatus {
        if self.chip.vanished.get() {
            return DeviceStatus::all();
        }
        DeviceStatus::from_bits_truncate(self.chip.status.get().into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            if self.chip.ignores_reset.get() || self.chip.vanished.get() {
                return;
            }
            self.chip.rings.borrow_mut().fill(None);
        }
        let mut status = status;
        if self.chip.refuses_features.get() {
            status.remove(DeviceStatus::FEATURES_OK);
        }
        self.chip.status.set(status.bits() as u8);
    }

    fn queue_size_max(&mut self, queue: u16) -> u16 {
        let size = self.chip.queue_sizes.get(usize::from(queue));
        size.copied().unwrap_or(0)
    }

    fn set_queue(
        &mut self,
        queue: u16,
        size: u16,
        rings: RingAddresses,
    ) -> Result<(), VirtioError> {
        assert_eq!(rings.descriptors % 16, 0);
        assert_eq!(rings.available % 2, 0);
        assert_eq!(rings.used % 4, 0);
        self.chip.rings.borrow_mut()[usize::from(queue)] = Some(Ring {
            at: rings,
            size,
            next_available: 0,
            used: 0,
        });
        Ok(())
    }

    fn notify(&mut self, queue: u16) {
        assert!(self.is_running(), "a doorbell before DRIVER_OK");
        self.chip
            .notifications
            .set(self.chip.notifications.get() + 1);
        let hook = self.chip.on_notify.borrow_mut().take();
        if let Some(mut hook) = hook {
            hook(self, queue);
            *self.chip.on_notify.borrow_mut() = Some(hook);
        }
    }

    fn config8(&self, offset: usize) -> u8 {
        let config = self.chip.config.borrow();
        config.get(offset).copied().unwrap_or(0)
    }

    fn config16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.config8(offset), self.config8(offset + 1)])
    }

    fn config32(&self, offset: usize) -> u32 {
        u32::from(self.config16(offset)) | u32::from(self.config16(offset + 2)) << 16
    }

    fn config_generation(&self) -> u32 {
        0
    }
}

/// A clock that goes on by one microsecond at each look.
#[derive(Default)]
pub struct TickingClock(Cell<u64>);

impl Clock for TickingClock {
    fn now(&self) -> Instant {
        self.0.set(self.0.get() + 1000);
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}
