//! fio on all targets, in turns.

use anyhow::Result;

use crate::fio::{self, JOBS};
use crate::interrupt;
use crate::report::{Load, Report};
use crate::target::{Bench, Route, Target};

/// Runs every job on every target, one at a time and in turns, so that a busy minute of the host hits all of them.
///
/// # Errors
/// When a target does not start or an operation fails. A missing tap is a row that says so.
pub fn measure(bench: &Bench, routes: &[Route], report: &mut Report) -> Result<()> {
    let mut targets: Vec<(Route, Target)> = Vec::new();
    for &route in routes {
        if route == Route::Tap
            && let Err(reason) = bench.namespace()
        {
            report.missing.push((route, format!("{reason:#}")));
            continue;
        }
        eprintln!("filling {} MiB, {}", fio::SPAN_MIB, route.name());
        interrupt::check()?;
        let target = bench.target(route)?;
        target.within(|| fio::fill(&target.uri()))?;
        targets.push((route, target));
    }
    for job in JOBS {
        let mut loads: Vec<Load> = targets
            .iter()
            .map(|(route, _)| Load::new(job, *route))
            .collect();
        for run in 1..=bench.runs {
            for (load, (route, target)) in loads.iter_mut().zip(&targets) {
                interrupt::check()?;
                let before = target.cpu_time()?;
                let outcome = target.within(|| fio::timed(&target.uri(), job, bench.job_time))?;
                let used = target
                    .cpu_time()?
                    .zip(before)
                    .map(|(after, before)| after.saturating_sub(before));
                eprintln!(
                    "{}, {}, run {run}: {:.0} operations/s",
                    job.name,
                    route.name(),
                    outcome.iops
                );
                load.push(outcome, used);
            }
        }
        report.loads.extend(loads);
    }
    for (_, target) in targets {
        target.finish()?;
    }
    Ok(())
}
