//! Work that the link takes over: checksums and cutting.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use net::Stream;
use net::inspect::{Role, Seen, Segment, checksum_holds, inspect, sent};
use world::LinkInfo;

use crate::lab::{Lab, Neighbour, Wire, fixed, pattern, plain_link, read_all};

fn offloading(host: u8) -> LinkInfo {
    LinkInfo {
        transmit_checksum: true,
        receive_checksum: true,
        segmentation_tcp4: true,
        ..plain_link(host)
    }
}

fn transfer(lab: &Lab, far: Wire, near: Wire, len: usize) {
    let bytes = pattern(4, len);
    let sent = bytes.clone();
    lab.exec.spawn(async move {
        far.write_all(&sent).await.unwrap();
    });
    let read = lab.run(async move { read_all(&near).await });
    assert!(read.unwrap() == bytes);
}

#[test]
fn large_packets_are_left_to_the_link() {
    let lab = Lab::with(fixed(1), fixed(2), [offloading(1), offloading(2)]);
    let (far, near) = lab.pair();
    let largest = Rc::new(Cell::new(0));
    let seen = largest.clone();
    lab.decide(move |passing| {
        let len = passing.bytes.len();
        if passing.from == 0 && sent(passing.bytes).is_some() {
            assert!(passing.meta.checksum_wanted);
            let cut = passing.meta.segmentation.map(|cut| cut.segment_bytes);
            assert_eq!(cut, (len > 1514).then_some(1460), "a frame of {len} bytes");
            seen.set(seen.get().max(len));
        }
        None
    });
    transfer(&lab, far, near, 1 << 20);
    assert!(
        largest.get() > 60_000,
        "at most {} bytes at once",
        largest.get()
    );
}

#[test]
fn ipv6_packets_are_not_cut() {
    let lab = Lab::with(fixed(1), fixed(2), [offloading(1), offloading(2)]);
    let listener = lab.listen(7);
    let near = lab.connect("[fd00::1]:7").unwrap();
    let far = lab.run(async move { net::Listener::accept(&listener).await });
    lab.decide(|passing| {
        assert!(passing.meta.segmentation.is_none());
        None
    });
    transfer(&lab, far, near, 1 << 18);
}

#[test]
fn only_tcp_asks_for_a_checksum() {
    let lab = Lab::with(fixed(1), fixed(2), [offloading(1), offloading(2)]);
    lab.decide(|passing| {
        assert_eq!(passing.meta.checksum_wanted, sent(passing.bytes).is_some());
        None
    });
    lab.pair();
    lab.pass(Duration::from_secs(1));
}

#[test]
fn each_side_has_its_own_offloads() {
    // What the sender leaves to the link, a plain receiver checks; what a plain sender fills in is checked although the
    // receiver's link could vouch.
    for links in [
        [offloading(1), plain_link(2)],
        [plain_link(1), offloading(2)],
    ] {
        let lab = Lab::with(fixed(1), fixed(2), links);
        let (far, near) = lab.pair();
        transfer(&lab, far, near, 1 << 18);
        assert_eq!(lab.client.counters().frames_dropped, 0);
    }
}

#[test]
fn damage_is_found_without_a_voucher() {
    let opening: Rc<RefCell<Vec<u8>>> = Rc::default();
    let is_due = Rc::new(Cell::new(false));
    // Somebody repeats the opening of a connection, on a link that does not vouch for it.
    let (repeated, due) = (opening.clone(), is_due.clone());
    let neighbour: Neighbour = Box::new(move |_| due.take().then(|| repeated.borrow().clone()));
    let links = [offloading(1), plain_link(2)];
    let lab = Lab::build(fixed(1), fixed(2), links, Some(neighbour));
    let _listener = lab.listen(7);
    let kept = opening.clone();
    lab.decide(move |passing| {
        let seen = inspect(passing.bytes);
        if let Seen::Tcp(Segment {
            role: Role::Open, ..
        }) = seen
            && kept.borrow().is_empty()
        {
            *kept.borrow_mut() = passing.bytes.to_vec();
        }
        None
    });
    lab.connect("10.0.0.1:7").unwrap().abort();
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.server.counters().frames_dropped, 0);
    *opening.borrow_mut().last_mut().unwrap() ^= 0x10;
    for dropped in [1, 1] {
        is_due.set(true);
        let accepted = lab.server.counters().accepted;
        drop(lab.connect("10.0.0.1:7").unwrap());
        lab.pass(Duration::from_secs(1));
        assert_eq!(lab.server.counters().frames_dropped, dropped);
        assert_eq!(lab.server.counters().accepted, accepted + 1);
        // The second time it is whole.
        *opening.borrow_mut().last_mut().unwrap() ^= 0x10;
    }
}

#[test]
fn every_byte_of_a_segment_is_under_its_checksum() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    let segment: Rc<RefCell<Vec<u8>>> = Rc::default();
    let kept = segment.clone();
    lab.decide(move |passing| {
        if passing.bytes.len() > 100 {
            *kept.borrow_mut() = passing.bytes.to_vec();
        }
        None
    });
    lab.run(async move { far.write_all(&[7; 100]).await })
        .unwrap();
    lab.run(async move { near.read_exact(&mut [0; 100]).await })
        .unwrap();
    let mut damaged = segment.take();
    assert!(checksum_holds(&damaged));
    for at in 34..damaged.len() {
        damaged[at] ^= 0x10;
        assert!(!checksum_holds(&damaged), "byte {at}");
        damaged[at] ^= 0x10;
    }
}
