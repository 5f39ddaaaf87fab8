//! Any drive of the machine, and how it has been doing.

use alloc::rc::Rc;
use core::ops::Range;

use appliance::health::Health;
use virtio::{BlkDisk, PciDevice};
use volume::Operation;
use world::{BLOCK_SIZE, BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Geometry, Instant};

use crate::clock::TurnClock;

/// A drive. Clones are the same one.
#[derive(Clone)]
pub struct Drive {
    device: Device,
    health: Rc<Health>,
    clock: Rc<TurnClock>,
}

/// What it is made of.
#[derive(Clone)]
pub enum Device {
    /// A namespace of an NVMe controller.
    Nvme(nvme::Drive),
    /// A virtio disk.
    Virtio(BlkDisk<PciDevice>),
}

impl Drive {
    /// A drive that nothing was asked of yet.
    pub fn new(device: Device, clock: Rc<TurnClock>) -> Self {
        Self {
            device,
            health: Rc::default(),
            clock,
        }
    }

    /// How it has been doing.
    pub fn health(&self) -> &Rc<Health> {
        &self.health
    }

    fn note(
        &self,
        operation: Operation,
        bytes: usize,
        begun: Instant,
        result: Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let took = self.clock.now().since(begun);
        self.health.note(operation, bytes as u64, took, result);
        if let Err(error) = result {
            self.tell(operation, error);
        }
        result
    }

    /// Not of each error, so that they do not displace everything else in the log.
    #[cold]
    fn tell(&self, operation: Operation, error: DiskError) {
        let errors = self.health.errors();
        if errors.is_power_of_two() {
            let (id, what) = (self.info().id, operation.name());
            log::error!("{id}: a {what} failed: {error}; failed operations so far: {errors}");
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
        let (begun, bytes) = (self.clock.now(), into.pages().len() * BLOCK_SIZE);
        let (buf, result) = match &self.device {
            Device::Nvme(drive) => drive.read(at, into).await,
            Device::Virtio(disk) => disk.read(at, into).await,
        };
        (buf, self.note(Operation::Read, bytes, begun, result))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        let (begun, bytes) = (self.clock.now(), from.pages().len() * BLOCK_SIZE);
        let (buf, result) = match &self.device {
            Device::Nvme(drive) => drive.write(at, from).await,
            Device::Virtio(disk) => disk.write(at, from).await,
        };
        (buf, self.note(Operation::Write, bytes, begun, result))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let begun = self.clock.now();
        let result = match &self.device {
            Device::Nvme(drive) => drive.flush().await,
            Device::Virtio(disk) => disk.flush().await,
        };
        self.note(Operation::Flush, 0, begun, result)
    }

    async fn discard(&self, ranges: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        let blocks = ranges.iter().map(|range| range.end - range.start);
        let bytes = blocks.sum::<u64>() as usize * BLOCK_SIZE;
        let begun = self.clock.now();
        let result = match &self.device {
            Device::Nvme(drive) => drive.discard(ranges).await,
            Device::Virtio(disk) => disk.discard(ranges).await,
        };
        self.note(Operation::Discard, bytes, begun, result)
    }
}
