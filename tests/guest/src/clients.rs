//! Programs that nobody here wrote, as functions of a URI.
//!
//! Each one runs for a bounded time and fails with everything that the program printed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::Scratch;
use crate::workload::pseudo_random;

/// How long a program may run.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Runs a program to its end and returns what it wrote to its standard output.
///
/// # Errors
/// When it is missing (`package` says where it comes from), fails, or runs too long; then it is killed.
pub fn run(package: &str, command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{line} does not start (Debian package {package})"))?;
    let (out, err) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{line} still ran after {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (out, err) = (
        out.join().unwrap_or_default(),
        err.join().unwrap_or_default(),
    );
    ensure!(status.success(), "{line} ended with {status}\n{out}{err}");
    Ok(out)
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What `nbdinfo` says about one export.
///
/// # Errors
/// As [`run`].
pub fn info(uri: &str) -> Result<Value> {
    let text = run("libnbd-bin", Command::new("nbdinfo").args(["--json", uri]))?;
    let answer: Value = serde_json::from_str(&text).context("nbdinfo printed no JSON")?;
    answer["exports"]
        .get(0)
        .cloned()
        .context("nbdinfo shows no export")
}

/// The names of all exports, from `nbdinfo --list`. `server` is a URI without an export.
///
/// # Errors
/// As [`run`].
pub fn list(server: &str) -> Result<Vec<String>> {
    let text = run(
        "libnbd-bin",
        Command::new("nbdinfo").args(["--list", "--json", server]),
    )?;
    let answer: Value = serde_json::from_str(&text).context("nbdinfo printed no JSON")?;
    let exports = answer["exports"]
        .as_array()
        .context("nbdinfo shows no exports")?;
    let name = |export: &Value| export["export-name"].as_str().map(ToOwned::to_owned);
    Ok(exports.iter().filter_map(name).collect())
}

/// Copies `bytes` pseudo-random bytes in and out again over several connections, and compares.
///
/// # Errors
/// As [`run`], or when what comes back differs.
pub fn copy_round_trip(uri: &str, bytes: usize, scratch: &Scratch) -> Result<()> {
    let (there, back) = (scratch.file("copy-in"), scratch.file("copy-out"));
    fs::write(&there, pseudo_random(0xc0ffee, bytes))?;
    let copy = |from: &str, to: &str| {
        let options = ["--connections=4", "--requests=16", "--flush", from, to];
        run("libnbd-bin", Command::new("nbdcopy").args(options))
    };
    copy(&path_text(&there), uri)?;
    copy(uri, &path_text(&back))?;
    let (sent, got) = (fs::read(&there)?, fs::read(&back)?);
    ensure!(
        got.len() >= sent.len(),
        "nbdcopy returned {} bytes of {}",
        got.len(),
        sent.len()
    );
    if let Some(at) = sent.iter().zip(&got).position(|(a, b)| a != b) {
        bail!("byte {at} came back different");
    }
    ensure!(
        got[sent.len()..].iter().all(|&byte| byte == 0),
        "bytes behind the copied ones changed"
    );
    for path in [there, back] {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs `qemu-io` with these commands in turn; each must succeed.
///
/// # Errors
/// As [`run`]; qemu-io ends with a failure when a verified pattern differs.
pub fn qemu_io(uri: &str, commands: &[&str]) -> Result<String> {
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["-f", "raw", "-t", "writeback", "-d", "unmap"]);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    let text = run("qemu-utils", qemu_io.arg(uri))?;
    // It reports some failures in words only.
    let bad = ["verification failed", "failed:", "error"];
    ensure!(
        !bad.iter().any(|word| text.contains(word)),
        "qemu-io: {text}"
    );
    Ok(text)
}

/// Writes, reads, zeroes and discards patterns at borders of sectors, blocks and large requests.
///
/// # Errors
/// As [`qemu_io`].
pub fn patterns(uri: &str) -> Result<()> {
    qemu_io(
        uri,
        &[
            "write -P 0xaa 0 1M",
            "read -P 0xaa 0 1M",
            // Sectors inside a block leave their neighbours alone.
            "write -P 0x11 512 512",
            "read -P 0xaa 0 512",
            "read -P 0x11 512 512",
            "read -P 0xaa 1024 3072",
            // Across a border of blocks.
            "write -P 0x22 7680 1024",
            "read -P 0x22 7680 1024",
            "read -P 0xaa 8704 4096",
            // Larger than any internal buffer.
            "write -P 0x33 2M 24M",
            "read -P 0x33 2M 24M",
            // Zeros: real ones, and holes.
            "write -z 64k 64k",
            "read -P 0 64k 64k",
            "read -P 0xaa 128k 64k",
            "write -z -u 4M 1M",
            "read -P 0 4M 1M",
            "read -P 0x33 5M 1M",
            "discard 8M 2M",
            "read -P 0x33 10M 1M",
            // Durable before it is acknowledged.
            "write -f -P 0x44 12M 64k",
            "flush",
            "read -P 0x44 12M 64k",
        ],
    )
    .map(drop)
}

/// Random writes of 512 bytes to 64 KiB, all read back and verified.
///
/// # Errors
/// As [`run`].
pub fn fio_verify(uri: &str, mib: u32, scratch: &Scratch) -> Result<()> {
    let mut fio = Command::new("fio");
    // It leaves state files where it runs.
    fio.current_dir(scratch.path());
    fio.args([
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bsrange=512-64k",
    ]);
    fio.args([
        "--bs_unaligned=0",
        "--blockalign=512",
        "--iodepth=16",
        "--randseed=7",
    ]);
    fio.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
    ]);
    fio.args([format!("--uri={uri}"), format!("--size={mib}m")]);
    run("fio", &mut fio).map(drop)
}

/// Extents of the export in one metadata context, from `nbdinfo --map`: offset, length, flags.
///
/// # Errors
/// As [`run`].
pub fn map(uri: &str, context: &str) -> Result<Vec<(u64, u64, u64)>> {
    let option = format!("--map={context}");
    let text = run(
        "libnbd-bin",
        Command::new("nbdinfo").args([option.as_str(), "--json", uri]),
    )?;
    let answer: Value = serde_json::from_str(&text).context("nbdinfo printed no JSON")?;
    let parts = answer.as_array().context("nbdinfo shows no map")?;
    let number = |part: &Value, key: &str| part[key].as_u64().context("a map without numbers");
    let extent = |part: &Value| -> Result<(u64, u64, u64)> {
        Ok((
            number(part, "offset")?,
            number(part, "length")?,
            number(part, "type")?,
        ))
    };
    parts.iter().map(extent).collect()
}
