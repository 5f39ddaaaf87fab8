//! What a client sees: named volumes.
//!
//! - [`Volumes`]: the catalog; lists, creates, grows, deletes, and attaches clients;
//! - [`Volume`]: one client's attachment to one volume; checks ranges and rights, then asks the store.
//!
//! Invariants:
//! - the rules for names and sizes are [`check_name`] and [`check_size`], nowhere else;
//! - a volume with clients is deleted only by force, and then every later operation of theirs fails with
//!   [`VolumeError::Deleted`];
//! - a volume's size changes only through [`Volumes::grow`], so attachments know it without asking.
//!
//! On the walk of a write: before this room `serve::nbd`, after it `store`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod catalog;
mod error;
mod volume;

pub use catalog::{DEMO, NAME_MAX, SIZE_MAX, Volumes, check_name, check_size};
pub use error::VolumeError;
pub use store::{PoolInfo, PoolState, Span, StoreError, VolumeInfo};
pub use volume::{Access, Volume};
