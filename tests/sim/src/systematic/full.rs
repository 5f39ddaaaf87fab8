//! A full pool: however it became full and whatever keeps old blocks, space comes back, and no checkpoint fails for want of it.
//!
//! Each case fills a pool until a write is refused, three times; in between, something that must work then, or may only be
//! refused, changes as many nodes of the map as it can. At the end power is cut, and the pool must be sound, open, hold
//! what it held, and be empty when everything is deleted.

mod life;

use core::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use store::Mutants;

use super::named;
use super::power::Power;
use super::tape::Image;
use life::Life;

/// Blocks of a drive: the least that a pool takes.
const DRIVE: u64 = 64 << 8;

/// Times that the pool becomes full.
const ROUNDS: usize = 3;

macro_rules! choices {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $each:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name {
            $($(#[doc = $each])+ $variant,)+
        }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

choices! {
    /// How the pool becomes full.
    Filling {
        /// Runs of 32 blocks, one behind the other.
        Runs = "runs",
        /// Single blocks, each in another leaf than the one before.
        Scattered = "scattered",
        /// Like that, after a small part was written over until all groups had been in use.
        Worn = "worn",
    }
}

choices! {
    /// What keeps blocks and nodes that the volume gives up.
    Keeping {
        /// Nothing.
        Nothing = "nothing",
        /// A snapshot that is taken when the pool is full, and deleted before it is filled again.
        Snapshot = "snapshot",
        /// The same, with a clone of it that stays until the end.
        Clone = "clone",
    }
}

choices! {
    /// What happens in the full pool.
    Event {
        /// As many discards of single blocks as must work, each in another leaf.
        Discards = "discards",
        /// Such discards of all leaves, several times, which may be refused when something keeps what they give up.
        MoreDiscards = "more-discards",
        /// A discard of everything.
        DiscardAll = "discard-all",
        /// Writes over single blocks, each in another leaf, which may be refused.
        Overwrites = "overwrites",
        /// Large writes at once that want the few blocks that discards gave back; each may be refused.
        Together = "together",
        /// Snapshots with such discards behind each, until all of those are refused.
        Snapshots = "snapshots",
        /// The volume is deleted, and another one takes its place.
        Delete = "delete",
    }
}

/// One way to fill a pool.
#[derive(Clone, Copy, Debug)]
struct Case {
    filling: Filling,
    keeping: Keeping,
    event: Event,
    drives: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (filling, keeping) = (self.filling.word(), self.keeping.word());
        let (event, drives) = (self.event.word(), self.drives);
        write!(out, "full:{filling},{keeping},{event},{drives}")
    }
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for drives in [1, 2] {
            for filling in Filling::ALL {
                for keeping in Keeping::ALL {
                    let case = |event: &Event| Self {
                        filling: *filling,
                        keeping: *keeping,
                        event: *event,
                        drives,
                    };
                    cases.extend(Event::ALL.iter().map(case));
                }
            }
        }
        cases
    }
}

/// Fills a pool in every way (one of `every`), `threads` at a time; returns how many that were.
///
/// # Errors
/// The first finding, with a line that repeats it.
pub fn full_pools(
    (every, threads): (u64, u64),
    mutants: Mutants,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<u64, String> {
    let next = AtomicU64::new(0);
    let cases = Case::all();
    let work = || -> Result<u64, String> {
        let mut count = 0;
        loop {
            let number = next.fetch_add(every.max(1), Ordering::Relaxed);
            let case = usize::try_from(number).ok().and_then(|at| cases.get(at));
            let Some(case) = case else { return Ok(count) };
            named(case.to_string(), || case.look(mutants))?;
            count += 1;
            progress(number, cases.len() as u64);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut all = 0;
        for thread in threads {
            all += (thread.join()).map_err(|_| "a thread panicked".to_string())??;
        }
        Ok(all)
    })
}

/// Fills a pool in one way, as a finding names it.
///
/// # Errors
/// What was found, or that there is no such way.
pub fn one_full_pool(name: &str, mutants: Mutants) -> Result<(), String> {
    let cases = Case::all();
    let case = cases.iter().find(|case| case.to_string() == name);
    let case = case.ok_or("no such way to fill a pool")?;
    named(case.to_string(), || case.look(mutants))
}

impl Case {
    fn look(self, mutants: Mutants) -> Result<(), String> {
        let power = Power::on(Image::blank(&vec![DRIVE; self.drives]), mutants);
        power.format()?;
        let (store, exec) = (power.open()?, power.exec.clone());
        let free_at_first = store.pool().free_bytes;
        let kept = power.run(async move {
            let mut life = Life::begin(store, exec).await?;
            if self.filling == Filling::Worn {
                life.wear().await?;
            }
            for round in 0..ROUNDS {
                life.fill(self.filling, round).await?;
                life.go_through(self.keeping, self.event).await?;
                life.rest().await?;
            }
            life.fill(self.filling, ROUNDS).await?;
            life.compare().await?;
            life.flush().await
        })??;
        let image = power.disks[0].image();
        drop(power);
        let power = Power::on(image, mutants);
        if let Some(finding) = power.check(true)?.first() {
            return Err(format!("check finds {finding:?} in the full pool"));
        }
        let (store, exec) = (power.open()?, power.exec.clone());
        power.run(async move {
            let mut life = Life::go_on(store, exec, kept);
            life.compare().await?;
            life.rest().await?;
            life.empty(free_at_first).await
        })??;
        match power.check(true)?.first() {
            Some(finding) => Err(format!("check finds {finding:?} in the empty pool")),
            None => Ok(()),
        }
    }
}
