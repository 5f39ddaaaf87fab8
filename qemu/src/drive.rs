//! Drives of a machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::escaped;

/// What a drive is plugged into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// An NVMe controller with one namespace; hot-pluggable on q35.
    #[default]
    Nvme,
    /// virtio-blk over PCI.
    Virtio,
}

/// One drive: where its bytes are and how the guest sees them.
#[derive(Clone, Debug)]
pub struct Drive {
    /// A file name or anything else QEMU opens, e.g. `nbd://127.0.0.1:10809/demo`.
    pub source: String,
    /// How it is attached.
    pub bus: Bus,
    /// Logical block size in bytes: 512 or 4096.
    pub sector_bytes: u32,
    /// Serial number that the guest reads; derived from the drive's position when absent.
    pub serial: Option<String>,
    /// Whether the guest cannot write it.
    pub read_only: bool,
    /// File that records every write, discard and flush of the guest, as Linux' dm-log-writes does. It goes on where an
    /// earlier machine ended it; empty at first. Only for a drive on a file.
    pub write_log: Option<PathBuf>,
    /// More `-drive` options, each beginning with a comma, e.g. `,throttling.iops-total=100`.
    pub backend_options: String,
}

impl Drive {
    /// An NVMe drive of 512-byte sectors on a raw file or a URI that QEMU opens.
    #[must_use]
    pub fn new(source: impl AsRef<Path>) -> Self {
        Self {
            source: source.as_ref().to_string_lossy().into_owned(),
            bus: Bus::Nvme,
            sector_bytes: 512,
            serial: None,
            read_only: false,
            write_log: None,
            backend_options: String::new(),
        }
    }

    /// The same drive on another bus.
    #[must_use]
    pub fn on(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// The same drive with another logical block size.
    #[must_use]
    pub fn sectors(mut self, bytes: u32) -> Self {
        self.sector_bytes = bytes;
        self
    }

    /// The file behind it, when it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        (!self.source.contains("://")).then(|| Path::new(&self.source))
    }

    /// Checks that a drive of this kind can be plugged in, before QEMU says it in its own words.
    ///
    /// # Errors
    /// When the file is missing, empty, not a multiple of its sector, or the sector size is unknown.
    pub fn validate(&self) -> Result<()> {
        if !matches!(self.sector_bytes, 512 | 4096) {
            bail!(
                "drives have sectors of 512 or 4096 bytes, not {}",
                self.sector_bytes
            );
        }
        let Some(path) = self.file() else {
            return Ok(());
        };
        let meta = fs::metadata(path)
            .with_context(|| format!("the drive file {} cannot be opened", path.display()))?;
        if meta.is_dir() {
            bail!("{} is a folder, not a drive file", path.display());
        }
        if meta.is_file() && (meta.len() == 0 || meta.len() % u64::from(self.sector_bytes) != 0) {
            bail!(
                "{} has {} bytes, which is no whole number of {}-byte sectors",
                path.display(),
                meta.len(),
                self.sector_bytes
            );
        }
        Ok(())
    }

    /// The `-drive` option that opens the bytes under the name `node`.
    pub(crate) fn backend(&self, node: &str) -> String {
        let read_only = if self.read_only { ",readonly=on" } else { "" };
        let source = escaped(&self.source);
        let bytes = match &self.write_log {
            None => format!("format=raw,file={source}"),
            Some(log) => format!(
                "driver=blklogwrites,file.driver=file,file.filename={source},file.discard=unmap,\
                 log.driver=file,log.filename={},log-append=on",
                escaped(&log.to_string_lossy())
            ),
        };
        format!(
            "if=none,id={node},{bytes},discard=unmap{read_only}{}",
            self.backend_options
        )
    }

    /// The `-device` option that shows them to the guest; `bus` is a PCI bus or none for the default.
    pub(crate) fn frontend(&self, index: usize, node: &str, bus: Option<&str>) -> String {
        let driver = match self.bus {
            Bus::Nvme => "nvme",
            Bus::Virtio => "virtio-blk-pci,disable-legacy=on",
        };
        let serial = self
            .serial
            .clone()
            .unwrap_or_else(|| format!("drive{index}"));
        let bus = bus.map(|bus| format!(",bus={bus}")).unwrap_or_default();
        format!(
            "{driver},id=disk{index},drive={node},serial={serial},logical_block_size={0},physical_block_size={0}{bus}",
            self.sector_bytes
        )
    }
}

/// Makes a file of `bytes` zero bytes that takes no space until written.
///
/// # Errors
/// When it exists already, or the file system refuses.
pub fn sparse_file(path: impl AsRef<Path>, bytes: u64) -> Result<PathBuf> {
    let path = path.as_ref();
    let file = fs::File::create_new(path)
        .with_context(|| format!("cannot make the drive file {}", path.display()))?;
    file.set_len(bytes)
        .with_context(|| format!("cannot give {} a size of {bytes} bytes", path.display()))?;
    Ok(path.to_path_buf())
}
