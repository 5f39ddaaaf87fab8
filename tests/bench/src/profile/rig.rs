//! An appliance under clients that do an exact number of operations, with its instructions counted or against the clock.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use ferrite::Client;
use guest::Station;
use qemu::Boot;

use crate::client::{Connection, Load};
use crate::counter::{Counter, Counts};
use crate::namespace::Namespace;
use crate::target::{self, Bench, EXPORT, MEMORY_MIB, Route, put_on_tap};

use super::crowd::Crowd;
use super::{Plan, SPAN};

/// How often the number of operations is done and counted.
const WINDOWS: usize = 3;
/// Operations before the first window, as a part of those in one.
const WARM_UP_PART: u64 = 4;

/// The image with symbols and line tables.
///
/// # Errors
/// When it is not built.
pub fn linked(bench: &Bench) -> Result<&Path> {
    let linked = bench.linked.as_deref();
    linked.context("there is no image with symbols; `cargo xtask image` builds it")
}

/// An appliance to be loaded.
pub struct Rig {
    appliance: qemu::Appliance,
    station: Station,
    /// Absent when the clock is what counts: counting takes time.
    counter: Option<Counter>,
    namespace: Option<Rc<Namespace>>,
    address: SocketAddr,
}

impl Rig {
    /// Starts one that counts on a blank drive, and fills what will be read.
    ///
    /// # Errors
    /// When it does not start or serve.
    pub fn start(bench: &Bench, route: Route) -> Result<Self> {
        let rig = Self::bare(bench, route, MEMORY_MIB, true)?;
        rig.fill(SPAN)?;
        Ok(rig)
    }

    /// Starts one with so much memory on a blank drive.
    ///
    /// # Errors
    /// When it does not start or serve.
    pub fn bare(bench: &Bench, route: Route, memory_mib: u32, is_counted: bool) -> Result<Self> {
        let mut station = bench.station()?;
        let elf = linked(bench)?.to_path_buf();
        station.options.machine.boot = Boot::Kernel {
            elf,
            command_line: String::new(),
        };
        station.options.machine.memory_mib = memory_mib;
        let mut counter = None;
        if is_counted {
            let plugin = Counter::build(station.scratch.path())?;
            plugin.attach(&mut station.options.machine);
            counter = Some(plugin);
        }
        let namespace = match route {
            Route::Tap => {
                put_on_tap(&mut station.options);
                Some(bench.namespace()?)
            }
            _ => None,
        };
        let appliance = match &namespace {
            Some(namespace) => namespace.within(|| station.start())?,
            None => station.start()?,
        };
        Ok(Self {
            address: appliance.nbd,
            appliance,
            station,
            counter,
            namespace,
        })
    }

    /// Writes the first `bytes` of the usual volume.
    ///
    /// # Errors
    /// When a write fails.
    pub fn fill(&self, bytes: u64) -> Result<()> {
        eprintln!("filling {} MiB", bytes >> 20);
        self.connect(EXPORT, 1)?[0].fill(bytes)
    }

    /// Opens connections to a volume; each goes to the same places in the same order every time.
    ///
    /// # Errors
    /// When one is refused.
    pub fn connect(&self, volume: &str, count: u32) -> Result<Vec<Connection>> {
        self.within(|| {
            (1..=count)
                .map(|seed| Connection::open(self.address, volume, seed.into()))
                .collect()
        })
    }

    /// Asks its API for something.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn api<T>(&self, work: impl FnOnce(&Client) -> Result<T>) -> Result<T> {
        self.within(|| work(&self.station.api()))
    }

    /// Lets a crowd of slow clients come to its API.
    ///
    /// # Errors
    /// When not even one can.
    pub fn crowd(&self) -> Result<Crowd> {
        self.within(|| Crowd::gather(self.appliance.api))
    }

    fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.within(work),
            None => work(),
        }
    }

    /// Does the operations of `plan` and returns what each window executed.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn run(&self, plan: &Plan) -> Result<Vec<Counts>> {
        self.measure(EXPORT, plan).map(|(_, windows)| windows)
    }

    /// The same on any volume; with the operations in a second, which mean something only where nothing is counted.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn measure(&self, volume: &str, plan: &Plan) -> Result<(f64, Vec<Counts>)> {
        let sessions = self.connect(volume, plan.connections)?;
        let began = Instant::now();
        match &self.counter {
            Some(counter) => Ok((0.0, count(counter, sessions, plan)?)),
            None => {
                eprintln!("timing: {}", super::title(plan));
                let each = plan.operations_done() / u64::from(plan.connections);
                thread::scope(|scope| {
                    let workers: Vec<_> = sessions
                        .into_iter()
                        .map(|mut session| scope.spawn(move || session.run(plan.load, each)))
                        .collect();
                    let mut results = workers.into_iter().map(|worker| worker.join());
                    results.try_for_each(|result| result.expect("a connection's thread"))
                })?;
                let operations = plan.operations_done() as f64;
                Ok((operations / began.elapsed().as_secs_f64(), Vec::new()))
            }
        }
    }

    /// Ends it in an orderly way.
    ///
    /// # Errors
    /// When it does not turn itself off.
    pub fn finish(mut self) -> Result<()> {
        target::finish(&mut self.appliance)
    }
}

/// Does the operations of `plan` on connections to a guest that `counter` counts, and returns what each window executed.
///
/// # Errors
/// When an operation fails.
pub fn count(counter: &Counter, sessions: Vec<Connection>, plan: &Plan) -> Result<Vec<Counts>> {
    eprintln!("counting: {}", super::title(plan));
    let load = plan.load;
    let each = plan.operations_done() / u64::from(plan.connections);
    // All connections and the thread that samples meet before and after each window.
    let gate = Barrier::new(sessions.len() + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                let gate = &gate;
                scope.spawn(move || work(session, load, each, gate))
            })
            .collect();
        gate.wait();
        let mut windows = Vec::new();
        let mut failed = None;
        for _ in 0..WINDOWS {
            let before = counter.sample();
            gate.wait();
            gate.wait();
            match before.and_then(|before| Ok(counter.sample()?.since(&before))) {
                Ok(counts) => windows.push(counts),
                Err(error) => failed = Some(error),
            }
            gate.wait();
        }
        for worker in workers {
            worker.join().expect("a connection's thread")?;
        }
        failed.map_or(Ok(windows), Err)
    })
}

/// One connection's part. It keeps all appointments even when it fails, so that nobody waits for it.
fn work(mut session: Connection, load: Load, count: u64, gate: &Barrier) -> Result<()> {
    let mut result = session.run(load, count.div_ceil(WARM_UP_PART));
    gate.wait();
    for _ in 0..WINDOWS {
        gate.wait();
        if result.is_ok() {
            result = session.run(load, count);
        }
        gate.wait();
        gate.wait();
    }
    result
}
