//! The ring against a device in software.

use super::*;
use crate::fake::FakeDevice;
use crate::transport::{self, Transport};

fn open(features: Feature, size: u16, segments_max: u16) -> (FakeDevice, Queue) {
    let device = FakeDevice::new(features.bits(), &[size], &[]);
    let mut transport = device.clone();
    let taken = transport::negotiate(&mut transport, 0).unwrap();
    let queue = transport::open_queue(&mut transport, 0, size, segments_max, taken).unwrap();
    transport::go(&mut transport).unwrap();
    (device, queue)
}

fn segments(memory: &DmaBuf, count: usize) -> Vec<Segment> {
    (0..count)
        .map(|index| Segment {
            address: memory.device_address() + 64 * index as u64,
            len: 10 + index as u32,
            writable: index >= count / 2,
        })
        .collect()
}

const BOTH: Feature = Feature::RING_INDIRECT_DESC.union(Feature::RING_EVENT_IDX);

#[test]
fn requests_arrive_whole_with_and_without_indirect_tables() {
    let memory = DmaBuf::new(1);
    for features in [Feature::empty(), BOTH] {
        let (device, mut queue) = open(features, 16, 5);
        let slots = if features == BOTH { 16 } else { 3 };
        assert_eq!(queue.slots(), slots);
        let sent = segments(&memory, 5);
        let tokens: Vec<_> = (0..slots).map(|_| queue.push(&sent).unwrap()).collect();
        assert_eq!(queue.push(&sent), None, "the ring is full");
        assert!(device.take(0).is_none(), "nothing is seen before publish");
        assert!(queue.publish());
        let chains: Vec<_> = core::iter::from_fn(|| device.take(0)).collect();
        assert_eq!(chains.len(), slots);
        for chain in &chains {
            assert_eq!(chain.segments, sent);
            assert_eq!(chain.indirect, features == BOTH);
        }
        // Answered in reverse order.
        for chain in chains.iter().rev() {
            device.answer(0, chain, 12);
        }
        for token in tokens.iter().rev() {
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.token, used.written), (*token, 12));
        }
        assert_eq!(queue.pop(), Ok(None));
        assert_eq!(queue.free(), slots);
    }
}

#[test]
fn the_counters_wrap() {
    let memory = DmaBuf::new(1);
    for features in [Feature::empty(), BOTH] {
        let (device, mut queue) = open(features, 4, 2);
        queue.start_at(0xfffd);
        device.start_at(0, 0xfffd);
        for round in 0..10 {
            let token = queue.push(&segments(&memory, 2)).unwrap();
            assert!(queue.publish(), "round {round} needs a doorbell");
            let armed = queue.enable_interrupts();
            assert!(!armed);
            let chain = device.take(0).unwrap();
            let before = device.interrupts();
            device.answer(0, &chain, 1);
            assert_eq!(device.interrupts(), before + 1, "round {round}");
            assert_eq!(queue.pop().unwrap().unwrap().token, token);
            queue.disable_interrupts();
        }
        // Not asked for: no interrupt.
        let before = device.interrupts();
        let _ = queue.push(&segments(&memory, 2)).unwrap();
        assert!(queue.publish());
        let chain = device.take(0).unwrap();
        device.answer(0, &chain, 1);
        assert_eq!(device.interrupts(), before);
    }
}

#[test]
fn arming_tells_of_answers_that_raised_no_interrupt() {
    let memory = DmaBuf::new(1);
    let (device, mut queue) = open(BOTH, 4, 2);
    queue.disable_interrupts();
    let _ = queue.push(&segments(&memory, 2)).unwrap();
    assert!(queue.publish());
    let chain = device.take(0).unwrap();
    device.answer(0, &chain, 1);
    assert_eq!(device.interrupts(), 0);
    assert!(queue.enable_interrupts());
    let _ = queue.pop().unwrap().unwrap();
    assert!(!queue.enable_interrupts());
}

#[test]
fn doorbells_are_rung_only_when_wanted() {
    let memory = DmaBuf::new(1);
    let (device, mut queue) = open(BOTH, 8, 2);
    assert!(!queue.publish(), "nothing new");
    let push = |queue: &mut Queue| queue.push(&segments(&memory, 2)).unwrap();
    push(&mut queue);
    assert!(queue.publish());
    push(&mut queue);
    assert!(!queue.publish(), "the device has not looked yet");
    assert_eq!(core::iter::from_fn(|| device.take(0)).count(), 2);
    push(&mut queue);
    assert!(queue.publish(), "it has, and asks again");

    let (device, mut queue) = open(Feature::RING_INDIRECT_DESC, 8, 2);
    push(&mut queue);
    assert!(queue.publish());
    device.mute(0);
    push(&mut queue);
    assert!(!queue.publish());
}

#[test]
fn a_lying_device_breaks_the_queue_and_nothing_else() {
    let memory = DmaBuf::new(1);
    type Lie = fn(&FakeDevice);
    let lies: [(&str, Lie); 6] = [
        ("a head out of range", |device| device.answer_raw(0, 8, 0)),
        ("a huge head", |device| device.answer_raw(0, u32::MAX, 0)),
        ("a head not in flight", |device| device.answer_raw(0, 1, 0)),
        ("too much written", |device| device.answer_raw(0, 0, 12)),
        ("too many answers", |device| {
            device.answer_raw(0, 0, 0);
            device.advance_used(0, 1);
        }),
        ("absurdly many answers", |device| {
            device.advance_used(0, 40_000)
        }),
    ];
    for (name, lie) in lies {
        let (device, mut queue) = open(BOTH, 8, 2);
        let token = queue.push(&segments(&memory, 2)).unwrap();
        assert_eq!(token.index(), 0);
        assert!(queue.publish());
        lie(&device);
        assert_eq!(queue.pop(), Err(Broken), "{name}");
        assert_eq!(queue.pop(), Err(Broken), "{name}: for good");
        assert!(!queue.enable_interrupts());
    }
}

#[test]
fn an_answer_to_the_middle_of_a_chain_breaks_the_queue() {
    let memory = DmaBuf::new(1);
    let (device, mut queue) = open(Feature::empty(), 8, 2);
    let _ = queue.push(&segments(&memory, 2)).unwrap();
    device.answer_raw(0, 1, 1);
    assert_eq!(queue.pop(), Err(Broken));
}

#[test]
fn an_answer_twice_breaks_the_queue() {
    let memory = DmaBuf::new(1);
    let (device, mut queue) = open(BOTH, 8, 2);
    let _ = queue.push(&segments(&memory, 2)).unwrap();
    let _ = queue.push(&segments(&memory, 2)).unwrap();
    device.answer_raw(0, 0, 1);
    assert!(queue.pop().unwrap().is_some());
    device.answer_raw(0, 0, 1);
    assert_eq!(queue.pop(), Err(Broken));
}

#[test]
fn devices_that_do_not_fit_are_refused() {
    use crate::transport::VirtioError;
    let mut gone = FakeDevice::new(0, &[8], &[]);
    gone.vanish();
    assert_eq!(transport::negotiate(&mut gone, 0), Err(VirtioError::Gone));
    let mut stuck = FakeDevice::new(0, &[8], &[]);
    stuck.set_status(transport::DeviceStatus::DRIVER_OK);
    stuck.ignore_reset();
    assert_eq!(transport::negotiate(&mut stuck, 0), Err(VirtioError::Stuck));
    let mut legacy = FakeDevice::legacy(&[8]);
    let refused = transport::negotiate(&mut legacy, 0);
    assert_eq!(refused, Err(VirtioError::Refused));
    let mut picky = FakeDevice::new(0, &[8], &[]);
    picky.refuse_features();
    let refused = transport::negotiate(&mut picky, 0);
    assert_eq!(refused, Err(VirtioError::Refused));
    let mut small = FakeDevice::new(0, &[2], &[]);
    let taken = transport::negotiate(&mut small, 0).unwrap();
    let refused = |queue, segments| {
        let mut small = small.clone();
        transport::open_queue(&mut small, queue, 8, segments, taken).err()
    };
    assert_eq!(refused(1, 1), Some(VirtioError::Refused), "no such queue");
    assert_eq!(
        refused(0, 3),
        Some(VirtioError::Refused),
        "no room for three"
    );
}

#[test]
fn a_doorbell_that_the_device_did_not_get_is_rung_late_and_once() {
    let memory = DmaBuf::new(1);
    let (device, mut queue) = open(BOTH, 16, 2);
    let looks = |queue: &mut Queue| (0..20).filter(|_| queue.is_overlooked()).count();
    for round in 0..3 {
        let _ = queue.push(&segments(&memory, 2)).unwrap();
        assert!(queue.publish(), "round {round}");
        assert!(!queue.is_overlooked(), "it may be on its way");
        assert_eq!(looks(&mut queue), 1, "round {round}");
        let chain = device.take(0).unwrap();
        assert_eq!(looks(&mut queue), 0, "the device works on it");
        device.answer(0, &chain, 1);
        assert_eq!(looks(&mut queue), 0, "nothing is left to be done");
        queue.pop().unwrap().unwrap();
    }
    let (_, mut plain) = open(Feature::empty(), 16, 2);
    let _ = plain.push(&segments(&memory, 2)).unwrap();
    assert!(plain.publish());
    assert_eq!(
        looks(&mut plain),
        0,
        "without event indices flags tell, at every request anew"
    );
}
