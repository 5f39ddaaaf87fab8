//! Every single fault of every block of a small pool: rot, zeros, what was there a checkpoint earlier, what its neighbour has
//! (and the neighbour what it has), and nothing that can be read.
//!
//! The pool has volumes, snapshots, a clone, a hidden branch, a map that is half taken apart, and a journal to replay. Whatever
//! the fault: right data or an error, never wrong data, and never a panic. The checker names it unless nobody needs the block.
//! With two drives only data can be lost: the pool opens, and a scrub makes maps whole again.

use core::fmt;
use core::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use store::{Finding, Mutants, Owner, PoolState, ScrubPosition, ScrubStep, Store};
use world::BLOCK_SIZE;

use super::named;
use super::operation::{Operation, User};
use super::power::Power;
use super::state::Users;
use super::tape::{Image, TapeDisk};
use crate::random::mix;

use Operation as O;

/// Blocks of a drive: the least that a pool takes.
const DRIVE: u64 = 64 << 8;

/// What makes the pool; a while passes behind each.
const OPERATIONS: [Operation; 17] = [
    O::WriteFirst,
    O::WriteTwo,
    O::Snapshot,
    O::Clone,
    O::WriteClone,
    O::Checkpoint,
    O::GrowAndWrite,
    O::Snapshot,
    O::WriteFirst,
    O::Checkpoint,
    O::Rollback,
    O::WriteTwo,
    O::SnapshotBoth,
    O::WriteSector,
    O::Snapshot,
    O::Discard,
    O::WriteTwo,
];

/// What happens then, at once: a checkpoint, the beginning of the end of a snapshot, and a journal behind it. The last frame,
/// for which none vouches, may be taken for one that a power cut lost.
const LAST: [Operation; 8] = [
    O::Checkpoint,
    O::DeleteOldest,
    O::WriteFirst,
    O::WriteClone,
    O::Flush,
    O::RenameClone,
    O::WriteSector,
    O::Flush,
];

/// What can be wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Rot,
    Zeros,
    Stale,
    Swapped,
    Unreadable,
}

const FAULTS: [Fault; 5] = [
    Fault::Rot,
    Fault::Zeros,
    Fault::Stale,
    Fault::Swapped,
    Fault::Unreadable,
];

/// What became of the faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCount {
    /// Faults that were put into the pool.
    pub faults: u64,
    /// Of them: nobody noticed anything.
    pub harmless: u64,
    /// Data was lost, and said to be.
    pub lost: u64,
    /// The pool did not open, or only to be read.
    pub refused: u64,
    /// What a scrub wrote anew.
    pub repaired: u64,
    /// Second copies that are still bad after a scrub.
    pub left: u64,
    /// The checker named it.
    pub named: u64,
}

impl AddAssign for FaultCount {
    fn add_assign(&mut self, more: Self) {
        self.faults += more.faults;
        self.harmless += more.harmless;
        self.lost += more.lost;
        self.refused += more.refused;
        self.repaired += more.repaired;
        self.left += more.left;
        self.named += more.named;
    }
}

impl fmt::Display for FaultCount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            faults,
            harmless,
            lost,
            refused,
            repaired,
            left,
            named,
        } = self;
        write!(
            out,
            "{faults} faults: {harmless} harmless, {lost} with data lost, {refused} without service, \
             {repaired} repaired by scrubs, {left} left by scrubs, {named} named by the checker"
        )
    }
}

/// The pool that faults are put into.
struct Subject {
    drives: usize,
    now: Image,
    earlier: Image,
    /// What users had after each operation.
    history: Vec<Users>,
}

/// Puts every fault (one of `every`) into a pool of so many drives, `threads` at a time.
///
/// # Errors
/// The first finding, with a line that repeats it.
pub fn single_faults(
    drives: usize,
    (every, threads): (u64, u64),
    mutants: Mutants,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<FaultCount, String> {
    let next = AtomicU64::new(0);
    let work = || -> Result<FaultCount, String> {
        let subject = Subject::new(drives, mutants)?;
        let places: Vec<(usize, u64)> = subject.now.places().collect();
        let all = (places.len() * FAULTS.len()) as u64;
        let mut count = FaultCount::default();
        loop {
            let number = next.fetch_add(every.max(1), Ordering::Relaxed);
            if number >= all {
                return Ok(count);
            }
            let name = format!("faults:{drives}:{number}");
            count += named(name, || subject.try_fault(number, &places, mutants))?;
            progress(number, all);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut all = FaultCount::default();
        for thread in threads {
            let found = thread.join().map_err(|_| "a thread panicked".to_string())?;
            all += found?;
        }
        Ok(all)
    })
}

/// Puts one fault, as a finding names it, into the pool.
///
/// # Errors
/// What was found, or that there is no such fault.
pub fn one_fault(name: &str, mutants: Mutants) -> Result<FaultCount, String> {
    let numbers = name
        .strip_prefix("faults:")
        .and_then(|rest| rest.split_once(':'));
    let (drives, number) = numbers.ok_or("no such fault")?;
    let drives: usize = drives.parse().map_err(|_| "no such pool")?;
    let number: u64 = number.parse().map_err(|_| "no such fault")?;
    let subject = Subject::new(drives.clamp(1, 2), mutants)?;
    let places: Vec<(usize, u64)> = subject.now.places().collect();
    named(name.to_string(), || {
        subject.try_fault(number, &places, mutants)
    })
}

impl Subject {
    fn new(drives: usize, mutants: Mutants) -> Result<Self, String> {
        let power = Power::on(Image::blank(&vec![DRIVE; drives]), mutants);
        power.format()?;
        let store = power.open()?;
        let begun = power.run(User::begin(store.clone()))?;
        begun.map_err(|error| format!("the first volume: {error:?}"))?;
        let mut user = User::new();
        let mut history = vec![user.users.clone()];
        let mut earlier = power.disks[0].image();
        let operations = OPERATIONS.iter().map(|one| (one, true));
        for (operation, waits) in operations.chain(LAST.iter().map(|one| (one, false))) {
            let step = user.step(*operation).ok_or("an impossible operation")?;
            history.extend(step.states.iter().cloned());
            power.run(step.perform(store.clone()))??;
            if waits {
                power.idle(core::time::Duration::from_millis(50))?;
                earlier = power.disks[0].image();
            }
        }
        let now = power.disks[0].image();
        drop(power);
        let power = Power::on(now.clone(), Mutants::default());
        if let Some(finding) = power.check(true)?.first() {
            return Err(format!("the pool is not sound to begin with: {finding:?}"));
        }
        Ok(Self {
            drives,
            now,
            earlier,
            history,
        })
    }

    fn try_fault(
        &self,
        number: u64,
        places: &[(usize, u64)],
        mutants: Mutants,
    ) -> Result<FaultCount, String> {
        let kinds = FAULTS.len() as u64;
        let index = usize::try_from(number / kinds).unwrap_or(usize::MAX);
        let fault = FAULTS[usize::try_from(number % kinds).unwrap_or(0)];
        let place = *places.get(index).ok_or("there is no such block")?;
        let mut image = self.now.clone();
        let bytes = image.get(place);
        match fault {
            Fault::Rot => {
                let bit = usize::try_from(mix(number)).unwrap_or(0) % (BLOCK_SIZE * 8);
                let mut bytes = bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                image.set(place, bytes);
            }
            Fault::Zeros => image.set(place, [0; BLOCK_SIZE]),
            Fault::Stale => image.set(place, self.earlier.get(place)),
            Fault::Swapped => {
                let neighbour = places.get(index + 1).filter(|next| next.0 == place.0);
                let Some(neighbour) = neighbour else {
                    return Ok(FaultCount::default());
                };
                image.set(place, image.get(*neighbour));
                image.set(*neighbour, bytes);
            }
            Fault::Unreadable => image.make_unreadable(place),
        }
        if fault != Fault::Unreadable && image.get(place) == bytes {
            return Ok(FaultCount::default());
        }
        self.judge(image, fault, mutants)
            .map_err(|what| format!("{fault:?} of {place:?}: {what}"))
    }

    fn judge(&self, image: Image, fault: Fault, mutants: Mutants) -> Result<FaultCount, String> {
        let mut count = FaultCount {
            faults: 1,
            ..FaultCount::default()
        };
        let findings = Power::on(image.clone(), mutants).check(true);
        let is_named = findings.as_ref().map_or(true, |found| !found.is_empty());
        count.named = u64::from(is_named);
        let is_data = |finding: &Finding| match finding {
            Finding::Damaged { what, .. } => {
                matches!(what, Owner::Block { volume, .. } if *volume >= 16)
            }
            _ => false,
        };
        let data_is_hit = findings
            .as_ref()
            .is_ok_and(|found| found.iter().any(is_data));
        let power = Power::on(image, mutants);
        let store = match power.open() {
            Ok(store) => store,
            Err(error) if self.drives > 1 => return Err(format!("with two drives, {error}")),
            Err(error) if !is_named => return Err(format!("{error}, and the checker is content")),
            Err(_) => {
                count.refused = 1;
                return Ok(count);
            }
        };
        let looked = store.clone();
        let found = power.run(async move { Users::observe(&looked).await })??;
        let is_serving = store.pool().state == PoolState::Serving;
        let end = self.history.len() - 1;
        // Whether this was a power cut cannot be told from the last frame; nor from the last two, when both are hit.
        let first = match (is_serving, fault) {
            (true, Fault::Swapped) if self.drives == 1 => end - 4,
            (true, _) => end - 2,
            (false, _) => 0,
        };
        if !self.history[first..]
            .iter()
            .any(|users| found.is_part_of(users))
        {
            let last = &self.history[end];
            return Err(format!(
                "found {found:#?}\nwhere this was expected: {last:#?}"
            ));
        }
        if !is_serving {
            count.refused = 1;
            return if self.drives > 1 {
                Err("with two drives the pool takes no writes".to_string())
            } else {
                Ok(count)
            };
        }
        let lost = found.unreadable();
        if lost > 0 && !is_named {
            return Err("data is lost, and the checker is content".to_string());
        }
        if lost > 0 && !data_is_hit {
            return Err(format!(
                "{lost} blocks are lost with the maps' second copies"
            ));
        }
        count.lost = u64::from(lost > 0);
        count.harmless = u64::from(lost == 0 && !is_named);
        let step = self.scrub(&power, store)?;
        count.repaired = step.repaired;
        if (step.repaired > 0 || !step.damaged.is_empty()) && !is_named {
            return Err(format!(
                "the checker does not name what a scrub finds: {step:?}"
            ));
        }
        if data_is_hit && lost > 0 && step.damaged.iter().all(|one| one.places.is_empty()) {
            return Err(format!("a scrub says nothing of what is lost: {step:?}"));
        }
        let left = power.check(true)?;
        count.left = u64::from(left.iter().any(|finding| !is_data(finding)));
        let is_map = |finding: &&Finding| match finding {
            Finding::Damaged { what, .. } => match what {
                Owner::Node { .. } => true,
                Owner::Block { volume, .. } => *volume < 16,
                // Written anew when the group changes.
                Owner::Bitmap { .. } | Owner::Table { .. } => false,
            },
            _ => false,
        };
        match left.iter().find(is_map) {
            Some(finding) => Err(format!("after a scrub still {finding:?}")),
            None => Ok(count),
        }
    }

    /// Makes everything part of the maps, looks at all of it, and closes the pool.
    fn scrub(&self, power: &Power, store: Store<TapeDisk>) -> Result<ScrubStep, String> {
        power.run(async move {
            let written = store.checkpoint().await;
            written.map_err(|error| format!("a checkpoint after the fault: {error:?}"))?;
            let step = store.scrub(ScrubPosition::default(), u64::MAX).await;
            let step = step.map_err(|error| format!("a scrub after the fault: {error:?}"))?;
            let closed = store.close().await;
            closed.map_err(|error| format!("a close after the fault: {error:?}"))?;
            Ok(step)
        })?
    }
}
