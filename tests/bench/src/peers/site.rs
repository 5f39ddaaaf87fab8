//! One of those that are compared: its machine, its drive and its network, to be started again and again.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use guest::Scratch;
use guest::nbd::Nbd;
use qemu::{ApplianceOptions, Drive, Machine, NBD_PORT, Network, PROGRAM, Running, sparse_file};

use crate::affinity::pinned;
use crate::client::Connection;
use crate::counter::Counter;
use crate::namespace::{GUEST_ADDRESS, Namespace, TAP};
use crate::target::{Bench, EXPORT, HostServer, put_on_tap};

use super::linux::{Image, Server};
use super::{Peer, VOLUME_MIB};

/// Bytes of the drive, sparse.
const DRIVE_BYTES: u64 = 4 << 30;
/// Memory of each guest in MiB.
const MEMORY_MIB: u32 = 256;
/// How long one attempt to connect may take: no longer, for a first packet that gets lost is sent again after a second.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Pause between attempts.
const POLL: Duration = Duration::from_millis(5);
/// How long an answer may take once somebody listens.
const ANSWER: Duration = Duration::from_secs(10);

/// A place where a peer is started.
#[derive(Debug)]
pub struct Site {
    /// Who.
    pub peer: Peer,
    /// None for the host's server.
    namespace: Option<Namespace>,
    plan: Plan,
    scratch: Scratch,
}

#[derive(Debug)]
enum Plan {
    Linux(Box<Machine>),
    Ours(Box<ApplianceOptions>),
    Host,
}

impl Site {
    /// A blank drive on the same machine for each, in a network of its own.
    ///
    /// # Errors
    /// Without root or a tap.
    pub fn new(bench: &Bench, peer: Peer, image: &Image) -> Result<Self> {
        let scratch = Scratch::inside(&bench.folder, "bench-peer");
        let drive = || -> Result<Drive> {
            let file: PathBuf = sparse_file(scratch.file("drive0.raw"), DRIVE_BYTES)?;
            Ok(Drive::new(file))
        };
        let plan = match peer {
            Peer::HostQemuNbd => Plan::Host,
            Peer::Ferrite => {
                let mut options = ApplianceOptions::new(&bench.elf, scratch.path())?;
                options.set("pool.demo", true);
                put_on_tap(&mut options);
                options.machine.memory_mib = MEMORY_MIB;
                options.machine.drives = vec![drive()?];
                Plan::Ours(options.into())
            }
            Peer::ThinNbdkit | Peer::ThinQemuNbd | Peer::ThinNbdServer => {
                let server = match peer {
                    Peer::ThinNbdkit => Server::Nbdkit,
                    Peer::ThinNbdServer => Server::Reference,
                    _ => Server::QemuNbd,
                };
                let mut machine = image.machine(server, VOLUME_MIB, scratch.path());
                machine.memory_mib = MEMORY_MIB;
                machine.drives = vec![drive()?];
                machine.networks = vec![Network::Tap(TAP.into())];
                Plan::Linux(machine.into())
            }
        };
        let mut site = Self {
            peer,
            namespace: None,
            plan,
            scratch,
        };
        if let Some(machine) = site.machine() {
            let address = machine.hardware_address(0);
            let namespace = Namespace::new()?;
            // Nobody has to ask for it, which would cost a second where the guest is not there yet.
            namespace.introduce(GUEST_ADDRESS, &address)?;
            site.namespace = Some(namespace);
        }
        Ok(site)
    }

    /// The hardware, if it is a guest.
    pub fn machine(&mut self) -> Option<&mut Machine> {
        match &mut self.plan {
            Plan::Linux(machine) => Some(machine),
            Plan::Ours(options) => Some(&mut options.machine),
            Plan::Host => None,
        }
    }

    /// Gives a guest the host's controller at a PCI address instead of its drive.
    pub fn pass_through(&mut self, address: &str) {
        if let Some(machine) = self.machine() {
            machine.drives.clear();
            let device = format!("vfio-pci,host={address},bus=slot1");
            machine.extra.extend(["-device".into(), device]);
        }
    }

    /// Makes a guest count its instructions from its next start on.
    ///
    /// # Errors
    /// When the plugin cannot be built.
    pub fn counter(&mut self) -> Result<Option<Counter>> {
        let folder = self.scratch.path().to_path_buf();
        let Some(machine) = self.machine() else {
            return Ok(None);
        };
        let counter = Counter::build(&folder)?;
        counter.attach(machine);
        Ok(Some(counter))
    }

    /// Starts it and waits until a block can be read.
    ///
    /// # Errors
    /// When it does not serve within `limit`.
    pub fn start(&self, bench: &Bench, limit: Duration) -> Result<Served<'_>> {
        let began = Instant::now();
        let server = pinned(|| {
            Ok(match &self.plan {
                Plan::Host => Process::Host(HostServer::start(bench, VOLUME_MIB)?),
                Plan::Ours(options) => {
                    Process::Guest(self.within(|| Ok(options.start()?.running))?)
                }
                Plan::Linux(machine) => Process::Guest(self.within(|| machine.start())?),
            })
        })?;
        let address = match &server {
            Process::Host(host) => host.address(),
            Process::Guest(_) => SocketAddr::new(GUEST_ADDRESS.parse()?, NBD_PORT),
        };
        let mut served = Served {
            site: self,
            server,
            address,
            first_read: Duration::ZERO,
        };
        served.wait(began, limit)?;
        served.first_read = began.elapsed();
        Ok(served)
    }

    fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.within(work),
            None => work(),
        }
    }
}

#[derive(Debug)]
enum Process {
    Guest(Running),
    Host(HostServer),
}

/// A peer that serves; it is killed when this is dropped.
#[derive(Debug)]
pub struct Served<'a> {
    /// Where it runs.
    pub site: &'a Site,
    server: Process,
    address: SocketAddr,
    /// From the start of its program to the first block read.
    pub first_read: Duration,
}

impl Served<'_> {
    fn wait(&mut self, began: Instant, limit: Duration) -> Result<()> {
        let address = self.address;
        loop {
            let listens = || Ok(TcpStream::connect_timeout(&address, ATTEMPT).is_ok());
            if self.within(listens)? {
                let read = || {
                    let mut client = Nbd::connect(address, EXPORT, ANSWER)?;
                    Ok(client.read(0, &mut [0; 4096])?)
                };
                if self.within(read).is_ok() {
                    return Ok(());
                }
            }
            if let Process::Guest(running) = &mut self.server
                && let Some(status) = running.try_wait()?
            {
                bail!("{PROGRAM} ended ({status})\n{}", running.evidence());
            }
            ensure!(
                began.elapsed() < limit,
                "{} does not serve within {limit:?}{}",
                self.site.peer.name(),
                match &self.server {
                    Process::Guest(running) => format!("\n{}", running.evidence()),
                    Process::Host(_) => String::new(),
                }
            );
            thread::sleep(POLL);
        }
    }

    /// Does `work` where it can be reached.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.site.within(work)
    }

    /// The URI of its export.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd://{}/{EXPORT}", self.address)
    }

    /// The machine, if it is a guest.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match &self.server {
            Process::Guest(running) => Some(running),
            Process::Host(_) => None,
        }
    }

    /// QEMU's messages.
    #[must_use]
    pub fn messages(&self) -> PathBuf {
        self.site.scratch.file("qemu.log")
    }

    /// Opens connections.
    ///
    /// # Errors
    /// When one is refused.
    pub fn connect(&self, count: u32) -> Result<Vec<Connection>> {
        self.within(|| {
            (1..=count)
                .map(|seed| Connection::open(self.address, EXPORT, seed.into()))
                .collect()
        })
    }

    /// CPU time of its process so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        match &self.server {
            Process::Guest(running) => running.cpu_time(),
            Process::Host(host) => host.cpu_time(),
        }
    }

    /// Makes what was written durable and ends it: ours by its power button, others as a power cut does.
    ///
    /// # Errors
    /// When the flush fails or ours does not turn itself off.
    pub fn finish(mut self) -> Result<()> {
        self.connect(1)?[0].flush()?;
        if self.site.peer == Peer::Ferrite
            && let Process::Guest(running) = &mut self.server
        {
            let status = running.power_down(Duration::from_secs(30))?;
            ensure!(status.success(), "{status}\n{}", running.evidence());
        }
        Ok(())
    }
}
