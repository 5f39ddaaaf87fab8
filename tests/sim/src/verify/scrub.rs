//! Scrub against rot that is put under an idle pool and taken away again: it must find exactly what reads cannot read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use store::{ScrubPosition, ScrubStep, Source, Store, StoreError};
use world::{BLOCK_SIZE, BlockAddr, Buf};

use super::Checked;
use crate::client::span;
use crate::content::{Found, SECTOR, identify};
use crate::disk::SimDisk;
use crate::model::{Member, Model};
use crate::random::Random;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A block that rots for a while.
struct Victim {
    disk: SimDisk,
    at: BlockAddr,
    before: Vec<u8>,
    rotten: Vec<u8>,
}

/// Scrubs a sound pool, lets blocks of data rot, scrubs again, and undoes the rot. Nobody uses the pool meanwhile. Returns
/// how many rotten blocks were in use.
///
/// # Errors
/// Damage where there is none, or rot that is not found.
pub async fn scrub(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    disks: &[SimDisk],
    random: &mut Random,
) -> Result<u64, String> {
    for _ in 0..2 {
        // What is in the caches of drives cannot rot.
        let written = store.checkpoint().await;
        written.map_err(|error| format!("checkpoint before a scrub: {error:?}"))?;
    }
    let sound = full(store, random).await?;
    require_nothing(&sound, "a sound pool")?;
    if let Some(blocks) = model.borrow().data_blocks()
        && sound.blocks < blocks
    {
        return Err(format!(
            "a scrub looked at {} blocks, but {blocks} hold data",
            sound.blocks
        ));
    }
    let seed = model.borrow().seed();
    let mut victims = Vec::new();
    for _ in 0..random.between(1, 4) {
        victims.extend(rot(seed, disks, random));
    }
    let step = full(store, random).await?;
    let found = places(&step)?;
    let lost = unreadable(store, model).await?;
    // The last first, since one block may have been chosen twice. Somebody may have written there meanwhile.
    for victim in victims.into_iter().rev() {
        if victim.disk.is_stable(victim.at) && victim.disk.peek(victim.at) == victim.rotten {
            victim.disk.poke(victim.at, &victim.before);
        }
    }
    let is_complete = step.damaged.iter().all(|damage| damage.places_more == 0);
    if found != lost && (is_complete || !found.is_subset(&lost)) {
        let missed: Vec<_> = lost.difference(&found).collect();
        let invented: Vec<_> = found.difference(&lost).collect();
        return Err(format!(
            "a scrub does not find what reads do, {missed:?}, or finds what they do not, {invented:?}"
        ));
    }
    require_nothing(&full(store, random).await?, "a pool that is sound again")?;
    Ok(step.damaged.len() as u64)
}

fn require_nothing(step: &ScrubStep, what: &str) -> Checked {
    if step.damaged.is_empty() && step.repaired == 0 {
        Ok(())
    } else {
        Err(format!("a scrub of {what} finds {step:?}"))
    }
}

/// A whole scrub in steps of any length, as one.
async fn full(store: &Store<SimDisk>, random: &mut Random) -> Result<ScrubStep, String> {
    let mut all = ScrubStep::default();
    let mut at = ScrubPosition::default();
    loop {
        let exponent = random.below(12);
        let step = store.scrub(at, 1 << exponent).await;
        let step = step.map_err(|error| format!("scrub at {at:?}: {error:?}"))?;
        all.blocks += step.blocks;
        all.repaired += step.repaired;
        all.damaged.extend(step.damaged);
        match step.next {
            Some(next) if next > at => at = next,
            Some(next) => return Err(format!("a scrub that goes on at {next:?} after {at:?}")),
            None => return Ok(all),
        }
    }
}

/// Flips a bit of a block that holds data of ours, in use or not.
fn rot(seed: u64, disks: &[SimDisk], random: &mut Random) -> Option<Victim> {
    let disk = &disks[random.index(disks.len())];
    let written = disk.written();
    for _ in 0..50 {
        let at = written[random.index(written.len())];
        let before = disk.peek(at);
        let is_data = |sector: &[u8]| matches!(identify(seed, sector), Found::Written(_));
        // What was just written there may be no data of ours any more.
        if disk.is_stable(at) && before.chunks(SECTOR).any(is_data) {
            let mut rotten = before.clone();
            rotten[random.index(BLOCK_SIZE)] ^= 1 << random.below(8);
            disk.poke(at, &rotten);
            return Some(Victim {
                disk: disk.clone(),
                at,
                before,
                rotten,
            });
        }
    }
    None
}

/// Blocks that a scrub says are lost, by everybody who has them.
fn places(step: &ScrubStep) -> Result<BTreeSet<(Source, u64)>, String> {
    let mut places = BTreeSet::new();
    for (index, damage) in step.damaged.iter().enumerate() {
        // A map that is taken apart meanwhile passes its blocks on, and the scrub may come upon them again.
        if step.damaged[..index].contains(damage) {
            continue;
        }
        for (source, offset) in &damage.places {
            let blocks = damage.len.div_ceil(BLOCK);
            for block in (offset / BLOCK..).take(usize::try_from(blocks).unwrap_or(0)) {
                if !places.insert((*source, block)) {
                    let all = &step.damaged;
                    return Err(format!(
                        "a scrub names block {block} of {source:?} twice: {all:?}"
                    ));
                }
            }
        }
    }
    Ok(places)
}

/// Blocks that cannot be read, of all volumes and snapshots.
async fn unreadable(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
) -> Result<BTreeSet<(Source, u64)>, String> {
    let mut lost = BTreeSet::new();
    let all: Vec<(Source, u64, Vec<u64>)> = {
        let model = model.borrow();
        let volumes = model.live().into_iter().filter_map(|number| {
            let source = model.source(Member::Volume(number))?;
            let size = model.volume(number)?.size_bytes;
            Some((source, size, model.touched_blocks(number, false)))
        });
        let snapshots = model.live_snapshots().into_iter().filter_map(|number| {
            let source = model.source(Member::Snapshot(number))?;
            let size = model.snapshot(number)?.size_bytes;
            Some((source, size, model.snapshot_blocks(number, false)))
        });
        volumes.chain(snapshots).collect()
    };
    for (source, size, blocks) in all {
        for block in blocks.into_iter().filter(|block| block * BLOCK < size) {
            let len = BLOCK.min(size - block * BLOCK);
            let span = span(block * BLOCK, len);
            match store.read(source, span, Buf::from_heap(1)).await.1 {
                Ok(_) | Err(StoreError::Absent) => {}
                Err(StoreError::Damaged { block: said }) if said == block => {
                    lost.insert((source, block));
                }
                Err(error) => {
                    return Err(format!("block {block} of {source:?}: {error:?}"));
                }
            }
        }
    }
    Ok(lost)
}
