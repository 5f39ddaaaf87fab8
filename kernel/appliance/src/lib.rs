//! What the appliance decides without touching the machine: how memory is divided, and what becomes of the drives.
//!
//! The binary beside this library (`main.rs`) finds the devices and does what is decided here.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod memory;
pub mod plan;
