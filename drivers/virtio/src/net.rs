//! Network devices as links (virtio 1.2, 5.1).
//!
//! Stop 1 of the walk: frames arrive here. One receive and one transmit queue; each frame is one contiguous piece of
//! memory with the device's header right in front of it, so it is one descriptor and never copied. With offloads a
//! frame carries up to 64 KiB of TCP, which is where most of the speed comes from.
//!
//! Invariants:
//! - a frame's memory is with the device, in the hands of the stack, or idle, and there is a fixed number of frames;
//! - whatever the device answers, `receive` gives out only bytes inside a frame's memory.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use hal::dma;
use log::{info, warn};
use world::{Frame, Link, LinkInfo};

use crate::offload::{HEADER_BYTES, receive_meta, transmit_header};
use crate::queue::{Queue, Segment};
use crate::transport::{self, Transport, VirtioError, read_config};

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Feature bits of network devices (5.1.3).
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const STATUS: u64 = 1 << 16;
}

/// Offsets in the configuration (5.1.4).
const CONFIG_STATUS: usize = 6;
const CONFIG_MTU: usize = 10;

/// Where a frame starts in its memory: behind the header, and so that IP headers are aligned.
const FRAME_START: usize = 18;
const HEADER_START: usize = FRAME_START - HEADER_BYTES;

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const MTU_DEFAULT: u16 = 1500;
/// What IPv4 requires of a link; a device that offers less is broken.
const MTU_MIN: u16 = 68;
/// What a receive buffer must hold with GUEST_TSO4, header included (5.1.6.3.1).
const LARGE_FRAME_BYTES: usize = 65_562;
/// Frames too short to be looked at in one call of `receive`.
const RUNTS_MAX: usize = 64;

/// How much memory a link may use, as numbers of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Frames the device can receive into; at most as many as its queue has entries.
    pub receive_frames: u16,
    /// Frames that can be on their way out; at most as many as its queue has entries.
    pub transmit_frames: u16,
    /// Take segmentation offload where the device has it: each frame is then 64 KiB instead of about 1.5 KiB.
    pub large_frames: bool,
}

impl Default for NetConfig {
    /// 64 frames each way, large where possible: 8 MiB.
    fn default() -> Self {
        Self {
            receive_frames: 64,
            transmit_frames: 64,
            large_frames: true,
        }
    }
}

/// A network device. Clones are the same one, so that the main loop can arm interrupts of a link that a stack owns.
pub struct NetLink<T: Transport> {
    core: Rc<RefCell<Core<T>>>,
}

struct Core<T: Transport> {
    transport: T,
    info: LinkInfo,
    has_status: bool,
    receive_queue: Queue,
    transmit_queue: Queue,
    /// Memory of frames with the device, by token.
    receiving: Vec<Option<Box<[u8]>>>,
    sending: Vec<Option<Box<[u8]>>>,
    /// Frames to be filled.
    idle: Vec<Box<[u8]>>,
    transmit_bytes: usize,
    /// Somebody was refused a frame and waits.
    starved: bool,
    armed: bool,
    broken: bool,
}

impl<T: Transport> NetLink<T> {
    /// Starts the device and gives it all receive frames.
    ///
    /// # Errors
    /// When the device refuses, is gone or makes no sense; it is not running then.
    pub fn open(transport: T, config: NetConfig) -> Result<Self, VirtioError> {
        let core = Core::open(transport, config)?;
        Ok(Self {
            core: Rc::new(RefCell::new(core)),
        })
    }

    /// Asks for an interrupt when a frame arrives or, if somebody waits for one, when a frame to fill comes back.
    /// Returns whether there is something to do already; then the caller must not sleep.
    #[must_use]
    pub fn enable_interrupts(&self) -> bool {
        self.core.borrow_mut().enable_interrupts()
    }

    /// Whether the cable is plugged in, as far as the device can tell.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.core.borrow().is_up()
    }

    /// Whether the device was shut down because it broke the protocol. It receives and sends nothing any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.core.borrow().broken
    }
}

impl<T: Transport> Clone for NetLink<T> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
        }
    }
}

impl<T: Transport> Link for NetLink<T> {
    fn info(&self) -> LinkInfo {
        self.core.borrow().info
    }

    fn receive(&mut self) -> Option<Frame> {
        self.core.borrow_mut().receive()
    }

    fn release(&mut self, frame: Frame) {
        self.core.borrow_mut().give(frame.into_memory());
    }

    fn transmit_frame(&mut self) -> Option<Frame> {
        self.core.borrow_mut().transmit_frame()
    }

    fn transmit(&mut self, frame: Frame) {
        self.core.borrow_mut().transmit(frame);
    }

    fn kick(&mut self) {
        self.core.borrow_mut().kick();
    }
}

impl<T: Transport> Core<T> {
    fn open(mut transport: T, config: NetConfig) -> Result<Self, VirtioError> {
        let features = transport::negotiate(&mut transport, wanted(config))?;
        let features = Features(features);
        if !features.has(feature::MAC) {
            return Err(VirtioError::Refused);
        }
        let info = read_info(&transport, features)?;
        let mut open = |index, frames| {
            transport::open_queue(&mut transport, index, entries(frames), 1, features.0)
        };
        let receive = open(RECEIVE_QUEUE, config.receive_frames)?;
        let transmit = open(TRANSMIT_QUEUE, config.transmit_frames)?;
        let receive_bytes = frame_bytes(info.mtu, features.has(feature::GUEST_TSO4));
        let transmit_bytes = frame_bytes(info.mtu, features.has(feature::HOST_TSO4));
        let transmit_frames = usize::from(config.transmit_frames).min(transmit.slots());
        let receive_frames = usize::from(config.receive_frames).min(receive.slots());
        let mut link = Self {
            has_status: features.has(feature::STATUS),
            receiving: (0..receive.slots()).map(|_| None).collect(),
            sending: (0..transmit.slots()).map(|_| None).collect(),
            idle: (0..transmit_frames)
                .map(|_| memory(transmit_bytes))
                .collect(),
            transport,
            info,
            receive_queue: receive,
            transmit_queue: transmit,
            transmit_bytes,
            starved: false,
            armed: false,
            broken: false,
        };
        for _ in 0..receive_frames {
            link.give(memory(receive_bytes));
        }
        link.receive_queue.disable_interrupts();
        link.transmit_queue.disable_interrupts();
        transport::go(&mut link.transport)?;
        link.publish_receive();
        let [a, b, c, d, e, f] = info.mac;
        info!(
            "virtio-net: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, mtu {}, features {:#x}",
            info.mtu, features.0
        );
        Ok(link)
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.kick();
        for (index, queue) in [
            (RECEIVE_QUEUE, &mut self.receive_queue),
            (TRANSMIT_QUEUE, &mut self.transmit_queue),
        ] {
            if queue.is_overlooked() {
                self.transport.notify(index);
            }
        }
        self.armed = true;
        let mut work = self.receive_queue.enable_interrupts();
        if self.starved {
            let answered = self.transmit_queue.enable_interrupts();
            self.collect();
            work |= answered || !self.idle.is_empty();
        }
        work
    }

    fn is_up(&self) -> bool {
        !self.broken && (!self.has_status || self.transport.config16(CONFIG_STATUS) & 1 != 0)
    }

    /// Gives `memory` to the device to receive into.
    fn give(&mut self, mut memory: Box<[u8]>) {
        if self.broken {
            return;
        }
        let segment = lend(&mut memory[HEADER_START..], true);
        if let Some(token) = self.receive_queue.push(&[segment]) {
            self.receiving[token.index()] = Some(memory);
        } else {
            dma::reclaim(&mut memory[HEADER_START..]);
        }
    }

    fn publish_receive(&mut self) {
        if self.receive_queue.publish() {
            self.transport.notify(RECEIVE_QUEUE);
        }
    }

    /// Takes back frames that were sent.
    fn collect(&mut self) {
        // Bounded: nothing is pushed in between, so there are at most as many answers as slots.
        loop {
            match self.transmit_queue.pop() {
                Ok(Some(used)) => {
                    if let Some(mut memory) = self.sending[used.token.index()].take() {
                        dma::reclaim(&mut memory[HEADER_START..]);
                        self.idle.push(memory);
                    }
                }
                Ok(None) => return,
                Err(_) => return self.fail(),
            }
        }
    }

    /// Shuts the device down for good.
    fn fail(&mut self) {
        if self.broken {
            return;
        }
        self.broken = true;
        warn!("virtio-net: the device broke the protocol and is shut down");
        self.stop();
    }

    /// Ends all use of memory by the device, or gives the memory up.
    fn stop(&mut self) {
        let confirmed = transport::shut_down(&mut self.transport);
        for mut memory in self
            .receiving
            .drain(..)
            .chain(self.sending.drain(..))
            .flatten()
        {
            if confirmed {
                dma::reclaim(&mut memory[HEADER_START..]);
            } else {
                core::mem::forget(memory);
            }
        }
        if !confirmed {
            self.receive_queue.quarantine();
            self.transmit_queue.quarantine();
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        if core::mem::take(&mut self.armed) {
            self.receive_queue.disable_interrupts();
            self.transmit_queue.disable_interrupts();
        }
        for _ in 0..RUNTS_MAX {
            if self.broken {
                return None;
            }
            let Ok(popped) = self.receive_queue.pop() else {
                self.fail();
                return None;
            };
            let Some(used) = popped else { break };
            let mut memory = self.receiving[used.token.index()].take()?;
            dma::reclaim(&mut memory[HEADER_START..]);
            let len = (used.written as usize).saturating_sub(HEADER_BYTES);
            if len < ETHERNET_HEADER {
                self.give(memory);
                continue;
            }
            let meta = receive_meta(&memory[HEADER_START..FRAME_START]);
            let mut frame = Frame::new(memory, FRAME_START, len);
            frame.meta = meta;
            return Some(frame);
        }
        self.publish_receive();
        None
    }

    fn transmit_frame(&mut self) -> Option<Frame> {
        // The one that came back last is still in the processor's caches.
        if !self.broken {
            self.collect();
        }
        let memory = self.idle.pop();
        self.starved = memory.is_none();
        memory.map(|memory| Frame::new(memory, FRAME_START, 0))
    }

    fn transmit(&mut self, mut frame: Frame) {
        let len = frame.bytes().len();
        let meta = frame.meta;
        let header = transmit_header(frame.bytes_mut(), meta);
        let mut memory = frame.into_memory();
        assert!(
            memory.len() == self.transmit_bytes,
            "a frame of somebody else's"
        );
        if self.broken {
            self.idle.push(memory);
            return;
        }
        memory[HEADER_START..FRAME_START].copy_from_slice(&header);
        let segment = lend(&mut memory[HEADER_START..FRAME_START + len], false);
        match self.transmit_queue.push(&[segment]) {
            Some(token) => self.sending[token.index()] = Some(memory),
            None => {
                dma::reclaim(&mut memory[HEADER_START..]);
                self.idle.push(memory);
            }
        }
    }

    fn kick(&mut self) {
        if self.broken {
            return;
        }
        if self.transmit_queue.publish() {
            self.transport.notify(TRANSMIT_QUEUE);
        }
        self.publish_receive();
    }
}

impl<T: Transport> Drop for Core<T> {
    fn drop(&mut self) {
        if !self.broken {
            self.stop();
        }
    }
}

/// The features both sides have.
#[derive(Clone, Copy)]
struct Features(u64);

impl Features {
    fn has(self, feature: u64) -> bool {
        self.0 & feature != 0
    }
}

fn wanted(config: NetConfig) -> u64 {
    use feature::{CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MAC, MTU, STATUS};
    let large = if config.large_frames {
        GUEST_TSO4 | HOST_TSO4
    } else {
        0
    };
    MAC | MTU | STATUS | CSUM | GUEST_CSUM | large
}

fn read_info<T: Transport>(transport: &T, features: Features) -> Result<LinkInfo, VirtioError> {
    let (mac, mtu) = read_config(transport, |transport| {
        let mac = core::array::from_fn(|index| transport.config8(index));
        (mac, transport.config16(CONFIG_MTU))
    })?;
    let mtu = if features.has(feature::MTU) {
        mtu
    } else {
        MTU_DEFAULT
    };
    // The lowest bit of a group address is set; a card does not have one.
    if mtu < MTU_MIN || mac[0] & 1 != 0 {
        return Err(VirtioError::Lied);
    }
    Ok(LinkInfo {
        mac,
        mtu: mtu.into(),
        transmit_checksum: features.has(feature::CSUM),
        receive_checksum: features.has(feature::GUEST_CSUM),
        segmentation_tcp4: features.has(feature::CSUM) && features.has(feature::HOST_TSO4),
    })
}

/// The queue entries for a number of frames: a power of two.
fn entries(frames: u16) -> u16 {
    frames.clamp(1, 1 << 15).next_power_of_two()
}

/// Bytes of memory for one frame.
fn frame_bytes(mtu: usize, large: bool) -> usize {
    let frame = HEADER_BYTES + ETHERNET_HEADER + VLAN_TAG + mtu;
    let frame = if large {
        frame.max(LARGE_FRAME_BYTES)
    } else {
        frame
    };
    // An odd number of cache lines, so that frames do not lie a power of two apart and fight for the same sets.
    ((HEADER_START + frame).div_ceil(64) | 1) * 64
}

fn memory(bytes: usize) -> Box<[u8]> {
    alloc::vec![0; bytes].into_boxed_slice()
}

fn lend(bytes: &mut [u8], writable: bool) -> Segment {
    Segment {
        len: bytes.len() as u32,
        address: dma::lend(bytes),
        writable,
    }
}

#[cfg(test)]
mod tests;
