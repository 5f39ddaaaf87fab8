//! Volumes and snapshots by number and by name, and which catalog slot holds which map.
//!
//! A volume keeps its number for life; the map it writes to (its *head*) changes with each snapshot and rollback.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::api::SnapshotOrder;

/// A volume.
pub struct Volume {
    /// The map that it writes to.
    pub head: u64,
    /// Its snapshots by name.
    pub snapshots: HashMap<String, SnapshotOrder>,
    /// The same, oldest first.
    pub in_order: BTreeSet<SnapshotOrder>,
}

/// All of them.
#[derive(Default)]
pub struct Directory {
    volumes: BTreeMap<u64, Volume>,
    names: HashMap<String, u64>,
    /// Deleted maps that are not taken apart yet.
    pub hidden: BTreeSet<u64>,
    /// Maps of what arrived of adopted volumes.
    pub bases: BTreeSet<u64>,
    slots: Vec<Option<u64>>,
    free_slots: BTreeSet<usize>,
}

impl Directory {
    /// The heads of all volumes.
    pub fn heads(&self) -> impl Iterator<Item = u64> + '_ {
        self.volumes.values().map(|volume| volume.head)
    }

    pub fn volume(&self, volume: u64) -> Option<&Volume> {
        self.volumes.get(&volume)
    }

    /// The number of the volume with this name.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// Notes that `volume` writes to `head` from now on.
    pub fn set_head(&mut self, volume: u64, name: &str, head: u64) {
        self.names.insert(name.into(), volume);
        match self.volumes.get_mut(&volume) {
            Some(volume) => volume.head = head,
            None => {
                let new = Volume {
                    head,
                    snapshots: HashMap::new(),
                    in_order: BTreeSet::new(),
                };
                self.volumes.insert(volume, new);
            }
        }
    }

    pub fn rename(&mut self, volume: u64, old: &str, new: &str) {
        self.names.remove(old);
        self.names.insert(new.into(), volume);
    }

    /// Forgets a volume; returns its snapshots' maps.
    pub fn remove(&mut self, volume: u64, name: &str) -> Vec<u64> {
        self.names.remove(name);
        let volume = self.volumes.remove(&volume);
        let snapshots = volume.map_or_else(BTreeSet::new, |volume| volume.in_order);
        snapshots.into_iter().map(|order| order.id.0).collect()
    }

    pub fn add_snapshot(&mut self, volume: u64, name: &str, order: SnapshotOrder) {
        if let Some(volume) = self.volumes.get_mut(&volume) {
            volume.snapshots.insert(name.into(), order);
            volume.in_order.insert(order);
        }
    }

    pub fn remove_snapshot(&mut self, volume: u64, name: &str) {
        if let Some(volume) = self.volumes.get_mut(&volume)
            && let Some(order) = volume.snapshots.remove(name)
        {
            volume.in_order.remove(&order);
        }
    }

    /// How many catalog slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The map in a catalog slot.
    pub fn in_slot(&self, slot: usize) -> Option<u64> {
        self.slots.get(slot).copied().flatten()
    }

    /// Puts a map into `slot`, or into a free one; returns which.
    pub fn take_slot(&mut self, map: u64, slot: Option<usize>) -> usize {
        let slot = slot.or_else(|| self.free_slots.first().copied());
        let slot = slot.unwrap_or(self.slots.len());
        while self.slots.len() <= slot {
            self.free_slots.insert(self.slots.len());
            self.slots.push(None);
        }
        self.free_slots.remove(&slot);
        self.slots[slot] = Some(map);
        slot
    }

    pub fn free_slot(&mut self, slot: usize) {
        if let Some(entry) = self.slots.get_mut(slot) {
            *entry = None;
            self.free_slots.insert(slot);
        }
    }
}
