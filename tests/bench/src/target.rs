//! What is measured: appliances behind one kind of network, and a server of the host beside them.

use std::cell::OnceCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest::{Scratch, Station};
use qemu::instance::target_dir;
use qemu::{API_PORT, Appliance, ApplianceOptions, Drive, NBD_PORT, Network, probe, sparse_file};

use crate::fio;
use crate::namespace::{GUEST_ADDRESS, Namespace, TAP};

/// The volume that is measured; the first boot makes it.
pub const EXPORT: &str = "demo";
/// Size of a drive file; sparse.
const DRIVE_BYTES: u64 = 4 << 30;
/// Size of the file that the host's server exports; that of the volume `demo`.
const HOST_FILE_MIB: u32 = 1024;
/// Memory of an appliance that is measured, in MiB, unless memory is what is measured.
pub const MEMORY_MIB: u32 = 128;
/// How long an appliance or a server may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly shutdown may take.
const POWER_DOWN_LIMIT: Duration = Duration::from_secs(30);
/// The folder that keeps drive files in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// The way from fio to the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The appliance behind QEMU's user-mode network, which ends TCP inside QEMU.
    User,
    /// The appliance on a tap: fio's TCP meets ours.
    Tap,
    /// qemu-nbd on the host; no guest at all.
    Host,
}

impl Route {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user-mode network",
            Self::Tap => "tap",
            Self::Host => "host qemu-nbd",
        }
    }
}

/// Settings of this run, and what is made once for it.
#[derive(Debug)]
pub struct Bench {
    /// The image under measurement: a copy, so that a build meanwhile does not change what is measured.
    pub elf: PathBuf,
    /// The same with symbols and line tables, which is also a copy; absent when only the finished image is there.
    pub linked: Option<PathBuf>,
    /// Where finished images lie.
    pub dist: PathBuf,
    /// Where drive files lie.
    pub folder: PathBuf,
    /// Samples of each figure.
    pub runs: u32,
    /// How long each fio job runs.
    pub job_time: Duration,
    // Only keeps the copy of the image.
    _scratch: Scratch,
    namespace: OnceCell<Result<Rc<Namespace>, String>>,
}

impl Bench {
    /// Finds the image and a folder for drive files.
    ///
    /// # Errors
    /// When the image is not built or the folder not writable.
    pub fn new(folder: Option<&Path>, runs: u32, job_time: Duration) -> Result<Self> {
        let dist = std::path::absolute(target_dir().join("dist"))?;
        let built = dist.join("ferrite.elf");
        ensure!(
            built.exists(),
            "there is no {}; `cargo xtask image` builds it",
            built.display()
        );
        let shared = Path::new(SHARED_MEMORY);
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None if shared.is_dir() => shared.into(),
            None => std::env::temp_dir(),
        };
        ensure!(folder.is_dir(), "there is no folder {}", folder.display());
        let scratch = Scratch::inside(&folder, "bench-image");
        let elf = scratch.file("ferrite.elf");
        fs::copy(&built, &elf).with_context(|| format!("cannot copy {}", built.display()))?;
        let built = target_dir().join("image/release/ferrite");
        let linked = built.exists().then(|| scratch.file("linked.elf"));
        if let Some(linked) = &linked {
            fs::copy(&built, linked).with_context(|| format!("cannot copy {}", built.display()))?;
        }
        Ok(Self {
            elf,
            linked,
            dist,
            folder,
            runs,
            job_time,
            _scratch: scratch,
            namespace: OnceCell::new(),
        })
    }

    /// An appliance with one blank NVMe drive behind the user-mode network.
    ///
    /// # Errors
    /// When the file system refuses or there is no free port.
    pub fn station(&self) -> Result<Station> {
        let scratch = Scratch::inside(&self.folder, "bench");
        let mut options = ApplianceOptions::new(&self.elf, scratch.path())?;
        options.set("pool.demo", true);
        options.machine.memory_mib = MEMORY_MIB;
        let drive = sparse_file(scratch.file("drive0.raw"), DRIVE_BYTES)?;
        options.machine.drives.push(Drive::new(drive));
        Ok(Station { scratch, options })
    }

    /// Boots once and fills the volume, so that every later start meets an existing pool with data in it.
    ///
    /// # Errors
    /// When the appliance does not start, serve or end.
    pub fn make_pool(&self, station: &Station) -> Result<()> {
        eprintln!("making a pool");
        let mut appliance = station.start()?;
        fio::fill(&appliance.nbd_uri(EXPORT))?;
        finish(&mut appliance)
    }

    /// The namespace of the tap, made on first use.
    ///
    /// # Errors
    /// Why there can be none; a row in the table says so.
    pub fn namespace(&self) -> Result<Rc<Namespace>> {
        let made = self
            .namespace
            .get_or_init(|| match rustix::process::geteuid() {
                root if root.is_root() => Namespace::new()
                    .map(Rc::new)
                    .map_err(|error| format!("{error:#}")),
                _ => Err("needs root".into()),
            });
        made.clone().map_err(anyhow::Error::msg)
    }

    /// The tap, or where there can be none the user-mode network.
    #[must_use]
    pub fn best_route(&self) -> Route {
        match self.namespace() {
            Ok(_) => Route::Tap,
            Err(reason) => {
                eprintln!("no tap ({reason:#}), so that QEMU's user-mode network it is");
                Route::User
            }
        }
    }

    /// Starts what serves at the end of `route`, on a blank file of its own.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn target(&self, route: Route) -> Result<Target> {
        match route {
            Route::Host => HostServer::start(self, HOST_FILE_MIB).map(Target::Host),
            Route::User => {
                let station = self.station()?;
                let appliance = station.start()?;
                Ok(Target::Appliance {
                    appliance,
                    station: station.into(),
                    namespace: None,
                })
            }
            Route::Tap => {
                let namespace = self.namespace()?;
                let mut station = self.station()?;
                put_on_tap(&mut station.options);
                let appliance = namespace.within(|| station.start())?;
                Ok(Target::Appliance {
                    appliance,
                    station: station.into(),
                    namespace: Some(namespace),
                })
            }
        }
    }
}

/// Connects an appliance to the namespace's tap with a static address.
pub fn put_on_tap(options: &mut ApplianceOptions) {
    let at = |port| SocketAddr::new(GUEST_ADDRESS.parse().expect("a literal address"), port);
    (options.nbd, options.api) = (at(NBD_PORT), at(API_PORT));
    options.machine.networks = vec![Network::Tap(TAP.into())];
    options.set("net.address", format!("{GUEST_ADDRESS}/24"));
}

/// Turns an appliance off by its power button.
///
/// # Errors
/// When it does not end in time; it is killed when dropped.
pub fn finish(appliance: &mut Appliance) -> Result<()> {
    let status = appliance.running.power_down(POWER_DOWN_LIMIT)?;
    ensure!(
        status.success(),
        "{status}\n{}",
        appliance.running.evidence()
    );
    Ok(())
}

/// Something that serves [`EXPORT`]; ends with the value.
#[derive(Debug)]
pub enum Target {
    /// The image under measurement. Fields are in the order in which they have to go.
    Appliance {
        /// The machine.
        appliance: Appliance,
        /// Its files.
        station: Box<Station>,
        /// Where its network is, unless that is the host's own.
        namespace: Option<Rc<Namespace>>,
    },
    /// The server beside it.
    Host(HostServer),
}

impl Target {
    /// The URI of the export, valid inside [`within`](Self::within).
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Appliance { station, .. } => station.uri(EXPORT),
            Self::Host(server) => format!("nbd://{}/{EXPORT}", server.address),
        }
    }

    /// Does `work` where the URI is reachable.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self {
            Self::Appliance {
                namespace: Some(namespace),
                ..
            } => namespace.within(work),
            _ => work(),
        }
    }

    /// CPU time of QEMU so far; none where there is no machine.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn cpu_time(&self) -> Result<Option<Duration>> {
        match self {
            Self::Appliance { appliance, .. } => appliance.running.cpu_time().map(Some),
            Self::Host(_) => Ok(None),
        }
    }

    /// Ends it in an orderly way.
    ///
    /// # Errors
    /// When an appliance does not turn itself off; it is killed then.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Appliance { mut appliance, .. } => finish(&mut appliance),
            Self::Host(_) => Ok(()),
        }
    }
}

/// qemu-nbd on a sparse file; ends with the value.
#[derive(Debug)]
pub struct HostServer {
    child: Child,
    address: SocketAddr,
    // Only keeps the file until the server is gone.
    _scratch: Scratch,
}

impl HostServer {
    /// Starts it on a file of `mib` MiB.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(bench: &Bench, mib: u32) -> Result<Self> {
        let scratch = Scratch::inside(&bench.folder, "bench-host");
        let file = sparse_file(scratch.file("host.raw"), u64::from(mib) << 20)?;
        let address = probe::free_port()?;
        let messages = fs::File::create(scratch.file("qemu-nbd.log"))?;
        let child = Command::new("qemu-nbd")
            .args([
                "--format=raw",
                "--persistent",
                "--shared=8",
                "--bind=127.0.0.1",
            ])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--export-name={EXPORT}"))
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .context("qemu-nbd does not start (Debian package qemu-utils)")?;
        let mut server = Self {
            child,
            address,
            _scratch: scratch,
        };
        let deadline = Instant::now() + READY_LIMIT;
        while probe::nbd(address, Duration::from_secs(1)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("qemu-nbd ended at once ({status})");
            }
            ensure!(Instant::now() < deadline, "qemu-nbd does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time that it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        qemu::cpu_time(self.child.id())
    }
}

impl Drop for HostServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
