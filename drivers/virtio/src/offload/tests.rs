//! Headers against frames built by hand, and checksums against an independent sum.

use super::*;
use alloc::vec::Vec;
use world::Segmentation;

/// The Internet checksum over `parts`, written for clarity: add with carry, one byte pair at a time.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u16;
    for pair in bytes.chunks(2) {
        let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u16::from(carry);
    }
    !sum
}

/// What the device does with `csum_start` and `csum_offset` (5.1.6.2).
fn finish_checksum(frame: &mut [u8], header: &[u8]) {
    assert_eq!(header[0], NEEDS_CHECKSUM);
    let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let offset = usize::from(u16::from_le_bytes([header[8], header[9]]));
    let sum = checksum(&[&frame[start..]]);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

struct Packet {
    ethernet: Vec<u8>,
    ip: Vec<u8>,
    upper: Vec<u8>,
}

impl Packet {
    fn ipv4(protocol: u8, upper: Vec<u8>, options: usize) -> Self {
        let mut ip = alloc::vec![0x45 + (options / 4) as u8, 0];
        ip.extend(((20 + options + upper.len()) as u16).to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
        ip.extend([192, 168, 255, 254, 10, 0, 2, 15]);
        ip.extend(core::iter::repeat_n(1, options));
        Self {
            ethernet: [&[0xee; 12][..], &[0x08, 0x00]].concat(),
            ip,
            upper,
        }
    }

    fn ipv6(protocol: u8, upper: Vec<u8>, extension: bool) -> Self {
        let extra = if extension { 16 } else { 0 };
        let mut ip = alloc::vec![0x60, 0, 0, 0];
        ip.extend(((upper.len() + extra) as u16).to_be_bytes());
        ip.extend([if extension { 0 } else { protocol }, 64]);
        ip.extend((0..32).map(|index| 0xf0 + index as u8 % 16));
        if extension {
            ip.extend([protocol, 1]);
            ip.extend([0; 14]);
        }
        Self {
            ethernet: [&[0xee; 12][..], &[0x86, 0xdd]].concat(),
            ip,
            upper,
        }
    }

    fn frame(&self) -> Vec<u8> {
        [&self.ethernet[..], &self.ip, &self.upper].concat()
    }

    /// The whole checksum, as a receiver verifies it: 0 when right.
    fn verify(&self, frame: &[u8], protocol: u8) -> u16 {
        let addresses = if self.ip[0] >> 4 == 4 {
            &self.ip[12..20]
        } else {
            &self.ip[8..40]
        };
        let upper = &frame[self.ethernet.len() + self.ip.len()..];
        let len = (upper.len() as u32).to_be_bytes();
        checksum(&[addresses, &len, &[0, 0, 0, protocol], upper])
    }
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut tcp = alloc::vec![
        0x1f, 0x90, 0xc0, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0x18, 0xff, 0xff
    ];
    // The checksum field holds rubbish before, and 12 bytes of options follow.
    tcp.extend([0xba, 0xad, 0, 0]);
    tcp.extend([1; 12]);
    tcp.extend((0..payload).map(|index| index as u8 | 0x80));
    tcp
}

fn udp(payload: usize) -> Vec<u8> {
    let mut udp = alloc::vec![0, 53, 0xc0, 1];
    udp.extend(((8 + payload) as u16).to_be_bytes());
    udp.extend([0xba, 0xad]);
    udp.extend((0..payload).map(|index| index as u8));
    udp
}

const WANTED: FrameMeta = FrameMeta {
    checksum_valid: false,
    checksum_wanted: true,
    segmentation: None,
};

#[test]
fn the_device_can_finish_every_kind_of_checksum() {
    let mut tagged = Packet::ipv4(6, tcp(31), 0);
    tagged.ethernet.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    let packets = [
        ("TCP over IPv4", Packet::ipv4(6, tcp(100), 0), 6, 34),
        ("odd length", Packet::ipv4(6, tcp(101), 0), 6, 34),
        ("IPv4 options", Packet::ipv4(6, tcp(1), 8), 6, 42),
        ("UDP over IPv4", Packet::ipv4(17, udp(33), 0), 17, 34),
        ("TCP over IPv6", Packet::ipv6(6, tcp(1000), false), 6, 54),
        (
            "UDP over IPv6 with an extension",
            Packet::ipv6(17, udp(0), true),
            17,
            70,
        ),
        ("a VLAN tag", tagged, 6, 38),
    ];
    for (name, packet, protocol, start) in packets {
        let mut frame = packet.frame();
        let header = transmit_header(&mut frame, WANTED);
        assert_eq!(header[6], start, "{name}");
        assert_eq!(header[1..6], [0; 5], "{name}: not to be cut");
        assert_eq!(header[8], if protocol == 6 { 16 } else { 6 }, "{name}");
        assert_ne!(packet.verify(&frame, protocol), 0, "{name}: not done yet");
        finish_checksum(&mut frame, &header);
        assert_eq!(packet.verify(&frame, protocol), 0, "{name}");
    }
}

#[test]
fn a_sum_whose_carry_carries() {
    let mut packet = Packet::ipv4(6, tcp(0), 0);
    // With protocol 6 and 32 bytes of TCP the words of the pseudo-header add up to 0x2ffff.
    packet.ip[12..20].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xdb, 0, 0]);
    let mut frame = packet.frame();
    let header = transmit_header(&mut frame, WANTED);
    finish_checksum(&mut frame, &header);
    assert_eq!(packet.verify(&frame, 6), 0);
}

#[test]
fn padding_behind_the_packet_is_not_counted() {
    let packet = Packet::ipv4(17, udp(4), 0);
    let mut bare = packet.frame();
    let mut padded = packet.frame();
    padded.resize(60, 0);
    transmit_header(&mut bare, WANTED);
    transmit_header(&mut padded, WANTED);
    assert_eq!(bare[..], padded[..bare.len()]);
}

#[test]
fn large_tcp_is_to_be_cut() {
    let meta = FrameMeta {
        segmentation: Some(Segmentation {
            segment_bytes: 1448,
        }),
        ..WANTED
    };
    let mut frame = Packet::ipv4(6, tcp(20_000), 0).frame();
    let header = transmit_header(&mut frame, meta);
    let headers = 14 + 20 + 32;
    assert_eq!(header[..10], [1, 1, headers, 0, 0xa8, 5, 34, 0, 16, 0]);
    assert_eq!(header[10..], [0, 0]);
    // One segment or another protocol needs no cutting, but its checksum all the same.
    for packet in [
        Packet::ipv4(6, tcp(1448), 0),
        Packet::ipv4(17, udp(3000), 0),
        Packet::ipv6(6, tcp(3000), false),
    ] {
        let header = transmit_header(&mut packet.frame(), meta);
        assert_eq!(header[..6], [1, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn what_has_no_checksum_is_left_alone() {
    let mut fragment = Packet::ipv4(6, tcp(100), 0);
    fragment.ip[6] = 0x20;
    let mut longer = Packet::ipv4(6, tcp(100), 0);
    longer.ip[2] = 9;
    let mut short = Packet::ipv4(6, tcp(0)[..12].to_vec(), 0);
    short.ip[3] = 32;
    let mut arp = Packet::ipv4(6, tcp(100), 0);
    arp.ethernet[13] = 6;
    let icmp = Packet::ipv4(1, alloc::vec![8; 40], 0);
    for packet in [fragment, longer, short, arp, icmp] {
        let (mut frame, before) = (packet.frame(), packet.frame());
        assert_eq!(transmit_header(&mut frame, WANTED), [0; 12]);
        assert_eq!(frame, before);
    }
    let mut frame = Packet::ipv4(6, tcp(100), 0).frame();
    assert_eq!(transmit_header(&mut frame, FrameMeta::default()), [0; 12]);
    // Cut off anywhere, it must not panic.
    let whole = Packet::ipv6(6, tcp(10), true).frame();
    for len in 0..whole.len() {
        transmit_header(&mut whole[..len].to_vec(), WANTED);
    }
}

#[test]
fn received_flags_vouch_for_checksums() {
    for (flags, valid) in [
        (0, false),
        (NEEDS_CHECKSUM, true),
        (DATA_VALID, true),
        (4, false),
    ] {
        let mut header = [0; HEADER_BYTES];
        header[0] = flags;
        assert_eq!(receive_meta(&header).checksum_valid, valid);
    }
}
