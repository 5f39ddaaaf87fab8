//! What a client sees: named volumes and their snapshots.
//!
//! - [`Volumes`]: the catalog; lists, creates, grows, renames, deletes, and attaches clients ([`catalog`]); makes
//!   snapshots, clones them, rolls back ([`snapshots`]); keeps what users set ([`settings`]), which may be how much clients do
//!   in a second ([`limits`]); tells what is used ([`usage`]), what can still be written ([`room`])
//!   and what clients did ([`traffic`]);
//! - [`Standing`]: whose a volume is while it moves to another appliance ([`standing`]);
//! - [`Origins`]: where the blocks of a volume are that are not here yet ([`origin`]);
//! - [`Origin`]: where blocks come from that are not here yet ([`adoption`] decides what is fetched and when, [`absent`] who waits for it);
//! - [`Volume`]: one client's attachment to one volume or snapshot; checks ranges and rights, then asks the store.
//!
//! Invariants:
//! - names and sizes are checked ([`check_name`], [`check_size`]) before anything else;
//! - what has clients is deleted or rolled back only by force; then what they have under way is waited for, and every
//!   later operation of theirs fails with [`VolumeError::Deleted`] or [`VolumeError::RolledBack`] ([`attachment`]);
//! - a snapshot never takes a write;
//! - a volume's size changes only through [`Volumes::grow`] and [`Volumes::rollback`], so attachments know it without asking.
//!
//! On the walk of a write: before this room `serve::nbd`, after it `store`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod absent;
mod address;
mod adoption;
mod attachment;
mod catalog;
mod error;
mod heat;
mod intake;
mod limits;
mod name;
mod origin;
mod plan;
mod room;
mod settings;
mod snapshots;
mod standing;
mod traffic;
mod usage;
mod volume;

pub use adoption::{AdoptionInfo, BroughtIn};
pub use catalog::{DEMO, Export, Volumes};
pub use error::VolumeError;
pub use heat::Heat;
pub use limits::{Limits, Pace};
pub use name::{check_name, check_size, split_name};
pub use origin::{Answer, Origin, OriginAddress, OriginError, OriginExtent, Origins};
pub use room::writable_bytes;
pub use settings::{ALLOW_MAX, Network, Settings};
pub use standing::Standing;
pub use store::{
    BaseId, BaseInfo, Change, Changes, Content, Extent, Fullness, Holes, PoolInfo, PoolState,
    SnapshotId, SnapshotInfo, SnapshotLabel, SnapshotOrder, Source, Span, StoreError, Usage,
    VolumeId, VolumeInfo,
};
pub use traffic::{Meter, Meters, Operation, Traffic};
pub use volume::{Access, Volume};
