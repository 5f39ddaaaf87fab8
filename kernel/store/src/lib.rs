//! The copy-on-write block store: volumes of 4 KiB blocks on one or more drives.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
mod memory;

pub use api::{
    Config, Contents, Environment, FormatOptions, PoolInfo, PoolState, Span, StoreError, VolumeId,
    VolumeInfo,
};
pub use memory::Store;
