//! The frozen deltas in the order of the maps.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use world::Disk;

use crate::api::StoreError;
use crate::delta::{key, split_key};
use crate::layout::Pointer;
use crate::shared::Shared;
use crate::update::Update;

/// Points sorted at a time; other tasks get a turn in between.
const RUN: usize = 1024;

/// Points merged between turns of other tasks.
const POINTS_PER_TURN: usize = 64;

/// Walks the frozen table in ascending order: runs are sorted one by one, then merged as they are consumed.
pub struct Changes {
    /// Indices of points, in sorted runs.
    order: Vec<u32>,
    /// The first point of each run that is not consumed: key, place in `order`, end of the run.
    heads: BinaryHeap<Reverse<(u64, usize, usize)>>,
    next_hole: usize,
    consumed: usize,
}

impl Changes {
    /// Sorts the frozen points.
    pub async fn sorted<D: Disk>(shared: &Shared<D>) -> Self {
        let count = shared.state.borrow().frozen.points().len();
        let mut order: Vec<u32> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        let mut heads = BinaryHeap::with_capacity(count.div_ceil(RUN));
        for start in (0..count).step_by(RUN) {
            let end = (start + RUN).min(count);
            {
                let state = shared.state.borrow();
                let points = state.frozen.points();
                order[start..end].sort_unstable_by_key(|index| points[*index as usize].key);
                heads.push(Reverse((points[order[start] as usize].key, start, end)));
            }
            shared.environment.exec.yield_now().await;
        }
        Self {
            order,
            heads,
            next_hole: 0,
            consumed: 0,
        }
    }

    /// The key of the next point.
    fn peek(&self) -> Option<u64> {
        self.heads.peek().map(|Reverse((key, ..))| *key)
    }

    /// Consumes the next point: its index in the frozen table.
    fn pop<D>(&mut self, shared: &Shared<D>) -> Option<usize> {
        let Reverse((_, at, end)) = self.heads.pop()?;
        let index = self.order[at] as usize;
        let state = &mut *shared.state.borrow_mut();
        let points = state.frozen.points();
        if at + 1 < end {
            let key = points[self.order[at + 1] as usize].key;
            self.heads.push(Reverse((key, at + 1, end)));
        }
        self.consumed += 1;
        state.merge_percent = self.consumed * 100 / points.len();
        Some(index)
    }

    /// The next tree with changes.
    pub fn next_tree<D>(&self, shared: &Shared<D>) -> Option<u64> {
        let state = shared.state.borrow();
        let hole = state
            .frozen
            .holes()
            .get(self.next_hole)
            .map(|hole| hole.start);
        let next = self.peek().into_iter().chain(hole).min()?;
        Some(split_key(next).0)
    }

    /// Consumes the changes of a tree that is gone: its blocks are in no map.
    pub fn drop_tree<D>(&mut self, shared: &Shared<D>, tree: u64) {
        while self.peek().is_some_and(|key| split_key(key).0 == tree) {
            self.discard_point(shared);
        }
        let state = shared.state.borrow();
        let holes = &state.frozen.holes()[self.next_hole..];
        self.next_hole += holes
            .iter()
            .take_while(|hole| split_key(hole.start).0 == tree)
            .count();
    }

    /// Consumes a point that a hole replaced, or whose tree is gone.
    fn discard_point<D>(&mut self, shared: &Shared<D>) {
        if let Some(index) = self.pop(shared) {
            let state = &mut *shared.state.borrow_mut();
            let addr = state.frozen.points()[index].addr;
            state.space.superseded_frozen.push(addr);
        }
    }

    /// Applies all changes of `tree`.
    pub async fn merge_tree<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        tree: u64,
        update: &mut Update<'_, D>,
    ) -> Result<(), StoreError> {
        loop {
            let hole = {
                let state = shared.state.borrow();
                let hole = state.frozen.holes().get(self.next_hole).copied();
                hole.filter(|hole| split_key(hole.start).0 == tree)
            };
            let Some(hole) = hole else { break };
            self.next_hole += 1;
            self.points_below(shared, update, hole.start).await?;
            let mut at = hole.start;
            while at < hole.end {
                let point = self.peek().filter(|key| *key < hole.end);
                if point == Some(at) {
                    let wins = shared.config.mutants.hole_loses();
                    if self.birth_of_next(shared) > hole.birth || wins {
                        self.point(shared, update).await?;
                        at += 1;
                        continue;
                    }
                    self.discard_point(shared);
                }
                let end = self.peek().map_or(hole.end, |key| key.min(hole.end));
                let lba = split_key(at).1;
                let next = update.erase(lba, lba + (end - at), hole.birth).await?;
                at += next - lba;
            }
        }
        self.points_below(shared, update, key(tree + 1, 0)).await
    }

    fn birth_of_next<D>(&self, shared: &Shared<D>) -> u64 {
        let state = shared.state.borrow();
        let next = self
            .heads
            .peek()
            .map(|Reverse((_, at, _))| self.order[*at] as usize);
        next.map_or(0, |index| state.frozen.points()[index].birth)
    }

    async fn points_below<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        update: &mut Update<'_, D>,
        end: u64,
    ) -> Result<(), StoreError> {
        while self.peek().is_some_and(|key| key < end) {
            self.point(shared, update).await?;
        }
        Ok(())
    }

    async fn point<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        update: &mut Update<'_, D>,
    ) -> Result<(), StoreError> {
        let Some(index) = self.pop(shared) else {
            return Ok(());
        };
        let point = shared.state.borrow().frozen.points()[index];
        let pointer = Pointer::data(point.addr, point.birth, point.tag);
        shared.state.borrow_mut().space.settle(point.addr);
        update.set(split_key(point.key).1, pointer).await?;
        if self.consumed.is_multiple_of(POINTS_PER_TURN) {
            shared.environment.exec.yield_now().await;
        }
        Ok(())
    }
}
