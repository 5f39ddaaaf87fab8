//! What volumes and snapshots use, looked up no more often than somebody can read it: each lookup takes a checkpoint where
//! something was written since the last.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use exec::Semaphore;
use store::{Source, Usage};
use world::{Disk, Instant};

use crate::{VolumeError, Volumes};

/// How long an answer holds, unless snapshots come or go.
const HOLDS: Duration = Duration::from_secs(2);

/// Answers of the last seconds.
#[derive(Default)]
pub(crate) struct Usages {
    known: RefCell<BTreeMap<Source, (Instant, Usage)>>,
    /// Grows whenever what is known became wrong.
    generation: Cell<u64>,
    /// When everything that was written before was in the maps last.
    fresh_at: Cell<Option<Instant>>,
    /// One looks up each of these, or (`None`) writes the checkpoint for lists; who waited finds the answer of another.
    turns: RefCell<BTreeMap<Option<Source>, Rc<Semaphore>>>,
}

impl Usages {
    /// Whose turn it is to look this one up.
    fn turn(&self, of: Option<Source>) -> Rc<Semaphore> {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|_, turn| Rc::strong_count(turn) > 1);
        let turn = turns
            .entry(of)
            .or_insert_with(|| Rc::new(Semaphore::new(1)));
        turn.clone()
    }

    /// Volumes or snapshots came, went or share otherwise: nothing that is known holds any more.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
        self.generation.set(self.generation.get() + 1);
    }

    fn get(&self, of: Source, now: Instant) -> Option<Usage> {
        let mut known = self.known.borrow_mut();
        known.retain(|_, (at, _)| now.since(*at) < HOLDS);
        known.get(&of).map(|(_, usage)| *usage)
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// Makes the allocated bytes in lists of volumes and snapshots those of the last two seconds, by a checkpoint.
    ///
    /// # Errors
    /// What the store says; lists tell what the last checkpoint did then.
    pub async fn freshen(&self, clock: impl Fn() -> Instant) -> Result<(), VolumeError> {
        let usages = self.usages();
        let turn = usages.turn(None);
        let _turn = turn.acquire().await;
        let now = clock();
        let last = usages.fresh_at.get();
        if last.is_none_or(|last| now.since(last) >= HOLDS) {
            self.store().checkpoint().await?;
            usages.fresh_at.set(Some(now));
        }
        Ok(())
    }

    /// How much a volume or snapshot uses, as of the last two seconds.
    ///
    /// # Errors
    /// What the store says.
    pub async fn recent_usage(
        &self,
        of: impl Into<Source>,
        clock: impl Fn() -> Instant,
    ) -> Result<Usage, VolumeError> {
        let (of, usages) = (of.into(), self.usages());
        let turn = usages.turn(Some(of));
        let _turn = turn.acquire().await;
        if let Some(usage) = usages.get(of, clock()) {
            return Ok(usage);
        }
        let generation = usages.generation.get();
        let usage = self.usage(of).await?;
        if usages.generation.get() == generation {
            let mut known = usages.known.borrow_mut();
            known.insert(of, (clock(), usage));
        }
        Ok(usage)
    }
}
