//! One TCP/IP stack over one link: smoltcp inside, an edge that the main loop polls outside.
//!
//! The loop calls [`Stack::ingress`], runs the tasks, and calls [`Stack::egress`], in this order: what tasks write goes
//! out in the same turn, and acknowledgements ride on it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::task::Poll;
use core::time::Duration;

use exec::Exec;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv6Address};
use world::{Entropy, FrameMeta, Instant, Link, sooner};

use crate::NetError;
use crate::config::{ADDRESSES_MAX, Cidr, NetConfig, is_host};
use crate::connection::{Connection, Ends, ListenOptions, Port, new_socket};
use crate::device::Device;
use crate::discovery::{self, FinalAdvertisement};
use crate::inspect::{Role, Seen, Segment, checksum_holds, inspect};
use crate::lease::Lease;
use crate::listener::TcpListener;
use crate::sockets::Place;
use crate::stream::TcpStream;
use crate::table::Table;
use crate::time::{from_wire, to_wire};

/// Frames taken in one call of [`Stack::ingress`].
const INGRESS_FRAMES_MAX: usize = 64;

/// Packets of no connection sent in one call of [`Stack::egress`].
const EGRESS_ROUNDS_MAX: usize = 64;

/// How often it is looked whether an address that a router advertised has ended.
const ADVERTISED_LOOK: Duration = Duration::from_secs(10);

/// Ports for connections made here (RFC 6335 section 6).
const EPHEMERAL: core::ops::RangeInclusive<u16> = 49152..=65535;

/// A handle to one TCP/IP stack; clones refer to the same one.
pub struct Stack<L> {
    shared: Rc<Shared<L>>,
}

impl<L> Clone for Stack<L> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// What the stack, its listeners and its streams share.
pub struct Shared<L> {
    pub core: RefCell<Core<L>>,
    pub exec: Exec,
    pub received_bytes: Cell<u64>,
    pub sent_bytes: Cell<u64>,
}

/// The state behind the handles. Borrowed for one step at a time, never while waiting.
pub struct Core<L> {
    device: Device<L>,
    interface: Interface,
    pub table: Table,
    /// The sockets of no connection: that of DHCP. Frames that are not TCP are processed with it.
    others: SocketSet<'static>,
    /// When something may have to be sent for no connection; `None` for never.
    others_due: Option<Instant>,
    lease: Option<Lease>,
    /// Whether routers are asked for addresses.
    slaac: bool,
    /// When to stop looking for routers; `None` when that is done or was not asked for.
    discovery_ends: Option<Instant>,
    connected: u64,
    reset: u64,
    next_port: u16,
}

/// Counts since start, and how many there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections established by peers.
    pub accepted: u64,
    /// Connections established from here.
    pub connected: u64,
    /// Connection attempts to an open port that was full.
    pub refused: u64,
    /// Connections that peers reset.
    pub reset: u64,
    /// Bytes that readers took.
    pub received_bytes: u64,
    /// Bytes that writers queued.
    pub sent_bytes: u64,
    /// Frames from the link that were processed.
    pub frames_received: u64,
    /// Frames given to the link.
    pub frames_sent: u64,
    /// Frames from the link that were dropped unread: damaged, or parts of packets.
    pub frames_dropped: u64,
    /// How often a connection sent again what was not acknowledged in time.
    pub retransmissions: u64,
    /// TCP sockets now, in whatever state.
    pub sockets: usize,
    /// Half-open connections now.
    pub half_open: usize,
}

impl<L: Link + 'static> Stack<L> {
    /// A stack over `link`. `exec` tells the time, `entropy` makes sequence numbers and ports unpredictable.
    ///
    /// Addresses beyond [`ADDRESSES_MAX`] are left out with a warning in the log.
    #[must_use]
    pub fn new(link: L, config: NetConfig, exec: Exec, entropy: &dyn Entropy) -> Self {
        let mut device = Device::new(link);
        let mut seed = [0; 10];
        entropy.fill(&mut seed);
        let [seed @ .., port_low, port_high] = seed;

        let mac = EthernetAddress(device.info().mac);
        let mut settings = Config::new(HardwareAddress::Ethernet(mac));
        settings.random_seed = u64::from_le_bytes(seed);
        settings.slaac = config.slaac;
        let now = exec.now();
        let mut interface = Interface::new(settings, &mut device, to_wire(now));
        configure(&mut interface, &config, link_local(mac));

        let mut others = SocketSet::new(Vec::new());
        let lease = config.dhcp.then(|| Lease::new(&mut others));
        let port_count = EPHEMERAL.len() as u16;
        let core = Core {
            device,
            interface,
            table: Table::new(&config),
            others,
            others_due: Some(now),
            lease,
            slaac: config.slaac,
            discovery_ends: config.slaac.then(|| now + discovery::LIMIT),
            connected: 0,
            reset: 0,
            next_port: u16::from_le_bytes([port_low, port_high]) % port_count,
        };
        Self {
            shared: Rc::new(Shared {
                core: RefCell::new(core),
                exec,
                received_bytes: Cell::new(0),
                sent_bytes: Cell::new(0),
            }),
        }
    }

    /// Processes received frames, a bounded number. Returns whether there were any.
    pub fn ingress(&self) -> bool {
        self.shared
            .core
            .borrow_mut()
            .ingress(self.shared.exec.now())
    }

    /// Sends what is due, a bounded amount, and tells the link. Returns whether there was anything.
    pub fn egress(&self) -> bool {
        self.shared.core.borrow_mut().egress(self.shared.exec.now())
    }

    /// When [`egress`](Self::egress) has to run next even if nothing is received; a past time means at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let now = self.shared.exec.now();
        self.shared.core.borrow_mut().next_deadline(now)
    }

    /// Opens a TCP port on all addresses. It is open until the listener is dropped.
    ///
    /// # Panics
    /// When `port` is 0 or already open: which server has which port is decided at build time.
    #[must_use]
    pub fn listen(&self, port: u16, options: ListenOptions) -> TcpListener<L> {
        assert!(port != 0, "port 0 cannot be listened on");
        let port = Rc::new(Port::new(port, options));
        let ports = &mut self.shared.core.borrow_mut().table.ports;
        let old = ports.insert(port.number, port.clone());
        assert!(old.is_none(), "port {} is already open", port.number);
        TcpListener::new(self.shared.clone(), port)
    }

    /// Connects to `remote`, with buffers as in [`ListenOptions::default`]. Gives up after 10 s.
    ///
    /// # Errors
    /// [`NetError::Unreachable`] when the stack has no address yet, nobody answers, or the peer refuses.
    pub async fn connect(&self, remote: SocketAddr) -> Result<TcpStream<L>, NetError> {
        let connection = self.shared.core.borrow_mut().connect(remote)?;
        // From here on, dropping the stream also drops the attempt.
        let stream = TcpStream::new(self.shared.clone(), connection.clone());
        let is_open = poll_fn(|context| {
            let table = &mut self.shared.core.borrow_mut().table;
            let socket = table.sockets.get_quietly(connection.place);
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(false),
                _ => Poll::Ready(true),
            }
        });
        if !is_open.await {
            return Err(NetError::Unreachable);
        }
        let core = &mut *self.shared.core.borrow_mut();
        core.table.establish(&connection);
        core.connected += 1;
        Ok(stream)
    }

    /// The addresses that the stack has now.
    #[must_use]
    pub fn addresses(&self) -> Vec<Cidr> {
        let core = self.shared.core.borrow();
        core.interface
            .ip_addrs()
            .iter()
            .map(Cidr::from_wire)
            .collect()
    }

    /// The link's hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.shared.core.borrow().device.info().mac
    }

    /// Counts for the API.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        let core = self.shared.core.borrow();
        let traffic = core.device.traffic();
        NetCounters {
            accepted: core.table.accepted,
            connected: core.connected,
            refused: core.table.refused,
            reset: core.reset,
            received_bytes: self.shared.received_bytes.get(),
            sent_bytes: self.shared.sent_bytes.get(),
            frames_received: traffic.received,
            frames_sent: traffic.sent,
            frames_dropped: traffic.dropped,
            retransmissions: core.table.sockets.retransmissions,
            sockets: core.table.sockets.count(),
            half_open: core.table.half_open_count(),
        }
    }
}

impl<L: Link> Core<L> {
    fn ingress(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for _ in 0..INGRESS_FRAMES_MAX {
            if !self.device.is_ready() {
                break;
            }
            self.take_frame(now);
            worked = true;
        }
        if self.discovery_ends.is_some_and(|end| now >= end) {
            self.end_discovery(now);
        }
        if worked {
            self.table.sweep_half_open();
        }
        worked
    }

    /// Processes the waiting frame.
    fn take_frame(&mut self, now: Instant) {
        let vouches = self.device.info().receive_checksum;
        let look = |bytes: &[u8], meta: FrameMeta| {
            let is_sound = !vouches || meta.checksum_valid || checksum_holds(bytes);
            (is_sound, inspect(bytes))
        };
        match self.device.look(look) {
            Some((false, _) | (_, Seen::Unfit)) => self.device.discard(),
            Some((_, Seen::Tcp(segment))) => self.take_segment(segment, now),
            Some((_, Seen::Other)) | None => self.take_other(now),
        }
    }

    /// Processes a frame that is not TCP. It may tell of a neighbour that somebody waits for, or change our addresses.
    fn take_other(&mut self, now: Instant) {
        self.interface
            .poll_ingress_single(to_wire(now), &mut self.device, &mut self.others);
        self.others_due = Some(now);
        self.apply_lease();
        self.table.sockets.touch_all();
    }

    fn take_segment(&mut self, segment: Segment, now: Instant) {
        let ends: Ends = (segment.local, segment.remote);
        match segment.role {
            Role::Open
                if self
                    .interface
                    .has_ip_addr(IpAddress::from(segment.local.ip())) =>
            {
                if let Some(connection) = self.table.admit(ends) {
                    self.feed(Some(connection.place), now);
                    self.table.settle(connection);
                } else {
                    self.feed_ends(&ends, now);
                }
            }
            Role::Reset => {
                self.feed_ends(&ends, now);
                let known = self.table.find(&ends).cloned();
                if let Some(connection) = known
                    && self.table.state(&connection) == State::Closed
                    && !connection.is_aborted.get()
                    && !connection.is_reset.replace(true)
                {
                    self.reset += 1;
                }
            }
            Role::Open => self.feed_ends(&ends, now),
            Role::Other => {
                self.device.gather();
                self.feed_ends(&ends, now);
            }
        }
    }

    fn feed_ends(&mut self, ends: &Ends, now: Instant) {
        let place = self.table.find(ends).map(|connection| connection.place);
        self.feed(place, now);
    }

    /// Processes the waiting frame for one socket, or for none.
    fn feed(&mut self, place: Option<Place>, now: Instant) {
        let mut process = |sockets: &mut SocketSet<'static>| {
            self.interface
                .poll_ingress_single(to_wire(now), &mut self.device, sockets);
        };
        match place {
            Some(place) => self.table.sockets.feed(place, now, process),
            None => process(&mut self.others),
        }
    }

    fn egress(&mut self, now: Instant) -> bool {
        let mut worked = false;
        if self.others_due.is_some_and(|due| due <= now) {
            worked |= self.egress_others(now);
        }
        let sockets = &mut self.table.sockets;
        worked |= sockets.egress(now, &mut self.interface, &mut self.device);
        self.table.sweep_half_open();
        self.table.sweep_leaving(now);
        self.device.kick();
        worked
    }

    fn egress_others(&mut self, now: Instant) -> bool {
        let wire_now = to_wire(now);
        self.interface.poll_maintenance(wire_now);
        let mut worked = false;
        for _ in 0..EGRESS_ROUNDS_MAX {
            let sockets = &mut self.others;
            match self
                .interface
                .poll_egress(wire_now, &mut self.device, sockets)
            {
                PollResult::None => break,
                PollResult::SocketStateChanged => worked = true,
            }
        }
        self.apply_lease();
        let due = self.interface.poll_at(wire_now, &self.others);
        // smoltcp 0.14 forgets when advertised addresses end as long as no socket has a deadline.
        let look = self.has_advertised().then(|| now + ADVERTISED_LOOK);
        self.others_due = due.map(from_wire).or(look);
        worked
    }

    /// Whether a router may have given us something that ends.
    fn has_advertised(&self) -> bool {
        let is_global = |cidr: &IpCidr| match cidr.address() {
            IpAddress::Ipv6(address) => !address.is_unicast_link_local(),
            IpAddress::Ipv4(_) => false,
        };
        self.slaac && self.interface.ip_addrs().iter().any(is_global)
    }

    fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.device.has_received() {
            return Some(now);
        }
        let connections = sooner(
            self.table.sockets.next_deadline(now),
            self.table.next_deadline(),
        );
        sooner(connections, sooner(self.others_due, self.discovery_ends))
    }

    fn apply_lease(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        let gone = lease.apply(&mut self.interface, &mut self.others);
        if let Some(gone) = gone {
            self.table.lose_address(IpAddr::V4(gone));
        }
    }

    fn end_discovery(&mut self, now: Instant) {
        self.discovery_ends = None;
        let mut device = FinalAdvertisement::new(self.device.info().mac);
        self.interface
            .poll_ingress_single(to_wire(now), &mut device, &mut self.others);
        self.others_due = Some(now);
    }

    fn connect(&mut self, remote: SocketAddr) -> Result<Rc<Connection>, NetError> {
        if !is_host(remote.ip()) {
            return Err(NetError::Unreachable);
        }
        let wire_remote = IpAddress::from(remote.ip());
        let source = self.interface.get_source_address(&wire_remote);
        let source: IpAddr = source.ok_or(NetError::Unreachable)?.into();
        let local = self
            .free_port(source, remote)
            .ok_or(NetError::Unreachable)?;
        let mut socket = new_socket(&ListenOptions::default());
        socket
            .connect(self.interface.context(), remote, local)
            .map_err(|_| NetError::Unreachable)?;
        let ends = (local, remote);
        let connection = Rc::new(self.table.insert_outgoing(socket, ends));
        self.table.book(connection.clone());
        Ok(connection)
    }

    /// A local end that no connection to `remote` uses.
    fn free_port(&mut self, source: IpAddr, remote: SocketAddr) -> Option<SocketAddr> {
        let count = EPHEMERAL.len() as u16;
        for _ in 0..count {
            self.next_port = (self.next_port + 1) % count;
            let port = EPHEMERAL.start() + self.next_port;
            let local = SocketAddr::new(source, port);
            let is_used = self.table.is_booked(&(local, remote));
            if !is_used && !self.table.ports.contains_key(&port) {
                return Some(local);
            }
        }
        None
    }
}

/// Puts the fixed addresses and gateways of `config` and `link_local` on `interface`.
fn configure(interface: &mut Interface, config: &NetConfig, link_local: Ipv6Address) {
    let (taken, left_out) = config
        .addresses
        .split_at(config.addresses.len().min(ADDRESSES_MAX));
    for cidr in left_out {
        log::warn!("net: address {cidr} is one too many");
    }
    interface.update_ip_addrs(|all| {
        let fixed = taken.iter().map(|cidr| cidr.to_wire());
        let link_local = IpCidr::new(link_local.into(), 64);
        all.extend(fixed.chain([link_local]));
    });
    for cidr in taken {
        log::info!("net: address {cidr}");
    }
    for gateway in config.gateways.iter().filter(|gateway| is_host(**gateway)) {
        let routes = interface.routes_mut();
        let added = match gateway {
            IpAddr::V4(v4) => routes.add_default_ipv4_route(*v4),
            IpAddr::V6(v6) => routes.add_default_ipv6_route(*v6),
        };
        added.expect("the table has a place for one route per family");
        log::info!("net: gateway {gateway}");
    }
}

/// The link-local address that belongs to a hardware address (RFC 4291 appendix A).
fn link_local(mac: EthernetAddress) -> Ipv6Address {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Address::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}
