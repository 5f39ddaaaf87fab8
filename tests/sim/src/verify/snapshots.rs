//! Snapshots and volumes of a family against the model: contents, differences, usage.

use std::cell::RefCell;
use std::collections::BTreeMap;

use store::{Change, Changes, Content, Extent, SnapshotId, Source, Store, StoreError};
use world::{BLOCK_SIZE, Buf};

use super::{Checked, runs};
use crate::client::{bytes_of, span};
use crate::disk::SimDisk;
use crate::model::{Member, Model, ORIGIN, Pair, State, Trust};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What a comparison without a checkpoint between is called.
const EXTENTS: &str = "extents";

/// Checkpoints within which all that was deleted is taken apart.
const CHECKPOINTS_MAX: u32 = 300;

/// Reads a snapshot and compares it with the model; `all` also what is known of it already.
///
/// # Errors
/// The first difference.
pub async fn contents(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    number: u64,
    all: bool,
) -> Checked {
    let (blocks, id, size) = {
        let model = model.borrow();
        let Some(snapshot) = model.snapshot(number) else {
            return Ok(());
        };
        let Some(id) = snapshot.id else { return Ok(()) };
        (model.snapshot_blocks(number, !all), id, snapshot.size_bytes)
    };
    for (first, count) in runs(&blocks) {
        let offset = first * BLOCK;
        let end = (offset + count as u64 * BLOCK).min(size);
        if offset >= end {
            continue;
        }
        let span = span(offset, end - offset);
        let (buf, result) = store.read(id, span, Buf::from_heap(span.blocks())).await;
        if result.as_ref().err() == Some(&StoreError::Absent) {
            // Which of them is it?
            for block in first..end.div_ceil(BLOCK) {
                absent_or_not(store, model, (number, id, size), block).await?;
            }
            continue;
        }
        let mut model = model.borrow_mut();
        if let Err(error) = result {
            model.refused_snapshot(number, error)?;
            continue;
        }
        for (block, bytes) in (first..).zip(bytes_of(&buf).chunks(BLOCK_SIZE)) {
            model.saw_snapshot_block(number, block, u8::MAX, bytes)?;
        }
    }
    Ok(())
}

/// Reads one block of a snapshot, some of which is absent.
async fn absent_or_not(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    (number, id, size): (u64, SnapshotId, u64),
    block: u64,
) -> Checked {
    let lineage = model.borrow().lineage_of_snapshot(number);
    let unsure = model.borrow().unsure(lineage, block..block + 1)[0];
    let span = span(block * BLOCK, BLOCK.min(size - block * BLOCK));
    let (buf, result) = store.read(id, span, Buf::from_heap(1)).await;
    let mut model = model.borrow_mut();
    match result {
        Ok(_) => {
            model.saw_snapshot_presence(number, block, false, unsure)?;
            model.saw_snapshot_block(number, block, u8::MAX, &bytes_of(&buf))
        }
        Err(StoreError::Absent) => model.saw_snapshot_presence(number, block, true, unsure),
        Err(error) => model.refused_snapshot(number, error),
    }
}

/// Lets the store compare two sources page by page, and the model say what must come out.
///
/// # Errors
/// What is wrong with the answer; inside, what the store refused.
pub async fn difference(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    from: Option<(Member, Source)>,
    to: (Member, Source),
    size_bytes: u64,
    max: usize,
) -> Result<Result<(), StoreError>, String> {
    let mut ranges: Vec<Change> = Vec::new();
    let mut start = 0;
    let older = from.map(|(_, source)| source);
    loop {
        let Changes { ranges: more, next } = match store.diff(older, to.1, start, max).await {
            Ok(changes) => changes,
            Err(error) => return Ok(Err(error)),
        };
        if more.len() > max {
            return Err(format!("a page of {} ranges instead of {max}", more.len()));
        }
        check_order(&more, start, next, size_bytes)?;
        ranges.extend(more);
        match next {
            Some(next) if next > start => start = next,
            Some(next) => return Err(format!("a difference that goes on at {next} after {start}")),
            None => break,
        }
    }
    compare("difference", &ranges, model, from, to.0, size_bytes)?;
    if matches!(older, Some(Source::Volume(_))) {
        return Ok(Ok(()));
    }
    match extents(store, older, to.1, max).await? {
        Ok(ranges) => compare(EXTENTS, &ranges, model, from, to.0, size_bytes).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

fn compare(
    what: &str,
    ranges: &[Change],
    model: &RefCell<Model>,
    from: Option<(Member, Source)>,
    to: Member,
    size_bytes: u64,
) -> Checked {
    let model = model.borrow();
    // What was deleted while its answer was on the way is forgotten already.
    let is_gone = |member| match member {
        Member::Volume(number) => model.volume(number).is_none(),
        Member::Snapshot(number) => model.snapshot(number).is_none(),
    };
    let any_gone = is_gone(to) || from.is_some_and(|(member, _)| is_gone(member));
    if model.trust() == Trust::DrivesLie || any_gone {
        return Ok(());
    }
    let mut pairs = model.pairs(from.map(|(member, _)| member), to);
    if what == EXTENTS && from.is_none() {
        // Of zeros that are here, some are blocks, and of the others not all are known to be zeros.
        let is_zeros = |state: &State| state.version == ORIGIN && state.sectors == [0; 8];
        let pairs = pairs.values_mut();
        let zeros = pairs.filter(|pair| pair.is_some_and(|pair| is_zeros(&pair.to)));
        zeros.for_each(|pair| *pair = None);
    }
    check_ranges(ranges, &pairs, from.is_some(), size_bytes)
        .map_err(|wrong| format!("{what} of {from:?} and {to:?}: {wrong}"))
}

/// Lets the store compare two sources without a checkpoint between: what is not the same, as a difference would say it.
async fn extents(
    store: &Store<SimDisk>,
    older: Option<Source>,
    newer: Source,
    max: usize,
) -> Result<Result<Vec<Change>, StoreError>, String> {
    let size_bytes = match newer {
        Source::Volume(id) => store.volume(id).map(|info| info.size_bytes),
        Source::Snapshot(id) => store.snapshot(id).map(|info| info.size_bytes),
    };
    let from = match older {
        Some(Source::Snapshot(id)) => Some(id),
        _ => None,
    };
    let Some(size_bytes) = size_bytes else {
        return Ok(Err(StoreError::NoSnapshot));
    };
    let mut changes = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let more = match store.extents(from, newer, at, size_bytes - at, max).await {
            Ok(more) => more,
            Err(error) => return Ok(Err(error)),
        };
        if more.is_empty() || more.len() > max {
            return Err(format!("{} extents instead of up to {max}", more.len()));
        }
        for Extent { len, content } in more {
            if content != Content::Same {
                changes.push(Change {
                    offset: at,
                    len: len.next_multiple_of(BLOCK),
                    is_zero: content == Content::Zero,
                });
            }
            at += len;
        }
    }
    Ok(Ok(changes))
}

/// Ranges ascend, lie in the source, are whole blocks and do not touch without need.
fn check_order(ranges: &[Change], start: u64, next: Option<u64>, size_bytes: u64) -> Checked {
    let mut at = start;
    let mut before: Option<&Change> = None;
    for range in ranges {
        let end = range.offset + range.len;
        let touches = before.is_some_and(|before| {
            before.offset + before.len == range.offset && before.is_zero == range.is_zero
        });
        let whole = range.offset.is_multiple_of(BLOCK) && range.len.is_multiple_of(BLOCK);
        let inside = range.offset >= at
            && range.len > 0
            && end <= size_bytes.next_multiple_of(BLOCK)
            && next.is_none_or(|next| end <= next);
        if touches || !whole || !inside {
            return Err(format!("a bad range {range:?} from {at} on, in {ranges:?}"));
        }
        at = end;
        before = Some(range);
    }
    Ok(())
}

fn check_ranges(
    ranges: &[Change],
    pairs: &BTreeMap<u64, Option<Pair>>,
    has_older: bool,
    size_bytes: u64,
) -> Checked {
    let mut said: BTreeMap<u64, bool> = BTreeMap::new();
    for range in ranges {
        let first = range.offset / BLOCK;
        let count = range.len / BLOCK;
        // A range may cover much that nobody ever touched only where it is wrong.
        let known = pairs.range(first..first + count).count() as u64;
        if known < count {
            return Err(format!(
                "{range:?}, where only {known} blocks were ever touched"
            ));
        }
        said.extend((first..first + count).map(|block| (block, range.is_zero)));
    }
    for (block, pair) in pairs {
        let Some(Pair { from, to }) = pair else {
            continue;
        };
        if block * BLOCK >= size_bytes {
            continue;
        }
        let said = said.get(block).copied();
        let fits = match said {
            Some(is_zero) => {
                // The same version may be meant where one is not certain.
                let differ = from.version != to.version || from.is_ambiguous();
                differ && (to.is_ambiguous() || is_zero == (to.version == 0))
            }
            None => {
                from.sectors == to.sectors
                    && (from.version == to.version || to.is_ambiguous() || from.is_ambiguous())
            }
        };
        let fits = fits && (has_older || said != Some(true));
        if !fits {
            return Err(format!("block {block}: {from:?} and {to:?}, said {said:?}"));
        }
    }
    Ok(())
}

/// Compares a volume with a snapshot of its family or with nothing. Nobody changes it meanwhile.
///
/// # Errors
/// What is wrong with the answer.
async fn difference_of_volume(
    store: &Store<SimDisk>,
    model: &RefCell<Model>,
    lineage: u64,
    members: &[Member],
) -> Checked {
    let Some(volume) = members
        .iter()
        .rev()
        .find(|m| matches!(m, Member::Volume(_)))
    else {
        return Ok(());
    };
    let size = match volume {
        Member::Volume(number) => model.borrow().volume(*number).map_or(0, |v| v.size_bytes),
        Member::Snapshot(_) => 0,
    };
    let older = members.first().filter(|older| *older != volume);
    let sources = {
        let model = model.borrow();
        let older = older.and_then(|older| Some((*older, model.source(*older)?)));
        model
            .source(*volume)
            .map(|source| (older, (*volume, source)))
    };
    let Some((older, newer)) = sources else {
        return Ok(());
    };
    let found = difference(store, model, older, newer, size, 3).await?;
    found.map_err(|error| format!("difference in lineage {lineage}: {error:?}"))
}

/// Compares who uses how much, where the model knows. Nobody changes anything meanwhile. Returns how many were compared.
///
/// # Errors
/// The first difference.
pub async fn usage(store: &Store<SimDisk>, model: &RefCell<Model>) -> Result<u64, String> {
    model.borrow().check_bases(&store.bases())?;
    super::bases_of_volumes(store, model)?;
    let lineages = model.borrow().lineages();
    let mut compared = 0;
    for lineage in lineages {
        let Some(expected) = model.borrow().usage(lineage) else {
            continue;
        };
        let members: Vec<Member> = expected.keys().copied().collect();
        difference_of_volume(store, model, lineage, &members).await?;
        for (member, expected) in expected {
            let Some(source) = model.borrow().source(member) else {
                continue;
            };
            // What was deleted counts until it is taken apart, a part with each checkpoint.
            let mut patience = CHECKPOINTS_MAX;
            loop {
                let found = store.usage(source).await;
                let found = found.map_err(|error| format!("usage of {member:?}: {error:?}"))?;
                if found.referenced_bytes == expected.referenced * BLOCK
                    && found.unique_bytes == expected.unique * BLOCK
                {
                    break;
                }
                if patience == 0 || found.referenced_bytes != expected.referenced * BLOCK {
                    return Err(format!(
                        "usage of {member:?} ({source:?}): {found:?}, but {expected:?} blocks"
                    ));
                }
                patience -= 1;
                let written = store.checkpoint().await;
                written.map_err(|error| format!("checkpoint: {error:?}"))?;
            }
            compared += 1;
        }
    }
    Ok(compared)
}
