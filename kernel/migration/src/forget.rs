//! Volumes of which nothing need be known any more: what was kept of them goes, so that there is room for others.
//!
//! Nothing is lost by that, under the [rules](crate::rules). Who knows nothing of a volume can only be offered it, by who owns it now; gives
//! and returns it refuses. An offer comes over the channel of a peer that proved who it is, while it owns the volume, so it is not of
//! yesterday, and who is prepared asks whether it still holds. What an older owner tells again and again over its restarts is that it gave:
//! with its epoch, which is not the one that was offered. So is it after an offer that was taken back, of which only the next epoch is taken.
//!
//! Kept is whatever somebody may still need: who gave is silent only when the other one has said that it took it, and where blocks come from
//! is known while anything, a clone among it, reads from there.

use alloc::rc::Rc;
use alloc::vec::Vec;

use volume::{OriginAddress, VolumeId};
use world::Disk;

use crate::moves::{Entry, Shared};
use crate::record::Kept;
use crate::rules::Record;

/// Nobody is about to do something with it but whoever asks.
fn is_quiet(entry: &Rc<Entry>) -> bool {
    // The table has it, and who asks.
    Rc::strong_count(entry) <= 2
}

impl<D: Disk + 'static> Shared<D> {
    /// Makes room for a volume that is not known here: what has been quiet longest goes. False when all is needed.
    pub(crate) async fn make_room(&self) -> bool {
        while self.has_many() {
            let mut useless: Vec<Rc<Entry>> = self.all();
            useless.retain(|entry| is_quiet(entry) && self.is_useless_to_know(entry));
            let Some(entry) = useless
                .into_iter()
                .min_by_key(|entry| entry.quiet_since.get())
            else {
                return false;
            };
            if !self.forget(&entry).await {
                return false;
            }
        }
        true
    }

    /// Forgets a volume that was deleted where it was owned.
    pub(crate) async fn forget_what_was_deleted(&self, entry: &Rc<Entry>) {
        let is_owned = matches!(entry.kept.borrow().owner, Record::Owned { .. });
        if is_owned && self.is_useless_to_know(entry) {
            // Should this fail, the next start tries again.
            self.forget(entry).await;
        }
    }

    /// Whether neither this appliance nor another one needs what is known of a volume.
    fn is_useless_to_know(&self, entry: &Entry) -> bool {
        let kept = entry.kept.borrow();
        let is_over = match kept.owner {
            Record::Nothing { .. } => kept.volume.is_none(),
            // Deleted.
            Record::Owned { .. } => kept
                .volume
                .is_none_or(|volume| self.volume(volume).is_none()),
            Record::Given { .. } => entry.is_taken.get() && !entry.is_wanted_back.get(),
            Record::Offered { .. } | Record::Prepared { .. } => false,
        };
        let is_pending = entry.is_driven.get() || kept.superseded.is_some();
        let mut adoptions = self.volumes.adoptions().into_iter().map(|one| one.address);
        let is_it =
            |address| matches!(address, OriginAddress::Moved { id, .. } if id == entry.id.0);
        let is_here = |volume: u64| self.volumes.store().volume(VolumeId(volume)).is_some();
        is_over
            && !is_pending
            && kept.copies.is_empty()
            && !kept.histories().any(is_here)
            && !adoptions.any(is_it)
    }

    /// False when somebody is about to do something with it, or the store does not let it go.
    async fn forget(&self, entry: &Rc<Entry>) -> bool {
        if !is_quiet(entry) {
            return false;
        }
        let _turn = entry.turn.acquire().await;
        if let Err(error) = self.volumes.store().set_record(&entry.id.key(), None).await {
            log::warn!("volume {} is not forgotten: {error}", entry.id);
            return false;
        }
        let known = entry.kept.borrow().clone();
        log::info!(
            "volume {}: nothing of it is known here any more",
            known.name
        );
        let nothing = Kept::new(&known.name, known.size_bytes, Record::default(), None);
        *entry.kept.borrow_mut() = nothing;
        entry.is_taken.set(false);
        // Who came meanwhile begins anew with it.
        if is_quiet(entry) {
            self.drop_entry(entry.id);
        }
        true
    }
}
