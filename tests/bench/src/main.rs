//! `cargo xtask bench`: measures the finished image in QEMU and prints a table.
//!
//! A **figure** is one number that is sampled several times; it is reported as median and spread, never judged: nothing
//! here fails because something was slow. A **load** is one fio job on one **target** (an appliance behind one kind of
//! network, or a server of the host beside it), so that ratios come from the same minutes on the same machine.

#![forbid(unsafe_code)]

mod adoption;
mod affinity;
mod aging;
mod client;
mod counter;
mod curves;
mod cuts;
mod engine;
mod fio;
mod grid;
mod host;
mod idle;
mod interrupt;
mod loads;
mod loss;
mod memory;
mod namespace;
mod peers;
mod preflight;
mod profile;
mod report;
mod shim;
mod size;
mod snapshots;
mod start;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use qemu::Accel;
use qemu::instance::target_dir;

use report::Report;
use target::Bench;

/// Measures the image in QEMU: start, memory, size, idle CPU, snapshots, and fio through two kinds of network.
///
/// Prints a Markdown table with median and spread (least..most) to standard output and progress to standard error; the
/// JSON file has every sample. Nothing is asserted. Without options it takes about half an hour.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    after_help = "The tap needs root (a network namespace with a tap is made and removed again); without it those rows \
        say so.\nMachines without hardware virtualisation run the guest's instructions 10 to 50 times slower than \
        silicon: compare figures of one run only.\n\nExamples:\n  cargo xtask bench --only start --runs 10\n  \
        cargo xtask bench --only user --only host --seconds 10"
)]
struct Arguments {
    /// Measure only this; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
    /// Samples of each figure; starts are cheap and get three times as many
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// How long each fio job runs
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: u32,
    /// Where the samples go; target/bench.json when absent
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Where drive files lie while it runs; /dev/shm where there is one, so that the host's disk is no part of it
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Count instructions of the image for each operation, by function, instead of measuring times
    #[arg(long, conflicts_with = "only")]
    profile: bool,
    #[command(flatten)]
    profiled: profile::Choice,
    /// Count instructions of operations and fail if they have become many more than `tests/bench/expected.json` says
    #[arg(long, conflicts_with_all = ["only", "profile"])]
    check: bool,
    /// With --check: make what is counted the new expectation
    #[arg(long, requires = "check")]
    accept: bool,
    /// Measure throughput while packets are lost in both directions
    #[arg(long, conflicts_with_all = ["only", "profile", "check"])]
    loss: bool,
    /// Measure ours beside Linux storage VMs and a server of the host (root; packages are downloaded)
    #[arg(long, conflicts_with_all = ["only", "profile", "check", "loss"])]
    peers: bool,
    /// With --peers: measure only this; repeatable
    #[arg(long, value_name = "NAME", requires = "peers")]
    part: Vec<peers::Part>,
    /// With --peers: only this one, ours for instance; repeatable
    #[arg(long, value_name = "NAME", requires = "peers")]
    peer: Vec<peers::Peer>,
    /// Measure operations and instructions as work grows: depth, connections, size, snapshots, memory
    #[arg(long, conflicts_with_all = ["only", "profile", "check", "loss", "peers"])]
    curves: bool,
    /// With --curves: only this axis; repeatable
    #[arg(long, value_name = "NAME", requires = "curves")]
    axis: Vec<curves::Axis>,
    /// Measure a volume that is adopted beside copies of the same image, and what clients notice meanwhile
    #[arg(long, conflicts_with_all = ["only", "profile", "check", "loss", "peers", "curves"])]
    adoption: bool,
    /// With --adoption: only what clients notice while the rest arrives
    #[arg(long, requires = "adoption")]
    beside: bool,
    /// Measure as --peers does on a host with KVM, after looking whether it can
    #[arg(long, conflicts_with_all = ["only", "profile", "check", "loss", "peers", "curves", "adoption"])]
    host: bool,
    /// With --host: the PCI address of a blank NVMe controller that is bound to vfio-pci, for ours
    #[arg(long, value_name = "ADDRESS", requires = "host")]
    drive: Option<String>,
    /// Run only the measured sections of this scenario: what is started under callgrind
    #[arg(long, value_name = "NAME", hide = true)]
    counted: Option<String>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Time from exec of QEMU to the first NBD read of an existing pool
    Start,
    /// The least memory that boots and serves 500 reads and 500 writes
    Memory,
    /// Sizes of the image
    Size,
    /// CPU that an idle appliance takes
    Idle,
    /// fio through QEMU's user-mode network
    User,
    /// fio through a tap in a network namespace (root)
    Tap,
    /// fio against qemu-nbd on the host, on the same kind of file
    Host,
    /// What snapshots cost: create, writes, reads, delete; instructions too if valgrind is there
    Snapshots,
    /// Write amplification and runs of blocks of a pool that was overwritten for long
    Aging,
    /// Start after a power cut that left as much journal as there can be, up to 64 TiB
    Cuts,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if let Some(name) = &arguments.counted {
        return cuts::counted(name).unwrap_or_else(|| snapshots::counted(name));
    }
    interrupt::listen()?;
    if arguments.host {
        let has_kvm = Accel::Auto.resolve() == Accel::Kvm;
        let is_root = rustix::process::geteuid().is_root();
        let drive = arguments.drive.as_deref();
        preflight::require(&preflight::look("/".as_ref(), has_kvm, is_root, drive))?;
    }
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let bench = Bench::new(
        arguments.folder.as_deref(),
        arguments.runs,
        Duration::from_secs(arguments.seconds.into()),
    )?;
    if arguments.check {
        return profile::expected::check(&bench, arguments.accept);
    }
    if arguments.profile {
        return profile::print(&bench, &arguments.profiled.plans());
    }
    let mut report = Report::new(host::describe(&bench)?);
    // What was measured before a failure is shown all the same.
    let result = if arguments.loss {
        loss::measure(&bench, &mut report)
    } else if arguments.curves {
        curves::measure(&bench, &arguments.axis, &mut report)
    } else if arguments.adoption {
        adoption::measure(&bench, arguments.beside, &mut report)
    } else if arguments.peers {
        peers::measure(
            &bench,
            (&arguments.part, &arguments.peer),
            None,
            &mut report,
        )
    } else if arguments.host {
        let parts = [peers::Part::Fio, peers::Part::Boot];
        peers::measure(
            &bench,
            (&parts, &[]),
            arguments.drive.as_deref(),
            &mut report,
        )
    } else {
        measure_parts(&bench, &wanted, &mut report)
    };
    report.host.load_after = host::load_average();
    print!("{}", report.markdown());
    let json = match &arguments.json {
        Some(path) => path.clone(),
        None => target_dir().join("bench.json"),
    };
    let text = serde_json::to_string_pretty(&report.json())?;
    std::fs::write(&json, text + "\n")
        .with_context(|| format!("cannot write {}", json.display()))?;
    eprintln!("every sample: {}", qemu::instance::shown(&json));
    result
}

fn measure_parts(bench: &Bench, wanted: &dyn Fn(Part) -> bool, report: &mut Report) -> Result<()> {
    let pool_needed = [Part::Start, Part::Memory, Part::Idle].map(wanted);
    if wanted(Part::Size) {
        report.figures.extend(size::measure(bench)?);
    }
    if pool_needed.contains(&true) {
        let station = bench.station()?;
        bench.make_pool(&station)?;
        if wanted(Part::Start) {
            report.figures.extend(start::measure(bench, &station)?);
        }
        if wanted(Part::Memory) {
            report.figures.push(memory::measure(&station)?);
        }
        if wanted(Part::Idle) {
            report.figures.push(idle::measure(bench, &station)?);
        }
    }
    if wanted(Part::Snapshots) {
        snapshots::measure(bench, &mut report.figures)?;
    }
    if wanted(Part::Aging) {
        aging::measure(&mut report.figures)?;
    }
    if wanted(Part::Cuts) {
        cuts::measure(bench, &mut report.figures)?;
    }
    let routes = [
        (Part::User, target::Route::User),
        (Part::Tap, target::Route::Tap),
        (Part::Host, target::Route::Host),
    ];
    let routes: Vec<_> = routes
        .into_iter()
        .filter(|(part, _)| wanted(*part))
        .map(|(_, route)| route)
        .collect();
    if !routes.is_empty() {
        loads::measure(bench, &routes, report)?;
    }
    Ok(())
}
