//! What arrived of origins, against the model.

use std::cell::RefCell;
use std::ops::Range;

use store::{BaseId, Store, StoreError};
use world::BLOCK_SIZE;

use super::Checked;
use crate::disk::SimDisk;
use crate::model::{Model, Trust, Verdict};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Compares what arrived with what is here after a recovery; the volumes have been looked at.
///
/// # Errors
/// The first difference.
pub async fn recovered(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    verdict: &mut Verdict,
) -> Checked {
    of_volumes(store, model)?;
    let adopted = model.borrow().adopted();
    for lineage in adopted {
        let id = model.borrow().base(lineage).and_then(|base| base.id);
        let Some(info) = id.and_then(|id| store.base(id)) else {
            continue;
        };
        match absent(store, info.id, info.size_bytes).await {
            Ok(absent) => model
                .borrow_mut()
                .recover_base(verdict, lineage, &info, &absent)?,
            Err(_) if model.borrow().trust() != Trust::Full => {}
            Err(error) => return Err(format!("looking at {info:?}: {error:?}")),
        }
    }
    model.borrow().check_bases(&store.bases())
}

/// Bases are those that are needed, and each volume names its own. Nothing is under way but clients.
///
/// # Errors
/// The first that is not so.
pub fn of_volumes(store: &Store<SimDisk>, model: &RefCell<Model>) -> Checked {
    let live = model.borrow().live();
    for number in live {
        let id = model.borrow().volume(number).and_then(|known| known.id);
        if let Some(info) = id.and_then(|id| store.volume(id)) {
            model.borrow_mut().check_bases_of(number, &info)?;
        }
    }
    Ok(())
}

/// Blocks of a base that are not here.
async fn absent(
    store: &Store<SimDisk>,
    base: BaseId,
    size_bytes: u64,
) -> Result<Vec<Range<u64>>, StoreError> {
    let end = size_bytes.next_multiple_of(BLOCK);
    let mut absent = Vec::new();
    let mut at = 0;
    while let Some(found) = store.first_absent(base, at, end - at).await? {
        absent.push(found.start / BLOCK..found.end / BLOCK);
        at = found.end;
    }
    Ok(absent)
}
