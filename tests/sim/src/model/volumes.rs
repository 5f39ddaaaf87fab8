//! Volumes come, grow and go: part of the one order, and durable when answered.

use std::collections::BTreeMap;

use store::{StoreError, VolumeId};

use super::{Existence, Model, Outcome, Trust, Volume};

impl Model {
    /// A volume is being made.
    pub fn begin_create(&mut self, name: &str, size_bytes: u64) -> u64 {
        let operation = self.begin();
        let number = self.next_volume;
        self.next_volume += 1;
        let volume = Volume {
            id: None,
            name: name.to_string(),
            size_bytes,
            growing: None,
            existence: Existence::Coming(operation),
            blocks: BTreeMap::new(),
        };
        self.volumes.insert(number, volume);
        number
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
        let outcome = self.judge(number, result.map(|_| ()))?;
        if let Some(volume) = self.volumes.get_mut(&number) {
            match result {
                Ok(id) => {
                    volume.id = Some(id);
                    let existence = core::mem::replace(&mut volume.existence, Existence::Live);
                    // A lost superblock takes the numbers given out since with it.
                    if !self.used_ids.insert(id) && self.trust != Trust::DrivesLie {
                        return Err(format!("the number of a volume was used before: {id:?}"));
                    }
                    if let Existence::Coming(operation) = existence {
                        self.promise_before(operation);
                    }
                }
                // In doubt until the next restart; nobody uses it meanwhile.
                Err(_) if outcome == Outcome::Unclear => return Ok(()),
                Err(_) => {
                    self.volumes.remove(&number);
                }
            }
        }
        Ok(())
    }

    /// A volume is being deleted; nothing new is sent to it.
    pub fn begin_delete(&mut self, number: u64) {
        let operation = self.begin();
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.existence = Existence::Going(operation);
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
                    self.promise_before(operation);
                }
                Ok(())
            }
            Err(_) if self.trust != Trust::Full => Ok(()),
            Err(error) => Err(format!("delete failed without reason: {error:?}")),
        }
    }

    /// A volume is being grown.
    pub fn begin_grow(&mut self, number: u64, size_bytes: u64) {
        let operation = self.begin();
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.growing = Some((operation, size_bytes));
        }
    }

    /// A grow was answered.
    ///
    /// # Errors
    /// An unexcused refusal.
    pub fn end_grow(&mut self, number: u64, result: Result<(), StoreError>) -> Result<(), String> {
        let outcome = self.judge(number, result)?;
        if result == Err(StoreError::NoVolume) {
            // A delete came between the grow and its answer. Both are open if the delete does not survive.
            return Ok(());
        }
        if let Some(volume) = self.volumes.get_mut(&number)
            && let Some((operation, size)) = volume.growing
        {
            match outcome {
                Outcome::Done => (volume.size_bytes, volume.growing) = (size, None),
                Outcome::Refused => volume.growing = None,
                Outcome::Unclear | Outcome::Pending => {}
            }
            if outcome == Outcome::Done {
                self.promise_before(operation);
            }
            self.end(operation, outcome);
        }
        Ok(())
    }
}
