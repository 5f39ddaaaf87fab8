//! What a restart may leave behind.

use store::VolumeInfo;

use super::history::{Certainty, History, SECTORS};
use super::{Existence, Model, Observed, Outcome, RECORDS, Tick, Trust};

/// The evidence gathered while looking at a recovered pool.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The request that is missing and ended first.
    missing: Option<(Tick, String)>,
    /// The request that is present and began last.
    present: Option<(Tick, String)>,
}

impl Verdict {
    fn is_missing(&mut self, ended: Option<Tick>, what: impl FnOnce() -> String) {
        if let Some(ended) = ended
            && self.missing.as_ref().is_none_or(|(tick, _)| ended < *tick)
        {
            self.missing = Some((ended, what()));
        }
    }

    fn is_present(&mut self, started: Tick, what: impl FnOnce() -> String) {
        if self
            .present
            .as_ref()
            .is_none_or(|(tick, _)| started > *tick)
        {
            self.present = Some((started, what()));
        }
    }
}

impl Model {
    /// The appliance stopped, by a power cut or otherwise: what was promised stays promised, the rest is open.
    pub fn restart(&mut self) {
        for volume in self.volumes.values_mut() {
            for history in volume.blocks.values_mut() {
                history.restart();
            }
        }
        self.unflushed.clear();
    }

    /// An orderly close was acknowledged: everything acknowledged before is promised.
    pub fn closed(&mut self) {
        let now = self.begin_flush();
        self.promise_up_to(now);
    }

    /// Compares the volumes of a recovered pool with those that can exist.
    ///
    /// # Errors
    /// A volume too many, one too few, or a wrong size.
    pub fn recover_volumes(
        &mut self,
        verdict: &mut Verdict,
        found: &[VolumeInfo],
    ) -> Result<(), String> {
        for info in found {
            let known = self.volumes.iter().find(|(number, volume)| {
                **number != RECORDS
                    && volume.name == info.name
                    && volume.id.is_none_or(|id| id == info.id)
            });
            if known.is_none() && self.trust != Trust::DrivesLie {
                return Err(format!("a volume out of nowhere: {info:?}"));
            }
        }
        let numbers: Vec<u64> = self.volumes.keys().copied().collect();
        for number in numbers.into_iter().filter(|number| *number != RECORDS) {
            self.recover_volume(verdict, number, found)?;
        }
        Ok(())
    }

    fn recover_volume(
        &mut self,
        verdict: &mut Verdict,
        number: u64,
        found: &[VolumeInfo],
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let name = volume.name.clone();
        let info = (found.iter())
            .find(|info| info.name == name && volume.id.is_none_or(|id| id == info.id));
        let Some(info) = info else {
            match volume.existence {
                Existence::Live if self.trust == Trust::DrivesLie => {}
                Existence::Live => return Err(format!("volume {number} ({name}) is missing")),
                Existence::Coming(operation) => {
                    let ended = self.operations[operation].acknowledged();
                    verdict.is_missing(ended, || format!("the making of volume {number}"));
                }
                Existence::Going(operation) => {
                    let started = self.operations[operation].started;
                    verdict.is_present(started, || format!("the delete of volume {number}"));
                }
            }
            self.volumes.remove(&number);
            return Ok(());
        };
        match volume.existence {
            Existence::Coming(operation) => {
                let started = self.operations[operation].started;
                verdict.is_present(started, || format!("the making of volume {number}"));
            }
            Existence::Going(operation) => {
                let ended = self.operations[operation].acknowledged();
                verdict.is_missing(ended, || format!("the delete of volume {number}"));
            }
            Existence::Live => {}
        }
        volume.existence = Existence::Live;
        volume.id = Some(info.id);
        self.used_ids.insert(info.id);
        if let Some((operation, size)) = volume.growing.take() {
            let operation = self.operations[operation];
            if info.size_bytes == size {
                verdict.is_present(operation.started, || format!("the grow of volume {number}"));
                volume.size_bytes = size;
            } else {
                verdict.is_missing(operation.acknowledged(), || {
                    format!("the grow of volume {number}")
                });
            }
        }
        if info.size_bytes != volume.size_bytes && self.trust != Trust::DrivesLie {
            let (have, want) = (info.size_bytes, volume.size_bytes);
            return Err(format!(
                "volume {number} has {have} bytes instead of {want}"
            ));
        }
        volume.size_bytes = info.size_bytes;
        Ok(())
    }

    /// Blocks of a volume that were ever touched; `changed` alone if something is open about them.
    #[must_use]
    pub fn touched_blocks(&self, number: u64, changed: bool) -> Vec<u64> {
        let Some(volume) = self.volumes.get(&number) else {
            return Vec::new();
        };
        let all = volume.blocks.iter();
        let open = |history: &History| {
            history.certainty > Certainty::Exact || history.entries().next().is_some()
        };
        all.filter(|(_, history)| !changed || open(history))
            .map(|(block, _)| *block)
            .collect()
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
        observed: &Observed,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(());
        };
        let history = volume.blocks.entry(block).or_default();
        let exact = history.certainty == Certainty::Exact && self.trust != Trust::DrivesLie;
        if exact {
            let matching = history.matching(observed, history.durable(), &self.operations);
            let Some((first, last)) = matching else {
                return Err(format!(
                    "volume {number} block {block} after recovery: {observed:?}, expected a state from {} on of\n{}",
                    history.durable(),
                    history.describe(&self.operations)
                ));
            };
            for (position, entry) in history.entries() {
                let operation = self.operations[entry.operation];
                if operation.outcome == Outcome::Refused {
                    continue;
                }
                let what = || {
                    let (write, mask) = (entry.write, entry.mask);
                    format!("write {write} of volume {number} block {block} (sectors {mask:#04x})")
                };
                if position < first {
                    verdict.is_present(operation.started, what);
                } else if position >= last {
                    verdict.is_missing(operation.acknowledged(), what);
                }
            }
        }
        let mut state = [0; SECTORS];
        for (value, seen) in state.iter_mut().zip(observed) {
            *value = seen.unwrap_or(0);
        }
        history.settle(state);
        // Drives that lie may bring older contents back, so such a block has to be looked at after each restart.
        if state == [0; SECTORS] && self.trust != Trust::DrivesLie {
            // Like a block that was never touched.
            volume.blocks.remove(&block);
        }
        Ok(())
    }

    /// A block could not be read after a recovery, and that is excused.
    pub fn lose_block(&mut self, number: u64, block: u64) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            let history = volume.blocks.entry(block).or_default();
            history.settle([0; SECTORS]);
            history.certainty = Certainty::UntilWritten;
        }
    }

    /// Everything was looked at: judges the order of what is present and what is missing.
    ///
    /// # Errors
    /// When something is present although something older is missing.
    pub fn recovered(&mut self, verdict: &Verdict) -> Result<(), String> {
        if let (Some((ended, missing)), Some((started, present))) =
            (&verdict.missing, &verdict.present)
            && ended < started
            && self.trust != Trust::DrivesLie
        {
            return Err(format!(
                "no prefix: {missing} was acknowledged at tick {ended} and is missing, but {present} \
                 that began at tick {started} is present"
            ));
        }
        self.operations.clear();
        Ok(())
    }
}
