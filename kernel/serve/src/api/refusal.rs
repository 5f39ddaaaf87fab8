//! Refusals in the names that a request used: errors of the rooms below know no names.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use volume::{SnapshotInfo, Source, VolumeError, Volumes};
use world::Disk;

use super::problem::Problem;

/// Names of one kind that a refusal lists.
const LISTED_MAX: usize = 8;

/// What a request is about.
#[derive(Clone, Copy, Default)]
pub(super) struct About<'a> {
    pub volume: &'a str,
    /// A snapshot of it.
    pub snapshot: Option<&'a str>,
    /// All its snapshots, too.
    pub with_snapshots: bool,
    /// What something is to be called.
    pub new_name: Option<&'a str>,
}

impl<'a> About<'a> {
    pub fn volume(volume: &'a str) -> Self {
        Self {
            volume,
            ..Self::default()
        }
    }

    pub fn snapshot(volume: &'a str, snapshot: &'a str) -> Self {
        Self {
            volume,
            snapshot: Some(snapshot),
            ..Self::volume(volume)
        }
    }

    /// The same, with a name that something is to get.
    pub fn called(self, new_name: Option<&'a str>) -> Self {
        Self { new_name, ..self }
    }

    /// The refusal because of `error`.
    pub fn refuse<D: Disk + 'static>(&self, volumes: &Volumes<D>, error: VolumeError) -> Problem {
        let volume = self.volume;
        let detail = match (error, self.snapshot, self.new_name) {
            (VolumeError::NoVolume, ..) => format!("{error}: `{volume}`"),
            (VolumeError::NoSnapshot, Some(snapshot), _) => {
                format!("{error}: `{volume}@{snapshot}`")
            }
            (VolumeError::NameTaken, None, Some(name)) => {
                format!("{error}: there is a volume `{name}` already")
            }
            (VolumeError::NameTaken, Some(_), Some(name)) => {
                format!("{error}: `{volume}` has a snapshot `{name}` already")
            }
            (VolumeError::Attached(_), ..) => {
                let whom = self.attached(volumes);
                format!("{error} to {whom}; add ?force=true to do it anyway")
            }
            _ => return error.into(),
        };
        Problem::from(error).with_detail(detail)
    }

    /// What of it clients are attached to, and from where they come.
    fn attached<D: Disk + 'static>(&self, volumes: &Volumes<D>) -> String {
        let volume = self.volume;
        let of = |info: SnapshotInfo| (format!("`{volume}@{}`", info.name), info.id.into());
        let mut sources: Vec<(String, Source)> = Vec::new();
        match (self.snapshot, volumes.get(volume)) {
            (Some(name), _) => sources.extend(volumes.snapshot(volume, name).map(of)),
            (None, Ok(info)) => {
                sources.push((format!("`{volume}`"), info.id.into()));
                if self.with_snapshots {
                    sources.extend(volumes.store().snapshots(info.id).into_iter().map(of));
                }
            }
            (None, Err(_)) => {}
        }
        let mut names = Vec::new();
        let mut peers = BTreeSet::new();
        for (name, source) in sources {
            if volumes.clients(source) > 0 {
                names.push(name);
                peers.extend(volumes.peers(source));
            }
        }
        let peers: Vec<String> = peers
            .iter()
            .map(|peer| peer.to_canonical().to_string())
            .collect();
        match peers.len() {
            0 => few(&names),
            _ => format!("{}, from {}", few(&names), few(&peers)),
        }
    }
}

/// The first of them.
fn few(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED_MAX)].join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
