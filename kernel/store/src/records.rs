//! Records: small durable settings of the rooms above. Each is one block of an internal map, so replacing one is atomic.
//!
//! ```text
//! key length 1 | reserved 1 | value length 2 | key | value | zeros
//! ```

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::StoreError;
use crate::lineage::Place;
use crate::shared::{RECORDS, Shared};

/// The longest key in bytes.
const KEY_MAX: usize = 64;

/// The longest value in bytes.
const VALUE_MAX: usize = 3072;

/// The most records.
const RECORDS_MAX: usize = 4096;

impl<D: Disk> Shared<D> {
    pub async fn record(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let slot = {
            let state = self.state.borrow();
            state.require_open()?;
            state.records.get(key).copied()
        };
        let Some(slot) = slot else { return Ok(None) };
        // Not from the pool, here and below: nobody waits for a page, or for the journal, while holding one.
        let page = Buf::from_heap(1);
        let (page, result) = self
            .read_blocks(Place::Map(RECORDS), self.pool_uuid, slot, page)
            .await;
        result.map_err(|_| StoreError::DamagedPool)?;
        // A slot that was emptied meanwhile reads as zeros.
        Ok(decode(page.block(0))
            .filter(|(found, _)| found == key)
            .map(|(_, value)| value))
    }

    pub async fn set_record(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let length = value.map_or(0, <[u8]>::len);
        if key.is_empty() || key.len() > KEY_MAX || length > VALUE_MAX {
            return Err(StoreError::RecordTooLong);
        }
        // One at a time: which slot a key has is decided, used and given up in one turn.
        let turn = self
            .in_flight
            .enter(RECORDS, 0, RECORDS_MAX as u64, self.config.mutants)
            .await;
        let place = {
            let mut state = self.state.borrow_mut();
            state.require_serving()?;
            match (state.records.get(key), value) {
                (Some(slot), _) => Some((*slot, false)),
                (None, None) => None,
                (None, Some(_)) => {
                    let used: hashbrown::HashSet<u64> = state.records.values().copied().collect();
                    let free = (0..RECORDS_MAX as u64).find(|slot| !used.contains(slot));
                    let slot = free.ok_or(StoreError::NoSpace)?;
                    // Taken at once, so that another new key gets another slot.
                    state.records.insert(key.to_string(), slot);
                    Some((slot, true))
                }
            }
        };
        let Some((slot, is_new)) = place else {
            drop(turn);
            // Nothing to forget; still, like every acknowledged change, it stands behind all before it.
            return self.flush_now().await;
        };
        let result = match value {
            Some(value) => {
                let mut page = Buf::from_heap(1);
                encode(page.block_mut(0), key, value);
                self.write_blocks(RECORDS, slot, page).await
            }
            None => self.punch(RECORDS, slot, slot + 1).await,
        };
        if value.is_none() && result.is_ok() || is_new && result.is_err() {
            self.state.borrow_mut().records.remove(key);
        }
        drop(turn);
        result?;
        self.flush_now().await
    }

    /// Finds all keys; after recovery.
    pub async fn load_records(&self) -> Result<(), StoreError> {
        for (slot, block) in self.internal_blocks(RECORDS).await? {
            if let Some((key, _)) = decode(&block) {
                self.state.borrow_mut().records.insert(key, slot);
            }
        }
        Ok(())
    }
}

fn encode(block: &mut [u8; BLOCK_SIZE], key: &str, value: &[u8]) {
    block.fill(0);
    block[0] = u8::try_from(key.len()).unwrap_or(0);
    block[2..4].copy_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    block[4..4 + key.len()].copy_from_slice(key.as_bytes());
    block[4 + key.len()..4 + key.len() + value.len()].copy_from_slice(value);
}

fn decode(block: &[u8; BLOCK_SIZE]) -> Option<(String, Vec<u8>)> {
    let key_len = usize::from(block[0]);
    let value_len = usize::from(u16::from_le_bytes([block[2], block[3]]));
    let key = block.get(4..4 + key_len).filter(|key| !key.is_empty())?;
    let value = block.get(4 + key_len..4 + key_len + value_len)?;
    Some((core::str::from_utf8(key).ok()?.to_string(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_garbage_does_not() {
        let mut page = Buf::from_heap(1);
        assert_eq!(decode(page.block(0)), None);
        encode(page.block_mut(0), "token/1", b"value");
        assert_eq!(
            decode(page.block(0)),
            Some(("token/1".into(), b"value".to_vec()))
        );
        page.block_mut(0).fill(0xff);
        assert_eq!(decode(page.block(0)), None);
    }
}
