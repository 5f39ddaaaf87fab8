//! The copy-on-write block store: volumes of 4 KiB blocks on one or more drives.
//!
//! | file | what |
//! | --- | --- |
//! | [`store`] | the public face |
//! | [`write`](mod@write), [`grant`], [`read`], [`overlap`] | the data path |
//! | [`commit`], [`journal`] | what makes changes durable |
//! | [`checkpoint`], [`merge`], [`update`], [`reclaim`], [`groups`] | what makes them part of the maps |
//! | [`space`], [`chunks`], [`bitmap`] | which blocks are in use |
//! | [`map`], [`cache`], [`delta`] | where blocks are |
//! | [`load`], [`replay`], [`recover`], [`complete`] | opening |
//! | [`format`](mod@format), [`inspect`], [`check`](mod@check) | making and looking at pools |
//! | [`snapshots`], [`lineage`], [`apart`] | snapshots and clones: made, looked through, taken apart |
//! | [`remote`] | volumes whose blocks arrive later |
//! | [`allocation`], [`diff`], [`lockstep`] | where data is, what changed, who uses how much |
//! | [`scrub`], [`trim`] | what goes on by itself: every block verified, drives told of what is free |
//! | [`volumes`], [`records`] | the catalog, and settings of the rooms above |
//! | [`layout`], [`tag`] | bytes on a drive |
//!
//! `DESIGN.md` beside this crate has the format and the reasons.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod allocation;
mod apart;
mod api;
mod bitmap;
mod cache;
mod catalog;
mod check;
mod checkpoint;
mod chunks;
mod commit;
mod complete;
mod counters;
mod delta;
mod diff;
mod directory;
mod format;
mod grant;
mod groups;
mod inspect;
mod io;
mod journal;
mod layout;
mod lineage;
mod load;
mod lockstep;
mod map;
mod merge;
mod mutant;
mod numbers;
mod overlap;
mod read;
mod reclaim;
mod records;
mod recover;
mod remote;
mod replay;
mod scrub;
mod seal;
mod shared;
mod shelf;
mod snapshots;
mod space;
mod store;
mod sweep;
mod tag;
mod trim;
mod update;
mod volumes;
mod write;

pub use api::{
    BaseId, BaseInfo, Change, Changes, Config, Content, Contents, Damage, Environment, Extent,
    FormatOptions, Fullness, Holes, PoolInfo, PoolState, Presence, ScrubPosition, ScrubStep,
    SnapshotId, SnapshotInfo, SnapshotLabel, SnapshotOrder, Source, Span, StoreError, SweepStep,
    Usage, VolumeId, VolumeInfo,
};
pub use check::{CheckOptions, Finding, Owner, Summary, check};
pub use counters::Counters;
pub use layout::NAME_MAX;
pub use mutant::{Mutant, Mutants};
pub use seal::{Seal, seal};
pub use store::Store;
pub use volumes::{SIZE_MAX, is_name, is_size};
