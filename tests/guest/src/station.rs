//! An appliance under test that can be started again and again on the same drives and ports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrite::Client;
use qemu::{Appliance, ApplianceOptions, Boot, Drive, sparse_file};
use serde_json::json;

use crate::Scratch;

/// How long an appliance may take until it serves.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How the host looks from an appliance in a user-mode network.
pub const HOST: &str = "10.0.2.2";
/// How long an orderly shutdown may take.
const POWER_DOWN_LIMIT: Duration = Duration::from_secs(30);

/// A machine with its drives, ports and temporary folder.
#[derive(Debug)]
pub struct Station {
    /// Files of this test.
    pub scratch: Scratch,
    /// What is started.
    pub options: ApplianceOptions,
}

impl Station {
    /// The image by PVH, without drives yet; the first boot makes the volume `demo`.
    ///
    /// # Errors
    /// When the image is not built or there is no free port.
    pub fn new(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name);
        let mut options = ApplianceOptions::new(&image("ferrite.elf")?, scratch.path())?;
        options.set("pool.demo", true);
        Ok(Self { scratch, options })
    }

    /// The same with one empty NVMe drive.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_drive(name: &str, bytes: u64) -> Result<Self> {
        let mut station = Self::new(name)?;
        station.add_drive(bytes)?;
        Ok(station)
    }

    /// The same with a name of its own, and such that other ones reach it at [`peer_address`](Self::peer_address): any number
    /// of them can be paired.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_peers(name: &str, bytes: u64) -> Result<Self> {
        let mut station = Self::with_drive(name, bytes)?;
        let port = i64::from(station.options.peer.port());
        station.options.set("node.name", name);
        station.options.set("peer.public_port", port);
        Ok(station)
    }

    /// Where other appliances reach it: through the host, as it looks from their user-mode networks.
    #[must_use]
    pub fn peer_address(&self) -> String {
        format!("{HOST}:{}", self.options.peer.port())
    }

    /// Pairs it with another one; both run.
    ///
    /// # Errors
    /// Why one of them refuses.
    pub fn pair_with(&self, other: &Self) -> Result<()> {
        let made = other.api().post("/v1/peers/tokens", &json!({}))?;
        let wanted = json!({"address": other.peer_address(), "token": made["token"]});
        self.api().post("/v1/peers", &wanted)?;
        Ok(())
    }

    /// Adds an empty NVMe drive; change its bus or sectors afterwards through `options`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn add_drive(&mut self, bytes: u64) -> Result<&mut Drive> {
        let drives = &mut self.options.machine.drives;
        let path = self.scratch.file(&format!("drive{}.raw", drives.len()));
        drives.push(Drive::new(sparse_file(path, bytes)?));
        drives.last_mut().context("a drive was just added")
    }

    /// The file of a drive.
    ///
    /// # Panics
    /// When there is no such drive.
    #[must_use]
    pub fn drive_file(&self, index: usize) -> PathBuf {
        PathBuf::from(&self.options.machine.drives[index].source)
    }

    /// Boots from `ferrite.img` through firmware instead of by PVH.
    ///
    /// # Errors
    /// When the image is not built.
    pub fn boot_from_disk(&mut self, bus: qemu::Bus, firmware: qemu::Firmware) -> Result<()> {
        let medium = Drive::new(image("ferrite.img")?).on(bus);
        self.options.machine.boot = Boot::Disk { medium, firmware };
        Ok(())
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it does not; with the end of its console.
    pub fn start(&self) -> Result<Appliance> {
        let mut appliance = self.options.start()?;
        appliance.wait_ready(READY_LIMIT)?;
        Ok(appliance)
    }

    /// Ends it by the power button.
    ///
    /// # Errors
    /// When it does not turn itself off in time or ends badly.
    pub fn power_down(&self, mut appliance: Appliance) -> Result<()> {
        let status = appliance.running.power_down(POWER_DOWN_LIMIT)?;
        ensure!(
            status.success(),
            "{status}\n{}",
            appliance.running.evidence()
        );
        Ok(())
    }

    /// Ends it as a power cut does.
    ///
    /// # Errors
    /// When the process does not end.
    pub fn cut_power(&self, mut appliance: Appliance) -> Result<()> {
        appliance.running.kill()
    }

    /// Verifies the pool on its drives with `ferrite check`; the appliance must not run.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<()> {
        let drives = &self.options.machine.drives;
        let images: Vec<PathBuf> = (0..drives.len())
            .map(|index| self.drive_file(index))
            .collect();
        let report = ferrite::check(&images, ferrite::Mode::WHOLE)?;
        ensure!(
            report.summary.is_clean(),
            "the pool is damaged:\n{}",
            report.text()
        );
        Ok(())
    }

    /// A client of its API.
    #[must_use]
    pub fn api(&self) -> Client {
        Client::new(&format!("http://{}", self.options.api), &self.options.token)
    }

    /// The URI of an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.options.nbd)
    }
}

/// A finished image.
fn image(name: &str) -> Result<PathBuf> {
    let path: PathBuf = qemu::instance::target_dir().join("dist").join(name);
    ensure!(
        Path::new(&path).exists(),
        "there is no {}; `cargo xtask image` builds it",
        path.display()
    );
    std::path::absolute(&path).context("not a usable path")
}
