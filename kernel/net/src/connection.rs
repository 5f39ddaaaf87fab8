//! One connection and one open port, as the stack books them.
//!
//! ```text
//!   SYN                ACK               accept             last handle dropped
//! ──────► HalfOpen ──────────► Queued ──────────► Held ───────────────────────► Leaving ─────► gone
//!             └── reset, timeout: gone      connect ──┘                            └► TimeWait ──┘
//! ```

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use smoltcp::time::Duration;

use exec::Notify;
use smoltcp::socket::tcp;

use crate::sockets::Place;

/// Closed sockets kept per port with their buffers, so that the next connection need not allocate.
const SPARE_MAX: usize = 2;

/// How long an acknowledgement of at most one segment waits for a reply to ride on. Shorter than what a peer waits before
/// it thinks that a segment is lost, longer than most requests take.
const ACK_DELAY: Duration = Duration::from_millis(2);

/// Both ends of a connection: ours, then the peer's.
pub type Ends = (SocketAddr, SocketAddr);

/// One TCP connection that has a socket.
pub struct Connection {
    pub place: Place,
    pub ends: Ends,
    /// The port that it came in at; `None` for connections made here.
    pub port: Option<Rc<Port>>,
    pub stage: Cell<Stage>,
    /// The peer reset it, or our address went away.
    pub is_reset: Cell<bool>,
    /// We reset it.
    pub is_aborted: Cell<bool>,
    /// We said that no more bytes follow.
    pub is_finished: Cell<bool>,
    /// The reader has seen the peer's end.
    pub is_ended: Cell<bool>,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Our SYN-ACK is not acknowledged.
    HalfOpen,
    /// Nobody accepted it yet.
    Queued,
    /// A stream holds it.
    Held,
    /// Dropped by its stream; what is queued still goes out.
    Leaving,
    /// Closed on both sides; answers late segments.
    TimeWait,
}

impl Connection {
    pub fn new(place: Place, ends: Ends, port: Option<Rc<Port>>, stage: Stage) -> Self {
        Self {
            place,
            ends,
            port,
            stage: Cell::new(stage),
            is_reset: Cell::new(false),
            is_aborted: Cell::new(false),
            is_finished: Cell::new(false),
            is_ended: Cell::new(false),
        }
    }
}

/// What an open port allows and how large its connections' buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Bytes that a peer can send ahead of the reader; from 64 KiB on, one less than a power of two is used.
    pub receive_bytes: usize,
    /// Bytes that a writer can queue ahead of the peer's acknowledgements.
    pub transmit_bytes: usize,
    /// Connections at one time, half-open ones included; more are refused with RST.
    pub connections_max: usize,
    /// Half-open connections at one time; more are refused with RST.
    pub half_open_max: usize,
}

impl Default for ListenOptions {
    /// 64 connections of 128 KiB each way: 16 MiB when all are in use.
    fn default() -> Self {
        Self {
            receive_bytes: 128 << 10,
            transmit_bytes: 128 << 10,
            connections_max: 64,
            half_open_max: 64,
        }
    }
}

/// An open port.
pub struct Port {
    pub number: u16,
    pub options: ListenOptions,
    /// Established, not accepted.
    pub queue: RefCell<VecDeque<Rc<Connection>>>,
    pub arrived: Notify,
    /// Connections of the stages before [`Stage::Leaving`].
    pub connections: Cell<usize>,
    pub half_open: Cell<usize>,
    spare: RefCell<Vec<tcp::Socket<'static>>>,
}

impl Port {
    pub fn new(number: u16, options: ListenOptions) -> Self {
        Self {
            number,
            options,
            queue: RefCell::default(),
            arrived: Notify::default(),
            connections: Cell::new(0),
            half_open: Cell::new(0),
            spare: RefCell::default(),
        }
    }

    /// Whether another connection is allowed.
    pub fn has_room(&self) -> bool {
        self.connections.get() < self.options.connections_max
            && self.half_open.get() < self.options.half_open_max
    }

    /// A closed socket with this port's buffers.
    pub fn take_socket(&self) -> tcp::Socket<'static> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| new_socket(&self.options))
    }

    /// Keeps `socket` for the next connection, if there is a place for it.
    pub fn keep_socket(&self, mut socket: tcp::Socket<'static>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            socket.abort();
            spare.push(socket);
        }
    }
}

/// A closed socket with buffers of its own.
pub fn new_socket(options: &ListenOptions) -> tcp::Socket<'static> {
    let mut socket = tcp::Socket::new(
        tcp::SocketBuffer::new(vec![0; window_bytes(options.receive_bytes)]),
        tcp::SocketBuffer::new(vec![0; options.transmit_bytes]),
    );
    // Requests and replies are small and wait for each other: neither may be held back.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(ACK_DELAY));
    socket
}

/// The largest receive buffer of at most `limit` bytes whose window can be said exactly.
///
/// The window in a SYN is not scaled (RFC 7323 section 2.2), but smoltcp 0.14 later takes it as if it were. In a buffer
/// of one less than a power of two that is the same; in others a peer could send past the end of the buffer.
fn window_bytes(limit: usize) -> usize {
    let unscaled = usize::from(u16::MAX);
    if limit <= unscaled {
        limit
    } else {
        (1 << (limit + 1).ilog2()) - 1
    }
}

/// Adds one to a count.
pub fn increment(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

/// Takes one from a count.
pub fn decrement(count: &Cell<usize>) {
    let now = count.get().checked_sub(1);
    count.set(now.expect("counted when it came"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_syn_fits_the_buffer() {
        let cases = [
            (1000, 1000),
            (65535, 65535),
            (65536, 65535),
            (100_000, 65535),
            (131_071, 131_071),
            (131_072, 131_071),
            (1 << 20, (1 << 20) - 1),
        ];
        for (limit, bytes) in cases {
            assert_eq!(window_bytes(limit), bytes, "{limit}");
        }
    }
}
