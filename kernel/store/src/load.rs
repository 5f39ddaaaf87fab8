//! Reading a pool's roots: headers, the newest superblock that leads to a whole checkpoint, and its group table.
//!
//! Used to open a pool; writes nothing but labels that are not as they should be.

use alloc::boxed::Box;
use alloc::vec::Vec;

use exec::join_all;
use hashbrown::HashSet;
use world::{BLOCK_SIZE, Buf, Disk, DiskError};
use zerocopy::IntoBytes;

use crate::api::StoreError;
use crate::groups::{TAGS_PER_BLOCK, decode_entries, table_tag, table_tags_tag, tag_blocks};
use crate::io::read_disk;
use crate::layout::{
    Class, GroupEntry, Header, HeaderState, IDS_MAX, LABEL_BLOCKS, MOUNTS_MAX, SLOTS,
    SUPERBLOCK_FLAG_DEFERRED, Superblock,
};
use crate::space::ENTRIES_PER_BLOCK;

/// The roots of a pool.
pub struct Loaded {
    /// By member index.
    pub headers: Vec<Header>,
    /// Which of the given drives each member is.
    pub order: Vec<usize>,
    pub superblock: Superblock,
    pub entries: Vec<GroupEntry>,
    /// Tags of the table's blocks.
    pub table_tags: Vec<[u8; 16]>,
    /// The newest checkpoint does not verify; this is the one before.
    pub is_older: bool,
}

/// Reads one block.
pub async fn read_block<D: Disk>(disk: &D, at: u64) -> Result<Buf, StoreError> {
    let (buf, result) = read_disk(disk, at, Buf::from_heap(1)).await;
    result?;
    Ok(buf)
}

/// What the labels of a drive say: the first that is whole.
pub async fn read_header<D: Disk>(disk: &D) -> Result<HeaderState, StoreError> {
    let end = disk.geometry().blocks;
    let first = match read_block(disk, 0).await {
        Ok(block) => Header::decode(block.block(0)),
        Err(_) => HeaderState::Damaged,
    };
    if matches!(first, HeaderState::Valid(_) | HeaderState::Newer(_)) || end < LABEL_BLOCKS {
        return Ok(first);
    }
    let second = Header::decode(read_block(disk, end - LABEL_BLOCKS).await?.block(0));
    Ok(if matches!(second, HeaderState::None) {
        first
    } else {
        second
    })
}

/// Reads the roots of the pool that consists of exactly these drives.
pub async fn load<D: Disk>(disks: &[D]) -> Result<Loaded, StoreError> {
    let (headers, order) = read_headers(disks).await?;
    let pool = headers[0].pool_uuid;
    let mut candidates: Vec<Superblock> = Vec::new();
    for (header, index) in headers.iter().zip(&order) {
        for label in [0, header.regions.label_b()] {
            let ring = Buf::from_heap(usize::try_from(SLOTS).unwrap_or(0));
            let (ring, result) = read_disk(&disks[*index], label + 32, ring).await;
            // Only blocks that cannot be read for good are passed over: an older superblock must not be taken for the newest.
            if let Err(error) = result
                && error != DiskError::Media
            {
                return Err(error.into());
            }
            if result.is_ok() {
                let slots = (0..ring.blocks()).map(|slot| ring.block(slot));
                candidates.extend(slots.filter_map(|block| Superblock::decode(block, pool)));
            }
        }
    }
    candidates.sort_by_key(|superblock| core::cmp::Reverse(superblock.generation.get()));
    let newest = candidates.first().ok_or(StoreError::DamagedPool)?;
    let (last, may_go_back) = (
        newest.checkpoint.get(),
        newest.flags.get() & SUPERBLOCK_FLAG_DEFERRED != 0,
    );
    for superblock in candidates {
        let checkpoint = superblock.checkpoint.get();
        if checkpoint != last && !(may_go_back && checkpoint + 1 == last) {
            break;
        }
        let table = load_table(disks, &headers, &order, &superblock).await?;
        if let Some((entries, table_tags)) = table {
            let is_older = checkpoint != last;
            return Ok(Loaded {
                headers,
                order,
                superblock,
                entries,
                table_tags,
                is_older,
            });
        }
    }
    Err(StoreError::DamagedPool)
}

async fn read_headers<D: Disk>(disks: &[D]) -> Result<(Vec<Header>, Vec<usize>), StoreError> {
    let mut found: Vec<(usize, Box<Header>)> = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        match read_header(disk).await? {
            HeaderState::Valid(header) => found.push((index, header)),
            HeaderState::Damaged => return Err(StoreError::DamagedPool),
            HeaderState::None | HeaderState::Newer(_) => return Err(StoreError::Unsupported),
        }
    }
    found.sort_by_key(|(_, header)| header.index.get());
    let first = &found.first().ok_or(StoreError::Incomplete)?.1;
    let (pool, members) = (first.pool_uuid, first.members.get() as usize);
    let complete = found.len() == members
        && (0..)
            .zip(&found)
            .all(|(index, (_, header))| header.index.get() == index);
    if !complete || found.iter().any(|(_, header)| header.pool_uuid != pool) {
        return Err(StoreError::Incomplete);
    }
    for (index, header) in &found {
        if header.regions.blocks.get() > disks[*index].geometry().blocks {
            return Err(StoreError::DamagedPool);
        }
    }
    let order = found.iter().map(|(index, _)| *index).collect();
    Ok((
        found.into_iter().map(|(_, header)| *header).collect(),
        order,
    ))
}

/// Makes both labels of every drive whole again: a power cut while the pool was made can have torn one of them.
///
/// A label that is none (any more) stays as it is: it belongs to somebody else.
pub async fn mend_labels<D: Disk>(disks: &[D], loaded: &Loaded) -> Result<(), StoreError> {
    for (header, index) in loaded.headers.iter().zip(&loaded.order) {
        let disk = &disks[*index];
        for at in [0, header.regions.label_b()] {
            let Ok(found) = read_block(disk, at).await else {
                continue;
            };
            let is_bad = match Header::decode(found.block(0)) {
                HeaderState::Valid(found) => *found != *header,
                HeaderState::Damaged => true,
                HeaderState::None | HeaderState::Newer(_) => false,
            };
            if is_bad {
                let mut buf = found;
                buf.block_mut(0).copy_from_slice(header.as_bytes());
                disk.write(at, buf).await.1?;
                disk.flush().await?;
            }
        }
    }
    Ok(())
}

type Table = (Vec<GroupEntry>, Vec<[u8; 16]>);

/// Blocks of the group table that are read ahead.
const AHEAD: usize = 8 * Buf::PAGES_MAX;

/// Reads `count` blocks in the largest pieces, all at once. Pieces that cannot be read hold anything.
async fn read_run<D: Disk>(disk: &D, first: u64, count: usize) -> Vec<Buf> {
    let reads = (0..count).step_by(Buf::PAGES_MAX).map(|done| {
        let blocks = (count - done).min(Buf::PAGES_MAX);
        read_disk(disk, first + done as u64, Buf::from_heap(blocks))
    });
    let read = join_all(reads).await.into_iter();
    read.map(|(buf, _)| buf).collect()
}

/// Reads and verifies the group table of a superblock; `None` when no drive has it whole.
///
/// An error of a drive is not an answer: the pool must not go back to an older checkpoint because of one.
async fn load_table<D: Disk>(
    disks: &[D],
    headers: &[Header],
    order: &[usize],
    superblock: &Superblock,
) -> Result<Option<Table>, StoreError> {
    let pool = superblock.pool_uuid;
    let groups = superblock.groups.get() as usize;
    let blocks = groups.div_ceil(ENTRIES_PER_BLOCK);
    let room = headers
        .iter()
        .map(|header| header.regions.table_blocks.get())
        .min()
        .unwrap_or(0);
    let fits = (tag_blocks(blocks) + blocks) as u64 <= room && tag_blocks(blocks) <= 64;
    if !fits || !is_possible(superblock, headers) {
        return Ok(None);
    }
    let area = superblock.area.get() as usize;
    let read = async |index: usize, is_right: &dyn Fn(&[u8; BLOCK_SIZE]) -> bool| {
        let mut answer = Ok(None);
        for (header, disk) in headers.iter().zip(order) {
            let at = header.regions.table[area].get() + index as u64;
            match read_block(&disks[*disk], at).await {
                Ok(block) if is_right(block.block(0)) => return Ok(Some(block)),
                Ok(_) | Err(StoreError::Disk(DiskError::Media)) => {}
                Err(error) => answer = Err(error),
            }
        }
        answer
    };
    let mut tags: Vec<[u8; 16]> = Vec::with_capacity(blocks);
    for index in 0..tag_blocks(blocks) {
        let expected = superblock.table_tags[index];
        let is_right = |bytes: &[u8; BLOCK_SIZE]| table_tags_tag(pool, index, bytes).0 == expected;
        let Some(block) = read(index, &is_right).await? else {
            return Ok(None);
        };
        let here = block.block(0).as_chunks::<16>().0;
        tags.extend(here.iter().take((blocks - tags.len()).min(TAGS_PER_BLOCK)));
    }
    let mut entries = Vec::with_capacity(groups);
    let first = headers[0].regions.table[area].get() + tag_blocks(blocks) as u64;
    for (ahead, tags) in (0..).zip(tags.chunks(AHEAD)) {
        let start = ahead * AHEAD;
        let window = read_run(&disks[order[0]], first + start as u64, tags.len()).await;
        for (index, expected) in (start..).zip(tags) {
            let is_right = |bytes: &[u8; BLOCK_SIZE]| table_tag(pool, index, bytes).0 == *expected;
            let here = window.get((index - start) / Buf::PAGES_MAX);
            let here = here.map(|buf| buf.block((index - start) % Buf::PAGES_MAX));
            match here.filter(|bytes| is_right(bytes)) {
                Some(bytes) => entries.extend(decode_entries(bytes).take(groups - entries.len())),
                None => {
                    let Some(block) = read(tag_blocks(blocks) + index, &is_right).await? else {
                        return Ok(None);
                    };
                    let left = groups - entries.len();
                    entries.extend(decode_entries(block.block(0)).take(left));
                }
            }
        }
    }
    Ok(are_possible(&entries, headers).then_some((entries, tags)))
}

/// The least room for the live part of a journal: the largest frames, and what is kept for the cut of a checkpoint.
const LIVE_MIN: u64 = 128;

/// The most levels of the catalog: 16 million volumes. All blocks within its reach are looked up when a pool is opened.
const CATALOG_HEIGHT_MAX: u32 = 3;

/// Positions and numbers of frames are below this, which a drive never comes near: nothing that is added overflows.
const COUNT_MAX: u64 = 1 << 60;

/// Whether the store can work with these numbers, whoever wrote them.
fn is_possible(superblock: &Superblock, headers: &[Header]) -> bool {
    let chunks: u64 = (headers.iter())
        .map(|header| header.regions.chunks.get())
        .sum();
    let tail = &superblock.tails[0];
    u64::from(superblock.groups.get()) == chunks
        && headers
            .iter()
            .all(|header| header.group_shift == headers[0].group_shift)
        && superblock.catalog_height.get() <= CATALOG_HEIGHT_MAX
        && superblock.live_max.get() >= LIVE_MIN
        && superblock.mount_gen.get() < MOUNTS_MAX
        && superblock.next_node.get() <= IDS_MAX
        && superblock.generation.get() < COUNT_MAX
        && superblock.checkpoint.get() < COUNT_MAX
        && tail.position.get() < COUNT_MAX
        && (1..COUNT_MAX).contains(&tail.seq.get())
}

/// Whether each group in use has chunks that are there and its own, and no more free blocks than fit.
fn are_possible(entries: &[GroupEntry], headers: &[Header]) -> bool {
    let blocks = 1_u32 << headers[0].group_shift.get();
    let mut taken = HashSet::new();
    let used = entries.iter().filter(|entry| entry.class() != Class::Free);
    { used }.all(|entry| {
        u32::from(entry.free.get()) <= blocks - 2
            && entry.in_sync().next().is_some()
            && entry.in_sync().all(|replica| {
                let (device, chunk) = (usize::from(replica.device), replica.chunk.get());
                let header = headers.get(device);
                header.is_some_and(|header| u64::from(chunk) < header.regions.chunks.get())
                    && taken.insert((device, chunk))
            })
    })
}
