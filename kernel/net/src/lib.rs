//! TCP/IP over a link: streams for the servers above, smoltcp inside.
//!
//! Servers know only the traits of this page; what implements them is the stack of the image, or a pipe in tests.
//!
//! - [`Stack`] is TCP/IP over a [`world::Link`]: [`Stack::listen`] opens a port, [`Stack::connect`] goes out.
//! - [`pipe`] joins two streams in memory, and [`cable`] joins two links, for tests and the simulation.
//! - [`inspect`] is the look at a received frame that decides whether it opens a connection.
//!
//! What smoltcp does not do: act on selective acknowledgements it receives, put fragments together, cut IPv6 packets by
//! offload. What is lost at the end of a burst is sent again after some tens of milliseconds (`recovery`). Congestion is controlled by the peer's window alone: the network in front of storage is a local one.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cable;
mod config;
mod connection;
mod device;
mod discovery;
mod gather;
pub mod inspect;
mod lease;
mod listener;
pub mod pipe;
mod recovery;
mod sockets;
mod stack;
mod stream;
mod table;
mod time;

pub use config::{ADDRESSES_MAX, Cidr, CidrError, NetConfig};
pub use connection::ListenOptions;
pub use listener::TcpListener;
pub use stack::{NetCounters, Stack};
pub use stream::TcpStream;

use core::net::SocketAddr;
use core::{fmt, iter};

use world::Link;

/// A connected byte stream. Cheap to clone; clones are the same connection, so that one task can read while another
/// writes.
pub trait Stream: Clone + 'static {
    /// Reads at least one byte into `into`, waiting for it; 0 when the peer has finished sending.
    fn read(&self, into: &mut [u8]) -> impl Future<Output = Result<usize, NetError>>;

    /// Queues at least one of the bytes of `parts`, one part behind the other, waiting for room; returns how many. What is
    /// queued goes out by itself.
    fn write_parts<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> impl Future<Output = Result<usize, NetError>>;

    /// Reads what is there into `into`, without waiting; 0 when only [`read`](Self::read) can tell why.
    fn try_read(&self, into: &mut [u8]) -> usize;

    /// Queues the bytes of `parts`, one behind the other, as far as there is room, without waiting; 0 when only
    /// [`write_parts`](Self::write_parts) can tell why.
    fn try_write<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> usize;

    /// Tells the peer that no more bytes follow, after all that is queued; does not wait.
    fn finish(&self);

    /// Ends the connection at once (RST).
    fn abort(&self);

    /// The other end.
    fn peer(&self) -> SocketAddr;

    /// Reads exactly `into.len()` bytes.
    fn read_exact(&self, into: &mut [u8]) -> impl Future<Output = Result<(), NetError>> {
        async move {
            let mut done = 0;
            while done < into.len() {
                match self.read(&mut into[done..]).await? {
                    0 => return Err(NetError::Closed),
                    count => done += count,
                }
            }
            Ok(())
        }
    }

    /// Queues at least one byte of `from`, waiting for room; returns how many.
    fn write(&self, from: &[u8]) -> impl Future<Output = Result<usize, NetError>> {
        self.write_parts(iter::once(from))
    }

    /// Queues all of `from`.
    fn write_all(&self, from: &[u8]) -> impl Future<Output = Result<(), NetError>> {
        async move {
            let mut done = 0;
            while done < from.len() {
                done += self.write(&from[done..]).await?;
            }
            Ok(())
        }
    }
}

/// An open port.
pub trait Listener: 'static {
    /// What comes out of it.
    type Stream: Stream;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = Self::Stream>;
}

/// A way out.
pub trait Connect: 'static {
    /// What a connection is.
    type Stream: Stream;

    /// Connects to `to`, within some seconds.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = Result<Self::Stream, NetError>>;
}

impl<L: Link + 'static> Connect for Stack<L> {
    type Stream = TcpStream<L>;

    async fn connect(&self, to: SocketAddr) -> Result<TcpStream<L>, NetError> {
        Self::connect(self, to).await
    }
}

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetError {
    /// The peer closed or reset the connection, or it was aborted here.
    Closed,
    /// The peer stopped answering.
    TimedOut,
    /// No connection could be made.
    Unreachable,
}

impl fmt::Display for NetError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Closed => "the connection is closed",
            Self::TimedOut => "the peer stopped answering",
            Self::Unreachable => "no connection could be made",
        })
    }
}

impl core::error::Error for NetError {}
