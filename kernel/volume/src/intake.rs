//! What arrives becomes the store's.

use store::{BaseId, Store, StoreError};
use world::{Buf, Disk};

/// Gives the store what arrived; returns how many bytes of it are data.
pub async fn take_in<D: Disk + 'static>(
    store: &Store<D>,
    base: BaseId,
    mut offset: u64,
    mut rest: Buf,
) -> Result<u64, StoreError> {
    let is_zero = |buf: &Buf, index| buf.block(index).iter().all(|byte| *byte == 0);
    let mut data = 0;
    while !rest.is_empty() {
        let zero = is_zero(&rest, 0);
        let same = (0..rest.blocks()).take_while(|index| is_zero(&rest, *index) == zero);
        let after = rest.split_off(same.count());
        let part = core::mem::replace(&mut rest, after);
        let len = part.len() as u64;
        if zero {
            store.fill_zeros(base, offset, len).await?;
        } else {
            store.fill(base, offset, part).await?;
            data += len;
        }
        offset += len;
    }
    Ok(data)
}
