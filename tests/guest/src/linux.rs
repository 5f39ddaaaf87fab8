//! A Linux machine as a client: a second QEMU that attaches a volume through `nbd.ko` and keeps an ext4 file system on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::initramfs::{Initramfs, Kernel};

/// Modules to load, without what they depend on.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "crc32c_generic", "ext4", "nbd"];

/// Programs of the client, taken from the host.
const PROGRAMS: [&str; 3] = ["nbd-client", "mke2fs", "e2fsck"];

/// A kernel and an initramfs, ready to boot.
pub struct LinuxClient {
    /// Kernel image for `qemu -kernel`.
    pub kernel: PathBuf,
    /// Initial file system for `qemu -initrd`.
    pub initrd: PathBuf,
}

impl LinuxClient {
    /// Builds the client below `folder`; what is there from an earlier call is used again.
    ///
    /// # Errors
    /// A package that cannot be downloaded, a program that is missing.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let kernel = Kernel::fetch(folder)?;
        let initrd = folder.join("client.cpio");
        write_initramfs(&kernel, &initrd).context("cannot assemble the Linux client")?;
        Ok(Self {
            kernel: kernel.image,
            initrd,
        })
    }

    /// The kernel's command line for a phase of the test script (`linux/init`).
    #[must_use]
    pub fn command_line(phase: &str, port: u16, export: &str, files: u32) -> String {
        format!(
            "console=ttyS0 quiet panic=-1 t.phase={phase} t.port={port} t.export={export} t.files={files}"
        )
    }
}

fn write_initramfs(kernel: &Kernel, path: &Path) -> Result<()> {
    let mut system = Initramfs::new(kernel, include_bytes!("../linux/init"))?;
    for name in PROGRAMS {
        system.program(name)?;
    }
    for name in MODULES {
        system.module(name)?;
    }
    system.write(path)
}
