//! Metadata contexts: what BLOCK_STATUS can tell of an export.
//!
//! | context | bit 0 | bit 1 |
//! | --- | --- | --- |
//! | `base:allocation` | nothing is stored there | it reads as zeros |
//! | `ferrite:changed:SNAPSHOT` | it is not as it was in that snapshot of the volume | …but zeros now |
//!
//! The second is for a volume and for its snapshots alike: what is compared is the export. `base:`, `ferrite:` and `ferrite:changed:` list all
//! that there are of a kind, and select none.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use volume::{Content, SnapshotId, Volume, VolumeError};
use wire::nbd::{BASE_ALLOCATION, MetaRequest, NBD_STATE_HOLE, NBD_STATE_ZERO};
use world::Disk;

/// What stands before the name of a snapshot.
const CHANGED: &str = "ferrite:changed:";
/// Queries that mean all that begin so.
const WILDCARDS: [&str; 3] = ["base:", "ferrite:", CHANGED];
/// The most contexts of one connection.
pub(super) const CONTEXTS_MAX: usize = 16;
/// The most snapshots that are listed. There may be any number, and all can be selected.
const LISTED_MAX: usize = 1000;

/// Flag of `ferrite:changed`: it is not as it was.
const CHANGED_DIRTY: u32 = 1 << 0;
/// Flag of `ferrite:changed`: it reads as zeros now.
const CHANGED_ZERO: u32 = 1 << 1;

/// One selected context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`.
    Allocation,
    /// `ferrite:changed` since this snapshot.
    Changed(SnapshotId),
}

impl Context {
    /// What the export is compared with.
    pub(super) fn since(self) -> Option<SnapshotId> {
        match self {
            Self::Allocation => None,
            Self::Changed(snapshot) => Some(snapshot),
        }
    }

    /// The descriptor's flags for what an extent is.
    pub(super) fn flags(self, content: Content) -> u32 {
        match (self, content) {
            (Self::Allocation, Content::Data) | (Self::Changed(_), Content::Same) => 0,
            (Self::Allocation, Content::Same | Content::Zero) => NBD_STATE_HOLE | NBD_STATE_ZERO,
            (Self::Changed(_), Content::Data) => CHANGED_DIRTY,
            (Self::Changed(_), Content::Zero) => CHANGED_DIRTY | CHANGED_ZERO,
        }
    }
}

/// Names of the contexts that `request` lists.
pub(super) fn listed<D: Disk + 'static>(
    volume: &Volume<D>,
    request: MetaRequest<'_>,
) -> Vec<String> {
    let has_none = request.queries().next().is_none();
    let any = |wanted: &[&str]| has_none || request.queries().any(|query| wanted.contains(&query));
    let mut names = Vec::new();
    if any(&[BASE_ALLOCATION, WILDCARDS[0]]) {
        names.push(BASE_ALLOCATION.to_string());
    }
    if any(&WILDCARDS[1..]) {
        let snapshots = volume.comparable(None, LISTED_MAX).into_iter();
        names.extend(snapshots.map(|info| format!("{CHANGED}{}", info.name)));
        return names;
    }
    for query in request.queries().filter(|query| *query != BASE_ALLOCATION) {
        if context(volume, query).is_ok() && !names.iter().any(|name| name == query) {
            names.push(query.into());
        }
    }
    names
}

/// The contexts that `request` selects, each once, and their names; `None` when they are too many.
pub(super) fn selected<'a, D: Disk + 'static>(
    volume: &Volume<D>,
    request: MetaRequest<'a>,
) -> Option<Vec<(Context, &'a str)>> {
    let mut contexts: Vec<(Context, &str)> = Vec::new();
    for query in request.queries() {
        if let Ok(context) = context(volume, query)
            && !contexts.iter().any(|(other, _)| *other == context)
        {
            if contexts.len() == CONTEXTS_MAX {
                return None;
            }
            contexts.push((context, query));
        }
    }
    Some(contexts)
}

fn context<D: Disk + 'static>(volume: &Volume<D>, name: &str) -> Result<Context, VolumeError> {
    if name == BASE_ALLOCATION {
        return Ok(Context::Allocation);
    }
    let snapshot = name.strip_prefix(CHANGED).unwrap_or_default();
    volume.comparable_snapshot(snapshot).map(Context::Changed)
}
