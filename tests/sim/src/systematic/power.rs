//! One power-on of a store over recording drives, with time that passes only when nothing else can happen.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use exec::Exec;
use store::{CheckOptions, Config, Environment, Finding, FormatOptions, Mutants, Store, check};
use world::{Clock, Pool};

use super::tape::{Image, TapeDisk};
use crate::clock::VirtualClock;
use crate::random::{Random, SeededEntropy};

/// Turns of ready tasks without a pause after which nobody is making progress.
const ROUNDS_MAX: u64 = 200_000;

/// Everything is done within this much virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

/// A store's world.
pub struct Power {
    pub exec: Exec,
    clock: Rc<VirtualClock>,
    environment: Environment,
    config: Config,
    /// The drives, in the order of their numbers.
    pub disks: Vec<TapeDisk>,
}

impl Power {
    /// Switches on over these contents.
    pub fn on(image: Image, mutants: Mutants) -> Self {
        let clock = Rc::new(VirtualClock::default());
        let exec = Exec::new(clock.clone());
        let environment = Environment {
            exec: exec.clone(),
            entropy: Rc::new(SeededEntropy::new(Random::new(1))),
            pool: Pool::new(64),
        };
        let config = Config {
            deltas_max: 256,
            nodes_max: 128,
            groups_open_max: 16,
            // Every checkpoint leaves cursors behind.
            reclaim_blocks: 1,
            mutants,
            ..Config::for_memory(1 << 20)
        };
        Self {
            exec,
            clock,
            environment,
            config,
            disks: image.insert(),
        }
    }

    /// Runs something to its end.
    ///
    /// # Errors
    /// When it never ends.
    pub fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Result<T, String> {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        self.exec.spawn(async move {
            let value = task.await;
            *result.borrow_mut() = Some(value);
        });
        self.go_on(PATIENCE, || slot.borrow().is_some())?;
        slot.take()
            .ok_or_else(|| "nothing ever happens".to_string())
    }

    /// Lets background work go on for a while.
    ///
    /// # Errors
    /// When it runs in circles.
    pub fn idle(&self, time: Duration) -> Result<(), String> {
        self.go_on(time, || false)
    }

    /// Gives what is ready to run so many turns.
    pub fn turn(&self, times: usize) {
        for _ in 0..times {
            self.exec.run_ready();
        }
    }

    fn go_on(&self, time: Duration, is_done: impl Fn() -> bool) -> Result<(), String> {
        let end = self.clock.now() + time;
        for _ in 0..ROUNDS_MAX {
            if is_done() {
                return Ok(());
            }
            if self.exec.run_ready() {
                continue;
            }
            match self.exec.next_deadline() {
                Some(next) if next <= end => self.clock.advance_to(next),
                _ => {
                    self.clock.advance_to(end);
                    return Ok(());
                }
            }
        }
        Err("tasks run in circles".to_string())
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// The store's.
    pub fn format(&self) -> Result<(), String> {
        let (disks, environment) = (self.disks.clone(), self.environment.clone());
        let options = FormatOptions {
            group_shift: Some(8),
        };
        let made = self.run(async move { Store::format(&disks, &environment, options).await })?;
        made.map_err(|error| format!("format: {error:?}"))
    }

    /// Opens the pool.
    ///
    /// # Errors
    /// The store's.
    pub fn open(&self) -> Result<Store<TapeDisk>, String> {
        let (disks, environment) = (self.disks.clone(), self.environment.clone());
        let config = self.config;
        let opened = self.run(async move { Store::open(disks, environment, config).await })?;
        opened.map_err(|error| format!("the pool does not open: {error:?}"))
    }

    /// What the checker finds; the pool must not be open.
    ///
    /// # Errors
    /// Why it cannot even begin.
    pub fn check(&self, verify_data: bool) -> Result<Vec<Finding>, String> {
        let disks = self.disks.clone();
        let checked = self.run(async move {
            let mut findings = Vec::new();
            let options = CheckOptions { verify_data };
            let result = check(&disks, options, &mut |finding| findings.push(finding)).await;
            (result, findings)
        })?;
        match checked {
            (Ok(_), findings) => Ok(findings),
            (Err(error), findings) => Err(format!("check cannot begin: {error:?} {findings:?}")),
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        // Tasks hold the store, and the store holds what runs them.
        self.exec.clear();
    }
}
