//! What stays where a volume was: which copies are still needed, by whom, and what becomes of their snapshots.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use peer::PublicKey;
use store::{NAME_MAX, StoreError};
use volume::{OriginAddress, VolumeError, VolumeId};
use world::Disk;

use crate::moves::{Entry, Shared};
use crate::record::{After, Came, Kept, OldCopy, Since};
use crate::rules::{Epoch, Record};

impl<D: Disk + 'static> Shared<D> {
    /// What of a copy that was given to `from` can be used for what comes back from there.
    pub(crate) fn since(&self, copy: &OldCopy, from: PublicKey) -> Option<Since> {
        let is_useful = copy.to == from && self.is_whole(copy.volume);
        is_useful.then_some(Since {
            volume: copy.volume,
            epoch: copy.epoch,
        })
    }

    /// Whether what has come back is still read from a copy.
    pub(crate) fn is_read_here(&self, kept: &Kept, copy: &OldCopy) -> bool {
        let mut since = kept.cames().filter_map(|came| came.since.as_ref());
        since.any(|since| since.volume == copy.volume)
    }

    /// Whether all of a copy is here, or comes from where no other appliance has a say.
    pub(crate) fn is_whole(&self, volume: u64) -> bool {
        let Some(info) = self.volume(volume) else {
            return false;
        };
        let mut adoptions = info
            .bases
            .iter()
            .filter_map(|base| self.volumes.adoption(*base));
        !adoptions.any(|adoption| matches!(adoption.address, OriginAddress::Moved { .. }))
    }

    /// The copy that stayed makes room for the volume that comes back.
    pub(crate) async fn set_aside(&self, kept: &Kept) -> Result<(), VolumeError> {
        for copy in &kept.copies {
            let info = self.volume(copy.volume);
            if let Some(info) = info.filter(|info| info.name == kept.name) {
                let name = aside_name(&kept.name, copy.epoch);
                self.volumes.store().rename_volume(info.id, &name).await?;
            }
        }
        Ok(())
    }

    /// The volume does not come back: the copy has its name again.
    pub(crate) async fn put_back(&self, kept: &Kept) {
        let Some(copy) = kept.copies.last() else {
            return;
        };
        let aside = aside_name(&kept.name, copy.epoch);
        if let Some(info) = self.volume(copy.volume).filter(|info| info.name == aside) {
            // It keeps the other name otherwise.
            let _ = self
                .volumes
                .store()
                .rename_volume(info.id, &kept.name)
                .await;
        }
    }

    /// Whoever a copy was given to has all of it, or needs it no more.
    pub(crate) async fn note_arrived(
        &self,
        entry: &Entry,
        epoch: Epoch,
        with_snapshots: bool,
    ) -> Result<(), StoreError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        for copy in kept.copies.iter_mut().filter(|copy| copy.epoch == epoch) {
            copy.has_arrived = true;
            copy.with_snapshots &= with_snapshots;
        }
        self.keep(entry, kept).await
    }

    /// Lets copies go that nobody needs, and that are not wanted any more.
    pub(crate) async fn tidy(&self, entry: &Entry) -> Result<(), VolumeError> {
        let _turn = entry.turn.acquire().await;
        let mut kept = entry.kept.borrow().clone();
        // What has come back whole is not read from a copy any more.
        let has_all = |came: &Came| self.adoption(entry.id, came.epoch).is_none();
        let copies = kept.copies.iter_mut().filter_map(|copy| copy.came.as_mut());
        let is_prepared = matches!(kept.owner, Record::Prepared { .. });
        for came in kept.came.iter_mut().filter(|_| !is_prepared).chain(copies) {
            if has_all(came) {
                came.since = None;
            }
        }
        self.gather_snapshots(&kept).await?;
        let before = kept.clone();
        let is_useless = |copy: &OldCopy| self.is_useless(&before, copy);
        let useless: Vec<OldCopy> = { kept.copies.iter() }
            .filter(|copy| is_useless(copy))
            .cloned()
            .collect();
        kept.copies.retain(|copy| !useless.contains(copy));
        let is_same = *entry.kept.borrow() == kept;
        if !is_same {
            // First the copies: a power cut must not leave one that is nobody's.
            for copy in useless {
                self.volumes.discard(VolumeId(copy.volume)).await?;
                self.end_history(copy.came.as_ref()).await?;
            }
            self.keep(entry, kept).await?;
        }
        Ok(())
    }

    /// A volume that is here again has the snapshots that stayed with its copies.
    async fn gather_snapshots(&self, kept: &Kept) -> Result<(), VolumeError> {
        let is_coming = kept.histories().next().is_some();
        let (Record::Owned { .. }, Some(volume), false) = (kept.owner, kept.volume, is_coming)
        else {
            return Ok(());
        };
        let store = self.volumes.store();
        for copy in &kept.copies {
            // Those that went along came back, but for what was deleted there.
            let is_free = copy.has_arrived && !self.is_read_here(kept, copy);
            if !is_free || copy.with_snapshots || !self.is_whole(copy.volume) {
                continue;
            }
            let known = self.past_of(volume);
            for info in store.snapshots(VolumeId(copy.volume)) {
                if known.contains(&info.uuid) {
                    continue;
                }
                let label = info.label();
                let moved = self
                    .volumes
                    .move_snapshot(info.id, VolumeId(volume), &label);
                moved.await?;
            }
        }
        Ok(())
    }

    /// Identities of the snapshots of a volume.
    fn past_of(&self, volume: u64) -> BTreeSet<[u8; 16]> {
        let all = self.volumes.store().snapshots(VolumeId(volume));
        all.iter().map(|info| info.uuid).collect()
    }

    fn is_useless(&self, kept: &Kept, copy: &OldCopy) -> bool {
        let Some(info) = self.volume(copy.volume) else {
            return true;
        };
        // Its own snapshots may still be coming.
        let is_becoming = copy
            .came
            .as_ref()
            .is_some_and(|came| came.history.is_some());
        if !copy.has_arrived || self.is_read_here(kept, copy) || is_becoming {
            return false;
        }
        let is_newest = kept.copies.last() == Some(copy);
        let is_superseded = !is_newest || kept.owner.is_owner();
        // What went back before it was here whole never will be.
        let is_part = copy.went_back() && !self.is_whole(copy.volume);
        // Snapshots are what somebody made, and may be nowhere else.
        let is_all_there = info.snapshots == 0
            || copy.with_snapshots && kept.histories().next().is_none()
            || kept.volume.is_some_and(|volume| {
                let known = self.past_of(volume);
                self.past_of(copy.volume).is_subset(&known)
            });
        is_all_there && (is_part || is_superseded || copy.after == After::Free)
    }
}

impl OldCopy {
    /// Whether it was given to whom it had come from.
    pub fn went_back(&self) -> bool {
        self.came.as_ref().is_some_and(|came| came.from == self.to)
    }
}

/// What the copy that stayed is called when the volume comes back.
fn aside_name(name: &str, epoch: Epoch) -> String {
    let tail = format!(".before-{epoch}");
    let room = NAME_MAX - tail.len().min(NAME_MAX);
    format!("{}{tail}", &name[..name.len().min(room)])
}
