//! A small QMP client: one command at a time, events kept in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Events kept when nobody asks for them.
const EVENTS_MAX: usize = 1024;

/// Something that happened in the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, e.g. `SHUTDOWN`.
    pub name: String,
    /// What QEMU says about it.
    pub data: Value,
    /// When, by this host's clock: the time since 1970.
    pub at: Duration,
}

/// A connection to a machine's QMP socket. QEMU serves one client per socket at a time.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    events: VecDeque<Event>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// When nothing listens there or what answers is not QMP.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = connect_unix(path)
            .with_context(|| format!("no machine answers at {}", path.display()))?;
        let mut qmp = Self {
            stream,
            pending: Vec::new(),
            events: VecDeque::new(),
        };
        let greeting = qmp
            .receive(Instant::now() + ANSWER_LIMIT)?
            .with_context(|| format!("{} is busy with another client", path.display()))?;
        if greeting.get("QMP").is_none() {
            bail!("{} does not speak QMP", path.display());
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// QEMU's own description when it refuses; otherwise when the machine is gone or silent.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("the machine is gone (`{command}` not sent)"))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        while let Some(mut message) = self.receive(deadline)? {
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                bail!(
                    "`{command}` refused: {}",
                    error["desc"].as_str().unwrap_or("?")
                );
            }
            self.keep_event(&message);
        }
        bail!("`{command}` was not answered within {ANSWER_LIMIT:?}")
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn system_powerdown(&mut self) -> Result<()> {
        self.execute("system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn system_reset(&mut self) -> Result<()> {
        self.execute("system_reset", json!({})).map(drop)
    }

    /// Ends QEMU at once, as pulling the plug does.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit", json!({})).map(drop)
    }

    /// The machine's run state, e.g. `running`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn query_status(&mut self) -> Result<String> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Opens a raw file as the block node `node`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn blockdev_add(&mut self, node: &str, file: &Path) -> Result<()> {
        let file = json!({"driver": "file", "filename": file, "discard": "unmap"});
        let options = json!({"driver": "raw", "node-name": node, "discard": "unmap", "file": file});
        self.execute("blockdev-add", options).map(drop)
    }

    /// Plugs in an NVMe drive on block node `node` into a free slot, under the device id `id`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn plug_nvme(&mut self, id: &str, node: &str, slot: usize) -> Result<()> {
        let bus = format!("slot{slot}");
        let device = json!({"driver": "nvme", "id": id, "drive": node, "serial": id, "bus": bus});
        self.execute("device_add", device).map(drop)
    }

    /// Asks the guest to let go of a device; the event `DEVICE_DELETED` follows when it has.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); QEMU refuses a repetition within 5 s.
    pub fn device_del(&mut self, id: &str) -> Result<()> {
        self.execute("device_del", json!({"id": id})).map(drop)
    }

    /// Waits for an event of this name; earlier others are dropped.
    ///
    /// # Errors
    /// When it does not come within `limit` or the machine is gone.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Event> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.name == name {
                    return Ok(event);
                }
            }
            match self.receive(deadline)? {
                Some(message) => self.keep_event(&message),
                None => bail!("no event {name} within {limit:?}"),
            }
        }
    }

    fn keep_event(&mut self, message: &Value) {
        let Some(name) = message["event"].as_str() else {
            return;
        };
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        let part = |name: &str| message["timestamp"][name].as_u64().unwrap_or(0);
        self.events.push_back(Event {
            name: name.to_owned(),
            data: message["data"].clone(),
            at: Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds")),
        });
    }

    /// The next message, or `None` when the deadline passes first.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .context("malformed QMP message");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the machine is gone"),
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("the machine is gone"),
            }
        }
    }
}

/// Connects to a socket whose path may be longer than the 107 bytes that the system allows.
fn connect_unix(path: &Path) -> Result<UnixStream> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.as_os_str().len() > 100 => {
            let folder = File::open(folder)?;
            let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
            Ok(UnixStream::connect(Path::new(&short).join(name))?)
        }
        _ => Ok(UnixStream::connect(path)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_are_told_from_events_and_errors_are_named() {
        let folder = std::env::temp_dir().join(format!("qmp-test-{}", std::process::id()));
        // Deeper than a socket path may be long.
        let deep = folder.join("x".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let handle = File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/q", handle.as_raw_fd());
        let listener = UnixListener::bind(short).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut out = stream;
            out.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            lines.next().unwrap().unwrap();
            out.write_all(b"{\"return\": {}}\r\n").unwrap();
            assert!(lines.next().unwrap().unwrap().contains("query-status"));
            out.write_all(b"{\"event\": \"RESET\", \"data\": {\"guest\": true}}\r\n{\"return\"")
                .unwrap();
            out.flush().unwrap();
            out.write_all(b": {\"status\": \"running\"}}\r\n").unwrap();
            lines.next().unwrap().unwrap();
            out.write_all(b"{\"error\": {\"class\": \"x\", \"desc\": \"no such device\"}}\r\n")
                .unwrap();
        });
        let mut qmp = Qmp::connect(&deep.join("q")).unwrap();
        assert_eq!(qmp.query_status().unwrap(), "running");
        let error = qmp.device_del("gone").unwrap_err().to_string();
        assert!(error.contains("no such device"), "{error}");
        let event = qmp.wait_event("RESET", Duration::from_secs(1)).unwrap();
        assert_eq!(event.data["guest"], true);
        server.join().unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
