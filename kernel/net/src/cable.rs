//! Two [`Link`]s joined in memory, for tests and the simulation: what one end transmits, the other receives, unless the
//! test decides otherwise frame by frame.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use world::{Clock, Frame, FrameMeta, Instant, Link, LinkInfo};

use crate::inspect;

const ETHERNET_BYTES: usize = 14;

/// What a frame to be cut may hold, Ethernet header included.
const SEGMENTATION_BYTES: usize = 65535;

/// Frames on their way to one end; a sender has to wait when there are more.
const FRAMES_MAX: usize = 256;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at once.
    Deliver,
    /// It is lost.
    Drop,
    /// It arrives later; later frames may overtake it.
    Delay(Duration),
    /// It arrives twice.
    Duplicate,
}

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// The end that sent it, 0 or 1.
    pub from: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What the sender asked for.
    pub meta: FrameMeta,
}

type Decide = Box<dyn FnMut(Passing<'_>) -> Fate>;

/// A cable between two ends; clones refer to the same one.
#[derive(Clone)]
pub struct Cable {
    shared: Rc<Shared>,
}

struct Shared {
    clock: Rc<dyn Clock>,
    lanes: [RefCell<Lane>; 2],
    decide: RefCell<Decide>,
}

/// The frames on their way to one end.
struct Lane {
    info: LinkInfo,
    frames: BTreeMap<(Instant, u64), Frame>,
    next_id: u64,
    /// Memory of frames that this end sends.
    spare: Vec<Box<[u8]>>,
}

/// One end of a [`Cable`].
pub struct CableEnd {
    shared: Rc<Shared>,
    index: usize,
}

impl Cable {
    /// A cable whose ends have these properties; it delivers every frame at once.
    #[must_use]
    pub fn new(clock: Rc<dyn Clock>, infos: [LinkInfo; 2]) -> (Self, CableEnd, CableEnd) {
        let lane = |info| {
            RefCell::new(Lane {
                info,
                frames: BTreeMap::new(),
                next_id: 0,
                spare: Vec::new(),
            })
        };
        let shared = Rc::new(Shared {
            clock,
            lanes: infos.map(lane),
            decide: RefCell::new(Box::new(|_| Fate::Deliver)),
        });
        let end = |index| CableEnd {
            shared: shared.clone(),
            index,
        };
        let (first, second) = (end(0), end(1));
        (Self { shared }, first, second)
    }

    /// Lets `decide` choose what becomes of each frame from now on.
    pub fn decide(&self, decide: impl FnMut(Passing<'_>) -> Fate + 'static) {
        *self.shared.decide.borrow_mut() = Box::new(decide);
    }

    /// When the next frame arrives at either end.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        let first = |lane: &RefCell<Lane>| lane.borrow().frames.keys().next().map(|key| key.0);
        self.shared.lanes.iter().filter_map(first).min()
    }
}

impl Shared {
    fn carry(&self, from: usize, mut frame: Frame) {
        let passing = Passing {
            from,
            bytes: frame.bytes(),
            meta: frame.meta,
        };
        let fate = (self.decide.borrow_mut())(passing);
        let mut lane = self.lanes[1 - from].borrow_mut();
        frame.meta = FrameMeta {
            checksum_valid: frame.meta.checksum_wanted && lane.info.receive_checksum,
            ..FrameMeta::default()
        };
        let now = self.clock.now();
        match fate {
            Fate::Deliver => lane.push(now, frame),
            Fate::Drop => self.lanes[from]
                .borrow_mut()
                .spare
                .push(frame.into_memory()),
            Fate::Delay(delay) => lane.push(now + delay, frame),
            Fate::Duplicate => {
                let bytes = frame.bytes();
                let mut copy = Frame::new(bytes.into(), 0, bytes.len());
                copy.meta = frame.meta;
                lane.push(now, copy);
                lane.push(now, frame);
            }
        }
    }
}

impl Lane {
    fn push(&mut self, at: Instant, frame: Frame) {
        self.frames.insert((at, self.next_id), frame);
        self.next_id += 1;
    }

    fn frame_bytes(&self) -> usize {
        if self.info.segmentation_tcp4 {
            SEGMENTATION_BYTES
        } else {
            self.info.mtu + ETHERNET_BYTES
        }
    }
}

impl Link for CableEnd {
    fn info(&self) -> LinkInfo {
        self.shared.lanes[self.index].borrow().info
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut lane = self.shared.lanes[self.index].borrow_mut();
        let entry = lane.frames.first_entry()?;
        (entry.key().0 <= self.shared.clock.now()).then(|| entry.remove())
    }

    fn release(&mut self, frame: Frame) {
        let mut sender = self.shared.lanes[1 - self.index].borrow_mut();
        let memory = frame.into_memory();
        if memory.len() == sender.frame_bytes() && sender.spare.len() < FRAMES_MAX {
            sender.spare.push(memory);
        }
    }

    fn transmit_frame(&mut self) -> Option<Frame> {
        if self.shared.lanes[1 - self.index].borrow().frames.len() >= FRAMES_MAX {
            return None;
        }
        let mut lane = self.shared.lanes[self.index].borrow_mut();
        let frame_bytes = lane.frame_bytes();
        let memory = lane.spare.pop();
        let memory = memory.unwrap_or_else(|| vec![0; frame_bytes].into_boxed_slice());
        Some(Frame::new(memory, 0, 0))
    }

    fn transmit(&mut self, mut frame: Frame) {
        let info = self.info();
        let is_cut = frame.meta.segmentation.is_some();
        assert!(
            is_cut || frame.bytes().len() <= info.mtu + ETHERNET_BYTES,
            "a frame above the MTU that is not to be cut"
        );
        let peer = self.shared.lanes[1 - self.index].borrow().info;
        if frame.meta.checksum_wanted && !peer.receive_checksum {
            inspect::fill_checksum(frame.bytes_mut());
        }
        self.shared.carry(self.index, frame);
    }

    fn kick(&mut self) {}
}
