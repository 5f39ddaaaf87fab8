//! A [`Link`] as smoltcp's device.
//!
//! Frames are read and written in place. Three of them may wait here: a received frame, which the stack looks into
//! before smoltcp does, one behind it that could not be joined to it, and an empty frame, so that a reply to a received
//! frame always has a place to go.

use core::cell::RefCell;
use core::num::NonZeroUsize;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use world::{Frame, FrameMeta, Link, LinkInfo, Segmentation};

use crate::gather::Gathering;
use crate::inspect::{self, Completeness};

const ETHERNET_BYTES: usize = 14;

/// The most a packet handed to the link for cutting may hold, Ethernet header included.
const SEGMENTATION_BYTES_MAX: usize = 65535;

/// Segments joined to one.
const JOINED_MAX: usize = 63;

pub struct Device<L> {
    side: RefCell<Side<L>>,
    info: LinkInfo,
    capabilities: DeviceCapabilities,
}

struct Side<L> {
    link: L,
    received: Option<Frame>,
    /// Received behind `received`.
    behind: Option<Frame>,
    vacant: Option<Frame>,
    transmit_checksum: bool,
    has_queued: bool,
    /// Somebody wanted to send when there was no frame left.
    is_refusing: bool,
    /// The last frame sent had not all that its connection wants to send.
    has_sent_part: bool,
    traffic: Traffic,
}

/// Frames that went through.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
    pub dropped: u64,
}

impl<L: Link> Device<L> {
    pub fn new(mut link: L) -> Self {
        let info = link.info();
        // A frame is taken now to learn how much the link's frames hold.
        let vacant = link.transmit_frame();
        let capacity = vacant.as_ref().map_or(0, Frame::capacity);
        let capabilities = capabilities(&info, capacity);
        let side = Side {
            link,
            received: None,
            behind: None,
            vacant,
            transmit_checksum: info.transmit_checksum,
            has_queued: false,
            is_refusing: false,
            has_sent_part: false,
            traffic: Traffic::default(),
        };
        Self {
            side: RefCell::new(side),
            info,
            capabilities,
        }
    }

    pub fn info(&self) -> &LinkInfo {
        &self.info
    }

    /// Whether a received frame waits and can be answered.
    pub fn is_ready(&mut self) -> bool {
        let side = self.side.get_mut();
        side.fetch() && side.reserve()
    }

    /// Whether a received frame is known to wait.
    pub fn has_received(&self) -> bool {
        let side = self.side.borrow();
        side.received.is_some() || side.behind.is_some()
    }

    /// Hands the waiting frame to `look`; `None` when there is none.
    pub fn look<R>(&mut self, look: impl FnOnce(&[u8], FrameMeta) -> R) -> Option<R> {
        let side = self.side.get_mut();
        side.fetch();
        let frame = side.received.as_ref()?;
        Some(look(frame.bytes(), frame.meta))
    }

    /// Joins the segments that follow the waiting one to it, as far as they can be.
    pub fn gather(&mut self) {
        let side = self.side.get_mut();
        let Some(frame) = &mut side.received else {
            return;
        };
        let Some(mut gathering) = Gathering::begin(frame) else {
            return;
        };
        for _ in 0..JOINED_MAX {
            let Some(next) = side.behind.take().or_else(|| side.link.receive()) else {
                break;
            };
            if !gathering.join(frame, &next) {
                side.behind = Some(next);
                break;
            }
            side.traffic.received += 1;
            side.link.release(next);
        }
        gathering.finish(frame);
    }

    /// Drops the waiting frame.
    pub fn discard(&mut self) {
        let side = self.side.get_mut();
        if let Some(frame) = side.received.take() {
            side.traffic.dropped += 1;
            side.link.release(frame);
        }
    }

    /// To be called before smoltcp is asked to send.
    pub fn before_egress(&mut self) {
        let side = self.side.get_mut();
        (side.is_refusing, side.has_sent_part) = (false, false);
    }

    /// Whether there was no frame left for what smoltcp wanted to send.
    pub fn is_refusing(&self) -> bool {
        self.side.borrow().is_refusing
    }

    /// Whether the frame that was sent did not complete what its connection has to send.
    pub fn has_sent_part(&self) -> bool {
        self.side.borrow().has_sent_part
    }

    /// Tells the link about queued frames, if there are any.
    pub fn kick(&mut self) {
        let side = self.side.get_mut();
        if core::mem::take(&mut side.has_queued) {
            side.link.kick();
        }
    }

    pub fn traffic(&self) -> Traffic {
        self.side.borrow().traffic
    }
}

impl<L: Link> Side<L> {
    fn fetch(&mut self) -> bool {
        if self.received.is_none() {
            self.received = self.behind.take().or_else(|| self.link.receive());
        }
        self.received.is_some()
    }

    fn reserve(&mut self) -> bool {
        if self.vacant.is_none() {
            self.vacant = self.link.transmit_frame();
        }
        self.vacant.is_some()
    }
}

fn capabilities(info: &LinkInfo, frame_capacity: usize) -> DeviceCapabilities {
    let mut all = DeviceCapabilities::default();
    all.medium = Medium::Ethernet;
    all.max_transmission_unit = info.mtu + ETHERNET_BYTES;
    // Where the link vouches, the stack checks what the link does not vouch for, frame by frame.
    all.checksum.tcp = match (info.transmit_checksum, info.receive_checksum) {
        (false, false) => Checksum::Both,
        (false, true) => Checksum::Tx,
        (true, false) => Checksum::Rx,
        (true, true) => Checksum::None,
    };
    // UDP is only DHCP: not worth asking the link for.
    all.checksum.udp = if info.receive_checksum {
        Checksum::Tx
    } else {
        Checksum::Both
    };
    // Cutting IPv6 packets is left off: smoltcp 0.14 drops packets above the MTU there.
    if info.segmentation_tcp4 && info.transmit_checksum && frame_capacity > info.mtu {
        all.segmentation.tcpv4 = NonZeroUsize::new(frame_capacity.min(SEGMENTATION_BYTES_MAX));
    }
    all
}

impl<L: Link> phy::Device for Device<L> {
    type RxToken<'a>
        = Received<'a, L>
    where
        L: 'a;
    type TxToken<'a>
        = Vacant<'a, L>
    where
        L: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_, L>, Vacant<'_, L>)> {
        if !self.is_ready() {
            return None;
        }
        let frame = self.side.get_mut().received.take()?;
        self.side.get_mut().traffic.received += 1;
        let received = Received {
            side: &self.side,
            frame,
        };
        Some((received, Vacant::new(&self.side)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Vacant<'_, L>> {
        let side = self.side.get_mut();
        side.is_refusing = !side.reserve();
        (!side.is_refusing).then(|| Vacant::new(&self.side))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// A device that has never a frame left to send with.
pub struct Refusal;

impl phy::Device for Refusal {
    type RxToken<'a> = Nothing;
    type TxToken<'a> = Nothing;

    fn receive(&mut self, _now: Instant) -> Option<(Nothing, Nothing)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Nothing> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::default()
    }
}

/// What a [`Refusal`] gives.
pub enum Nothing {}

impl phy::RxToken for Nothing {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _read: F) -> R {
        match self {}
    }
}

impl phy::TxToken for Nothing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _len: usize, _fill: F) -> R {
        match self {}
    }
}

/// A received frame on its way through smoltcp.
pub struct Received<'a, L> {
    side: &'a RefCell<Side<L>>,
    frame: Frame,
}

impl<L: Link> phy::RxToken for Received<'_, L> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(self.frame.bytes());
        self.side.borrow_mut().link.release(self.frame);
        result
    }
}

/// The right to fill the vacant frame. Unused, it leaves the frame where it is.
pub struct Vacant<'a, L> {
    side: &'a RefCell<Side<L>>,
    segmentation: Option<Segmentation>,
}

impl<'a, L> Vacant<'a, L> {
    fn new(side: &'a RefCell<Side<L>>) -> Self {
        Self {
            side,
            segmentation: None,
        }
    }
}

impl<L: Link> phy::TxToken for Vacant<'_, L> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let vacant = self.side.borrow_mut().vacant.take();
        let mut frame = vacant.expect("reserved when the token was made");
        frame.set_len(len);
        let result = fill(frame.bytes_mut());
        let mut side = self.side.borrow_mut();
        let sent = inspect::sent(frame.bytes());
        side.has_sent_part = sent == Some(Completeness::Part);
        frame.meta = FrameMeta {
            checksum_valid: false,
            checksum_wanted: side.transmit_checksum && sent.is_some(),
            segmentation: self.segmentation,
        };
        side.link.transmit(frame);
        side.has_queued = true;
        side.traffic.sent += 1;
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segmentation = meta.segmentation_offload_size.map(|size| Segmentation {
            segment_bytes: size.get(),
        });
    }
}
