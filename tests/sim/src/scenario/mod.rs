//! The life of one simulated appliance: format, work, stop in every possible way, recover, be checked, work again.

mod checks;
mod restart;

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use store::{Config, Environment, FormatOptions, Mutants, PoolState, Store};
use volume::Volumes;
use world::{Clock, Instant, Pool};

use crate::client::Session;
use crate::clock::{Trace, VirtualClock};
use crate::disk::{Faults, SimDisk};
use crate::machine::{Machine, Stop};
use crate::model::{Model, Trust};
use crate::network::{Clients, Network};
use crate::profile::{Memory, Parts, Profile};
use crate::random::{Random, SeededEntropy};
use crate::tally::{Count, Tally};

/// Virtual time within which anything must be done.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Virtual time within which all blocks of all volumes and snapshots are read, one after the other.
const LONG_PATIENCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What happened in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In numbers.
    pub tally: Tally,
    /// Hash over all events.
    pub trace: u64,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// The seed.
    pub seed: u64,
    /// Requests in all.
    pub operations: u64,
    /// What the scenario may contain.
    pub parts: Parts,
    /// A deliberate bug of the store.
    pub mutants: Mutants,
    /// Prints every event to standard error.
    pub verbose: bool,
}

/// One seed at work.
pub struct Scenario {
    random: Random,
    profile: Rc<Profile>,
    memory: Memory,
    mutants: Mutants,
    parts: Parts,
    clock: Rc<VirtualClock>,
    trace: Rc<Trace>,
    points: Rc<Cell<u64>>,
    disks: Vec<SimDisk>,
    model: Rc<RefCell<Model>>,
    tally: Rc<RefCell<Tally>>,
    operations: u64,
    /// Of them done; cuts so frequent that nothing gets done count too.
    done: u64,
    /// The last life ended with an orderly close.
    is_closed: bool,
}

/// Why a step did not succeed.
enum Trouble {
    /// The power was cut as planned.
    Cut,
    /// The drives' faults explain it.
    Excused,
    /// A bug.
    Wrong(String),
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

/// An appliance that was switched on, before the pool is opened.
struct Powered {
    machine: Machine,
    environment: Environment,
    config: Config,
}

/// A running appliance.
struct Running {
    machine: Machine,
    store: Store<SimDisk>,
}

impl Scenario {
    /// Prepares the run.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        let Task {
            seed,
            operations,
            parts,
            mutants,
            verbose,
        } = *task;
        let mut random = Random::new(seed);
        let profile = Rc::new(Profile::draw(seed, &mut random.fork(1), parts));
        let memory = Memory::draw(&mut random.fork(7), profile.memory_changes);
        let clock = Rc::new(VirtualClock::default());
        let trace = Rc::new(Trace::new(verbose));
        trace.remark(|| format!("{profile:#?}\n{memory:#?}"));
        let points = Rc::new(Cell::new(0));
        let disks = (0..).zip(&profile.drive_blocks);
        let disks = disks
            .map(|(number, blocks)| {
                SimDisk::new(
                    *blocks,
                    number,
                    profile.latency,
                    random.fork(100 + number as u64),
                    clock.clone(),
                    trace.clone(),
                    points.clone(),
                )
            })
            .collect();
        let model = Rc::new(RefCell::new(Model::new(seed, profile.trust)));
        Self {
            random,
            profile,
            memory,
            mutants,
            parts,
            clock,
            trace,
            points,
            disks,
            model,
            tally: Rc::default(),
            operations,
            done: 0,
            is_closed: false,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// A description of the first thing that went wrong.
    pub fn run(mut self) -> Result<Outcome, String> {
        match self.life() {
            Ok(()) => {}
            Err(Trouble::Excused) => self.count(Count::LostPools),
            Err(Trouble::Cut) => return Err("a power cut that nobody planned".to_string()),
            Err(Trouble::Wrong(what)) => return Err(what),
        }
        let mut tally = *self.tally.borrow();
        tally.add(Count::Seeds, 1);
        tally.add(Count::Points, self.points.get());
        for disk in &self.disks {
            tally.add_faults(disk.struck());
        }
        Ok(Outcome {
            tally,
            trace: self.trace.hash(),
        })
    }

    fn count(&self, count: Count) {
        self.tally.borrow_mut().add(count, 1);
    }

    fn life(&mut self) -> Result<(), Trouble> {
        let mut running = self.first_start()?;
        let space = running.store.pool();
        while self.done < self.operations {
            let before = self.done;
            let stopped = self.work(running)?;
            running = match stopped {
                Some(running) => running,
                None => self.recover()?,
            };
            self.done = self.done.max(before + 1);
        }
        self.finish(running, space.free_bytes)
    }

    fn switch_on(&mut self) -> Powered {
        if self.profile.memory_changes {
            self.memory = Memory::draw(&mut self.random, true);
        }
        let machine = Machine::new(
            self.clock.clone(),
            self.disks.clone(),
            self.points.clone(),
            self.random.fork(2),
        );
        let environment = Environment {
            exec: machine.exec.clone(),
            entropy: Rc::new(SeededEntropy::new(self.random.fork(3))),
            pool: Pool::new(self.memory.pool_pages),
        };
        let config = Config {
            mutants: self.mutants,
            ..self.memory.config
        };
        Powered {
            machine,
            environment,
            config,
        }
    }

    fn set_faults(&self, faults: Faults) {
        for disk in &self.disks {
            disk.set_faults(faults);
        }
    }

    fn first_start(&mut self) -> Result<Running, Trouble> {
        let Powered {
            machine,
            environment,
            config,
        } = self.switch_on();
        let disks = self.disks.clone();
        let options = FormatOptions {
            group_shift: self.profile.group_shift,
        };
        let opened = machine.block_on(self.deadline(), async move {
            Store::format(&disks, &environment, options).await?;
            Store::open(disks, environment, config).await
        });
        match opened {
            Ok(Ok(store)) => Ok(Running { machine, store }),
            Ok(Err(error)) => Err(Trouble::Wrong(format!("first start failed: {error:?}"))),
            Err(stop) => Err(Trouble::Wrong(format!("first start: {stop:?}"))),
        }
    }

    fn deadline(&self) -> Instant {
        self.clock.now() + PATIENCE
    }

    /// For looking at everything there is.
    fn late_deadline(&self) -> Instant {
        self.clock.now() + LONG_PATIENCE
    }

    /// Lets clients work until the power is cut (`None`) or they are done (the appliance still runs).
    fn work(&mut self, running: Running) -> Result<Option<Running>, Trouble> {
        let Running { machine, store } = running;
        self.set_faults(self.profile.faults);
        // The number of requests in all must not change what is drawn, so that a shorter run is the beginning of a
        // longer one.
        let most = self.random.pick(&[50, 300, 1000]);
        let left = self.operations - self.done;
        let budget = self.random.between(1, most).min(left);
        let clients = self.profile.clients;
        let volumes = Volumes::new(store.clone());
        let network = self.lay_network(&machine, &volumes);
        let answered = || self.tally.borrow().get(Count::Requests);
        let before = answered();
        let session = Rc::new(Session {
            exec: machine.exec.clone(),
            trace: self.trace.clone(),
            store: store.clone(),
            volumes,
            network,
            changing: RefCell::default(),
            rolled_back: RefCell::default(),
            model: self.model.clone(),
            profile: self.profile.clone(),
            budget: Cell::new(budget),
            tally: self.tally.clone(),
            working: Cell::new(clients),
            failure: RefCell::new(None),
            busy_records: Cell::new(0),
            full: Cell::new(false),
            full_lately: Cell::new(false),
        });
        for client in 0..clients {
            let random = self.random.fork(1000 + client as u64);
            machine.exec.spawn(session.clone().work(random));
        }
        if self.parts.restarts && !self.random.one_in(5) {
            let points = 1 + self.random.below(self.profile.cut_every * 2);
            machine.cut_at.set(Some(machine.points.get() + points));
        }
        let stop = machine.run(self.deadline(), || session.is_over());
        machine.cut_at.set(None);
        self.done += answered() - before;
        if let Some(what) = session.failure.take() {
            return Err(Trouble::Wrong(what));
        }
        match stop {
            Stop::PowerCut => {
                drop((session, store));
                self.crash(machine);
                Ok(None)
            }
            Stop::Done => self.between(Running { machine, store }),
            other => Err(Trouble::Wrong(format!(
                "{other:?}: {} clients wait for an answer",
                session.working.get()
            ))),
        }
    }

    fn lay_network(&mut self, machine: &Machine, volumes: &Volumes<SimDisk>) -> Option<Clients> {
        let weather = self.profile.weather?;
        let network = Network::start(
            &machine.exec,
            self.clock.clone(),
            volumes.clone(),
            &SeededEntropy::new(self.random.fork(4)),
            weather,
            self.random.fork(5),
        );
        machine.edges.borrow_mut().push(network.clone());
        Some(Clients::new(
            machine.exec.clone(),
            network,
            self.random.fork(6),
        ))
    }

    /// Clients are done: the appliance goes on, is closed, reset, or loses power.
    fn between(&mut self, running: Running) -> Result<Option<Running>, Trouble> {
        self.check_accounts(&running.store)?;
        if self.random.one_in(2) {
            self.check_usage(&running)?;
        }
        if self.profile.trust == Trust::Full && self.random.one_in(6) {
            self.check_scrub(&running)?;
        }
        let read_only = running.store.pool().state != PoolState::Serving;
        if !self.parts.restarts {
            return Ok(Some(running));
        }
        match self.random.below(4) {
            0 if !read_only => Ok(Some(running)),
            1 if !read_only => {
                let Running { machine, store } = running;
                let closed = machine.block_on(self.deadline(), async move { store.close().await });
                match closed {
                    Ok(Ok(())) => {
                        self.model.borrow_mut().closed();
                        self.is_closed = true;
                    }
                    Ok(Err(_)) if self.profile.trust != Trust::Full => {}
                    other => return Err(Trouble::Wrong(format!("close failed: {other:?}"))),
                }
                // A close leaves nothing in the drives' caches that matters.
                if self.random.one_in(2) {
                    self.crash(machine);
                } else {
                    self.reset(machine);
                }
                Ok(None)
            }
            // After a failed flush only a power cut leads back.
            2 if !read_only => {
                self.reset(running.machine);
                Ok(None)
            }
            _ => {
                self.crash(running.machine);
                Ok(None)
            }
        }
    }
}
