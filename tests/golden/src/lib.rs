//! Pools of every format that was ever declared, and what they hold.
//!
//! `images/format-N` has drive images that the version which declared format N has made, and a **manifest** of their contents, which the maker
//! kept itself and did not read back from the store. Every later version opens them: the test of this crate checks each
//! pool, compares everything, uses it, and checks it again. Images are never made anew; a new format adds a folder:
//!
//! ```text
//! cargo run -p golden -- tests/golden/images/format-N
//! ```

#![forbid(unsafe_code)]

mod contents;
pub mod make;
pub mod manifest;
pub mod packed;

pub use contents::Shadow;
pub use manifest::{Manifest, Pool};
