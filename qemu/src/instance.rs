//! State folders: what one appliance on this host keeps between runs, and how programs find it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `drive0.raw`, … | drives that were asked for by size |
//! | `token` | the API's secret, readable by its owner only; made once |
//! | `endpoint` | two lines: the API's and the NBD server's address |
//! | `pid` | the QEMU process while it runs |
//! | `serial.log`, `qemu.log` | console and QEMU's own messages of the current or last run |
//! | `config.toml` | what the current or last run was configured with, the token included |
//!
//! The file `last` beside the folders names the one that was started last.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::qmp::Qmp;
use crate::running::pid_is_alive;

/// The folder of build products: `CARGO_TARGET_DIR`, or `target` in the checkout.
#[must_use]
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => workspace_dir().join("target"),
    }
}

/// The checkout this program was built from.
#[must_use]
pub fn workspace_dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `path` as seen from the current folder if it is below it; shorter to read and to type.
#[must_use]
pub fn shown(path: &Path) -> String {
    let short = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).display().to_string()
}

/// Where an appliance answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://ADDRESS:PORT`.
    pub api: String,
    /// `nbd://ADDRESS:PORT`.
    pub nbd: String,
}

/// One appliance's state folder.
#[derive(Clone, Debug)]
pub struct Instance {
    folder: PathBuf,
}

impl Instance {
    /// The folder of the appliance `name`, or an explicit one.
    ///
    /// # Errors
    /// When the name is not usable as a folder name.
    pub fn find(name: &str, folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None => {
                let good =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
                if name.is_empty()
                    || name.len() > 63
                    || !name.chars().all(good)
                    || name.starts_with(['.', '_', '-'])
                {
                    bail!(
                        "`{name}` is not a name: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit"
                    );
                }
                std::path::absolute(target_dir().join("ferrite").join(name))?
            }
        };
        Ok(Self { folder })
    }

    /// The appliance that was started last.
    ///
    /// # Errors
    /// When none was ever started from this checkout.
    pub fn last() -> Result<Self> {
        let pointer = target_dir().join("ferrite").join("last");
        let folder = fs::read_to_string(&pointer)
            .context("no appliance was started from this checkout yet (`cargo xtask run` does)")?;
        Ok(Self {
            folder: folder.trim_end_matches('\n').into(),
        })
    }

    /// Those of this checkout's usual place that run now, in the order of their names.
    ///
    /// # Errors
    /// When that place cannot be read.
    pub fn running() -> Result<Vec<Self>> {
        let place = std::path::absolute(target_dir().join("ferrite"))?;
        let mut all = Vec::new();
        for entry in fs::read_dir(&place).into_iter().flatten() {
            let folder = entry?.path();
            all.extend(Some(Self { folder }).filter(|instance| instance.running_pid().is_some()));
        }
        all.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(all)
    }

    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the state folder {}", self.folder.display()))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The API's secret, made on first use.
    ///
    /// # Errors
    /// When the folder is not readable or writable.
    pub fn token(&self) -> Result<String> {
        let path = self.folder.join("token");
        if let Ok(token) = fs::read_to_string(&path) {
            return Ok(token.trim().to_owned());
        }
        let token = new_token()?;
        write_secret(&path, &token)?;
        Ok(token)
    }

    /// Notes where the appliance answers and that it was the last one started.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn announce(&self, endpoint: &Endpoint) -> Result<()> {
        fs::write(
            self.folder.join("endpoint"),
            format!("{}\n{}\n", endpoint.api, endpoint.nbd),
        )?;
        let all = target_dir().join("ferrite");
        fs::create_dir_all(&all)?;
        fs::write(all.join("last"), format!("{}\n", self.folder.display()))?;
        Ok(())
    }

    /// Where it answers, or answered last.
    ///
    /// # Errors
    /// When it was never started.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let text = fs::read_to_string(self.folder.join("endpoint")).with_context(|| {
            format!("the appliance of {} was never started", shown(&self.folder))
        })?;
        let mut lines = text.lines();
        let (Some(api), Some(nbd)) = (lines.next(), lines.next()) else {
            bail!("the file `endpoint` in {} is damaged", shown(&self.folder));
        };
        Ok(Endpoint {
            api: api.into(),
            nbd: nbd.into(),
        })
    }

    /// Notes the running process.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_pid(&self, pid: u32) -> Result<()> {
        fs::write(self.folder.join("pid"), format!("{pid}\n"))?;
        Ok(())
    }

    /// Forgets the process.
    pub fn clear_pid(&self) {
        let _ = fs::remove_file(self.folder.join("pid"));
    }

    /// The process that runs on this folder, if any. A number in an old file that now belongs to something else does
    /// not count: our machines run *in* their folder.
    #[must_use]
    pub fn running_pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.folder.join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let inside = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let same = inside == fs::canonicalize(&self.folder).ok()?;
        (same && pid_is_alive(pid)).then_some(pid)
    }

    /// Ends the appliance cleanly: power button, then after `limit` the plug. Returns whether it was clean.
    ///
    /// # Errors
    /// When nothing runs here, or it cannot be ended at all.
    pub fn stop(&self, limit: Duration) -> Result<bool> {
        let pid = self
            .running_pid()
            .with_context(|| format!("no appliance runs on {}", shown(&self.folder)))?;
        let qmp = Qmp::connect(&self.folder.join("qmp.sock"));
        if let Ok(mut qmp) = qmp {
            qmp.system_powerdown()?;
            if wait_until_gone(pid, limit) {
                self.clear_pid();
                return Ok(true);
            }
            // It may be gone just now, and then there is nothing to say.
            let _ = qmp.quit();
            if wait_until_gone(pid, Duration::from_secs(5)) {
                self.clear_pid();
                return Ok(false);
            }
        }
        let raw = i32::try_from(pid).context("not a process id")?;
        let target = rustix::process::Pid::from_raw(raw).context("not a process id")?;
        rustix::process::kill_process(target, rustix::process::Signal::KILL)
            .with_context(|| format!("cannot end process {pid}"))?;
        if !wait_until_gone(pid, Duration::from_secs(5)) {
            bail!("process {pid} does not end");
        }
        self.clear_pid();
        Ok(false)
    }
}

fn wait_until_gone(pid: u32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while pid_is_alive(pid) {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// 128 bits from the system's generator, in hexadecimal.
///
/// # Errors
/// When there is no such generator.
pub fn new_token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?
        .read_exact(&mut bytes)
        .context("cannot draw a token")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only its owner can read, whatever the umask.
///
/// # Errors
/// When the file system refuses.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    // A file that exists keeps its mode, so it has to go first.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn instance(name: &str) -> Instance {
        let folder = std::env::temp_dir().join(format!("instance-{name}-{}", std::process::id()));
        let instance = Instance::find("x", Some(&folder)).unwrap();
        instance.create().unwrap();
        instance
    }

    #[test]
    fn the_token_is_made_once_and_private() {
        let instance = instance("token");
        let token = instance.token().unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(instance.token().unwrap(), token);
        let mode = fs::metadata(instance.folder().join("token"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(instance.folder()).unwrap();
    }

    #[test]
    fn a_pid_of_somebody_else_does_not_count() {
        let instance = instance("pid");
        assert_eq!(instance.running_pid(), None);
        // This test runs, but not in that folder.
        instance.set_pid(std::process::id()).unwrap();
        assert_eq!(instance.running_pid(), None);
        assert!(instance.stop(Duration::ZERO).is_err());
        fs::remove_dir_all(instance.folder()).unwrap();
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        for name in ["", "..", "a/b", "Grün", "-x"] {
            assert!(Instance::find(name, None).is_err(), "{name}");
        }
        assert!(
            Instance::find("node-1.a", None)
                .unwrap()
                .folder()
                .ends_with("ferrite/node-1.a")
        );
    }
}
