//! Where adopted volumes come from: a client of NBD that implements [`volume::Origins`].
//!
//! ```text
//! NbdOrigins ── open ──► NbdOrigin ── dials (again) ──► Connection ── requests ──► line
//!                         waits, retries                 entries ◄── replies ── its reader, a task
//! ```
//!
//! Words: an **origin** is one export of one server; it outlives its **connection**, which is made again when it is
//! lost. A **work** is what one request is for: a range of a buffer to fill, or a list of extents to make.
//!
//! Invariants:
//! - nothing of a reply is believed before it is checked against its request: bytes go only to where they were asked
//!   for, each exactly once, and a read ends well only when all of them came;
//! - whatever a server says or does not say, a request ends within its time ([`Patience`]), and memory is bounded by what
//!   was asked for: [`REQUESTS_MAX`] requests under way, and [`EXTENTS_MAX`] extents of each;
//! - who breaks the protocol is cut off, and all that was under way fails with it;
//! - an origin never changes its size: one that comes back with another is refused.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod handshake;
mod listing;
mod origin;
mod origins;
mod reading;
mod receive;
mod terms;

pub use connection::REQUESTS_MAX;
pub use listing::EXTENTS_MAX;
pub use net::Connect;
pub use origins::{NbdOrigins, Patience, address_of};
