//! What people do without adoption: copy all of it first.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest::Scratch;
use guest::origin::Origin;
use qemu::Qmp;
use serde_json::{Value, json};

use crate::interrupt;

/// How often a job is looked at.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long a program may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where a copy goes.
#[derive(Clone, Copy, Debug)]
pub enum Into<'a> {
    /// A sparse file of the right size.
    File(&'a Path),
    /// An export that can be written.
    Export(&'a str),
    /// Nowhere: what the origin gives.
    Nothing,
}

/// A program that ends with the value.
struct Leashed(Child);

impl Leashed {
    fn start(package: &str, command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child
            .map(Self)
            .with_context(|| format!("{name} does not start (Debian package {package})"))
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies by `nbdcopy` with its own defaults; `false` when that takes longer than `limit`.
///
/// # Errors
/// When it fails or is missing.
pub fn nbdcopy(origin: &Origin, into: Into<'_>, limit: Duration) -> Result<bool> {
    let mut command = Command::new("nbdcopy");
    command.arg(origin.uri(&origin.address().ip().to_string()));
    // Targets are new, so that no program has to write zeros.
    match into {
        Into::File(path) => command.arg("--destination-is-zero").arg(path),
        Into::Export(uri) => command.args(["--destination-is-zero", uri]),
        Into::Nothing => command.arg("null:"),
    };
    let mut program = Leashed::start("libnbd-bin", &mut command)?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        interrupt::check()?;
        if let Some(status) = program.0.try_wait()? {
            ensure!(status.success(), "nbdcopy ended with {status}");
            return Ok(true);
        }
        thread::sleep(INTERVAL);
    }
    Ok(false)
}

/// Copies by `blockdev-mirror` of qemu-storage-daemon until its job is ready; `false` when that takes longer than `limit`.
///
/// # Errors
/// When it fails or is missing.
pub fn mirror(origin: &Origin, into: Into<'_>, limit: Duration, scratch: &Scratch) -> Result<bool> {
    let socket = scratch.file("mirror.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new("qemu-storage-daemon");
    command.arg("--chardev");
    command.arg(format!(
        "socket,path={},server=on,wait=off,id=qmp",
        socket.display()
    ));
    let _program = Leashed::start(
        "qemu-system-common",
        command.args(["--monitor", "chardev=qmp"]),
    )?;
    let mut qmp = connect(&socket)?;
    let address = origin.address();
    qmp.execute(
        "blockdev-add",
        json!({
            "driver": "nbd", "node-name": "origin", "export": "", "read-only": true,
            "server": {"type": "inet", "host": address.ip().to_string(), "port": address.port().to_string()},
        }),
    )?;
    qmp.execute("blockdev-add", target(into)?)?;
    qmp.execute(
        "blockdev-mirror",
        json!({"job-id": "copy", "device": "origin", "target": "copy", "sync": "full"}),
    )?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        interrupt::check()?;
        let jobs = qmp.execute("query-jobs", json!({}))?;
        match jobs[0]["status"].as_str() {
            Some("ready") => return Ok(true),
            Some("running" | "created") => thread::sleep(INTERVAL),
            _ => bail!("the mirror ended: {jobs}"),
        }
    }
    Ok(false)
}

fn target(into: Into<'_>) -> Result<Value> {
    // It clears what it writes to; with `unmap` that costs nothing.
    Ok(match into {
        Into::File(path) => json!({
            "driver": "raw", "node-name": "copy", "discard": "unmap",
            "file": {"driver": "file", "filename": path, "discard": "unmap"},
        }),
        Into::Export(uri) => {
            let rest = uri.strip_prefix("nbd://").context("not an NBD URI")?;
            let (address, export) = rest.split_once('/').context("no export")?;
            let (host, port) = address.rsplit_once(':').context("no port")?;
            json!({
                "driver": "nbd", "node-name": "copy", "export": export, "discard": "unmap",
                "server": {"type": "inet", "host": host, "port": port},
            })
        }
        Into::Nothing => bail!("a mirror goes somewhere"),
    })
}

fn connect(socket: &Path) -> Result<Qmp> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match Qmp::connect(socket) {
            Ok(qmp) => return Ok(qmp),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}
