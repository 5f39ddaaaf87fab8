//! Where a stack's addresses come from: its configuration, DHCP, routers, its hardware address.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use net::inspect::{Seen, inspect};
use net::{Cidr, Listener, NetConfig, NetError, Stream};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Address, Ipv6Packet, Ipv6Repr, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr,
    NdiscRouterFlags, UdpPacket, UdpRepr,
};

use world::Instant;

use crate::lab::{Dice, Lab, Neighbour};

const SERVER_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0, 0, 0x99]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const LEASE: Duration = Duration::from_secs(600);
const LINK_LOCAL: &str = "fe80::5054:ff:fe00:1/64";

/// A DHCP server that does as the test says.
struct DhcpServer {
    is_silent: Cell<bool>,
    address: Cell<Ipv4Addr>,
    source: Cell<Ipv4Addr>,
    router: Cell<Ipv4Addr>,
    heard: RefCell<Vec<DhcpMessageType>>,
}

impl DhcpServer {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            is_silent: Cell::new(false),
            address: Cell::new(Ipv4Addr::new(10, 0, 0, 50)),
            source: Cell::new(SERVER),
            router: Cell::new(SERVER),
            heard: RefCell::default(),
        })
    }

    fn neighbour(self: &Rc<Self>) -> Neighbour {
        let server = self.clone();
        Box::new(move |frame| server.answer(frame))
    }

    fn count(&self, kind: DhcpMessageType) -> usize {
        let heard = self.heard.borrow();
        heard.iter().filter(|one| **one == kind).count()
    }

    fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        match frame.ethertype() {
            EthernetProtocol::Arp => answer_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.answer_dhcp(frame.payload()),
            _ => None,
        }
    }

    fn answer_dhcp(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let udp = UdpPacket::new_checked(packet.payload()).ok()?;
        if packet.next_header() != IpProtocol::Udp || udp.dst_port() != 67 {
            return None;
        }
        let dhcp = DhcpPacket::new_checked(udp.payload()).ok()?;
        let asked = DhcpRepr::parse(&dhcp).unwrap();
        self.heard.borrow_mut().push(asked.message_type);
        if self.is_silent.get() {
            return None;
        }
        let message_type = match asked.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            other => panic!("not expected from a client: {other:?}"),
        };
        let answer = DhcpRepr {
            message_type,
            your_ip: self.address.get(),
            server_ip: SERVER,
            client_ip: Ipv4Addr::UNSPECIFIED,
            subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            router: Some(self.router.get()),
            server_identifier: Some(SERVER),
            lease_duration: Some(LEASE.as_secs() as u32),
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            max_size: None,
            ..asked
        };
        Some(dhcp_frame(self.source.get(), &answer))
    }
}

fn ethernet(to: EthernetAddress, kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(SERVER_MAC);
    frame.set_dst_addr(to);
    frame.set_ethertype(kind);
    bytes.extend_from_slice(payload);
    bytes
}

fn dhcp_frame(source: Ipv4Addr, dhcp: &DhcpRepr) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: 67,
        dst_port: 68,
    };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: Ipv4Addr::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: 8 + dhcp.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 20 + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &ip.src_addr.into(),
        &ip.dst_addr.into(),
        dhcp.buffer_len(),
        |body| dhcp.emit(&mut DhcpPacket::new_unchecked(body)).unwrap(),
        &checksums,
    );
    ethernet(EthernetAddress::BROADCAST, EthernetProtocol::Ipv4, &bytes)
}

fn answer_arp(bytes: &[u8]) -> Option<Vec<u8>> {
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(bytes).ok()?).ok()?
    else {
        return None;
    };
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: SERVER_MAC,
        source_protocol_addr: SERVER,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    (target_protocol_addr == SERVER)
        .then(|| ethernet(source_hardware_addr, EthernetProtocol::Arp, &bytes))
}

fn addresses(lab: &Lab) -> Vec<String> {
    lab.server.addresses().iter().map(Cidr::to_string).collect()
}

fn dhcp_lab() -> (Rc<DhcpServer>, Lab) {
    let dhcp = DhcpServer::new();
    let config = NetConfig {
        slaac: false,
        ..NetConfig::default()
    };
    let lab = Lab::with_neighbour(config, dhcp.neighbour());
    (dhcp, lab)
}

#[test]
fn dhcp_lends_an_address() {
    let (_dhcp, lab) = dhcp_lab();
    assert_eq!(addresses(&lab), [LINK_LOCAL]);
    lab.pass(Duration::from_millis(10));
    assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.50/24"]);
    let _listener = lab.listen(7);
    assert!(lab.connect("10.0.0.50:7").is_ok());
}

#[test]
fn dhcp_keeps_its_address() {
    let (dhcp, lab) = dhcp_lab();
    lab.pass(LEASE * 10);
    assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.50/24"]);
    assert_eq!(dhcp.count(DhcpMessageType::Discover), 1);
    // The first, and one at half of each lease.
    let requests = dhcp.count(DhcpMessageType::Request);
    assert!((19..=21).contains(&requests), "{requests} requests");
}

#[test]
fn dhcp_gives_an_address_up_and_gets_another() {
    let (dhcp, lab) = dhcp_lab();
    lab.pass(Duration::from_secs(1));
    let listener = lab.listen(7);
    let near = lab.connect("10.0.0.50:7").unwrap();
    let far = lab.run(async move { listener.accept().await });
    dhcp.is_silent.set(true);
    lab.pass(LEASE - Duration::from_secs(10));
    assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.50/24"]);
    lab.pass(Duration::from_secs(20));
    assert_eq!(addresses(&lab), [LINK_LOCAL]);
    // Connections of the address are over.
    let read = lab.run_within(
        Duration::from_secs(1),
        async move { far.read(&mut [0]).await },
    );
    assert_eq!(read, Err(NetError::Closed));
    drop(near);
    dhcp.is_silent.set(false);
    dhcp.address.set(Ipv4Addr::new(10, 0, 0, 51));
    lab.pass(Duration::from_secs(5));
    assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.51/24"]);
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.server.counters().sockets, 0);
}

#[test]
fn dhcp_asks_until_it_is_heard() {
    let (dhcp, lab) = dhcp_lab();
    dhcp.is_silent.set(true);
    lab.pass(Duration::from_secs(60));
    assert!(dhcp.count(DhcpMessageType::Discover) >= 10);
    let server = lab.server.clone();
    let connect = lab.run(async move { server.connect("10.0.0.2:7".parse().unwrap()).await });
    assert_eq!(connect.err(), Some(NetError::Unreachable));
    dhcp.is_silent.set(false);
    lab.pass(Duration::from_secs(5));
    assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.50/24"]);
}

#[test]
fn dhcp_servers_without_an_address_are_not_heard() {
    let (dhcp, lab) = dhcp_lab();
    dhcp.source.set(Ipv4Addr::UNSPECIFIED);
    lab.pass(LEASE);
    assert_eq!(addresses(&lab), [LINK_LOCAL]);
    assert!(lab.server.counters().frames_dropped > 0);
}

#[test]
fn routers_that_cannot_be_are_not_used() {
    for router in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        let (dhcp, lab) = dhcp_lab();
        dhcp.router.set(router);
        lab.pass(Duration::from_secs(1));
        assert_eq!(addresses(&lab), [LINK_LOCAL, "10.0.0.50/24"]);
        let server = lab.server.clone();
        let attempt = async move { server.connect("192.0.2.1:7".parse().unwrap()).await };
        assert_eq!(lab.run(attempt).err(), Some(NetError::Unreachable));
    }
}

#[test]
fn only_hosts_are_connected_to() {
    let lab = Lab::new();
    for to in [
        "255.255.255.255:7",
        "224.0.0.1:7",
        "0.0.0.0:7",
        "[ff02::1]:7",
        "10.0.0.1:0",
    ] {
        assert_eq!(lab.connect(to).err(), Some(NetError::Unreachable), "{to}");
        assert!(lab.now() < Instant::ZERO + Duration::from_secs(1), "{to}");
    }
}

/// A router that answers solicitations with the prefix `fd00:1::/64`.
fn router() -> Neighbour {
    Box::new(|bytes| {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
        let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        let is_solicitation = frame.ethertype() == EthernetProtocol::Ipv6
            && packet.next_header() == IpProtocol::Icmpv6
            && u8::from(icmp.msg_type()) == 133;
        is_solicitation.then(|| advertisement(Duration::from_secs(1800)))
    })
}

fn advertisement(lifetime: Duration) -> Vec<u8> {
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: lifetime.into(),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: Some(SERVER_MAC.into()),
        mtu: None,
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: 64,
            flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
            valid_lifetime: lifetime.into(),
            preferred_lifetime: lifetime.into(),
            prefix: "fd00:1::".parse().unwrap(),
        }),
    });
    icmp_frame(&advertisement)
}

/// A message to all nodes.
fn icmp_frame(message: &Icmpv6Repr) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: "fe80::99".parse().unwrap(),
        dst_addr: Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; 40 + ip.payload_len];
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet);
    message.emit(
        &ip.src_addr,
        &ip.dst_addr,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    let all_nodes = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
    ethernet(all_nodes, EthernetProtocol::Ipv6, &bytes)
}

fn slaac() -> NetConfig {
    NetConfig {
        dhcp: false,
        ..NetConfig::default()
    }
}

#[test]
fn routers_give_addresses_for_as_long_as_they_say() {
    let lab = Lab::with_neighbour(slaac(), router());
    lab.pass(Duration::from_secs(1));
    assert_eq!(addresses(&lab), [LINK_LOCAL, "fd00:1::5054:ff:fe00:1/64"]);
    lab.pass(Duration::from_secs(1750));
    assert_eq!(addresses(&lab).len(), 2);
    lab.pass(Duration::from_secs(100));
    assert_eq!(addresses(&lab), [LINK_LOCAL]);
}

#[test]
fn a_network_without_routers_lets_the_stack_sleep() {
    let lab = Lab::with_neighbour(slaac(), Box::new(|_| None));
    lab.pass(Duration::from_secs(20));
    let sent = lab.server.counters().frames_sent;
    lab.pass(Duration::from_secs(3600));
    assert_eq!(lab.server.next_deadline(), None);
    assert_eq!(lab.server.counters().frames_sent, sent);
}

#[test]
fn routers_are_heard_after_the_asking_ended() {
    let late = Rc::new(Cell::new(false));
    let is_late = late.clone();
    // The next frame of any kind is answered with an advertisement.
    let neighbour: Neighbour = Box::new(move |_| {
        is_late
            .take()
            .then(|| advertisement(Duration::from_secs(1800)))
    });
    let lab = Lab::with_neighbour(slaac(), neighbour);
    lab.pass(Duration::from_secs(60));
    late.set(true);
    let server = lab.server.clone();
    let to = "[fe80::5054:ff:fe00:2]:7".parse().unwrap();
    assert!(lab.run(async move { server.connect(to).await }).is_err());
    assert_eq!(addresses(&lab), [LINK_LOCAL, "fd00:1::5054:ff:fe00:1/64"]);
}

#[test]
fn fixed_addresses_are_as_configured() {
    let lab = Lab::new();
    assert_eq!(addresses(&lab), ["10.0.0.1/24", "fd00::1/64", LINK_LOCAL]);
    assert_eq!(lab.server.mac(), [0x52, 0x54, 0, 0, 0, 1]);
}

#[test]
fn addresses_beyond_the_limit_are_left_out() {
    let many: Vec<Cidr> = (1..=6)
        .map(|host| format!("10.0.{host}.1/24").parse().unwrap())
        .collect();
    let gateways = ["10.0.1.254".parse().unwrap(), "fd00::fe".parse().unwrap()];
    let config = NetConfig::fixed(&many, &gateways);
    let lab = Lab::with_neighbour(config, Box::new(|_| None));
    assert_eq!(lab.server.addresses().len(), net::ADDRESSES_MAX + 1);
}

/// Frames of neighbours, some bytes changed and the checksum right where it is looked at.
fn forgery(dice: &Dice, originals: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = originals[dice.roll(originals.len() as u64) as usize].clone();
    for _ in 0..=dice.roll(4) {
        let at = 14 + dice.roll(bytes.len() as u64 - 14) as usize;
        bytes[at] = match dice.roll(3) {
            0 => 0,
            1 => 255,
            _ => dice.roll(256) as u8,
        };
    }
    let kind = [bytes[12], bytes[13]];
    match kind {
        [0x08, 0x00] => {
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
            if (20..=60).contains(&packet.header_len()) {
                packet.fill_checksum();
            }
            // UDP without a checksum.
            bytes[40..42].fill(0);
        }
        [0x86, 0xdd] => {
            let ends = [22, 38].map(|at| {
                let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
                Ipv6Address::from(octets)
            });
            Icmpv6Packet::new_unchecked(&mut bytes[54..]).fill_checksum(&ends[0], &ends[1]);
        }
        _ => {}
    }
    bytes
}

/// Frames that neighbours send to the server of the lab.
fn neighbour_frames(dhcp: &DhcpServer, discover: &[u8]) -> Vec<Vec<u8>> {
    let solicitation = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: "fe80::5054:ff:fe00:1".parse().unwrap(),
        lladdr: Some(SERVER_MAC.into()),
    });
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: SERVER_MAC,
        source_protocol_addr: SERVER,
        target_hardware_addr: EthernetAddress::BROADCAST,
        target_protocol_addr: Ipv4Addr::new(10, 0, 0, 50),
    };
    let mut arp_bytes = vec![0; arp.buffer_len()];
    arp.emit(&mut ArpPacket::new_unchecked(&mut arp_bytes));
    let mut frames = vec![
        advertisement(Duration::from_secs(1800)),
        icmp_frame(&solicitation),
        ethernet(
            EthernetAddress::BROADCAST,
            EthernetProtocol::Arp,
            &arp_bytes,
        ),
    ];
    frames.extend(dhcp.answer(discover));
    frames
}

/// A server on a network of forgers.
fn live_among_forgers(seed: u64) -> u64 {
    let dhcp = DhcpServer::new();
    let answering = dhcp.clone();
    let (dice, mut frames) = (Dice::new(seed), Vec::new());
    let neighbour: Neighbour = Box::new(move |bytes| {
        let answer = answering.answer(bytes);
        let is_dhcp = bytes.len() > 280 && answer.is_some();
        if frames.is_empty() && is_dhcp {
            frames = neighbour_frames(&answering, bytes);
        } else if is_dhcp {
            // The one with the transaction of now.
            frames[3] = answer.clone().unwrap();
        }
        if frames.is_empty() || (is_dhcp && dice.roll(2) == 0) {
            answer
        } else {
            Some(forgery(&dice, &frames))
        }
    });
    let lab = Lab::with_neighbour(NetConfig::default(), neighbour);
    // Whatever addresses and routers it believes in, it uses them.
    for _ in 0..50 {
        let (server, exec) = (lab.server.clone(), lab.exec.clone());
        lab.exec.spawn(async move {
            for to in [
                "10.0.0.2:7",
                "192.0.2.1:7",
                "[fd00::2]:7",
                "[2001:db8::1]:7",
            ] {
                let attempt = server.connect(to.parse().unwrap());
                let _ = exec.timeout(Duration::from_secs(3), attempt).await;
            }
        });
        lab.pass(LEASE / 3);
    }
    lab.server.counters().frames_received
}

#[test]
fn no_neighbour_brings_the_stack_down() {
    let received: u64 = (0..30).map(live_among_forgers).sum();
    assert!(received > 1000, "only {received} frames");
}

#[test]
fn impossible_prefixes_and_replies_from_nobody_are_not_shown() {
    let good = advertisement(Duration::from_secs(1800));
    assert_eq!(inspect(&good), Seen::Other);
    // The prefix option follows 16 bytes of advertisement and 8 of link-layer address.
    let option = good.windows(2).position(|two| two == [3, 4]).unwrap();
    let mut long = good.clone();
    long[option + 2] = 129;
    assert_eq!(inspect(&long), Seen::Unfit);
    let mut multicast = good;
    multicast[option + 16] = 0xff;
    assert_eq!(inspect(&multicast), Seen::Unfit);
}
