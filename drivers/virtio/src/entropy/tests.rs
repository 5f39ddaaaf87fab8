//! The source against a device in software.

use super::*;
use crate::fake::FakeDevice;

fn give(device: &FakeDevice, byte: u8, count: usize) {
    let chain = device.take(QUEUE).unwrap();
    assert_eq!(chain.writable(), RESERVE);
    chain.write(&[byte; RESERVE][..count]);
    device.answer(QUEUE, &chain, count);
}

#[test]
fn bytes_are_given_once_and_asked_for_again() {
    let device = FakeDevice::new(0, &[8], &[]);
    let mut source = EntropySource::open(device.clone()).unwrap();
    let mut bytes = [0; 40];
    assert_eq!(
        source.take(&mut bytes),
        0,
        "the device is not asked to hurry"
    );
    give(&device, 7, 60);
    assert!(device.take(QUEUE).is_none(), "one buffer");
    assert!(source.poll());
    assert_eq!((source.take(&mut bytes), bytes), (40, [7; 40]));
    assert_eq!(source.take(&mut bytes), 20);
    assert_eq!(source.reserve, [0; RESERVE], "nothing of it is kept");
    assert_eq!(source.take(&mut bytes), 0);
    give(&device, 9, RESERVE);
    assert_eq!((source.take(&mut bytes), bytes), (40, [9; 40]));
    // An empty answer is no answer.
    while source.take(&mut bytes) > 0 {}
    give(&device, 0, 0);
    assert!(!source.poll());
    give(&device, 1, 1);
    assert!(source.poll());
}

#[test]
fn a_lying_device_is_shut_down() {
    let device = FakeDevice::new(0, &[8], &[]);
    let mut source = EntropySource::open(device.clone()).unwrap();
    device.answer_raw(QUEUE, 0, RESERVE as u32 + 1);
    assert!(!source.poll());
    assert!(!device.is_running());
    assert_eq!(source.take(&mut [0; 4]), 0);
}
