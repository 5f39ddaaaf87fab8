//! What a write holds before it has written: places for its blocks, and room for what is to be noted of them.

use world::Buf;

use crate::layout::Class;
use crate::shared::{Shared, State};
use crate::space::{Runs, Shortage};
use crate::tag::Tag;

/// Writes leave room in the maps for discards of this many single blocks, so that those work when the pool is full.
const HOLE_MARGIN: u64 = 128;

type Tags = arrayvec::ArrayVec<Tag, { Buf::PAGES_MAX }>;

impl<D> Shared<D> {
    /// Nothing yet, but the right to it.
    pub fn grant<'a>(&'a self, points: usize, plan: &'a mut Plan) -> Grant<'a, D> {
        plan.runs.clear();
        plan.tags.clear();
        Grant {
            shared: self,
            plan,
            is_used: false,
            points,
            reserved: 0,
            granted: 0,
        }
    }
}

/// Where the blocks of one write go, and their tags.
#[derive(Default)]
pub struct Plan {
    pub runs: Runs,
    pub tags: Tags,
}

/// Space and delta room of one write; what was not made use of goes back when this is dropped.
pub struct Grant<'a, D> {
    shared: &'a Shared<D>,
    pub plan: &'a mut Plan,
    is_used: bool,
    /// Blocks of the write.
    pub points: usize,
    /// How many of them the deltas have room for: all or none.
    pub reserved: usize,
    /// How many of them the maps have room for.
    granted: usize,
}

impl<D> Grant<'_, D> {
    /// Keeps room in the deltas.
    pub fn reserve(&mut self, state: &mut State) {
        self.reserved = self.points;
        state.reserved_points += self.points;
    }

    /// Blocks without a place.
    pub fn missing(&self) -> u32 {
        let placed: u32 = self.plan.runs.iter().map(|run| run.blocks).sum();
        u32::try_from(self.points).unwrap_or(u32::MAX) - placed
    }

    /// Finds places for some blocks more.
    pub fn take_some(&mut self, class: Class, state: &mut State) -> Result<(), Shortage> {
        let more = (self.points - self.granted) as u64;
        if class == Class::Data && state.is_short_of_nodes(HOLE_MARGIN + more) {
            return Err(Shortage::Full);
        }
        self.granted = self.points;
        state.granted_points += more as usize;
        let missing = self.missing();
        let got = state.space.allocate(class, missing, &mut self.plan.runs);
        state.journal_new_groups();
        got.map(|_| ())
    }

    /// The blocks have data now; their changes take the room in deltas and maps, in the same breath.
    pub fn into_use(mut self) {
        self.is_used = true;
    }
}

impl<D> Drop for Grant<'_, D> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        if !self.is_used {
            let runs = self.plan.runs.iter();
            runs.for_each(|run| state.space.give_back(*run));
        }
        state.reserved_points -= self.reserved;
        state.granted_points -= self.granted;
    }
}
