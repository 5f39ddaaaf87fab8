//! A client that lives through restarts of its server.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long requests wait for a server that is away, in seconds.
const RECONNECT_S: u32 = 60;
/// How long an answer may take: that, and some for the request itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// What qemu-io prints when it wants the next command.
const PROMPT: &str = "qemu-io> ";

/// `qemu-io` on one connection that it renews by itself, fed with commands one by one.
#[derive(Debug)]
pub struct Rider {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<Vec<u8>>,
}

impl Rider {
    /// Opens an export.
    ///
    /// # Errors
    /// When qemu-io (Debian package qemu-utils) is missing or cannot connect.
    pub fn connect(address: SocketAddr, export: &str) -> Result<Self> {
        let (host, port) = (address.ip(), address.port());
        let options = format!("export={export},reconnect-delay={RECONNECT_S}");
        let mut child = Command::new("qemu-io")
            .args(["-t", "writeback", "--image-opts"])
            .arg(format!("driver=nbd,host={host},port={port},{options}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-io does not start (Debian package qemu-utils)")?;
        let commands = child.stdin.take().context("no pipe")?;
        let mut output = child.stdout.take().context("no pipe")?;
        let (send, answers) = channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                if send.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut rider = Self {
            child,
            commands,
            answers,
        };
        rider.answer("opening")?;
        Ok(rider)
    }

    /// Runs one command and waits for its answer.
    ///
    /// # Errors
    /// When the answer is an error or does not come, or a pattern differs.
    pub fn run(&mut self, command: &str) -> Result<()> {
        // One line at a time: it would not look at a second one before more input comes.
        writeln!(self.commands, "{command}")?;
        let answer = self.answer(command)?;
        let bad = ["failed", "error", "timed out"];
        ensure!(
            !bad.iter().any(|word| answer.contains(word)),
            "`{command}`: {answer}"
        );
        Ok(())
    }

    fn answer(&mut self, command: &str) -> Result<String> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let mut answer = Vec::new();
        while !answer.ends_with(PROMPT.as_bytes()) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(chunk) => answer.extend(chunk),
                Err(_) => bail!(
                    "`{command}` has no answer: {}",
                    String::from_utf8_lossy(&answer)
                ),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Closes the export.
    ///
    /// # Errors
    /// When qemu-io ends badly.
    pub fn end(mut self) -> Result<()> {
        writeln!(self.commands, "quit")?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "qemu-io ended with {status}");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("qemu-io does not end")
    }
}

impl Drop for Rider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
