//! The loop of a simulated appliance: drives complete, tasks run, and when neither can, time jumps.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use exec::Exec;
use world::{Clock, Instant};

use crate::clock::VirtualClock;
use crate::disk::SimDisk;
use crate::random::Random;

/// An edge besides the drives that the loop polls: a network.
pub trait Edge {
    /// Does what is due now. Returns whether there was anything.
    fn poll(&self) -> bool;

    /// When something will be due.
    fn next_deadline(&self) -> Option<Instant>;
}

/// Why the loop stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The awaited thing happened.
    Done,
    /// The point of the power cut was reached.
    PowerCut,
    /// Nothing can happen any more, and the awaited thing did not.
    Deadlock,
    /// The awaited thing did not happen by the deadline.
    TooLate,
    /// Something is always ready to run, and time stands still.
    Livelock,
}

/// The time that a round of tasks takes.
const ROUND: Duration = Duration::from_nanos(200);

/// Rounds without a pause after which nobody is making progress.
const ROUNDS_MAX: u64 = 5_000_000;

/// Everything that one power-on of the simulated appliance runs on.
pub struct Machine {
    /// The virtual time.
    pub clock: Rc<VirtualClock>,
    /// The appliance's executor.
    pub exec: Exec,
    /// Its drives.
    pub disks: Vec<SimDisk>,
    /// Its network, if any.
    pub edges: RefCell<Vec<Rc<dyn Edge>>>,
    /// Submissions and completions of all drives so far.
    pub points: Rc<Cell<u64>>,
    /// The count of points at which power fails.
    pub cut_at: Cell<Option<u64>>,
}

impl Machine {
    /// A machine that was just switched on; the order of its tasks comes from `random`.
    #[must_use]
    pub fn new(
        clock: Rc<VirtualClock>,
        disks: Vec<SimDisk>,
        points: Rc<Cell<u64>>,
        mut random: Random,
    ) -> Self {
        let exec = Exec::new(clock.clone());
        exec.set_order(move |count| random.index(count));
        Self {
            clock,
            exec,
            disks,
            edges: RefCell::default(),
            points,
            cut_at: Cell::new(None),
        }
    }

    /// Runs until `done` says so, but not beyond `deadline`.
    pub fn run(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> Stop {
        let mut rounds = 0;
        loop {
            if self.cut_at.get().is_some_and(|at| self.points.get() >= at) {
                return Stop::PowerCut;
            }
            if done() {
                return Stop::Done;
            }
            let ran = self.exec.run_ready();
            if self.poll_edges() | ran {
                rounds += 1;
                if rounds > ROUNDS_MAX {
                    return Stop::Livelock;
                }
                // Work takes time too: tasks that only yield do not stop the clock.
                self.clock.advance_to(self.clock.now() + ROUND);
                continue;
            }
            let edges = self.edges.borrow();
            let next = (self.disks.iter().map(SimDisk::next_deadline))
                .chain(edges.iter().map(|edge| edge.next_deadline()))
                .chain([self.exec.next_deadline()])
                .flatten()
                .min();
            match next {
                None => return Stop::Deadlock,
                Some(next) if next > deadline => return Stop::TooLate,
                Some(next) if next > self.clock.now() => {
                    rounds = 0;
                    self.clock.advance_to(next);
                }
                // An edge that wants to be polled and then has nothing to do.
                Some(_) => {
                    rounds += 1;
                    if rounds > ROUNDS_MAX {
                        return Stop::Livelock;
                    }
                    self.clock.advance_to(self.clock.now() + ROUND);
                }
            }
        }
    }

    /// One completion at a time, so that power can fail between any two.
    fn poll_edges(&self) -> bool {
        let disks = self.disks.iter().any(SimDisk::poll);
        let others = self.edges.borrow().clone();
        others.iter().fold(disks, |any, edge| edge.poll() | any)
    }

    /// Runs `future` as a task of the appliance and returns its value, or why there is none.
    ///
    /// # Errors
    /// Any [`Stop`] but `Done`.
    pub fn block_on<T: 'static>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        self.exec.spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        let stop = self.run(deadline, || slot.borrow().is_some());
        slot.take().ok_or(stop)
    }

    /// Ends the power: tasks vanish where they stand, drives keep what they keep.
    pub fn cut_power(self) {
        for disk in &self.disks {
            disk.cut_power();
        }
        self.switch_off();
    }

    /// Ends the appliance without a power cut: drives keep their caches.
    pub fn switch_off(self) {
        self.edges.borrow_mut().clear();
        self.exec.clear();
    }
}
