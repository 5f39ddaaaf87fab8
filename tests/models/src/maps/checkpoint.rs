//! A checkpoint: a cut, then merges, reclaim and collapses on what was there at the cut, then all of it becomes valid at once.
//!
//! Clients go on between cut and publishing; what they do is in records after the cut.

use anyhow::{Result, ensure};

use super::{Entry, Kind, MapId, State, Store};
use crate::random::Random;

impl Store {
    /// Cuts: changes so far belong to this checkpoint.
    pub fn begin_checkpoint(&mut self) {
        self.live.ledger.clear();
        for map in self.live.maps.values_mut() {
            map.frozen = std::mem::take(&mut map.active);
        }
        self.image = Some(self.live.clone());
        self.cut = self.journal.len();
    }

    /// Does the work and publishes. Returns how many records are not needed any more.
    pub fn end_checkpoint(&mut self, random: &mut Random) -> Result<usize> {
        let Some(mut image) = self.image.take() else {
            return Ok(0);
        };
        let lab = &mut self.lab;
        let known = image.maps.keys().copied().collect();
        image.merge_all(lab)?;
        for _ in 0..random.below(8) {
            image.reclaim_step(lab)?;
        }
        // After the merges, so that both sides of a collapse have their trees.
        image.begin_collapses(lab)?;
        for id in image.collapsing() {
            for _ in 0..random.below(5) {
                if image.maps.contains_key(&id) {
                    image.collapse_step(lab, id)?;
                }
            }
        }
        self.live.take_over(&image, known)?;
        image.ledger.clear();
        self.published = image;
        self.journal.drain(..self.cut);
        lab.counts.checkpoints += 1;
        Ok(std::mem::take(&mut self.cut))
    }

    /// Whether a checkpoint has anything to do.
    pub fn is_idle(&self) -> bool {
        let hidden = |id: &MapId| self.live.children(*id).len() > 1;
        self.image.is_none()
            && self.live.reclaim.is_empty()
            && self.live.maps.iter().all(|(id, map)| {
                let rests = map.root.is_some() && map.active.is_empty() && map.frozen.is_empty();
                rests && map.cursor.is_none() && (map.kind != Kind::Deleted || hidden(id))
            })
    }
}

impl State {
    /// Takes over what a checkpoint did: trees, cursors, parents, vanished maps, and its part of the ledger.
    fn take_over(&mut self, image: &Self, known_at_cut: Vec<MapId>) -> Result<()> {
        for id in known_at_cut {
            match image.maps.get(&id) {
                Some(after) => {
                    let map = self.map_mut(id)?;
                    map.frozen = super::delta::Deltas::default();
                    (map.root, map.cursor, map.parent) = (after.root, after.cursor, after.parent);
                }
                None => {
                    let gone = self.maps.remove(&id);
                    let empty = gone.is_some_and(|map| map.active.is_empty());
                    ensure!(empty, "map {id} vanishes with changes");
                }
            }
        }
        self.reclaim.clone_from(&image.reclaim);
        for entry in &image.ledger {
            match entry {
                Entry::Allocated(addr) => ensure!(self.allocated.insert(*addr), "allocated twice"),
                Entry::Freed(addr) => ensure!(self.allocated.remove(addr), "freed twice"),
            }
        }
        Ok(())
    }
}
