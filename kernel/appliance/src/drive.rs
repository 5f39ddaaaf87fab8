//! Any drive of the machine, and how it has been doing.

use alloc::rc::Rc;
use core::cell::Cell;
use core::ops::Range;

use virtio::{BlkDisk, PciDevice};
use world::{BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

/// A drive. Clones are the same one.
#[derive(Clone)]
pub struct Drive {
    device: Device,
    health: Rc<Health>,
}

#[derive(Clone)]
enum Device {
    Nvme(nvme::Drive),
    Virtio(BlkDisk<PciDevice>),
}

#[derive(Default)]
struct Health {
    errors: Cell<u64>,
    /// Set when it does not come back.
    failure: Cell<Option<DiskError>>,
}

impl Drive {
    /// Failed operations since it was opened.
    pub fn errors(&self) -> u64 {
        self.health.errors.get()
    }

    /// Why it takes no commands any more, if it does not.
    pub fn failure(&self) -> Option<DiskError> {
        self.health.failure.get()
    }

    fn note<T>(&self, result: Result<T, DiskError>) -> Result<T, DiskError> {
        if let Err(error) = result {
            self.health.errors.set(self.errors() + 1);
            if matches!(error, DiskError::Gone | DiskError::Timeout) {
                self.health.failure.set(Some(error));
            }
        }
        result
    }
}

impl From<nvme::Drive> for Drive {
    fn from(drive: nvme::Drive) -> Self {
        Self {
            device: Device::Nvme(drive),
            health: Rc::default(),
        }
    }
}

impl From<BlkDisk<PciDevice>> for Drive {
    fn from(disk: BlkDisk<PciDevice>) -> Self {
        Self {
            device: Device::Virtio(disk),
            health: Rc::default(),
        }
    }
}

impl Disk for Drive {
    fn geometry(&self) -> Geometry {
        match &self.device {
            Device::Nvme(drive) => drive.geometry(),
            Device::Virtio(disk) => disk.geometry(),
        }
    }

    fn info(&self) -> DiskInfo {
        match &self.device {
            Device::Nvme(drive) => drive.info(),
            Device::Virtio(disk) => disk.info(),
        }
    }

    async fn read(&self, at: BlockAddr, into: Buf) -> (Buf, Result<(), DiskError>) {
        let (buf, result) = match &self.device {
            Device::Nvme(drive) => drive.read(at, into).await,
            Device::Virtio(disk) => disk.read(at, into).await,
        };
        (buf, self.note(result))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        let (buf, result) = match &self.device {
            Device::Nvme(drive) => drive.write(at, from).await,
            Device::Virtio(disk) => disk.write(at, from).await,
        };
        (buf, self.note(result))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let result = match &self.device {
            Device::Nvme(drive) => drive.flush().await,
            Device::Virtio(disk) => disk.flush().await,
        };
        self.note(result)
    }

    async fn discard(&self, ranges: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        let result = match &self.device {
            Device::Nvme(drive) => drive.discard(ranges).await,
            Device::Virtio(disk) => disk.discard(ranges).await,
        };
        self.note(result)
    }
}
