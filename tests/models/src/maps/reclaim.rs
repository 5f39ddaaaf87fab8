//! Freeing subtrees that were detached, leaf by leaf over several checkpoints.

use anyhow::Result;

use super::mutant::Mutant;
use super::pointer::{Birth, FAN, Lba, Pointer, span};
use super::{Lab, MapId, State};

/// A subtree that its map does not refer to any more.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// The map that it was part of.
    pub map: MapId,
    /// Its root, a node at `level` that begins at block `first`.
    pub root: Pointer,
    pub level: u8,
    pub first: Lba,
    /// The map's bound at that moment. What is not newer belongs to an ancestor.
    pub boundary: Birth,
    /// Blocks before it are freed.
    pub cursor: Lba,
}

impl Item {
    /// The block after its last.
    pub fn end(&self) -> Lba {
        self.first + span(self.level + 1)
    }
}

impl State {
    /// Frees the next leaf of the oldest item, and the nodes that are finished with it.
    pub fn reclaim_step(&mut self, lab: &mut Lab) -> Result<()> {
        let Some(mut item) = self.reclaim.front().copied() else {
            return Ok(());
        };
        let boundary = match lab.has(Mutant::ReclaimWithBoundOfNow) {
            true => self.bound(lab, item.map, item.end())?,
            false => item.boundary,
        };
        let mut trail = Vec::new();
        let (mut pointer, mut level, mut first) = (item.root, item.level, item.first);
        item.cursor = loop {
            let end = first + span(level + 1);
            let Pointer::Node { addr, birth } = pointer else {
                break end;
            };
            if birth <= boundary {
                break end;
            }
            trail.push((addr, end));
            let entries = lab.disk.node(addr);
            if level == 0 {
                for entry in entries {
                    if let Pointer::Data { addr, birth } = entry
                        && birth > boundary
                    {
                        self.free(lab, addr)?;
                    }
                }
                break end;
            }
            let index = ((item.cursor - first) / span(level)) as usize % FAN;
            pointer = entries[index];
            first += index as u64 * span(level);
            level -= 1;
        };
        for (addr, _) in trail.iter().filter(|(_, end)| *end <= item.cursor) {
            self.free(lab, *addr)?;
        }
        if item.cursor >= item.end() {
            self.reclaim.pop_front();
        } else {
            self.reclaim[0] = item;
        }
        Ok(())
    }
}
