//! The Linux storage VMs that ours is compared with: dm-thin under an NBD server, on the same machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use guest::clients::run;
use guest::initramfs::{Initramfs, Kernel};
use qemu::instance::target_dir;
use qemu::{Boot, Machine};

use crate::namespace::GUEST_ADDRESS;
use crate::target::EXPORT;

/// Modules without which it does not work, without what they depend on.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "nvme", "dm_thin_pool"];
/// Modules that others ask for by name while they are loaded; they come first, and not every kernel has them.
const MODULES_IF_ANY: [&str; 3] = [
    "crct10dif_generic",
    "crc32c_generic",
    "crc64_rocksoft_generic",
];
/// Where nbdkit looks for plugins.
const PLUGINS: &str = "usr/lib/x86_64-linux-gnu/nbdkit/plugins";
/// Keeps the kernel from copying by string instructions, which translation executes byte by byte.
const NO_STRING_COPIES: &str = "clearcpuid=erms,fsrm,rep_good";

/// The NBD server in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nbdkit with its file plugin: through the guest's page cache.
    Nbdkit,
    /// qemu-nbd with direct, asynchronous I/O.
    QemuNbd,
    /// nbd-server, the one of the protocol's authors: a process for each connection, through the guest's page cache.
    Reference,
}

impl Server {
    fn program(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::QemuNbd => "qemu-nbd",
            Self::Reference => "nbd-server",
        }
    }
}

/// Kernel and initial file system of the guests.
#[derive(Clone, Debug)]
pub struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Image {
    /// Puts it together below the target folder; the kernel stays there for the next time.
    ///
    /// # Errors
    /// When a package cannot be downloaded or a program is missing.
    pub fn prepare() -> Result<Self> {
        let folder = std::path::absolute(target_dir().join("linux-client"))?;
        let kernel = Kernel::fetch(&folder)?;
        let initrd = folder.join("storage.cpio");
        write(&kernel, &folder, &initrd).context("cannot assemble the Linux storage VM")?;
        Ok(Self {
            kernel: kernel.image,
            initrd,
        })
    }

    /// The machine with `server`, without drives and networks yet. The volume has `mib` MiB.
    #[must_use]
    pub fn machine(&self, server: Server, mib: u32, folder: &Path) -> Machine {
        let command_line = format!(
            "console=ttyS0 quiet panic=-1 ipv6.disable=1 {NO_STRING_COPIES} p.server={} p.address={GUEST_ADDRESS}/24 \
             p.mib={mib} p.export={EXPORT}",
            server.program()
        );
        let boot = Boot::Kernel {
            elf: self.kernel.clone(),
            command_line,
        };
        let mut machine = Machine::new(boot, folder);
        let initrd = self.initrd.to_string_lossy().into_owned();
        machine.extra = vec!["-initrd".into(), initrd];
        machine
    }
}

fn write(kernel: &Kernel, folder: &Path, path: &Path) -> Result<()> {
    let mut system = Initramfs::new(kernel, include_bytes!("../../linux/init"))?;
    for server in [Server::Nbdkit, Server::QemuNbd] {
        system.program(server.program())?;
    }
    let packages = ["dmsetup", "libdevmapper1.02.1"];
    system.program_of("dmsetup", &packages, folder)?;
    system.program_of("nbd-server", &["nbd-server"], folder)?;
    let plugin = Path::new("/").join(PLUGINS).join("nbdkit-file-plugin.so");
    ensure!(plugin.exists(), "no {} (package nbdkit)", plugin.display());
    let mut parent = String::from("usr/lib");
    for part in PLUGINS["usr/lib/".len()..].split('/') {
        parent = format!("{parent}/{part}");
        system.folder(&parent);
    }
    system.file(&plugin, &format!("{PLUGINS}/nbdkit-file-plugin.so"))?;
    system.libraries_of(&plugin, "")?;
    for name in MODULES_IF_ANY {
        system.module_if_any(name)?;
    }
    for name in MODULES {
        system.module(name)?;
    }
    system.write(path)
}

/// What the comparison is with, for the table's head: versions of the programs in the guests.
///
/// # Errors
/// When one of them is missing.
pub fn versions() -> Result<String> {
    let mut said = Vec::new();
    for (program, package) in [("nbdkit", "nbdkit"), ("qemu-nbd", "qemu-utils")] {
        let text = run(package, Command::new(program).arg("--version"))?;
        match text.lines().next() {
            Some(line) => said.push(line.to_owned()),
            None => bail!("{program} does not say its version"),
        }
    }
    Ok(said.join(", "))
}
