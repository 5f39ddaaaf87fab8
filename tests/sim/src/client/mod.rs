//! Clients: tasks that send random requests and check every answer against the model.

mod adoption;
pub mod records;
mod snapshots;
mod volumes;

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use exec::Exec;
use store::{Span, Store, StoreError, VolumeId};
use volume::Volumes;
use world::{BLOCK_SIZE, Buf};

use crate::clock::Trace;
use crate::content::{self, SECTOR};
use crate::disk::SimDisk;
use crate::model::{Change, Model};
use crate::network::{Answer, Clients};
use crate::profile::Profile;
use crate::random::{Random, mix};
use crate::tally::{Count, Tally};

/// What the clients of one power-on share.
pub struct Session {
    pub exec: Exec,
    pub trace: Rc<Trace>,
    pub store: Store<SimDisk>,
    pub volumes: Volumes<SimDisk>,
    /// The way of data requests: through the network, or straight to the store.
    pub network: Option<Clients>,
    pub model: Rc<RefCell<Model>>,
    pub profile: Rc<Profile>,
    /// Requests that may still be sent.
    pub budget: Cell<u64>,
    /// What was done.
    pub tally: Rc<RefCell<Tally>>,
    /// Clients still at work.
    pub working: Cell<usize>,
    /// The first thing that went wrong.
    pub failure: RefCell<Option<String>>,
    /// Records being set or read now.
    pub busy_records: Cell<u64>,
    /// A request was refused for lack of space a short while ago.
    pub full: Cell<bool>,
    /// A request of this life was refused for lack of space.
    pub full_lately: Cell<bool>,
    /// Ranges being changed. The order in which requests reach a server is not known here, so through the network they
    /// must not overlap.
    pub changing: RefCell<Vec<Range>>,
    /// Volumes that were rolled back while clients were attached.
    pub rolled_back: RefCell<BTreeSet<u64>>,
}

/// Blocks of a volume that somebody changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    volume: u64,
    first: u64,
    last: u64,
    /// Nobody else may change any of it meanwhile.
    is_exclusive: bool,
}

type Checked = Result<(), String>;

/// A volume that a request goes to, as it is now.
#[derive(Clone)]
struct Aim {
    number: u64,
    id: VolumeId,
    name: String,
    size_bytes: u64,
}

impl Session {
    /// Whether the clients are done, or one of them found a fault.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.working.get() == 0 || self.failure.borrow().is_some()
    }

    fn take_operation(&self) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0 && self.failure.borrow().is_none()
    }

    /// Sends requests until the budget is used up.
    pub async fn work(self: Rc<Self>, mut random: Random) {
        while self.take_operation() {
            if let Err(what) = self.request(&mut random).await {
                self.failure.borrow_mut().get_or_insert(what);
                break;
            }
            self.count(Count::Requests);
        }
        self.working.set(self.working.get() - 1);
    }

    fn count(&self, count: Count) {
        self.tally.borrow_mut().add(count, 1);
    }

    async fn request(&self, random: &mut Random) -> Checked {
        let habits = &self.profile.habits;
        let Some(aim) = self.aim(random) else {
            let adopts = habits.adopt > 0 && !habits.fills && random.one_in(2);
            return match adopts {
                true => self.adopt(random).await,
                false => self.create(random).await,
            };
        };
        // Space comes back only through discards and deletes.
        let relief = if self.full.take() { 100 } else { 0 };
        let weights = [
            habits.write,
            habits.read,
            habits.discard + relief,
            habits.flush,
            habits.record,
            habits.create,
            habits.delete + relief / 20,
            habits.grow,
            habits.pause,
            habits.snapshot,
            habits.snapshot,
            habits.snapshot / 2 + relief / 10,
            habits.clone,
            habits.clone,
            habits.rename,
            habits.snapshot / 4,
            habits.adopt,
            habits.fetch,
            habits.look,
        ];
        let mut at = random.below(weights.iter().sum());
        let choice = weights
            .iter()
            .position(|weight| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            })
            .unwrap_or(0);
        match choice {
            0 => self.write(&aim, random).await,
            1 => self.read(&aim, random).await,
            2 => self.discard(&aim, random).await,
            3 => self.flush(&aim).await,
            4 => self.record(random).await,
            5 => self.create(random).await,
            6 => self.delete(&aim).await,
            7 => self.grow(&aim, random).await,
            9 => self.snapshot(&aim, random).await,
            10 => self.read_snapshot(random).await,
            11 => self.delete_snapshot(random).await,
            12 => self.clone_snapshot(random).await,
            13 => self.rollback(&aim, random).await,
            14 => self.rename(&aim, random).await,
            15 => self.diff(random).await,
            16 => self.adopt(random).await,
            17 => self.fetch(random).await,
            18 => self.look(&aim, random).await,
            _ => {
                let exponent = random.between(10, 34);
                let nanos = random.below(1 << exponent);
                self.exec.sleep(Duration::from_nanos(nanos)).await;
                Ok(())
            }
        }
    }

    fn aim(&self, random: &mut Random) -> Option<Aim> {
        let model = self.model.borrow();
        let live = model.live();
        if live.is_empty() {
            return None;
        }
        let number = random.pick(&live);
        let volume = model.volume(number)?;
        Some(Aim {
            number,
            id: volume.id?,
            name: volume.name.clone(),
            size_bytes: volume.size_bytes,
        })
    }

    /// A range within the volume, in bytes.
    fn range(
        &self,
        (number, size_bytes): (u64, u64),
        random: &mut Random,
        sectors_max: u64,
    ) -> (u64, u64) {
        let habits = &self.profile.habits;
        let sectors = size_bytes / SECTOR as u64;
        let mut at = if random.per_million(habits.hot) {
            // Hot blocks are spread over the volume.
            let hot = random.below(habits.hot_blocks);
            mix(hot ^ number) % sectors
        } else {
            random.below(sectors)
        };
        let exponent = random.below(sectors_max.ilog2().into());
        let mut len = random.between(1, 1 << exponent);
        if random.one_in(4) {
            len = random.between(1, sectors_max);
        }
        if habits.fills && !self.full_lately.get() {
            len = sectors_max;
        }
        if random.per_million(habits.aligned) {
            at -= at % 8;
            len = len.next_multiple_of(8);
        }
        len = len.min(sectors - at);
        // A request has at most 32 pages.
        len = len.min(256 - at % 8);
        (at * SECTOR as u64, len * SECTOR as u64)
    }

    fn note(&self, what: &'static str, facts: [u64; 3]) {
        self.trace.note(self.exec.now(), what, facts);
    }

    async fn write(&self, aim: &Aim, random: &mut Random) -> Checked {
        let (offset, len) = self.range(
            (aim.number, aim.size_bytes),
            random,
            self.profile.habits.sectors_max,
        );
        let Some(_claim) = self.claim(aim, offset, len) else {
            return Ok(());
        };
        let span = span(offset, len);
        let mut buf = Buf::from_heap(span.blocks());
        let change = (self.model.borrow_mut()).begin_change(aim.number, offset, len, true);
        self.fill(&change, span, &mut buf);
        self.note("> write", [change.write, offset, len]);
        let fua = self.network.is_some() && random.one_in(8);
        let answer = match &self.network {
            None => Answer::Got(self.store.write(aim.id, span, buf).await),
            Some(clients) => {
                let write = clients.write(aim.number, &aim.name, span, &buf, fua);
                write.await
            }
        };
        self.note("< write", [change.write, answer.code(), 0]);
        self.end_change(&change, answer, fua)
    }

    fn end_change(&self, change: &Change, answer: Answer<()>, durable: bool) -> Checked {
        let mut model = self.model.borrow_mut();
        match answer {
            Answer::Lost => model.lose_change(change),
            // The connection was made before a rollback.
            Answer::Got(Err(StoreError::NoVolume)) if self.was_rolled_back(change.volume) => {
                model.lose_change(change);
            }
            // The server cuts it into pieces, and only some of them may have been refused.
            Answer::Got(Err(
                error @ (StoreError::NoSpace | StoreError::NoVolume | StoreError::OutOfRange),
            )) if self.network.is_some() => {
                drop(model);
                return self.doubt_change(change, error);
            }
            Answer::Got(result) if durable => return model.end_durable_change(change, result),
            Answer::Got(result) => {
                if result == Err(StoreError::NoSpace) {
                    self.is_full();
                }
                if result == Err(StoreError::Absent) {
                    self.count(Count::Absences);
                }
                return model.end_change(change, result);
            }
        }
        Ok(())
    }

    fn doubt_change(&self, change: &Change, error: StoreError) -> Checked {
        if error == StoreError::NoSpace {
            self.is_full();
        }
        self.model.borrow_mut().doubt_change(change, error)
    }

    fn is_full(&self) {
        self.full.set(true);
        self.full_lately.set(true);
        self.count(Count::Refusals);
    }

    /// Takes a range for a change; `None` when it overlaps another one and the order would not be known.
    fn claim(&self, aim: &Aim, offset: u64, len: u64) -> Option<Claim<'_>> {
        let block = BLOCK_SIZE as u64;
        self.claim_range(Range {
            volume: aim.number,
            first: offset / block,
            last: (offset + len - 1) / block,
            is_exclusive: self.network.is_some(),
        })
    }

    /// Takes a whole volume.
    fn claim_all(&self, volume: u64) -> Option<Claim<'_>> {
        self.claim_range(Range {
            volume,
            first: 0,
            last: u64::MAX,
            is_exclusive: true,
        })
    }

    fn claim_range(&self, range: Range) -> Option<Claim<'_>> {
        let mut changing = self.changing.borrow_mut();
        let collides = |other: &Range| {
            other.volume == range.volume
                && other.first <= range.last
                && range.first <= other.last
                && (other.is_exclusive || range.is_exclusive)
        };
        if changing.iter().any(collides) {
            return None;
        }
        changing.push(range);
        Some(Claim {
            changing: &self.changing,
            range,
        })
    }

    fn fill(&self, change: &Change, span: Span, buf: &mut Buf) {
        let model = self.model.borrow();
        let first_block = span.offset / BLOCK_SIZE as u64;
        let sectors =
            span.offset / SECTOR as u64..(span.offset + u64::from(span.len)) / SECTOR as u64;
        for index in 0..buf.blocks() {
            // What lies outside the range must never show up anywhere.
            let block = buf.block_mut(index);
            block.fill(0xee);
            for (inside, bytes) in block.chunks_mut(SECTOR).enumerate() {
                let sector = (first_block + index as u64) * 8 + inside as u64;
                if sectors.contains(&sector) {
                    content::fill(model.seed(), model.stamp(change, sector), bytes);
                }
            }
        }
    }

    async fn read(&self, aim: &Aim, random: &mut Random) -> Checked {
        let (offset, len) = self.range((aim.number, aim.size_bytes), random, 256);
        let span = span(offset, len);
        let reading = self.model.borrow_mut().begin_read(aim.number, offset, len);
        self.note("> read", [aim.number, offset, len]);
        let answer = match &self.network {
            None => {
                let buf = Buf::from_heap(span.blocks());
                let (buf, result) = self.store.read(aim.id, span, buf).await;
                Answer::Got(result.map(|_| buf))
            }
            Some(clients) => clients.read(aim.number, &aim.name, span).await,
        };
        self.note("< read", [aim.number, offset, answer.code()]);
        let mut model = self.model.borrow_mut();
        match answer {
            Answer::Lost => model.lose_read(&reading),
            Answer::Got(Err(StoreError::NoVolume)) if self.was_rolled_back(aim.number) => {
                model.lose_read(&reading);
            }
            Answer::Got(Err(error)) => {
                if error == StoreError::Absent {
                    self.count(Count::Absences);
                }
                return model.end_read(&reading, Err(error));
            }
            Answer::Got(Ok(buf)) => return model.end_read(&reading, Ok(&bytes_of(&buf))),
        }
        Ok(())
    }

    /// Whether its clients were sent away by a rollback.
    fn was_rolled_back(&self, number: u64) -> bool {
        self.rolled_back.borrow().contains(&number)
    }

    async fn discard(&self, aim: &Aim, random: &mut Random) -> Checked {
        let (mut offset, mut len) = self.range((aim.number, aim.size_bytes), random, 256);
        if random.one_in(10) {
            // Up to the whole volume.
            let sectors = aim.size_bytes / SECTOR as u64;
            let low = random.below(sectors);
            let high = random.between(low + 1, sectors);
            (offset, len) = (low * SECTOR as u64, (high - low) * SECTOR as u64);
        }
        if self.network.is_some() {
            // What one request can ask for.
            len = len.min(u64::from(u32::MAX - 511));
        }
        let Some(_claim) = self.claim(aim, offset, len) else {
            return Ok(());
        };
        let change = (self.model.borrow_mut()).begin_change(aim.number, offset, len, false);
        self.note("> discard", [aim.number, offset, len]);
        let answer = match &self.network {
            None => Answer::Got(self.store.discard(aim.id, offset, len).await),
            Some(clients) => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                clients.discard(aim.number, &aim.name, offset, len).await
            }
        };
        self.note("< discard", [aim.number, offset, answer.code()]);
        let block = BLOCK_SIZE as u64;
        let whole = offset.is_multiple_of(block) && len.is_multiple_of(block);
        if whole && matches!(answer, Answer::Got(Err(StoreError::NoSpace))) {
            return Err("a discard of whole blocks was refused for lack of space".to_string());
        }
        // The whole blocks in the middle are gone, only the ends could not be written.
        match answer {
            Answer::Got(Err(
                error @ (StoreError::NoSpace | StoreError::NoVolume | StoreError::OutOfRange),
            )) if !whole => self.doubt_change(&change, error),
            answer => self.end_change(&change, answer, false),
        }
    }

    async fn flush(&self, aim: &Aim) -> Checked {
        let started = self.model.borrow_mut().begin_flush();
        self.note("> flush", [started, 0, 0]);
        let answer = match &self.network {
            None => Answer::Got(self.store.flush().await),
            Some(clients) => clients.flush(aim.number, &aim.name).await,
        };
        self.note("< flush", [started, answer.code(), 0]);
        match answer {
            // The volume went away, and with it the way of this flush.
            Answer::Lost | Answer::Got(Err(StoreError::NoVolume)) => Ok(()),
            Answer::Got(result) => self.model.borrow_mut().end_flush(started, result),
        }
    }
}

/// A range being changed.
struct Claim<'a> {
    changing: &'a RefCell<Vec<Range>>,
    range: Range,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut changing = self.changing.borrow_mut();
        if let Some(index) = changing.iter().position(|range| *range == self.range) {
            changing.swap_remove(index);
        }
    }
}

impl<T> Answer<T> {
    /// For the trace.
    fn code(&self) -> u64 {
        match self {
            Self::Got(Err(_)) => 0,
            Self::Got(Ok(_)) => 1,
            Self::Lost => 2,
        }
    }
}

/// The range as the store wants it.
#[must_use]
pub fn span(offset: u64, len: u64) -> Span {
    Span {
        offset,
        len: u32::try_from(len).unwrap_or(u32::MAX),
    }
}

/// All bytes of a buffer.
#[must_use]
pub fn bytes_of(buf: &Buf) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(buf.blocks() * BLOCK_SIZE);
    for page in buf.pages() {
        bytes.extend_from_slice(&page.bytes);
    }
    bytes
}
