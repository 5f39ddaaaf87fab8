//! The one door for everything a program cannot predict: drives, links, time and entropy.
//!
//! Behind these traits all code is ordinary, safe, deterministic Rust. Two worlds implement them: the machine
//! (`drivers/*`, put together by `kernel/appliance`) and the simulation (`tests/sim`). The store, volumes, network,
//! servers and API are the same source in both.
//!
//! Words introduced here:
//! - **block**: 4096 bytes, the unit of all drive traffic whatever the drive's own sector size is;
//! - **[`Buf`]**: up to [`Buf::PAGES_MAX`] pages of memory, moved by value; whoever holds it owns the bytes;
//! - **[`Pool`]**: the bounded supply that buffers come from and return to when dropped.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod buf;
mod disk;
mod entropy;
mod link;
mod time;

pub use buf::{BLOCK_SIZE, Buf, Page, Pool};
pub use disk::{BlockAddr, Disk, DiskError, DiskInfo, Geometry};
pub use entropy::Entropy;
pub use link::{Frame, FrameMeta, Link, LinkInfo, Segmentation};
pub use time::{Clock, Instant, sooner};
