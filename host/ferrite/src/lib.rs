//! The command-line tool, as a library so that tests use the same client as people do.
//!
//! [`Client`] speaks to one appliance; [`cli::run`] is the whole program but for its exit code.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the appliance refused, or something on this host failed |
//! | 2 | the command line makes no sense |
//! | 3 | no appliance is known or it does not answer |
//! | 4 | `check` or `scrub` found damage |

#![forbid(unsafe_code)]

mod arguments;
mod check;
pub mod cli;
mod client;
mod commands;
mod console;
mod contexts;
mod describe;
mod failure;
mod file_disk;
mod in_use;
mod measures;
mod output;
mod progress;
mod suggest;

pub use check::{Mode, check};
pub use client::Client;
pub use describe::items;
pub use failure::Failure;
