//! What a network interface can do.

use alloc::boxed::Box;

/// What a link is and what work it takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest IP packet that fits in a frame, in bytes (1500 on plain Ethernet).
    pub mtu: usize,
    /// The link fills in TCP and UDP checksums of frames it sends.
    pub transmit_checksum: bool,
    /// The link vouches for checksums of frames it receives ([`FrameMeta::checksum_valid`]).
    pub receive_checksum: bool,
    /// The link cuts large TCP/IPv4 packets into segments ([`FrameMeta::segmentation`]).
    pub segmentation_tcp4: bool,
}

/// How a large TCP packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Payload bytes of each segment.
    pub segment_bytes: u16,
}

/// What the link and the stack tell each other about one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// Received: checksums were verified (or need not be, on a virtual wire).
    pub checksum_valid: bool,
    /// To send: fill in the TCP or UDP checksum; the driver finds the header itself.
    pub checksum_wanted: bool,
    /// To send: cut this TCP/IPv4 packet.
    pub segmentation: Option<Segmentation>,
}

/// One Ethernet frame in memory that belongs to a link and is moved by value.
#[derive(Debug)]
pub struct Frame {
    memory: Box<[u8]>,
    start: usize,
    len: usize,
    /// Offload facts of this frame.
    pub meta: FrameMeta,
}

impl Frame {
    /// A frame whose bytes are `memory[start..start + len]`; the bytes before `start` belong to the driver.
    ///
    /// # Panics
    /// When the range does not fit in `memory`.
    #[must_use]
    pub fn new(memory: Box<[u8]>, start: usize, len: usize) -> Self {
        assert!(
            start <= memory.len() && len <= memory.len() - start,
            "frame outside its memory"
        );
        Self {
            memory,
            start,
            len,
            meta: FrameMeta::default(),
        }
    }

    /// The frame's bytes, from the destination address on, without frame check sequence.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The frame's bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// The most bytes this frame can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Sets the length in bytes.
    ///
    /// # Panics
    /// When `len` exceeds [`capacity`](Self::capacity).
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "frame longer than its memory");
        self.len = len;
    }

    /// The memory, for the driver that owns it.
    #[must_use]
    pub fn into_memory(self) -> Box<[u8]> {
        self.memory
    }
}

/// A network interface: an edge that the main loop polls.
///
/// Frames come from the link's own supply and go back to it: a received frame through [`release`](Link::release), a
/// frame to send through [`transmit`](Link::transmit).
pub trait Link {
    /// Address, sizes and offloads.
    fn info(&self) -> LinkInfo;

    /// Takes the next received frame, if there is one.
    fn receive(&mut self) -> Option<Frame>;

    /// Gives a received frame's memory back, so that the link can receive into it again.
    fn release(&mut self, frame: Frame);

    /// Takes an empty frame to fill, or `None` while all of them are on their way.
    fn transmit_frame(&mut self) -> Option<Frame>;

    /// Queues a filled frame. The link may wait for [`kick`](Link::kick) before it tells the device.
    fn transmit(&mut self, frame: Frame);

    /// Tells the device about everything queued.
    fn kick(&mut self);
}
