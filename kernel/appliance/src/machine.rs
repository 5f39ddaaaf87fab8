//! The devices of this machine: found, brought up, and polled by the main loop.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hal::irq::Vector;
use pci::{Class, Function};
use virtio::{
    BlkConfig, BlkDisk, DeviceType, EntropySource, NetConfig, NetLink, PciDevice, VirtioError,
};
use world::{Clock, Disk, Instant, sooner};

use crate::clock::TurnClock;
use crate::drive::{Device, Drive};

/// A device that cannot interrupt is looked at this often, in nanoseconds.
const POLL_NANOS: u64 = 1_000_000;
/// PCI's capability of message interrupts in a table.
const MSIX: u8 = 0x11;

/// Every device that is used.
pub struct Machine {
    controllers: Vec<nvme::Controller>,
    disks: Vec<BlkDisk<PciDevice>>,
    link: Option<NetLink<PciDevice>>,
    network: Option<Function>,
    entropy: Option<EntropySource<PciDevice>>,
    /// Drives in the order of their slots.
    drives: Vec<Drive>,
    broken: Vec<Broken>,
    /// A device has no interrupt.
    must_poll: bool,
    vectors: Vec<Vector>,
    /// What drives take the time from.
    turns: Rc<TurnClock>,
}

/// A drive, or all drives of a controller, that cannot be used.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What it would be called.
    pub id: String,
    /// Where it is plugged in.
    pub slot: String,
    /// Why.
    pub why: String,
}

impl Machine {
    /// Finds the devices and brings all but the network up, waiting for slow ones. Later the drives measure their time by
    /// `turns`.
    pub fn find(clock: &dyn Clock, turns: Rc<TurnClock>) -> Self {
        let mut machine = Self {
            controllers: Vec::new(),
            disks: Vec::new(),
            link: None,
            network: None,
            entropy: None,
            drives: Vec::new(),
            broken: Vec::new(),
            must_poll: false,
            vectors: Vec::new(),
            turns,
        };
        for function in pci::enumerate(&pci::config_access()) {
            log::debug!("{function:?}");
            if function.class() == Class::NVME {
                machine.open_nvme(&function, clock);
            }
            match virtio::device_type(&function) {
                Some(DeviceType::Block) => machine.open_block(&function, clock),
                Some(DeviceType::Network) => machine.choose_network(&function),
                Some(DeviceType::EntropySource) => machine.open_entropy(&function),
                _ => {}
            }
        }
        machine
    }

    /// The drives that can be used.
    pub fn drives(&self) -> &[Drive] {
        &self.drives
    }

    /// The drives that cannot.
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// The source of random bytes, for whoever asks first.
    pub fn take_entropy(&mut self) -> Option<EntropySource<PciDevice>> {
        self.entropy.take()
    }

    /// Brings the network up with `frames` frames each way.
    pub fn open_link(&mut self, frames: u16) -> Option<NetLink<PciDevice>> {
        let function = self.network.clone()?;
        let config = NetConfig {
            receive_frames: frames,
            transmit_frames: frames,
            large_frames: true,
        };
        let opened = self
            .virtio(&function)
            .and_then(|device| NetLink::open(device, config));
        match opened {
            Ok(link) => self.link = Some(link),
            Err(error) => log::error!("network device at {}: {error}", function.address()),
        }
        self.link.clone()
    }

    fn open_nvme(&mut self, function: &Function, clock: &dyn Clock) {
        let index = self.controllers.len() + self.broken.len();
        let interrupt = self.message();
        self.must_poll |= interrupt.is_none() || function.capabilities(MSIX).next().is_none();
        let setup = nvme::Setup {
            index,
            interrupt,
            ..nvme::Setup::default()
        };
        match nvme::Controller::open(function, &setup, clock) {
            Ok(controller) => {
                for drive in controller.drives() {
                    self.add(Device::Nvme(drive.clone()));
                }
                for (namespace, refusal) in controller.refused() {
                    self.refuse(format!("nvme{index}n{namespace}"), function, refusal);
                }
                self.controllers.push(controller);
            }
            Err(error) => self.refuse(format!("nvme{index}"), function, error),
        }
    }

    fn open_block(&mut self, function: &Function, clock: &dyn Clock) {
        let config = BlkConfig {
            id: format!("vblk{}", self.disks.len()),
            slot: function.address().to_string(),
            ..BlkConfig::default()
        };
        let id = config.id.clone();
        let opened = self
            .virtio(function)
            .and_then(|device| BlkDisk::open(device, config, clock));
        match opened {
            Ok(disk) => {
                self.add(Device::Virtio(disk.clone()));
                self.disks.push(disk);
            }
            Err(error) => self.refuse(id, function, error),
        }
    }

    fn choose_network(&mut self, function: &Function) {
        match &self.network {
            None => self.network = Some(function.clone()),
            Some(first) => log::warn!(
                "network device at {} is not used: one is enough, and {} came first",
                function.address(),
                first.address()
            ),
        }
    }

    fn open_entropy(&mut self, function: &Function) {
        // It never interrupts and needs no vector.
        let opened = PciDevice::open(function, None).and_then(EntropySource::open);
        match opened {
            Ok(source) => self.entropy = Some(source),
            Err(error) => log::warn!("entropy device at {}: {error}", function.address()),
        }
    }

    fn virtio(&mut self, function: &Function) -> Result<PciDevice, VirtioError> {
        let device = PciDevice::open(function, self.message())?;
        self.must_poll |= !device.has_interrupts();
        Ok(device)
    }

    fn message(&mut self) -> Option<(u64, u32)> {
        let vector = Vector::allocate()?;
        let message = vector.msi_message();
        self.vectors.push(vector);
        Some(message)
    }

    fn add(&mut self, device: Device) {
        let drive = Drive::new(device, self.turns.clone());
        let (info, geometry) = (drive.info(), drive.geometry());
        log::info!(
            "{}: {} (serial {}) at {}, {} MiB, sectors of {}",
            info.id,
            info.model,
            info.serial,
            info.slot,
            geometry.blocks / 256,
            geometry.sector_bytes
        );
        self.drives.push(drive);
    }

    fn refuse(&mut self, id: String, function: &Function, why: impl ToString) {
        let (slot, why) = (function.address().to_string(), why.to_string());
        log::error!("{id} at {slot} cannot be used: {why}");
        self.broken.push(Broken { id, slot, why });
    }
}

/// The edge towards drives and network, for the main loop.
impl Machine {
    /// Sends what drives were asked for and takes their answers.
    pub fn poll(&self, now: Instant) {
        for controller in &self.controllers {
            controller.poll(now);
        }
        self.poll_disks(now);
    }

    /// Sends what drives were asked for; their answers can wait.
    pub fn send(&self, now: Instant) {
        for controller in &self.controllers {
            controller.send();
        }
        self.poll_disks(now);
    }

    fn poll_disks(&self, now: Instant) {
        for disk in &self.disks {
            disk.poll(now.as_nanos());
        }
    }

    /// Asks every device for an interrupt. Returns whether there is work already.
    pub fn enable_interrupts(&self) -> bool {
        // All of them are asked, whatever the first one answers. NVMe interrupts are always on.
        let mut work = false;
        for disk in &self.disks {
            work |= disk.enable_interrupts();
        }
        if let Some(link) = &self.link {
            work |= link.enable_interrupts();
        }
        work
    }

    /// When a device has to be polled even without an interrupt.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let soon = Instant::from_nanos(now.as_nanos() + POLL_NANOS);
        let mut next = self.must_poll.then_some(soon);
        for controller in &self.controllers {
            next = sooner(next, controller.next_deadline());
        }
        for disk in &self.disks {
            next = sooner(next, disk.next_poll().map(Instant::from_nanos));
        }
        next
    }

    /// Tells the drives that power will go.
    pub fn shut_down(self, clock: &dyn Clock) {
        for controller in self.controllers {
            controller.shut_down(clock);
        }
    }
}
