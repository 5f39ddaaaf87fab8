//! A machine that boots our image and serves.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instance::{new_token, write_secret};
use crate::machine::{Boot, Machine};
use crate::network::{Forward, Network};
use crate::probe;
use crate::running::Running;

/// Where the appliance serves NBD.
pub const NBD_PORT: u16 = 10809;

/// Where the appliance serves its HTTP API.
pub const API_PORT: u16 = 8080;

/// Where the appliance serves other appliances.
pub const PEER_PORT: u16 = 10810;

/// Part of the line that the appliance prints once it serves.
const READY: &str = " ready in ";

/// How long one attempt to reach a server may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A machine plus what makes it an appliance.
#[derive(Clone, Debug)]
pub struct ApplianceOptions {
    /// The hardware. Its `config` and `forwards` are filled in at start.
    pub machine: Machine,
    /// Where the host reaches NBD.
    pub nbd: SocketAddr,
    /// Where the host reaches the API.
    pub api: SocketAddr,
    /// Where the host, and other appliances through it, reach the port for peers.
    pub peer: SocketAddr,
    /// The API's secret.
    pub token: String,
    /// Configuration for the guest, in TOML's structure.
    pub config: toml::Table,
}

impl ApplianceOptions {
    /// The image by PVH with user-mode networking, free ports and a new token. `folder` takes this run's files.
    ///
    /// # Errors
    /// When there is no free port or no entropy.
    pub fn new(image: &Path, folder: &Path) -> Result<Self> {
        let boot = Boot::Kernel {
            elf: image.into(),
            command_line: String::new(),
        };
        let mut machine = Machine::new(boot, folder);
        machine.networks = vec![Network::User];
        Ok(Self {
            machine,
            nbd: probe::free_port()?,
            api: probe::free_port()?,
            peer: probe::free_port()?,
            token: new_token()?,
            config: toml::Table::new(),
        })
    }

    /// Sets a configuration key, written as a dotted path, e.g. `pool.demo`.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        set_dotted(&mut self.config, key, value.into());
    }

    /// Starts the machine; the token and the configuration go over fw_cfg, never over a command line that every
    /// process of the host can read.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start(&self) -> Result<Appliance> {
        let mut config = self.config.clone();
        if !self.token.is_empty() {
            set_dotted(&mut config, "api.token", self.token.clone().into());
        }
        let path = self.machine.folder.join("config.toml");
        write_secret(
            &path,
            &toml::to_string(&config).context("cannot write the configuration")?,
        )?;
        let mut machine = self.machine.clone();
        machine.config = Some(path);
        machine.forwards = vec![
            Forward {
                host: self.nbd,
                guest_port: NBD_PORT,
            },
            Forward {
                host: self.api,
                guest_port: API_PORT,
            },
            Forward {
                host: self.peer,
                guest_port: PEER_PORT,
            },
        ];
        Ok(Appliance {
            running: machine.start()?,
            nbd: self.nbd,
            api: self.api,
            token: self.token.clone(),
            console_seen: 0,
        })
    }
}

/// An appliance that runs. Dropping it kills the machine.
#[derive(Debug)]
pub struct Appliance {
    /// The process.
    pub running: Running,
    /// Where the host reaches NBD.
    pub nbd: SocketAddr,
    /// Where the host reaches the API.
    pub api: SocketAddr,
    /// The API's secret.
    pub token: String,
    console_seen: usize,
}

impl Appliance {
    /// Waits until the guest says that it serves and both servers answer; returns the time since QEMU was started.
    ///
    /// Called again it waits for the next start of the same machine (after a reset).
    ///
    /// # Errors
    /// When that does not happen within `limit`; the error shows the end of the console.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let deadline = Instant::now() + limit;
        self.running
            .wait_for_after(self.console_seen, READY, limit)?;
        loop {
            let answer =
                probe::nbd(self.nbd, ATTEMPT).and_then(|()| probe::healthz(self.api, ATTEMPT));
            match answer {
                Ok(()) => {
                    let log = self.running.serial();
                    let new = log.get(self.console_seen..).unwrap_or_default();
                    self.console_seen += new.find(READY).map_or(0, |at| at + READY.len());
                    return Ok(self.running.started().elapsed());
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(self.running.evidence()));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
            if let Some(status) = self.running.try_wait()? {
                anyhow::bail!("the machine ended ({status})\n{}", self.running.evidence());
            }
        }
    }

    /// The URI of an export.
    #[must_use]
    pub fn nbd_uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.nbd)
    }

    /// The API's base address.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }
}

/// Sets `a.b.c` in nested tables, making those that are missing. A value in the place of a table is replaced.
fn set_dotted(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), value);
        }
        Some((first, rest)) => {
            let slot = table
                .entry(first)
                .or_insert_with(|| toml::Table::new().into());
            if !slot.is_table() {
                *slot = toml::Table::new().into();
            }
            if let toml::Value::Table(inner) = slot {
                set_dotted(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_keys_join_tables_that_exist() {
        let mut table: toml::Table = "[net]\naddress = \"10.0.0.2/24\"\n".parse().unwrap();
        set_dotted(&mut table, "net.gateway", "10.0.0.1".into());
        set_dotted(&mut table, "pool.demo", true.into());
        let text = toml::to_string(&table).unwrap();
        assert_eq!(
            text,
            "[net]\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.0.1\"\n\n[pool]\ndemo = true\n"
        );
    }
}
