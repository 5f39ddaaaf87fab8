//! The link against a device in software.

use super::*;
use crate::fake::FakeDevice;
use hal::fake::is_lent;
use virtio_drivers::device::common::Feature;
use world::Segmentation;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ALL: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::MTU
    | feature::MAC
    | feature::GUEST_TSO4
    | feature::HOST_TSO4
    | feature::STATUS
    | Feature::RING_INDIRECT_DESC.bits()
    | Feature::RING_EVENT_IDX.bits();

const SMALL: NetConfig = NetConfig {
    receive_frames: 4,
    transmit_frames: 3,
    large_frames: true,
};

fn device(features: u64) -> FakeDevice {
    let config = [0x52, 0x54, 0, 1, 2, 3, 1, 0, 0, 0, 0x28, 0x23];
    FakeDevice::new(features, &[256, 256], &config)
}

fn open(features: u64) -> (FakeDevice, NetLink<FakeDevice>) {
    let device = device(features);
    let link = NetLink::open(device.clone(), SMALL).unwrap();
    (device, link)
}

/// Lets a frame of `len` bytes arrive, with `flags` in its header.
fn arrive(device: &FakeDevice, flags: u8, len: usize) {
    let chain = device.take(RECEIVE_QUEUE).unwrap();
    let mut bytes = alloc::vec![0; HEADER_BYTES];
    bytes[0] = flags;
    bytes.extend((0..len).map(|index| index as u8));
    chain.write(&bytes);
    device.answer(RECEIVE_QUEUE, &chain, bytes.len());
}

fn fill(frame: &mut Frame, len: usize) {
    frame.set_len(len);
    for (index, byte) in frame.bytes_mut().iter_mut().enumerate() {
        *byte = index as u8;
    }
}

#[test]
fn offloads_follow_what_the_device_offers() {
    let (device, link) = open(ALL);
    let all = LinkInfo {
        mac: MAC,
        mtu: 9000,
        transmit_checksum: true,
        receive_checksum: true,
        segmentation_tcp4: true,
    };
    assert_eq!(link.info(), all);
    assert_eq!(device.take(RECEIVE_QUEUE).unwrap().writable() / 1000, 65);
    let (device, link) = open(feature::MAC);
    let plain = LinkInfo {
        mtu: 1500,
        transmit_checksum: false,
        receive_checksum: false,
        segmentation_tcp4: false,
        ..all
    };
    assert_eq!(link.info(), plain);
    let room = device.take(RECEIVE_QUEUE).unwrap().writable();
    assert!((1530..2048).contains(&room), "{room}");
    assert_eq!(device.taken(), (feature::MAC | Feature::VERSION_1.bits()));
}

#[test]
fn no_large_frames_when_memory_is_short() {
    let device = device(ALL);
    let config = NetConfig {
        large_frames: false,
        ..SMALL
    };
    let link = NetLink::open(device.clone(), config).unwrap();
    assert!(!link.info().segmentation_tcp4 && link.info().transmit_checksum);
    assert_eq!(
        device.taken() & (feature::GUEST_TSO4 | feature::HOST_TSO4),
        0
    );
}

#[test]
fn frames_arrive_in_order_and_their_memory_goes_round() {
    let (device, mut link) = open(ALL);
    assert!(link.receive().is_none());
    for round in 0..20 {
        for index in 0..4 {
            arrive(&device, 2 * (index & 1), 60 + round + usize::from(index));
        }
        assert!(device.take(RECEIVE_QUEUE).is_none(), "four frames, no more");
        for index in 0..4 {
            let frame = link.receive().unwrap();
            assert_eq!(frame.bytes().len(), 60 + round + index);
            assert_eq!(frame.bytes()[..3], [0, 1, 2]);
            assert_eq!(frame.meta.checksum_valid, index & 1 == 1);
            link.release(frame);
        }
        assert!(link.receive().is_none());
    }
}

#[test]
fn the_largest_frame_fits() {
    let (device, mut link) = open(ALL);
    arrive(&device, 1, 65_550);
    let frame = link.receive().unwrap();
    assert_eq!(frame.bytes().len(), 65_550);
    assert_eq!(frame.bytes()[65_549], 65_549_usize as u8);
}

#[test]
fn sent_frames_carry_their_header_and_come_back() {
    let (device, mut link) = open(ALL);
    let mut frames: Vec<_> = core::iter::from_fn(|| link.transmit_frame()).collect();
    assert_eq!(frames.len(), 3);
    for frame in &mut frames {
        fill(frame, 100);
    }
    let before = device.notifications();
    frames.drain(..).for_each(|frame| link.transmit(frame));
    assert!(device.take(TRANSMIT_QUEUE).is_none(), "not before the kick");
    link.kick();
    assert_eq!(device.notifications(), before + 1, "one doorbell for all");
    let chains: Vec<_> = core::iter::from_fn(|| device.take(TRANSMIT_QUEUE)).collect();
    let sent = chains[0].read();
    assert_eq!(sent.len(), HEADER_BYTES + 100);
    assert_eq!(sent[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(link.transmit_frame().is_none());
    device.answer(TRANSMIT_QUEUE, &chains[1], 0);
    assert!(link.transmit_frame().is_some());
    assert!(link.transmit_frame().is_none());
}

#[test]
fn the_frame_that_came_back_last_is_filled_next() {
    let (device, mut link) = open(ALL);
    let mut frame = link.transmit_frame().unwrap();
    fill(&mut frame, 100);
    let memory = frame.bytes().as_ptr();
    link.transmit(frame);
    link.kick();
    let chain = device.take(TRANSMIT_QUEUE).unwrap();
    device.answer(TRANSMIT_QUEUE, &chain, 0);
    let mut next = link.transmit_frame().unwrap();
    fill(&mut next, 100);
    assert_eq!(next.bytes().as_ptr(), memory);
}

#[test]
fn a_tcp_frame_asks_for_checksum_and_cutting() {
    let (device, mut link) = open(ALL);
    let mut frame = link.transmit_frame().unwrap();
    fill(&mut frame, 10_054);
    let bytes = frame.bytes_mut();
    bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    bytes[16..18].copy_from_slice(&10_040_u16.to_be_bytes());
    bytes[20..22].copy_from_slice(&[0x40, 0]);
    bytes[23] = 6;
    bytes[34 + 12] = 0x50;
    frame.meta.checksum_wanted = true;
    frame.meta.segmentation = Some(Segmentation {
        segment_bytes: 1460,
    });
    link.transmit(frame);
    link.kick();
    let sent = device.take(TRANSMIT_QUEUE).unwrap().read();
    assert_eq!(sent[..12], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
}

#[test]
fn an_interrupt_comes_for_what_is_waited_for() {
    let (device, mut link) = open(ALL);
    assert!(!link.enable_interrupts());
    arrive(&device, 0, 60);
    assert_eq!(device.interrupts(), 1);
    arrive(&device, 0, 60);
    assert_eq!(device.interrupts(), 1, "one is enough");
    assert!(link.enable_interrupts(), "frames wait");
    let frame = link.receive().unwrap();
    link.release(frame);
    let frame = link.receive().unwrap();
    link.release(frame);
    arrive(&device, 0, 60);
    assert_eq!(device.interrupts(), 1, "awake again: none wanted");

    // Sent frames are of no interest until somebody ran out of them.
    let (device, mut link) = open(ALL);
    for _ in 0..3 {
        let mut frame = link.transmit_frame().unwrap();
        fill(&mut frame, 60);
        link.transmit(frame);
    }
    assert!(!link.enable_interrupts());
    let chain = device.take(TRANSMIT_QUEUE).unwrap();
    device.answer(TRANSMIT_QUEUE, &chain, 0);
    assert_eq!(device.interrupts(), 0);
    assert!(link.transmit_frame().is_some());
    assert!(link.transmit_frame().is_none());
    assert!(!link.enable_interrupts());
    let chain = device.take(TRANSMIT_QUEUE).unwrap();
    device.answer(TRANSMIT_QUEUE, &chain, 0);
    assert_eq!(device.interrupts(), 1);
    assert!(link.enable_interrupts(), "a frame came back");
}

#[test]
fn runts_are_dropped_and_their_memory_is_used_again() {
    let (device, mut link) = open(ALL);
    for len in 0..4 {
        let chain = device.take(RECEIVE_QUEUE).unwrap();
        device.answer(RECEIVE_QUEUE, &chain, 8 * len);
    }
    assert!(link.receive().is_none());
    assert!(!link.is_broken());
    arrive(&device, 0, 14);
    assert_eq!(link.receive().unwrap().bytes().len(), 14);
}

#[test]
fn a_lying_device_is_shut_down() {
    let lies: [fn(&FakeDevice); 3] = [
        |device| device.answer_raw(RECEIVE_QUEUE, 77, 100),
        |device| device.answer_raw(RECEIVE_QUEUE, 0, 70_000),
        |device| device.answer_raw(TRANSMIT_QUEUE, 0, 0),
    ];
    for lie in lies {
        let (device, mut link) = open(ALL);
        lie(&device);
        let _ = link.receive();
        while link.transmit_frame().is_some() {}
        assert!(link.is_broken() && !device.is_running() && !link.is_up());
        assert!(link.receive().is_none());
        assert!(!link.enable_interrupts());
        link.kick();
    }
}

#[test]
fn memory_is_taken_back_only_from_a_device_that_was_reset() {
    let addresses = |device: &FakeDevice| {
        core::iter::from_fn(|| device.take(RECEIVE_QUEUE))
            .map(|chain| chain.segments[0].address)
            .collect::<Vec<_>>()
    };
    let (device, link) = open(ALL);
    let lent = addresses(&device);
    drop(link);
    assert!(!device.is_running());
    assert!(lent.iter().all(|address| !is_lent(*address, 1)));

    let (device, link) = open(ALL);
    let lent = addresses(&device);
    device.ignore_reset();
    drop(link);
    assert!(lent.iter().all(|address| is_lent(*address, 1)), "given up");
}

#[test]
fn the_cable_and_odd_configurations() {
    let (up, link) = open(ALL);
    assert!(link.is_up());
    up.set_config8(CONFIG_STATUS, 0);
    assert!(!link.is_up());
    let refused = |device: FakeDevice| NetLink::open(device, SMALL).err();
    assert_eq!(refused(device(0)), Some(VirtioError::Refused), "no address");
    let group = device(ALL);
    group.set_config8(0, 1);
    assert_eq!(refused(group), Some(VirtioError::Lied));
    let tiny = device(ALL);
    tiny.set_config8(CONFIG_MTU + 1, 0);
    assert_eq!(refused(tiny), Some(VirtioError::Lied));
    let one_queue = FakeDevice::new(ALL, &[256], &[0x52, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
    assert_eq!(refused(one_queue), Some(VirtioError::Refused));
}

#[test]
fn frames_do_not_lie_a_power_of_two_apart() {
    for (mtu, large) in [(1500, false), (9000, false), (1500, true), (65_535, true)] {
        let bytes = frame_bytes(mtu, large);
        assert_eq!(bytes % 128, 64);
        assert!(bytes - FRAME_START >= ETHERNET_HEADER + VLAN_TAG + mtu);
    }
}
