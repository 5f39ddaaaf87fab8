//! The executor: tasks, timers and the few things tasks wait on.
//!
//! One executor per core, shared by nobody. The main loop polls the hardware edges, calls [`Exec::run_ready`], and
//! sleeps until an interrupt or [`Exec::next_deadline`]. In the simulation the same executor draws the order of ready
//! tasks from the seed ([`Exec::set_order`]).
//!
//! Invariants:
//! - a task is polled only from [`Exec::run_ready`], never from a waker;
//! - waking is a bit set with atomics, so wakers may be called from anywhere;
//! - one round polls each ready task at most once, so a task that wakes itself cannot starve the edges.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod executor;
mod ready;
mod sync;
mod timer;

pub use executor::Exec;
pub use futures_util;
pub use sync::{Channel, Notify, Permit, Semaphore, join_all};
pub use timer::{Elapsed, Sleep};
