//! From bare drives to the superblock and the group table.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, BlockAddr, Buf, Disk};

use super::{Checker, Finding, Owner};
use crate::api::StoreError;
use crate::groups::{TAGS_PER_BLOCK, decode_entries, table_tag, table_tags_tag, tag_blocks};
use crate::layout::{
    Class, GROUP_BITS, GroupEntry, Header, HeaderState, LABEL_BLOCKS, PoolAddr, Replica, SLOTS,
    Superblock,
};
use crate::space::ENTRIES_PER_BLOCK;
use crate::tag::Tag;

/// A drive of the pool.
pub struct Drive<'a, D> {
    disk: &'a D,
    pub header: Box<Header>,
}

impl<D: Disk> Drive<'_, D> {
    /// Reads a block; `None` when the drive cannot.
    pub async fn read(&self, at: BlockAddr) -> Option<Buf> {
        read(self.disk, at, Buf::from_heap(1)).await.ok()
    }

    /// Reads as many blocks as `buf` has; gives it back either way.
    pub async fn read_into(&self, at: BlockAddr, buf: Buf) -> Result<Buf, Buf> {
        read(self.disk, at, buf).await
    }

    /// The most blocks of one read.
    pub fn transfer_blocks(&self) -> usize {
        (self.disk.geometry().transfer_blocks_max as usize).clamp(1, Buf::PAGES_MAX)
    }
}

async fn read<D: Disk>(disk: &D, at: BlockAddr, buf: Buf) -> Result<Buf, Buf> {
    let blocks = buf.blocks();
    let end = at.checked_add(blocks as u64);
    if end.is_none_or(|end| end > disk.geometry().blocks) {
        return Err(buf);
    }
    match disk.read(at, buf).await {
        (buf, Ok(())) => Ok(buf),
        (buf, Err(_)) if buf.blocks() == blocks => Err(buf),
        (_, Err(_)) => Err(Buf::from_heap(blocks)),
    }
}

/// What a pool begins with.
pub struct Loaded<'a, D> {
    /// In the order of the pool.
    pub drives: Vec<Drive<'a, D>>,
    pub superblock: Superblock,
    pub groups: Vec<GroupEntry>,
    /// What was wrong on the way.
    pub findings: Vec<Finding>,
}

/// Finds the drives' places in the pool, the newest usable superblock and the group table.
pub async fn load<D: Disk>(disks: &[D]) -> Result<Loaded<'_, D>, StoreError> {
    let mut findings = Vec::new();
    let drives = load_drives(disks, &mut findings).await?;
    let pool = drives[0].header.pool_uuid;
    let mut superblocks = BTreeMap::new();
    for drive in &drives {
        for at in (0..SLOTS).flat_map(|slot| drive.header.regions.superblocks(slot)) {
            if let Some(buf) = drive.read(at).await
                && let Some(superblock) = Superblock::decode(buf.block(0), pool)
            {
                superblocks.insert(superblock.generation.get(), superblock);
            }
        }
    }
    let newest = superblocks
        .values()
        .next_back()
        .map(|newest| newest.checkpoint.get());
    let newest = newest.ok_or(StoreError::DamagedPool)?;
    for superblock in superblocks.into_values().rev() {
        let mut damaged = Vec::new();
        if let Some(groups) = load_groups(&drives, &superblock, &mut damaged).await {
            // A cut while the pool was made may leave one label; the first start mends it.
            if superblock.mount_gen.get() == 0 {
                findings.retain(|finding| !matches!(finding, Finding::Header { .. }));
            }
            let used = superblock.checkpoint.get();
            if used != newest {
                findings.push(Finding::Fallback {
                    unusable: newest,
                    used,
                });
            }
            findings.append(&mut damaged);
            return Ok(Loaded {
                drives,
                superblock,
                groups,
                findings,
            });
        }
    }
    Err(StoreError::DamagedPool)
}

async fn load_drives<'a, D: Disk>(
    disks: &'a [D],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Drive<'a, D>>, StoreError> {
    let mut drives: Vec<Drive<'a, D>> = Vec::new();
    for disk in disks {
        let mut copies = Vec::new();
        let mut error = StoreError::Unsupported;
        let last = disk.geometry().blocks.saturating_sub(LABEL_BLOCKS);
        for at in [0, last] {
            let Ok(buf) = read(disk, at, Buf::from_heap(1)).await else {
                continue;
            };
            match Header::decode(buf.block(0)) {
                HeaderState::Valid(header) => copies.push(header),
                HeaderState::Damaged => error = StoreError::DamagedPool,
                HeaderState::None | HeaderState::Newer(_) => {}
            }
        }
        // The second label's place is only known from the first, unless the whole drive is used.
        if let [header] = copies.as_slice()
            && let Ok(buf) = read(disk, header.regions.label_b(), Buf::from_heap(1)).await
            && let HeaderState::Valid(other) = Header::decode(buf.block(0))
            && header.regions.label_b() != last
        {
            copies.push(other);
        }
        let is_whole = copies.len() == 2 && copies[0] == copies[1];
        let Some(header) = copies.into_iter().next() else {
            return Err(error);
        };
        if !is_whole {
            findings.push(Finding::Header {
                drive: header.index.get() as usize,
            });
        }
        drives.push(Drive { disk, header });
    }
    drives.sort_by_key(|drive| drive.header.index.get());
    let first = &drives.first().ok_or(StoreError::Incomplete)?.header;
    let is_complete = drives.len() == first.members.get() as usize
        && (0_u32..).zip(&drives).all(|(index, drive)| {
            let header = &drive.header;
            header.index.get() == index
                && header.pool_uuid == first.pool_uuid
                && header.group_shift == first.group_shift
        });
    if is_complete {
        Ok(drives)
    } else {
        Err(StoreError::Incomplete)
    }
}

/// The group table that `superblock` refers to, or `None` when a part of it is damaged on all drives.
async fn load_groups<D: Disk>(
    drives: &[Drive<'_, D>],
    superblock: &Superblock,
    damaged: &mut Vec<Finding>,
) -> Option<Vec<GroupEntry>> {
    let pool = superblock.pool_uuid;
    let groups = superblock.groups.get() as usize;
    let blocks = groups.div_ceil(ENTRIES_PER_BLOCK);
    let room = drives
        .iter()
        .map(|drive| drive.header.regions.table_blocks.get())
        .min()?;
    if tag_blocks(blocks) + blocks > usize::try_from(room).ok()? {
        return None;
    }
    let mut tags = Vec::with_capacity(blocks);
    for index in 0..tag_blocks(blocks) {
        let tag = Tag(*superblock.table_tags.get(index)?);
        let sound = |block: &[u8; BLOCK_SIZE]| table_tags_tag(pool, index, block) == tag;
        let buf = read_table(drives, superblock, index, sound, damaged).await?;
        tags.extend(buf.block(0).as_chunks::<16>().0.iter().map(|tag| Tag(*tag)));
    }
    debug_assert!(tags.len() <= blocks.next_multiple_of(TAGS_PER_BLOCK));
    let mut entries = Vec::with_capacity(groups);
    for (index, tag) in tags.into_iter().enumerate().take(blocks) {
        let sound = |block: &[u8; BLOCK_SIZE]| table_tag(pool, index, block) == tag;
        let at = tag_blocks(blocks) + index;
        let buf = read_table(drives, superblock, at, sound, damaged).await?;
        entries.extend(decode_entries(buf.block(0)));
    }
    entries.truncate(groups);
    Some(entries)
}

/// Block `index` of the table's area, from the first drive where it is `sound`; notes the others.
async fn read_table<D: Disk>(
    drives: &[Drive<'_, D>],
    superblock: &Superblock,
    index: usize,
    sound: impl Fn(&[u8; BLOCK_SIZE]) -> bool,
    damaged: &mut Vec<Finding>,
) -> Option<Buf> {
    let mut found = None;
    for (number, drive) in drives.iter().enumerate() {
        let addr = drive.header.regions.table[superblock.area.get() as usize].get() + index as u64;
        match drive.read(addr).await {
            Some(buf) if sound(buf.block(0)) => found = Some(buf),
            _ => {
                let what = Owner::Table { block: index };
                damaged.push(Finding::Damaged {
                    what,
                    addr,
                    drive: number,
                });
            }
        }
    }
    found
}

impl<D: Disk> Checker<'_, D> {
    /// Where `addr` is: drive and block, one for each replica.
    pub fn places(&self, addr: PoolAddr) -> Vec<(usize, BlockAddr)> {
        let group = usize::try_from(addr >> GROUP_BITS).ok();
        let Some(entry) = group.and_then(|group| self.groups.get(group)) else {
            return Vec::new();
        };
        let block = addr & ((1 << GROUP_BITS) - 1);
        let place = |replica: Replica| {
            let device = usize::from(replica.device);
            let header = &self.drives.get(device)?.header;
            let chunk = u64::from(replica.chunk.get()) << header.group_shift.get();
            let start = header.regions.chunks_start.get().checked_add(chunk)?;
            let at = start.checked_add(block)?;
            (at < header.regions.blocks.get()).then_some((device, at))
        };
        entry.in_sync().filter_map(place).collect()
    }

    /// Reads the block at `addr` from every replica and returns one that is `sound`; all others are found damaged.
    pub async fn read_verified(
        &mut self,
        what: Owner,
        addr: PoolAddr,
        sound: impl Fn(&[u8; BLOCK_SIZE]) -> bool,
    ) -> Option<Buf> {
        let mut found = None;
        let places = self.places(addr);
        if places.is_empty() {
            self.find(Finding::BadAddress { what, addr });
        }
        for (drive, at) in places {
            self.summary.verified += 1;
            match self.drives[drive].read(at).await {
                Some(buf) if sound(buf.block(0)) => found = Some(buf),
                _ => self.find(Finding::Damaged { what, addr, drive }),
            }
        }
        found
    }

    /// Every group in use has chunks, and no chunk belongs to two.
    pub fn check_groups(&mut self) {
        let mut owners = hashbrown::HashMap::new();
        for group in 0..self.groups.len() {
            let entry = self.groups[group];
            if entry.class() == Class::Free {
                continue;
            }
            if entry.slot > 1 {
                let slot = entry.slot;
                self.malformed(alloc::format!(
                    "group {group} has its bitmap in slot {slot}"
                ));
            }
            let replicas: Vec<Replica> = entry.in_sync().collect();
            let wanted = if entry.class() == Class::Meta { 2 } else { 1 };
            if replicas.len() != wanted {
                self.malformed(alloc::format!(
                    "group {group} has {} replicas instead of {wanted}",
                    replicas.len()
                ));
            }
            for Replica { device, chunk, .. } in replicas {
                let chunk = chunk.get();
                let drive = self.drives.get(usize::from(device));
                if drive.is_none_or(|drive| u64::from(chunk) >= drive.header.regions.chunks.get()) {
                    self.malformed(alloc::format!(
                        "group {group} has chunk {chunk} of drive {device}, which is not there"
                    ));
                }
                if let Some(other) = owners.insert((device, chunk), group) {
                    self.malformed(alloc::format!(
                        "groups {other} and {group} share chunk {chunk} of drive {device}"
                    ));
                }
            }
        }
    }

    pub fn malformed(&mut self, what: alloc::string::String) {
        self.find(Finding::Malformed { what });
    }
}
