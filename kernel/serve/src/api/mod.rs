//! The HTTP API: JSON over HTTP/1.1, for people and scripts.
//!
//! What can be called is one table, of `Route`s in `routes`; dispatch, the `Allow` of a 405, who may call
//! it, what bodies and queries may contain, and the OpenAPI document come from it. What is done then is in
//! `resources` (the appliance itself), `events`, `volumes`, `moves`, `snapshots`, `changes`, `jobs`, `schedules`, `tokens`, `peers` and `metrics`; what is not in the table may be
//! a file of the console. Errors
//! are `application/problem+json` (RFC 9457), made in `problem`, with the names that a request used in `refusal`.
//!
//! | file | what |
//! | --- | --- |
//! | `clients`, `connection` | who is connected, and HTTP on a connection |
//! | `dispatch`, `router`, `routes` | from a request to a handler |
//! | `shape`, `read`, `forms`, `answers`, `openapi` | what requests and answers carry, checked and documented |
//! | `edits`, `repeats` | two people at once, and one person twice |
//!
//! Invariants: memory per connection is bounded (head 16 KiB, body 64 KiB), and so is the time a peer may take; every
//! request is answered or the connection closed; a broken request costs its own connection only.

mod answers;
mod changes;
mod clients;
mod connection;
mod dispatch;
mod edits;
mod events;
mod forms;
mod jobs;
mod metrics;
mod moves;
mod node;
mod openapi;
mod pages;
mod peers;
mod problem;
mod read;
mod refusal;
mod repeats;
mod resources;
mod router;
mod routes;
mod schedules;
mod shape;
mod snapshots;
mod tokens;
mod volumes;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::OnceCell;
use core::time::Duration;

use access::{Audit, Tokens};
use exec::Exec;
use migration::Moves;
use net::{Listener, Stream};
use upkeep::Upkeep;
use volume::Volumes;
use world::Disk;

use clients::Clients;
use edits::Turns;
use repeats::Repeats;

pub use node::{
    DriveInfo, DriveState, FormatError, LogLevels, MemoryInfo, Node, NodeInfo, Pending, SettingInfo,
};
pub use peers::Peering;

/// The most bytes of a request's body.
pub const BODY_MAX: usize = 64 << 10;

/// How much a server takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time. Further ones displace idle and slow ones, or are reset.
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
    /// Its peers; `None` as before, or when it does not know its own key any more.
    pub peers: Option<Peering<D>>,
    /// Its volumes that move; `None` as before.
    pub moves: Option<Moves<D>>,
    /// Who may do what.
    pub tokens: Tokens<D>,
    /// Who did what.
    pub audit: Audit<D>,
}

/// An API server; clones are the same one, so it may listen at several ports.
pub struct Server<D> {
    exec: Exec,
    backend: Rc<Backend<D>>,
    limits: Limits,
    clients: Rc<Clients>,
    turns: Rc<Turns>,
    repeats: Rc<Repeats>,
    document: Rc<OnceCell<Rc<Vec<u8>>>>,
}

impl<D> Clone for Server<D> {
    fn clone(&self) -> Self {
        Self {
            exec: self.exec.clone(),
            backend: self.backend.clone(),
            limits: self.limits,
            clients: self.clients.clone(),
            turns: self.turns.clone(),
            repeats: self.repeats.clone(),
            document: self.document.clone(),
        }
    }
}

impl<D: Disk + 'static> Server<D> {
    /// A server for `backend`.
    #[must_use]
    pub fn new(exec: Exec, backend: Backend<D>, limits: Limits) -> Self {
        Self {
            exec,
            backend: Rc::new(backend),
            limits,
            clients: Clients::new(limits.connections_max),
            turns: Rc::default(),
            repeats: Rc::default(),
            document: Rc::default(),
        }
    }

    /// Serves the connections of `listener`; never returns.
    pub async fn serve<L: Listener>(self, listener: L) {
        loop {
            let stream = listener.accept().await;
            let other = stream.clone();
            match self.clients.enter(self.exec.now(), move || other.abort()) {
                Some(place) => {
                    let server = self.clone();
                    self.exec.spawn(async move {
                        connection::serve(&server, &stream, &place).await;
                    });
                }
                None => stream.abort(),
            }
        }
    }
}
