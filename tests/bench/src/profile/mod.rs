//! `--profile`: which functions of the image the instructions of an operation are spent in.
//!
//! The linked image (not the packed one, which has no line tables) runs with the counting plugin; one client does a fixed
//! number of operations in several **windows**, and every executed instruction is resolved to the function that it is in
//! and to the function that it was written in, which differ where the compiler has inlined.

pub mod crowd;
pub mod expected;
mod names;
pub mod rig;
mod table;

use std::fmt::Write as _;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::client::{Kind, Load};
use crate::counter::Counts;
use crate::interrupt;
use crate::target::{Bench, Route};

use names::Names;
use rig::Rig;
pub use rig::count;
use table::Table;

/// The part of the volume that is used, filled first.
const SPAN: u64 = 256 << 20;

/// Which loads are profiled; without options the four that matter most.
#[derive(Args, Debug)]
pub struct Choice {
    /// With --profile: only this kind of operation; repeatable, and done in this order: what is written at random is read
    /// otherwise than what was written in order
    #[arg(long, value_name = "JOB", requires = "profile")]
    job: Vec<Job>,
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
        if self.job.is_empty() {
            let usual = [
                (Job::Read, 32),
                (Job::Read, 1),
                (Job::Write, 32),
                (Job::Flush, 1),
            ];
            return usual.map(|(job, depth)| self.plan(job, depth)).to_vec();
        }
        let depth = |job: Job| self.depth.unwrap_or(job.usual_depth());
        let plans = self.job.iter().map(|job| self.plan(*job, depth(*job)));
        plans.collect()
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

impl Plan {
    /// Operations in each window, as they can be shared out equally.
    fn operations_done(&self) -> u64 {
        let connections = u64::from(self.connections);
        self.operations / connections * connections
    }

    /// Of all windows together, for each operation, rounded. Work that is put off, such as a checkpoint, is in one window and
    /// not in another, which makes the median of them a wrong answer.
    #[must_use]
    pub fn mean(&self, windows: &[Counts], value: fn(&Counts) -> u64) -> f64 {
        let operations = self.operations_done() * windows.len() as u64;
        let all: u64 = windows.iter().map(value).sum();
        (all as f64 / operations.max(1) as f64).round()
    }
}

/// Counts and prints.
///
/// # Errors
/// When the image is not built with symbols, the plugin cannot be built, or an operation fails.
pub fn print(bench: &Bench, plans: &[Plan]) -> Result<()> {
    let route = bench.best_route();
    let rig = Rig::start(bench, route)?;
    let names = Names::read(rig::linked(bench)?)?;
    for plan in plans {
        interrupt::check()?;
        let windows = rig.run(plan)?;
        print!("{}", describe(plan, &windows, route, &names));
    }
    rig.finish()
}

/// What is done, in words.
#[must_use]
pub fn title(plan: &Plan) -> String {
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

fn describe(plan: &Plan, windows: &[Counts], route: Route, names: &Names) -> String {
    let operations = plan.operations_done();
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
         repetitions of string instructions; {}\n",
        mean(&instructions),
        instructions.first().copied().unwrap_or_default(),
        instructions.last().copied().unwrap_or_default(),
        windows.len(),
        mean(&each(|counts| counts.blocks)),
        mean(&each(|counts| counts.repeats)),
        route.name(),
    );
    let total = operations * windows.len() as u64;
    for table in Table::of(windows, names) {
        out.push_str(&table.text(total, plan.rows));
    }
    out
}
