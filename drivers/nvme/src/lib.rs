//! NVMe controllers and namespaces as drives.
//!
//! Words introduced here:
//! - **[`Controller`]**: brought up once, then polled by the main loop;
//! - **[`Drive`]**: one namespace, a [`world::Disk`] that tasks use;
//! - **slot**: what a command occupies from its start until its caller has the answer.
//!
//! Invariants:
//! - a controller that fails is disabled before any of its commands is answered, and never used again;
//! - memory that a controller has been given returns to its owner only when the controller is done with it, or known
//!   to be stopped; otherwise it is given up for ever and the caller gets an empty buffer;
//! - whatever the controller writes is checked: it can make its drives fail, and nothing else;
//! - no command allocates.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bring_up;
mod command;
mod controller;
mod drive;
mod engine;
mod error;
#[cfg(test)]
mod fake;
mod identify;
mod regs;
mod request;
mod ring;
mod slots;
mod status;
#[cfg(test)]
mod tests;

pub use controller::{Controller, Deadlines, Setup};
pub use drive::Drive;
pub use engine::Gate;
pub use error::NvmeError;
pub use identify::{ControllerIdentity, NamespaceIdentity, Refusal, SmartLog};
pub use status::Status;

/// Number of the administrative queues.
const ADMIN: usize = 0;
/// Number of the queues for commands on blocks.
const BLOCKS: usize = 1;
