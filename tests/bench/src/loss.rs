//! `--loss`: what throughput is left when packets are lost in both directions.

use anyhow::Result;

use crate::fio::{self, JOBS, Job, Outcome};
use crate::interrupt;
use crate::report::{Figure, Report};
use crate::shim::Shim;
use crate::target::{self, Bench, EXPORT, put_on_tap};

/// How many of a million packets are lost in each direction.
const LOSSES_PPM: [u64; 3] = [0, 1000, 10_000];

/// Random reads and writes at depth 32, then both streams.
const MEASURED: [Job; 4] = [JOBS[1], JOBS[3], JOBS[4], JOBS[5]];

/// Runs the jobs at each loss, in turns.
///
/// # Errors
/// Without a tap, when the appliance does not start, or when an operation fails.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let namespace = bench.namespace()?;
    let mut station = bench.station()?;
    put_on_tap(&mut station.options);
    Shim::lay(&mut station.options.machine);
    let (mut appliance, shim) = namespace.within(|| {
        let mut appliance = station.options.start()?;
        let shim = Shim::connect(station.scratch.path())?;
        appliance.wait_ready(guest::READY_LIMIT)?;
        Ok((appliance, shim))
    })?;
    let uri = appliance.nbd_uri(EXPORT);
    eprintln!("filling {} MiB", fio::SPAN_MIB);
    namespace.within(|| fio::fill(&uri))?;
    for job in MEASURED {
        let mut samples: Vec<Vec<Outcome>> = vec![Vec::new(); LOSSES_PPM.len()];
        let mut lost = [0; LOSSES_PPM.len()];
        for run in 1..=bench.runs {
            for (index, ppm) in LOSSES_PPM.into_iter().enumerate() {
                interrupt::check()?;
                let before = shim.frames();
                shim.lose(ppm);
                let outcome = namespace.within(|| fio::timed(&uri, job, bench.job_time));
                shim.lose(0);
                let (outcome, after) = (outcome?, shim.frames());
                lost[index] += after.lost - before.lost;
                eprintln!(
                    "{}, {} % lost, run {run}: {:.0} operations/s, {} of {} frames lost, {} overrun",
                    job.name,
                    percent(ppm),
                    outcome.iops,
                    after.lost - before.lost,
                    after.arrived - before.arrived,
                    after.overrun - before.overrun,
                );
                samples[index].push(outcome);
            }
        }
        for ((ppm, outcomes), lost) in LOSSES_PPM.into_iter().zip(samples).zip(lost) {
            report.figures.extend(figures(job, ppm, &outcomes, lost));
        }
    }
    target::finish(&mut appliance)
}

fn figures(job: Job, ppm: u64, outcomes: &[Outcome], lost: u64) -> [Figure; 3] {
    let name = |what: &str| format!("{}, {} % lost: {what}", job.name, percent(ppm));
    let (unit, rate): (_, fn(&Outcome) -> f64) = match job.is_stream {
        true => ("MiB/s", |outcome| outcome.mib_per_s),
        false => ("IOPS", |outcome| outcome.iops),
    };
    let remark = format!("{lost} packets lost in all runs");
    let figure = |what: &str, unit, value: fn(&Outcome) -> f64| {
        let mut figure = Figure::new(name(what), unit);
        figure.samples = outcomes.iter().map(value).collect();
        figure
    };
    [
        figure("rate", unit, rate).remark(&remark),
        figure("p99", "ms", |outcome| outcome.p99_us / 1000.0),
        figure("longest", "ms", |outcome| outcome.longest_us / 1000.0),
    ]
}

fn percent(ppm: u64) -> f64 {
    ppm as f64 / 10_000.0
}
