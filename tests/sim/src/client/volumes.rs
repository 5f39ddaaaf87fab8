//! Requests for volumes as a whole.

use store::StoreError;
use volume::VolumeError;

use super::{Aim, Checked, Session};
use crate::random::Random;

impl Session {
    pub(super) async fn create(&self, random: &mut Random) -> Checked {
        if self.count_live(false) >= self.profile.volumes_max {
            return Ok(());
        }
        let bytes = self.profile.volume_bytes_max.min(128 << 40);
        let most = 1 << random.between(13, u64::from(bytes.ilog2()));
        let size = if self.profile.habits.fills {
            bytes
        } else {
            (4096 + random.below(most) / 512 * 512).min(bytes.max(4096))
        };
        // A name of its own, so that a late delete cannot meet a new volume.
        let name = format!("v{}", random.next());
        let number = self.model.borrow_mut().begin_create(&name, size);
        self.note("> create", [number, size, 0]);
        let result = self.volumes.create(&name, size).await;
        self.note("< create", [number, u64::from(result.is_ok()), 0]);
        if let Ok(info) = &result
            && (info.name != name || info.size_bytes != size)
        {
            return Err(format!("created {name} of {size} bytes, got {info:?}"));
        }
        let result = result.map(|info| info.id).map_err(store_error);
        self.model.borrow_mut().end_create(number, result)
    }

    /// How many volumes there are that were adopted, or that were not; clones of those count with them.
    pub(super) fn count_live(&self, adopted: bool) -> usize {
        let model = self.model.borrow();
        let live = model.live().into_iter();
        let known = live.filter_map(|number| model.volume(number));
        known
            .filter(|known| known.origin.is_some() == adopted)
            .count()
    }

    pub(super) async fn delete(&self, aim: &Aim) -> Checked {
        if self.network.is_some() && self.is_rolled_back(aim.number) {
            // Its clients are being sent away already.
            return Ok(());
        }
        self.model.borrow_mut().begin_delete(aim.number);
        self.note("> delete", [aim.number, 0, 0]);
        let result = match &self.network {
            Some(_) => self.volumes.delete(&aim.name, true).await,
            None => self
                .store
                .delete_volume(aim.id)
                .await
                .map_err(VolumeError::Store),
        };
        let result = result.map_err(store_error);
        self.note("< delete", [aim.number, u64::from(result.is_ok()), 0]);
        if let (Some(clients), Ok(())) = (&self.network, result) {
            clients.detach(aim.number);
        }
        self.model.borrow_mut().end_delete(aim.number, result)
    }

    pub(super) async fn grow(&self, aim: &Aim, random: &mut Random) -> Checked {
        let changing = |volume: &crate::model::Volume| volume.changing.is_some();
        if self.model.borrow().volume(aim.number).is_none_or(changing) {
            return Ok(());
        }
        let exponent = random.between(10, 43);
        let more = (1 + random.below(1 << exponent) / 512) * 512;
        let size = (aim.size_bytes + more).min(128 << 40);
        self.model.borrow_mut().begin_grow(aim.number, size);
        self.note("> grow", [aim.number, size, 0]);
        let grown = match &self.network {
            Some(_) => self.volumes.grow(&aim.name, size).await,
            None => self
                .store
                .grow_volume(aim.id, size)
                .await
                .map_err(VolumeError::Store),
        };
        let result = grown.map_err(store_error);
        self.note("< grow", [aim.number, u64::from(result.is_ok()), 0]);
        let result = result.as_ref().map_err(|error| *error);
        self.model.borrow_mut().end_changing(aim.number, result)
    }
}

/// What the store said, as far as the model is concerned.
pub(super) fn store_error(error: VolumeError) -> StoreError {
    match error {
        VolumeError::NoVolume | VolumeError::Deleted => StoreError::NoVolume,
        VolumeError::NoSnapshot => StoreError::NoSnapshot,
        VolumeError::NameTaken => StoreError::NameTaken,
        VolumeError::BadName => StoreError::BadName,
        VolumeError::BadSize | VolumeError::Shrinks(_) => StoreError::BadSize,
        VolumeError::ReadOnly => StoreError::ReadOnly,
        VolumeError::Store(error) => error,
        // No client of the simulation asks for such a thing.
        _ => StoreError::OutOfRange,
    }
}
