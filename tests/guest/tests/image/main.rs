//! The finished image in QEMU, judged from outside.
//!
//! `cargo xtask image` builds what these start; `cargo xtask test --only guest -- NAME` runs the ones that match.

mod adoption;
mod api;
mod boot;
mod crash;
mod damage;
mod journey;
mod limits;
mod linux;
mod migration;
mod peers;
mod restart;
mod serve;
mod snapshots;
mod status;
