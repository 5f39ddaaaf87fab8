//! Opening after a power cut, in the model `crash`.

use anyhow::{Context, Result, ensure};

use super::Mutant;
use super::drive::Drive;
use super::format::{Frame, NODES, Place, RING, Superblock, Tag, Value, tag_of};
use super::store::Store;

/// Writes an empty pool.
pub fn format(drive: &mut Drive) {
    let superblock = Superblock {
        generation: 1,
        mount: 0,
        nodes: [None; NODES],
        used: Default::default(),
        tail: 1,
        prev: 0,
    };
    drive.write_now(Place::Super(1), Value::Super(superblock.clone()));
    drive.write_now(
        Place::Super(0),
        Value::Super(Superblock {
            generation: 0,
            ..superblock
        }),
    );
    drive.flush_now();
}

/// Opens a pool. `is_cut` is asked between its steps whether the power fails again: then the drive comes back as it is.
///
/// # Errors
/// When something is missing that was once durable.
pub fn recover(
    mut drive: Drive,
    mutant: Option<Mutant>,
    is_cut: &mut impl FnMut() -> bool,
) -> Result<std::result::Result<Store, Drive>> {
    let mut superblock = newest(&drive).context("no superblock is whole")?;
    check_map(&drive, &superblock)?;
    let (frames, prev) = journal(&drive, mutant, &superblock)?;
    let end = superblock.tail - 1 + frames.len() as u64;
    if is_cut() {
        return Ok(Err(drive));
    }
    // What was found must stay found: the next frame will vouch for it.
    if mutant != Some(Mutant::NoFlushInRecovery) {
        drive.flush_now();
    }
    if is_cut() {
        return Ok(Err(drive));
    }
    superblock.generation += 1;
    superblock.mount += 1;
    let slot = if mutant == Some(Mutant::OneSlot) {
        0
    } else {
        superblock.generation % 2
    };
    if mutant != Some(Mutant::MountNotWritten) {
        drive.write_now(Place::Super(slot), Value::Super(superblock.clone()));
        if is_cut() {
            return Ok(Err(drive));
        }
        if mutant != Some(Mutant::NoFlushInRecovery) {
            drive.flush_now();
        }
    } else {
        superblock.generation -= 1;
    }
    let mut store = Store::new(drive, mutant, superblock, end, prev);
    for record in frames.into_iter().flat_map(|frame| frame.records) {
        store.used.insert(record.addr);
        let old = store.active.insert(record.lba, (record.addr, record.birth));
        store.replaced.extend(old.map(|(addr, _)| addr));
    }
    Ok(Ok(store))
}

fn newest(drive: &Drive) -> Option<Superblock> {
    let slots = (0..2).filter_map(|slot| match drive.read(Place::Super(slot)) {
        Some(Value::Super(superblock)) => Some(superblock),
        _ => None,
    });
    slots
        .max_by_key(|superblock| superblock.generation)
        .cloned()
}

/// Every node that a durable superblock refers to is there.
fn check_map(drive: &Drive, superblock: &Superblock) -> Result<()> {
    for (addr, tag) in superblock.nodes.iter().flatten() {
        let found = match drive.read(Place::Block(*addr)) {
            Some(Value::Node(node)) => Some(tag_of(&(*addr, *node))),
            _ => None,
        };
        ensure!(found == Some(*tag), "the node at {addr} is damaged");
    }
    Ok(())
}

/// The frames that count, and the tag of the last.
///
/// A frame that one in the ring vouches for must be there. Others count as long as each follows the one before and the
/// data that it names is there.
fn journal(
    drive: &Drive,
    mutant: Option<Mutant>,
    superblock: &Superblock,
) -> Result<(Vec<Frame>, Tag)> {
    let all = (0..RING).filter_map(|index| match drive.read(Place::Frame(index)) {
        Some(Value::Frame(frame)) if frame.seq >= superblock.tail => Some(frame),
        _ => None,
    });
    let all = all.collect::<Vec<_>>();
    let vouched = all.iter().map(|frame| frame.durable).max().unwrap_or(0);
    let (mut frames, mut prev) = (Vec::new(), superblock.prev);
    loop {
        let seq = superblock.tail + frames.len() as u64;
        let frame = all.iter().find(|frame| frame.seq == seq);
        let follows = |frame: &&&Frame| frame.prev == prev || mutant == Some(Mutant::NoChain);
        let whole = |frame: &&&Frame| {
            seq <= vouched || mutant == Some(Mutant::NoTailVerify) || is_data_there(drive, frame)
        };
        let Some(frame) = frame.filter(follows).filter(whole) else {
            ensure!(seq > vouched, "frame {seq} was durable and is missing");
            return Ok((frames, prev));
        };
        prev = frame.tag();
        frames.push((*frame).clone());
    }
}

fn is_data_there(drive: &Drive, frame: &Frame) -> bool {
    frame.records.iter().all(|record| {
        let data = Value::Data {
            lba: record.lba,
            birth: record.birth,
        };
        drive.read(Place::Block(record.addr)) == Some(&data)
    })
}
