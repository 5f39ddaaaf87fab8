//! Pool addresses to drives: reads, writes and flushes of replicas.

use alloc::vec::Vec;
use core::cell::Cell;

use exec::join_all;
use world::{Buf, Disk, DiskError};

use crate::api::StoreError;
use crate::layout::{PoolAddr, REPLICAS_MAX, Replica};
use crate::shared::Shared;
use crate::space::{Space, block_of, group_of};

impl<D: Disk> Shared<D> {
    /// The replicas of the group of `addr`.
    pub fn replicas(
        &self,
        addr: PoolAddr,
    ) -> Result<arrayvec::ArrayVec<Replica, REPLICAS_MAX>, StoreError> {
        let state = self.state.borrow();
        let entry = state
            .space
            .entry(group_of(addr))
            .ok_or(StoreError::DamagedPool)?;
        let replicas: arrayvec::ArrayVec<Replica, REPLICAS_MAX> = entry.in_sync().collect();
        if replicas.is_empty() {
            Err(StoreError::DamagedPool)
        } else {
            Ok(replicas)
        }
    }

    /// The block of a drive where `addr` is on `replica`.
    pub fn disk_block(&self, replica: Replica, addr: PoolAddr) -> (usize, u64) {
        self.block_in(&self.state.borrow().space, replica, addr)
    }

    fn block_in(&self, space: &Space, replica: Replica, addr: PoolAddr) -> (usize, u64) {
        let device = usize::from(replica.device);
        let start = self.regions[device].chunks_start.get();
        let chunk = u64::from(replica.chunk.get()) << space.group_bits();
        (device, start + chunk + u64::from(block_of(addr)))
    }

    /// Where the first replica of these blocks is, if one command of its drive can carry them, and whether it is the only one.
    pub fn first_place(&self, addr: PoolAddr, blocks: usize) -> Option<(usize, u64, bool)> {
        let state = self.state.borrow();
        let mut replicas = state.space.entry(group_of(addr))?.in_sync();
        let (first, is_only) = (replicas.next()?, replicas.next().is_none());
        let (device, block) = self.block_in(&state.space, first, addr);
        let fits = blocks <= self.transfers_max[device];
        fits.then_some((device, block, is_only))
    }

    /// Reads blocks from one replica.
    pub async fn read_replica(
        &self,
        replica: Replica,
        addr: PoolAddr,
        into: Buf,
    ) -> (Buf, Result<(), DiskError>) {
        let (device, block) = self.disk_block(replica, addr);
        read_disk(&self.disks[device], block, into).await
    }

    /// Writes blocks to all replicas.
    pub async fn write_replicas(&self, addr: PoolAddr, from: Buf) -> Result<(), StoreError> {
        let replicas = self.replicas(addr)?;
        let places = replicas
            .iter()
            .map(|replica| self.disk_block(*replica, addr));
        let places: arrayvec::ArrayVec<(usize, u64), 3> = places.collect();
        self.write_places(&places, from).await
    }

    /// Writes the same blocks to several places. More than one place is for metadata only; it is copied for each.
    pub async fn write_places(&self, places: &[(usize, u64)], from: Buf) -> Result<(), StoreError> {
        if let [place] = places {
            return self.write_place(*place, from).await;
        }
        let copies = places.iter().skip(1).map(|_| {
            // Nobody may wait here: whoever has the pages may wait for this write.
            let copy = self.meta_pages.try_take(from.blocks());
            let mut copy = copy.unwrap_or_else(|| Buf::from_heap(from.blocks()));
            for index in 0..from.blocks() {
                copy.block_mut(index).copy_from_slice(from.block(index));
            }
            copy
        });
        let copies: Vec<Buf> = copies.collect();
        let bufs = core::iter::once(from).chain(copies);
        let writes = places
            .iter()
            .zip(bufs)
            .map(|(place, buf)| self.write_place(*place, buf));
        join_all(writes).await.into_iter().collect()
    }

    async fn write_place(&self, (device, block): (usize, u64), buf: Buf) -> Result<(), StoreError> {
        let result = write_disk(&self.disks[device], block, buf).await;
        self.mark_unflushed(device);
        Ok(result?)
    }

    /// Notes that a write has ended. When it is complete, not when it is sent: a FLUSH that began in between does not cover it.
    pub fn mark_unflushed(&self, device: usize) {
        self.unflushed[device].set(true);
    }

    /// Makes everything written so far durable, on every drive that has something to flush.
    pub async fn flush_disks(&self) -> Result<(), DiskError> {
        if self.config.mutants.no_flush() {
            return Ok(());
        }
        // One after the other: whoever finds no mark must not return while the FLUSH that took it is under way.
        let _turn = self.flushing.acquire().await;
        // The mark is taken away before the FLUSH begins: a write that comes meanwhile needs another one.
        let dirty: Vec<usize> = self
            .unflushed
            .iter()
            .enumerate()
            .filter(|(_, unflushed)| unflushed.replace(false))
            .map(|(device, _)| device)
            .collect();
        let all = join_all(dirty.iter().map(|device| self.disks[*device].flush())).await;
        if self.config.mutants.flush_forgets_writes() {
            self.unflushed.iter().for_each(|mark| mark.set(false));
        }
        for (device, result) in dirty.into_iter().zip(&all) {
            if result.is_err() {
                Cell::set(&self.unflushed[device], true);
            }
        }
        all.into_iter().collect()
    }
}

/// How often a read that a drive answered with an error is sent.
const READS_MAX: usize = 4;

/// Reads in commands that the drive takes. A drive that answers with an error is asked again: it may be a passing one.
pub async fn read_disk<D: Disk>(disk: &D, at: u64, into: Buf) -> (Buf, Result<(), DiskError>) {
    let blocks = into.blocks();
    let mut buf = into;
    let mut attempt = 1;
    loop {
        let (back, result) = read_pieces(disk, at, buf).await;
        let passing = matches!(result, Err(DiskError::Device(_))) && attempt < READS_MAX;
        if !passing {
            return (back, result);
        }
        attempt += 1;
        // The driver keeps the memory of a command that it lost.
        buf = if back.blocks() == blocks {
            back
        } else {
            Buf::from_heap(blocks)
        };
    }
}

async fn read_pieces<D: Disk>(disk: &D, at: u64, into: Buf) -> (Buf, Result<(), DiskError>) {
    let most = disk.geometry().transfer_blocks_max.max(1) as usize;
    if into.blocks() <= most {
        return disk.read(at, into).await;
    }
    let (mut done, mut rest) = (Buf::empty(), into);
    while !rest.is_empty() {
        let after = rest.split_off(most.min(rest.blocks()));
        let (piece, result) = disk.read(at + done.blocks() as u64, rest).await;
        rest = after;
        let lost = piece.is_empty();
        done.append(piece);
        if result.is_err() {
            // A piece that the driver had to keep is missing in the middle: the whole counts as lost.
            if !lost {
                done.append(rest);
            }
            return (done, result);
        }
    }
    (done, Ok(()))
}

/// Writes in commands that the drive takes.
async fn write_disk<D: Disk>(disk: &D, mut at: u64, from: Buf) -> Result<(), DiskError> {
    let most = disk.geometry().transfer_blocks_max.max(1) as usize;
    let mut rest = from;
    while !rest.is_empty() {
        let after = rest.split_off(most.min(rest.blocks()));
        let blocks = rest.blocks() as u64;
        disk.write(at, rest).await.1?;
        at += blocks;
        rest = after;
    }
    Ok(())
}
