//! What the appliance decides without touching the machine: how memory is divided, what becomes of the drives and how they
//! are, and what can be said of its log.
//!
//! The binary beside this library (`main.rs`) finds the devices and does what is decided here.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod health;
pub mod log_modules;
pub mod memory;
pub mod plan;
