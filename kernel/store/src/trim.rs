//! Telling the drives which blocks nobody needs any more.
//!
//! A drive does not order this with writes: a block that it is being told of is not handed out before it has answered. And it is
//! told only what two checkpoints agree on, so that the pool can still go back one.

use world::{BLOCK_SIZE, Disk};

use crate::shared::{Mode, Shared};
use crate::space::Run;

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
            let run = {
                let state = self.state.borrow();
                if !matches!(state.mode, Mode::Serving) {
                    return;
                }
                state.space.first_trim()
            };
            let Some(mut run) = run else {
                published.await;
                continue;
            };
            run.blocks += u32::from(self.config.mutants.trim_too_long());
            self.trim(run).await;
            self.state.borrow_mut().space.finish_trim();
        }
    }

    async fn trim(&self, run: Run) {
        for replica in self.replicas(run.addr).unwrap_or_default() {
            let (device, block) = self.disk_block(replica, run.addr);
            let disk = &self.disks[device];
            if !disk.geometry().can_discard {
                continue;
            }
            // A drive that does not want to know is no worse than one that was not told.
            match disk.discard(block, run.blocks.into()).await {
                Ok(()) => {
                    let bytes = u64::from(run.blocks) * BLOCK_SIZE as u64;
                    self.deallocated_bytes
                        .set(self.deallocated_bytes.get() + bytes);
                }
                Err(error) => log::debug!("drive {device} could not deallocate: {error}"),
            }
        }
    }
}
