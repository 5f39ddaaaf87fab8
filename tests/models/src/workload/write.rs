//! Writes of clients: whole blocks and halves of them, at once or slowly; and what is known here of a block.

use std::ops::Range;

use anyhow::{Context, Result};

use super::Workload;
use crate::maps::mutant::Mutant;
use crate::maps::pointer::{Birth, Lba, Pointer};
use crate::maps::{Content, Kind, MapId};

/// A write that is not done: it has its birth, or waits for what it changes a part of. Whatever overlaps it waits, a snapshot
/// too: it is like a write of everything.
#[derive(Clone, Copy)]
pub struct SlowWrite {
    pub head: MapId,
    lba: Lba,
    birth: Birth,
    part: Option<Part>,
}

/// One half of a block is to be written into what the origin said.
#[derive(Clone, Copy)]
struct Part {
    half: usize,
    fetched: Content,
}

impl Workload {
    /// Writes some blocks, or a part of one.
    pub fn write(&mut self, head: MapId) -> Result<()> {
        let size = self.store.live.map(head)?.size;
        let start = self.random.below(size);
        if self.random.one_in(4) {
            return self.write_part(head, start);
        }
        let end = (start + 1 + self.random.below(4)).min(size);
        self.settle(head, start..end)?;
        if self.random.one_in(8) {
            let birth = self.store.tick();
            self.slow.push(SlowWrite {
                head,
                lba: start,
                birth,
                part: None,
            });
            return Ok(());
        }
        for lba in start..end {
            let birth = self.store.tick();
            self.write_block(head, lba, birth, [birth; 2], [birth; 2])?;
        }
        Ok(())
    }

    /// Writes one half of a block: reads, merges, writes. What is not here is fetched first.
    fn write_part(&mut self, head: MapId, lba: Lba) -> Result<()> {
        self.settle(head, lba..lba + 1)?;
        let half = self.random.index(2);
        if let Some(content) = self.look(head, lba)? {
            let birth = self.store.tick();
            return self.write_half(head, lba, birth, half, content);
        }
        let fetched = self
            .fetch(head, lba)?
            .map_or([0; 2], |(_, content)| content);
        let part = Some(Part { half, fetched });
        self.slow.push(SlowWrite {
            head,
            lba,
            birth: 0,
            part,
        });
        Ok(())
    }

    fn write_half(
        &mut self,
        head: MapId,
        lba: Lba,
        birth: Birth,
        half: usize,
        mut content: Content,
    ) -> Result<()> {
        let mut expected = self.history.now.block(head, lba).content;
        (content[half], expected[half]) = (birth, birth);
        self.write_block(head, lba, birth, content, expected)
    }

    fn write_block(
        &mut self,
        head: MapId,
        lba: Lba,
        birth: Birth,
        content: Content,
        expected: Content,
    ) -> Result<()> {
        self.store.write_born(head, lba, birth, content)?;
        self.history.now.change(head, lba, expected);
        self.note();
        Ok(())
    }

    /// Asks the origin that `map` refers to at `lba`.
    fn fetch(&mut self, map: MapId, lba: Lba) -> Result<Option<(Birth, Content)>> {
        let source = self.source(map, lba)?.context("nothing remote here")?;
        self.store.lab.counts.fetches += 1;
        self.origins[usize::from(source)].ask(lba)
    }

    /// The source that has a block of `map`, if it is not the map itself.
    pub fn source(&self, map: MapId, lba: Lba) -> Result<Option<u8>> {
        match self.store.live.read(&self.store.lab.disk, map, lba)? {
            Pointer::Remote { source, .. } => Ok(Some(source)),
            _ => Ok(None),
        }
    }

    /// What is in a block, if that is known here.
    pub fn look(&self, map: MapId, lba: Lba) -> Result<Option<Content>> {
        let (live, lab) = (&self.store.live, &self.store.lab);
        let known = |pointer: Pointer| match pointer {
            Pointer::Data { addr, .. } => Some(lab.disk.data(addr)),
            Pointer::Never | Pointer::Hole { .. } => Some([0; 2]),
            Pointer::Node { .. } | Pointer::Remote { .. } => None,
        };
        let pointer = live.read(&lab.disk, map, lba)?;
        let source = match pointer {
            Pointer::Remote { source, .. } => source,
            _ if lab.has(Mutant::BaseFirst) && live.map(map)?.sources > 0 => {
                live.map(map)?.sources.trailing_zeros() as u8
            }
            other => return Ok(known(other)),
        };
        let in_base = live.read(&lab.disk, self.store.base(source)?, lba)?;
        Ok(match in_base {
            Pointer::Never if lab.has(Mutant::RemoteReadsZeros) => Some([0; 2]),
            Pointer::Never if pointer.data().is_some() => known(pointer),
            Pointer::Never => None,
            other => known(other),
        })
    }

    /// Lets slow writes end that overlap a range of `head`.
    pub fn settle(&mut self, head: MapId, range: Range<Lba>) -> Result<()> {
        let all = range.end == Lba::MAX;
        let unordered = self.store.lab.has(Mutant::PartialWriteUnordered) && !all;
        let waited_for = |slow: &mut SlowWrite| {
            slow.head == head && range.contains(&slow.lba) && !(unordered && slow.part.is_some())
        };
        for slow in self.slow.extract_if(.., waited_for).collect::<Vec<_>>() {
            match slow.part {
                Some(Part { half, fetched }) => {
                    let birth = self.store.tick();
                    let zeros = self.store.lab.has(Mutant::PartialWriteOnZeros);
                    let content = if zeros { [0; 2] } else { fetched };
                    self.write_half(slow.head, slow.lba, birth, half, content)?;
                }
                None => {
                    let content = [slow.birth; 2];
                    self.write_block(slow.head, slow.lba, slow.birth, content, content)?;
                }
            }
        }
        Ok(())
    }

    /// Lets all slow writes end.
    pub fn settle_all(&mut self) -> Result<()> {
        let mut heads = self.store.of_kind(Kind::Head).into_iter();
        heads.try_for_each(|head| self.settle(head, 0..Lba::MAX))
    }

    /// Lets one slow write end.
    pub fn end_slow_write(&mut self) -> Result<()> {
        let slow = self.random.pick(&self.slow);
        slow.map_or(Ok(()), |slow| {
            self.settle(slow.head, slow.lba..slow.lba + 1)
        })
    }
}
