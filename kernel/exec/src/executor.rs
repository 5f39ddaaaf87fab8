//! Task slots and the loop over ready ones.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Waker};
use core::time::Duration;

use world::{Clock, Instant};

use crate::ready::{Bit, ReadySet, TASKS_MAX};
use crate::timer::{Elapsed, Sleep, Timers};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Picks the next of `n` ready tasks; the argument is `n`, the answer is below it.
type Order = Box<dyn FnMut(usize) -> usize>;

/// A handle to one executor; clones refer to the same one.
#[derive(Clone)]
pub struct Exec {
    shared: Rc<Shared>,
}

struct Shared {
    clock: Rc<dyn Clock>,
    slots: RefCell<Slots>,
    ready: Arc<ReadySet>,
    pub(crate) timers: RefCell<Timers>,
    round: RefCell<Vec<usize>>,
    order: RefCell<Option<Order>>,
}

struct Slots {
    /// Absent while the task is polled.
    entries: Vec<Option<Slot>>,
    free: Vec<usize>,
}

/// The waker is made once and stays for the next task.
struct Slot {
    waker: Waker,
    task: Option<Task>,
}

impl Exec {
    /// An executor without tasks that reads time from `clock`.
    #[must_use]
    pub fn new(clock: Rc<dyn Clock>) -> Self {
        Self {
            shared: Rc::new(Shared {
                clock,
                slots: RefCell::new(Slots {
                    entries: Vec::new(),
                    free: Vec::new(),
                }),
                ready: Arc::new(ReadySet::new()),
                timers: RefCell::default(),
                round: RefCell::default(),
                order: RefCell::default(),
            }),
        }
    }

    /// Adds a task; it is first polled in the next round.
    ///
    /// # Panics
    /// When there are 4096 tasks already; every server bounds its own number far below.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut slots = self.shared.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            let index = slots.entries.len();
            assert!(index < TASKS_MAX, "too many tasks");
            let bit = Arc::new(Bit {
                task: index,
                set: self.shared.ready.clone(),
            });
            let waker = Waker::from(bit);
            slots.entries.push(Some(Slot { waker, task: None }));
            index
        });
        let slot = slots.entries[index].as_mut();
        slot.expect("no task of a free slot is polled").task = Some(Box::pin(task));
        self.shared.ready.insert(index);
    }

    /// Fires due timers and polls every task that is ready now, once. Returns whether any task was polled.
    pub fn run_ready(&self) -> bool {
        self.shared.timers.borrow_mut().fire(self.now());
        if self.shared.ready.is_empty() {
            return false;
        }
        let round = &mut *self.shared.round.borrow_mut();
        self.shared.ready.drain(round);
        if let Some(order) = &mut *self.shared.order.borrow_mut() {
            for index in (1..round.len()).rev() {
                round.swap(index, order(index + 1));
            }
        }
        for index in round.drain(..) {
            self.poll_task(index);
        }
        true
    }

    fn poll_task(&self, index: usize) {
        // A bit may outlive its task: the slot is free, or its next task is polled once for nothing.
        let slot =
            self.shared.slots.borrow_mut().entries[index].take_if(|slot| slot.task.is_some());
        let Some(Slot {
            waker,
            task: Some(mut task),
        }) = slot
        else {
            return;
        };
        let context = &mut Context::from_waker(&waker);
        let is_done = task.as_mut().poll(context).is_ready();
        // Dropped before the slot is free and without a borrow: its destructors may spawn.
        let task = (!is_done).then_some(task);
        let mut slots = self.shared.slots.borrow_mut();
        slots.entries[index] = Some(Slot { waker, task });
        if is_done {
            slots.free.push(index);
        }
    }

    /// How many tasks there are.
    #[must_use]
    pub fn tasks(&self) -> usize {
        let slots = self.shared.slots.borrow();
        slots.entries.len() - slots.free.len()
    }

    /// Whether a task is ready to run.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.shared.ready.is_empty()
    }

    /// When the earliest timer fires.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.timers.borrow().next()
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// The clock this executor reads.
    #[must_use]
    pub fn clock(&self) -> Rc<dyn Clock> {
        self.shared.clock.clone()
    }

    /// Completes after `delay`.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_until(self.now() + delay)
    }

    /// Completes at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::new(self.clone(), deadline)
    }

    /// Runs `future` for at most `limit`.
    ///
    /// # Errors
    /// [`Elapsed`] when it did not complete in time; it is dropped then.
    pub async fn timeout<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let future = core::pin::pin!(future);
        match futures_util::future::select(future, self.sleep(limit)).await {
            futures_util::future::Either::Left((value, _)) => Ok(value),
            futures_util::future::Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Lets every other ready task and the hardware edges have a turn.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        core::future::poll_fn(|context| {
            if yielded {
                return core::task::Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        })
        .await;
    }

    /// Lets `order` choose among ready tasks (the simulation's seed does).
    pub fn set_order(&self, order: impl FnMut(usize) -> usize + 'static) {
        *self.shared.order.borrow_mut() = Some(Box::new(order));
    }

    /// Drops all tasks: the end of a simulated appliance. Tasks hold handles to the executor, so without this they
    /// would keep each other alive.
    pub fn clear(&self) {
        loop {
            let tasks: Vec<Task> = {
                let mut slots = self.shared.slots.borrow_mut();
                slots
                    .entries
                    .iter_mut()
                    .filter_map(|entry| entry.as_mut()?.task.take())
                    .collect()
            };
            if tasks.is_empty() {
                break;
            }
        }
        let mut slots = self.shared.slots.borrow_mut();
        slots.free = (0..slots.entries.len()).rev().collect();
    }

    pub(crate) fn with_timers<T>(&self, with: impl FnOnce(&mut Timers) -> T) -> T {
        with(&mut self.shared.timers.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[derive(Default)]
    struct Fake(Cell<u64>);

    impl Clock for Fake {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.get())
        }

        fn wall_nanos(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn tasks_run_yield_and_end() {
        let exec = Exec::new(Rc::new(Fake::default()));
        let steps = Rc::new(Cell::new(0));
        let (inner, seen) = (exec.clone(), steps.clone());
        exec.spawn(async move {
            seen.set(1);
            inner.yield_now().await;
            seen.set(2);
        });
        assert!(exec.run_ready());
        assert_eq!(steps.get(), 1);
        assert!(exec.run_ready());
        assert_eq!(steps.get(), 2);
        assert!(!exec.run_ready());
    }

    #[test]
    fn timers_fire_in_order_and_timeouts_elapse() {
        let clock = Rc::new(Fake::default());
        let exec = Exec::new(clock.clone());
        let log = Rc::new(RefCell::new(Vec::new()));
        for delay in [30, 10, 20] {
            let (inner, log) = (exec.clone(), log.clone());
            exec.spawn(async move {
                inner.sleep(Duration::from_nanos(delay)).await;
                log.borrow_mut().push(delay);
            });
        }
        let (inner, out) = (exec.clone(), log.clone());
        exec.spawn(async move {
            let never = core::future::pending::<()>();
            assert_eq!(
                inner.timeout(Duration::from_nanos(25), never).await,
                Err(Elapsed)
            );
            out.borrow_mut().push(25);
        });
        while exec.run_ready() {}
        while let Some(deadline) = exec.next_deadline() {
            clock.0.set(deadline.as_nanos());
            while exec.run_ready() {}
        }
        assert_eq!(*log.borrow(), [10, 20, 25, 30]);
    }

    #[test]
    fn a_task_that_wakes_itself_runs_once_a_round() {
        let exec = Exec::new(Rc::new(Fake::default()));
        let polls = Rc::new(Cell::new(0));
        let seen = polls.clone();
        exec.spawn(core::future::poll_fn(move |context| {
            seen.set(seen.get() + 1);
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        }));
        exec.run_ready();
        assert_eq!(polls.get(), 1);
        assert!(exec.has_ready());
    }
}
