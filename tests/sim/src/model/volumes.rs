//! Volumes come, change and go: part of the one order, and durable when answered.

use std::collections::BTreeSet;

use store::{Source, StoreError, VolumeId, VolumeInfo};

use super::bases::Base;
use super::history::{Certainty, Effect, Entry, History};
use super::origin::untouched;
use super::{Changing, Existence, Model, Origin, Outcome, Trust, Volume};

impl Model {
    /// A volume is being made.
    pub fn begin_create(&mut self, name: &str, size_bytes: u64) -> u64 {
        let operation = self.begin_whole();
        let number = self.new_number();
        let volume = Volume::new(number, name, size_bytes, Existence::Coming(operation));
        self.volumes.insert(number, volume);
        number
    }

    /// A volume is being made whose blocks are elsewhere.
    pub fn begin_adopt(&mut self, name: &str, size_bytes: u64) -> u64 {
        let number = self.begin_create(name, size_bytes);
        let origin = Origin {
            seed: self.seed,
            lineage: number,
            size_bytes,
        };
        self.bases.insert(number, Base::new(origin));
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.origin = Some(origin);
        }
        number
    }

    /// A volume is being made that begins as a snapshot is; `None` when that is gone.
    pub fn begin_clone(&mut self, snapshot: u64, name: &str) -> Option<u64> {
        let (size_bytes, lineage) = {
            let origin = self.snapshots.get(&snapshot)?;
            (origin.size_bytes, origin.lineage)
        };
        let number = self.begin_create(name, size_bytes);
        let origin = self.snapshots.get(&snapshot)?;
        let volume = self.volumes.get_mut(&number)?;
        volume.lineage = lineage;
        volume.parent = Some(snapshot);
        volume.origin = origin.origin;
        volume.blocks = (origin.contents.iter())
            .map(|(block, frozen)| (*block, History::of(frozen.state())))
            .collect();
        Some(number)
    }

    /// The making of a volume was answered.
    ///
    /// # Errors
    /// An unexcused refusal, or a number that was used before.
    pub fn end_create(
        &mut self,
        number: u64,
        result: Result<VolumeId, StoreError>,
    ) -> Result<(), String> {
        let gone = (self.volumes.get(&number).and_then(|volume| volume.parent))
            .is_some_and(|parent| self.is_snapshot_leaving(parent));
        let outcome = match result {
            Err(StoreError::NoSnapshot) if gone => Outcome::Refused,
            _ => self.judge(number, 0, result.map(|_| ()))?,
        };
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        match result {
            Ok(id) => {
                volume.id = Some(id);
                let existence = core::mem::replace(&mut volume.existence, Existence::Live);
                self.use_id(id.into())?;
                if let Existence::Coming(operation) = existence {
                    self.end(operation, outcome);
                    self.promise_before(operation);
                }
            }
            // In doubt until the next restart; nobody uses it meanwhile.
            Err(_) if outcome == Outcome::Unclear => {}
            Err(_) => {
                self.volumes.remove(&number);
                self.forget_bases();
            }
        }
        Ok(())
    }

    /// The store gave this number to something new.
    pub(super) fn use_id(&mut self, id: Source) -> Result<(), String> {
        // A lost superblock takes the numbers given out since with it.
        if !self.used_ids.insert(id) && self.trust != Trust::DrivesLie {
            return Err(format!("{id:?} was used before"));
        }
        Ok(())
    }

    /// A volume is being deleted, and its snapshots with it; nothing new is sent to them.
    pub fn begin_delete(&mut self, number: u64) {
        let operation = self.begin_whole();
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.existence = Existence::Going(operation);
        }
        for snapshot in self.snapshots.values_mut() {
            if snapshot.volume == number && snapshot.existence == Existence::Live {
                snapshot.existence = Existence::Going(operation);
            }
        }
    }

    /// A delete was answered.
    ///
    /// # Errors
    /// An unexcused refusal; a full pool is no excuse.
    pub fn end_delete(
        &mut self,
        number: u64,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        match result {
            Ok(()) => {
                let volume = self.volumes.remove(&number);
                if let Some(Existence::Going(operation)) = volume.map(|known| known.existence) {
                    self.end(operation, Outcome::Done);
                    self.promise_before(operation);
                }
                self.hide_snapshots_of(number);
                Ok(())
            }
            Err(_) if self.trust != Trust::Full => Ok(()),
            Err(error) => Err(format!("delete failed without reason: {error:?}")),
        }
    }

    /// A volume is being grown, renamed or rolled back.
    fn begin_changing(&mut self, number: u64, changing: impl FnOnce(&mut Changing)) -> usize {
        let operation = self.begin_whole();
        let mut wanted = Changing {
            operation,
            name: None,
            size_bytes: None,
            parent: None,
        };
        changing(&mut wanted);
        if let Some(size_bytes) = wanted.size_bytes {
            self.freeze_size(number, size_bytes);
        }
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.changing = Some(wanted);
        }
        operation
    }

    /// A volume is being grown.
    pub fn begin_grow(&mut self, number: u64, size_bytes: u64) {
        self.begin_changing(number, |changing| changing.size_bytes = Some(size_bytes));
    }

    /// A volume is being given another name.
    pub fn begin_rename(&mut self, number: u64, name: &str) {
        self.begin_changing(number, |changing| changing.name = Some(name.to_string()));
    }

    /// Whether a volume is being given a name that another one has, or may have.
    pub(super) fn wants_taken_name(&self, number: u64) -> bool {
        let changing = self
            .volumes
            .get(&number)
            .and_then(|known| known.changing.as_ref());
        let Some(name) = changing.and_then(|changing| changing.name.as_ref()) else {
            return false;
        };
        self.volumes.iter().any(|(other, known)| {
            let coming = known
                .changing
                .as_ref()
                .and_then(|changing| changing.name.as_ref());
            *other != number && (known.name == *name || coming == Some(name))
        })
    }

    /// A volume becomes what it was at a snapshot. No other change of it is under way until this is answered.
    pub fn begin_rollback(&mut self, number: u64, snapshot: u64) {
        let Some((size_bytes, contents)) =
            (self.snapshots.get(&snapshot)).map(|known| (known.size_bytes, known.contents.clone()))
        else {
            return;
        };
        let operation = self.begin_changing(number, |changing| {
            changing.size_bytes = Some(size_bytes);
            changing.parent = Some(snapshot);
        });
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        let all: BTreeSet<u64> = (volume.blocks.keys())
            .chain(contents.keys())
            .copied()
            .collect();
        for block in all {
            let state = match contents.get(&block) {
                Some(frozen) => frozen.state(),
                None => Some(untouched(volume.origin, block)),
            };
            let history = volume.block(block);
            let effect = Effect::Restore(state.unwrap_or_default());
            history.push(Entry { operation, effect });
            if state.is_none() {
                history.certainty = history.certainty.max(Certainty::UntilWritten);
            }
        }
    }

    /// A grow, rename or rollback was answered.
    ///
    /// # Errors
    /// An unexcused refusal, or an answer that does not show the change.
    pub fn end_changing(
        &mut self,
        number: u64,
        result: Result<&VolumeInfo, StoreError>,
    ) -> Result<(), String> {
        let outcome = match result {
            Err(StoreError::NoSnapshot) => {
                let volume = self.volumes.get(&number);
                let parent = volume.and_then(|known| known.changing.as_ref()?.parent);
                // A delete of the volume takes its snapshots along.
                let gone =
                    volume.is_none_or(|known| matches!(known.existence, Existence::Going(_)));
                let leaving = parent.is_some_and(|parent| self.is_snapshot_leaving(parent));
                if !gone && !leaving {
                    return Err("no such snapshot, but it is there".to_string());
                }
                Outcome::Refused
            }
            other => self.judge(number, 0, other.map(|_| ()))?,
        };
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let gone = result.err() == Some(StoreError::NoVolume);
        let (true, Some(changing)) = (!gone, volume.changing.clone()) else {
            // A delete came between the change and its answer. Both are open if the delete does not survive.
            return Ok(());
        };
        let operation = changing.operation;
        match outcome {
            Outcome::Done => {
                volume.apply(&changing);
                let name = volume.name.clone();
                let same = |(other, known): (&u64, &Volume)| {
                    let certain = known.existence == Existence::Live && known.changing.is_none();
                    *other != number && certain && known.name == name
                };
                if self.volumes.iter().any(same) {
                    return Err(format!("two volumes are called {name}"));
                }
            }
            Outcome::Refused => volume.changing = None,
            Outcome::Unclear | Outcome::Pending => {}
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        if let Ok(info) = result
            && (info.name != volume.name || info.size_bytes != volume.size_bytes)
        {
            return Err(format!(
                "changed {} of {} bytes, got {info:?}",
                volume.name, volume.size_bytes
            ));
        }
        self.end(operation, outcome);
        let volume = self.volumes.get_mut(&number);
        for history in volume
            .into_iter()
            .flat_map(|known| known.blocks.values_mut())
        {
            history.end_restore(operation, outcome, &self.operations);
        }
        if outcome == Outcome::Done {
            self.promise_before(operation);
        }
        self.prune();
        Ok(())
    }
}

impl Volume {
    /// The change took place.
    pub(super) fn apply(&mut self, changing: &Changing) {
        self.changing = None;
        if let Some(name) = &changing.name {
            self.name.clone_from(name);
        }
        if let Some(size) = changing.size_bytes {
            self.size_bytes = size;
        }
        if changing.parent.is_some() {
            (self.parent, self.doubt) = (changing.parent, None);
        }
    }
}
