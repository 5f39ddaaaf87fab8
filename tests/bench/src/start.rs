//! How long it takes from exec of QEMU until a client has read its first block.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest::Station;
use guest::nbd::Nbd;
use qemu::Appliance;

use crate::interrupt;
use crate::report::Figure;
use crate::target::{self, Bench, EXPORT, Route};

/// Starts for each run that was asked for; they take a fraction of a second.
const STARTS_PER_RUN: u32 = 3;
/// How long one start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the console.
const POLL: Duration = Duration::from_millis(1);

/// One start.
struct Start {
    first_read_ms: f64,
    console_ms: f64,
}

/// Starts on an existing pool, behind each kind of network.
///
/// # Errors
/// When the appliance does not start or serve.
pub fn measure(bench: &Bench, station: &Station) -> Result<Vec<Figure>> {
    let mut figures = starts(bench, station, Route::User)?.to_vec();
    figures.extend(starts(bench, station, Route::Tap)?);
    Ok(figures)
}

fn starts(bench: &Bench, station: &Station, route: Route) -> Result<[Figure; 2]> {
    let name = |what: &str| format!("{what}, {}", route.name());
    let mut read = Figure::new(name("exec of QEMU to first NBD read"), "ms");
    let mut console = Figure::new(name("`ready in` on the console"), "ms");
    let mut options = station.options.clone();
    let namespace = match route {
        Route::Tap => match bench.namespace() {
            Ok(namespace) => Some(namespace),
            Err(reason) => {
                let remark = format!("{reason:#}");
                return Ok([read.remark(&remark), console.remark(&remark)]);
            }
        },
        _ => None,
    };
    if route == Route::Tap {
        target::put_on_tap(&mut options);
    }
    eprintln!("start, {}", route.name());
    for _ in 0..bench.runs * STARTS_PER_RUN {
        interrupt::check()?;
        let start = || {
            let before = Instant::now();
            let mut appliance = options.start()?;
            first_read(&mut appliance, before)
        };
        let sample = match &namespace {
            Some(namespace) => namespace.within(start)?,
            None => start()?,
        };
        read.samples.push(sample.first_read_ms);
        console.samples.push(sample.console_ms);
    }
    let address = match route {
        Route::Tap => "static address",
        _ => "DHCP",
    };
    let remark = format!("PVH, existing pool, {address}");
    Ok([read.remark(&remark), console.remark(&remark)])
}

/// Waits for the console before it connects: a connection that user-mode networking takes on behalf of a guest that is
/// not there yet waits for a retransmission, which would be what is measured.
fn first_read(appliance: &mut Appliance, before: Instant) -> Result<Start> {
    let console_ms = loop {
        if let Some(millis) = ready_in(&appliance.running.serial()) {
            break millis;
        }
        if let Some(status) = appliance.running.try_wait()? {
            bail!("ended ({status})\n{}", appliance.running.evidence());
        }
        let late = before.elapsed() > LIMIT;
        ensure!(!late, "not ready\n{}", appliance.running.evidence());
        thread::sleep(POLL);
    };
    let mut client = Nbd::connect(appliance.nbd, EXPORT, LIMIT)?;
    client.read(0, &mut [0; 4096])?;
    let first_read_ms = before.elapsed().as_secs_f64() * 1000.0;
    drop(client);
    target::finish(appliance).context("after a start")?;
    Ok(Start {
        first_read_ms,
        console_ms,
    })
}

/// The number in the line `… ready in N ms`.
pub fn ready_in(console: &str) -> Option<f64> {
    let (_, rest) = console.split_once(" ready in ")?;
    let (number, _) = rest.split_once(" ms")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_ready_line_once_it_is_whole() {
        assert_eq!(ready_in("boot\nferrite 0.1.0 ready in 93 ms\n"), Some(93.0));
        assert_eq!(ready_in("boot\nferrite 0.1.0 ready in 9"), None);
        assert_eq!(ready_in("boot\n"), None);
    }
}
