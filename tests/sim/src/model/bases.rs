//! What arrived of origins: what must be here, what may be, and for how long a base stays.
//!
//! A fill that was acknowledged is here until the power fails, and for good when a flush came after it. What nobody
//! asked for is not here; reads of it are refused, and so are writes that need it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use store::{BaseId, BaseInfo, StoreError, VolumeInfo};
use world::BLOCK_SIZE;

use super::history::Sight;
use super::origin::{ORIGIN, Origin};
use super::verdict::Verdict;
use super::{Existence, Model, Tick, Trust};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What arrived of one origin.
#[derive(Clone, Debug)]
pub struct Base {
    pub id: Option<BaseId>,
    pub origin: Origin,
    /// Blocks that arrived, or may have.
    fills: BTreeMap<u64, Fill>,
    /// Acknowledged and not promised: end and block.
    unflushed: VecDeque<(Tick, u64)>,
    /// All before this block has arrived.
    pub known: u64,
    /// The part of that which a flush promised.
    durable_known: u64,
    /// When more became known, since: tick and block.
    learned: VecDeque<(Tick, u64)>,
    /// What nobody needs may be gone.
    pub is_swept: bool,
}

/// A block that arrived, or may have.
#[derive(Clone, Copy, Debug)]
struct Fill {
    /// When the first that may have brought it began.
    begun: Tick,
    /// When the first that did was answered.
    ended: Option<Tick>,
    /// It is here, for certain, until the power fails.
    is_here: bool,
    /// And after that.
    is_durable: bool,
    /// What may have brought it: data, or the word that it is zeros.
    as_data: bool,
    as_zeros: bool,
}

/// Blocks on their way into a base.
#[derive(Debug)]
pub struct Filling {
    lineage: u64,
    blocks: Range<u64>,
    /// Nobody needed the base any more when it began.
    was_gone: bool,
}

impl Base {
    pub(super) fn new(origin: Origin) -> Self {
        Self {
            id: None,
            origin,
            fills: BTreeMap::new(),
            unflushed: VecDeque::new(),
            known: 0,
            durable_known: 0,
            learned: VecDeque::new(),
            is_swept: false,
        }
    }

    /// Whether a block is here for certain.
    pub fn is_here(&self, block: u64) -> bool {
        let filled = || self.fills.get(&block).is_some_and(|fill| fill.is_here);
        block < self.known || block >= self.origin.blocks() || filled()
    }

    /// Somebody saw that it is here, and that stays so.
    fn saw(&mut self, block: u64) -> Result<(), String> {
        if self.is_here(block) {
            return Ok(());
        }
        match self.fills.get_mut(&block) {
            Some(fill) => {
                fill.is_here = true;
                Ok(())
            }
            None => Err(format!(
                "block {block} of the origin of lineage {} is here, but it never arrived",
                self.origin.lineage
            )),
        }
    }

    pub(super) fn promise_up_to(&mut self, tick: Tick) {
        while let Some((_, block)) = self.unflushed.pop_front_if(|(ended, _)| *ended <= tick) {
            if let Some(fill) = self.fills.get_mut(&block) {
                fill.is_durable = true;
            }
        }
        while let Some((_, known)) = self.learned.pop_front_if(|(ended, _)| *ended <= tick) {
            self.durable_known = self.durable_known.max(known);
        }
    }

    /// What was not promised is open, and all of it where drives lie.
    pub(super) fn restart(&mut self, drives_lie: bool) {
        self.unflushed.clear();
        if drives_lie {
            self.fills.clear();
            self.learned.clear();
            (self.known, self.durable_known) = (0, 0);
        }
        for fill in self.fills.values_mut() {
            fill.is_here = fill.is_durable;
        }
        self.known = self.durable_known;
    }

    /// How many blocks arrived as data, if that is certain.
    pub(super) fn data_blocks(&self) -> Option<u64> {
        if self.is_swept {
            return None;
        }
        let mut count = 0;
        for (block, fill) in &self.fills {
            let is_certain = self.is_here(*block) && fill.as_data != fill.as_zeros;
            if !is_certain {
                return None;
            }
            count += u64::from(fill.as_data);
        }
        Some(count)
    }

    /// Blocks that arrived, or may have.
    pub fn filled(&self) -> impl Iterator<Item = u64> + '_ {
        self.fills.keys().copied()
    }

    /// Where what is known ends if everything that certainly arrived is counted.
    pub fn known_for_certain(&self) -> u64 {
        let mut at = self.known;
        let arrived = |block| self.origin.is_zero(block) || self.is_here(block);
        while at < self.origin.blocks() && arrived(at) {
            at += 1;
        }
        at
    }

    /// Compares with what is here after a recovery: what is known, and what is absent.
    fn recover(
        &mut self,
        verdict: &mut Verdict,
        known: u64,
        absent: &[Range<u64>],
    ) -> Result<(), String> {
        let Origin { lineage, .. } = self.origin;
        let mut possible = self.learned.iter().map(|(_, block)| *block);
        if known != self.durable_known && !possible.any(|block| block == known) {
            return Err(format!(
                "of the origin of lineage {lineage} {known} blocks are known, promised were {} and then {:?}",
                self.durable_known, self.learned
            ));
        }
        for (tick, block) in &self.learned {
            let what = || format!("that {block} blocks of the origin of {lineage} are known");
            if *block <= known {
                verdict.is_present(*tick, what);
            } else {
                verdict.is_missing(Some(*tick), what);
            }
        }
        (self.known, self.durable_known) = (known, known);
        self.learned.clear();
        let is_absent = |block: u64| absent.iter().any(|range| range.contains(&block));
        let mut lost = None;
        let origin = self.origin;
        self.fills.retain(|block, fill| {
            if *block < known {
                // Without a word of its arrival nobody knows which of the two came first.
                fill.as_zeros |= fill.ended.is_none() && !fill.is_durable;
            } else {
                let what = || format!("the arrival of block {block} of the origin of {lineage}");
                if is_absent(*block) {
                    lost = lost.or(fill.is_durable.then_some(*block));
                    verdict.is_missing(fill.ended, what);
                    return false;
                }
                verdict.is_present(fill.begun, what);
            }
            (fill.is_here, fill.is_durable) = (true, true);
            true
        });
        if let Some(block) = lost {
            return Err(format!(
                "block {block} of the origin of {lineage} had arrived, and is absent after recovery"
            ));
        }
        for block in (0..origin.blocks()).filter(|block| !is_absent(*block)) {
            self.saw(block)?;
        }
        Ok(())
    }
}

impl Model {
    /// Numbers of the lineages that began with an adoption, of those that are needed and those that are not.
    #[must_use]
    pub fn adopted(&self) -> Vec<u64> {
        let known = self.bases.iter().filter(|(_, base)| base.id.is_some());
        known.map(|(lineage, _)| *lineage).collect()
    }

    /// What arrived of the origin of a lineage.
    #[must_use]
    pub fn base(&self, lineage: u64) -> Option<&Base> {
        self.bases.get(&lineage)
    }

    /// What nobody needs of a base may go.
    pub fn begin_sweep(&mut self, lineage: u64) {
        if let Some(base) = self.bases.get_mut(&lineage) {
            base.is_swept = true;
        }
    }

    /// What may need a base: volumes and snapshots that users see.
    fn users(&self, lineage: u64) -> impl Iterator<Item = Existence> + '_ {
        let volumes = self.volumes.values();
        let volumes = volumes.filter(move |known| known.lineage == lineage);
        let snapshots = self.snapshots.values();
        let snapshots = snapshots.filter(move |known| known.lineage == lineage);
        let volumes = volumes.map(|known| known.existence);
        volumes
            .chain(snapshots.map(|known| known.existence))
            .filter(|existence| *existence != Existence::Hidden)
    }

    /// Volumes and snapshots of a lineage that users see.
    #[must_use]
    pub(super) fn users_of_base(&self, lineage: u64) -> usize {
        self.users(lineage).count()
    }

    /// Whether somebody needs a base for certain.
    fn is_base_needed(&self, lineage: u64) -> bool {
        let mut users = self.users(lineage);
        users.any(|existence| existence == Existence::Live)
    }

    /// For each of these blocks whether it may be absent, if nobody wrote it.
    #[must_use]
    pub fn unsure(&self, lineage: u64, blocks: Range<u64>) -> Vec<bool> {
        match self.bases.get(&lineage) {
            Some(base) => blocks.map(|block| !base.is_here(block)).collect(),
            None => vec![false; usize::try_from(blocks.end - blocks.start).unwrap_or(0)],
        }
    }

    /// What it looks like when a block is absent.
    pub(super) fn absent(&self, lineage: u64, block: u64) -> Option<Sight> {
        let base = self.bases.get(&lineage)?;
        let is_its = block < base.origin.blocks();
        is_its.then(|| Sight::Absent(base.origin.state(block)))
    }

    /// A block that is the origin's could be read.
    pub(super) fn saw_arrived(&mut self, lineage: u64, block: u64) -> Result<(), String> {
        match self.bases.get_mut(&lineage) {
            Some(base) if self.trust != Trust::DrivesLie => base.saw(block),
            _ => Ok(()),
        }
    }

    /// Blocks of an origin are on their way.
    pub fn begin_fill(&mut self, lineage: u64, blocks: Range<u64>, as_zeros: bool) -> Filling {
        self.tick += 1;
        let begun = self.tick;
        let was_gone = self.users_of_base(lineage) == 0;
        let filling = Filling {
            lineage,
            blocks: blocks.clone(),
            was_gone,
        };
        let Some(base) = self.bases.get_mut(&lineage) else {
            return filling;
        };
        for block in blocks.filter(|_| !was_gone) {
            if base.is_here(block) {
                continue;
            }
            let fill = base.fills.entry(block).or_insert(Fill {
                begun,
                ended: None,
                is_here: false,
                is_durable: false,
                as_data: false,
                as_zeros: false,
            });
            fill.as_data |= !as_zeros;
            fill.as_zeros |= as_zeros;
        }
        filling
    }

    /// That was answered.
    ///
    /// # Errors
    /// When that answer is not excused.
    pub fn end_fill(
        &mut self,
        filling: &Filling,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        self.tick += 1;
        let ended = self.tick;
        let Filling {
            lineage,
            ref blocks,
            was_gone,
        } = *filling;
        if result.is_ok() && was_gone && self.trust == Trust::Full {
            return Err(format!(
                "blocks {blocks:?} of the origin of {lineage} arrived, which nobody needs"
            ));
        }
        self.judge_fill(lineage, result)?;
        let Some(base) = self.bases.get_mut(&lineage).filter(|_| result.is_ok()) else {
            return Ok(());
        };
        for block in blocks.clone() {
            if let Some(fill) = base.fills.get_mut(&block) {
                fill.is_here = true;
                fill.ended.get_or_insert(ended);
                base.unflushed.push_back((ended, block));
            }
        }
        Ok(())
    }

    /// A look at a base was refused.
    ///
    /// # Errors
    /// When nothing excuses that.
    pub fn refused_base(&self, lineage: u64, error: StoreError) -> Result<(), String> {
        match error {
            StoreError::NoSpace => Err("a look at a base was refused for space".to_string()),
            error => self.judge_fill(lineage, Err(error)),
        }
    }

    fn judge_fill(&self, lineage: u64, result: Result<(), StoreError>) -> Result<(), String> {
        match result {
            Ok(()) | Err(StoreError::NoSpace) => Ok(()),
            Err(StoreError::NoVolume) if !self.is_base_needed(lineage) => Ok(()),
            Err(_) if self.trust != Trust::Full => Ok(()),
            Err(error) => Err(format!(
                "the origin of {lineage}: refused without reason: {error:?}"
            )),
        }
    }

    /// It was noted, at once, that all before a block has arrived.
    ///
    /// # Errors
    /// When that answer is not excused.
    pub fn set_known(
        &mut self,
        lineage: u64,
        block: u64,
        result: Result<(), StoreError>,
    ) -> Result<(), String> {
        self.tick += 1;
        let tick = self.tick;
        self.judge_fill(lineage, result)?;
        if let (Ok(()), Some(base)) = (result, self.bases.get_mut(&lineage))
            && block > base.known
        {
            let zeros = base.fills.range_mut(base.known..block);
            for (_, fill) in zeros.filter(|(_, fill)| !fill.is_here) {
                // Too late now, or not.
                fill.as_zeros = true;
            }
            base.known = block;
            base.learned.push_back((tick, block));
        }
        Ok(())
    }

    /// The store says which parts of a range are absent; these were absent for certain, or may have been.
    ///
    /// # Errors
    /// When something that is here is among them, or something before the first part is not here; or, if only what is `needed`
    /// is told of, somebody needs something before it.
    pub fn saw_first_absent(
        &mut self,
        lineage: u64,
        blocks: Range<u64>,
        unsure: &[bool],
        (found, needed): (Option<Range<u64>>, bool),
    ) -> Result<(), String> {
        if self.trust == Trust::DrivesLie {
            return Ok(());
        }
        let found = found.unwrap_or(blocks.end..blocks.end);
        for (block, unsure) in blocks.clone().zip(unsure) {
            if found.contains(&block) && !unsure {
                return Err(format!(
                    "block {block} of the origin of {lineage} arrived, and is said to be absent"
                ));
            }
        }
        for block in blocks.start..found.start {
            if !needed {
                self.saw_arrived(lineage, block)?;
                continue;
            }
            let may_be_here = self
                .bases
                .get(&lineage)
                .is_none_or(|base| base.is_here(block) || base.fills.contains_key(&block));
            if !may_be_here && self.is_needed(lineage, block) {
                return Err(format!(
                    "block {block} of the origin of {lineage} is absent and needed, and is not told of"
                ));
            }
        }
        Ok(())
    }

    /// Whether a volume or snapshot has what the origin has in a block, for certain.
    fn is_needed(&self, lineage: u64, block: u64) -> bool {
        let live = |existence| existence == Existence::Live;
        let volumes = self.volumes.values();
        let mut volumes = volumes.filter(|known| known.lineage == lineage && live(known.existence));
        let snapshots = self.snapshots.values();
        let mut snapshots =
            snapshots.filter(|known| known.lineage == lineage && live(known.existence));
        volumes.any(|known| {
            let history = known.blocks.get(&block);
            history.is_none_or(|history| history.is_origins(0, &self.operations))
        }) || snapshots.any(|known| {
            let frozen = known.contents.get(&block).map(|frozen| frozen.state());
            frozen.is_none_or(|state| state.is_some_and(|state| state.version == ORIGIN))
        })
    }

    /// Compares the bases of a pool, of which nobody knows what goes on, with those that can exist.
    ///
    /// # Errors
    /// A base too many, one too few, or one with another size or with more that is known.
    pub fn check_bases(&self, found: &[BaseInfo]) -> Result<(), String> {
        if self.trust == Trust::DrivesLie {
            return Ok(());
        }
        let is_coming = self.bases.values().any(|base| base.id.is_none());
        for info in found {
            let known = self.bases.values().find(|base| base.id == Some(info.id));
            let Some(Base { origin, known, .. }) = known else {
                if is_coming {
                    continue;
                }
                return Err(format!("a base out of nowhere: {info:?}"));
            };
            let known_bytes = (known * BLOCK).min(origin.size_bytes);
            let is_certain = self.trust == Trust::Full;
            if info.size_bytes != origin.size_bytes || info.known_bytes != known_bytes && is_certain
            {
                return Err(format!("{origin:?} with {known_bytes} known is {info:?}"));
            }
            if self.users_of_base(origin.lineage) == 0 {
                return Err(format!("nobody needs {info:?}, but it is there"));
            }
        }
        for (lineage, base) in &self.bases {
            let is_there = found.iter().any(|info| base.id == Some(info.id));
            if base.id.is_some() && !is_there && self.is_base_needed(*lineage) {
                return Err(format!(
                    "the base of lineage {lineage} is missing: {base:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether a volume says of itself what it was adopted from.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_bases_of(&mut self, number: u64, info: &VolumeInfo) -> Result<(), String> {
        let lineage = self.lineage(number);
        for (other, base) in &mut self.bases {
            // A lost superblock takes the numbers given out since with it.
            let is_again = *other != lineage && base.id.is_some_and(|id| info.bases.contains(&id));
            if is_again && self.trust == Trust::DrivesLie {
                base.id = None;
            }
        }
        let fits = match self.bases.get_mut(&lineage) {
            None => info.bases.is_empty(),
            Some(base) => match info.bases[..] {
                [id] => *base.id.get_or_insert(id) == id,
                _ => false,
            },
        };
        if fits || self.trust == Trust::DrivesLie {
            return Ok(());
        }
        Err(format!(
            "{info:?} does not name the base of lineage {lineage}: {:?}",
            self.bases.get(&lineage).map(|base| base.id)
        ))
    }

    /// Compares what arrived with what is here after a recovery; the volumes have been looked at. Nothing is known when
    /// it could not be looked at.
    ///
    /// # Errors
    /// When something is here that never arrived, or something is lost that was promised.
    pub fn recover_base(
        &mut self,
        verdict: &mut Verdict,
        lineage: u64,
        info: &BaseInfo,
        absent: &[Range<u64>],
    ) -> Result<(), String> {
        let known = info.known_bytes.div_ceil(BLOCK);
        match self.bases.get_mut(&lineage) {
            Some(base) if self.trust != Trust::DrivesLie => base.recover(verdict, known, absent),
            _ => Ok(()),
        }
    }

    /// Bases that never came to be, and those that nobody needs, hold nothing.
    pub(super) fn forget_bases(&mut self) {
        let gone: Vec<u64> = (self.bases.keys().copied())
            .filter(|lineage| self.users_of_base(*lineage) == 0)
            .collect();
        for lineage in gone {
            if let Some(base) = self.bases.get_mut(&lineage) {
                base.fills.clear();
                if base.id.is_none() {
                    self.bases.remove(&lineage);
                }
            }
        }
    }
}
