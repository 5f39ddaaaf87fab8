//! Looks at a drive that is no member of a pool: is it blank, or whose data is on it?
//!
//! A drive counts as blank when its first and last 4 MiB and 64 blocks spread over the rest are zero. Anything else is
//! somebody's data and left alone until a person says otherwise; the name of what was found is there to help that
//! person. Neighbour: the store decodes its own header from [`Samples::first`] before it asks for a name.

mod signatures;
#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::slice::from_ref;

use world::{BLOCK_SIZE, BlockAddr, Buf, Disk, DiskError};

pub use signatures::identify;

/// Blocks at either end of a drive that are looked at: 4 MiB.
const END_BLOCKS: u64 = 1024;
/// Single blocks looked at in between.
const SPREAD: u64 = 64;

/// What was read of a drive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// The drive's first 4 MiB (or all of it); empty when they are zero.
    pub first: Vec<u8>,
    /// The drive's last 4 MiB (or all of it); empty when they are zero.
    pub last: Vec<u8>,
    /// Whether all blocks in between that were looked at are zero.
    pub spread_is_zero: bool,
}

impl Samples {
    /// Whether nothing but zeros was found.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.first.is_empty() && self.last.is_empty() && self.spread_is_zero
    }

    /// A name for what is on the drive, with its article; `None` when it is blank.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        identify(&self.first, &self.last)
            .or_else(|| (!self.spread_is_zero).then_some(signatures::UNKNOWN))
    }
}

/// Reads the samples of `disk`: at most 8 MiB and 64 blocks, and at most 8 MiB of memory (a blank drive needs none).
///
/// # Errors
/// What the drive answered, when it cannot be read.
pub async fn read_samples<D: Disk>(disk: &D) -> Result<Samples, DiskError> {
    let geometry = disk.geometry();
    let end = geometry.blocks.min(END_BLOCKS);
    let blocks_max = (geometry.transfer_blocks_max as usize).clamp(1, Buf::PAGES_MAX);
    let mut buf = Buf::from_heap(blocks_max);
    let first;
    let last;
    (buf, first) = read_window(disk, 0, end, buf).await?;
    (buf, last) = read_window(disk, geometry.blocks - end, end, buf).await?;

    let mut spread_is_zero = true;
    let mut one = buf.split_off(buf.blocks() - 1);
    for index in 0..SPREAD {
        let at = spread_block(index, geometry.blocks);
        if at >= geometry.blocks {
            break;
        }
        let result;
        (one, result) = disk.read(at, one).await;
        result?;
        spread_is_zero &= is_zero(one.block(0));
    }
    Ok(Samples {
        first,
        last,
        spread_is_zero,
    })
}

/// Makes `disk` a blank one: all that [`read_samples`] looks at becomes zero, durably. What else is on it stays there, and
/// is told to be of no use where drives can be told so.
///
/// # Errors
/// What the drive answered.
pub async fn erase<D: Disk>(disk: &D) -> Result<(), DiskError> {
    let geometry = disk.geometry();
    if geometry.can_discard {
        // Only a hint: what matters is written below.
        let _ = disk.discard(from_ref(&(0..geometry.blocks))).await;
    }
    let end = geometry.blocks.min(END_BLOCKS);
    let mut one = Buf::from_heap(1);
    let spread = (0..SPREAD).map(|index| spread_block(index, geometry.blocks));
    // The ends last: what is erased by half is not blank.
    let all = spread
        .chain(geometry.blocks - end..geometry.blocks)
        .chain(0..end);
    for at in all.filter(|at| *at < geometry.blocks) {
        let result;
        (one, result) = disk.write(at, one).await;
        result?;
    }
    disk.flush().await
}

/// The middle of the `index`th of 64 equal parts of the drive.
fn spread_block(index: u64, blocks: u64) -> BlockAddr {
    let part = blocks / SPREAD;
    index * part + index * (blocks % SPREAD) / SPREAD + part / 2
}

/// Reads `count` blocks from `from` on. The bytes are empty when all of them are zero, so that blank drives take no
/// memory.
async fn read_window<D: Disk>(
    disk: &D,
    from: BlockAddr,
    count: u64,
    mut buf: Buf,
) -> Result<(Buf, Vec<u8>), DiskError> {
    let count = usize::try_from(count).unwrap_or(0);
    let mut bytes = Vec::new();
    let mut done = 0;
    while done < count {
        let rest = buf.split_off(buf.blocks().min(count - done));
        let result;
        (buf, result) = disk.read(from + done as u64, buf).await;
        result?;
        for (index, page) in buf.pages().iter().enumerate() {
            if is_zero(&page.bytes) {
                continue;
            }
            if bytes.is_empty() {
                bytes = vec![0; count * BLOCK_SIZE];
            }
            let at = (done + index) * BLOCK_SIZE;
            bytes[at..at + BLOCK_SIZE].copy_from_slice(&page.bytes);
        }
        done += buf.blocks();
        buf.append(rest);
    }
    Ok((buf, bytes))
}

fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
