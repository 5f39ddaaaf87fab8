//! Clients of a store: they write, discard, take snapshots and so on, while checkpoints run and the power fails; and what they
//! must read at each moment is known.

mod write;

use anyhow::{Context, Result, ensure};

use crate::maps::mutant::Mutant;
use crate::maps::pointer::{Birth, Lba, span};
use crate::maps::{Content, Kind, MapId, Store};
use crate::oracle::{BLOCKS_MAX, History};
use crate::random::Random;
use write::SlowWrite;

/// Maps that there may be before no more are made.
const MAPS_MAX: usize = 24;

/// Checkpoints within which a store that nobody uses must come to rest.
const REST_MAX: usize = 3000;

/// Somebody else's volume, at the moment when it was adopted. It does not change any more.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Births and contents; absent where nothing was ever written.
    pub blocks: Vec<Option<(Birth, Content)>>,
    /// Whether it can still be asked.
    pub is_there: bool,
    /// Blocks that may be asked for: all, or those that changed while a volume was away.
    pub moved: Vec<bool>,
}

impl Origin {
    /// Asks for a block.
    pub fn ask(&self, lba: Lba) -> Result<Option<(Birth, Content)>> {
        ensure!(
            self.is_there,
            "block {lba} is asked for when the origin was let go"
        );
        let moved = self.moved.get(lba as usize).copied().unwrap_or(false);
        ensure!(moved, "block {lba} is moved although it did not change");
        Ok(self.blocks[lba as usize])
    }
}

/// A store and its clients.
pub struct Workload {
    pub store: Store,
    pub random: Random,
    pub history: History,
    slow: Vec<SlowWrite>,
    /// By source.
    pub origins: Vec<Origin>,
}

impl Workload {
    /// Nothing yet.
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut store = Store::default();
        store.lab.mutant = mutant;
        Self {
            store,
            random: Random::new(seed),
            history: History::default(),
            slow: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// The same store without its writes in flight.
    pub fn at_rest(&self) -> Self {
        Self {
            store: self.store.clone(),
            random: self.random.clone(),
            history: self.history.clone(),
            slow: Vec::new(),
            origins: self.origins.clone(),
        }
    }

    /// Something that a client does.
    pub fn step(&mut self) -> Result<()> {
        self.store.lab.counts.operations += 1;
        let room = self.has_room();
        let heads = self.store.of_kind(Kind::Head);
        let Some(head) = self.random.pick(&heads) else {
            return self.create();
        };
        let snapshots = self.store.of_kind(Kind::Snapshot);
        let snapshot = self.random.pick(&snapshots);
        match (self.random.below(1000), snapshot) {
            (0..500, _) => self.write(head),
            (500..620, _) => self.discard(head),
            (620..720, _) if room => self.snapshot(head, &heads),
            (720..760, Some(snapshot)) if room => self.clone_snapshot(snapshot),
            (760..780, _) if room => self.roll_back(head, &snapshots),
            (780..800, _) if heads.len() > 1 => self.delete(&[head]),
            (800..810, _) if heads.len() > 1 => self.delete_volume(head),
            (810..890, Some(snapshot)) => self.delete(&[snapshot]),
            (890..910, _) => self.grow(head),
            (910..940, _) => self.touch(),
            (940..960, _) => self.end_slow_write(),
            (960..975, _) => {
                self.history.flush();
                Ok(())
            }
            (975..985, _) => self.crash(),
            (985..990, _) if room => self.create(),
            _ => Ok(()),
        }
    }

    /// Whether more maps may be made.
    pub fn has_room(&self) -> bool {
        self.store.live.maps.len() < MAPS_MAX
    }

    /// Checks owners and one map's contents; the rest of a checkpoint may happen.
    pub fn after_step(&mut self) -> Result<()> {
        self.checkpoint_in_part()?;
        self.store.live.check(&self.store.lab)?;
        let visible = self.store.visible();
        let chosen = self.random.pick(&visible);
        chosen.map_or(Ok(()), |id| self.compare(id))
    }

    /// Deletes everything: nothing may be left.
    pub fn end(&mut self) -> Result<()> {
        self.settle_all()?;
        self.rest()?;
        self.compare_all()?;
        let visible = self.store.visible();
        self.delete(&visible)?;
        self.rest()?;
        let live = &self.store.live;
        ensure!(
            live.allocated.is_empty(),
            "blocks are left when all is deleted"
        );
        ensure!(live.maps.is_empty(), "maps are left when all is deleted");
        Ok(())
    }

    /// The oracle says what holds after the newest record.
    pub fn note(&mut self) {
        self.history.note(self.store.journal.len());
    }

    /// Makes an empty volume.
    pub fn create(&mut self) -> Result<()> {
        let size = span(1 + self.random.below(3) as u8);
        let id = self.store.create(size)?;
        self.history.now.create(id);
        self.note();
        Ok(())
    }

    fn discard(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        // Often whole subtrees, of any size.
        let unit = span(self.random.below(4) as u8).min(size);
        let start = self.random.below(size / unit) * unit;
        let len = unit * (1 + self.random.below(2)) + self.random.below(2) * self.random.below(4);
        let end = (start + len).min(size);
        self.settle(head, start..end)?;
        self.store.discard(head, start, end)?;
        for lba in start..end {
            self.history.now.change(head, lba, [0; 2]);
        }
        self.note();
        Ok(())
    }

    fn snapshot(&mut self, head: MapId, heads: &[MapId]) -> Result<()> {
        let mut chosen = vec![head];
        let other = self.random.pick(heads).filter(|other| *other != head);
        chosen.extend(other.filter(|_| self.random.one_in(4)));
        if !self.store.lab.has(Mutant::WriteAcrossSnapshot) {
            chosen
                .iter()
                .try_for_each(|head| self.settle(*head, 0..Lba::MAX))?;
        }
        let new = self.store.snapshot(&chosen)?;
        for (of, id) in chosen.iter().zip(&new) {
            self.history.now.copy(*of, *id);
            for slow in self.slow.iter_mut().filter(|slow| slow.head == *of) {
                slow.head = *id;
            }
        }
        self.note();
        Ok(())
    }

    fn clone_snapshot(&mut self, snapshot: MapId) -> Result<()> {
        let id = self.store.clone_snapshot(snapshot)?;
        self.history.now.copy(snapshot, id);
        self.note();
        Ok(())
    }

    fn roll_back(&mut self, head: MapId, snapshots: &[MapId]) -> Result<()> {
        let volume = self.store.live.map(head)?.volume;
        let mut own = snapshots.to_vec();
        own.retain(|id| self.store.live.maps[id].volume == volume);
        let Some(snapshot) = self.random.pick(&own) else {
            return Ok(());
        };
        self.settle(head, 0..Lba::MAX)?;
        let id = self.store.roll_back(head, snapshot)?;
        self.history.now.copy(snapshot, id);
        self.history.now.remove(head);
        self.note();
        Ok(())
    }

    /// Deletes maps in one instant.
    pub fn delete(&mut self, maps: &[MapId]) -> Result<()> {
        maps.iter()
            .try_for_each(|id| self.settle(*id, 0..Lba::MAX))?;
        self.store.delete(maps)?;
        maps.iter().for_each(|id| self.history.now.remove(*id));
        self.note();
        Ok(())
    }

    /// With all its snapshots; clones of them live on.
    fn delete_volume(&mut self, head: MapId) -> Result<()> {
        let volume = self.store.live.map(head)?.volume;
        let mut maps = self.store.visible();
        maps.retain(|id| self.store.live.maps[id].volume == volume);
        self.delete(&maps)
    }

    fn grow(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        let larger = size * span(1 + self.random.below(2) as u8);
        self.store.grow(head, larger.min(BLOCKS_MAX as u64))?;
        self.note();
        Ok(())
    }

    fn touch(&mut self) -> Result<()> {
        let visible = self.store.visible();
        if let Some(id) = self.random.pick(&visible) {
            self.store.touch(id)?;
            self.note();
        }
        Ok(())
    }

    /// The power fails; what no flush covered may be lost.
    pub fn crash(&mut self) -> Result<()> {
        let flushed = self.history.flushed();
        let loose = self.store.journal.len() - flushed;
        let kept = flushed + self.random.index(loose + 1);
        self.store.crash(kept)?;
        self.slow.clear();
        self.history.cut(kept);
        self.store.live.check(&self.store.lab)?;
        self.compare_all()
    }

    fn checkpoint_in_part(&mut self) -> Result<()> {
        if self.store.image.is_none() {
            if self.random.one_in(4) {
                self.store.begin_checkpoint();
            }
        } else if self.random.one_in(2) {
            self.end_checkpoint()?;
        }
        Ok(())
    }

    /// Publishes the running checkpoint.
    pub fn end_checkpoint(&mut self) -> Result<()> {
        let forgotten = self.store.end_checkpoint(&mut self.random)?;
        self.history.forget(forgotten);
        self.store.published.check(&self.store.lab)
    }

    /// Checkpoints until nothing is left to do.
    pub fn rest(&mut self) -> Result<()> {
        for _ in 0..REST_MAX {
            if self.store.is_idle() {
                return self.store.live.check(&self.store.lab);
            }
            if self.store.image.is_none() {
                self.store.begin_checkpoint();
            }
            self.end_checkpoint()?;
        }
        anyhow::bail!("the store does not come to rest")
    }

    fn compare(&self, id: MapId) -> Result<()> {
        for lba in 0..self.store.live.map(id)?.size {
            let expected = self.history.now.block(id, lba);
            match self.look(id, lba)? {
                Some(found) => ensure!(
                    found == expected.content,
                    "block {lba} of map {id} is {found:?}, not {:?}",
                    expected.content
                ),
                None => {
                    let source = self
                        .source(id, lba)?
                        .context("unknown, but not elsewhere")?;
                    let answer = self.origins[usize::from(source)].ask(lba)?;
                    let found = answer.map_or([0; 2], |(_, content)| content);
                    let right = found == expected.content && !expected.is_ours;
                    ensure!(right, "block {lba} of map {id} is sought elsewhere");
                }
            }
        }
        Ok(())
    }

    /// Compares all maps with the oracle.
    pub fn compare_all(&self) -> Result<()> {
        self.store
            .visible()
            .into_iter()
            .try_for_each(|id| self.compare(id))
    }
}
