//! Which parts of a volume hold data, and which changed since a snapshot, as they are now: what the maps say, and what memory
//! says on top of them.
//!
//! The maps are walked as a difference is ([`lockstep`](crate::lockstep)): a part in which they agree is one step, however large. Deltas
//! lie in no order, so one pass over them makes a [`Sketch`] of where they are; only there single blocks are looked at.
//!
//! Words: the **gap** is what lies before the next leaves that differ. A **view** is what a walk may rely on until the next
//! checkpoint moves deltas into the maps; then it takes a new one and goes on where it is.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use world::{BLOCK_SIZE, Disk};

use crate::api::{Content, Extent, SnapshotId, Source, StoreError};
use crate::delta::{DeltaTable, key, split_key};
use crate::diff::{is_difference, root_of};
use crate::layout::{FAN, Kind, Pointer};
use crate::lineage::{Layers, Place};
use crate::lockstep::{Leaves, Root};
use crate::shared::{Shared, State};
use crate::store::Store;

/// One answer takes so many steps at most; a step is a leaf, its search, or 128 blocks of a gap.
const STEPS_MAX: usize = 8192;
/// Deltas that are looked at before others have a turn.
const POINTS_A_BREATH: usize = 16 << 10;
/// How often a pass over the deltas begins again because a checkpoint moved them; the next one lets nobody between.
const PASSES_MAX: usize = 4;
/// Parts of a large range that are looked at closely, each with a pass of its own.
const FINE_SKETCHES_MAX: usize = 16;
/// A range with fewer blocks than this part of the deltas is looked at block by block, without a sketch.
const LOOKUPS_A_POINT: u64 = 8;

impl<D: Disk + 'static> Store<D> {
    /// What `len` bytes at `start` are now, compared with a snapshot or with nothing: 1 to `max` extents, which may end earlier.
    ///
    /// # Errors
    /// No such volume or snapshot (any more), a wrong range, a failing drive, or damaged maps.
    pub async fn extents(
        &self,
        from: Option<SnapshotId>,
        of: impl Into<Source>,
        start: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, StoreError> {
        self.shared.extents(from, of.into(), start, len, max).await
    }

    /// What `len` bytes at `start` are now, compared with what was adopted: as [`extents`](Self::extents). What was never changed here is
    /// the same, whether it has arrived or not.
    ///
    /// # Errors
    /// As [`extents`](Self::extents).
    pub async fn extents_since_adoption(
        &self,
        of: impl Into<Source>,
        start: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, StoreError> {
        let to = self.shared.place_to_walk(of.into(), start, len)?;
        let mut list = List::new(start, len, max);
        self.shared
            .walk(Question { from: None, to }, &mut list)
            .await?;
        let mut answer = List::new(start, len, max);
        for Part { len, content, base } in list.parts {
            let content = match (base, content) {
                (0, Content::Data) => Content::Data,
                (0, _) => Content::Zero,
                _ => Content::Same,
            };
            answer.add((answer.at + len).div_ceil(BLOCK_SIZE as u64), content);
        }
        Ok(answer.extents())
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Question {
    from: Option<Place>,
    to: Place,
}

impl<D: Disk + 'static> Shared<D> {
    /// Costs reads in proportion to the leaves that differ, a pass over the deltas, and a checkpoint if `from` was only just made.
    pub async fn extents(
        &self,
        from: Option<SnapshotId>,
        to: Source,
        start: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, StoreError> {
        let to = self.place_to_walk(to, start, len)?;
        let from = from.map(|from| self.place_of(from.into())).transpose()?;
        if let Some(from) = from {
            // What was written before the snapshot must be in its map, not among what was written since.
            self.settle(from, false).await?;
        }
        let mut list = List::new(start, len, max);
        self.walk(Question { from, to }, &mut list).await?;
        let mut answer = List::new(start, len, max);
        for Part { len, content, base } in list.parts {
            let end = answer.at + len;
            match base {
                0 => answer.add(end.div_ceil(BLOCK_SIZE as u64), content),
                base => self.ask_base(base, end, &mut answer).await?,
            }
            if answer.at < end {
                break;
            }
        }
        Ok(answer.extents())
    }

    fn place_to_walk(&self, of: Source, start: u64, len: u64) -> Result<Place, StoreError> {
        let place = self.place_of(of)?;
        let state = self.state.borrow();
        state.require_open()?;
        state.check_range(place, start, len)?;
        Ok(place)
    }

    /// What a base has, up to byte `end`, goes into the answer. What it does not know counts as data.
    async fn ask_base(&self, base: u64, end: u64, answer: &mut List) -> Result<(), StoreError> {
        let mut list = List::new(answer.at, end - answer.at, answer.max);
        let to = Place::Map(base);
        // Before the walk, since it grows: what the walk finds absent may arrive and then be known.
        let (known, blocks) = {
            let state = self.state.borrow();
            let tree = state.tree_at(to);
            tree.map_or((0, u64::MAX), |tree| (tree.known(), tree.blocks()))
        };
        self.walk(Question { from: None, to }, &mut list).await?;
        for part in list.parts {
            let end = (answer.at + part.len).div_ceil(BLOCK_SIZE as u64);
            if part.content == Content::Data {
                answer.add(end, Content::Data);
            } else {
                answer.add(end.min(known), Content::Same);
                answer.add(end.min(blocks), Content::Data);
                answer.add(end, Content::Same);
            }
        }
        Ok(())
    }

    async fn walk(&self, question: Question, list: &mut List) -> Result<(), StoreError> {
        let end = list.end.div_ceil(BLOCK_SIZE as u64);
        let mut view = self.view(question, list.block()..end).await?;
        let mut found: Option<Found> = None;
        let mut fine_sketches = 0;
        for _ in 0..STEPS_MAX {
            let at = list.block();
            if list.is_complete() {
                return Ok(());
            }
            if self.state.borrow().checkpoints_done != view.checkpoint {
                view = self.view(question, at..end).await?;
                found = None;
                continue;
            }
            let Some(next) = found.as_ref().filter(|found| at < found.end) else {
                let wanted = |pair: [&Pointer; 2], end| self.is_wanted(&view, pair, at..end);
                let leaves = self.next_leaves(view.roots, at, wanted).await;
                if self.state.borrow().checkpoints_done == view.checkpoint {
                    found = Some(Found::new(leaves?, at, end));
                }
                continue;
            };
            let doubt = {
                let state = self.state.borrow();
                match &next.leaves {
                    Some(leaves) if at >= leaves.first => {
                        view.inspect(&state, leaves, at..next.end, list);
                        None
                    }
                    _ => view.cross(&state, at..next.gap_end, list),
                }
            };
            if let Some(part) = doubt {
                fine_sketches += 1;
                if fine_sketches > FINE_SKETCHES_MAX && !list.parts.is_empty() {
                    return Ok(());
                }
                view.fine = Some(self.sketch(&view.layers, part).await);
            }
            self.environment.exec.yield_now().await;
        }
        if list.parts.is_empty() {
            // Checkpoints followed each other faster than this walk: what is not known counts as data.
            let block = list.block();
            list.add(block + 1, Content::Data);
        }
        Ok(())
    }

    async fn view(&self, question: Question, range: Range<u64>) -> Result<View, StoreError> {
        let (roots, layers, checkpoint) = {
            let state = self.state.borrow();
            let tree = state.tree_at(question.to).ok_or(question.to.missing())?;
            let layers = state.layers(tree.id());
            let last = layers.last().and_then(|last| state.trees.get(last));
            let old = match question.from {
                Some(from) => root_of(state.tree_at(from).ok_or(from.missing())?),
                None => Root::default(),
            };
            let roots = [old, last.map_or_else(Root::default, root_of)];
            (roots, layers, state.checkpoints_done)
        };
        Ok(View {
            compares: question.from.is_some(),
            roots,
            coarse: self.sketch(&layers, range).await,
            fine: None,
            layers,
            checkpoint,
        })
    }

    /// Whether leaves below a pair, whose range ends where `range` does, have to be looked at.
    fn is_wanted(&self, view: &View, [old, new]: [&Pointer; 2], range: Range<u64>) -> bool {
        // What was discarded since is a change where the older one has data, even if both maps agree.
        is_difference(old, new)
            || (!old.is_hole() && view.has_holes(&self.state.borrow(), range.start..range.end))
    }

    /// Looks through the deltas for those of `layers` in `range`.
    async fn sketch(&self, layers: &Layers, range: Range<u64>) -> Sketch {
        let mut sketch = Sketch::new(range);
        let mut passes = 0;
        let (mut begun, mut next) = (None, 0);
        loop {
            {
                let state = self.state.borrow();
                let points = state.frozen.points().len() + state.active.points().len();
                if sketch.blocks() < points as u64 / LOOKUPS_A_POINT {
                    sketch.suspect_all();
                    return sketch;
                }
                let now = (state.checkpoints_begun, state.checkpoints_done);
                if begun != Some(now) {
                    (begun, next) = (Some(now), 0);
                    passes += 1;
                }
                let breath = match passes {
                    ..=PASSES_MAX => POINTS_A_BREATH,
                    _ => points,
                };
                let all = state.frozen.points().iter().chain(state.active.points());
                for point in all.skip(next).take(breath) {
                    let (tree, lba) = split_key(point.key);
                    if layers.contains(&tree) {
                        sketch.mark(lba);
                    }
                }
                next += breath;
                if next >= points {
                    return sketch;
                }
            }
            self.environment.exec.yield_now().await;
        }
    }
}

/// The next leaves that differ, and the gap before them.
struct Found {
    gap_end: u64,
    leaves: Option<Leaves>,
    /// End of the leaves, or of the gap if there are none.
    end: u64,
}

impl Found {
    fn new(leaves: Option<Leaves>, at: u64, end: u64) -> Self {
        let first = leaves.as_ref().map_or(end, |leaves| leaves.first);
        let last = leaves.as_ref().map_or(end, |_| first + FAN as u64);
        Self {
            gap_end: first.clamp(at, end),
            leaves,
            end: last.min(end),
        }
    }
}

/// What a walk relies on.
struct View {
    /// Whether it is asked for changes.
    compares: bool,
    roots: [Root; 2],
    layers: Layers,
    /// Checkpoints that were done: as long as there is no other one, the maps are these and the deltas only grow.
    checkpoint: u64,
    coarse: Sketch,
    /// Of one part of the coarse one.
    fine: Option<Sketch>,
}

impl View {
    /// Goes on within a gap: everything there is as before but for deltas. Returns a part that needs a finer sketch.
    fn cross(&self, state: &State, gap: Range<u64>, list: &mut List) -> Option<Range<u64>> {
        let fine = self.fine.as_ref();
        let sketch = fine.filter(|fine| fine.range.contains(&gap.start));
        let sketch = sketch.unwrap_or(&self.coarse);
        let end = gap.end.min(sketch.range.end);
        let part = sketch.next_part(gap.start, end);
        list.add(part.start, Content::Same);
        if part.is_empty() {
            return None;
        }
        if sketch.shift > LEAF_SHIFT {
            return Some(part);
        }
        for lba in part {
            let content = match self.delta(state, lba) {
                Some(delta) if !delta.is_hole() => Content::Data,
                _ => Content::Same,
            };
            list.add(lba + 1, content);
        }
        None
    }

    /// Goes on within leaves.
    fn inspect(&self, state: &State, leaves: &Leaves, range: Range<u64>, list: &mut List) {
        let has_deltas =
            self.coarse.is_marked(range.start) || self.has_holes(state, range.start..range.end);
        for lba in range {
            let [old, new] = leaves.pair(usize::try_from(lba - leaves.first).unwrap_or(0));
            let delta = match has_deltas {
                true => self.delta(state, lba),
                false => None,
            };
            let [old, new] =
                [old, delta.unwrap_or(new)].map(|pointer| state.within_origin(pointer, lba));
            let content = match new.is_hole() {
                _ if !is_difference(&old, &new) => Content::Same,
                true => Content::Zero,
                false => Content::Data,
            };
            match new.kind() {
                Kind::Remote if !self.compares => list.add_remote(lba + 1, new.addr()),
                _ => list.add(lba + 1, content),
            }
        }
    }

    fn delta(&self, state: &State, lba: u64) -> Option<Pointer> {
        let mut layers = self.layers.iter();
        layers.find_map(|tree| state.find_delta(key(*tree, lba)))
    }

    fn has_holes(&self, state: &State, range: Range<u64>) -> bool {
        self.layers.iter().any(|tree| {
            let [start, end] = [range.start, range.end].map(|lba| key(*tree, lba));
            [&state.active, &state.frozen]
                .iter()
                .any(|table| has_hole_in(table, start, end))
        })
    }
}

fn has_hole_in(table: &DeltaTable, start: u64, end: u64) -> bool {
    let holes = table.holes();
    let first = holes.partition_point(|hole| hole.end <= start);
    holes.get(first).is_some_and(|hole| hole.start < end)
}

/// log2 of the blocks of a leaf.
const LEAF_SHIFT: u32 = FAN.trailing_zeros();
const WORDS: usize = 512;
const PARTS_MAX: u64 = WORDS as u64 * 64;

/// In which parts of a range deltas may be. A part is a leaf, or more if the range is larger than 16 GiB.
struct Sketch {
    range: Range<u64>,
    /// log2 of the blocks of a part.
    shift: u32,
    /// The first part.
    first: u64,
    marks: Box<[u64; WORDS]>,
}

impl Sketch {
    fn new(range: Range<u64>) -> Self {
        let parts = |shift: u32| (range.end >> shift) - (range.start >> shift) + 1;
        let mut shift = LEAF_SHIFT;
        while parts(shift) > PARTS_MAX {
            shift += 1;
        }
        Self {
            first: range.start >> shift,
            range,
            shift,
            marks: Box::new([0; WORDS]),
        }
    }

    fn blocks(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn mark(&mut self, lba: u64) {
        if self.range.contains(&lba) {
            let (word, bit) = self.place(lba);
            self.marks[word] |= bit;
        }
    }

    fn suspect_all(&mut self) {
        self.marks.fill(u64::MAX);
    }

    fn is_marked(&self, lba: u64) -> bool {
        let (word, bit) = self.place(lba);
        self.marks[word] & bit != 0
    }

    fn place(&self, lba: u64) -> (usize, u64) {
        let part = (lba >> self.shift) - self.first;
        ((part / 64) as usize, 1 << (part % 64))
    }

    /// What of the first marked part from `at` on is before `end`; nothing, at `end`, when there is none.
    fn next_part(&self, at: u64, end: u64) -> Range<u64> {
        let mut lba = at;
        while lba < end {
            let (word, bit) = self.place(lba);
            let rest = self.marks[word] & !(bit - 1);
            let part = (lba >> self.shift) - self.first;
            if rest == 0 {
                lba = (self.first + (part / 64 + 1) * 64) << self.shift;
                continue;
            }
            let part = self.first + part / 64 * 64 + u64::from(rest.trailing_zeros());
            let start = (part << self.shift).max(at);
            return start.min(end)..((part + 1) << self.shift).min(end);
        }
        end..end
    }
}

/// A run of blocks of one kind.
struct Part {
    len: u64,
    content: Content,
    /// The base that knows more; 0: none.
    base: u64,
}

/// The answer as far as it goes.
struct List {
    parts: Vec<Part>,
    max: usize,
    /// End of the last extent, in bytes.
    at: u64,
    end: u64,
    is_full: bool,
}

impl List {
    fn new(start: u64, len: u64, max: usize) -> Self {
        Self {
            parts: Vec::new(),
            max: max.max(1),
            at: start,
            end: start + len,
            is_full: false,
        }
    }

    /// The block to go on with.
    fn block(&self) -> u64 {
        self.at / BLOCK_SIZE as u64
    }

    fn is_complete(&self) -> bool {
        self.is_full || self.at >= self.end
    }

    /// Adds what lies before block `until`; nothing more once there is no room for another extent.
    fn add(&mut self, until: u64, content: Content) {
        self.add_part(until, content, 0);
    }

    /// As [`add`](Self::add), for what a base has or has not.
    fn add_remote(&mut self, until: u64, base: u64) {
        self.add_part(until, Content::Data, base);
    }

    fn extents(self) -> Vec<Extent> {
        let parts = self.parts.into_iter();
        parts
            .map(|Part { len, content, .. }| Extent { len, content })
            .collect()
    }

    fn add_part(&mut self, until: u64, content: Content, base: u64) {
        let until = (until * BLOCK_SIZE as u64).min(self.end);
        if self.is_full || until <= self.at {
            return;
        }
        let len = until - self.at;
        let has_room = self.parts.len() < self.max;
        match self.parts.last_mut() {
            Some(last) if (last.content, last.base) == (content, base) => last.len += len,
            _ if has_room => self.parts.push(Part { len, content, base }),
            _ => {
                self.is_full = true;
                return;
            }
        }
        self.at = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_finds_its_marks_whatever_the_range() {
        for range in [
            0..1,
            5..130,
            1000..1 << 20,
            77..PARTS_MAX * 128 + 77,
            12345..1 << 35,
        ] {
            let mut sketch = Sketch::new(range.clone());
            let blocks = range.end - range.start;
            let marks = [0, 1, blocks / 3, blocks / 2, blocks - 1].map(|at| range.start + at);
            for lba in marks {
                if lba < range.end {
                    sketch.mark(lba);
                }
            }
            sketch.mark(range.end);
            let mut at = range.start;
            let mut seen = Vec::new();
            while at < range.end {
                let part = sketch.next_part(at, range.end);
                assert!(part.is_empty() || (part.start >= at && part.end <= range.end));
                assert!(part.is_empty() || sketch.is_marked(part.start));
                seen.push(part.clone());
                at = part.end;
            }
            for lba in marks.into_iter().filter(|lba| *lba < range.end) {
                assert!(
                    seen.iter().any(|part| part.contains(&lba)),
                    "{lba} of {range:?}"
                );
            }
            assert!(seen.len() <= marks.len() + 1);
        }
    }

    #[test]
    fn a_list_joins_what_is_alike_and_ends_where_it_is_full() {
        let mut list = List::new(512, 8 * 4096, 2);
        list.add(1, Content::Same);
        list.add(2, Content::Same);
        list.add(3, Content::Data);
        list.add(4, Content::Zero);
        list.add(5, Content::Data);
        let extent = |len, content| Extent { len, content };
        let expected = [
            extent(2 * 4096 - 512, Content::Same),
            extent(4096, Content::Data),
        ];
        assert!(list.is_complete());
        assert_eq!(list.extents(), expected);
        let mut list = List::new(512, 1024, 9);
        list.add(100, Content::Data);
        assert!(list.is_complete());
        assert_eq!(list.extents(), [extent(1024, Content::Data)]);
    }
}
