//! A server that nobody here wrote, to try clients and workloads on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu::probe;

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// nbdkit with a disk in memory, or another server; ends with the value.
#[derive(Debug)]
pub struct Reference {
    child: Child,
    address: SocketAddr,
}

impl Reference {
    /// Serves `bytes` zero bytes at a free port.
    ///
    /// # Errors
    /// When nbdkit (Debian package nbdkit) is missing or does not listen.
    pub fn start(bytes: u64) -> Result<Self> {
        Self::with(&["memory", &bytes.to_string()])
    }

    /// Serves `bytes` zero bytes of which the 4096 at `damaged_at` cannot be read (EIO).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn damaged(bytes: u64, damaged_at: u64) -> Result<Self> {
        let (size, end) = (format!("get_size=echo {bytes}"), damaged_at + 4096);
        let read = format!(
            "pread=if [ $4 -lt {end} ] && [ $(($3 + $4)) -gt {damaged_at} ]; then \
             echo EIO damaged >&2; exit 1; fi; dd if=/dev/zero bs=$3 count=1 status=none"
        );
        Self::with(&["eval", &size, &read])
    }

    /// Serves a file at a given address, as a server does that comes back after a restart.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn of_file(path: &Path, address: SocketAddr) -> Result<Self> {
        Self::at(address, &["file", &path.to_string_lossy()])
    }

    /// Serves what is in a qcow2 file, read-only, by qemu-nbd.
    ///
    /// # Errors
    /// When qemu-nbd (Debian package qemu-utils) is missing or does not listen.
    pub fn of_image(path: &Path, address: SocketAddr) -> Result<Self> {
        let mut server = Command::new("qemu-nbd");
        server.args(["--read-only", "--persistent", "--shared=16"]);
        server.args(["--format=qcow2", "--export-name="]);
        server.arg(format!("--bind={}", address.ip()));
        server.arg(format!("--port={}", address.port())).arg(path);
        Self::spawn("qemu-nbd", "qemu-utils", server, address)
    }

    fn with(plugin: &[&str]) -> Result<Self> {
        Self::at(probe::free_port()?, plugin)
    }

    fn at(address: SocketAddr, plugin: &[&str]) -> Result<Self> {
        let mut server = Command::new("nbdkit");
        server.args(["--foreground", "--exit-with-parent"]);
        server.arg("--ipaddr").arg(address.ip().to_string());
        server.arg("--port").arg(address.port().to_string());
        server.args(plugin);
        Self::spawn("nbdkit", "nbdkit", server, address)
    }

    fn spawn(name: &str, package: &str, mut server: Command, address: SocketAddr) -> Result<Self> {
        let mut child = server
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{name} does not start (Debian package {package})"))?;
        let deadline = Instant::now() + START_LIMIT;
        while probe::nbd(address, Duration::from_secs(1)).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended at once ({status})");
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{name} does not listen at {address}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { child, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URI of its only export.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd://{}/", self.address)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
