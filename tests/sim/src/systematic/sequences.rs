//! All short sequences of operations, from several beginnings, with a power cut behind every write.
//!
//! Only cuts within the last operation of a sequence are looked at, with the time after it in which background work goes
//! on: those before belong to the shorter sequences. After a cut the pool must be sound, open, and hold what it held after
//! some operation: not before the last one that was durable, not after the last one that had begun. Every so often the
//! recovery is cut as well, behind each of its writes, and every so often the recovered pool has to work on.

use core::fmt;
use core::ops::AddAssign;
use core::time::Duration;
use std::rc::Rc;

use store::{Mutants, Source, Store};

use super::cuts::every_cut;
use super::operation::{Operation, User};
use super::power::Power;
use super::recovery::{expect, recover};
use super::state::{Users, Volume};
use super::tape::{Image, TapeDisk};

use Operation as O;

/// Where sequences begin: nothing but a volume; a snapshot behind which everything changed, and an adopted volume; clones, rollbacks and a hidden
/// map with two children; something half taken apart; and a large map of which a snapshot has most.
const BEGINNINGS: [&[Operation]; 5] = [
    &[],
    &[
        O::Adopt,
        O::WriteFirst,
        O::WriteTwo,
        O::Snapshot,
        O::WriteFirst,
        O::Checkpoint,
        O::WriteTwo,
        O::Flush,
    ],
    &[
        O::WriteFirst,
        O::Snapshot,
        O::Clone,
        O::WriteClone,
        O::Checkpoint,
        O::WriteTwo,
        O::Snapshot,
        O::WriteFirst,
        O::Rollback,
        O::DeleteOldest,
    ],
    &[
        O::WriteFirst,
        O::WriteTwo,
        O::GrowAndWrite,
        O::Adopt,
        O::Arrive,
        O::Snapshot,
        O::WriteFirst,
        O::WriteTwo,
        O::Snapshot,
        O::Checkpoint,
        O::DeleteOldest,
    ],
    &[
        O::WriteFirst,
        O::WriteTwo,
        O::GrowAndWrite,
        O::Snapshot,
        O::WriteFirst,
        O::Checkpoint,
    ],
];

/// The second beginning is on two drives.
const DRIVES: [usize; BEGINNINGS.len()] = [1, 2, 1, 1, 1];

/// How long background work goes on after the last operation: deleted maps are taken apart in steps, but not to the end.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// And after the others: one step.
const BETWEEN: Duration = Duration::from_millis(10);

/// Turns of background work between operations that follow each other at once.
const TURNS: usize = 4;

/// One recovery of so many is cut, too.
const NESTED_EVERY: u64 = 97;

/// One recovered pool of so many has to work on, the first of each run included.
const WORK_EVERY: u64 = 5;

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Sequences that are possible.
    pub sequences: u64,
    /// Power cuts, and recoveries from them.
    pub cuts: u64,
    /// Power cuts in recoveries, and recoveries from those.
    pub nested: u64,
}

/// Looks at sequences.
pub struct Explorer {
    mutants: Mutants,
    pub count: Count,
    beginnings: Vec<(Image, User)>,
}

/// A pool at work, and what it should hold.
struct Run {
    power: Power,
    store: Store<TapeDisk>,
    user: User,
    start: Image,
    /// What users have after so many operations, and the operations that a user can rely on then.
    states: Vec<(Users, usize)>,
    performed: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequences,
            cuts,
            nested,
        } = self;
        write!(
            out,
            "{sequences} sequences, {cuts} recoveries, {nested} more after a second cut"
        )
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.sequences += more.sequences;
        self.cuts += more.cuts;
        self.nested += more.nested;
    }
}

impl Explorer {
    /// Prepares the beginnings.
    ///
    /// # Errors
    /// When they do not even work.
    pub fn new(mutants: Mutants) -> Result<Self, String> {
        let mut explorer = Self {
            mutants,
            count: Count::default(),
            beginnings: Vec::new(),
        };
        for (operations, drives) in BEGINNINGS.into_iter().zip(DRIVES) {
            let power = Power::on(Image::blank(&vec![64 << 8; drives]), mutants);
            power.format()?;
            let store = power.open()?;
            let begun = power.run(User::begin(store.clone()))?;
            begun.map_err(|error| format!("the first volume: {error:?}"))?;
            let mut run = Run::new(power, store, User::new(), Image::default());
            for operation in operations {
                run.perform(*operation, Some(AFTERWARDS))?
                    .ok_or_else(|| format!("{operation} is impossible"))?;
            }
            explorer
                .beginnings
                .push((run.power.disks[0].image(), run.user.clone()));
        }
        Ok(explorer)
    }

    /// How many beginnings there are: from each, operations follow each other after a while, or at once.
    pub fn beginnings() -> usize {
        2 * BEGINNINGS.len()
    }

    /// Looks at one sequence from one beginning. False when it is impossible.
    ///
    /// # Errors
    /// What was found.
    pub fn look(&mut self, beginning: usize, operations: &[Operation]) -> Result<bool, String> {
        let hurries = beginning >= BEGINNINGS.len();
        let (image, user) = self.beginnings[beginning % BEGINNINGS.len()].clone();
        let mut possible = user.clone();
        if !operations.iter().all(|one| possible.step(*one).is_some()) {
            return Ok(false);
        }
        let power = Power::on(image.clone(), self.mutants);
        let store = power.open()?;
        let mut run = Run::new(power, store, user, image);
        let mut from = 0;
        for (number, operation) in operations.iter().enumerate() {
            from = run.power.disks[0].tape_len();
            let is_last = number + 1 == operations.len();
            let pause = match (is_last, hurries) {
                (true, _) => Some(AFTERWARDS),
                (false, false) => Some(BETWEEN),
                (false, true) => None,
            };
            if run.perform(*operation, pause)?.is_none() {
                return Ok(false);
            }
        }
        self.count.sequences += 1;
        let tape = run.power.disks[0].take_tape();
        run.inspect()?;
        run.count_space(self.mutants)?;
        let (states, start, mutants) = (run.states.clone(), run.start.clone(), self.mutants);
        drop(run);
        every_cut(&start, &tape, from, |cut| {
            self.count.cuts += 1;
            let nested = self.count.cuts.is_multiple_of(NESTED_EVERY);
            let works = self.count.cuts % WORK_EVERY == 1;
            let (events, subset) = (cut.events, cut.subset);
            recover(
                cut,
                &states,
                mutants,
                (nested.then_some(&mut self.count.nested), works),
            )
            .map_err(|what| format!("cut behind event {events}, subset {subset}: {what}"))
        })?;
        Ok(true)
    }
}

impl Run {
    fn new(power: Power, store: Store<TapeDisk>, user: User, start: Image) -> Self {
        Self {
            states: vec![(user.users.clone(), 0)],
            power,
            store,
            user,
            start,
            performed: 0,
        }
    }

    fn perform(
        &mut self,
        operation: Operation,
        pause: Option<Duration>,
    ) -> Result<Option<()>, String> {
        let number = self.performed;
        let Some(step) = self.user.step(operation) else {
            return Ok(None);
        };
        self.performed += 1;
        // A state on the way counts as one of the operation's own.
        for users in step.states.iter().cloned() {
            self.states.push((users, self.performed));
        }
        self.power.disks[0].mark(number, false);
        self.power.run(step.perform(self.store.clone()))??;
        if operation.is_durable() {
            self.power.disks[0].mark(number, true);
        }
        match pause {
            Some(time) => self.power.idle(time)?,
            None => self.power.turn(TURNS),
        }
        Ok(Some(()))
    }

    /// Looks at the pool without any cut: contents, differences, who uses what, scrub.
    fn inspect(&self) -> Result<(), String> {
        let (store, users) = (self.store.clone(), self.user.users.clone());
        self.power.run(async move {
            expect(&Users::observe(&store).await?, &[&users])?;
            for (name, volume) in &users.volumes {
                inspect_volume(&store, name, volume).await?;
            }
            let step = store.scrub(Default::default(), u64::MAX).await;
            match step {
                Ok(step) if step.damaged.is_empty() && step.repaired == 0 => Ok(()),
                other => Err(format!("a scrub of a sound pool: {other:?}")),
            }
        })?
    }
}

impl Run {
    /// What is free after all background work is what a new start finds free.
    fn count_space(&self, mutants: Mutants) -> Result<(), String> {
        let store = self.store.clone();
        for _ in 0..3 {
            let written = store.clone();
            let written = self.power.run(async move { written.checkpoint().await })?;
            written.map_err(|error| format!("a last checkpoint: {error:?}"))?;
            self.power.idle(Duration::from_secs(3))?;
        }
        let free = store.pool().free_bytes;
        let power = Power::on(self.power.disks[0].image(), mutants);
        let again = power.open()?.pool().free_bytes;
        if free == again {
            return Ok(());
        }
        Err(format!(
            "space does not come back: {free} bytes are free, after a restart {again}"
        ))
    }
}

/// Differences to each snapshot, and the counts.
async fn inspect_volume(
    store: &Store<TapeDisk>,
    name: &str,
    volume: &Volume,
) -> Result<(), String> {
    let info = store.find(name).ok_or("not found by name")?;
    if !info.bases.is_empty() {
        // What arrived counts as well, even where a write replaced it.
        return Ok(());
    }
    let id = info.id;
    let mut sources = vec![(Source::Volume(id), &volume.now)];
    for (name, contents) in &volume.snapshots {
        let snapshot = store
            .find_snapshot(id, name)
            .ok_or("a snapshot is not found")?;
        sources.push((Source::Snapshot(snapshot.id), contents));
    }
    for (source, contents) in &sources {
        let usage = store
            .usage(*source)
            .await
            .map_err(|error| format!("usage: {error:?}"))?;
        if usage.referenced_bytes != contents.blocks.len() as u64 * 4096
            || usage.unique_bytes > usage.referenced_bytes
        {
            return Err(format!(
                "usage of {name}, {source:?}: {usage:?}, {contents:?}"
            ));
        }
        // What somebody else has at the same place is not freed with it.
        let own = contents.blocks.iter().filter(|(lba, block)| {
            let others = sources.iter().filter(|(other, _)| other != source);
            let mut same = others.filter(|(_, other)| other.blocks.get(lba) == Some(block));
            same.next().is_none()
        });
        if usage.unique_bytes > own.count() as u64 * 4096 {
            return Err(format!(
                "unique of {name}, {source:?}: {usage:?}, {contents:?}"
            ));
        }
    }
    for (source, contents) in &sources[1..] {
        let found = store.diff(Some(*source), sources[0].0, 0, 100).await;
        let found = found.map_err(|error| format!("diff: {error:?}"))?;
        let now = &sources[0].1.blocks;
        let mut expected = Vec::new();
        for lba in super::state::LBAS {
            match (contents.blocks.get(&lba), now.get(&lba)) {
                (old, new) if old == new => {}
                (_, new) => expected.push((lba, new.is_none())),
            }
        }
        let is_told = |(lba, is_zero): &(u64, bool)| {
            found.ranges.iter().any(|range| {
                let range_end = range.offset + range.len;
                (range.offset..range_end).contains(&(lba * 4096)) && range.is_zero == *is_zero
            })
        };
        if let Some(missing) = expected.iter().find(|change| !is_told(change)) {
            return Err(format!("the difference leaves out {missing:?}: {found:?}"));
        }
    }
    Ok(())
}

/// What a replay names: the beginning and the operations.
#[must_use]
pub fn name(beginning: usize, operations: &[Operation]) -> String {
    let words: Vec<String> = operations.iter().map(ToString::to_string).collect();
    format!("{beginning}:{}", words.join(","))
}

/// The opposite of [`name`].
#[must_use]
pub fn parse(text: &str) -> Option<(usize, Rc<[Operation]>)> {
    let (beginning, words) = text.split_once(':')?;
    let beginning = beginning
        .parse()
        .ok()
        .filter(|number| *number < Explorer::beginnings())?;
    let operations: Option<Vec<_>> = words.split(',').map(Operation::parse).collect();
    Some((beginning, operations?.into()))
}
