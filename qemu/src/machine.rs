//! The description of a machine and its command line.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::drive::{Bus, Drive};
use crate::firmware::Firmware;
use crate::network::{Forward, Network};
use crate::running::Running;
use crate::{Accel, PROGRAM, escaped};

/// The I/O port through which a guest under test ends the machine: writing `n` exits with `2n + 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// Becomes another program that is killed when its parent ends (util-linux).
const LEASH: &str = "setpriv";

/// Root ports left empty for drives that are plugged in later.
const SPARE_SLOTS: usize = 4;

/// What the machine boots.
#[derive(Clone, Debug)]
pub enum Boot {
    /// An ELF with a PVH entry, loaded by QEMU itself, and its command line.
    Kernel {
        /// The file.
        elf: PathBuf,
        /// Words for the guest.
        command_line: String,
    },
    /// A disk image through firmware and its own boot loader.
    Disk {
        /// The boot medium; shown read-only so that one image serves many machines.
        medium: Drive,
        /// What starts its boot loader.
        firmware: Firmware,
    },
    /// The first drive, which the guest may write, through the traditional BIOS.
    FirstDrive,
}

/// The board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chipset {
    /// PCI Express with ECAM and hot-pluggable root ports.
    #[default]
    Q35,
    /// Plain PCI (i440FX): configuration through ports only, no hot-pluggable slots for NVMe.
    Pc,
}

/// Everything that makes up one machine. Fields are public: take [`Machine::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it boots.
    pub boot: Boot,
    /// Where serial log, sockets and temporary files of this run go; must exist.
    pub folder: PathBuf,
    /// The board.
    pub chipset: Chipset,
    /// How instructions are executed.
    pub accel: Accel,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Drives in slot order.
    pub drives: Vec<Drive>,
    /// Network interfaces in order.
    pub networks: Vec<Network>,
    /// Ports of the host that lead to the first user-mode network.
    pub forwards: Vec<Forward>,
    /// Hardware addresses are derived from it, so that two machines on one network differ.
    pub address_seed: String,
    /// File for the guest under `opt/ferrite/config` of fw_cfg.
    pub config: Option<PathBuf>,
    /// A second QMP socket, for somebody else.
    pub extra_qmp: Option<PathBuf>,
    /// Whether a guest under test can end the machine with an exit code ([`DEBUG_EXIT_PORT`]).
    pub debug_exit: bool,
    /// Whether a watchdog resets a guest that hangs.
    pub watchdog: bool,
    /// Whether the system kills it when the *thread* that starts it ends, even if that is killed itself. Off for a
    /// machine that is going to be detached or is started by a thread that it outlives.
    pub ends_with_starter: bool,
    /// Further QEMU arguments, as they are.
    pub extra: Vec<String>,
}

impl Machine {
    /// A q35 with 128 MiB, one CPU, a watchdog, and neither drives nor networks.
    #[must_use]
    pub fn new(boot: Boot, folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            boot,
            address_seed: folder.to_string_lossy().into_owned(),
            folder,
            chipset: Chipset::Q35,
            accel: Accel::Auto,
            memory_mib: 128,
            cpus: 1,
            drives: Vec::new(),
            networks: Vec::new(),
            forwards: Vec::new(),
            config: None,
            extra_qmp: None,
            debug_exit: false,
            watchdog: true,
            ends_with_starter: true,
            extra: Vec::new(),
        }
    }

    /// The serial console's log of the current or last run.
    #[must_use]
    pub fn serial_path(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// The QMP socket that [`Running::qmp`] uses.
    #[must_use]
    pub fn qmp_path(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// What QEMU itself had to say.
    #[must_use]
    pub fn messages_path(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }

    /// The hardware address of the network interface at `index`.
    #[must_use]
    pub fn hardware_address(&self, index: usize) -> String {
        hardware_address(&self.address_seed, index)
    }

    /// Starts the machine. It does not outlive the returned handle unless that is detached.
    ///
    /// # Errors
    /// When a drive is unusable, QEMU is missing, or it ends at once; the error carries QEMU's message.
    pub fn start(&self) -> Result<Running> {
        for drive in &self.drives {
            drive.validate()?;
        }
        let arguments = self.arguments()?;
        for stale in [self.serial_path(), self.qmp_path()] {
            let _ = fs::remove_file(stale);
        }
        let messages = fs::File::create(self.messages_path())
            .with_context(|| format!("cannot write into {}", self.folder.display()))?;
        if !is_installed(PROGRAM) {
            bail!("{PROGRAM} is not installed (Debian package qemu-system-x86)");
        }
        let mut command = Command::new(PROGRAM);
        if self.ends_with_starter && is_installed(LEASH) {
            command = Command::new(LEASH);
            command.args(["--pdeathsig", "KILL", PROGRAM]);
        }
        command
            .args(&arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages);
        // Its own process group: a Ctrl-C in the terminal is for whoever started us to turn into a clean shutdown.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .spawn()
            .with_context(|| format!("{PROGRAM} does not start"))?;
        Running::new(
            child,
            self.serial_path(),
            self.qmp_path(),
            self.messages_path(),
        )
    }

    /// The whole command line after the program's name. Paths are absolute except those inside the folder, because a
    /// socket's path may have 107 bytes only.
    fn arguments(&self) -> Result<Vec<String>> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
        let chipset = match self.chipset {
            Chipset::Q35 => "q35",
            Chipset::Pc => "pc",
        };
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
        ]);
        add(&["-machine", chipset, "-m", &self.memory_mib.to_string()]);
        add(&["-smp", &self.cpus.to_string()]);
        add(&self.accel.arguments());
        add(&[
            "-chardev",
            "file,id=serial,path=serial.log",
            "-serial",
            "chardev:serial",
        ]);
        add(&["-qmp", "unix:qmp.sock,server=on,wait=off"]);
        if let Some(path) = &self.extra_qmp {
            let path = escaped(&absolute(path)?);
            add(&["-qmp", &format!("unix:{path},server=on,wait=off")]);
        }
        add(&["-device", "virtio-rng-pci,disable-legacy=on"]);
        if self.watchdog {
            add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if self.debug_exit {
            add(&[
                "-device",
                &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=4"),
            ]);
        }
        if let Some(path) = &self.config {
            let path = escaped(&absolute(path)?);
            add(&["-fw_cfg", &format!("name=opt/ferrite/config,file={path}")]);
        }
        args.extend(self.network_arguments()?);
        args.extend(self.boot_arguments()?);
        args.extend(self.drive_arguments()?);
        args.extend(self.extra.iter().cloned());
        Ok(args)
    }

    fn boot_arguments(&self) -> Result<Vec<String>> {
        Ok(match &self.boot {
            Boot::Kernel { elf, command_line } => {
                let mut args = vec!["-kernel".into(), absolute(elf)?];
                if !command_line.is_empty() {
                    args.extend(["-append".into(), command_line.clone()]);
                }
                args
            }
            Boot::Disk { medium, firmware } => {
                let mut medium = medium.clone();
                medium.read_only = true;
                if let Some(file) = medium.file() {
                    medium.source = absolute(file)?;
                }
                // NVMe refuses a read-only back end, so writes to the medium go to a temporary overlay.
                if medium.bus == Bus::Nvme {
                    medium.read_only = false;
                    medium.backend_options.push_str(",snapshot=on");
                }
                medium.serial.get_or_insert_with(|| "boot".into());
                let mut args = firmware.arguments(&self.folder)?;
                let front = medium
                    .frontend(0, "boot", None)
                    .replace("id=disk0", "id=bootdisk");
                args.extend(["-drive".into(), medium.backend("boot")]);
                args.extend(["-device".into(), format!("{front},bootindex=0")]);
                args
            }
            Boot::FirstDrive => Vec::new(),
        })
    }

    fn drive_arguments(&self) -> Result<Vec<String>> {
        let mut args: Vec<String> = Vec::new();
        let slots = self.chipset == Chipset::Q35;
        if slots {
            // Native PCIe hot-plug; ACPI's needs a byte-code interpreter in the guest.
            let native = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
            args.extend(["-global".into(), native.into()]);
            for slot in 1..=self.drives.len() + SPARE_SLOTS {
                let port =
                    format!("pcie-root-port,id=slot{slot},bus=pcie.0,chassis={slot},slot={slot}");
                args.extend(["-device".into(), port]);
            }
        }
        for (index, drive) in self.drives.iter().enumerate() {
            let mut drive = drive.clone();
            if let Some(file) = drive.file() {
                drive.source = absolute(file)?;
            }
            let node = format!("drive{index}");
            let slot = format!("slot{}", index + 1);
            args.extend(["-drive".into(), drive.backend(&node)]);
            let mut front = drive.frontend(index, &node, slots.then_some(&slot));
            if index == 0 && matches!(self.boot, Boot::FirstDrive) {
                front.push_str(",bootindex=0");
            }
            args.extend(["-device".into(), front]);
        }
        Ok(args)
    }

    fn network_arguments(&self) -> Result<Vec<String>> {
        let mut args: Vec<String> = Vec::new();
        let mut forwards = self.forwards.as_slice();
        for (index, network) in self.networks.iter().enumerate() {
            let network = match network {
                Network::Socket(path) => Network::Socket(absolute(path)?.into()),
                other => other.clone(),
            };
            let id = format!("net{index}");
            args.extend(["-netdev".into(), network.backend(&id, forwards)]);
            if network == Network::User {
                forwards = &[];
            }
            let mac = hardware_address(&self.address_seed, index);
            // No option ROM: it costs boot time and belongs to a package of its own.
            let device = format!("virtio-net-pci,netdev={id},mac={mac},disable-legacy=on,romfile=");
            args.extend(["-device".into(), device]);
        }
        Ok(args)
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn absolute(path: &std::path::Path) -> Result<String> {
    let path = std::path::absolute(path)
        .with_context(|| format!("not a usable path: {}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A locally administered address that depends on the seed and the interface only (FNV-1a).
fn hardware_address(seed: &str, index: usize) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed.bytes().chain([0, index.to_le_bytes()[0]]) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [a, b, c, ..] = (hash ^ (hash >> 32)).to_le_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Boot {
        Boot::Kernel {
            elf: "/i.elf".into(),
            command_line: "log.level=debug".into(),
        }
    }

    #[test]
    fn every_nvme_drive_gets_a_slot_of_its_own() {
        let mut machine = Machine::new(kernel(), "/state");
        machine.drives = vec![
            Drive::new("/a,b.raw").sectors(4096),
            Drive::new("nbd://h:1/x"),
        ];
        let line = machine.arguments().unwrap().join(" ");
        assert!(line.contains("file=/a,,b.raw"), "{line}");
        assert!(
            line.contains("drive=drive0,serial=drive0,logical_block_size=4096"),
            "{line}"
        );
        assert!(line.contains("file=nbd://h:1/x"), "{line}");
        assert!(
            line.contains("bus=slot1") && line.contains("bus=slot2"),
            "{line}"
        );
        assert!(line.contains("-append log.level=debug"), "{line}");
    }

    #[test]
    fn a_plain_pci_board_has_no_root_ports() {
        let mut machine = Machine::new(kernel(), "/state");
        machine.chipset = Chipset::Pc;
        machine.drives = vec![Drive::new("/a").on(Bus::Virtio)];
        let line = machine.arguments().unwrap().join(" ");
        assert!(
            !line.contains("root-port") && !line.contains("bus=slot"),
            "{line}"
        );
    }

    #[test]
    fn forwards_belong_to_the_first_user_network_only() {
        let mut machine = Machine::new(kernel(), "/state");
        machine.networks = vec![Network::Tap("t0".into()), Network::User, Network::User];
        let host = "127.0.0.1:10809".parse().unwrap();
        machine.forwards = vec![Forward {
            host,
            guest_port: 10809,
        }];
        let line = machine.arguments().unwrap().join(" ");
        assert_eq!(
            line.matches("hostfwd=tcp:127.0.0.1:10809-:10809").count(),
            1
        );
        let macs: std::collections::HashSet<_> = (0..3)
            .map(|index| hardware_address("/state", index))
            .collect();
        assert_eq!(macs.len(), 3);
        assert_ne!(hardware_address("/a", 0), hardware_address("/b", 0));
    }
}
