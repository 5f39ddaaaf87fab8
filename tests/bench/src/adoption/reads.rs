//! What clients notice while blocks are still elsewhere.

use std::time::Instant;

use anyhow::{Context, Result};
use guest::READY_LIMIT;
use guest::nbd::Nbd;

use super::Stage;
use super::ours::Ours;
use crate::fio::{self, JOBS};
use crate::grid::Grid;
use crate::interrupt;
use crate::report::{Report, median};

/// Reads of blocks that are not here: one in each of so many parts that are fetched at a time.
const READS: u64 = 200;
/// Between them: more than is fetched for one of them.
const STEP: u64 = 256 << 10;
/// Jobs of fio beside the arrival of the rest: reads and writes, one and many at a time.
const BESIDE: [usize; 4] = [0, 1, 2, 3];
const MIB: f64 = 1_048_576.0;
/// The volume that is worked on, and the part of it that is filled.
const WORKED_ON: (&str, u64) = ("work", 1 << 30);

/// Cold reads, and fio beside the arrival of the rest.
///
/// # Errors
/// When something does not work.
pub fn measure(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let mut reads = Grid::new(
        "a 4 KiB read at depth 1",
        "µs",
        &["not here yet", "here", "from the origin itself"],
    )
    .remark("medians of 200 reads each; what is not here comes with its neighbours");
    let mut costs = Grid::new(
        "the origin's part in a read of what is not here",
        "a read",
        &["KiB over the line", "requests"],
    );
    for run in 1..=stage.bench.runs {
        interrupt::check()?;
        eprintln!("cold reads, run {run}");
        cold(stage, &mut reads, &mut costs)?;
    }
    report.grids.extend([reads, costs]);
    beside(stage, report)
}

/// fio beside the arrival of the rest.
///
/// # Errors
/// When something does not work.
pub fn beside(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let mut beside = Grid::new(
        "4 KiB operations of another volume",
        "1/s",
        &["nothing arrives", "the rest of an adopted volume arrives"],
    )
    .relative_to("nothing arrives");
    let mut arrival = Grid::new("arrival meanwhile", "MiB/s", &["over the line"]).remark(
        "the job yields to clients: while anybody does anything it takes a quarter of the time",
    );
    let result = foreground(stage, &mut beside, &mut arrival);
    report.grids.extend([beside, arrival]);
    result
}

/// Offsets of reads, in pieces of data.
fn offsets(stage: &Stage<'_>) -> Vec<u64> {
    let piece = stage.shape.piece_bytes as u64;
    let of_piece = |start: u64| (0..piece / STEP).map(move |step| start + step * STEP);
    let all: Vec<u64> = stage.shape.places().flat_map(of_piece).collect();
    // Not in their order, and the same ones each time: 1009 has no divisor in common with their number.
    let count = all.len() as u64;
    (0..READS)
        .map(|read| all[(read * 1009 % count) as usize])
        .collect()
}

/// The median time of a read in µs.
fn timed(nbd: &mut Nbd, offsets: &[u64]) -> Result<f64> {
    let mut block = [0; 4096];
    let mut times = Vec::new();
    for &offset in offsets {
        let begun = Instant::now();
        nbd.read(offset, &mut block)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    median(&times).context("no reads")
}

fn cold(stage: &Stage<'_>, reads: &mut Grid, costs: &mut Grid) -> Result<()> {
    let (origin, other) = (stage.origin()?, stage.origin()?);
    let ours = Ours::start(stage.bench, stage.place)?;
    let held = ours.hold(&other)?;
    ours.adopt("cold", &origin)?;
    let mut nbd = ours.nbd("cold")?;
    let offsets = offsets(stage);
    let before = origin.counts();
    reads.push("adopted volume", "not here yet", timed(&mut nbd, &offsets)?);
    let after = origin.counts();
    reads.push("adopted volume", "here", timed(&mut nbd, &offsets)?);
    let bytes = (after.bytes() - before.bytes()) as f64 / 1024.0;
    let requests = (after.reads.len() - before.reads.len()) as u64;
    let requests = requests + after.questions - before.questions;
    costs.push("4 KiB read", "KiB over the line", bytes / READS as f64);
    costs.push("4 KiB read", "requests", requests as f64 / READS as f64);
    let mut direct = Nbd::connect(origin.address(), "", READY_LIMIT)?;
    let time = timed(&mut direct, &offsets)?;
    reads.push("adopted volume", "from the origin itself", time);
    drop(nbd);
    held.let_go()?;
    ours.end()
}

fn foreground(stage: &Stage<'_>, beside: &mut Grid, arrival: &mut Grid) -> Result<()> {
    let ours = Ours::start(stage.bench, stage.place)?;
    let (name, size) = WORKED_ON;
    ours.create(name, size)?;
    let uri = ours.uri(name);
    fio::fill(&uri)?;
    for run in 1..=stage.bench.runs {
        for job in BESIDE.map(|index| JOBS[index]) {
            interrupt::check()?;
            let alone = fio::timed(&uri, job, stage.bench.job_time)?;
            // A new one for each: what arrives in the end would make the numbers better than they are.
            let origin = stage.origin()?;
            ours.adopt("arriving", &origin)?;
            let (begun, before) = (Instant::now(), origin.counts());
            let outcome = fio::timed(&uri, job, stage.bench.job_time)?;
            let moved = (origin.counts().bytes() - before.bytes()) as f64 / MIB;
            let rate = moved / begun.elapsed().as_secs_f64();
            ours.delete("arriving")?;
            eprintln!(
                "{}, run {run}: {:.0}/s alone, {:.0}/s beside {rate:.1} MiB/s",
                job.name, alone.iops, outcome.iops
            );
            beside.push(job.name, "nothing arrives", alone.iops);
            let column = "the rest of an adopted volume arrives";
            beside.push(job.name, column, outcome.iops);
            arrival.push(job.name, "over the line", rate);
        }
    }
    ours.end()
}
