//! After a power cut: what is only on some of its drives or replicas gets to the others.
//!
//! Recovery accepts a frame, and a block that it describes, when one whole copy is found. From then on both count as durable, so
//! they must not depend on that one copy any longer. Neighbours: [`recover`](crate::recover) decides what is accepted, and
//! makes all of this durable with the FLUSH before the new mount is noted.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk, DiskError};

use crate::api::StoreError;
use crate::io::read_disk;
use crate::layout::{FrameHeader, PoolAddr};
use crate::shared::Shared;

impl<D: Disk> Shared<D> {
    /// Writes an accepted frame to every drive that does not have it.
    pub async fn complete_frame(&self, accepted: &FrameHeader) {
        if self.regions.len() == 1 {
            return;
        }
        let rings = self
            .regions
            .iter()
            .map(|regions| regions.journal_blocks.get());
        let ring = rings.min().unwrap_or(1);
        let within = accepted.position.get() % ring;
        let is_accepted = |buf: &Buf| {
            let blocks = (0..buf.blocks()).map(|index| buf.block(index));
            FrameHeader::decode(buf.block(0), self.pool_uuid).as_ref() == Some(accepted)
                && accepted.compute_tag(self.pool_uuid, blocks).0 == accepted.tag
        };
        let mut copies = Copies::default();
        for (device, regions) in self.regions.iter().enumerate() {
            let place = (device, regions.journal.get() + within);
            let buf = Buf::from_heap(accepted.blocks.get().into());
            let (buf, result) = read_disk(&self.disks[device], place.1, buf).await;
            copies.add(place, buf, |buf| result.is_ok() && is_accepted(buf));
        }
        self.write_missing(copies).await;
    }

    /// Whether a replica of `addr` is `sound`. The others are written anew.
    ///
    /// # Errors
    /// When none was found, but a drive that may have it did not answer.
    pub async fn complete_blocks(
        &self,
        (addr, count): (PoolAddr, usize),
        sound: impl Fn(usize, &[u8; BLOCK_SIZE]) -> bool,
    ) -> Result<bool, StoreError> {
        let Ok(replicas) = self.replicas(addr) else {
            return Ok(false);
        };
        let mut silent = None;
        let is_sound = |buf: &Buf| (0..count).all(|index| sound(index, buf.block(index)));
        let mut copies = Copies::default();
        for replica in replicas {
            let (buf, result) = self
                .read_replica(replica, addr, Buf::from_heap(count))
                .await;
            if let Err(error) = result
                && error != DiskError::Media
            {
                silent = Some(error);
            }
            let place = self.disk_block(replica, addr);
            copies.add(place, buf, |buf| result.is_ok() && is_sound(buf));
        }
        match (self.write_missing(copies).await, silent) {
            (true, _) => Ok(true),
            (false, None) => Ok(false),
            (false, Some(error)) => Err(error.into()),
        }
    }

    /// Whether there is a sound copy.
    async fn write_missing(&self, copies: Copies) -> bool {
        let Some(sound) = copies.sound else {
            return false;
        };
        if !copies.missing.is_empty()
            && !self.config.mutants.copies_not_completed()
            && let Err(error) = self.write_places(&copies.missing, sound).await
        {
            // Not a reason to give up the copy that is there; the drive will be heard of again.
            log::warn!(
                "what a power cut left on one drive only cannot be written to another: {error}"
            );
        }
        true
    }
}

/// Copies of the same blocks.
#[derive(Default)]
struct Copies {
    sound: Option<Buf>,
    /// Where there is none: drive and block.
    missing: Vec<(usize, u64)>,
}

impl Copies {
    fn add(&mut self, place: (usize, u64), buf: Buf, is_sound: impl FnOnce(&Buf) -> bool) {
        if is_sound(&buf) {
            self.sound = Some(buf);
        } else {
            self.missing.push(place);
        }
    }
}
