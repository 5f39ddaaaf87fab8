//! The frozen deltas in the order of the maps.

use alloc::collections::BinaryHeap;
use alloc::collections::binary_heap::PeekMut;
use alloc::vec::Vec;
use core::cmp::Reverse;

use world::Disk;

use crate::api::StoreError;
use crate::delta::{Point, key, split_key};
use crate::layout::{FAN, Pointer};
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
        let mut order: Vec<u32> = Vec::with_capacity(count);
        let mut heads = BinaryHeap::with_capacity(count.div_ceil(RUN));
        // Keys beside indices: a comparison that has to look a point up costs twice as much.
        let mut run: Vec<(u64, u32)> = Vec::with_capacity(RUN);
        for start in (0..count).step_by(RUN) {
            let end = (start + RUN).min(count);
            {
                let state = shared.state.borrow();
                let points = &state.frozen.points()[start..end];
                let first = u32::try_from(start).unwrap_or(u32::MAX);
                run.clear();
                run.extend(points.iter().map(|point| point.key).zip(first..));
            }
            run.sort_unstable_by_key(|(key, _)| *key);
            heads.push(Reverse((run[0].0, start, end)));
            order.extend(run.iter().map(|(_, index)| index));
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

    /// Consumes the next point, if its key is below `end`.
    fn pop_below(&mut self, end: u64, points: &[Point]) -> Option<Point> {
        let mut head = self.heads.peek_mut()?;
        let Reverse((key, at, run_end)) = *head;
        if key >= end {
            return None;
        }
        if at + 1 < run_end {
            let key = points[self.order[at + 1] as usize].key;
            *head = Reverse((key, at + 1, run_end));
        } else {
            PeekMut::pop(head);
        }
        self.consumed += 1;
        Some(points[self.order[at] as usize])
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
        let state = &mut *shared.state.borrow_mut();
        if let Some(point) = self.pop_below(u64::MAX, state.frozen.points()) {
            state.space.superseded_frozen.push(point.addr);
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
                        self.points_of_leaf(shared, update, at + 1).await?;
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
            self.points_of_leaf(shared, update, end).await?;
        }
        Ok(())
    }

    /// Applies the next point, and those behind it that are in the same leaf and below `end`.
    async fn points_of_leaf<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        update: &mut Update<'_, D>,
        end: u64,
    ) -> Result<(), StoreError> {
        let Some(next) = self.peek() else {
            return Ok(());
        };
        let birth = self.birth_of_next(shared);
        update.reach_leaf(split_key(next).1, birth).await?;
        let before = self.consumed / POINTS_PER_TURN;
        {
            let state = &mut *shared.state.borrow_mut();
            let end = end.min((next / FAN as u64 + 1) * FAN as u64);
            let points = state.frozen.points();
            while let Some(point) = self.pop_below(end, points) {
                let pointer = Pointer::data(point.addr, point.birth, point.tag);
                state.space.settle(point.addr);
                update.set_in_leaf(&mut state.space, split_key(point.key).1, pointer)?;
            }
            state.merge_percent = self.consumed * 100 / points.len();
        }
        if self.consumed / POINTS_PER_TURN > before {
            shared.environment.exec.yield_now().await;
        }
        Ok(())
    }
}
