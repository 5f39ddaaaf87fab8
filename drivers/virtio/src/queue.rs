//! The split virtqueue (virtio 1.2, 2.7): requests go out, the device hands them back in any order.
//!
//! ```text
//! descriptors  16 bytes each: address u64, length u32, flags u16, next u16
//! available    flags u16, index u16, [head u16; size], used_event u16        driver → device
//! used         flags u16, index u16, [(head u32, written u32); size], avail_event u16
//! ```
//!
//! A **slot** is room for one request. With indirect descriptors a slot is one entry of the descriptor table that
//! points to a table of its own; without them it is a fixed stretch of the descriptor table. So there is no free list
//! of descriptors to follow or to corrupt, and a request costs no allocation.
//!
//! Invariants:
//! - the device's words are checked before use: a head that is not in flight, a length beyond what was writable or more
//!   answers than questions make the queue broken for good, and are never a panic;
//! - nothing is read back from memory that the device may write, except the used ring.

use alloc::rc::Rc;
use alloc::vec::Vec;

use hal::dma::{self, DmaBuf};
use virtio_drivers::device::common::Feature;

use crate::transport::RingAddresses;

const DESCRIPTOR: usize = 16;
const USED_ENTRY: usize = 8;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;
/// In the flags of the available ring: no interrupts, please.
const NO_INTERRUPT: u16 = 1;
/// In the flags of the used ring: no doorbells, please.
const NO_NOTIFY: u16 = 1;

/// How often a device is seen to wait for a doorbell that it should have heard before it gets another one. It may just not have
/// come to it yet, and then one more costs an exit.
const LOOKS: u8 = 4;

/// A stretch of memory in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is for the device.
    pub address: u64,
    /// Its bytes.
    pub len: u32,
    /// Whether the device writes it; such segments come last in a request.
    pub writable: bool,
}

/// The number of a request in flight, below [`Queue::slots`]; free for reuse once the request was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u16);

impl Token {
    /// The number, for tables beside the queue.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A request the device has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Which one.
    pub token: Token,
    /// Bytes the device says it wrote, never more than the request offered.
    pub written: u32,
}

/// The device broke the rules of the ring; it must be reset before its memory is touched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// One virtqueue.
pub struct Queue {
    rings: Rc<DmaBuf>,
    layout: Layout,
    /// One table of `segments_max` descriptors per slot, when descriptors may be indirect.
    tables: Option<Rc<DmaBuf>>,
    size: u16,
    segments_max: u16,
    /// Entries of the descriptor table that a slot has.
    stride: u16,
    event_idx: bool,
    free: Vec<u16>,
    /// For each slot in flight, the bytes its device may write.
    in_flight: Vec<Option<u32>>,
    available_next: u16,
    available_published: u16,
    used_next: u16,
    /// How far the device was when it was looked at last.
    used_seen: u16,
    /// Where the device was seen to wait, and how often since.
    waits_at: (u16, u8),
    broken: bool,
}

impl Queue {
    /// A queue of `size` entries for requests of up to `segments_max` segments, or `None` when not even one fits.
    ///
    /// # Panics
    /// When `size` is not a power of two, or there is no memory.
    #[must_use]
    pub fn new(size: u16, segments_max: u16, features: Feature) -> Option<Self> {
        assert!(size.is_power_of_two(), "ring size {size}");
        let indirect = features.contains(Feature::RING_INDIRECT_DESC) && segments_max > 1;
        let stride = if indirect { 1 } else { segments_max };
        let slots = size / stride.max(1);
        if slots == 0 || segments_max == 0 {
            return None;
        }
        let layout = Layout::of(size);
        let table_bytes = usize::from(slots) * usize::from(segments_max) * DESCRIPTOR;
        Some(Self {
            rings: Rc::new(DmaBuf::new(layout.len.div_ceil(dma::PAGE_SIZE))),
            layout,
            tables: indirect.then(|| Rc::new(DmaBuf::new(table_bytes.div_ceil(dma::PAGE_SIZE)))),
            size,
            segments_max,
            stride,
            event_idx: features.contains(Feature::RING_EVENT_IDX),
            free: (0..slots).rev().collect(),
            in_flight: alloc::vec![None; usize::from(slots)],
            available_next: 0,
            available_published: 0,
            used_next: 0,
            used_seen: 0,
            waits_at: (0, 0),
            broken: false,
        })
    }

    /// Where the rings are, for the device.
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        let base = self.rings.device_address();
        let layout = self.layout;
        RingAddresses {
            descriptors: base,
            available: base + layout.available as u64,
            used: base + layout.used as u64,
        }
    }

    /// Requests that fit at one time.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.in_flight.len()
    }

    /// Requests that fit now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Puts a request in the ring; the device sees it after [`publish`](Self::publish). `None` when the ring is full.
    ///
    /// The memory of all segments belongs to the device until the token is popped or the device was reset.
    ///
    /// # Panics
    /// When there are no segments or more than the queue was made for.
    pub fn push(&mut self, segments: &[Segment]) -> Option<Token> {
        assert!(
            !segments.is_empty() && segments.len() <= usize::from(self.segments_max),
            "{} segments in one request",
            segments.len()
        );
        let slot = self.free.pop()?;
        let head = slot * self.stride;
        match &self.tables {
            Some(tables) if segments.len() > 1 => {
                let offset = usize::from(slot) * usize::from(self.segments_max) * DESCRIPTOR;
                write_chain(tables, offset, 0, segments);
                let table = Descriptor {
                    address: tables.device_address() + offset as u64,
                    len: (segments.len() * DESCRIPTOR) as u32,
                    flags: FLAG_INDIRECT,
                    next: 0,
                };
                table.write(&self.rings, usize::from(head) * DESCRIPTOR);
            }
            _ => write_chain(&self.rings, usize::from(head) * DESCRIPTOR, head, segments),
        }
        let writable = segments.iter().filter(|segment| segment.writable);
        let writable = writable.fold(0_u32, |sum, segment| sum.saturating_add(segment.len));
        self.in_flight[usize::from(slot)] = Some(writable);
        let position = usize::from(self.available_next & (self.size - 1));
        let layout = self.layout;
        self.rings
            .write16(layout.available + 4 + 2 * position, head);
        self.available_next = self.available_next.wrapping_add(1);
        Some(Token(slot))
    }

    /// Shows the device all that was pushed. Returns whether it wants its doorbell rung for that.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.available_published, self.available_next);
        if old == new {
            return false;
        }
        let layout = self.layout;
        dma::publish();
        self.rings.write16(layout.available + 2, new);
        self.available_published = new;
        // The device looks at the index after it has set its event or flag; we do the reverse (2.7.7).
        dma::publish_then_observe();
        if self.event_idx {
            let event = self.rings.read16(layout.avail_event);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.rings.read16(layout.used) & NO_NOTIFY == 0
        }
    }

    /// Whether the device waits for a doorbell although there is something published for it; to be asked before each sleep.
    ///
    /// [`publish`](Self::publish) decides by what the device wrote before it looked at the index, which takes a barrier between our
    /// write and our read. QEMU before 8.0 leaves it out of translated code if the machine has one CPU. Such a doorbell is then
    /// rung once, late.
    #[must_use]
    pub fn is_overlooked(&mut self) -> bool {
        if !self.event_idx || self.broken {
            return false;
        }
        let layout = self.layout;
        let event = self.rings.read16(layout.avail_event);
        let waits =
            event != self.available_published && event == self.rings.read16(layout.used + 2);
        let (at, looks) = self.waits_at;
        let looks = match waits {
            true if at == event => looks.saturating_add(1),
            true => 1,
            false => 0,
        };
        self.waits_at = (event, looks);
        looks == LOOKS
    }

    /// Takes the next request that the device has finished with.
    ///
    /// # Errors
    /// [`Broken`] when the device broke the rules, then and ever after.
    pub fn pop(&mut self) -> Result<Option<Used>, Broken> {
        if self.broken {
            return Err(Broken);
        }
        let layout = self.layout;
        if self.used_seen == self.used_next {
            self.used_seen = self.rings.read16(layout.used + 2);
            if self.used_seen == self.used_next {
                return Ok(None);
            }
            dma::observe();
        }
        let waiting = self.used_seen.wrapping_sub(self.used_next);
        let entry = layout.used + 4 + usize::from(self.used_next & (self.size - 1)) * USED_ENTRY;
        let (head, written) = (self.rings.read32(entry), self.rings.read32(entry + 4));
        let in_flight = self.slots() - self.free.len();
        match self.slot_of(head) {
            Some((slot, writable)) if written <= writable && usize::from(waiting) <= in_flight => {
                self.used_next = self.used_next.wrapping_add(1);
                self.in_flight[usize::from(slot)] = None;
                self.free.push(slot);
                Ok(Some(Used {
                    token: Token(slot),
                    written,
                }))
            }
            _ => {
                self.broken = true;
                Err(Broken)
            }
        }
    }

    /// The slot in flight whose chain starts at `head`, and the bytes it may write.
    fn slot_of(&self, head: u32) -> Option<(u16, u32)> {
        let head = u16::try_from(head).ok()?;
        let slot = head / self.stride;
        let writable = (*self.in_flight.get(usize::from(slot))?)?;
        head.is_multiple_of(self.stride).then_some((slot, writable))
    }

    /// Whether the device has answered something that was not popped yet.
    #[must_use]
    pub fn has_used(&self) -> bool {
        !self.broken && self.rings.read16(self.layout.used + 2) != self.used_next
    }

    /// Asks for an interrupt at the next answer. Returns whether there are answers already, which raise none.
    #[must_use]
    pub fn enable_interrupts(&mut self) -> bool {
        let layout = self.layout;
        if self.event_idx {
            self.rings.write16(layout.used_event, self.used_next);
        } else {
            self.rings.write16(layout.available, 0);
        }
        dma::publish_then_observe();
        self.has_used()
    }

    /// Asks for no interrupts. The device may be late to notice.
    pub fn disable_interrupts(&mut self) {
        let layout = self.layout;
        if self.event_idx {
            // An event just behind is the one that takes longest to come round again.
            let behind = self.used_next.wrapping_sub(1);
            self.rings.write16(layout.used_event, behind);
        } else {
            self.rings.write16(layout.available, NO_INTERRUPT);
        }
    }

    /// Gives the memory of the rings up for ever, for when the device may still be using it.
    pub fn quarantine(&mut self) {
        self.broken = true;
        core::mem::forget(self.rings.clone());
        core::mem::forget(self.tables.clone());
    }

    /// Starts the ring's counters at `index` as if that many requests had passed.
    #[cfg(test)]
    pub(crate) fn start_at(&mut self, index: u16) {
        let layout = self.layout;
        self.rings.write16(layout.available + 2, index);
        self.rings.write16(layout.used + 2, index);
        (self.available_next, self.available_published) = (index, index);
        (self.used_next, self.used_seen) = (index, index);
    }
}

/// Offsets of the rings of one queue within its memory.
#[derive(Clone, Copy)]
struct Layout {
    available: usize,
    used_event: usize,
    used: usize,
    avail_event: usize,
    len: usize,
}

impl Layout {
    fn of(size: u16) -> Self {
        let size = usize::from(size);
        let available = size * DESCRIPTOR;
        let used_event = available + 4 + 2 * size;
        // On a cache line of its own: the two sides write different rings.
        let used = (used_event + 2).next_multiple_of(64);
        let avail_event = used + 4 + size * USED_ENTRY;
        Self {
            available,
            used_event,
            used,
            avail_event,
            len: avail_event + 2,
        }
    }
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn write(&self, memory: &DmaBuf, offset: usize) {
        let mut bytes = [0; DESCRIPTOR];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        memory.write_bytes(offset, &bytes);
    }
}

/// Writes `segments` as a chain of descriptors at `offset`, where the descriptor number `first` is.
fn write_chain(memory: &DmaBuf, offset: usize, first: u16, segments: &[Segment]) {
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        let write = if segment.writable { FLAG_WRITE } else { 0 };
        let descriptor = Descriptor {
            address: segment.address,
            len: segment.len,
            flags: write | if last { 0 } else { FLAG_NEXT },
            next: if last { 0 } else { first + index as u16 + 1 },
        };
        descriptor.write(memory, offset + index * DESCRIPTOR);
    }
}

#[cfg(test)]
mod tests;
