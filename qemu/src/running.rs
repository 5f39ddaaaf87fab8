//! A machine that runs: its serial log, its QMP socket, its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::qmp::Qmp;

/// Pause between two looks at the serial log or the process.
const POLL: Duration = Duration::from_millis(5);

/// How long QEMU may take to build the machine.
const START_LIMIT: Duration = Duration::from_secs(10);

/// `/proc` counts CPU time in hundredths of a second on every x86 Linux.
const TICKS_PER_SECOND: u64 = 100;

/// A QEMU process. Dropping it kills the process, by its handle.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    serial: PathBuf,
    qmp: PathBuf,
    messages: PathBuf,
    started: Instant,
}

impl Running {
    pub(crate) fn new(
        child: Child,
        serial: PathBuf,
        qmp: PathBuf,
        messages: PathBuf,
    ) -> Result<Self> {
        let mut running = Self {
            child: Some(child),
            serial,
            qmp,
            messages,
            started: Instant::now(),
        };
        let deadline = Instant::now() + START_LIMIT;
        while !running.qmp.exists() {
            running.check_started(deadline)?;
            thread::sleep(Duration::from_millis(2));
        }
        // The socket comes before the machine, the greeting after it: a refused device shows here. Between the socket's
        // name and somebody listening at it there is a moment, too.
        while running.qmp().is_err() {
            running.check_started(deadline)?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(running)
    }

    fn check_started(&mut self, deadline: Instant) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!("QEMU ended at once ({status}): {}", self.messages());
        }
        if Instant::now() > deadline {
            bail!(
                "QEMU does not start within {START_LIMIT:?}: {}",
                self.messages()
            );
        }
        Ok(())
    }

    /// When the process was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// What the guest has written to its serial console so far.
    #[must_use]
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// The file that the serial console is written to.
    #[must_use]
    pub fn serial_path(&self) -> &Path {
        &self.serial
    }

    /// What QEMU itself has said.
    #[must_use]
    pub fn messages(&self) -> String {
        let text =
            String::from_utf8_lossy(&fs::read(&self.messages).unwrap_or_default()).into_owned();
        if text.trim().is_empty() {
            "it said nothing".into()
        } else {
            text.trim().into()
        }
    }

    /// Waits for a complete serial line that contains `pattern` and returns it.
    ///
    /// # Errors
    /// When it does not come within `limit` or the machine ends first; the error shows the end of the log.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        self.wait_for_line(0, &[pattern], limit)
    }

    /// As [`wait_for`](Self::wait_for), for the first line that contains one of `patterns`.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_any(&mut self, patterns: &[&str], limit: Duration) -> Result<String> {
        self.wait_for_line(0, patterns, limit)
    }

    /// As [`wait_for`](Self::wait_for), looking only behind the first `offset` bytes of the log.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_after(
        &mut self,
        offset: usize,
        pattern: &str,
        limit: Duration,
    ) -> Result<String> {
        self.wait_for_line(offset, &[pattern], limit)
    }

    fn wait_for_line(
        &mut self,
        offset: usize,
        patterns: &[&str],
        limit: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + limit;
        let wanted = |line: &str| patterns.iter().any(|pattern| line.contains(pattern));
        loop {
            let ended = self.try_wait()?;
            let log = self.serial();
            let new = log.get(offset..).unwrap_or_default();
            let complete = new.rfind('\n').map_or("", |end| &new[..end]);
            if let Some(line) = complete.lines().find(|line| wanted(line)) {
                return Ok(line.trim_end().to_owned());
            }
            let what = patterns.join("` or `");
            if let Some(status) = ended {
                bail!(
                    "the machine ended ({status}) before `{what}`\n{}",
                    self.evidence()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "no `{what}` on the console within {limit:?}\n{}",
                    self.evidence()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// The end of the serial log and QEMU's messages, for error texts.
    #[must_use]
    pub fn evidence(&self) -> String {
        let log = self.serial();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!(
            "--- console (last lines)\n{tail}\n--- QEMU\n{}",
            self.messages()
        )
    }

    /// A QMP connection; only one at a time.
    ///
    /// # Errors
    /// When the machine is gone or the socket is in use.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.qmp)
    }

    /// The exit status if the machine has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("detached")?;
        child
            .try_wait()
            .context("cannot ask for the exit status of QEMU")
    }

    /// Waits until the machine ends by itself.
    ///
    /// # Errors
    /// When it does not within `limit`; it keeps running then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the machine still runs after {limit:?}\n{}",
                    self.evidence()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Presses the power button and waits for the end.
    ///
    /// # Errors
    /// When the guest has not turned the machine off within `limit`; it keeps running then.
    pub fn power_down(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.qmp()?.system_powerdown()?;
        self.wait(limit)
    }

    /// Kills QEMU (SIGKILL), as a power cut does; returns when it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("detached")?;
        child.kill().context("cannot kill QEMU")?;
        child.wait().context("cannot wait for QEMU")?;
        Ok(())
    }

    /// CPU time that the process has used, in steps of 10 ms.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// Lets the machine run on after this program.
    #[must_use]
    pub fn detach(mut self) -> u32 {
        let pid = self.pid();
        self.child = None;
        pid
    }

    fn child(&self) -> &Child {
        self.child
            .as_ref()
            .expect("only detach, which consumes the handle, takes the child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process of this id exists and has not ended.
#[must_use]
pub fn pid_is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.starts_with(['Z', 'X']))
    })
}

/// CPU time that the process `pid` has used, in steps of 10 ms.
///
/// # Errors
/// When it has ended.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    cpu_time_of(&stat).with_context(|| format!("{path} looks different than expected"))
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted behind the name in brackets, which may contain blanks.
fn cpu_time_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_survives_odd_program_names() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 5 0 1 1 1";
        assert_eq!(cpu_time_of(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time_of("7 (x"), None);
    }

    #[test]
    fn this_process_is_alive() {
        assert!(pid_is_alive(std::process::id()));
        assert!(!pid_is_alive(u32::MAX));
    }
}
