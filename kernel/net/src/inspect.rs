//! A look into a received frame before the stack gets it: pure, bounded, and indifferent to what the bytes claim.
//!
//! The stack has no pool of idle listeners. It reads the addresses and flags of each TCP segment here, and makes a
//! socket when one opens a connection.
//!
//! ```text
//! Ethernet  0 destination · 6 source · 12 type
//! IPv4      0 version, header words · 2 total length · 6 flags, fragment · 9 protocol · 12 source · 16 destination
//! IPv6      4 payload length · 6 next header · 8 source · 24 destination
//! TCP       0 source port · 2 destination port · 12 header words · 13 flags
//! ```
//! (RFC 791 3.1, RFC 8200 3 and 4.3, RFC 9293 3.1)

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{IpAddress, TcpPacket, UdpPacket};

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const DHCP_CLIENT: u16 = 68;
const ROUTER_ADVERTISEMENT: u8 = 134;
const PREFIX_INFORMATION: u8 = 3;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A TCP segment.
    Tcp(Segment),
    /// A frame that smoltcp 0.14 must not see:
    /// - a part of an IPv4 packet: parts are not put together, and anything could be read into one without its header;
    /// - an advertisement of a prefix that cannot be one, or a DHCP reply from no address: they would end in a panic.
    Unfit,
    /// Anything else, malformed frames among it.
    Other,
}

/// The ends of a TCP segment and what it does to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sender.
    pub remote: SocketAddr,
    /// The receiver.
    pub local: SocketAddr,
    /// What it does.
    pub role: Role,
}

/// What a TCP segment does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens it (SYN alone).
    Open,
    /// Resets it (RST).
    Reset,
    /// Anything else.
    Other,
}

/// Tells what the Ethernet frame `frame` is. Never panics.
#[must_use]
pub fn inspect(frame: &[u8]) -> Seen {
    match Packet::parse(frame) {
        Some(packet) if packet.is_unfit() => Seen::Unfit,
        Some(packet) => packet.segment().map_or(Seen::Other, Seen::Tcp),
        None => Seen::Other,
    }
}

/// Whether the TCP or UDP checksum of `frame` is right; true for frames that have none. Never panics.
#[must_use]
pub fn checksum_holds(frame: &[u8]) -> bool {
    let Some(packet) = Packet::parse(frame) else {
        return true;
    };
    let (source, destination) = (IpAddress::from(packet.source), packet.destination.into());
    match packet.protocol {
        TCP => TcpPacket::new_checked(packet.payload)
            .is_ok_and(|tcp| tcp.verify_checksum(&source, &destination)),
        UDP => UdpPacket::new_checked(packet.payload)
            .is_ok_and(|udp| udp.verify_checksum(&source, &destination)),
        _ => true,
    }
}

/// Fills in the checksum of a TCP segment, as a link does that was asked to. Leaves other frames as they are.
pub fn fill_checksum(frame: &mut [u8]) {
    let Some(packet) = Packet::parse(frame).filter(|packet| packet.segment().is_some()) else {
        return;
    };
    let (source, destination) = (packet.source.into(), packet.destination.into());
    let (start, len) = (packet.payload_start, packet.payload.len());
    TcpPacket::new_unchecked(&mut frame[start..start + len]).fill_checksum(&source, &destination);
}

/// How much a sent TCP segment has of what its connection wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Data, and more of it may follow.
    Part,
    /// All there was, or as much as the peer takes.
    Everything,
}

/// What `frame`, which this stack made, says of that; `None` when it is no TCP segment.
///
/// smoltcp sets PSH on the segment that ends what was queued, and sends data without it only when there is more.
#[must_use]
pub fn sent(frame: &[u8]) -> Option<Completeness> {
    let (protocol, header_bytes) = match frame.get(12..14)? {
        [0x08, 0x00] => (9, usize::from(frame.get(ETHERNET_BYTES)? & 0xf) * 4),
        [0x86, 0xdd] => (6, IPV6_BYTES),
        _ => return None,
    };
    let tcp = frame.get(ETHERNET_BYTES + header_bytes..)?;
    if frame[ETHERNET_BYTES + protocol] != TCP || tcp.len() < TCP_BYTES {
        return None;
    }
    let is_last = tcp[13] & (PSH | FIN | SYN | RST) != 0;
    let has_data = tcp.len() > usize::from(tcp[12] >> 4) * 4;
    Some(if has_data && !is_last {
        Completeness::Part
    } else {
        Completeness::Everything
    })
}

struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    is_fragment: bool,
    /// Where in the frame the payload starts.
    payload_start: usize,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET_BYTES..)?;
        match frame[12..14] {
            [0x08, 0x00] => Self::parse_v4(packet),
            [0x86, 0xdd] => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header_bytes = usize::from(packet.first()? & 0xf) * 4;
        if packet[0] >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        let total_bytes = usize::from(word(packet, 2)?);
        let fragment = word(packet, 6)?;
        Some(Self {
            source: Ipv4Addr::from(octets::<4>(packet, 12)?).into(),
            destination: Ipv4Addr::from(octets::<4>(packet, 16)?).into(),
            protocol: packet[9],
            // More fragments follow, or this is not the first.
            is_fragment: fragment & 0x3fff != 0,
            payload_start: ETHERNET_BYTES + header_bytes,
            payload: packet.get(header_bytes..total_bytes)?,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let payload_bytes = usize::from(word(packet, 4)?);
        let mut protocol = *packet.get(6)?;
        let mut payload = packet.get(IPV6_BYTES..IPV6_BYTES + payload_bytes)?;
        let mut payload_start = ETHERNET_BYTES + IPV6_BYTES;
        if protocol == HOP_BY_HOP {
            let skip = (usize::from(*payload.get(1)?) + 1) * 8;
            protocol = payload[0];
            payload = payload.get(skip..)?;
            payload_start += skip;
        }
        Some(Self {
            source: Ipv6Addr::from(octets::<16>(packet, 8)?).into(),
            destination: Ipv6Addr::from(octets::<16>(packet, 24)?).into(),
            protocol,
            is_fragment: false,
            payload_start,
            payload,
        })
    }

    fn is_unfit(&self) -> bool {
        match self.protocol {
            _ if self.is_fragment => true,
            UDP => self.source.is_unspecified() && word(self.payload, 2) == Some(DHCP_CLIENT),
            ICMPV6 if self.payload.first() == Some(&ROUTER_ADVERTISEMENT) => {
                has_impossible_prefix(self.payload.get(16..).unwrap_or(&[]))
            }
            _ => false,
        }
    }

    fn segment(&self) -> Option<Segment> {
        if self.protocol != TCP || self.payload.len() < TCP_BYTES {
            return None;
        }
        let flags = self.payload[13];
        let role = if flags & RST != 0 {
            Role::Reset
        } else if flags & (SYN | ACK | FIN) == SYN {
            Role::Open
        } else {
            Role::Other
        };
        Some(Segment {
            remote: SocketAddr::new(self.source, word(self.payload, 0)?),
            local: SocketAddr::new(self.destination, word(self.payload, 2)?),
            role,
        })
    }
}

/// Whether one of these options (RFC 4861 section 4.6) names a prefix that is too long or multicast.
fn has_impossible_prefix(mut options: &[u8]) -> bool {
    while let [kind, words, third, ..] = *options {
        let bytes = usize::from(words) * 8;
        let is_multicast = options.get(16) == Some(&0xff);
        if kind == PREFIX_INFORMATION && (third > 128 || is_multicast) {
            return true;
        }
        // A length of zero is malformed, and so is one beyond the end.
        match options.get(bytes..) {
            Some(rest) if bytes > 0 => options = rest,
            _ => return false,
        }
    }
    false
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    octets::<2>(bytes, at).map(u16::from_be_bytes)
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// An Ethernet header of `kind`, then `rest`.
    fn frame(kind: [u8; 2], rest: &[&[u8]]) -> Vec<u8> {
        let mut frame = alloc::vec![2; 12];
        frame.extend_from_slice(&kind);
        rest.iter().for_each(|part| frame.extend_from_slice(part));
        frame
    }

    fn tcp(flags: u8) -> [u8; 20] {
        let mut tcp = [0; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x27, 0x69]);
        tcp[12] = 0x50;
        tcp[13] = flags;
        tcp
    }

    fn v4(flags: u8, fragment: u16) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let ip = [
            0x45, 0, 0, 40, 0, 0, high, low, 64, TCP, 0, 0, 10, 0, 0, 9, 10, 0, 0, 2,
        ];
        frame([8, 0], &[&ip, &tcp(flags)])
    }

    fn v6(next: u8, extension: &[u8], flags: u8) -> Vec<u8> {
        let mut ip = [0; 40];
        ip[0] = 0x60;
        ip[5] = u8::try_from(20 + extension.len()).unwrap();
        ip[6] = next;
        (ip[8], ip[23], ip[24], ip[39]) = (0xfd, 9, 0xfd, 2);
        frame([0x86, 0xdd], &[&ip, extension, &tcp(flags)])
    }

    fn role(frame: &[u8]) -> Option<Role> {
        match inspect(frame) {
            Seen::Tcp(segment) => Some(segment.role),
            _ => None,
        }
    }

    #[test]
    fn finds_both_ends() {
        let segment = |remote: &str, local: &str| {
            Seen::Tcp(Segment {
                remote: remote.parse().unwrap(),
                local: local.parse().unwrap(),
                role: Role::Open,
            })
        };
        let expected = segment("10.0.0.9:40000", "10.0.0.2:10089");
        assert_eq!(inspect(&v4(SYN, 0x4000)), expected);
        let expected = segment("[fd00::9]:40000", "[fd00::2]:10089");
        assert_eq!(inspect(&v6(TCP, &[], SYN)), expected);
        assert_eq!(inspect(&v6(0, &[TCP, 0, 0, 0, 0, 0, 0, 0], SYN)), expected);
    }

    #[test]
    fn tells_roles_apart() {
        assert_eq!(role(&v4(SYN, 0)), Some(Role::Open));
        assert_eq!(role(&v4(SYN | ACK, 0)), Some(Role::Other));
        assert_eq!(role(&v4(SYN | FIN, 0)), Some(Role::Other));
        assert_eq!(role(&v4(SYN | RST, 0)), Some(Role::Reset));
        assert_eq!(role(&v4(ACK | RST, 0)), Some(Role::Reset));
        assert_eq!(role(&v4(ACK, 0)), Some(Role::Other));
    }

    #[test]
    fn fragments_are_not_segments() {
        assert_eq!(inspect(&v4(SYN, 0x2000)), Seen::Unfit);
        assert_eq!(inspect(&v4(SYN, 5)), Seen::Unfit);
    }

    fn try_all(bytes: &[u8]) {
        let _ = (inspect(bytes), checksum_holds(bytes), sent(bytes));
        fill_checksum(&mut bytes.to_vec());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let frames = [
            v4(SYN, 0),
            v6(TCP, &[], SYN),
            v6(0, &[TCP, 9, 0, 0, 0, 0, 0, 0], SYN),
        ];
        for frame in frames {
            for len in 0..frame.len() {
                try_all(&frame[..len]);
            }
            for at in 0..frame.len() {
                for value in 0..=255 {
                    let mut changed = frame.clone();
                    changed[at] = value;
                    try_all(&changed);
                }
            }
        }
    }
}
