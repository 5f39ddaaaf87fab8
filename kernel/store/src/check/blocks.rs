//! Single blocks: where they are, when they were born, and what they hold.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};

use super::usage::Mark;
use super::{Checker, Finding, Owner};
use crate::layout::{Class, GROUP_BITS, PoolAddr, data_tag};
use crate::tag::Tag;

/// Blocks of data whose tags are compared together, in the order of their addresses.
pub const QUEUE_MAX: usize = 4096;

/// A block of data that something refers to.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub volume: u64,
    pub lba: u64,
    pub addr: PoolAddr,
    pub birth: u64,
    pub tag: Tag,
    pub lineage: [u8; 16],
}

impl Data {
    pub fn owner(&self) -> Owner {
        Owner::Block {
            volume: self.volume,
            block: self.lba,
        }
    }

    /// Whether these are its bytes.
    pub fn is(&self, bytes: &[u8; BLOCK_SIZE]) -> bool {
        data_tag(self.lineage, self.lba, self.birth, bytes) == self.tag
    }
}

impl<D: Disk> Checker<'_, D> {
    /// Notes that `what` is at `addr`.
    pub fn mark(&mut self, what: Owner, addr: PoolAddr) -> Mark {
        let mark = self.usage.mark(addr);
        let group = usize::try_from(addr >> GROUP_BITS).ok();
        let class = group
            .and_then(|group| self.groups.get(group))
            .map(|entry| entry.class());
        let is_free = class.is_none_or(|class| class == Class::Free);
        match mark {
            Mark::Again => self.find(Finding::UsedTwice { what, addr }),
            Mark::Bad => self.find(Finding::BadAddress { what, addr }),
            Mark::First if is_free => self.find(Finding::BadAddress { what, addr }),
            Mark::First => {}
        }
        mark
    }

    /// A birth is never zero and never later than the newest mount.
    pub fn check_birth(&mut self, data: &Data, epoch_bias: u64) {
        let newest = self.superblock.mount_gen.get().saturating_add(epoch_bias);
        if data.birth == 0 || data.birth >> 44 > newest {
            self.find(Finding::ImpossibleBirth {
                what: data.owner(),
                birth: data.birth,
            });
        }
    }

    /// Compares the tags of all blocks in `queue`, on every replica, and empties it.
    pub async fn verify(&mut self, queue: &mut Vec<Data>) {
        queue.sort_unstable_by_key(|data| data.addr);
        let groups = self.groups.len() as u64;
        let in_pool = |data: &Data| data.addr >> GROUP_BITS < groups;
        for same in queue
            .chunk_by(|a, b| a.addr + 1 == b.addr && a.addr >> GROUP_BITS == b.addr >> GROUP_BITS)
        {
            for run in same.chunks(Buf::PAGES_MAX).filter(|run| in_pool(&run[0])) {
                for (drive, at) in self.places(run[0].addr) {
                    self.verify_run(run, drive, at).await;
                }
            }
        }
        queue.clear();
    }

    /// Compares the tags of neighbours on one drive.
    async fn verify_run(&mut self, run: &[Data], drive: usize, at: u64) {
        let step = self.drives[drive].transfer_blocks();
        for (part, at) in run.chunks(step).zip((at..).step_by(step)) {
            let read = self.drives[drive]
                .read_into(at, Buf::from_heap(part.len()))
                .await;
            for (index, data) in part.iter().enumerate() {
                self.summary.verified += 1;
                let is_sound = match &read {
                    Ok(buf) => data.is(buf.block(index)),
                    // One bad block fails the whole read: ask for each.
                    Err(_) => {
                        let one = self.drives[drive].read(at + index as u64).await;
                        one.is_some_and(|buf| data.is(buf.block(0)))
                    }
                };
                if !is_sound {
                    let (what, addr) = (data.owner(), data.addr);
                    self.find(Finding::Damaged { what, addr, drive });
                }
            }
        }
    }
}
