//! A TCP connection as a [`Stream`].

use alloc::rc::Rc;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::{Context, Poll};

use smoltcp::socket::tcp::{RecvError, State};
use world::Link;

use crate::connection::Connection;
use crate::stack::Shared;
use crate::{NetError, Stream};

/// A TCP connection.
///
/// At most one task may wait for reading and one for writing at a time: a second one takes the first one's place, and
/// the first is not woken. When the last clone is dropped, what is queued still goes out, unread bytes are thrown away,
/// and the connection is reset if the peer makes no progress for 20 s.
pub struct TcpStream<L: Link + 'static> {
    held: Rc<Held<L>>,
}

impl<L: Link> Clone for TcpStream<L> {
    fn clone(&self) -> Self {
        Self {
            held: self.held.clone(),
        }
    }
}

/// What all clones share; its end is the connection's.
struct Held<L: Link + 'static> {
    shared: Rc<Shared<L>>,
    connection: Rc<Connection>,
}

impl<L: Link> Drop for Held<L> {
    fn drop(&mut self) {
        let now = self.shared.exec.now();
        let table = &mut self.shared.core.borrow_mut().table;
        table.leave(&self.connection, now);
    }
}

impl<L: Link> TcpStream<L> {
    pub(crate) fn new(shared: Rc<Shared<L>>, connection: Rc<Connection>) -> Self {
        let held = Held { shared, connection };
        Self {
            held: Rc::new(held),
        }
    }

    /// This end.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.held.connection.ends.0
    }

    /// Takes what was received; `None` when there is nothing.
    fn take(&self, into: &mut [u8]) -> Option<usize> {
        let Held { shared, connection } = &*self.held;
        if connection.is_aborted.get() {
            return None;
        }
        let sockets = &mut shared.core.borrow_mut().table.sockets;
        let socket = sockets.get_quietly(connection.place);
        let count = socket.recv_slice(into).ok().filter(|count| *count > 0)?;
        let total = shared.received_bytes.get();
        shared.received_bytes.set(total + count as u64);
        sockets.has_read(connection.place, count);
        Some(count)
    }

    /// Queues what there is room for; `None` when that is not worth it.
    fn put<'a>(&self, mut parts: impl Iterator<Item = &'a [u8]> + Clone) -> Option<usize> {
        let Held { shared, connection } = &*self.held;
        if connection.is_aborted.get() || connection.is_finished.get() {
            return None;
        }
        let sockets = &mut shared.core.borrow_mut().table.sockets;
        let socket = sockets.get_quietly(connection.place);
        // A writer that was woken for every acknowledged segment would write, and send, in crumbs.
        let capacity = socket.send_capacity();
        let room = capacity - socket.send_queue();
        let wanted: usize = parts.clone().map(<[u8]>::len).sum();
        if room < wanted.min(capacity / 4) {
            return None;
        }
        let (mut count, mut part) = (0, &[][..]);
        // In two steps where the ring's end is in between.
        while count < wanted.min(room) {
            count += socket.send(|into| fill(into, &mut part, &mut parts)).ok()?;
        }
        sockets.wrote(connection.place, count);
        let total = shared.sent_bytes.get();
        shared.sent_bytes.set(total + count as u64);
        Some(count)
    }

    fn poll_read(&self, context: &Context<'_>, into: &mut [u8]) -> Poll<Result<usize, NetError>> {
        if let Some(count) = self.take(into) {
            return Poll::Ready(Ok(count));
        }
        let Held { shared, connection } = &*self.held;
        if connection.is_aborted.get() {
            return Poll::Ready(Err(NetError::Closed));
        }
        let sockets = &mut shared.core.borrow_mut().table.sockets;
        let socket = sockets.get_quietly(connection.place);
        match socket.recv(|_| (0, ())) {
            Ok(()) if into.is_empty() => Poll::Ready(Ok(0)),
            Ok(()) => {
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
            Err(RecvError::Finished) => {
                connection.is_ended.set(true);
                Poll::Ready(Ok(0))
            }
            // The socket forgets it in the end.
            Err(RecvError::InvalidState) if connection.is_ended.get() => Poll::Ready(Ok(0)),
            Err(RecvError::InvalidState) => Poll::Ready(Err(failure(connection, socket.state()))),
        }
    }

    fn poll_write<'a>(
        &self,
        context: &Context<'_>,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Poll<Result<usize, NetError>> {
        if let Some(count) = self.put(parts) {
            return Poll::Ready(Ok(count));
        }
        let Held { shared, connection } = &*self.held;
        if connection.is_aborted.get() || connection.is_finished.get() {
            return Poll::Ready(Err(NetError::Closed));
        }
        let sockets = &mut shared.core.borrow_mut().table.sockets;
        let socket = sockets.get_quietly(connection.place);
        if !socket.may_send() {
            return Poll::Ready(Err(failure(connection, socket.state())));
        }
        socket.register_send_waker(context.waker());
        Poll::Pending
    }
}

/// Moves bytes to `into`, from the front of `part` and then of the `parts` behind it; how many, twice.
fn fill<'a>(
    into: &mut [u8],
    part: &mut &'a [u8],
    parts: &mut impl Iterator<Item = &'a [u8]>,
) -> (usize, usize) {
    let mut done = 0;
    while done < into.len() {
        if part.is_empty() {
            match parts.next() {
                Some(next) => *part = next,
                None => break,
            }
        }
        let count = part.len().min(into.len() - done);
        into[done..done + count].copy_from_slice(&part[..count]);
        *part = &part[count..];
        done += count;
    }
    (done, done)
}

/// Why a connection that was not closed here is over.
fn failure(connection: &Connection, state: State) -> NetError {
    let is_known = connection.is_reset.get() || connection.is_finished.get();
    if state == State::Closed && !is_known {
        NetError::TimedOut
    } else {
        NetError::Closed
    }
}

impl<L: Link> Stream for TcpStream<L> {
    async fn read(&self, into: &mut [u8]) -> Result<usize, NetError> {
        poll_fn(|context| self.poll_read(context, into)).await
    }

    async fn write_parts<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<usize, NetError> {
        poll_fn(|context| self.poll_write(context, parts.clone())).await
    }

    fn try_read(&self, into: &mut [u8]) -> usize {
        self.take(into).unwrap_or(0)
    }

    fn try_write<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> usize {
        self.put(parts).unwrap_or(0)
    }

    fn finish(&self) {
        let Held { shared, connection } = &*self.held;
        connection.is_finished.set(true);
        shared.core.borrow_mut().table.socket(connection).close();
    }

    fn abort(&self) {
        let Held { shared, connection } = &*self.held;
        connection.is_aborted.set(true);
        shared.core.borrow_mut().table.socket(connection).abort();
    }

    fn peer(&self) -> SocketAddr {
        self.held.connection.ends.1
    }
}
