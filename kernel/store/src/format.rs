//! Making a pool. Costs the same for any size: labels, an empty group table, and nothing else.

use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};
use zerocopy::IntoBytes;

use crate::api::{Environment, FormatOptions, StoreError};
use crate::groups::{TAGS_PER_BLOCK, table_tag, table_tags_tag, tag_blocks};
use crate::layout::{Header, JournalTail, LABEL_BLOCKS, Member, Regions, SLOTS, Superblock};
use crate::shared::FIRST_VOLUME;
use crate::space::ENTRIES_PER_BLOCK;

/// Blocks of the smallest drive: 64 MiB.
const DRIVE_BLOCKS_MIN: u64 = 16_384;

/// Groups that a drive should have at least, so that small pools stay usable.
const GROUPS_MIN: u64 = 32;

/// Bounds of log2 of a group's blocks.
const SHIFT_MIN: u8 = 11;
const SHIFT_MAX: u8 = 15;

/// Bounds of the journal ring in blocks: 4 and 64 MiB.
const RING_MIN: u64 = 1024;
const RING_MAX: u64 = 16_384;

/// The most blocks between the journal's tail and head: 16 MiB.
const LIVE_MAX: u64 = 4096;

/// Makes a pool on `disks`.
pub async fn format<D: Disk>(
    disks: &[D],
    environment: &Environment,
    options: &FormatOptions,
) -> Result<(), StoreError> {
    let smallest = disks.iter().map(|disk| disk.geometry().blocks).min();
    let smallest = smallest.ok_or(StoreError::Incomplete)?;
    if smallest < DRIVE_BLOCKS_MIN || disks.len() > 32 {
        return Err(StoreError::TooSmall);
    }
    let shift = options.group_shift.unwrap_or_else(|| group_shift(smallest));
    let pool = environment.new_uuid();
    let blocks: Vec<u64> = disks.iter().map(|disk| disk.geometry().blocks).collect();
    let regions = plan(&blocks, shift);
    let count = u32::try_from(disks.len()).unwrap_or(u32::MAX);
    let mut headers: Vec<Header> = (0..count)
        .zip(&regions)
        .map(|(index, regions)| {
            Header::new(
                pool,
                environment.new_uuid(),
                (index, count),
                shift.into(),
                *regions,
            )
        })
        .collect();
    // Until the last step the headers say that the pool is being made, so an interrupted format can simply be repeated.
    for header in &mut headers {
        header.set_forming(true);
    }
    write_headers(disks, &headers, false).await?;
    let mut superblock = first_superblock(pool, &headers);
    for (disk, header) in disks.iter().zip(&headers) {
        write_table(disk, header, &mut superblock).await?;
    }
    let mut buf = Buf::from_heap(1);
    superblock.encode(buf.block_mut(0));
    let slot = superblock.generation.get() % SLOTS;
    for (disk, header) in disks.iter().zip(&headers) {
        for block in header.regions.superblocks(slot) {
            let (back, result) = disk.write(block, buf).await;
            result?;
            buf = back;
        }
        disk.flush().await?;
    }
    for header in &mut headers {
        header.set_forming(false);
    }
    // The label at the beginning is looked at first: the pool is there when this one says so, and then the other does, too.
    write_headers(disks, &headers, true).await
}

async fn write_headers<D: Disk>(
    disks: &[D],
    headers: &[Header],
    last_first: bool,
) -> Result<(), StoreError> {
    for (disk, header) in disks.iter().zip(headers) {
        let mut labels = [0, header.regions.label_b()];
        if last_first {
            labels.reverse();
        }
        for block in labels {
            let mut buf = Buf::from_heap(1);
            buf.block_mut(0).copy_from_slice(header.as_bytes());
            disk.write(block, buf).await.1?;
            // One label after the other: a power cut tears at most one of them.
            disk.flush().await?;
        }
    }
    Ok(())
}

fn group_shift(blocks: u64) -> u8 {
    let fits = |shift: &u8| blocks >> shift >= GROUPS_MIN;
    (SHIFT_MIN..=SHIFT_MAX)
        .rev()
        .find(fits)
        .unwrap_or(SHIFT_MIN)
}

/// Where things go on drives of these sizes.
fn plan(blocks: &[u64], shift: u8) -> Vec<Regions> {
    let smallest = blocks.iter().copied().min().unwrap_or(0);
    let ring = (smallest / 64).clamp(RING_MIN, RING_MAX);
    let groups: u64 = blocks.iter().map(|blocks| blocks >> shift).sum();
    let table = usize::try_from(groups)
        .unwrap_or(usize::MAX)
        .div_ceil(ENTRIES_PER_BLOCK);
    let table_blocks = (tag_blocks(table) + table) as u64;
    let region = |blocks: &u64| {
        let journal = LABEL_BLOCKS + 2 * table_blocks;
        let chunks_start = journal + ring;
        Regions {
            blocks: (*blocks).into(),
            table: [LABEL_BLOCKS.into(), (LABEL_BLOCKS + table_blocks).into()],
            table_blocks: table_blocks.into(),
            journal: journal.into(),
            journal_blocks: ring.into(),
            chunks_start: chunks_start.into(),
            chunks: ((blocks - LABEL_BLOCKS - chunks_start) >> shift).into(),
        }
    };
    blocks.iter().map(region).collect()
}

fn first_superblock(pool: [u8; 16], headers: &[Header]) -> Superblock {
    let mut new = Superblock::new(pool);
    new.generation.set(1);
    new.checkpoint.set(1);
    new.next_node.set(FIRST_VOLUME);
    let tail = JournalTail {
        seq: 1.into(),
        ..JournalTail::default()
    };
    new.tails = [tail; 2];
    let chunks: u64 = headers
        .iter()
        .map(|header| header.regions.chunks.get())
        .sum();
    new.groups.set(u32::try_from(chunks).unwrap_or(u32::MAX));
    for (member, header) in new.members.iter_mut().zip(headers) {
        let chunks = u32::try_from(header.regions.chunks.get()).unwrap_or(u32::MAX);
        *member = Member::in_sync(header.device_uuid, chunks);
    }
    let ring = headers
        .iter()
        .map(|header| header.regions.journal_blocks.get())
        .min();
    new.live_max.set((ring.unwrap_or(0) / 2).min(LIVE_MAX));
    new
}

/// Writes an empty group table into area 0.
async fn write_table<D: Disk>(
    disk: &D,
    header: &Header,
    superblock: &mut Superblock,
) -> Result<(), StoreError> {
    let pool = superblock.pool_uuid;
    let blocks = (superblock.groups.get() as usize).div_ceil(ENTRIES_PER_BLOCK);
    let start = header.regions.table[0].get();
    let empty = [0; BLOCK_SIZE];
    let tags: Vec<[u8; 16]> = (0..blocks)
        .map(|index| table_tag(pool, index, &empty).0)
        .collect();
    let mut at = start;
    for (index, chunk) in tags.chunks(TAGS_PER_BLOCK).enumerate() {
        let mut buf = Buf::from_heap(1);
        buf.copy_from(0, chunk.as_bytes());
        superblock.table_tags[index] = table_tags_tag(pool, index, buf.block(0)).0;
        disk.write(at, buf).await.1?;
        at += 1;
    }
    let mut left = blocks;
    while left > 0 {
        let count = left
            .min(disk.geometry().transfer_blocks_max as usize)
            .min(Buf::PAGES_MAX);
        disk.write(at, Buf::from_heap(count)).await.1?;
        at += count as u64;
        left -= count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_groups_and_rings() {
        const GIB: u64 = 1 << 18;
        for (blocks, shift) in [(16_384, 11), (GIB / 4, 11), (8 * GIB, 15), (1024 * GIB, 15)] {
            let chosen = group_shift(blocks);
            assert!(
                chosen >= shift || blocks >> chosen >= GROUPS_MIN,
                "{blocks}: {chosen}"
            );
            let regions = plan(&[blocks], chosen)[0];
            assert!(regions.chunks.get() >= 6, "{blocks} blocks: {regions:?}");
            assert!(
                regions.chunks_start.get() + (regions.chunks.get() << chosen) <= regions.label_b()
            );
        }
        assert_eq!(group_shift(16 * GIB), 15);
        assert_eq!(group_shift(4 * GIB - 1), 14);
    }
}
