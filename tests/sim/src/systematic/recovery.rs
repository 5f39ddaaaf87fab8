//! Recovery from a power cut, judged: the pool is sound, opens, holds what it may hold, and works on.

use store::{Finding, Mutants, Owner, Store};

use super::cuts::{Cut, every_cut};
use super::operation::{Operation as O, User};
use super::power::Power;
use super::state::Users;
use super::tape::{Event, Image, TapeDisk};

/// Maps below are the store's own, and have two copies.
const FIRST_VOLUME: u64 = 16;

/// Whether this is one of what is possible.
///
/// # Errors
/// Both, when it is not.
pub fn expect(found: &Users, possible: &[&Users]) -> Result<(), String> {
    if possible.contains(&found) {
        return Ok(());
    }
    Err(format!(
        "found {found:#?}\nwhere one of these was possible: {possible:#?}"
    ))
}

/// What may be wrong after a power cut: second copies, which recovery makes again.
fn is_copy(finding: &Finding) -> bool {
    match finding {
        Finding::JournalReplica { .. } => true,
        Finding::Damaged { what, .. } => {
            matches!(what, Owner::Block { volume, .. } if *volume < FIRST_VOLUME)
        }
        _ => false,
    }
}

/// Recovers from a cut; `states` are what users had, each with the count of operations that it took. With `nested`, the
/// recovery is cut, too, behind each of its writes.
///
/// # Errors
/// What is wrong.
pub fn recover(
    cut: Cut,
    states: &[(Users, usize)],
    mutants: Mutants,
    (nested, works): (Option<&mut u64>, bool),
) -> Result<(), String> {
    let Cut {
        image, begun, done, ..
    } = cut;
    let possible: Vec<&Users> = states
        .iter()
        .enumerate()
        .filter(|(at, (_, performed))| {
            // Of a durable operation only the end counts.
            let is_end = states.get(at + 1).is_none_or(|(_, next)| next != performed);
            (done..=begun).contains(performed) && (is_end || *performed > done)
        })
        .map(|(_, (users, _))| users)
        .collect();
    let tape = open_and_look(&image, &possible, mutants, works)?;
    if let Some(count) = nested {
        every_cut(&image, &tape, 0, |again| {
            *count += 1;
            open_and_look(&again.image, &possible, mutants, false)
                .map(drop)
                .map_err(|what| format!("second cut behind event {}: {what}", again.events))
        })?;
    }
    Ok(())
}

/// Opens the pool after a cut and looks at everything; returns the tape of the recovery.
fn open_and_look(
    image: &Image,
    possible: &[&Users],
    mutants: Mutants,
    works: bool,
) -> Result<Vec<Event>, String> {
    let power = Power::on(image.clone(), mutants);
    let findings = power.check(false)?;
    if let Some(finding) = findings.iter().find(|finding| !is_copy(finding)) {
        return Err(format!("check finds {finding:?}"));
    }
    let store = power.open()?;
    let tape = power.disks[0].take_tape();
    let looked = store.clone();
    let found = power.run(async move { Users::observe(&looked).await })??;
    expect(&found, possible)?;
    if works {
        work_on(&power, store, found)?;
    }
    Ok(tape)
}

/// A recovered pool works like any other: it takes writes, is closed, and is sound.
fn work_on(power: &Power, store: Store<TapeDisk>, found: Users) -> Result<(), String> {
    let mut user = User::with(found);
    for operation in [O::WriteFirst, O::Flush, O::WriteFirst, O::Flush] {
        if let Some(step) = user.step(operation) {
            power.run(step.perform(store.clone()))??;
        }
    }
    if power.disks.len() > 1 {
        // What was accepted counts as durable now, and depends on no single drive any more.
        let now = Power::on(power.disks[0].image(), Mutants::default());
        if let Some(finding) = now.check(false)?.first() {
            return Err(format!("check after recovery and work finds {finding:?}"));
        }
    }
    for operation in [
        O::WriteFirst,
        O::WriteClone,
        O::WriteTwo,
        O::Checkpoint,
        O::WriteFirst,
    ] {
        if let Some(step) = user.step(operation) {
            power.run(step.perform(store.clone()))??;
        }
    }
    let looked = store.clone();
    let found = power.run(async move { Users::observe(&looked).await })??;
    expect(&found, &[&user.users]).map_err(|what| format!("after recovery: {what}"))?;
    let closed = power.run(async move { store.close().await })?;
    closed.map_err(|error| format!("close after recovery: {error:?}"))?;
    match power.check(true)?.first() {
        Some(finding) => Err(format!("check after recovery and work finds {finding:?}")),
        None => Ok(()),
    }
}
