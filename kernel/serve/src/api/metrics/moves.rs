//! Measures of volumes that move from one appliance to another.

use alloc::vec::Vec;

use migration::Moves;
use upkeep::{JobInfo, Work};
use volume::Volumes;
use world::Disk;

use super::Page;

/// Where a volume can be on its way.
const STATES: [&str; 5] = ["owned", "offered", "prepared", "given", "left"];

impl Page {
    /// Where volumes are that move or have moved.
    pub(super) fn moves<D: Disk + 'static>(&mut self, volumes: &Volumes<D>, moves: &Moves<D>) {
        let all = volumes.list();
        let states = all
            .iter()
            .filter_map(|info| Some(moves.get(info.id)?.state));
        let states: Vec<_> = states.collect();
        let name = "ferrite_volume_moves";
        let about =
            "Volumes that move from one appliance to another or have moved, by where they are.";
        self.family(name, "gauge", about);
        for state in STATES {
            let count = states.iter().filter(|one| **one == state).count();
            self.sample(name, &[("state", state)], count);
        }
    }

    /// Bytes of migrations that are not over.
    pub(super) fn migrations(&mut self, jobs: &[JobInfo]) {
        let under_way = jobs.iter().filter(|job| !job.state.is_over());
        let all = under_way.filter_map(|job| match &job.work {
            Work::Migrate(migration) => Some(migration),
            Work::Scrub(_) | Work::Hydrate(_) => None,
        });
        let all: Vec<_> = all.collect();
        let name = "ferrite_migration_unknown_bytes";
        let about =
            "Bytes of a volume that moves, behind those that the other appliance has all of.";
        self.family(name, "gauge", about);
        for migration in &all {
            let labels = [("volume", migration.volume.as_str()), ("to", &migration.to)];
            let unknown = migration.size_bytes.saturating_sub(migration.known_bytes);
            self.sample(name, &labels, unknown);
        }
        let name = "ferrite_migration_bytes_total";
        let about = "Bytes that the other appliance has got of a volume that moves: data, by whom it was wanted, and what was said about it.";
        self.family(name, "counter", about);
        for migration in &all {
            for (kind, bytes) in [
                ("clients", migration.demanded_bytes),
                ("background", migration.background_bytes),
                ("metadata", migration.metadata_bytes),
            ] {
                let labels = [
                    ("volume", migration.volume.as_str()),
                    ("to", &migration.to),
                    ("by", kind),
                ];
                self.sample(name, &labels, bytes);
            }
        }
    }
}
