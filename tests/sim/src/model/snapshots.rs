//! Snapshots: each shows one moment between its call and its return, those of one call the same moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use store::{SnapshotId, SnapshotInfo, StoreError};

use super::bases::Base;
use super::frozen::{Contents, Frozen, mask_within};
use super::history::Sight;
use super::origin::{ORIGIN, Origin, untouched};
use super::verdict::Verdict;
use super::{Existence, Model, Outcome, Trust};

/// A snapshot as the model knows it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: Option<SnapshotId>,
    pub name: String,
    /// The number of its volume.
    pub volume: u64,
    pub lineage: u64,
    /// The snapshot that it is based on.
    pub parent: Option<u64>,
    pub size_bytes: u64,
    /// A new name under way.
    pub renaming: Option<(usize, String)>,
    pub existence: Existence,
    pub(super) origin: Option<Origin>,
    pub(super) contents: Contents,
    /// While it is being taken: the oldest state that each block can be in.
    floors: Option<BTreeMap<u64, usize>>,
    /// Sizes that the volume had meanwhile.
    pub(super) sizes: Vec<u64>,
    /// What is known about the moment that it shows with the others of its call.
    moment: Rc<RefCell<Verdict>>,
}

impl Model {
    /// Snapshots of several volumes are being taken at one moment; returns their numbers.
    pub fn begin_snapshots(&mut self, wanted: &[(u64, String)]) -> Vec<u64> {
        let operation = self.begin_whole();
        let moment: Rc<RefCell<Verdict>> = Rc::default();
        let mut numbers = Vec::new();
        for (volume, name) in wanted {
            let number = self.new_number();
            numbers.push(number);
            let Some(known) = self.volumes.get_mut(volume) else {
                continue;
            };
            known.freezing += 1;
            let floors = known.blocks.iter_mut();
            let floors = floors.map(|(block, history)| (*block, history.begin_freeze()));
            let snapshot = Snapshot {
                id: None,
                name: name.clone(),
                volume: *volume,
                lineage: known.lineage,
                parent: known.parent,
                size_bytes: known.size_bytes,
                renaming: None,
                existence: Existence::Coming(operation),
                origin: known.origin,
                contents: Contents::new(),
                floors: Some(floors.collect()),
                sizes: known.sizes(),
                moment: moment.clone(),
            };
            self.snapshots.insert(number, snapshot);
        }
        numbers
    }

    /// The call was answered.
    ///
    /// # Errors
    /// An unexcused refusal, wrong sizes, or numbers that were used before.
    pub fn end_snapshots(
        &mut self,
        numbers: &[u64],
        result: Result<&[SnapshotInfo], StoreError>,
    ) -> Result<(), String> {
        let mut outcome = Outcome::Done;
        for number in numbers {
            self.freeze(*number);
            let volume = self.snapshots.get(number).map_or(0, |known| known.volume);
            outcome = self.judge(volume, 0, result.map(|_| ())).or_else(|what| {
                // One of several volumes may be the one that went.
                let others = numbers.iter().any(|other| self.is_volume_leaving(*other));
                if others {
                    Ok(Outcome::Refused)
                } else {
                    Err(what)
                }
            })?;
        }
        let Some(operation) = numbers.iter().find_map(|number| self.coming(*number)) else {
            return Ok(());
        };
        self.end(operation, outcome);
        if outcome == Outcome::Refused {
            self.snapshots.retain(|number, _| !numbers.contains(number));
        }
        let Ok(infos) = result else { return Ok(()) };
        if infos.len() != numbers.len() {
            return Err(format!("{} snapshots wanted, got {infos:?}", numbers.len()));
        }
        for (number, info) in numbers.iter().zip(infos) {
            self.use_id(info.id.into())?;
            self.settle_snapshot(*number, info)?;
        }
        self.promise_before(operation);
        Ok(())
    }

    /// It is there for certain, and this is what the store says of it.
    pub(super) fn settle_snapshot(
        &mut self,
        number: u64,
        info: &SnapshotInfo,
    ) -> Result<(), String> {
        let volume = self.snapshots.get(&number).map_or(0, |known| known.volume);
        let volume_id = self.volumes.get(&volume).and_then(|known| known.id);
        // A delete of its volume that was asked for meanwhile takes it along.
        let existence = match self.volumes.get(&volume).map(|known| known.existence) {
            Some(Existence::Going(operation)) => Existence::Going(operation),
            _ => Existence::Live,
        };
        let Some(snapshot) = self.snapshots.get_mut(&number) else {
            // Its volume was deleted, and it went along.
            return Ok(());
        };
        let fits = snapshot.sizes.contains(&info.size_bytes)
            && volume_id.is_none_or(|id| id == info.volume)
            && info.name == snapshot.name;
        if !fits && self.trust != Trust::DrivesLie {
            return Err(format!(
                "snapshot {number} ({}) of volume {volume} ({volume_id:?}) with one of the sizes {:?} is {info:?}",
                snapshot.name, snapshot.sizes
            ));
        }
        snapshot.size_bytes = info.size_bytes;
        let was_coming = matches!(snapshot.existence, Existence::Coming(_));
        if was_coming {
            snapshot.id = Some(info.id);
            snapshot.existence = existence;
            self.insert_in_chain(number);
            // The one before it may have been deleted meanwhile.
            self.prune();
        }
        Ok(())
    }

    fn coming(&self, number: u64) -> Option<usize> {
        match self.snapshots.get(&number)?.existence {
            Existence::Coming(operation) => Some(operation),
            _ => None,
        }
    }

    fn is_volume_leaving(&self, number: u64) -> bool {
        let volume = self.snapshots.get(&number).map(|known| known.volume);
        let volume = volume.and_then(|volume| self.volumes.get(&volume));
        volume.is_none_or(|known| matches!(known.existence, Existence::Going(_)))
    }

    /// Whether somebody may have deleted it.
    pub(super) fn is_snapshot_leaving(&self, number: u64) -> bool {
        let snapshot = self.snapshots.get(&number);
        snapshot
            .is_none_or(|known| matches!(known.existence, Existence::Going(_) | Existence::Hidden))
    }

    /// A volume may have another size soon, and so may a snapshot that is being taken.
    pub(super) fn freeze_size(&mut self, volume: u64, size_bytes: u64) {
        let snapshots = self.snapshots.values_mut();
        for snapshot in snapshots.filter(|known| known.volume == volume && known.floors.is_some()) {
            snapshot.sizes.push(size_bytes);
        }
    }

    /// Ends the time in which a snapshot may have been taken.
    pub(super) fn freeze(&mut self, number: u64) {
        let Some(snapshot) = self.snapshots.get_mut(&number) else {
            return;
        };
        let (Some(floors), Some(volume)) = (
            snapshot.floors.take(),
            self.volumes.get_mut(&snapshot.volume),
        ) else {
            return;
        };
        volume.freezing = volume.freezing.saturating_sub(1);
        for (block, history) in &mut volume.blocks {
            let floor = floors.get(block).copied().unwrap_or(0);
            let frozen = history.freeze(floor, &self.operations);
            history.end_read(&self.operations);
            if frozen
                .state()
                .is_none_or(|state| state != untouched(volume.origin, *block))
            {
                snapshot.contents.insert(*block, frozen);
            }
        }
    }

    /// Snapshots that can be used now.
    #[must_use]
    pub fn live_snapshots(&self) -> Vec<u64> {
        let live = self.snapshots.iter();
        let live = live.filter(|(_, snapshot)| snapshot.existence == Existence::Live);
        live.map(|(number, _)| *number).collect()
    }

    /// The snapshot of that number.
    #[must_use]
    pub fn snapshot(&self, number: u64) -> Option<&Snapshot> {
        self.snapshots.get(&number)
    }

    /// The first ancestor of a snapshot's volume.
    #[must_use]
    pub fn lineage_of_snapshot(&self, number: u64) -> u64 {
        self.snapshots.get(&number).map_or(0, |known| known.lineage)
    }

    /// Blocks that a snapshot holds, or that arrived from its origin; `open` alone those about which something is open.
    #[must_use]
    pub fn snapshot_blocks(&self, number: u64, open: bool) -> Vec<u64> {
        let contents = self.snapshots.get(&number).map(|known| &known.contents);
        let blocks = contents.into_iter().flatten();
        let own = blocks
            .filter(|(_, frozen)| !open || frozen.state().is_none())
            .map(|(block, _)| *block);
        let arrived = self.base(self.lineage_of_snapshot(number));
        let arrived = arrived.filter(|_| !open).into_iter();
        let blocks: BTreeSet<u64> = own.chain(arrived.flat_map(Base::filled)).collect();
        blocks.into_iter().collect()
    }

    /// Somebody read this block of a snapshot.
    ///
    /// # Errors
    /// When it cannot hold that.
    pub fn saw_snapshot_block(
        &mut self,
        number: u64,
        block: u64,
        mask: u8,
        bytes: &[u8],
    ) -> Result<(), String> {
        let lineage = self.lineage_of_snapshot(number);
        let size = (self.snapshots.get(&number)).map_or(0, |known| known.size_bytes);
        let mask = mask & mask_within(size, block);
        let mut observed = self.observe(lineage, block, mask, bytes)?;
        if mask == mask_within(size, block) {
            // What lies behind the end counts as seen.
            for slot in &mut observed {
                slot.get_or_insert(0);
            }
        }
        self.check_snapshot_block(number, block, &Sight::Sectors(observed))
    }

    fn check_snapshot_block(
        &mut self,
        number: u64,
        block: u64,
        sight: &Sight,
    ) -> Result<(), String> {
        let Some(snapshot) = self.snapshots.get_mut(&number) else {
            return Ok(());
        };
        let mut same = Frozen::Known(untouched(snapshot.origin, block));
        let frozen = snapshot.contents.get_mut(&block).unwrap_or(&mut same);
        let mut moment = snapshot.moment.borrow_mut();
        let checked = frozen.check(sight, &self.operations, &mut moment);
        let judged = moment.judge();
        if self.trust == Trust::DrivesLie {
            return Ok(());
        }
        checked.map_err(|expected| {
            format!("snapshot {number} block {block}: {sight:?}, expected {expected}")
        })?;
        judged.map_err(|what| format!("snapshot {number} block {block}: {what}"))
    }

    /// A read of these blocks of a snapshot found something absent; `unsure` says for each whether it may have been.
    ///
    /// # Errors
    /// When all of it must be here.
    pub fn saw_snapshot_absent(
        &mut self,
        number: u64,
        first: u64,
        unsure: &[bool],
    ) -> Result<(), String> {
        let Some(snapshot) = self.snapshots.get(&number) else {
            return Ok(());
        };
        let lineage = snapshot.lineage;
        let is_possible = |block: u64| {
            let sight = self.absent(lineage, block);
            sight.is_some_and(|sight| match snapshot.contents.get(&block) {
                Some(frozen) => frozen.may_be(&sight, &self.operations),
                None => true,
            })
        };
        let mut unsure = (first..).zip(unsure).filter(|(_, unsure)| **unsure);
        if self.trust != Trust::DrivesLie && !unsure.any(|(block, _)| is_possible(block)) {
            return Err(format!(
                "snapshot {number} from block {first} on: something is absent, and nothing can be"
            ));
        }
        Ok(())
    }

    /// Whether a block of a snapshot is absent.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn saw_snapshot_presence(
        &mut self,
        number: u64,
        block: u64,
        is_absent: bool,
        unsure: bool,
    ) -> Result<(), String> {
        let Some(snapshot) = self.snapshots.get(&number) else {
            return Ok(());
        };
        let (lineage, origin) = (snapshot.lineage, snapshot.origin);
        if is_absent {
            self.saw_snapshot_absent(number, block, &[unsure])?;
            let Some(sight) = self.absent(lineage, block) else {
                return Ok(());
            };
            return self.check_snapshot_block(number, block, &sight);
        }
        let is_origins = match snapshot.contents.get(&block) {
            Some(frozen) => frozen.state().is_some_and(|state| state.version == ORIGIN),
            None => origin.is_some_and(|origin| block < origin.blocks()),
        };
        if is_origins {
            self.saw_arrived(lineage, block)?;
        }
        Ok(())
    }

    /// A read of a snapshot was refused.
    ///
    /// # Errors
    /// When nothing excuses that.
    pub fn refused_snapshot(&self, number: u64, error: StoreError) -> Result<(), String> {
        let gone = self.is_snapshot_leaving(number);
        match error {
            StoreError::NoSnapshot | StoreError::NoVolume if gone => Ok(()),
            _ if self.trust != Trust::Full => Ok(()),
            error => Err(format!(
                "snapshot {number}: refused without reason: {error:?}"
            )),
        }
    }

    /// A snapshot is being deleted.
    pub fn begin_delete_snapshot(&mut self, number: u64) {
        let operation = self.begin_whole();
        if let Some(snapshot) = self.snapshots.get_mut(&number) {
            snapshot.existence = Existence::Going(operation);
        }
    }

    /// The delete of a snapshot was answered.
    ///
    /// # Errors
    /// An unexcused refusal; a full pool is no excuse.
    pub fn end_delete_snapshot(
        &mut self,
        number: u64,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        let volume_leaves = self.is_volume_leaving(number);
        match result {
            Ok(()) => {
                let existence = self.snapshots.get(&number).map(|known| known.existence);
                if let Some(Existence::Going(operation)) = existence {
                    self.end(operation, Outcome::Done);
                    self.promise_before(operation);
                }
                self.hide_snapshot(number);
                Ok(())
            }
            // Its volume was deleted, or is being deleted.
            Err(StoreError::NoSnapshot | StoreError::NoVolume) if volume_leaves => Ok(()),
            Err(_) if self.trust != Trust::Full => Ok(()),
            Err(error) => Err(format!(
                "delete of a snapshot failed without reason: {error:?}"
            )),
        }
    }

    /// A snapshot is being given another name.
    pub fn begin_rename_snapshot(&mut self, number: u64, name: &str) {
        let operation = self.begin_whole();
        if let Some(snapshot) = self.snapshots.get_mut(&number) {
            snapshot.renaming = Some((operation, name.to_string()));
        }
    }

    /// That was answered.
    ///
    /// # Errors
    /// An unexcused refusal.
    pub fn end_rename_snapshot(
        &mut self,
        number: u64,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        let gone = self.is_snapshot_leaving(number);
        let outcome = match result {
            Err(StoreError::NoSnapshot) if gone => return Ok(()),
            other => self.judge(0, 0, other)?,
        };
        let Some(snapshot) = self.snapshots.get_mut(&number) else {
            return Ok(());
        };
        let Some((operation, name)) = snapshot.renaming.clone() else {
            return Ok(());
        };
        match outcome {
            Outcome::Done => (snapshot.name, snapshot.renaming) = (name, None),
            Outcome::Refused => snapshot.renaming = None,
            Outcome::Unclear | Outcome::Pending => {}
        }
        self.end(operation, outcome);
        if outcome == Outcome::Done {
            self.promise_before(operation);
        }
        Ok(())
    }
}

impl super::Volume {
    /// Sizes that it may have now.
    fn sizes(&self) -> Vec<u64> {
        let coming = (self.changing.as_ref()).and_then(|changing| changing.size_bytes);
        coming.into_iter().chain([self.size_bytes]).collect()
    }
}
