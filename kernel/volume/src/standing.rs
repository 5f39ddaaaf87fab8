//! Whose a volume is while it moves from one appliance to another. Who decides that is elsewhere; here it is kept to.

use alloc::format;
use alloc::vec::Vec;

use store::{
    BaseId, Extent, NAME_MAX, SnapshotId, SnapshotInfo, SnapshotLabel, Source, StoreError,
    VolumeId, VolumeInfo,
};
use world::Disk;

use crate::{OriginAddress, Settings, VolumeError, Volumes};

/// Whose a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// This appliance's, like every volume of which nothing else is said.
    #[default]
    Owner,
    /// This appliance's, and offered to another one: its name and size stay as they are.
    Offered,
    /// Another appliance's. It is read from there and nothing is kept, since it may still change there.
    Prepared,
    /// Another appliance's, and it was this one's.
    Given {
        /// The other one has not all of it.
        is_needed: bool,
    },
    /// Nobody's, but a tool of this appliance: users do not see it.
    Inner,
}

impl Standing {
    /// Whether clients may read, or write.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn require(self, is_write: bool) -> Result<(), VolumeError> {
        match self {
            Self::Owner | Self::Offered => Ok(()),
            Self::Prepared if !is_write => Ok(()),
            Self::Prepared => Err(VolumeError::NotYet),
            Self::Given { .. } => Err(VolumeError::Elsewhere),
            Self::Inner => Err(VolumeError::NoVolume),
        }
    }

    /// Whether name, size and history may be changed.
    pub(crate) fn require_owner(self) -> Result<(), VolumeError> {
        match self {
            Self::Offered => Err(VolumeError::Offered),
            other => other.require(true),
        }
    }

    /// Whether snapshots may be deleted.
    pub(crate) fn require_own_past(self, force: bool) -> Result<(), VolumeError> {
        match self {
            Self::Given { is_needed: true } if !force => Err(VolumeError::Needed),
            _ => Ok(()),
        }
    }

    /// Whether it may be deleted.
    pub(crate) fn require_deletable(self, force: bool) -> Result<(), VolumeError> {
        match self {
            Self::Given { is_needed } if force || !is_needed => Ok(()),
            Self::Given { .. } => Err(VolumeError::Needed),
            other => other.require_owner(),
        }
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// Whose a volume is.
    #[must_use]
    pub fn standing(&self, id: VolumeId) -> Standing {
        let standings = self.standings().borrow();
        standings.get(&id).copied().unwrap_or_default()
    }

    /// From now on it is so. To be said before anybody attaches, after a start.
    pub fn set_standing(&self, id: VolumeId, standing: Standing) {
        let mut standings = self.standings().borrow_mut();
        match standing {
            Standing::Owner => drop(standings.remove(&id)),
            other => drop(standings.insert(id, other)),
        }
        drop(standings);
        if let Some(attachment) = self.attachments().get(id.into()) {
            attachment.standing.set(standing);
        }
        if standing != Standing::Inner {
            self.hold(id, standing == Standing::Prepared);
        }
    }

    /// Says whether nothing more of what a volume was adopted from is brought in, but what clients want.
    pub fn hold(&self, id: VolumeId, is_held: bool) {
        let bases = self
            .store()
            .volume(id)
            .map_or_else(Vec::new, |info| info.bases);
        for base in bases {
            if let Ok(adoption) = self.find_adoption(base) {
                adoption.is_held.set(is_held);
            }
        }
    }

    /// From now on clients' operations are refused; waits until those that had begun are through.
    pub async fn fence(&self, id: VolumeId) {
        self.set_standing(id, Standing::Given { is_needed: true });
        if let Some(attachment) = self.attachments().get(id.into()) {
            attachment.quiet().await;
        }
    }

    /// Makes a volume that is another appliance's as yet, as [`adopt`](Self::adopt) does: without asking the origin, and
    /// [`Standing::Prepared`] from the first moment. Until all of it is kept it is called `passing_name`.
    ///
    /// # Errors
    /// A bad or taken name, a bad size, and what the store says.
    pub async fn prepare(
        &self,
        [name, passing_name]: [&str; 2],
        address: OriginAddress,
        size_bytes: u64,
        settings: Settings,
    ) -> Result<VolumeInfo, VolumeError> {
        self.check_new(name, size_bytes)?;
        let info = self.store().adopt_volume(passing_name, size_bytes).await?;
        self.set_standing(info.id, Standing::Prepared);
        let kept = async {
            self.set(passing_name, settings).await?;
            self.keep_adoption(&info, address, None).await?;
            Ok(self.store().rename_volume(info.id, name).await?)
        };
        match kept.await {
            Ok(info) => Ok(info),
            Err(error) => {
                self.discard(info.id).await?;
                Err(error)
            }
        }
    }

    /// Makes another volume of what one was adopted from, as that is there, for this appliance alone: [`Standing::Inner`].
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`] of one that was not adopted, and what the store says.
    pub async fn adopt_again(&self, id: VolumeId, name: &str) -> Result<VolumeInfo, VolumeError> {
        let info = self.store().volume(id).ok_or(VolumeError::NoVolume)?;
        let base = info.bases.first().ok_or(VolumeError::NoVolume)?;
        let made = self.store().adopt_again(*base, name).await?;
        self.set_standing(made.id, Standing::Inner);
        Ok(made)
    }

    /// Bases of which all is here, and what nobody needs may go: no more volumes are to begin as these.
    #[must_use]
    pub fn sweepable(&self) -> Vec<BaseId> {
        let mut bases = self.store().bases();
        bases.retain(|base| base.is_complete() && base.stored_bytes > 0);
        for info in self.store().volumes() {
            if self.standing(info.id) == Standing::Inner {
                bases.retain(|base| !info.bases.contains(&base.id));
            }
        }
        bases.iter().map(|base| base.id).collect()
    }

    /// Keeps a volume as it is now as a snapshot of another one, with what is known of that on other appliances; if that name is taken,
    /// another one is found.
    ///
    /// # Errors
    /// What the store says.
    pub async fn keep_for(
        &self,
        id: VolumeId,
        to: VolumeId,
        label: &SnapshotLabel,
    ) -> Result<SnapshotInfo, VolumeError> {
        const NAME: &str = "kept";
        if let Some(left) = self.store().find_snapshot(id, NAME) {
            self.store().delete_snapshot(left.id).await?;
        }
        let made = self.store().create_snapshot(id, NAME).await?;
        self.move_snapshot(made.id, to, label).await
    }

    /// Makes a snapshot another volume's; if its name is taken there, another one is found.
    ///
    /// # Errors
    /// What the store says.
    pub async fn move_snapshot(
        &self,
        id: SnapshotId,
        to: VolumeId,
        label: &SnapshotLabel,
    ) -> Result<SnapshotInfo, VolumeError> {
        let mut label = label.clone();
        let mut number = 0;
        let wanted = label.name.clone();
        while self.store().find_snapshot(to, &label.name).is_some() {
            number += 1;
            let tail = format!(".{number}");
            let room = NAME_MAX - tail.len();
            label.name = format!("{}{tail}", &wanted[..wanted.len().min(room)]);
        }
        let moved = self.store().move_snapshot(id, to, &label).await;
        self.usages().forget();
        Ok(moved?)
    }

    /// Deletes a volume whatever its standing is; its clients are told.
    ///
    /// # Errors
    /// What the store says.
    pub async fn discard(&self, id: VolumeId) -> Result<(), VolumeError> {
        match self.store().volume(id) {
            Some(info) => self.delete_anyway(&info, true).await,
            None => Ok(()),
        }
    }

    /// What `len` bytes at `offset` are, compared with what was adopted; see [`extents`](crate::Volume::extents).
    ///
    /// # Errors
    /// What the store says.
    pub async fn extents_since_adoption(
        &self,
        id: VolumeId,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, StoreError> {
        let source = Source::Volume(id);
        let store = self.store();
        store.extents_since_adoption(source, offset, len, max).await
    }

    /// Whether nobody has changed a volume since it was adopted, its size included.
    #[must_use]
    pub fn is_as_adopted(&self, id: VolumeId) -> bool {
        let info = self.store().volume(id);
        let base = info
            .as_ref()
            .and_then(|info| self.store().base(*info.bases.first()?));
        let sizes = [
            info.map(|info| info.size_bytes),
            base.map(|base| base.size_bytes),
        ];
        sizes[0].is_some() && sizes[0] == sizes[1] && self.store().is_as_adopted(id)
    }
}
