//! Telling the drives which blocks nobody needs any more.
//!
//! A drive does not order this with writes: a block that it is being told of is not handed out before it has answered. And it is
//! told only what two checkpoints agree on, so that the pool can still go back one.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use exec::join_all;
use world::{BLOCK_SIZE, BlockAddr, Disk};

use crate::shared::{Mode, Shared};
use crate::space::Run;

/// Runs of which the drives are told at a time; those of one drive fit into one command of NVMe.
const BATCH: usize = 16;

impl<D: Disk> Shared<D> {
    /// The life of the task that does it.
    pub async fn run_trimmer(&self) {
        let can = |disk: &D| disk.geometry().can_discard;
        if !self.disks.iter().any(can) {
            return;
        }
        self.state.borrow_mut().space.want_trims();
        loop {
            let published = self.checkpoint_done.wait();
            let mut runs = {
                let state = &mut *self.state.borrow_mut();
                if !matches!(state.mode, Mode::Serving) {
                    return;
                }
                state.space.begin_trims(BATCH)
            };
            if runs.is_empty() {
                published.await;
                continue;
            }
            if self.config.mutants.trim_too_long() {
                runs.iter_mut().for_each(|run| run.blocks += 1);
            }
            self.trim(&runs).await;
            self.state.borrow_mut().space.finish_trims();
        }
    }

    async fn trim(&self, runs: &[Run]) {
        let mut ranges: Vec<Vec<Range<BlockAddr>>> = vec![Vec::new(); self.disks.len()];
        for run in runs {
            for replica in self.replicas(run.addr).unwrap_or_default() {
                let (device, block) = self.disk_block(replica, run.addr);
                ranges[device].push(block..block + u64::from(run.blocks));
            }
        }
        let drives = (0..).zip(&self.disks).zip(&ranges);
        join_all(drives.map(|((device, disk), ranges)| self.deallocate(device, disk, ranges)))
            .await;
    }

    async fn deallocate(&self, device: usize, disk: &D, ranges: &[Range<BlockAddr>]) {
        if ranges.is_empty() || !disk.geometry().can_discard {
            return;
        }
        // A drive that does not want to know is no worse than one that was not told.
        match disk.discard(ranges).await {
            Ok(()) => {
                let blocks: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                let bytes = blocks * BLOCK_SIZE as u64;
                self.deallocated_bytes
                    .set(self.deallocated_bytes.get() + bytes);
            }
            Err(error) => log::debug!("drive {device} could not deallocate: {error}"),
        }
    }
}
