//! A line to an NBD server on which everything is counted: what was asked for, how many bytes went, how often somebody waited.
//!
//! It passes bytes on as they are. What clients send is followed far enough to know their requests (NBD protocol, "Request
//! message"); of what servers send only the length is noted. The same line for all clients makes their numbers comparable.

mod requests;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use requests::{Request, Requests};

/// Bytes that are passed on at a time.
const CHUNK: usize = 256 << 10;
/// How long the server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What went over a line so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections that were made.
    pub connections: u64,
    /// Bytes from clients to the server.
    pub sent_bytes: u64,
    /// Bytes from the server to clients.
    pub received_bytes: u64,
    /// Round trips at most: connections, and how often a client said something after an answer. Requests that were under way at
    /// the same time count once, unless answers came in between.
    pub round_trips: u64,
    /// Reads that were asked for: offset and length in bytes, in their order.
    pub reads: Vec<(u64, u32)>,
    /// Questions about what is allocated.
    pub questions: u64,
    /// Whether a client said something that is no request.
    pub is_unclear: bool,
}

impl Counts {
    /// Bytes in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sent_bytes + self.received_bytes
    }

    /// Bytes that were asked for by reads.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.reads.iter().map(|(_, len)| u64::from(*len)).sum()
    }

    /// Bytes that were asked for again.
    #[must_use]
    pub fn repeated_bytes(&self) -> u64 {
        let mut reads = self.reads.clone();
        reads.sort_unstable();
        let (mut end, mut repeated) = (0, 0);
        for (offset, len) in reads {
            let after = offset + u64::from(len);
            repeated += after.min(end).saturating_sub(offset);
            end = end.max(after);
        }
        repeated
    }

    /// Bytes that were asked for and are in none of these extents (offset and length, ascending).
    #[must_use]
    pub fn read_bytes_outside(&self, extents: &[(u64, u64)]) -> u64 {
        let inside = |offset: u64, len: u32| -> u64 {
            let end = offset + u64::from(len);
            let first = extents.partition_point(|(start, len)| start + len <= offset);
            let touched = extents[first..]
                .iter()
                .take_while(|(start, _)| *start < end);
            touched
                .map(|(start, len)| (start + len).min(end) - (*start).max(offset))
                .sum()
        };
        let reads = self.reads.iter();
        reads
            .map(|(offset, len)| u64::from(*len) - inside(*offset, *len))
            .sum()
    }
}

/// The line; connections end with the value.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    open: Mutex<Vec<TcpStream>>,
    has_ended: AtomicBool,
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// A line to `server` with a free port at `ip`, in the caller's network namespace.
    ///
    /// # Errors
    /// When nothing can listen there.
    pub fn to(server: SocketAddr, ip: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0)).with_context(|| format!("no port at {ip}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.has_ended.load(Ordering::SeqCst) {
                    break;
                }
                // Who cannot be passed on is hung up on, as by a server that is away.
                if let Ok(client) = client {
                    let _ = pass_on(client, server, &accepting);
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went over it so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        for stream in self.shared.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes who accepts.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT);
    }
}

/// Serves one connection with two threads that end with it.
fn pass_on(client: TcpStream, server: SocketAddr, shared: &Arc<Shared>) -> Result<()> {
    let server = TcpStream::connect_timeout(&server, CONNECT_LIMIT)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        shared.open().push(stream.try_clone()?);
    }
    {
        let mut counts = shared.counts();
        counts.connections += 1;
        counts.round_trips += 1;
    }
    // Whether the server said something since the client did.
    let is_answered = Arc::new(AtomicBool::new(false));
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let (answered, noting) = (is_answered.clone(), shared.clone());
    thread::spawn(move || {
        let mut requests = Requests::default();
        relay(from, to, |bytes| {
            let mut counts = noting.counts();
            counts.sent_bytes += bytes.len() as u64;
            counts.round_trips += u64::from(answered.swap(false, Ordering::SeqCst));
            for request in requests.feed(bytes) {
                match request {
                    Request::Read { offset, len } => counts.reads.push((offset, len)),
                    Request::BlockStatus => counts.questions += 1,
                    Request::Other => {}
                    Request::Unclear => counts.is_unclear = true,
                }
            }
        });
    });
    let noting = shared.clone();
    thread::spawn(move || {
        relay(server, client, |bytes| {
            noting.counts().received_bytes += bytes.len() as u64;
            is_answered.store(true, Ordering::SeqCst);
        });
    });
    Ok(())
}

/// Passes bytes on until one of both ends; `note` sees them first.
fn relay(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        note(&chunk[..count]);
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;
    use crate::{READY_LIMIT, clients, nbd::Nbd};

    #[test]
    fn what_goes_over_the_line_is_counted() -> Result<()> {
        let server = Reference::start(1 << 20)?;
        let wire = Wire::to(server.address(), "127.0.0.1".parse()?)?;
        let mut nbd = Nbd::connect(wire.address(), "", READY_LIMIT)?;
        let before = wire.counts();
        let mut block = [1; 4096];
        nbd.read(8192, &mut block)?;
        nbd.write(0, &[7; 4096], 0)?;
        nbd.read(0, &mut block)?;
        let counts = wire.counts();
        assert_eq!(block, [7; 4096]);
        assert_eq!((counts.connections, counts.round_trips), (1, 5));
        assert_eq!(counts.reads, [(8192, 4096), (0, 4096)]);
        assert_eq!(counts.sent_bytes - before.sent_bytes, 3 * 28 + 4096);
        assert_eq!(
            counts.received_bytes - before.received_bytes,
            3 * 16 + 2 * 4096
        );
        let map = clients::map(&format!("nbd://{}/", wire.address()), "base:allocation")?;
        assert!(!map.is_empty() && wire.counts().questions > 0);
        assert!(!wire.counts().is_unclear);
        Ok(())
    }

    #[test]
    fn repetitions_and_holes_are_found() {
        let counts = Counts {
            reads: vec![(100, 50), (0, 120), (400, 10)],
            ..Counts::default()
        };
        assert_eq!((counts.read_bytes(), counts.repeated_bytes()), (180, 20));
        assert_eq!(counts.read_bytes_outside(&[(0, 1000)]), 0);
        assert_eq!(
            counts.read_bytes_outside(&[(50, 60), (140, 265)]),
            50 + 30 + 10 + 5
        );
        assert_eq!(counts.read_bytes_outside(&[]), 180);
    }
}
