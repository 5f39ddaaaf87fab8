//! The Linux machine that boots from the volume.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use guest::Scratch;
use qemu::{Boot, Bus, Drive, Machine, Qmp, Running};
use serde_json::json;

/// How long the way to the prompt may take, translated and on a busy machine.
const LOGIN_LIMIT: Duration = Duration::from_secs(300);
/// How often its console is looked at.
const INTERVAL: Duration = Duration::from_millis(20);
/// How often it is asked whether it runs: QEMU stops it at an error of its disk.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How long the memory may take to another QEMU.
const MEMORY_LIMIT: Duration = Duration::from_secs(180);
/// How long a step of a migration may take that moves next to nothing.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// As fast as it goes; QEMU's own limit is less.
const MEMORY_BYTES_PER_SECOND: u64 = 4 << 30;
const MEMORY_MIB: u32 = 384;
/// Where memory arrives, in the folder of the machine that awaits it.
const INCOMING: &str = "incoming.sock";
/// What `getty` writes when somebody can log in; no line ends there.
const PROMPT: &str = "login: ";

/// One run of it; ends as by a power cut with the value.
#[derive(Debug)]
pub struct Guest {
    running: Running,
    scratch: Scratch,
}

impl Guest {
    /// Starts it on the disk behind `uri`: BIOS, boot loader, kernel and root file system all come from there.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start(uri: &str) -> Result<Self> {
        Self::start_with(uri, |_| Vec::new())
    }

    /// Starts it on the disk behind `uri` as one that stands still until it gets the memory of another one. Its disk is open.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn awaiting(uri: &str) -> Result<Self> {
        Self::start_with(uri, |scratch| {
            let socket = format!("unix:{}", scratch.file(INCOMING).display());
            vec!["-incoming".into(), socket]
        })
    }

    fn start_with(uri: &str, extra: impl Fn(&Scratch) -> Vec<String>) -> Result<Self> {
        let scratch = Scratch::new("bring-up-guest");
        let mut machine = Machine::new(Boot::FirstDrive, scratch.path());
        machine.memory_mib = MEMORY_MIB;
        machine.watchdog = false;
        let mut drive = Drive::new(Path::new(uri)).on(Bus::Virtio);
        // Whoever runs where its disk is not any more is held, and goes on when that is mended.
        drive.backend_options = ",werror=stop,rerror=stop".into();
        machine.drives = vec![drive];
        machine.extra = extra(&scratch);
        Ok(Self {
            running: machine.start()?,
            scratch,
        })
    }

    /// Waits until somebody could log in; returns how long that took from the start of QEMU.
    ///
    /// # Errors
    /// When it does not get there, with its console.
    pub fn log_in(&mut self) -> Result<Duration> {
        self.wait("the prompt", LOGIN_LIMIT, |said| said.contains(PROMPT))?;
        let time = self.running.started().elapsed();
        let said = self.running.serial();
        ensure!(said.contains("guest: root is /dev/vda1"), "{said}");
        Ok(time)
    }

    /// Waits until its console is as wanted.
    ///
    /// # Errors
    /// When that takes longer than `limit`, something failed, or it has ended.
    pub fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut asked = Instant::now();
        loop {
            if asked.elapsed() > STATUS_INTERVAL {
                self.require_running()?;
                asked = Instant::now();
            }
            let has_ended = self.running.try_wait()?;
            let said = self.running.serial();
            self.require_sound()?;
            if is_so(&said) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline && has_ended.is_none(),
                "the guest does not get to {what} ({has_ended:?})\n{}",
                self.running.evidence()
            );
            thread::sleep(INTERVAL);
        }
    }

    /// Fails when anything in it did.
    ///
    /// # Errors
    /// What it says about that.
    pub fn require_sound(&self) -> Result<()> {
        let said = self.running.serial();
        let signs = ["guest: failed", "I/O error", "EXT4-fs error", "panic"];
        let failed = signs.iter().any(|sign| said.contains(sign));
        ensure!(!failed, "{}", self.running.evidence());
        Ok(())
    }

    /// Fails when it is held.
    fn require_running(&self) -> Result<()> {
        // Who turns itself off may be gone.
        let status = self.running.qmp().and_then(|mut qmp| qmp.query_status());
        let status = status.unwrap_or_default();
        let is_held = status == "io-error" || status == "paused";
        ensure!(
            !is_held,
            "it is held: {status}\n{}",
            self.running.evidence()
        );
        Ok(())
    }

    /// Sends its memory to `other`, until it stands still because only what changes too fast is left.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn leave_for(&self, other: &Self) -> Result<Leaving> {
        let (mut here, there) = (self.running.qmp()?, other.running.qmp()?);
        let on = |capability: &str| json!({"capability": capability, "state": true});
        let capabilities = json!({"capabilities": [on("events"), on("pause-before-switchover")]});
        here.execute("migrate-set-capabilities", capabilities)?;
        let pace = json!({"max-bandwidth": MEMORY_BYTES_PER_SECOND});
        here.execute("migrate-set-parameters", pace)?;
        let socket = format!("unix:{}", other.scratch.file(INCOMING).display());
        here.execute("migrate", json!({"uri": socket}))?;
        let stopped = here.wait_event("STOP", MEMORY_LIMIT)?.at;
        let mut leaving = Leaving {
            here,
            there,
            stopped,
        };
        leaving.wait_status("pre-switchover")?;
        Ok(leaving)
    }

    /// The last number that it says behind `words`; 0 when there is none.
    #[must_use]
    pub fn number_behind(&self, words: &str) -> u64 {
        let said = self.running.serial();
        // The last line may not be whole.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let lines = whole.lines().filter_map(|line| line.split_once(words));
        let mut numbers =
            lines.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        numbers.next_back().unwrap_or(0)
    }

    /// Holds it in the middle of what it does.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn hold(&self) -> Result<()> {
        self.running.qmp()?.execute("stop", json!({})).map(drop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn go_on(&self) -> Result<()> {
        self.running.qmp()?.execute("cont", json!({})).map(drop)
    }

    /// Waits until it has turned itself off.
    ///
    /// # Errors
    /// When it does not, or something failed.
    pub fn end(mut self, limit: Duration) -> Result<()> {
        let status = self.running.wait(limit)?;
        self.require_sound()?;
        ensure!(status.success(), "the guest ended with {status}");
        Ok(())
    }
}

/// A machine whose memory is nearly somewhere else. It runs neither here nor there.
#[derive(Debug)]
pub struct Leaving {
    here: Qmp,
    there: Qmp,
    stopped: Duration,
}

impl Leaving {
    /// Lets it go on there; returns how long it ran nowhere.
    ///
    /// # Errors
    /// When it does not.
    pub fn go(mut self) -> Result<Duration> {
        self.switch_over()?;
        self.wait_status("completed")?;
        let resumed = self.there.wait_event("RESUME", STEP_LIMIT)?.at;
        Ok(resumed.saturating_sub(self.stopped))
    }

    /// Lets it go on here.
    ///
    /// # Errors
    /// When it does not.
    pub fn cancel(mut self) -> Result<()> {
        self.here.execute("migrate_cancel", json!({}))?;
        self.here.wait_event("RESUME", STEP_LIMIT).map(drop)
    }

    /// Switches over to a machine that is gone: QEMU lets it go on here, where its disk is not, until it wants something of that.
    ///
    /// # Errors
    /// When it is not held then.
    pub fn fail(mut self) -> Result<()> {
        self.switch_over()?;
        let error = self.here.wait_event("BLOCK_IO_ERROR", MEMORY_LIMIT)?;
        ensure!(error.data["action"] == "stop", "{error:?}");
        self.here.wait_event("STOP", STEP_LIMIT).map(drop)
    }

    fn switch_over(&mut self) -> Result<()> {
        let state = json!({"state": "pre-switchover"});
        self.here.execute("migrate-continue", state).map(drop)
    }

    fn wait_status(&mut self, wanted: &str) -> Result<()> {
        loop {
            let event = self.here.wait_event("MIGRATION", STEP_LIMIT)?;
            match event.data["status"].as_str() {
                Some(status) if status == wanted => return Ok(()),
                Some("failed" | "cancelled") => bail!("the migration does not get to {wanted}"),
                _ => {}
            }
        }
    }
}
