//! Opening a pool: find the end of the journal, note the new mount, replay, serve.
//!
//! Two passes over the journal: the first finds its end and changes nothing on the drives; then a FLUSH makes durable what was
//! found, and the superblock notes the new mount generation; the second replays like fresh writes. A checkpoint may happen in
//! the middle of that, so less memory than before is enough.

use alloc::vec::Vec;

use exec::join_all;
use hashbrown::HashMap;
use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::StoreError;
use crate::delta::{Hole, Point, key};
use crate::layout::{CatalogEntry, CatalogKind, Class, JournalTail, MOUNTS_MAX, Pointer, Record};
use crate::read::is_block;
use crate::replay::{Frame, Reader};
use crate::shared::{Handle, Shared, State};
use crate::space::group_of;
use crate::tag::Tag;

/// Blocks of the tail that are verified at the same time.
const VERIFY_AT_ONCE: usize = 32;

/// A run of blocks of the tail that must be there.
struct Claim {
    lineage: [u8; 16],
    lba: u64,
    addr: u64,
    birth: u64,
    tags: Vec<Tag>,
}

impl<D: Disk> Shared<D> {
    fn reader(&self) -> Reader<'_, D> {
        let disks = self.disks.iter().zip(self.regions.iter().copied());
        Reader::new(disks.collect(), self.pool_uuid)
    }

    /// The first pass: where the journal ends.
    pub async fn find_end(&self) -> Result<JournalTail, StoreError> {
        let superblock = self.state.borrow().superblock.clone();
        let tail = superblock.tails[0];
        let mut reader = self.reader();
        let (mut end, mut durable, mut newest) = (tail, 0, 0);
        let mut mount_gen = superblock.mount_gen.get();
        while let Some(frame) = reader.next(end).await {
            durable = durable.max(frame.header.durable_seq.get());
            newest = newest.max(frame.header.checkpoint.get());
            mount_gen = mount_gen.max(frame.header.mount_gen.get());
            end = frame.after;
        }
        let behind = reader.vouched(&superblock, tail, end).await;
        reader.verdict()?;
        if mount_gen + 1 >= MOUNTS_MAX {
            log::error!("the pool was opened {mount_gen} times, which cannot be");
            return Err(StoreError::DamagedPool);
        }
        // Births must not repeat even if the superblock that noted the last mount was lost.
        self.state.borrow_mut().journal.mount_gen = mount_gen;
        durable = durable.max(behind.0);
        newest = newest.max(behind.1);
        if durable >= end.seq.get() {
            log::error!(
                "the journal lost frame {} although it was durable",
                end.seq.get()
            );
            return Err(StoreError::DamagedPool);
        }
        if newest > superblock.checkpoint.get() {
            log::error!("the journal mentions checkpoint {newest}, which is nowhere");
            return Err(StoreError::DamagedPool);
        }
        self.verify_tail(&mut reader, tail, end, durable).await
    }

    /// Where the journal ends when frames that nobody vouches for must prove their data.
    async fn verify_tail(
        &self,
        reader: &mut Reader<'_, D>,
        tail: JournalTail,
        end: JournalTail,
        durable: u64,
    ) -> Result<JournalTail, StoreError> {
        let mut lineages: HashMap<u64, [u8; 16]> = HashMap::new();
        let mut at = tail;
        while at.seq < end.seq {
            let frame = reader.require(at).await?;
            let mut claims = Vec::new();
            let mut groups = Vec::new();
            for record in frame.records() {
                match record? {
                    Record::Group { group, entry } => {
                        self.adopt_group(group, entry)?;
                        groups.push(group);
                    }
                    Record::Control(entries) => {
                        let new = entries.iter();
                        lineages.extend(new.map(|entry| (entry.id.get(), entry.lineage_uuid)));
                    }
                    Record::Write {
                        tree,
                        lba,
                        addr,
                        birth,
                        tags,
                    } => {
                        let known = lineages.get(&tree).copied();
                        let lineage =
                            known.unwrap_or_else(|| self.state.borrow().birthmark(tree).1);
                        claims.push(Claim {
                            lineage,
                            lba,
                            addr,
                            birth,
                            tags,
                        });
                    }
                    Record::Hole { .. } => {}
                }
            }
            let verify = frame.header.seq.get() > durable && !self.config.mutants.no_tail_verify();
            let all = if self.config.mutants.tail_verifies_first() {
                1
            } else {
                claims.len()
            };
            if verify && !self.claims_hold(&claims[..all.min(claims.len())]).await? {
                log::info!(
                    "the journal ends at frame {}: its data is not there",
                    at.seq.get()
                );
                // These groups stay in use, but the journal that goes on here has not heard of them.
                self.state.borrow_mut().space.new_groups.extend(groups);
                break;
            }
            if !self.config.mutants.copies_not_completed() {
                self.complete_frame(&frame.header).await;
            }
            // Before anything is handed out: a checkpoint in the middle of the replay must not take these blocks.
            for claim in &claims {
                if !self.config.mutants.tail_not_marked() {
                    self.mark_in_use(claim).await?;
                }
            }
            at = frame.after;
        }
        self.overwrite_rejected(reader, at).await?;
        Ok(at)
    }

    /// What the journal does not go on with must not come back after this mount.
    async fn overwrite_rejected(
        &self,
        reader: &mut Reader<'_, D>,
        end: JournalTail,
    ) -> Result<(), StoreError> {
        let rejected = reader.rejected(end).await;
        reader.verdict()?;
        if rejected.is_empty() {
            return Ok(());
        }
        self.write_places(&rejected, Buf::from_heap(1)).await
    }

    async fn mark_in_use(&self, claim: &Claim) -> Result<(), StoreError> {
        let group = group_of(claim.addr);
        self.load_group(group).await?;
        let state = &mut *self.state.borrow_mut();
        if !state.space.is_open(group) {
            // Its bitmap is damaged: nothing is handed out there, so nothing has to be marked.
            return Ok(());
        }
        for addr in claim.addr..claim.addr + claim.tags.len() as u64 {
            if !state.space.replay_allocated(addr) {
                log::error!("the journal names block {addr:#x}, which is in use already");
                return Err(StoreError::DamagedPool);
            }
        }
        Ok(())
    }

    async fn claims_hold(&self, claims: &[Claim]) -> Result<bool, StoreError> {
        for some in claims.chunks(VERIFY_AT_ONCE) {
            for holds in join_all(some.iter().map(|claim| self.claim_holds(claim))).await {
                if !holds? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn claim_holds(&self, claim: &Claim) -> Result<bool, StoreError> {
        let matches = |index: usize, bytes: &[u8; BLOCK_SIZE]| {
            let (lba, birth) = (claim.lba + index as u64, claim.birth + index as u64);
            let pointer = Pointer::data(claim.addr + index as u64, birth, claim.tags[index]);
            is_block(claim.lineage, lba, &pointer, bytes)
        };
        let count = claim.tags.len();
        if count > Buf::PAGES_MAX {
            return Ok(false);
        }
        self.complete_blocks((claim.addr, count), matches).await
    }

    fn adopt_group(&self, group: u32, entry: crate::layout::GroupEntry) -> Result<(), StoreError> {
        let state = &mut *self.state.borrow_mut();
        let known = state.space.entry(group).ok_or(StoreError::DamagedPool)?;
        if known.class() == Class::Free {
            let blocks = state.space.group_blocks();
            let sound = entry
                .in_sync()
                .all(|replica| state.space.is_chunk_free(replica))
                && entry.in_sync().next().is_some()
                && u32::from(entry.free.get()) == blocks - 2
                && entry.tag == [0; 16];
            if !sound || entry.class() == Class::Free {
                return Err(StoreError::DamagedPool);
            }
            state.space.adopt(group, entry);
        }
        Ok(())
    }

    /// The second pass: every change up to `end` is made again.
    pub async fn replay(&self, end: JournalTail) -> Result<(), StoreError> {
        let mut reader = self.reader();
        let mut at = self.state.borrow().superblock.tails[0];
        while at.seq < end.seq {
            let frame = reader.require(at).await?;
            if self.config.mutants.replay_skips_frame() && frame.after.seq == end.seq {
                break;
            }
            if !self.has_room_for(&frame)? {
                // What was replayed so far becomes a checkpoint; the next replay would begin here.
                self.state.borrow_mut().journal.set_head(at);
                self.cut_early(at).await?;
            }
            let skipped = usize::from(self.config.mutants.replay_skips_record());
            for record in frame.records().skip(skipped) {
                self.replay_record(record?).await?;
            }
            at = frame.after;
        }
        let state = &mut *self.state.borrow_mut();
        state.journal.set_head(end);
        if !state.active.is_empty() || !state.dirty_trees.is_empty() {
            self.mark_dirty(state);
        }
        Ok(())
    }

    fn has_room_for(&self, frame: &Frame) -> Result<bool, StoreError> {
        let (mut points, mut holes) = (0, 0);
        for record in frame.records() {
            match record? {
                Record::Write { tags, .. } => points += tags.len(),
                Record::Hole { .. } => holes += 1,
                Record::Control(_) | Record::Group { .. } => {}
            }
        }
        let state = self.state.borrow();
        let has_room = state.active.room() >= points && state.active.hole_room() > 2 * holes;
        // A frame may write a block many times, and then need less; an empty table has all the room there can be.
        Ok(has_room || state.active.is_empty())
    }

    async fn replay_record(&self, record: Record) -> Result<(), StoreError> {
        match record {
            Record::Group { group, entry } => self.adopt_group(group, entry),
            Record::Control(entries) => self.state.borrow_mut().replay_control(&entries),
            Record::Hole {
                tree,
                lba,
                count,
                birth,
            } => {
                let end = lba.checked_add(count).ok_or(StoreError::DamagedPool)?;
                let hole = Hole {
                    start: key(tree, lba),
                    end: key(tree, end),
                    birth,
                };
                let state = &mut *self.state.borrow_mut();
                if !state.active.has_hole_room() {
                    log::error!("a journal frame needs more memory than is configured");
                    return Err(StoreError::Unsupported);
                }
                state.require_head(tree)?;
                state.changed[0].insert(tree);
                state.active.insert_hole(hole);
                Ok(())
            }
            Record::Write {
                tree,
                lba,
                addr,
                birth,
                tags,
            } => {
                let state = &mut *self.state.borrow_mut();
                state.require_head(tree)?;
                state.changed[0].insert(tree);
                for (index, tag) in (0..).zip(tags) {
                    let old = state.active.find(key(tree, lba + index));
                    if old.is_some_and(|old| old.birth() >= birth + index) {
                        log::error!("births of block {} of map {tree} go back", lba + index);
                        return Err(StoreError::DamagedPool);
                    }
                    if !state.active.takes(key(tree, lba + index)) {
                        log::error!("a journal frame needs more memory than is configured");
                        return Err(StoreError::Unsupported);
                    }
                    let point = Point {
                        key: key(tree, lba + index),
                        addr: addr + index,
                        birth: birth + index,
                        tag,
                    };
                    if let Some(old) = state.active.insert(point) {
                        state.space.supersede(old, false);
                    }
                }
                Ok(())
            }
        }
    }
}

impl State {
    /// Applies a catalog change from the journal.
    fn replay_control(&mut self, entries: &[CatalogEntry]) -> Result<(), StoreError> {
        for (index, entry) in entries.iter().enumerate() {
            let parent = entry.parent.get();
            let is_known = parent == 0
                || self.trees.contains_key(&parent)
                || entries[..index]
                    .iter()
                    .any(|other| other.id.get() == parent);
            let is_new = !self.trees.contains_key(&entry.id.get());
            let can_be_new = matches!(entry.kind(), CatalogKind::Head | CatalogKind::Base);
            if is_new && (!is_known || !can_be_new) {
                log::error!("the journal changes map {}, which cannot be", entry.id);
                return Err(StoreError::DamagedPool);
            }
        }
        self.apply(entries);
        Ok(())
    }

    /// The journal changes only what can be changed.
    fn require_head(&self, id: u64) -> Result<(), StoreError> {
        let tree = self.trees.get(&id);
        let kinds = [CatalogKind::Head, CatalogKind::Internal, CatalogKind::Base];
        if tree.is_some_and(|tree| kinds.contains(&tree.kind())) {
            return Ok(());
        }
        log::error!("the journal writes to map {id}, which is no volume");
        Err(StoreError::DamagedPool)
    }
}

/// Spawns the pool's background work.
pub fn spawn<D: Disk + 'static>(shared: &Handle<D>) {
    let exec = &shared.environment.exec;
    let writer = shared.clone();
    exec.spawn(async move { writer.run_writer().await });
    let checkpointer = shared.clone();
    exec.spawn(async move { checkpointer.run_checkpointer().await });
    let trimmer = shared.clone();
    exec.spawn(async move { trimmer.run_trimmer().await });
}
