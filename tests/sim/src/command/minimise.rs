//! Makes a failing run smaller. Every attempt is a process of its own, so that a panic or an endless loop ends
//! nothing but the attempt.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Manner, Part};

/// Looks for the smallest run of `seed` that still fails and shows it.
///
/// # Errors
/// When no process can be started.
pub fn command(seed: u64, manner: &Manner, patience: u64) -> Result<ExitCode> {
    let patience = Duration::from_secs(patience);
    let Some(smallest) = smallest(seed, manner, patience)? else {
        println!(
            "seed {seed:#x} finds nothing in {} requests",
            manner.operations
        );
        return Ok(ExitCode::SUCCESS);
    };
    println!("smallest run that fails: {}", replay_line(seed, &smallest));
    let status = attempt(seed, &smallest)?.status();
    let status = status.context("cannot start the attempt")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Leaves out parts, then looks for the least number of requests; `None` when it does not fail at all.
///
/// # Errors
/// When no process can be started.
pub fn smallest(seed: u64, manner: &Manner, patience: Duration) -> Result<Option<Manner>> {
    let mut best = manner.clone();
    if !fails(seed, &best, patience)? {
        return Ok(None);
    }
    for part in Part::ALL {
        let mut fewer = best.clone();
        fewer.without.push(part);
        if !best.without.contains(&part) && fails(seed, &fewer, patience)? {
            best = fewer;
        }
    }
    // A shorter run is the beginning of a longer one, so the least number of requests can be found by bisection.
    let mut passes = 0;
    while passes + 1 < best.operations {
        let middle = Manner {
            operations: u64::midpoint(passes, best.operations),
            ..best.clone()
        };
        if fails(seed, &middle, patience)? {
            best = middle;
        } else {
            passes = middle.operations;
        }
    }
    Ok(Some(best))
}

/// What repeats a run.
pub fn replay_line(seed: u64, manner: &Manner) -> String {
    let options = manner.options().join(" ");
    format!("cargo xtask sim --seed {seed:#x} {options}")
}

fn fails(seed: u64, manner: &Manner, patience: Duration) -> Result<bool> {
    let mut command = attempt(seed, manner)?;
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start the attempt")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(!status.success());
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn attempt(seed: u64, manner: &Manner) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command.arg("--seed").arg(seed.to_string());
    command.args(manner.options());
    Ok(command)
}
