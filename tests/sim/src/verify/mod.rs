//! Looks at a pool as a whole: contents against the model, metadata against itself, space against the beginning.

mod bases;
mod scrub;
mod snapshots;

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use exec::Exec;
use store::{CheckOptions, Finding, Owner, Store, StoreError, VolumeId, check};
use world::{BLOCK_SIZE, Buf};

use crate::client::records::{record_as_block, record_key};
use crate::client::{bytes_of, span};
use crate::disk::SimDisk;
use crate::model::{Model, RECORDS, Sight, Trust, Verdict, mask_within};

pub use bases::of_volumes as bases_of_volumes;
pub use scrub::scrub;
pub use snapshots::{difference, usage};

/// Maps below are the store's own, and have two copies.
const FIRST_VOLUME: u64 = 16;

type Checked = Result<(), String>;

/// Compares all volumes and records with the model after a recovery; `all` also those blocks that nothing was done to
/// since the last one.
///
/// # Errors
/// The first difference.
pub async fn contents(
    store: Store<SimDisk>,
    model: Rc<RefCell<Model>>,
    all: bool,
    record_keys: u64,
) -> Checked {
    let mut verdict = Verdict::default();
    let volumes = store.volumes();
    (model.borrow_mut()).recover_volumes(&mut verdict, &volumes)?;
    let found = volumes.iter().flat_map(|info| store.snapshots(info.id));
    let found: Vec<_> = found.collect();
    (model.borrow_mut()).recover_snapshots(&mut verdict, &found)?;
    bases::recovered(&store, &model, &mut verdict).await?;
    let live = model.borrow().live();
    for number in live {
        let (id, size, blocks) = {
            let model = model.borrow();
            let Some(volume) = model.volume(number) else {
                continue;
            };
            let Some(id) = volume.id else { continue };
            (id, volume.size_bytes, model.touched_blocks(number, !all))
        };
        for run in runs(&blocks) {
            recover_run(&store, &model, &mut verdict, (number, id, size), run).await?;
        }
    }
    let live = model.borrow().live_snapshots();
    for number in live {
        snapshots::contents(&store, &model, number, all).await?;
    }
    for key in 0..record_keys {
        let value = match store.record(&record_key(key)).await {
            Ok(value) => value,
            Err(error) => {
                excuse(&model, RECORDS, key, error)?;
                continue;
            }
        };
        let mut model = model.borrow_mut();
        let block = record_as_block(&model, key, value.as_deref())?;
        let observed = model.observe(RECORDS, key, u8::MAX, &block)?;
        model.recover_block(&mut verdict, RECORDS, key, &Sight::Sectors(observed))?;
    }
    model.borrow_mut().recovered(&verdict)
}

/// Volumes and snapshots must be found by their names and numbers, and those must be unique.
///
/// # Errors
/// The first that is not.
pub fn catalog(store: &Store<SimDisk>) -> Checked {
    for info in store.volumes() {
        let by_name = store.find(&info.name);
        let by_number = store.volume(info.id);
        let own = store.snapshots(info.id);
        if by_name.as_ref() != Some(&info)
            || by_number.as_ref() != Some(&info)
            || own.len() != info.snapshots
        {
            return Err(format!(
                "{info:?} is {by_name:?} by name, {by_number:?} by number, and has snapshots {own:?}"
            ));
        }
        for snapshot in own {
            let by_name = store.find_snapshot(info.id, &snapshot.name);
            let by_number = store.snapshot(snapshot.id);
            if by_name.as_ref() != Some(&snapshot) || by_number.as_ref() != Some(&snapshot) {
                return Err(format!(
                    "{snapshot:?} is {by_name:?} by name and {by_number:?} by number"
                ));
            }
        }
    }
    Ok(())
}

/// Cuts ascending block numbers into runs of neighbours: first and count.
fn runs(blocks: &[u64]) -> Vec<(u64, usize)> {
    let mut runs: Vec<(u64, usize)> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some((first, count)) if *first + *count as u64 == *block && *count < Buf::PAGES_MAX => {
                *count += 1;
            }
            _ => runs.push((*block, 1)),
        }
    }
    runs
}

async fn recover_run(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    verdict: &mut Verdict,
    (number, id, size): (u64, VolumeId, u64),
    (first, count): (u64, usize),
) -> Checked {
    let block = BLOCK_SIZE as u64;
    let offset = first * block;
    // Blocks of a write beyond a grow that did not survive do not exist any more.
    let end = (offset + count as u64 * block).min(size);
    let mut bytes = Vec::new();
    let mut result = Ok(());
    if offset < end {
        let span = span(offset, end - offset);
        let (buf, read) = store.read(id, span, Buf::from_heap(span.blocks())).await;
        (bytes, result) = (bytes_of(&buf), read.map(|_| ()));
    }
    if let Err(error) = result {
        if count == 1 && error == StoreError::Absent {
            return model.borrow_mut().recover_absent(verdict, number, first);
        }
        if count == 1 {
            return excuse(model, number, first, error);
        }
        // Which of them is it?
        for index in 0..count as u64 {
            let one = (first + index, 1);
            Box::pin(recover_run(store, model, verdict, (number, id, size), one)).await?;
        }
        return Ok(());
    }
    for index in 0..count {
        let at = first + index as u64;
        let mask = mask_within(size, at);
        let mut model = model.borrow_mut();
        let lineage = model.lineage(number);
        let observed = match bytes.get(index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE) {
            Some(bytes) => model.observe(lineage, at, mask, bytes)?,
            None => [None; 8],
        };
        model.recover_block(verdict, number, at, &Sight::Sectors(observed))?;
    }
    Ok(())
}

fn excuse(model: &RefCell<Model>, number: u64, block: u64, error: StoreError) -> Checked {
    let mut model = model.borrow_mut();
    if model.trust() == Trust::Full {
        return Err(format!(
            "volume {number} block {block} cannot be read after recovery: {error:?}"
        ));
    }
    model.lose_block(number, block);
    Ok(())
}

/// Lets the store's checker look at a pool that is not open; it shares nothing with the engine but the codecs.
///
/// When the pool was not `closed`, the power cut may have left second copies behind: recovery makes them again.
///
/// # Errors
/// Everything that it found.
pub async fn at_rest(disks: Vec<SimDisk>, verify_data: bool, closed: bool) -> Checked {
    let mut findings = Vec::new();
    let options = CheckOptions { verify_data };
    let mut note = |finding| {
        let copy = match &finding {
            Finding::JournalReplica { .. } => true,
            Finding::Damaged { what, .. } => {
                matches!(what, Owner::Block { volume, .. } if *volume < FIRST_VOLUME)
            }
            _ => false,
        };
        if closed || !copy {
            findings.push(finding);
        }
    };
    match check(&disks, options, &mut note).await {
        Ok(_) if findings.is_empty() => Ok(()),
        Ok(summary) => Err(format!("check finds {findings:#?}\n{summary:?}")),
        Err(error) => Err(format!("check cannot begin: {error:?} {findings:#?}")),
    }
}

/// Deletes everything and waits until all space has come back.
///
/// # Errors
/// A refusal, or space that does not come back.
pub async fn empty(store: Store<SimDisk>, exec: Exec, free_at_first: u64) -> Checked {
    for info in store.volumes() {
        let deleted = store.delete_volume(info.id).await;
        deleted.map_err(|error| format!("last delete of {}: {error:?}", info.name))?;
    }
    // Records and the paths of empty internal trees stay.
    let wanted = free_at_first.saturating_sub(2 << 20);
    for _ in 0..300 {
        let pool = store.pool();
        if pool.free_bytes >= wanted {
            return Ok(());
        }
        exec.sleep(Duration::from_secs(1)).await;
        // What one checkpoint frees can be used after the next; nothing else makes an idle pool write one.
        let written = store.checkpoint().await;
        written.map_err(|error| format!("last checkpoints: {error:?}"))?;
    }
    Err(format!(
        "space does not come back: {wanted} bytes expected, {:?}",
        store.pool()
    ))
}
