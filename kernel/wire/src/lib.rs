//! Bytes to values and back, nothing else: no sockets, no volumes, no waiting.
//!
//! Every decoder takes a slice, checks every length, and answers with a value or a small error; none may panic on any
//! input. Encoders return arrays where the size is fixed.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod http;
pub mod nbd;
