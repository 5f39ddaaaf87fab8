//! Clients: tasks that send random requests and check every answer against the model.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use exec::Exec;
use store::{Span, Store, StoreError, VolumeId};
use world::{BLOCK_SIZE, Buf};

use crate::clock::Trace;
use crate::content::{self, SECTOR};
use crate::disk::SimDisk;
use crate::model::{Change, Model, RECORDS};
use crate::profile::Profile;
use crate::random::{Random, mix};

/// Keys of records that clients use.
pub const RECORD_KEYS: u64 = 6;

/// What the clients of one power-on share.
pub struct Session {
    pub exec: Exec,
    pub trace: Rc<Trace>,
    pub store: Store<SimDisk>,
    pub model: Rc<RefCell<Model>>,
    pub profile: Rc<Profile>,
    /// Requests that may still be sent.
    pub budget: Cell<u64>,
    /// Requests answered.
    pub answered: Cell<u64>,
    /// Clients still at work.
    pub working: Cell<usize>,
    /// The first thing that went wrong.
    pub failure: RefCell<Option<String>>,
    /// Records being set or read now.
    pub busy_records: Cell<u64>,
    /// A request was refused for lack of space a short while ago.
    pub full: Cell<bool>,
}

type Checked = Result<(), String>;

/// A volume that a request goes to, as it is now.
#[derive(Clone, Copy)]
struct Aim {
    number: u64,
    id: VolumeId,
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
            self.answered.set(self.answered.get() + 1);
        }
        self.working.set(self.working.get() - 1);
    }

    async fn request(&self, random: &mut Random) -> Checked {
        let habits = &self.profile.habits;
        let Some(aim) = self.aim(random) else {
            return self.create(random).await;
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
            0 => self.write(aim, random).await,
            1 => self.read(aim, random).await,
            2 => self.discard(aim, random).await,
            3 => self.flush().await,
            4 => self.record(random).await,
            5 => self.create(random).await,
            6 => self.delete(aim).await,
            7 => self.grow(aim, random).await,
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
            size_bytes: volume.size_bytes,
        })
    }

    /// A range within the volume, in bytes.
    fn range(&self, aim: Aim, random: &mut Random, sectors_max: u64) -> (u64, u64) {
        let habits = &self.profile.habits;
        let sectors = aim.size_bytes / SECTOR as u64;
        let mut at = if random.per_million(habits.hot) {
            // Hot blocks are spread over the volume.
            let hot = random.below(habits.hot_blocks);
            mix(hot ^ aim.number) % sectors
        } else {
            random.below(sectors)
        };
        let exponent = random.below(sectors_max.ilog2().into());
        let mut len = random.between(1, 1 << exponent);
        if random.one_in(4) {
            len = random.between(1, sectors_max);
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

    async fn write(&self, aim: Aim, random: &mut Random) -> Checked {
        let (offset, len) = self.range(aim, random, self.profile.habits.sectors_max);
        let span = span(offset, len);
        let mut buf = Buf::from_heap(span.blocks());
        let change = (self.model.borrow_mut()).begin_change(aim.number, offset, len, true);
        self.fill(&change, span, &mut buf);
        self.note("> write", [change.write, offset, len]);
        let result = self.store.write(aim.id, span, buf).await;
        self.note("< write", [change.write, u64::from(result.is_ok()), 0]);
        if result == Err(StoreError::NoSpace) {
            self.full.set(true);
        }
        self.model.borrow_mut().end_change(&change, result)
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

    async fn read(&self, aim: Aim, random: &mut Random) -> Checked {
        let (offset, len) = self.range(aim, random, 256);
        let span = span(offset, len);
        let buf = Buf::from_heap(span.blocks());
        let reading = self.model.borrow_mut().begin_read(aim.number, offset, len);
        self.note("> read", [aim.number, offset, len]);
        let (buf, result) = self.store.read(aim.id, span, buf).await;
        self.note("< read", [aim.number, offset, u64::from(result.is_ok())]);
        let bytes = bytes_of(&buf);
        (self.model.borrow_mut()).end_read(&reading, result.map(|()| bytes.as_slice()))
    }

    async fn discard(&self, aim: Aim, random: &mut Random) -> Checked {
        let (mut offset, mut len) = self.range(aim, random, 256);
        if random.one_in(10) {
            // Up to the whole volume.
            let sectors = aim.size_bytes / SECTOR as u64;
            let low = random.below(sectors);
            let high = random.between(low + 1, sectors);
            (offset, len) = (low * SECTOR as u64, (high - low) * SECTOR as u64);
        }
        let change = (self.model.borrow_mut()).begin_change(aim.number, offset, len, false);
        self.note("> discard", [aim.number, offset, len]);
        let result = self.store.discard(aim.id, offset, len).await;
        self.note("< discard", [aim.number, offset, u64::from(result.is_ok())]);
        let block = BLOCK_SIZE as u64;
        let whole = offset.is_multiple_of(block) && len.is_multiple_of(block);
        if whole && result == Err(StoreError::NoSpace) {
            return Err("a discard of whole blocks was refused for lack of space".to_string());
        }
        self.model.borrow_mut().end_change(&change, result)
    }

    async fn flush(&self) -> Checked {
        let started = self.model.borrow_mut().begin_flush();
        self.note("> flush", [started, 0, 0]);
        let result = self.store.flush().await;
        self.note("< flush", [started, u64::from(result.is_ok()), 0]);
        self.model.borrow_mut().end_flush(started, result)
    }

    async fn record(&self, random: &mut Random) -> Checked {
        let key = random.below(RECORD_KEYS);
        if self.busy_records.get() & (1 << key) != 0 {
            return Ok(());
        }
        self.busy_records.set(self.busy_records.get() | (1 << key));
        let (offset, len) = (key * BLOCK_SIZE as u64, BLOCK_SIZE as u64);
        let outcome = if random.one_in(3) {
            let reading = self.model.borrow_mut().begin_read(RECORDS, offset, len);
            let result = self.store.record(&record_key(key)).await;
            let bytes = match &result {
                Ok(value) => Ok(record_as_block(
                    &self.model.borrow(),
                    key,
                    value.as_deref(),
                )?),
                Err(error) => Err(*error),
            };
            let bytes = bytes.as_ref().map(Vec::as_slice).map_err(|error| *error);
            self.model.borrow_mut().end_read(&reading, bytes)
        } else {
            let is_write = !random.one_in(5);
            let change = (self.model.borrow_mut()).begin_change(RECORDS, offset, len, is_write);
            let value = is_write.then(|| {
                let len = 8 + random.index(3072 - 7);
                self.model.borrow_mut().note_record(&change, len);
                record_value(self.model.borrow().seed(), key, change.write, len)
            });
            self.note("> record", [key, change.write, 0]);
            let name = record_key(key);
            let result = self.store.set_record(&name, value.as_deref()).await;
            self.note("< record", [key, change.write, u64::from(result.is_ok())]);
            self.model.borrow_mut().end_record(&change, result)
        };
        self.busy_records.set(self.busy_records.get() & !(1 << key));
        outcome
    }

    async fn create(&self, random: &mut Random) -> Checked {
        let live = self.model.borrow().live().len();
        if live >= self.profile.volumes_max {
            return Ok(());
        }
        let bytes = self.profile.volume_bytes_max.min(128 << 40);
        let most = 1 << random.between(13, u64::from(bytes.ilog2()));
        let size = (4096 + random.below(most) / 512 * 512).min(bytes.max(4096));
        // A name of its own, so that a late delete cannot meet a new volume.
        let name = format!("v{}", random.next());
        let number = self.model.borrow_mut().begin_create(&name, size);
        self.note("> create", [number, size, 0]);
        let result = self.store.create_volume(&name, size).await;
        self.note("< create", [number, u64::from(result.is_ok()), 0]);
        if let Ok(info) = &result
            && (info.name != name || info.size_bytes != size)
        {
            return Err(format!("created {name} of {size} bytes, got {info:?}"));
        }
        let result = result.map(|info| info.id);
        self.model.borrow_mut().end_create(number, result)
    }

    async fn delete(&self, aim: Aim) -> Checked {
        self.model.borrow_mut().begin_delete(aim.number);
        self.note("> delete", [aim.number, 0, 0]);
        let result = self.store.delete_volume(aim.id).await;
        self.note("< delete", [aim.number, u64::from(result.is_ok()), 0]);
        self.model.borrow_mut().end_delete(aim.number, result)
    }

    async fn grow(&self, aim: Aim, random: &mut Random) -> Checked {
        let growing = |volume: &crate::model::Volume| volume.growing.is_some();
        if self.model.borrow().volume(aim.number).is_none_or(growing) {
            return Ok(());
        }
        let exponent = random.between(10, 43);
        let more = random.below(1 << exponent) / 512 * 512;
        let size = (aim.size_bytes + more).min(128 << 40);
        self.model.borrow_mut().begin_grow(aim.number, size);
        self.note("> grow", [aim.number, size, 0]);
        let result = self.store.grow_volume(aim.id, size).await;
        self.note("< grow", [aim.number, u64::from(result.is_ok()), 0]);
        self.model.borrow_mut().end_grow(aim.number, result)
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
    let pages = buf.pages().iter();
    pages.flat_map(|page| page.bytes).collect()
}

/// The name of a record.
#[must_use]
pub fn record_key(key: u64) -> String {
    format!("key-{key}")
}

fn record_value(seed: u64, key: u64, write: u64, len: usize) -> Vec<u8> {
    let mut value = write.to_le_bytes().to_vec();
    let words = (1..).flat_map(|index| mix(seed ^ mix(key ^ mix(write ^ index))).to_le_bytes());
    value.extend(words.take(len - 8));
    value
}

/// What the model would see if the record were the block that it is kept as.
///
/// # Errors
/// When the value is not one that was ever set.
pub fn record_as_block(model: &Model, key: u64, value: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let mut block = vec![0; BLOCK_SIZE];
    let Some(value) = value else {
        return Ok(block);
    };
    let write = value
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let len = model.record_len(write);
    if len < 8 || value != record_value(model.seed(), key, write, len) {
        return Err(format!(
            "record {key} has a value that nobody set (write {write}?)"
        ));
    }
    for (index, bytes) in block.chunks_mut(SECTOR).enumerate() {
        let stamp = content::Stamp {
            volume: RECORDS,
            sector: key * 8 + index as u64,
            write,
        };
        content::fill(model.seed(), stamp, bytes);
    }
    Ok(block)
}
