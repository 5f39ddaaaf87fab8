//! The real image in QEMU with real clients.
//!
//! [`clients`] are programs that nobody here wrote; [`nbd`] is a small client of our own for what they cannot do;
//! [`workload`] writes in a way that tells afterwards which writes had to survive. Every client is first run against a
//! reference server ([`mod@reference`]), so that a failure says whether the test or the appliance is at fault.
//!
//! Tests never skip: a missing program is a failure that names its package. Every process they start ends with them,
//! every file lies in a [`Scratch`] folder.

#![forbid(unsafe_code)]

pub mod clients;
pub mod ext4;
pub mod initramfs;
pub mod journey;
pub mod linux;
pub mod nbd;
pub mod origin;
pub mod reference;
mod rider;
mod scratch;
mod station;
pub mod wire;
pub mod workload;

pub use rider::Rider;
pub use scratch::Scratch;
pub use station::{HOST, READY_LIMIT, Station};
