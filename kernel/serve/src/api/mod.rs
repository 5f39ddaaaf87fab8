//! The HTTP API: JSON over HTTP/1.1, for people and scripts.
//!
//! What can be called is one table, of `Route`s in `routes`; dispatch, the `Allow` of a 405, who may call
//! without a token, what bodies and queries may contain, and the OpenAPI document come from it. What is done then is in
//! `resources` (the appliance itself), `volumes`, `snapshots`, `changes`, `jobs` and `schedules`. Errors are
//! `application/problem+json` (RFC 9457), made in `problem`.
//!
//! Invariants: memory per connection is bounded (head 16 KiB, body 64 KiB), and so is the time a peer may take; every
//! request is answered or the connection closed; a broken request costs its own connection only.

mod changes;
mod connection;
mod jobs;
mod node;
mod openapi;
mod problem;
mod resources;
mod router;
mod routes;
mod schedules;
mod shape;
mod snapshots;
mod volumes;

use alloc::rc::Rc;
use alloc::string::String;
use core::time::Duration;

use exec::{Exec, Semaphore};
use net::{Listener, Stream};
use upkeep::Upkeep;
use volume::Volumes;
use world::Disk;

pub use node::{DriveInfo, DriveState, MemoryInfo, Node, NodeInfo};

/// The most bytes of a request's body.
pub const BODY_MAX: usize = 64 << 10;

/// How much a server takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; further ones are reset.
    pub connections_max: usize,
    /// Time until a request has come in whole, from its first byte; and for a response to be taken.
    pub request_time_max: Duration,
    /// Time that a kept connection may be idle.
    pub idle_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 32,
            request_time_max: Duration::from_secs(20),
            idle_time_max: Duration::from_secs(60),
        }
    }
}

/// What the API speaks for.
pub struct Backend<D> {
    /// The appliance itself.
    pub node: Rc<dyn Node>,
    /// Its volumes; `None` while there is no pool (its drives are missing or hold something else).
    pub volumes: Option<Volumes<D>>,
    /// Its jobs and schedules; `None` as before.
    pub upkeep: Option<Upkeep<D>>,
    /// What clients have to present.
    pub token: String,
}

/// An API server; clones are the same one, so it may listen at several ports.
pub struct Server<D> {
    exec: Exec,
    backend: Rc<Backend<D>>,
    limits: Limits,
    connections: Semaphore,
}

impl<D> Clone for Server<D> {
    fn clone(&self) -> Self {
        Self {
            exec: self.exec.clone(),
            backend: self.backend.clone(),
            limits: self.limits,
            connections: self.connections.clone(),
        }
    }
}

impl<D: Disk + 'static> Server<D> {
    /// A server for `backend`.
    ///
    /// # Panics
    /// When the token is empty: everybody knows that one.
    #[must_use]
    pub fn new(exec: Exec, backend: Backend<D>, limits: Limits) -> Self {
        assert!(!backend.token.is_empty(), "the API needs a token");
        Self {
            exec,
            backend: Rc::new(backend),
            limits,
            connections: Semaphore::new(limits.connections_max),
        }
    }

    /// Serves the connections of `listener`; never returns.
    pub async fn serve<L: Listener>(self, listener: L) {
        loop {
            let stream = listener.accept().await;
            match self.connections.try_acquire() {
                Some(permit) => {
                    let server = self.clone();
                    self.exec.spawn(async move {
                        connection::serve(&server, &stream).await;
                        drop(permit);
                    });
                }
                None => stream.abort(),
            }
        }
    }
}
