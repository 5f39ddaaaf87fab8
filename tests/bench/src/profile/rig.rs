//! An appliance whose instructions are counted while clients do an exact number of operations.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use guest::Station;
use qemu::Boot;
use qemu::instance::target_dir;

use crate::client::{Connection, Load};
use crate::counter::{Counter, Counts};
use crate::namespace::Namespace;
use crate::target::{self, Bench, EXPORT, Route, put_on_tap};

use super::{Plan, SPAN};

/// How often the number of operations is done and counted.
const WINDOWS: usize = 3;
/// Operations before the first window, as a part of those in one.
const WARM_UP_PART: u64 = 4;

/// The image with symbols and line tables.
pub fn linked_image() -> PathBuf {
    target_dir().join("image/release/ferrite")
}

/// An appliance that counts its instructions.
pub struct Rig {
    appliance: qemu::Appliance,
    // Only keeps the files.
    _station: Station,
    counter: Counter,
    namespace: Option<Rc<Namespace>>,
    address: SocketAddr,
}

impl Rig {
    /// Starts it on a blank drive and fills what will be read.
    ///
    /// # Errors
    /// When it does not start or serve.
    pub fn start(bench: &Bench, route: Route) -> Result<Self> {
        let linked = linked_image();
        ensure!(
            linked.exists(),
            "there is no {}; `cargo xtask image` builds it",
            linked.display()
        );
        let mut station = bench.station()?;
        // A copy, so that a build meanwhile does not change what runs.
        let elf = station.scratch.file("linked.elf");
        std::fs::copy(&linked, &elf)?;
        station.options.machine.boot = Boot::Kernel {
            elf,
            command_line: String::new(),
        };
        let counter = Counter::build(station.scratch.path())?;
        counter.attach(&mut station.options.machine);
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
        let rig = Self {
            address: appliance.nbd,
            appliance,
            _station: station,
            counter,
            namespace,
        };
        eprintln!("filling {} MiB", SPAN >> 20);
        rig.connect(1)?[0].fill(SPAN)?;
        Ok(rig)
    }

    fn connect(&self, count: u32) -> Result<Vec<Connection>> {
        let open = || {
            (1..=count)
                .map(|seed| Connection::open(self.address, EXPORT, seed.into()))
                .collect()
        };
        match &self.namespace {
            Some(namespace) => namespace.within(open),
            None => open(),
        }
    }

    /// Does the operations of `plan` and returns what each window executed.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn run(&self, plan: &Plan) -> Result<Vec<Counts>> {
        count(&self.counter, self.connect(plan.connections)?, plan)
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
