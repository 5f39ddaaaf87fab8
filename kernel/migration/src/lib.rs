//! Volumes that move from one appliance to another, while they are used.
//!
//! ```text
//! who has it                                            who gets it
//! migrate      OFFERED ──── offer ───────────────────►  PREPARED   can be opened, reads through, takes no writes
//! hand_over    writes end, what was acknowledged is durable
//!              GIVEN ────── give ────────────────────►  OWNED      takes writes; what is not here is fetched
//!              follows how it arrives ◄── progress ───
//!              its copy stays or goes, once all of it is there
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `rules` | who owns a volume: what follows from what is said |
//! | `record` | what is kept of a volume |
//! | `changes` | how that changes: durable before anything is said of it |
//! | `copies` | what stays where a volume was, and for how long |
//! | `hearing` | what follows from what another appliance says |
//! | `driver` | who says what is to be said, until it is heard |
//! | `moves` | what users ask for |
//! | `wire`, `links`, `serving` | messages; asking; answering |
//! | `origin` | other appliances as where blocks come from |
//! | `forget` | what need not be known any more |
//! | `history` | snapshots that come with a volume |
//!
//! Invariants:
//! - at most one appliance takes writes to a volume, whatever is lost, repeated, or cut off by power;
//! - what was acknowledged is what the next owner has;
//! - nothing is read for a peer but what was offered or given to it, and snapshots;
//! - a copy is not freed before the other appliance has all of it, durably.
//!
//! On the way of a block that is not here: before this room `volume` (who decides what is fetched), after it `peer`, and on the other side
//! `volume` again.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod changes;
mod copies;
mod driver;
mod error;
mod forget;
mod hearing;
mod history;
mod links;
mod moves;
mod origin;
mod record;
pub mod rules;
mod serving;
mod wire;

pub use error::MoveError;
pub use moves::{MigrateOptions, Move, Moves};
pub use record::After;
pub use wire::inspect;
