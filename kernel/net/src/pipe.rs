//! Streams in memory, for tests of servers and for the simulation: bounded, and with the ends of a TCP connection.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddr};

use exec::{Channel, Notify};

use crate::{Listener, NetError, Stream};

/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// One end of a connection in memory. When the last clone is dropped, the peer reads what is queued and then the end;
/// what the peer writes fails.
#[derive(Clone)]
pub struct Pipe {
    end: Rc<End>,
}

struct End {
    incoming: Rc<Lane>,
    outgoing: Rc<Lane>,
    peer: SocketAddr,
}

/// One direction.
struct Lane {
    queue: RefCell<VecDeque<u8>>,
    capacity: usize,
    state: Cell<LaneState>,
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Open,
    /// No more bytes follow.
    Finished,
    /// Nobody reads any more.
    Abandoned,
    /// Reset.
    Aborted,
}

/// Two ends of one connection; each direction holds `capacity` bytes.
#[must_use]
pub fn pipe(capacity: usize) -> (Pipe, Pipe) {
    pipe_between(capacity, address(2), address(1))
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 0, 0, host).into(), 1)
}

/// The first end sees `first_peer` as its peer, the second `second_peer`.
fn pipe_between(capacity: usize, first_peer: SocketAddr, second_peer: SocketAddr) -> (Pipe, Pipe) {
    let (forth, back) = (Lane::new(capacity), Lane::new(capacity));
    let end = |incoming: &Rc<Lane>, outgoing: &Rc<Lane>, peer| Pipe {
        end: Rc::new(End {
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            peer,
        }),
    };
    (
        end(&back, &forth, first_peer),
        end(&forth, &back, second_peer),
    )
}

impl Lane {
    fn new(capacity: usize) -> Rc<Self> {
        assert!(capacity > 0, "a pipe without room");
        Rc::new(Self {
            queue: RefCell::default(),
            capacity,
            state: Cell::new(LaneState::Open),
            changed: Notify::default(),
        })
    }

    fn take(&self, into: &mut [u8]) -> usize {
        let mut queue = self.queue.borrow_mut();
        let count = queue.len().min(into.len());
        for (place, byte) in into.iter_mut().zip(queue.drain(..count)) {
            *place = byte;
        }
        drop(queue);
        if count > 0 {
            self.changed.notify();
        }
        count
    }

    fn put(&self, from: &[u8]) -> usize {
        let mut queue = self.queue.borrow_mut();
        let count = from.len().min(self.capacity - queue.len());
        queue.extend(&from[..count]);
        drop(queue);
        if count > 0 {
            self.changed.notify();
        }
        count
    }

    fn set(&self, state: LaneState) {
        self.state.set(state);
        self.changed.notify();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.outgoing.state.get() == LaneState::Open {
            self.outgoing.set(LaneState::Finished);
        }
        if self.incoming.state.get() != LaneState::Aborted {
            self.incoming.set(LaneState::Abandoned);
        }
    }
}

impl Stream for Pipe {
    async fn read(&self, into: &mut [u8]) -> Result<usize, NetError> {
        let lane = &self.end.incoming;
        loop {
            if lane.state.get() == LaneState::Aborted {
                return Err(NetError::Closed);
            }
            let count = lane.take(into);
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            if lane.state.get() != LaneState::Open {
                return Ok(0);
            }
            lane.changed.wait().await;
        }
    }

    async fn write_parts<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<usize, NetError> {
        let lane = &self.end.outgoing;
        let is_empty = parts.clone().all(<[u8]>::is_empty);
        loop {
            if lane.state.get() != LaneState::Open {
                return Err(NetError::Closed);
            }
            let count = self.try_write(parts.clone());
            if count > 0 || is_empty {
                return Ok(count);
            }
            lane.changed.wait().await;
        }
    }

    fn try_read(&self, into: &mut [u8]) -> usize {
        let lane = &self.end.incoming;
        let is_aborted = lane.state.get() == LaneState::Aborted;
        if is_aborted { 0 } else { lane.take(into) }
    }

    fn try_write<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> usize {
        let lane = &self.end.outgoing;
        if lane.state.get() != LaneState::Open {
            return 0;
        }
        let mut done = 0;
        for part in parts {
            let count = lane.put(part);
            done += count;
            if count < part.len() {
                break;
            }
        }
        done
    }

    fn finish(&self) {
        if self.end.outgoing.state.get() == LaneState::Open {
            self.end.outgoing.set(LaneState::Finished);
        }
    }

    fn abort(&self) {
        self.end.outgoing.set(LaneState::Aborted);
        self.end.incoming.set(LaneState::Aborted);
    }

    fn peer(&self) -> SocketAddr {
        self.end.peer
    }
}

/// An open port in memory.
pub struct PipeListener {
    queue: Channel<Pipe>,
}

/// Makes connections to a [`PipeListener`].
#[derive(Clone)]
pub struct PipeDialer {
    queue: Channel<Pipe>,
    capacity: usize,
}

/// A port in memory and what connects to it; each direction of a connection holds `capacity` bytes.
#[must_use]
pub fn pipe_port(capacity: usize) -> (PipeListener, PipeDialer) {
    let queue = Channel::new(BACKLOG);
    let listener = PipeListener {
        queue: queue.clone(),
    };
    (listener, PipeDialer { queue, capacity })
}

impl PipeDialer {
    /// Connects.
    ///
    /// # Errors
    /// [`NetError::Unreachable`] when the listener is gone or 64 connections wait.
    pub fn connect(&self) -> Result<Pipe, NetError> {
        let (near, far) = pipe(self.capacity);
        let sent = self.queue.try_send(far);
        sent.map_err(|_| NetError::Unreachable)?;
        Ok(near)
    }
}

impl Listener for PipeListener {
    type Stream = Pipe;

    async fn accept(&self) -> Pipe {
        let next = self.queue.receive().await;
        next.expect("closed only when the listener is dropped")
    }
}

impl Drop for PipeListener {
    fn drop(&mut self) {
        self.queue.close();
        while self.queue.try_receive().is_some() {}
    }
}
