//! NBD: fixed newstyle handshake, then requests of many connections, many at a time each.
//!
//! ```text
//!            ┌ receive (one task): requests in, payloads of writes into buffers ┐ a free worker each
//! connection ┤                                                                  ▼
//!            └ workers (tasks, hired as the queue deepens): volume, then the reply, under the lock of the line
//! ```
//!
//! Words: a **piece** is the part of a request within one 128 KiB boundary of the volume; it has one [`Buf`] and one
//! job. The **line** is the connection's sending side; a reply (or chunk) goes out whole.
//!
//! Invariants, which together mean that nothing here can deadlock and nobody can hold memory for ever:
//! - nobody waits for a buffer, or for a worker, while holding a buffer of the shared pool or the lock of the line;
//! - a connection holds at most its quota of the pool in each direction, and a peer that neither sends nor takes
//!   bytes while others need memory is cut off ([`mod@line`]);
//! - a job that reached the volume runs to its end even if the connection ends; only its reply is dropped;
//! - a connection whose volume or snapshot was deleted or rolled back by force is answered by errors and ended; nothing of
//!   it reaches what comes after;
//! - nothing is allocated per request: workers, request records and buffers are reused (but for a READ of several
//!   pieces that is not answered in chunks, which collects them in a list).
//!
//! On the walk of a write: before this room `net`, after it `volume`.

mod contexts;
mod errors;
mod handshake;
mod jobs;
mod line;
mod pieces;
mod receive;
mod status;
mod workers;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::pin;
use core::time::Duration;

use exec::{Exec, Permit, Semaphore};
use futures_util::future::{Either, select};
use log::{debug, info};
use net::{Listener, Stream};
use volume::{Volume, Volumes};
use wire::nbd::Headers;
use world::{Buf, Disk, Pool};

use crate::quota::Quota;
use contexts::Context;
use errors::Broken;
use handshake::Negotiated;
use jobs::Requests;
use line::Line;
use workers::Workers;

/// The most bytes a READ returns or a WRITE carries.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The unit of offsets and lengths, in bytes.
pub const BLOCK_MINIMUM: u32 = 512;
/// What offsets and lengths are best multiples of, in bytes.
pub const BLOCK_PREFERRED: u32 = 4096;

/// How long requests are still answered, by an error, when the volume or snapshot is gone. Whoever listens disconnects
/// by then; whoever does not is cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How much a server takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; further ones are reset.
    pub connections_max: usize,
    /// Requests in progress over all connections, beyond the 16 that each may always have.
    pub extra_requests_max: usize,
    /// Time for the whole handshake.
    pub handshake_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            extra_requests_max: 512,
            handshake_time_max: Duration::from_secs(30),
        }
    }
}

/// What all connections share; clones are the same server, so one may listen at several ports.
pub struct Server<D> {
    exec: Exec,
    volumes: Option<Volumes<D>>,
    pool: Pool,
    limits: Limits,
    connections: Semaphore,
    extra_requests: Semaphore,
}

impl<D> Clone for Server<D> {
    fn clone(&self) -> Self {
        Self {
            exec: self.exec.clone(),
            volumes: self.volumes.clone(),
            pool: self.pool.clone(),
            limits: self.limits,
            connections: self.connections.clone(),
            extra_requests: self.extra_requests.clone(),
        }
    }
}

impl<D: Disk + 'static> Server<D> {
    /// A server for `volumes` that moves all data through buffers of `pool`. Without volumes (there is no pool on the
    /// drives) every export is refused politely.
    ///
    /// # Panics
    /// When the pool has fewer pages than two of the largest buffers, 64.
    #[must_use]
    pub fn new(
        exec: Exec,
        volumes: impl Into<Option<Volumes<D>>>,
        pool: Pool,
        limits: Limits,
    ) -> Self {
        assert!(
            pool.limit() >= 2 * Buf::PAGES_MAX,
            "an NBD server needs 64 pages"
        );
        Self {
            exec,
            volumes: volumes.into(),
            pool,
            limits,
            connections: Semaphore::new(limits.connections_max),
            extra_requests: Semaphore::new(limits.extra_requests_max),
        }
    }

    /// Serves the connections of `listener`; never returns.
    pub async fn serve<L: Listener>(self, listener: L) {
        loop {
            let stream = listener.accept().await;
            match self.connections.try_acquire() {
                Some(permit) => self.exec.spawn(connection(self.clone(), stream, permit)),
                None => {
                    debug!("nbd: {} refused, too many connections", stream.peer());
                    stream.abort();
                }
            }
        }
    }
}

/// One client after its handshake.
struct Session<D, S> {
    exec: Exec,
    volume: Volume<D>,
    /// What requests and replies look like.
    headers: Headers,
    /// What BLOCK_STATUS tells of; the place is the id.
    contexts: Vec<Context>,
    /// Held by the one BLOCK_STATUS that is being answered, so that a connection needs memory for one list only.
    status: Semaphore,
    pool: Pool,
    line: Line<S>,
    /// Pages of the pool that payloads of WRITEs may hold.
    incoming: Quota,
    /// Pages of the pool that READs may hold.
    outgoing: Quota,
    requests: RefCell<Requests>,
    workers: Workers,
}

async fn connection<D: Disk + 'static, S: Stream>(server: Server<D>, stream: S, permit: Permit) {
    let peer = stream.peer();
    let handshake = handshake::negotiate(&stream, server.volumes.as_ref());
    let limit = server.limits.handshake_time_max;
    let negotiated = match server.exec.timeout(limit, handshake).await {
        Ok(Ok(Some(negotiated))) => negotiated,
        Ok(Ok(None)) => {
            stream.finish();
            return;
        }
        Ok(Err(broken)) => {
            debug!("nbd: {peer}: handshake: {broken}");
            stream.abort();
            return;
        }
        Err(elapsed) => {
            debug!("nbd: {peer}: handshake: {elapsed}");
            stream.abort();
            return;
        }
    };
    let name = String::from(negotiated.volume.name());
    info!("nbd: {peer} attached to {name}");
    let session = Rc::new(Session::new(&server, stream, negotiated));
    match session.requests_or_end().await {
        Ok(()) => {}
        Err(broken) => {
            match broken {
                Broken::Ended(why) => info!("nbd: {peer} is cut off from {name}: {why}"),
                broken => debug!("nbd: {peer}: {broken}"),
            }
            session.line.hang_up();
        }
    }
    session.workers.dismiss().await;
    session.line.finish();
    info!("nbd: {peer} detached from {name}");
    drop(permit);
}

impl<D: Disk + 'static, S: Stream> Session<D, S> {
    fn new(server: &Server<D>, stream: S, negotiated: Negotiated<D>) -> Self {
        let (exec, pool) = (&server.exec, &server.pool);
        // An eighth of the pool lets several connections stall without starving the rest, and on a usual pool is
        // still more than a connection needs to be fast.
        let pages = (pool.limit() / 8).clamp(Buf::PAGES_MAX, 16 * Buf::PAGES_MAX);
        Self {
            exec: exec.clone(),
            volume: negotiated.volume,
            headers: negotiated.headers,
            contexts: negotiated.contexts,
            status: Semaphore::new(1),
            pool: pool.clone(),
            line: Line::new(exec.clone(), stream, pool.clone()),
            incoming: Quota::new(pages),
            outgoing: Quota::new(pages),
            requests: RefCell::default(),
            workers: Workers::new(server.extra_requests.clone()),
        }
    }

    /// Receives requests until the client disconnects, or for a moment after what it is attached to has ended.
    async fn requests_or_end(self: &Rc<Self>) -> Result<(), Broken> {
        let end = pin!(async {
            let why = self.volume.ended().await;
            self.exec.sleep(LAST_WORDS).await;
            why
        });
        match select(pin!(receive::requests(self)), end).await {
            Either::Left((result, _)) => result,
            Either::Right((why, _)) => Err(Broken::Ended(why)),
        }
    }
}
