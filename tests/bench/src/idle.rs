//! What an appliance that nobody talks to costs its host.

use std::time::{Duration, Instant};

use anyhow::Result;
use guest::Station;

use crate::interrupt;
use crate::report::Figure;
use crate::target::{self, Bench};

/// How long it is left alone after it is ready.
const REST: Duration = Duration::from_secs(3);
/// How long one sample lasts.
const WINDOW: Duration = Duration::from_secs(10);

/// CPU time of the QEMU process in windows after a rest.
///
/// # Errors
/// When the appliance does not start.
pub fn measure(bench: &Bench, station: &Station) -> Result<Figure> {
    eprintln!("idle");
    let mut appliance = station.start()?;
    interrupt::pause(REST)?;
    let mut figure = Figure::new("idle CPU of the QEMU process".into(), "% of a core");
    for _ in 0..bench.runs {
        let (before, start) = (appliance.running.cpu_time()?, Instant::now());
        interrupt::pause(WINDOW)?;
        let used = appliance.running.cpu_time()?.saturating_sub(before);
        let percent = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
        figure.samples.push(percent);
    }
    target::finish(&mut appliance)?;
    Ok(figure.remark(&format!("over {WINDOW:?} each, {REST:?} after start")))
}
