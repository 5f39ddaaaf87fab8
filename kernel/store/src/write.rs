//! Writing blocks: where they go, what they are called, and when the maps learn of them.
//!
//! On the walk: above is the public [`Store`](crate::Store), below are the drives. Plan (space, births, tags), wait (the drives), commit (delta
//! and journal record, in one breath).

use alloc::boxed::Box;
use core::ops::Range;

use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::{Span, StoreError};
use crate::delta::{Hole, Point, key};
use crate::grant::Grant;
use crate::layout::{Class, Record, data_tag};
use crate::lineage::Place;
use crate::shared::{FIRST_VOLUME, Shared, State, Tree};
use crate::space::{Run, Shortage};
use crate::tag::Tag;

/// Writers wait while this many bytes of records wait for the journal's writer: the reserve of the ring must hold them.
const WAITING_MAX: usize = 64 << 10;

/// The store flushes by itself after this many blocks, so that recovery verifies a bounded number of them.
const FLUSH_AFTER_BLOCKS: u64 = 16_384;

/// A checkpoint begins when the active deltas are this full.
const CHECKPOINT_AT_PERCENT: usize = 75;

/// A write waits for so many checkpoints at most while what was deleted is taken apart: a drive may not let it go on.
const WAITS_MAX: usize = 64;

/// A write waits for so many checkpoints at most that may let it open another group.
const OPEN_WAITS_MAX: usize = 8;

/// The longest delay of one acknowledgement while a checkpoint falls behind.
const DELAY_MAX_US: u64 = 10_000;

impl<D: Disk> Shared<D> {
    /// Writes `span` from the pages of `from`.
    pub async fn write_span(&self, volume: u64, span: Span, from: Buf) -> Result<(), StoreError> {
        debug_assert_eq!(
            span.blocks(),
            from.blocks(),
            "a buffer of another size than its span"
        );
        let mut tree = self.admit(volume, span.offset, span.len.into())?;
        if span.len == 0 {
            return Ok(());
        }
        let first = span.offset / BLOCK_SIZE as u64;
        let end = first + from.blocks() as u64;
        let turn = self.in_flight.stand(volume, first, end);
        // Whatever is rare is in a box here and below, so that it is no part of each write.
        if turn.is_blocked(self.config.mutants) {
            Box::pin(turn.reached(self.config.mutants)).await;
            // It may have been deleted while this waited, or have got another head.
            tree = self.admit(volume, span.offset, span.len.into())?;
        }
        let result = if span.is_aligned() {
            self.write_blocks(tree, first, from).await
        } else {
            Box::pin(self.write_in_turn((volume, tree), span, from)).await
        };
        match result {
            Err(StoreError::NoSpace) if self.config.mutants.no_space_forgotten() => {}
            result => result?,
        }
        drop(turn);
        if self.percent_behind() > 0 {
            Box::pin(self.throttle()).await;
        }
        Ok(())
    }

    /// Writes a range that is in the in-flight table.
    async fn write_in_turn(
        &self,
        (volume, tree): (u64, u64),
        span: Span,
        from: Buf,
    ) -> Result<(), StoreError> {
        let from = if span.is_aligned() {
            from
        } else {
            self.fill_partial(volume, span, from).await?
        };
        self.write_blocks(tree, span.offset / BLOCK_SIZE as u64, from)
            .await
    }

    /// The head of a volume, if a change of this range is allowed now.
    fn admit(&self, volume: u64, offset: u64, len: u64) -> Result<u64, StoreError> {
        let state = self.state.borrow();
        state.require_serving()?;
        let tree = state.check_range(Place::Volume(volume), offset, len)?;
        Ok(tree.id())
    }

    /// Reads what is around a partial write in its first and last block, so that whole blocks are written.
    async fn fill_partial(
        &self,
        volume: u64,
        span: Span,
        mut from: Buf,
    ) -> Result<Buf, StoreError> {
        let mut place = Place::Volume(volume);
        if self.config.mutants.partial_of_parent() {
            let state = self.state.borrow();
            let parent = state.tree_at(place).and_then(Tree::parent);
            place = parent.map_or(place, Place::Map);
        }
        let lineage = match self.state.borrow().tree_at(place) {
            Some(tree) => tree.entry.lineage_uuid,
            None => return Err(StoreError::NoVolume),
        };
        let block = BLOCK_SIZE as u64;
        let (start, end) = (span.offset, span.offset + u64::from(span.len));
        let first = start / block;
        let last = (end - 1) / block;
        for lba in [Some(first), (last != first).then_some(last)]
            .into_iter()
            .flatten()
        {
            let from_byte = start.max(lba * block) - lba * block;
            let to_byte = end.min((lba + 1) * block) - lba * block;
            if to_byte - from_byte == block {
                continue;
            }
            // Not from the pool: nobody waits for a page while holding one, and the look-up may need one.
            let page = Buf::from_heap(1);
            let (page, result) = self.read_blocks(place, lineage, lba, page).await;
            result?;
            let whole = from.block_mut(usize::try_from(lba - first).unwrap_or(0));
            let range =
                usize::try_from(from_byte).unwrap_or(0)..usize::try_from(to_byte).unwrap_or(0);
            whole[..range.start].copy_from_slice(&page.block(0)[..range.start]);
            whole[range.end..].copy_from_slice(&page.block(0)[range.end..]);
        }
        Ok(from)
    }

    /// Writes whole blocks; the range is in the in-flight table already.
    pub async fn write_blocks(&self, tree: u64, lba: u64, from: Buf) -> Result<(), StoreError> {
        self.write_born(tree, lba, from, None).await
    }

    /// As [`write_blocks`](Self::write_blocks), with births from `first_birth` on for blocks that a base gets.
    pub async fn write_born(
        &self,
        tree: u64,
        lba: u64,
        mut from: Buf,
        first_birth: Option<u64>,
    ) -> Result<(), StoreError> {
        let class = if tree < FIRST_VOLUME {
            Class::Meta
        } else {
            Class::Data
        };
        let count = from.blocks();
        let mut plan = self.plans.take();
        let mut grant = self.grant(count, &mut plan);
        if !self.allocate_at_once(class, &mut grant) {
            Box::pin(self.allocate(class, &mut grant)).await?;
        }
        let birth = {
            let mut state = self.state.borrow_mut();
            let (bias, lineage) = state.birthmark(tree);
            let birth = first_birth.unwrap_or_else(|| state.next_births(count as u64, bias));
            let wrong = self.config.mutants.tag_of_first_block();
            let tags = &mut grant.plan.tags;
            for (index, page) in (0..).zip(from.pages()) {
                let lba = if wrong { lba } else { lba + index };
                tags.push(data_tag(lineage, lba, birth + index, &page.bytes));
            }
            birth
        };
        let record_first = self.config.mutants.record_before_data();
        if !record_first {
            self.write_runs(&grant.plan.runs, core::mem::take(&mut from))
                .await?;
        }
        let early = self.config.mutants.early_reuse();
        let is_gone = || !self.state.borrow().directory.bases.contains(&tree);
        if first_birth.is_some() && is_gone() && !self.config.mutants.fill_after_delete() {
            // Nobody needs it any more.
            return Err(StoreError::NoVolume);
        }
        grant.into_use();
        let (wants_checkpoint, wants_writer) = {
            let mut state = self.state.borrow_mut();
            state.commit_write(tree, lba, &plan.runs, birth, &plan.tags, early);
            self.mark_dirty(&mut state);
            let wants_flush = state.journal.blocks_since_flush >= FLUSH_AFTER_BLOCKS
                && state.flush_wanted <= state.journal.durable;
            if wants_flush {
                state.flush_wanted = state.journal.pushed;
            }
            (
                state.active.fill_percent() >= CHECKPOINT_AT_PERCENT,
                state.has_work_for_writer(),
            )
        };
        if wants_checkpoint {
            self.want_checkpoint();
        }
        if wants_writer {
            self.writer_wanted.notify();
        }
        if record_first {
            self.write_runs(&plan.runs, from).await?;
        }
        self.plans.put(plan);
        Ok(())
    }

    async fn write_runs(&self, runs: &[Run], from: Buf) -> Result<(), StoreError> {
        if let [run] = runs
            && let Some((device, block, true)) = self.first_place(run.addr, from.blocks())
        {
            let (_, result) = self.disks[device].write(block, from).await;
            self.mark_unflushed(device);
            return Ok(result?);
        }
        Box::pin(self.write_pieces(runs, from)).await
    }

    /// Writes what one command cannot.
    async fn write_pieces(&self, runs: &[Run], mut from: Buf) -> Result<(), StoreError> {
        let pieces = runs.iter().map(|run| {
            let rest = from.split_off(run.blocks as usize);
            (run.addr, core::mem::replace(&mut from, rest))
        });
        let pieces: alloc::vec::Vec<(u64, Buf)> = pieces.collect();
        let writes = pieces
            .into_iter()
            .map(|(addr, buf)| self.write_replicas(addr, buf));
        exec::join_all(writes).await.into_iter().collect()
    }

    /// Space for the blocks of a write, and room for their deltas and records, if nothing has to be waited for.
    fn allocate_at_once(&self, class: Class, grant: &mut Grant<'_, D>) -> bool {
        let mut state = self.state.borrow_mut();
        if state.require_serving().is_err()
            || state.active.room() < grant.points + state.reserved_points
            || state.journal.waiting() > WAITING_MAX
        {
            return false;
        }
        grant.reserve(&mut state);
        while grant.missing() > 0 {
            if grant.take_some(class, &mut state).is_err() {
                return false;
            }
        }
        true
    }

    /// Space for the blocks of a write, and room for their deltas and records.
    ///
    /// Waits while a checkpoint can make room; fails only when nothing is on its way.
    async fn allocate(&self, class: Class, grant: &mut Grant<'_, D>) -> Result<(), StoreError> {
        if grant.reserved == 0 {
            self.wait_for_room(grant.points).await?;
            grant.reserve(&mut self.state.borrow_mut());
        }
        let (mut waited, mut waited_to_open) = (0, 0);
        while grant.missing() > 0 {
            let got = {
                let mut state = self.state.borrow_mut();
                state.require_serving()?;
                grant.take_some(class, &mut state)
            };
            match got {
                Ok(()) => {}
                Err(Shortage::Load(group)) => self.load_group(group).await?,
                // A checkpoint closes groups, but not those whose last blocks waiting writes hold, such as this one.
                Err(Shortage::Open) if waited_to_open < OPEN_WAITS_MAX => {
                    self.checkpoint_reached(self.want_checkpoint()).await?;
                    waited_to_open += 1;
                }
                Err(Shortage::Open | Shortage::Full) => {
                    self.wait_for_space(waited).await?;
                    waited += 1;
                }
            }
        }
        Ok(())
    }

    /// Waits until the active deltas and the journal take `count` more blocks.
    async fn wait_for_room(&self, count: usize) -> Result<(), StoreError> {
        loop {
            let (room, waiting) = {
                let state = self.state.borrow();
                state.require_serving()?;
                (
                    state.active.room() >= count + state.reserved_points,
                    state.journal.waiting(),
                )
            };
            if !room {
                self.checkpoint_reached(self.want_checkpoint()).await?;
            } else if waiting > WAITING_MAX {
                self.writer_wanted.notify();
                self.writer_done.wait().await;
            } else {
                return Ok(());
            }
        }
    }

    /// Nothing is free now: waits for a checkpoint if that can free something.
    ///
    /// What one checkpoint frees is available after the next, so after three there is nothing more to hope for, unless deleted
    /// maps are still being taken apart.
    async fn wait_for_space(&self, waited: usize) -> Result<(), StoreError> {
        let has_waste = self.has_waste();
        let (hopeless, pushed) = {
            let state = self.state.borrow();
            let nothing_new = state.is_full();
            let pending = (state.space.has_pending() || state.space.has_trims()) && waited < 3
                || has_waste && waited < WAITS_MAX;
            (nothing_new && !pending, state.journal.pushed)
        };
        if hopeless {
            return Err(StoreError::NoSpace);
        }
        self.checkpoint_reached(self.want_checkpoint()).await?;
        self.state.borrow_mut().full_at = Some(pushed);
        Ok(())
    }

    /// By how much the running checkpoint's merge is behind the filling of the active deltas.
    fn percent_behind(&self) -> usize {
        let state = self.state.borrow();
        if state.frozen.is_empty() {
            return 0;
        }
        state
            .active
            .fill_percent()
            .saturating_sub(state.merge_percent + 10)
    }

    /// Delays the caller while the running checkpoint is behind.
    pub async fn throttle(&self) {
        let behind = self.percent_behind();
        if behind > 0 {
            let micros = DELAY_MAX_US * behind as u64 / 100;
            self.environment
                .exec
                .sleep(core::time::Duration::from_micros(micros))
                .await;
        }
    }
}

impl State {
    /// What is at `place`, if `len` bytes at `offset` are units of 512 bytes within it.
    pub fn check_range(&self, place: Place, offset: u64, len: u64) -> Result<&Tree, StoreError> {
        let tree = self.tree_at(place).ok_or(StoreError::NoVolume)?;
        let end = offset.checked_add(len).ok_or(StoreError::OutOfRange)?;
        let units = offset.is_multiple_of(512) && len.is_multiple_of(512);
        if units && end <= tree.entry.size_bytes.get() {
            Ok(tree)
        } else {
            Err(StoreError::OutOfRange)
        }
    }

    /// What makes births and tags of a map's blocks its own: bias and lineage.
    pub fn birthmark(&self, tree: u64) -> (u64, [u8; 16]) {
        let entry = self.trees.get(&tree).map(|tree| &tree.entry);
        entry.map_or_else(Default::default, |entry| {
            (entry.epoch_bias.get(), entry.lineage_uuid)
        })
    }

    pub fn epoch_bias(&self, tree: u64) -> u64 {
        self.trees
            .get(&tree)
            .map_or(0, |tree| tree.entry.epoch_bias.get())
    }

    /// Tells the journal of groups that were put to use, before any record that names their blocks.
    pub fn journal_new_groups(&mut self) {
        for group in core::mem::take(&mut self.space.new_groups) {
            if let Some(entry) = self.space.entry(group).copied()
                && !self.mutants.group_not_journalled()
            {
                self.journal
                    .push(|out| Record::push_group(out, group, &entry));
            }
        }
    }

    /// The data is on the drives: from now on reads find it.
    fn commit_write(
        &mut self,
        tree: u64,
        lba: u64,
        runs: &[Run],
        birth: u64,
        tags: &[Tag],
        early_reuse: bool,
    ) {
        self.changed[0].insert(tree);
        let mut done = 0;
        for run in runs {
            let count = run.blocks as usize;
            let tags = &tags[done..done + count];
            let (lba, birth) = (lba + done as u64, birth + done as u64);
            for (index, tag) in (0..).zip(tags) {
                let point = Point {
                    key: key(tree, lba + index),
                    addr: run.addr + index,
                    birth: birth + index,
                    tag: *tag,
                };
                if let Some(old) = self.active.insert(point) {
                    self.space.supersede(old, early_reuse);
                }
            }
            self.journal
                .push(|out| Record::push_write(out, (tree, lba), run.addr, birth, tags));
            done += count;
        }
        self.journal.blocks_since_flush += done as u64;
    }
}

impl<D: Disk> Shared<D> {
    /// Turns a range into a hole; partial blocks at its ends are written with zeros.
    pub async fn discard(&self, volume: u64, offset: u64, len: u64) -> Result<(), StoreError> {
        self.admit(volume, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let block = BLOCK_SIZE as u64;
        let end = offset + len;
        let touched = (offset / block, end.div_ceil(block));
        let turn = self
            .in_flight
            .enter(volume, touched.0, touched.1, self.config.mutants)
            .await;
        let tree = self.admit(volume, offset, len)?;
        let (first, last) = (offset.div_ceil(block), end / block);
        // The whole blocks first: that needs no space, and may free what the ends need.
        if first < last {
            self.punch(tree, first, last).await?;
        }
        let head = offset..end.min(first * block);
        let tail = (last * block).max(head.end)..end;
        for part in [head, tail] {
            if part.start < part.end && !self.is_hole(volume, part.start / block).await? {
                let len = u32::try_from(part.end - part.start).unwrap_or(0);
                // Not from the pool: the journal needs pages before this write may go on.
                let zeros = Buf::from_heap(1);
                self.write_in_turn(
                    (volume, tree),
                    Span {
                        offset: part.start,
                        len,
                    },
                    zeros,
                )
                .await?;
            }
        }
        drop(turn);
        self.throttle().await;
        Ok(())
    }

    /// Whether a block reads as zeros already and uses no space.
    async fn is_hole(&self, volume: u64, lba: u64) -> Result<bool, StoreError> {
        let pointers = self.lookup(Place::Volume(volume), lba, 1).await?;
        Ok(pointers[0].is_hole())
    }

    /// Makes a hole of whole blocks; they are in the in-flight table.
    pub async fn punch(&self, tree: u64, first: u64, last: u64) -> Result<(), StoreError> {
        self.wait_for_hole_room().await?;
        let state = &mut *self.state.borrow_mut();
        let bias = state.epoch_bias(tree);
        let birth = state.next_births(1, bias);
        self.commit_hole(state, tree, first..last, birth);
        Ok(())
    }

    /// Waits until deltas, journal and maps take another hole.
    pub async fn wait_for_hole_room(&self) -> Result<(), StoreError> {
        let mut waited = 0;
        loop {
            self.wait_for_room(0).await?;
            let (has_room, is_short) = {
                let state = self.state.borrow();
                // What a drive keeps from being taken apart is nothing to wait for.
                let is_behind = state.reclaim.is_long() && !state.is_stalled;
                let has_room = state.active.has_hole_room() && !is_behind;
                (has_room, state.is_short_of_nodes(2))
            };
            if is_short {
                self.wait_for_space(waited).await?;
                waited += 1;
            } else if has_room {
                return Ok(());
            } else {
                self.checkpoint_reached(self.want_checkpoint()).await?;
            }
        }
    }

    /// The maps learn of a hole, and the journal.
    pub fn commit_hole(&self, state: &mut State, tree: u64, blocks: Range<u64>, birth: u64) {
        let Range { start, end } = blocks;
        state.changed[0].insert(tree);
        state.active.insert_hole(Hole {
            start: key(tree, start),
            end: key(tree, end),
            birth,
        });
        if !self.config.mutants.discard_not_journalled() {
            state
                .journal
                .push(|out| Record::push_hole(out, (tree, start), end - start, birth));
        }
        self.mark_dirty(state);
        self.writer_wanted.notify();
    }
}
