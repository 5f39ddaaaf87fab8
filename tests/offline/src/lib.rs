//! Pools at rest: drives as values in memory, and the store opened on them in this process.
//!
//! Words introduced here:
//! - **[`Image`]**: everything a drive holds; a value, so that a copy of it is the drive at that moment;
//! - **[`RamDrive`]**: an image that is plugged in;
//! - **[`run()`]**: one story of the store to its end, in a world where waiting takes no time.

#![forbid(unsafe_code)]

mod image;
mod pool;
mod ram_drive;
mod random;
mod run;

pub use image::Image;
pub use pool::{check, check_summary, read_source};
pub use ram_drive::RamDrive;
pub use random::Random;
pub use run::{Stuck, run};
