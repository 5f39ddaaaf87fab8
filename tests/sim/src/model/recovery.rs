//! What a restart may leave behind.

use std::collections::BTreeSet;

use store::{SnapshotInfo, VolumeInfo};

use super::frozen::Frozen;
use super::history::{Certainty, History, Sight, State};
use super::origin::untouched;
use super::verdict::Verdict;
use super::{Existence, Model, RECORDS, Trust};

impl Model {
    /// The appliance stopped, by a power cut or otherwise: what was promised stays promised, the rest is open.
    pub fn restart(&mut self) {
        let being_taken: Vec<u64> = self.snapshots.keys().copied().collect();
        for number in being_taken {
            self.freeze(number);
        }
        for volume in self.volumes.values_mut() {
            volume.freezing = 0;
            for history in volume.blocks.values_mut() {
                history.restart();
            }
        }
        if self.trust == Trust::DrivesLie {
            let snapshots = self.snapshots.values_mut();
            for frozen in snapshots.flat_map(|known| known.contents.values_mut()) {
                *frozen = Frozen::Unknown;
            }
        }
        self.unflushed.clear();
        for base in self.bases.values_mut() {
            base.restart(self.trust == Trust::DrivesLie);
        }
    }

    /// An orderly close was acknowledged: everything acknowledged before is promised.
    pub fn closed(&mut self) {
        let now = self.begin_flush();
        self.promise_up_to(now);
    }

    /// Compares the volumes of a recovered pool with those that can exist.
    ///
    /// # Errors
    /// A volume too many, one too few, or a wrong size or name.
    pub fn recover_volumes(
        &mut self,
        verdict: &mut Verdict,
        found: &[VolumeInfo],
    ) -> Result<(), String> {
        let numbers: Vec<u64> = self.volumes.keys().copied().collect();
        let mut known = BTreeSet::new();
        for number in numbers.into_iter().filter(|number| *number != RECORDS) {
            let volume = &self.volumes[&number];
            let (id, name) = (volume.id, volume.name.clone());
            let info = found.iter().find(|info| match id {
                Some(id) => info.id == id,
                None => info.name == name,
            });
            if let Some(info) = info {
                known.insert(info.id);
            }
            self.recover_volume(verdict, number, info)?;
        }
        let unknown = found.iter().find(|info| !known.contains(&info.id));
        match unknown {
            Some(info) if self.trust != Trust::DrivesLie => {
                Err(format!("a volume out of nowhere: {info:?}"))
            }
            _ => Ok(()),
        }
    }

    fn recover_volume(
        &mut self,
        verdict: &mut Verdict,
        number: u64,
        info: Option<&VolumeInfo>,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let operations = &self.operations;
        let name = volume.name.clone();
        let coming = |is_there, verdict: &mut Verdict| match volume.existence {
            Existence::Coming(operation) => {
                let what = || format!("the making of volume {number}");
                verdict.part((operation, operations), is_there, what);
            }
            Existence::Going(operation) => {
                let what = || format!("the delete of volume {number}");
                verdict.part((operation, operations), !is_there, what);
            }
            Existence::Live | Existence::Hidden => {}
        };
        coming(info.is_some(), verdict);
        let Some(info) = info else {
            if volume.existence == Existence::Live && self.trust != Trust::DrivesLie {
                return Err(format!("volume {number} ({name}) is missing"));
            }
            self.volumes.remove(&number);
            return Ok(());
        };
        volume.existence = Existence::Live;
        volume.id = Some(info.id);
        self.used_ids.insert(info.id.into());
        if let Some(changing) = volume.changing.take() {
            let size = changing.size_bytes.unwrap_or(volume.size_bytes);
            let new_name = changing.name.clone().unwrap_or_else(|| name.clone());
            let is_done = info.size_bytes == size && info.name == new_name;
            // A rollback that changes neither name nor size shows in the blocks alone.
            if (size, &new_name) != (volume.size_bytes, &name) {
                let what = || format!("the grow, rename or rollback of volume {number}");
                verdict.part((changing.operation, operations), is_done, what);
            }
            if is_done {
                let parent = volume.parent;
                volume.apply(&changing);
                if let Some(snapshot) = changing.parent {
                    // The blocks will tell.
                    volume.parent = parent;
                    volume.doubt = Some((changing.operation, snapshot));
                }
            }
        }
        let fits = info.size_bytes == volume.size_bytes && info.name == volume.name;
        if !fits && self.trust != Trust::DrivesLie {
            return Err(format!(
                "volume {number} ({} of {} bytes) is {info:?}",
                volume.name, volume.size_bytes
            ));
        }
        volume.size_bytes = info.size_bytes;
        volume.name.clone_from(&info.name);
        Ok(())
    }

    /// Compares the snapshots of a recovered pool with those that can exist; its volumes have been looked at.
    ///
    /// # Errors
    /// A snapshot too many, one too few, or with a wrong size, name or volume.
    pub fn recover_snapshots(
        &mut self,
        verdict: &mut Verdict,
        found: &[SnapshotInfo],
    ) -> Result<(), String> {
        let numbers: Vec<u64> = self.snapshots.keys().copied().collect();
        let mut known = BTreeSet::new();
        for number in numbers {
            let Some(snapshot) = self.snapshots.get(&number) else {
                continue;
            };
            let volume = self
                .volumes
                .get(&snapshot.volume)
                .and_then(|known| known.id);
            if snapshot.existence == Existence::Hidden {
                continue;
            }
            let (id, name) = (snapshot.id, snapshot.name.clone());
            let info = found.iter().find(|info| match id {
                Some(id) => info.id == id,
                None => info.name == name && Some(info.volume) == volume,
            });
            if let Some(info) = info {
                known.insert(info.id);
            }
            self.recover_snapshot(verdict, number, info)?;
        }
        self.prune();
        let unknown = found.iter().find(|info| !known.contains(&info.id));
        match unknown {
            Some(info) if self.trust != Trust::DrivesLie => {
                Err(format!("a snapshot out of nowhere: {info:?}"))
            }
            _ => Ok(()),
        }
    }

    fn recover_snapshot(
        &mut self,
        verdict: &mut Verdict,
        number: u64,
        info: Option<&SnapshotInfo>,
    ) -> Result<(), String> {
        let Some(snapshot) = self.snapshots.get_mut(&number) else {
            return Ok(());
        };
        let operations = &self.operations;
        let is_there = info.is_some();
        if !is_there && !self.volumes.contains_key(&snapshot.volume) {
            // Its volume was deleted and took it along, whatever else was under way.
            self.hide_snapshot(number);
            return Ok(());
        }
        match snapshot.existence {
            Existence::Coming(operation) => {
                let what = || format!("the making of snapshot {number}");
                verdict.part((operation, operations), is_there, what);
            }
            Existence::Going(operation) => {
                let what = || format!("the delete of snapshot {number}");
                verdict.part((operation, operations), !is_there, what);
            }
            Existence::Live if !is_there && self.trust != Trust::DrivesLie => {
                return Err(format!("snapshot {number} ({}) is missing", snapshot.name));
            }
            Existence::Live | Existence::Hidden => {}
        }
        let Some(info) = info else {
            match snapshot.existence {
                Existence::Coming(_) => drop(self.snapshots.remove(&number)),
                _ => snapshot.existence = Existence::Hidden,
            }
            return Ok(());
        };
        if let Some((operation, name)) = snapshot.renaming.take() {
            let is_done = info.name == name;
            let what = || format!("the rename of snapshot {number}");
            verdict.part((operation, operations), is_done, what);
            if is_done {
                snapshot.name = name;
            }
        }
        if !matches!(snapshot.existence, Existence::Coming(_)) {
            snapshot.existence = Existence::Live;
            snapshot.sizes = vec![snapshot.size_bytes];
        }
        self.used_ids.insert(info.id.into());
        self.settle_snapshot(number, info)
    }

    /// Blocks of a volume that were ever touched, or arrived from its origin; `changed` alone if something is open about them.
    #[must_use]
    pub fn touched_blocks(&self, number: u64, changed: bool) -> Vec<u64> {
        let Some(volume) = self.volumes.get(&number) else {
            return Vec::new();
        };
        let all = volume.blocks.iter();
        let open = |history: &History| {
            history.certainty > Certainty::Exact || history.entries().next().is_some()
        };
        let own = all
            .filter(|(_, history)| !changed || open(history))
            .map(|(block, _)| *block);
        let arrived = self.base(volume.lineage).filter(|_| !changed);
        let arrived = arrived.into_iter().flat_map(super::Base::filled);
        let blocks: BTreeSet<u64> = own.chain(arrived).collect();
        blocks.into_iter().collect()
    }

    /// Takes note that a block is absent after a recovery.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn recover_absent(
        &mut self,
        verdict: &mut Verdict,
        number: u64,
        block: u64,
    ) -> Result<(), String> {
        let lineage = self.lineage(number);
        let is_here = self.base(lineage).is_some_and(|base| base.is_here(block));
        match self.absent(lineage, block) {
            Some(sight) if !is_here || self.trust == Trust::DrivesLie => {
                self.recover_block(verdict, number, block, &sight)
            }
            _ => Err(format!(
                "volume {number} block {block} is absent after recovery, and is here"
            )),
        }
    }

    /// Takes note of what a block holds after a recovery.
    ///
    /// # Errors
    /// When it cannot hold that.
    pub fn recover_block(
        &mut self,
        verdict: &mut Verdict,
        number: u64,
        block: u64,
        sight: &Sight,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let history = volume.block(block);
        let exact = history.certainty == Certainty::Exact && self.trust != Trust::DrivesLie;
        let mut state = sight.state();
        if exact {
            let matching = history.matching(sight, history.durable(), &self.operations);
            let Some(matching) = matching else {
                return Err(format!(
                    "volume {number} block {block} after recovery: {sight:?}, expected a state from {} on of\n{}",
                    history.durable(),
                    history.describe(&self.operations)
                ));
            };
            let place = format!("of volume {number} block {block}");
            verdict.weigh(history, &matching, &self.operations, &place);
            if sight.is_whole() {
                state = matching.state;
            }
        }
        let history = volume.block(block);
        history.settle(state);
        // Drives that lie may bring older contents back, so such a block has to be looked at after each restart.
        if state == untouched(volume.origin, block) && self.trust != Trust::DrivesLie {
            // Like a block that was never touched.
            volume.blocks.remove(&block);
        }
        Ok(())
    }

    /// A block could not be read after a recovery, and that is excused.
    pub fn lose_block(&mut self, number: u64, block: u64) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            let history = volume.block(block);
            history.settle(State::default());
            history.certainty = Certainty::UntilWritten;
        }
    }

    /// Everything was looked at: judges the order of what is present and what is missing.
    ///
    /// # Errors
    /// When something is present although something older is missing, or present by half.
    pub fn recovered(&mut self, verdict: &Verdict) -> Result<(), String> {
        for volume in self.volumes.values_mut() {
            if let Some((operation, snapshot)) = volume.doubt
                && let Some(is_done) = verdict.is_done(operation)
            {
                volume.doubt = None;
                if is_done {
                    volume.parent = Some(snapshot);
                }
            }
        }
        self.prune();
        self.forget_bases();
        match verdict.judge() {
            Err(what) if self.trust != Trust::DrivesLie => Err(what),
            _ => Ok(()),
        }
    }
}
