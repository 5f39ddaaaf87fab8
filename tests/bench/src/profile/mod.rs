//! `--profile`: which functions of the image the instructions of an operation are spent in.
//!
//! The linked image (not the packed one, which has no line tables) runs with the counting plugin; one client does a fixed
//! number of operations in several **windows**, and every executed instruction is resolved to the function that it is in
//! and to the function that it was written in, which differ where the compiler has inlined.

mod names;
mod table;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use guest::Station;
use qemu::Boot;
use qemu::instance::target_dir;

use crate::client::{Connection, Kind, Load};
use crate::counter::{Counter, Counts};
use crate::interrupt;
use crate::namespace::Namespace;
use crate::target::{self, Bench, EXPORT, put_on_tap};

use names::Names;
use table::Table;

/// The part of the volume that is used, filled first.
const SPAN: u64 = 256 << 20;
/// How often the number of operations is done and counted.
const WINDOWS: usize = 3;
/// Operations before the first window, as a part of those in one.
const WARM_UP_PART: u64 = 4;

/// Which loads are profiled; without options the four that matter most.
#[derive(Args, Debug)]
pub struct Choice {
    /// With --profile: only this kind of operation
    #[arg(long, value_name = "JOB", requires = "profile")]
    job: Option<Job>,
    /// With --profile: operations in flight on each connection
    #[arg(long, value_name = "N", requires = "job", value_parser = clap::value_parser!(u32).range(1..=256))]
    depth: Option<u32>,
    /// With --profile: connections
    #[arg(long, value_name = "N", default_value_t = 1, requires = "profile",
        value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// With --profile: operations in each of the three counts
    #[arg(long, value_name = "N", requires = "profile", value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    operations: Option<u64>,
    /// With --profile: functions in a table, the others are one line
    #[arg(long, value_name = "N", default_value_t = 40, requires = "profile")]
    top: usize,
}

/// Kinds of operation, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Job {
    /// 4 KiB reads at random
    Read,
    /// 4 KiB writes at random
    Write,
    /// 4 KiB writes at random, each with a flush behind it
    Flush,
    /// 128 KiB reads in order
    StreamRead,
    /// 128 KiB writes in order
    StreamWrite,
}

impl Choice {
    /// The loads in the order in which they run.
    #[must_use]
    pub fn plans(&self) -> Vec<Plan> {
        match self.job {
            Some(job) => vec![self.plan(job, self.depth.unwrap_or(job.usual_depth()))],
            None => [
                (Job::Read, 32),
                (Job::Read, 1),
                (Job::Write, 32),
                (Job::Flush, 1),
            ]
            .map(|(job, depth)| self.plan(job, depth))
            .to_vec(),
        }
    }

    fn plan(&self, job: Job, depth: u32) -> Plan {
        let operations = match job {
            Job::StreamRead | Job::StreamWrite => 2000,
            _ if depth < 8 => 4000,
            _ => 16_000,
        };
        Plan {
            load: job.load(depth),
            connections: self.connections,
            operations: self.operations.unwrap_or(operations),
            rows: self.top,
        }
    }
}

impl Job {
    fn usual_depth(self) -> u32 {
        match self {
            Self::Read | Self::Write => 32,
            Self::Flush => 1,
            Self::StreamRead | Self::StreamWrite => 8,
        }
    }

    fn load(self, depth: u32) -> Load {
        let (kind, bytes) = match self {
            Self::Read => (Kind::Read, 4096),
            Self::Write => (Kind::Write, 4096),
            Self::Flush => (Kind::WriteFlush, 4096),
            Self::StreamRead => (Kind::StreamRead, 1 << 17),
            Self::StreamWrite => (Kind::StreamWrite, 1 << 17),
        };
        Load {
            kind,
            bytes,
            depth,
            span: SPAN,
        }
    }
}

/// What is profiled.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The load on each connection.
    pub load: Load,
    /// Connections.
    pub connections: u32,
    /// Operations in each window, on all connections together.
    pub operations: u64,
    /// Functions in a table; the others are one line.
    pub rows: usize,
}

/// Counts and prints.
///
/// # Errors
/// When the image is not built with symbols, the plugin cannot be built, or an operation fails.
pub fn print(bench: &Bench, plans: &[Plan]) -> Result<()> {
    let rig = Rig::start(bench)?;
    let names = Names::read(&linked_image())?;
    for plan in plans {
        interrupt::check()?;
        let windows = rig.run(plan)?;
        print!("{}", describe(plan, &windows, &rig.route, &names));
    }
    rig.finish()
}

fn linked_image() -> std::path::PathBuf {
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
    route: String,
}

impl Rig {
    /// Starts it on a blank drive and fills what will be read.
    ///
    /// # Errors
    /// When it does not start or serve.
    pub fn start(bench: &Bench) -> Result<Self> {
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
        let (namespace, route) = match bench.namespace() {
            Ok(namespace) => {
                put_on_tap(&mut station.options);
                (Some(namespace), "tap".to_owned())
            }
            Err(reason) => (None, format!("user-mode network (no tap: {reason:#})")),
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
            route,
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
        let Plan {
            load, connections, ..
        } = *plan;
        eprintln!("profile: {}", title(plan));
        let each = plan.operations / u64::from(connections);
        let sessions = self.connect(connections)?;
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
                let before = self.counter.sample();
                gate.wait();
                gate.wait();
                match before.and_then(|before| Ok(self.counter.sample()?.since(&before))) {
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

    /// Ends it in an orderly way.
    ///
    /// # Errors
    /// When it does not turn itself off.
    pub fn finish(mut self) -> Result<()> {
        target::finish(&mut self.appliance)
    }
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

fn title(plan: &Plan) -> String {
    let load = plan.load;
    let what = match load.kind {
        Kind::Read => "random read",
        Kind::Write => "random write",
        Kind::WriteFlush => "random write and flush",
        Kind::StreamRead => "sequential read",
        Kind::StreamWrite => "sequential write",
    };
    let size = load.bytes >> 10;
    format!(
        "{size} KiB {what}, QD {}, connections {}",
        load.depth, plan.connections
    )
}

fn describe(plan: &Plan, windows: &[Counts], route: &str, names: &Names) -> String {
    let operations = plan.operations / u64::from(plan.connections) * u64::from(plan.connections);
    let each = |value: fn(&Counts) -> u64| -> Vec<f64> {
        let mut all: Vec<f64> = windows
            .iter()
            .map(|counts| value(counts) as f64 / operations as f64)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let instructions = each(|counts| counts.instructions);
    // The mean, so that the tables below add up to it.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let mut out = format!("\n## {}\n\n", title(plan));
    let _ = writeln!(
        out,
        "{:.0} instructions per operation ({:.0}..{:.0} in {} windows of {operations} operations), {:.0} blocks, {:.0} \
         repetitions of string instructions; {route}\n",
        mean(&instructions),
        instructions.first().copied().unwrap_or_default(),
        instructions.last().copied().unwrap_or_default(),
        windows.len(),
        mean(&each(|counts| counts.blocks)),
        mean(&each(|counts| counts.repeats)),
    );
    let total = operations * windows.len() as u64;
    for table in Table::of(windows, names) {
        out.push_str(&table.text(total, plan.rows));
    }
    out
}
