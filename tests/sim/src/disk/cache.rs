//! The medium of a drive and the volatile cache in front of it.
//!
//! Each block has stable contents and a list of versions that completed since they were last made durable, oldest
//! first. Reads see the newest. A flush that covers version *v* makes *v* stable and leaves younger versions in the
//! cache. When power fails, each 512-byte sector independently ends up with its stable contents or with those of any
//! younger version, writes in flight included: a cache may write back early, late, in any order and half a block.
//! How the seed chooses among these outcomes is the *style* of the cut, so that the likely and the nasty both come up.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::rc::Rc;

use world::{BLOCK_SIZE, BlockAddr, Buf};

use super::queue::Work;
use crate::random::{Random, mix};

const SECTOR: usize = 512;
const SECTORS: usize = BLOCK_SIZE / SECTOR;

type Block = Rc<[u8]>;

/// Hashes block numbers the same way in every process.
#[derive(Default)]
pub struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(number);
    }
}

type Map<T> = HashMap<BlockAddr, T, BuildHasherDefault<BlockHasher>>;

/// What a drive holds.
#[derive(Default)]
pub struct Medium {
    stable: Map<Block>,
    /// Blocks in `stable`, in the order of their arrival.
    written: Vec<BlockAddr>,
    cached: Map<Vec<(u64, Block)>>,
    /// (version, block) of everything cached, oldest first.
    dirty: VecDeque<(u64, BlockAddr)>,
    /// Number of the last write that completed.
    version: u64,
    unreadable: BTreeSet<BlockAddr>,
}

/// A version that may or may not reach the medium.
struct Candidate<'a> {
    /// The write it belongs to, in order of completion; those in flight come last.
    rank: u64,
    block: BlockAddr,
    bytes: &'a [u8],
}

impl Medium {
    /// The number of the last write that completed.
    pub fn completed(&self) -> u64 {
        self.version
    }

    /// A medium that holds what can be read of this one.
    pub fn copy(&self) -> Self {
        let mut copy = Self {
            stable: self.stable.clone(),
            written: self.written.clone(),
            unreadable: self.unreadable.clone(),
            ..Self::default()
        };
        for (_, block) in &self.dirty {
            let newest = self.cached.get(block).and_then(|versions| versions.last());
            if let Some((_, bytes)) = newest {
                copy.set_stable(*block, bytes.clone());
            }
        }
        copy
    }

    pub fn read(&self, block: BlockAddr, into: &mut [u8]) {
        match self.cached.get(&block).and_then(|versions| versions.last()) {
            Some((_, bytes)) => into.copy_from_slice(bytes),
            None => self.read_stable(block, into),
        }
    }

    pub fn read_stable(&self, block: BlockAddr, into: &mut [u8]) {
        match self.stable.get(&block) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => into.fill(0),
        }
    }

    pub fn write(&mut self, at: BlockAddr, buf: &Buf) {
        self.version += 1;
        for index in 0..buf.blocks() {
            self.cache(at + index as u64, Rc::from(&buf.block(index)[..]));
        }
    }

    /// A write that failed: some sectors are new.
    pub fn write_torn(&mut self, random: &mut Random, block: BlockAddr, bytes: &[u8]) {
        let mut mixed = [0; BLOCK_SIZE];
        self.read(block, &mut mixed);
        copy_sectors(&mut mixed, bytes, |_| random.one_in(2));
        self.version += 1;
        self.cache(block, Rc::from(&mixed[..]));
    }

    fn cache(&mut self, block: BlockAddr, bytes: Block) {
        self.unreadable.remove(&block);
        let versions = self.cached.entry(block).or_default();
        versions.push((self.version, bytes));
        self.dirty.push_back((self.version, block));
    }

    /// Makes all versions up to `covers` durable.
    pub fn flush(&mut self, covers: u64) {
        while let Some(&(version, block)) = self.dirty.front() {
            if version > covers {
                break;
            }
            self.dirty.pop_front();
            let Some(versions) = self.cached.get_mut(&block) else {
                continue;
            };
            let count = versions.iter().take_while(|(v, _)| *v <= covers).count();
            let newest = versions.drain(..count).next_back();
            if versions.is_empty() {
                self.cached.remove(&block);
            }
            if let Some((_, bytes)) = newest {
                self.set_stable(block, bytes);
            }
        }
    }

    fn set_stable(&mut self, block: BlockAddr, bytes: Block) {
        if self.stable.insert(block, bytes).is_none() {
            self.written.push(block);
        }
    }

    pub fn write_stable(&mut self, block: BlockAddr, bytes: &[u8]) {
        self.set_stable(block, Rc::from(bytes));
        self.cached.remove(&block);
    }

    pub fn written(&self) -> &[BlockAddr] {
        &self.written
    }

    /// Blocks of the range read as anything afterwards: as zeros, as before, or as garbage.
    pub fn discard(&mut self, random: &mut Random, range: &Range<BlockAddr>) {
        let mut present: Vec<BlockAddr> = if range.end - range.start < self.written.len() as u64 {
            range.clone().collect()
        } else {
            let dirty = self.dirty.iter().map(|(_, block)| block);
            let all = self.written.iter().chain(dirty).copied();
            all.filter(|block| range.contains(block)).collect()
        };
        present.sort_unstable();
        present.dedup();
        self.version += 1;
        for block in present {
            let mut bytes = [0; BLOCK_SIZE];
            match random.below(3) {
                0 => self.read(block, &mut bytes),
                1 => bytes.fill(u8::try_from(random.below(256)).unwrap_or(0)),
                _ => {}
            }
            self.cache(block, Rc::from(&bytes[..]));
        }
    }

    /// Whether all that was written there is on the medium.
    pub fn is_stable(&self, block: BlockAddr) -> bool {
        !self.cached.contains_key(&block)
    }

    pub fn is_unreadable(&self, block: BlockAddr) -> bool {
        self.unreadable.contains(&block)
    }

    pub fn make_unreadable(&mut self, block: BlockAddr) {
        self.unreadable.insert(block);
    }

    /// Flips one bit of a block that was ever written. Returns whether it was.
    pub fn flip_bit(&mut self, random: &mut Random, block: BlockAddr) -> bool {
        let mut bytes = [0; BLOCK_SIZE];
        self.read(block, &mut bytes);
        if !self.stable.contains_key(&block) && !self.cached.contains_key(&block) {
            return false;
        }
        bytes[random.index(BLOCK_SIZE)] ^= 1 << random.below(8);
        self.write_stable(block, &bytes);
        true
    }

    /// Power fails: decides what of the cache and of `in_flight` reaches the medium. Returns the style of the cut.
    pub fn cut(&mut self, random: &mut Random, in_flight: &[Work]) -> u64 {
        let style = random.below(7);
        for work in in_flight {
            let Work::Discard { ranges } = work else {
                continue;
            };
            for range in ranges {
                if random.one_in(2) {
                    self.discard(random, range);
                }
            }
        }
        let cached = core::mem::take(&mut self.cached);
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for (block, versions) in &cached {
            candidates.extend(versions.iter().map(|(version, bytes)| Candidate {
                rank: *version,
                block: *block,
                bytes,
            }));
        }
        for (index, work) in in_flight.iter().enumerate() {
            let Work::Write { at, buf } = work else {
                continue;
            };
            candidates.extend((0..buf.blocks()).map(|block| Candidate {
                rank: self.version + 1 + index as u64,
                block: at + block as u64,
                bytes: buf.block(block),
            }));
        }
        candidates.sort_unstable_by_key(|candidate| (candidate.rank, candidate.block));
        let last = candidates.last().map_or(0, |candidate| candidate.rank);
        let first = candidates.first().map_or(0, |candidate| candidate.rank);
        let coin = random.next();
        // Where a prefix ends, or which write alone is missing.
        let chosen = first + random.below(last - first + 1);
        let share = random.between(1, 99);
        let mut survivors = Vec::new();
        for candidate in &candidates {
            let own = mix(coin ^ candidate.rank);
            let completed = candidate.rank <= self.version;
            let mask: u8 = match style {
                // Nothing; all that completed; everything but one write.
                0 => 0,
                1 => u8::MAX * u8::from(completed),
                2 => u8::MAX * u8::from(candidate.rank != chosen),
                // Whole writes; whole blocks; single sectors.
                3 => u8::MAX * u8::from(own % 100 < share),
                4 => u8::MAX * u8::from(random.below(100) < share),
                5 => (0..SECTORS).fold(0, |mask, sector| {
                    mask | (u8::from(random.below(100) < share) << sector)
                }),
                // A prefix with a torn end.
                _ if candidate.rank == chosen => u8::try_from(random.below(256)).unwrap_or(0),
                _ => u8::MAX * u8::from(candidate.rank < chosen),
            };
            if mask != 0 {
                survivors.push((candidate.block, mask, candidate.bytes));
            }
        }
        for (block, mask, bytes) in survivors {
            let mut mixed = [0; BLOCK_SIZE];
            self.read_stable(block, &mut mixed);
            copy_sectors(&mut mixed, bytes, |sector| mask & (1 << sector) != 0);
            self.set_stable(block, Rc::from(&mixed[..]));
        }
        self.dirty.clear();
        style
    }
}

fn copy_sectors(into: &mut [u8], from: &[u8], mut wanted: impl FnMut(usize) -> bool) {
    for sector in 0..SECTORS {
        if wanted(sector) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            into[range.clone()].copy_from_slice(&from[range]);
        }
    }
}
