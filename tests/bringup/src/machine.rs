//! The Linux machine that boots from the volume.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest::Scratch;
use qemu::{Boot, Bus, Drive, Machine, Running};
use serde_json::json;

/// How long the way to the prompt may take, translated and on a busy machine.
const LOGIN_LIMIT: Duration = Duration::from_secs(300);
/// How often its console is looked at.
const INTERVAL: Duration = Duration::from_millis(20);
const MEMORY_MIB: u32 = 384;
/// What `getty` writes when somebody can log in; no line ends there.
const PROMPT: &str = "login: ";

/// One run of it; ends as by a power cut with the value.
#[derive(Debug)]
pub struct Guest {
    running: Running,
    // Only keeps its files.
    _scratch: Scratch,
}

impl Guest {
    /// Starts it on the disk behind `uri`: BIOS, boot loader, kernel and root file system all come from there.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start(uri: &str) -> Result<Self> {
        let scratch = Scratch::new("bring-up-guest");
        let mut machine = Machine::new(Boot::FirstDrive, scratch.path());
        machine.memory_mib = MEMORY_MIB;
        machine.watchdog = false;
        machine.drives = vec![Drive::new(Path::new(uri)).on(Bus::Virtio)];
        Ok(Self {
            running: machine.start()?,
            _scratch: scratch,
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
        loop {
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
