//! Ctrl-C ends a measurement in an orderly way: machines, namespace and files go, as they do at the normal end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

static ASKED: AtomicBool = AtomicBool::new(false);

/// How long a pause sleeps before it looks again whether somebody asked to stop.
const STEP: Duration = Duration::from_millis(50);

/// From now on SIGINT and SIGTERM only ask.
///
/// # Errors
/// When the system refuses.
pub fn listen() -> Result<()> {
    Ok(ctrlc::set_handler(|| ASKED.store(true, Ordering::Relaxed))?)
}

/// Fails once somebody has asked to stop; long measurements call it between steps.
///
/// # Errors
/// When somebody has.
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, and fails as soon as somebody asks to stop.
///
/// # Errors
/// As [`check`].
pub fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        check()?;
        thread::sleep(left.min(STEP));
    }
    check()
}
