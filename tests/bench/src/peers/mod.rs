//! `--peers`: ours beside what people run today, on the same machine in the same minutes.
//!
//! A **peer** is a Linux storage VM (dm-thin under an NBD server, the kernel's fast string copies switched off, because
//! translation punishes them), or a server of the host, which is the limit of client and protocol. All guests have the same
//! machine: one CPU, one NVMe drive on a file in memory, one virtio interface on a tap in a namespace of its own.

mod exits;
mod linux;
mod site;

use std::iter::once;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::client::{Kind, Load};
use crate::fio::{self, JOBS, Job};
use crate::grid::Grid;
use crate::interrupt;
use crate::profile::{Plan, count, title};
use crate::report::Report;
use crate::target::Bench;

use linux::Image;
use site::{Served, Site};

/// Size of the volume in MiB; all of it is filled and used, several times what a guest could keep in memory.
const VOLUME_MIB: u32 = 1024;
/// How long a peer may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take when memory is scarce.
const SCARCE_LIMIT: Duration = Duration::from_secs(40);
/// How long a few hundred operations may take then.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// Sizes of memory that are tried, in MiB: least, most, step.
const MEMORIES_MIB: (u32, u32, u32) = (8, 160, 8);
/// Reads in the order in which the volume was filled; those of [`JOBS`] come after random writes, which move blocks elsewhere
/// in a store that never overwrites.
const AS_FILLED: Job = JOBS[4].named("128 KiB sequential read, QD 8, as filled");
/// Operations while QEMU traces its devices, one at a time.
const TRACED: u64 = 2000;
/// The same where there are more at a time: enough that what a store does now and then, a checkpoint, has its share.
const TRACED_AT_DEPTH: u64 = 32_000;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Linux, dm-thin, nbdkit: what others are measured against.
    ThinNbdkit,
    /// Linux, dm-thin, qemu-nbd without a cache.
    ThinQemuNbd,
    /// Linux, dm-thin, nbd-server.
    ThinNbdServer,
    /// qemu-nbd on the host, without any guest.
    HostQemuNbd,
    /// The image.
    Ferrite,
}

impl Peer {
    const ALL: [Self; 5] = [
        Self::ThinNbdkit,
        Self::ThinQemuNbd,
        Self::ThinNbdServer,
        Self::HostQemuNbd,
        Self::Ferrite,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ThinNbdkit => "Linux dm-thin + nbdkit",
            Self::ThinQemuNbd => "Linux dm-thin + qemu-nbd",
            Self::ThinNbdServer => "Linux dm-thin + nbd-server",
            Self::HostQemuNbd => "host qemu-nbd",
            Self::Ferrite => "ferrite",
        }
    }
}

/// Parts of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// fio: operations, latency, CPU
    Fio,
    /// Exits and interrupts for each operation
    Exits,
    /// Instructions for each operation
    Instructions,
    /// From exec to the first read
    Boot,
    /// The least memory that serves
    Room,
}

/// Compares `peers`, or all where none is named; what was measured before a failure is in the report. Ours gets `drive`,
/// the PCI address of a controller, when there is one.
///
/// # Errors
/// Without root, when a package cannot be had, or when a peer does not serve.
pub fn measure(
    bench: &Bench,
    (parts, peers): (&[Part], &[Peer]),
    drive: Option<&str>,
    report: &mut Report,
) -> Result<()> {
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let is_compared = |peer: &Peer| peers.is_empty() || peers.contains(peer);
    eprintln!("putting the Linux storage VM together");
    let image = Image::prepare()?;
    report.notes.push(format!(
        "peers: {}; guests with 256 MiB; volume of {VOLUME_MIB} MiB, filled; every server on one core",
        linux::versions()?
    ));
    let mut sites = Vec::new();
    for peer in Peer::ALL.into_iter().filter(is_compared) {
        let mut site = Site::new(bench, peer, &image)?;
        if let (Peer::Ferrite, Some(address)) = (peer, drive) {
            site.pass_through(address);
            report.notes.push(format!(
                "ferrite has the drive at {address}, others a file in memory"
            ));
        }
        sites.push(site);
    }
    if wanted(Part::Fio) || wanted(Part::Exits) {
        let served = start_all(bench, &sites)?;
        if wanted(Part::Fio) {
            let mut grids = FioGrids::new();
            let result = fio_rounds(bench, &served, &mut grids);
            report.grids.extend(grids.0);
            result?;
        }
        if wanted(Part::Exits) {
            report.grids.push(traced(bench, &served)?);
        }
        for one in served {
            one.finish()?;
        }
    }
    if wanted(Part::Boot) {
        report.grids.push(boots(bench, &sites)?);
    }
    if wanted(Part::Room) {
        report.grids.push(rooms(bench, &mut sites)?);
    }
    if wanted(Part::Instructions) {
        report.grids.push(instructions(bench, &mut sites)?);
    }
    Ok(())
}

fn grid(title: &str, unit: &'static str) -> Grid {
    Grid::new(title, unit, &Peer::ALL.map(Peer::name)).relative_to(Peer::ThinNbdkit.name())
}

fn start_all<'a>(bench: &Bench, sites: &'a [Site]) -> Result<Vec<Served<'a>>> {
    let mut served = Vec::new();
    for site in sites {
        interrupt::check()?;
        eprintln!("{}: starting and filling", site.peer.name());
        let one = site.start(bench, START_LIMIT)?;
        one.within(|| fio::fill_mib(&one.uri(), VOLUME_MIB))?;
        one.connect(1)?[0].flush()?;
        served.push(one);
    }
    Ok(served)
}

/// Operations, streams, latency, CPU.
struct FioGrids([Grid; 4]);

impl FioGrids {
    fn new() -> Self {
        Self([
            grid("operations", "1/s"),
            grid("streams", "MiB/s"),
            grid("latency that one of a hundred exceeds", "µs"),
            grid("CPU of the server's process for each operation", "µs"),
        ])
    }
}

fn fio_rounds(bench: &Bench, served: &[Served<'_>], grids: &mut FioGrids) -> Result<()> {
    let [operations, streams, latency, cpu] = &mut grids.0;
    for job in once(AS_FILLED).chain(JOBS) {
        for run in 1..=bench.runs {
            for one in served {
                interrupt::check()?;
                let name = one.site.peer.name();
                let before = one.cpu_time()?;
                let outcome =
                    one.within(|| fio::timed_over(&one.uri(), job, bench.job_time, VOLUME_MIB))?;
                let used = one.cpu_time()?.saturating_sub(before);
                eprintln!("{}, {name}, run {run}: {:.0}/s", job.name, outcome.iops);
                match job.is_stream {
                    true => streams.push(job.name, name, outcome.mib_per_s),
                    false => operations.push(job.name, name, outcome.iops),
                }
                latency.push(job.name, name, outcome.p99_us);
                let each = used.as_secs_f64() * 1e6 / outcome.operations.max(1) as f64;
                cpu.push(job.name, name, each);
            }
        }
    }
    Ok(())
}

/// What instructions and exits are counted of: kind, depth, operations in a count.
const COUNTED: [(Kind, u32, u64); 5] = [
    (Kind::Read, 1, 2000),
    (Kind::Read, 32, 8000),
    (Kind::Write, 1, 2000),
    (Kind::Write, 32, 8000),
    (Kind::WriteFlush, 1, 1000),
];

fn plan(kind: Kind, depth: u32, operations: u64) -> Plan {
    let load = Load {
        kind,
        bytes: 4096,
        depth,
        span: u64::from(VOLUME_MIB) << 20,
    };
    Plan {
        load,
        connections: 1,
        operations,
        rows: 0,
    }
}

fn traced(bench: &Bench, served: &[Served<'_>]) -> Result<Grid> {
    let mut grid = grid("exits and interrupts for each operation", "times")
        .remark("kicks of virtio queues, NVMe doorbells and interrupts of both, from QEMU's trace");
    for (kind, depth, _) in COUNTED {
        let operations = if depth == 1 { TRACED } else { TRACED_AT_DEPTH };
        let plan = plan(kind, depth, operations);
        for _ in 0..bench.runs {
            for one in served {
                interrupt::check()?;
                trace_one(one, &plan, &mut grid)?;
            }
        }
    }
    Ok(grid)
}

fn trace_one(one: &Served<'_>, plan: &Plan, grid: &mut Grid) -> Result<()> {
    let Some(running) = one.running() else {
        return Ok(());
    };
    let (name, peer) = (title(plan), one.site.peer.name());
    eprintln!("exits: {name}, {peer}");
    let mut connections = one.connect(1)?;
    let session = &mut connections[0];
    session.run(plan.load, TRACED / 4)?;
    let work = || session.run(plan.load, plan.operations);
    let counts = exits::count(running, &one.messages(), work)?;
    let each = |count: u64| count as f64 / plan.operations as f64;
    let all = counts.iter().map(|(_, count)| count).sum();
    grid.push(&name, peer, each(all));
    for (what, count) in counts {
        grid.push(&format!("{name}: {what}"), peer, each(count));
    }
    Ok(())
}

fn instructions(bench: &Bench, sites: &mut [Site]) -> Result<Grid> {
    let mut instructions = grid("guest instructions for each operation", "instructions")
        .remark(
            "mean of three counts, so that what a store does later is in it; without the repetitions of string \
             instructions, which have rows of their own",
        );
    for site in sites {
        let Some(counter) = site.counter()? else {
            continue;
        };
        let name = site.peer.name();
        eprintln!("instructions: {name}: starting and filling");
        let one = site.start(bench, START_LIMIT)?;
        let mut filler = one.connect(1)?;
        filler[0].fill(u64::from(VOLUME_MIB) << 20)?;
        drop(filler);
        for (kind, depth, operations) in COUNTED {
            interrupt::check()?;
            let plan = plan(kind, depth, operations);
            eprintln!("instructions: {}, {name}", title(&plan));
            let windows = count(&counter, one.connect(1)?, &plan)?;
            let each = plan.mean(&windows, |counts| counts.instructions);
            instructions.push(&title(&plan), name, each);
            let repeats = format!("{}: string repetitions", title(&plan));
            let each = plan.mean(&windows, |counts| counts.repeats);
            instructions.push(&repeats, name, each);
        }
        one.finish()?;
    }
    Ok(instructions)
}

fn boots(bench: &Bench, sites: &[Site]) -> Result<Grid> {
    let mut grid = grid("start of the program to the first block read", "ms")
        .remark("on a drive that has a volume already");
    for site in sites {
        // The first start makes the volume.
        site.start(bench, START_LIMIT)?.finish()?;
        for _ in 0..bench.runs {
            interrupt::check()?;
            let one = site.start(bench, START_LIMIT)?;
            eprintln!(
                "{}: first read after {:?}",
                site.peer.name(),
                one.first_read
            );
            grid.push(
                "first read",
                site.peer.name(),
                one.first_read.as_millis() as f64,
            );
            one.finish()?;
        }
    }
    Ok(grid)
}

fn rooms(bench: &Bench, sites: &mut [Site]) -> Result<Grid> {
    let mut grid = grid("least memory that boots and serves", "MiB")
        .remark("500 reads and 500 writes at QD 32, in steps of 8 MiB");
    let (least, most, step) = MEMORIES_MIB;
    for site in sites {
        let Some(machine) = site.machine() else {
            continue;
        };
        let usual = machine.memory_mib;
        let (mut low, mut high) = (least / step - 1, most / step);
        while high - low > 1 {
            interrupt::check()?;
            let middle = (low + high) / 2;
            if let Some(machine) = site.machine() {
                machine.memory_mib = middle * step;
            }
            let serves = serves(bench, site);
            let word = if serves.is_ok() { "serves" } else { "does not" };
            eprintln!("{}: {} MiB {word}", site.peer.name(), middle * step);
            match serves {
                Ok(()) => high = middle,
                Err(_) => low = middle,
            }
        }
        grid.push("memory", site.peer.name(), f64::from(high * step));
        if let Some(machine) = site.machine() {
            machine.memory_mib = usual;
        }
    }
    Ok(grid)
}

fn serves(bench: &Bench, site: &Site) -> Result<()> {
    let one = site.start(bench, SCARCE_LIMIT)?;
    for job in [JOBS[1], JOBS[3]] {
        one.within(|| fio::counted(&one.uri(), job, 500, SERVE_LIMIT))?;
    }
    one.finish()
}
