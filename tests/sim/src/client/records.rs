//! Records: set, removed and read back.

use world::BLOCK_SIZE;

use super::{Checked, Session};
use crate::content::{self, SECTOR};
use crate::model::{Model, RECORDS};
use crate::random::{Random, mix};

/// Keys of records that clients use.
pub const RECORD_KEYS: u64 = 6;

impl Session {
    pub(super) async fn record(&self, random: &mut Random) -> Checked {
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
            self.model.borrow_mut().end_durable_change(&change, result)
        };
        self.busy_records.set(self.busy_records.get() & !(1 << key));
        outcome
    }
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
