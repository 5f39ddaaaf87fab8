//! The machine and the commit that figures belong to.

use std::fs;
use std::process::Command;

use anyhow::Result;
use guest::clients::run;
use qemu::instance::workspace_dir;
use qemu::{Accel, PROGRAM};

use crate::target::Bench;

/// Everything a reader needs to tell two tables apart.
#[derive(Clone, Debug)]
pub struct Host {
    /// The processor's own name, and how many.
    pub processor: String,
    /// QEMU's version and how it executes instructions.
    pub qemu: String,
    /// The host's kernel.
    pub kernel: String,
    /// The commit, marked when the tree has changes on top.
    pub commit: String,
    /// Where drive files lay.
    pub folder: String,
    /// How long each fio job ran.
    pub job_seconds: u64,
    /// Load averages when it began.
    pub load_before: String,
    /// Load averages when it ended.
    pub load_after: String,
}

/// Describes this host.
///
/// # Errors
/// When QEMU is missing.
pub fn describe(bench: &Bench) -> Result<Host> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let version = run("qemu-system-x86", Command::new(PROGRAM).arg("--version"))?;
    let accel = match Accel::Auto.resolve() {
        Accel::Kvm => "KVM",
        _ => "TCG",
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Host {
        processor: format!("{cores} × {}", model(&cpuinfo)),
        qemu: format!("{} ({accel})", first_line(&version)),
        kernel: format!("Linux {}", kernel.trim()),
        commit: commit(),
        folder: bench.folder.display().to_string(),
        job_seconds: bench.job_time.as_secs(),
        load_before: load_average(),
        load_after: String::new(),
    })
}

/// The load averages over 1, 5 and 15 minutes.
#[must_use]
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn model(cpuinfo: &str) -> &str {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, name)| name.trim())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A tree without history still measures.
fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(workspace_dir());
    run("git", &mut git).map_or_else(|_| "no commit".into(), |text| text.trim().into())
}
