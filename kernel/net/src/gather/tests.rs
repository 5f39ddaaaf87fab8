//! Tests of joined segments.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::wire::{Ipv4Packet, TcpPacket};

use super::*;

/// A segment of `data` at `sequence`, in memory of 2000 bytes if that is enough.
fn segment(sequence: u32, data: &[u8]) -> Frame {
    let total = IP_HEADERS + data.len();
    let mut frame = Frame::new(
        vec![0; (total + 16).max(2000)].into_boxed_slice(),
        2,
        ETHERNET + total,
    );
    let bytes = frame.bytes_mut();
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&(total as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    bytes[34..38].copy_from_slice(&[0xc0, 0, 0, 7]);
    bytes[38..42].copy_from_slice(&sequence.to_be_bytes());
    bytes[42..46].copy_from_slice(&1000_u32.wrapping_add(sequence).to_be_bytes());
    bytes[46..50].copy_from_slice(&[0x50, ACK, 1, sequence as u8]);
    bytes[HEADERS..].copy_from_slice(data);
    seal(&mut frame);
    frame.meta.checksum_valid = true;
    frame
}

fn seal(frame: &mut Frame) {
    Ipv4Packet::new_unchecked(&mut frame.bytes_mut()[ETHERNET..]).fill_checksum();
}

/// Joins `others` to `first`; how many were taken.
fn join(first: &mut Frame, others: &[Frame]) -> usize {
    let mut gathering = Gathering::begin(first).unwrap();
    let taken = others.iter().filter(|next| gathering.join(first, next));
    let taken = taken.count();
    gathering.finish(first);
    taken
}

#[test]
fn segments_in_a_row_become_one() {
    let mut first = segment(100, b"one ");
    let mut last = segment(109, b"three");
    last.bytes_mut()[47] |= PSH;
    assert_eq!(join(&mut first, &[segment(104, b"two, "), last]), 2);
    let ip = Ipv4Packet::new_checked(&first.bytes()[ETHERNET..]).unwrap();
    assert!(ip.verify_checksum());
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    assert_eq!(tcp.payload(), b"one two, three");
    assert_eq!((tcp.seq_number().0, tcp.ack_number().0), (100, 1109));
    assert_eq!((tcp.window_len(), tcp.psh()), (256 + 109, true));
}

#[test]
fn only_what_follows_is_joined() {
    let change = |at: usize, value: u8| {
        let mut frame = segment(104, b"two");
        frame.bytes_mut()[at] = value;
        seal(&mut frame);
        frame
    };
    let mut unvouched = segment(104, b"two");
    unvouched.meta.checksum_valid = false;
    let mut damaged = segment(104, b"two");
    damaged.bytes_mut()[22] ^= 1;
    let mut short = segment(104, b"two");
    short.set_len(HEADERS + 2);
    let others = [
        segment(103, b"two"),
        segment(105, b"two"),
        segment(104, b""),
        segment(104, &[0; JOINED_BYTES_MAX + 1]),
        change(5, 9),
        change(13, 1),
        change(15, 1),
        change(20, 0x20),
        change(23, 17),
        change(29, 9),
        change(33, 9),
        change(35, 9),
        change(37, 9),
        change(42, 0xff),
        change(46, 0x60),
        change(47, ACK | 0x01),
        change(47, ACK | 0x02),
        change(47, ACK | 0x04),
        change(47, ACK | 0x20),
        change(47, PSH),
        unvouched,
        damaged,
        short,
    ];
    for (index, other) in others.into_iter().enumerate() {
        let mut first = segment(100, b"one ");
        let before: Vec<u8> = first.bytes().into();
        assert_eq!(join(&mut first, &[other]), 0, "case {index}");
        assert_eq!(first.bytes(), before, "case {index}");
    }
}

#[test]
fn a_frame_is_not_filled_beyond_its_memory() {
    let mut first = segment(100, &[1; 1000]);
    assert_eq!(join(&mut first, &[segment(1100, &[2; 945])]), 0);
    assert_eq!(join(&mut first, &[segment(1100, &[2; 944])]), 1);
}

#[test]
fn sequence_numbers_wrap() {
    let mut first = segment(u32::MAX - 1001, &[1; 1000]);
    assert_eq!(join(&mut first, &[segment(u32::MAX - 1, &[2; 4])]), 1);
}

#[test]
fn a_damaged_header_stays_damaged() {
    let mut first = segment(100, b"one ");
    first.bytes_mut()[22] ^= 1;
    assert_eq!(join(&mut first, &[segment(104, b"two")]), 1);
    assert!(!Ipv4Packet::new_unchecked(&first.bytes()[ETHERNET..]).verify_checksum());
}
