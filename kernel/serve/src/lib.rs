//! One module per listening port.
//!
//! - [`nbd`]: volumes for clients;
//! - [`api`]: HTTP for people and scripts, which also serves the web [`console`].
//!
//! Servers know streams (`net`), bytes (`wire`) and volumes (`volume`); nothing of drives, frames or the machine.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod api;
pub mod console;
pub mod nbd;
mod quota;
