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
            let words = bitmap.block(0)[..blocks as usize / 8].as_chunks().0;
            let words = words.iter().map(|word| u64::from_le_bytes(*word));
            let free = words.clone().map(u64::count_zeros).sum();
            let table = entry.free.get().into();
            if table != free {
                self.find(Finding::FreeCount {
                    group,
                    table,
                    bitmap: free,
                });
            }
            for (index, set) in (0..).zip(words) {
                let mut used = self.usage.word(group, index);
                if index == 0 {
                    // A group's own bitmaps, which nothing refers to.
                    used |= 0b11;
                    if set & 0b11 != 0b11 {
                        self.malformed(format!("group {group} does not keep its own bitmaps"));
                        used &= set | !0b11;
                    }
                }
                let mut differing = set ^ used;
                while differing != 0 {
                    let bit = differing.trailing_zeros();
                    differing &= differing - 1;
                    let block = index as u64 * 64 + u64::from(bit);
                    let addr = u64::from(group) << GROUP_BITS | block;
                    self.find(match set >> bit & 1 {
                        1 => Finding::Leaked { addr },
                        _ => Finding::Dangling { addr },
                    });
                }
            }
        }
    }
}
