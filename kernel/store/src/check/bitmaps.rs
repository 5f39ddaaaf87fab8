//! Bitmaps against what was reached.

use alloc::format;

use world::{BLOCK_SIZE, Buf, Disk};

use super::{Checker, Finding, Owner};
use crate::groups::{bitmap_addr, bitmap_tag};
use crate::layout::{Class, GROUP_BITS};

impl<D: Disk> Checker<'_, D> {
    /// What the bitmaps say is in use must be what was reached.
    pub async fn check_bitmaps(&mut self) {
        let blocks = 1_u32 << self.drives[0].header.group_shift.get();
        let pool = self.pool_uuid;
        for (group, entry) in (0..).zip(self.groups.clone()) {
            if entry.class() == Class::Free {
                continue;
            }
            let bitmap = if entry.tag == [0; 16] {
                let mut empty = Buf::from_heap(1);
                empty.block_mut(0)[0] = 0b11;
                Some(empty)
            } else {
                let version = entry.bitmap_checkpoint.get();
                let sound = |block: &[u8; BLOCK_SIZE]| {
                    bitmap_tag(pool, group, version, block).0 == entry.tag
                };
                let addr = bitmap_addr(group, entry.slot);
                self.read_verified(Owner::Bitmap { group }, addr, sound)
                    .await
            };
            let Some(bitmap) = bitmap else { continue };
            let is_set = |block: u32| bitmap.block(0)[block as usize / 8] >> (block % 8) & 1 != 0;
            let free = (0..blocks).filter(|block| !is_set(*block)).count();
            let (table, bitmap) = (entry.free.get().into(), u32::try_from(free).unwrap_or(0));
            if table != bitmap {
                self.find(Finding::FreeCount {
                    group,
                    table,
                    bitmap,
                });
            }
            if !(is_set(0) && is_set(1)) {
                self.malformed(format!("group {group} does not keep its own bitmaps"));
            }
            for block in 2..blocks {
                let addr = u64::from(group) << GROUP_BITS | u64::from(block);
                match (is_set(block), self.usage.is_used(group, block)) {
                    (true, false) => self.find(Finding::Leaked { addr }),
                    (false, true) => self.find(Finding::Dangling { addr }),
                    _ => {}
                }
            }
        }
    }
}
