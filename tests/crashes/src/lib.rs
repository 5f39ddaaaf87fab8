//! Power cuts of the real image, at every write.
//!
//! The finished image runs in QEMU with its drive behind the filter `blklogwrites`, which records each write, discard and
//! flush in the order of completion. Clients write to volumes over NBD, take snapshots, clone and roll back over HTTP,
//! and note for each request how long the record was when they sent it and when the answer came. Afterwards the record
//! is replayed up to one **crash point** after another: the drive as it was then goes to the store's checker and to the store itself, in
//! this process, and each client's **story** says what must be there.
//!
//! What is behind the last flush of the drive need not have survived, so a point is replayed in one of several ways
//! ([`Loss`]): everything is there, nothing, any subset, sectors of one write only.
//!
//! | on the way | file |
//! | --- | --- |
//! | the machine, its clients and their record | [`mod@record`], `client` |
//! | dm-log-writes, the format of the record | [`write_log`] |
//! | what clients did, and what follows from it | [`story`] |
//! | the drive at a crash point | [`crash`] |
//! | the verdict | [`judge`], `examine` |

#![forbid(unsafe_code)]

mod client;
pub mod crash;
mod examine;
pub mod judge;
pub mod record;
mod replay;
pub mod story;
pub mod write_log;

pub use crash::Loss;
pub use record::{Plan, Recording, record};
pub use replay::{Failure, Points, Tally, replay};
