//! The least guest memory with which the appliance boots and serves.

use std::time::Duration;

use anyhow::Result;
use guest::Station;
use qemu::ApplianceOptions;

use crate::fio::{self, JOBS};
use crate::interrupt;
use crate::report::Figure;
use crate::target::{self, EXPORT};

/// Sizes that are tried, in MiB.
const LEAST_MIB: u32 = 4;
const MOST_MIB: u32 = 256;
const STEP_MIB: u32 = 4;

/// How long it may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(15);
/// How long the operations of one kind may take.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// Reads, and as many writes, at queue depth 32.
const OPERATIONS: u64 = 500;

/// Bisects. Once is enough: whether memory suffices does not depend on the host's load.
///
/// # Errors
/// When not even the most memory suffices.
pub fn measure(station: &Station) -> Result<Figure> {
    let mut options = station.options.clone();
    let (mut low, mut high) = (LEAST_MIB / STEP_MIB - 1, MOST_MIB / STEP_MIB);
    serves(&mut options, high * STEP_MIB)?;
    while high - low > 1 {
        interrupt::check()?;
        let middle = (low + high) / 2;
        let verdict = serves(&mut options, middle * STEP_MIB);
        let word = if verdict.is_ok() {
            "serves"
        } else {
            "does not"
        };
        eprintln!("memory: {} MiB {word}", middle * STEP_MIB);
        match verdict {
            Ok(()) => high = middle,
            Err(_) => low = middle,
        }
    }
    let mut figure = Figure::new("least memory that boots and serves".into(), "MiB");
    figure.samples.push(f64::from(high * STEP_MIB));
    let served = format!("{OPERATIONS} reads and {OPERATIONS} writes of 4 KiB at QD 32");
    let below = match high * STEP_MIB {
        LEAST_MIB => "less was not tried".into(),
        _ => format!("{} MiB does not", low * STEP_MIB),
    };
    Ok(figure.remark(&format!("{served}; {below}")))
}

fn serves(options: &mut ApplianceOptions, memory_mib: u32) -> Result<()> {
    options.machine.memory_mib = memory_mib;
    let mut appliance = options.start()?;
    appliance.wait_ready(BOOT_LIMIT)?;
    let uri = appliance.nbd_uri(EXPORT);
    fio::counted(&uri, JOBS[1], OPERATIONS, SERVE_LIMIT)?;
    fio::counted(&uri, JOBS[3], OPERATIONS, SERVE_LIMIT)?;
    target::finish(&mut appliance)
}
