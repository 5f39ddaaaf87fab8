//! What clients do with adopted volumes: adopt, bring what the origin has, say how much of it is known, and look at what is here.

use std::ops::Range;

use store::{BaseId, Presence, StoreError};
use world::{BLOCK_SIZE, Buf};

use super::{Aim, Checked, Session, span};
use crate::model::Origin;
use crate::random::Random;
use crate::tally::Count;
use crate::verify;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A base that a request goes to.
#[derive(Clone, Copy, Debug)]
struct BaseAim {
    lineage: u64,
    id: BaseId,
    origin: Origin,
}

impl Session {
    /// Makes a volume whose blocks are elsewhere.
    pub(super) async fn adopt(&self, random: &mut Random) -> Checked {
        if self.count_live(true) >= self.profile.volumes_max {
            return Ok(());
        }
        let blocks = random.between(1, self.profile.habits.adopted_blocks);
        let cut = if random.one_in(2) {
            random.below(8) * 512
        } else {
            0
        };
        let size = (blocks * BLOCK + cut).max(4096);
        let name = format!("a{}", random.next());
        let number = self.model.borrow_mut().begin_adopt(&name, size);
        self.note("> adopt", [number, size, 0]);
        let result = self.store.adopt_volume(&name, size).await;
        self.note("< adopt", [number, u64::from(result.is_ok()), 0]);
        if let Ok(info) = &result {
            self.count(Count::Adoptions);
            if info.name != name || info.size_bytes != size {
                return Err(format!("adopted {name} of {size} bytes, got {info:?}"));
            }
            self.model.borrow_mut().check_bases_of(number, info)?;
        }
        let result = result.map(|info| info.id);
        self.model.borrow_mut().end_create(number, result)
    }

    fn aim_base(&self, random: &mut Random) -> Option<BaseAim> {
        let model = self.model.borrow();
        let adopted = model.adopted();
        if adopted.is_empty() {
            return None;
        }
        let lineage = random.pick(&adopted);
        let base = model.base(lineage)?;
        Some(BaseAim {
            lineage,
            id: base.id?,
            origin: base.origin,
        })
    }

    /// Blocks where clients also write.
    fn blocks_of(&self, aim: &BaseAim, random: &mut Random) -> Range<u64> {
        let (offset, len) = self.range((aim.lineage, aim.origin.size_bytes), random, 256);
        offset / BLOCK..(offset + len).div_ceil(BLOCK)
    }

    /// Something arrives.
    pub(super) async fn fetch(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_base(random) else {
            return Ok(());
        };
        let blocks = self.blocks_of(&aim, random);
        match random.below(8) {
            0 => self.advance(&aim, random).await,
            1 | 2 => self.fetch_zeros(&aim, blocks.start, random).await,
            _ => self.fetch_blocks(&aim, blocks).await.map(drop),
        }
    }

    /// Returns whether it did.
    async fn fetch_blocks(&self, aim: &BaseAim, blocks: Range<u64>) -> Result<bool, String> {
        let mut buf = Buf::from_heap(usize::try_from(blocks.end - blocks.start).unwrap_or(0));
        for (index, block) in blocks.clone().enumerate() {
            aim.origin.fill(block, buf.block_mut(index));
        }
        let facts = [aim.lineage, blocks.start, blocks.end];
        let filling = (self.model.borrow_mut()).begin_fill(aim.lineage, blocks.clone(), false);
        self.note("> fill", facts);
        let result = self.store.fill(aim.id, blocks.start * BLOCK, buf).await;
        self.note(
            "< fill",
            [aim.lineage, blocks.start, u64::from(result.is_ok())],
        );
        self.end_fetch(&filling, result)
    }

    fn end_fetch(
        &self,
        filling: &crate::model::Filling,
        result: Result<(), StoreError>,
    ) -> Result<bool, String> {
        if result == Err(StoreError::NoSpace) {
            self.is_full();
        }
        if result.is_ok() {
            self.count(Count::Fills);
        }
        self.model.borrow_mut().end_fill(filling, result)?;
        Ok(result.is_ok())
    }

    /// The origin says that it has zeros from some block on.
    async fn fetch_zeros(&self, aim: &BaseAim, from: u64, random: &mut Random) -> Checked {
        let end = aim.origin.blocks();
        let Some(start) = (from..end).find(|block| aim.origin.is_zero(*block)) else {
            return Ok(());
        };
        let most = start + random.between(1, 300);
        let last = (start..end.min(most)).find(|block| !aim.origin.is_zero(*block));
        let blocks = start..last.unwrap_or(end.min(most));
        self.fetch_hole(aim, blocks).await.map(drop)
    }

    async fn fetch_hole(&self, aim: &BaseAim, blocks: Range<u64>) -> Result<bool, String> {
        let Range { start, end } = blocks;
        let filling = (self.model.borrow_mut()).begin_fill(aim.lineage, blocks, true);
        self.note("> fill zeros", [aim.lineage, start, end]);
        let (offset, len) = (start * BLOCK, (end - start) * BLOCK);
        let result = self.store.fill_zeros(aim.id, offset, len).await;
        self.note(
            "< fill zeros",
            [aim.lineage, start, u64::from(result.is_ok())],
        );
        self.end_fetch(&filling, result)
    }

    /// Brings what is missing from the beginning on, and says that it is all.
    async fn advance(&self, aim: &BaseAim, random: &mut Random) -> Checked {
        let known = |session: &Self| {
            let model = session.model.borrow();
            let base = model.base(aim.lineage);
            base.map_or(0, |base| base.known_for_certain())
        };
        let from = known(self);
        if from == aim.origin.blocks() {
            return self.sweep(aim).await;
        }
        let exponent = random.between(3, 10);
        let until = (from + random.between(1, 1 << exponent)).min(aim.origin.blocks());
        let arrived = match random.one_in(3) {
            true => self.fetch_wanted(aim, from..until).await?,
            false => self.fetch_all(aim, from..until, random).await?,
        };
        if !arrived {
            return Ok(());
        }
        // Others may have brought more.
        let more = random.one_in(4).then(|| known(self));
        let block = more.map_or(until, |more| until.max(more));
        let offset = match block == aim.origin.blocks() && random.one_in(2) {
            true => aim.origin.size_bytes,
            false => block * BLOCK,
        };
        let result = self.store.set_known(aim.id, offset);
        self.note("known", [aim.lineage, block, u64::from(result.is_ok())]);
        self.model
            .borrow_mut()
            .set_known(aim.lineage, block, result)
    }

    /// What nobody needs may go. Whatever comes of it, nobody can tell but by the room.
    async fn sweep(&self, aim: &BaseAim) -> Checked {
        let (mut at, mut freed) = (Some(0), 0);
        self.model.borrow_mut().begin_sweep(aim.lineage);
        while let Some(from) = at {
            let Ok(step) = self.store.sweep(aim.id, from).await else {
                break;
            };
            (at, freed) = (step.next, freed + step.freed_bytes);
        }
        self.note("sweep", [aim.lineage, freed, 0]);
        if freed > 0 {
            self.count(Count::Sweeps);
        }
        Ok(())
    }

    /// Brings everything of a part that is not zeros. Returns whether all of it is here.
    async fn fetch_all(
        &self,
        aim: &BaseAim,
        blocks: Range<u64>,
        random: &mut Random,
    ) -> Result<bool, String> {
        let Range {
            start: mut at,
            end: until,
        } = blocks;
        while at < until {
            let is_zero = aim.origin.is_zero(at);
            let most = until.min(at + Buf::PAGES_MAX as u64);
            let end = (at..most).find(|block| aim.origin.is_zero(*block) != is_zero);
            let end = end.unwrap_or(most);
            let arrived = match is_zero {
                false => self.fetch_blocks(aim, at..end).await?,
                true if random.one_in(3) => self.fetch_hole(aim, at..end).await?,
                true => true,
            };
            if !arrived {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Brings what somebody still needs of a part. Returns whether all of that is here.
    async fn fetch_wanted(&self, aim: &BaseAim, blocks: Range<u64>) -> Result<bool, String> {
        let Range {
            start: mut at,
            end: until,
        } = blocks;
        while at < until {
            let Ok(wanted) = self.ask_base(aim, at..until, true).await? else {
                return Ok(false);
            };
            let Some(wanted) = wanted else { break };
            let end = wanted.end.min(wanted.start + Buf::PAGES_MAX as u64);
            if !self.fetch_blocks(aim, wanted.start..end).await? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Looks at what is here, without reading it.
    pub(super) async fn look(&self, aim: &Aim, random: &mut Random) -> Checked {
        match random.below(4) {
            0 => self.look_at_base(random).await,
            1 => self.look_at_snapshot(random).await,
            2 => {
                self.model.borrow().check_bases(&self.store.bases())?;
                verify::bases_of_volumes(&self.store, &self.model)
            }
            _ => self.look_at_volume(aim, random).await,
        }
    }

    async fn look_at_base(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_base(random) else {
            return Ok(());
        };
        let blocks = self.blocks_of(&aim, random);
        let needed = random.one_in(2);
        self.ask_base(&aim, blocks, needed).await.map(drop)
    }

    /// The first of these blocks that are absent, or that are absent and needed by somebody. Inside, what was refused.
    async fn ask_base(
        &self,
        aim: &BaseAim,
        blocks: Range<u64>,
        needed: bool,
    ) -> Result<Result<Option<Range<u64>>, StoreError>, String> {
        let lineage = aim.lineage;
        let unsure = self.model.borrow().unsure(lineage, blocks.clone());
        let (offset, len) = (blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK);
        self.note("> first absent", [lineage, blocks.start, blocks.end]);
        let result = match needed {
            true => self.store.first_wanted(aim.id, offset, len).await,
            false => self.store.first_absent(aim.id, offset, len).await,
        };
        self.note("< first absent", [lineage, u64::from(result.is_ok()), 0]);
        let mut model = self.model.borrow_mut();
        match result {
            Ok(found) => {
                let found = found.map(|found| found.start / BLOCK..found.end / BLOCK);
                let said = (found.clone(), needed);
                model.saw_first_absent(lineage, blocks, &unsure, said)?;
                Ok(Ok(found))
            }
            Err(error) => {
                model.refused_base(lineage, error)?;
                Ok(Err(error))
            }
        }
    }

    async fn look_at_volume(&self, aim: &Aim, random: &mut Random) -> Checked {
        let (offset, len) = self.range((aim.number, aim.size_bytes), random, 256);
        let reading = self.model.borrow_mut().begin_read(aim.number, offset, len);
        self.note("> presence", [aim.number, offset, len]);
        let result = self.store.presence(aim.id, span(offset, len)).await;
        self.note("< presence", [aim.number, u64::from(result.is_ok()), 0]);
        let lineage = self.model.borrow().lineage(aim.number);
        let absent = match result {
            Ok(runs) => Ok(self.absent_blocks(lineage, &runs)?),
            Err(error) => Err(error),
        };
        let absent = absent.as_deref().map_err(|error| *error);
        self.model.borrow_mut().end_presence(&reading, absent)
    }

    /// For each block whether it is absent.
    fn absent_blocks(&self, lineage: u64, runs: &[Presence]) -> Result<Vec<bool>, String> {
        let model = self.model.borrow();
        let base = model.base(lineage).and_then(|base| base.id);
        let mut blocks = Vec::new();
        for run in runs {
            if run
                .absent
                .is_some_and(|id| base.is_some_and(|base| base != id))
            {
                return Err(format!(
                    "{run:?} in lineage {lineage}, whose base is {base:?}"
                ));
            }
            blocks.resize(blocks.len() + run.blocks, run.absent.is_some());
        }
        Ok(blocks)
    }

    async fn look_at_snapshot(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_snapshot(random) else {
            return Ok(());
        };
        let (offset, len) = self.range((aim.volume, aim.size_bytes), random, 256);
        let (first, end) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        let lineage = self.model.borrow().lineage_of_snapshot(aim.number);
        let unsure = self.model.borrow().unsure(lineage, first..end);
        self.note("> presence", [aim.number, offset, len]);
        let result = self.store.presence(aim.id, span(offset, len)).await;
        self.note("< presence", [aim.number, u64::from(result.is_ok()), 0]);
        let runs = match result {
            Ok(runs) => runs,
            Err(error) => return self.model.borrow().refused_snapshot(aim.number, error),
        };
        let absent = self.absent_blocks(lineage, &runs)?;
        let mut model = self.model.borrow_mut();
        for (block, (is_absent, unsure)) in (first..).zip(absent.into_iter().zip(unsure)) {
            model.saw_snapshot_presence(aim.number, block, is_absent, unsure)?;
        }
        Ok(())
    }
}
