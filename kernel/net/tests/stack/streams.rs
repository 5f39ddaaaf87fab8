//! Connections that nothing disturbs.

use std::time::Duration;

use exec::join_all;
use net::{ListenOptions, NetError, Stream};

use net::cable::Fate;

use crate::lab::{Dice, LATENCY, Lab, fixed, pattern, plain_link, read_all};

/// `count` clients at one instant, each sends `len` bytes to the echo server at `to` and wants them back.
fn echo_clients(lab: &Lab, to: &str, count: u64, len: usize) {
    let (client, to) = (lab.client.clone(), to.parse().unwrap());
    lab.run(join_all((0..count).map(move |seed| {
        let client = client.clone();
        async move {
            let stream = client.connect(to).await.expect("connects");
            let bytes = pattern(seed, len);
            let writer = stream.clone();
            let sent = bytes.clone();
            let write = async move {
                writer.write_all(&sent).await.unwrap();
                writer.finish();
            };
            let read = read_all(&stream);
            let ((), back) = exec::futures_util::future::join(write, read).await;
            assert!(
                back.unwrap() == bytes,
                "connection {seed} got other bytes back"
            );
        }
    })));
}

#[test]
fn echoes_on_64_connections_at_once() {
    let lab = Lab::new();
    lab.serve_echo(7, ListenOptions::default());
    echo_clients(&lab, "10.0.0.1:7", 64, 300_000);
    let counters = lab.server.counters();
    assert_eq!((counters.accepted, counters.refused), (64, 0));
    assert_eq!(counters.received_bytes, 64 * 300_000);
    assert_eq!(counters.sent_bytes, 64 * 300_000);
}

#[test]
fn a_burst_of_64_connects_without_retries() {
    let lab = Lab::new();
    lab.serve_echo(7, ListenOptions::default());
    // The client learns the server's hardware address, so that only the attempts count.
    drop(lab.connect("10.0.0.1:7").unwrap());
    lab.pass(Duration::from_secs(30));
    let start = lab.now();
    let (client, to) = (lab.client.clone(), "10.0.0.1:7".parse().unwrap());
    let attempts = join_all((0..64).map(move |_| {
        let client = client.clone();
        async move { client.connect(to).await }
    }));
    let streams = lab.run(attempts);
    assert!(streams.iter().all(Result::is_ok));
    let took = lab.now() - start;
    assert!(took < Duration::from_millis(1), "took {took:?}");
}

#[test]
fn speaks_ipv6() {
    let lab = Lab::new();
    lab.serve_echo(7, ListenOptions::default());
    echo_clients(&lab, "[fd00::1]:7", 4, 300_000);
    echo_clients(&lab, "[fe80::5054:ff:fe00:1]:7", 4, 300_000);
}

#[test]
fn peers_and_ports_are_named() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    assert_eq!(near.peer(), "10.0.0.1:7".parse().unwrap());
    assert_eq!(near.local(), far.peer());
    assert_eq!(far.local(), near.peer());
}

#[test]
fn a_closed_port_refuses_at_once() {
    let lab = Lab::new();
    let start = lab.now();
    assert_eq!(lab.connect("10.0.0.1:9").err(), Some(NetError::Unreachable));
    assert!(lab.now() - start < Duration::from_millis(1));
    assert_eq!(lab.client.counters().sockets, 0);
}

#[test]
fn nobody_there_is_given_up() {
    let lab = Lab::new();
    let start = lab.now();
    assert_eq!(
        lab.connect("10.0.0.77:9").err(),
        Some(NetError::Unreachable)
    );
    let took = lab.now() - start;
    assert!(took < Duration::from_secs(15), "took {took:?}");
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let lab = Lab::new();
    let options = ListenOptions {
        connections_max: 4,
        ..ListenOptions::default()
    };
    lab.serve_echo(7, options);
    let mut streams: Vec<_> = (0..4).map(|_| lab.connect("10.0.0.1:7").unwrap()).collect();
    let start = lab.now();
    assert_eq!(lab.connect("10.0.0.1:7").err(), Some(NetError::Unreachable));
    assert!(lab.now() - start < Duration::from_millis(1));
    assert_eq!(lab.server.counters().refused, 1);
    // One goes, and there is room again.
    streams.pop();
    lab.pass(Duration::from_secs(1));
    assert!(lab.connect("10.0.0.1:7").is_ok());
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    let written = std::rc::Rc::new(std::cell::Cell::new(0));
    let (writer, count) = (near.clone(), written.clone());
    lab.exec.spawn(async move {
        let bytes = pattern(3, 1 << 20);
        while count.get() < bytes.len() {
            count.set(count.get() + writer.write(&bytes[count.get()..]).await.unwrap());
        }
        writer.finish();
    });
    lab.pass(Duration::from_secs(1));
    // No more than fits into both buffers.
    assert!(
        written.get() <= 2 * (128 << 10),
        "{} written",
        written.get()
    );
    assert!(written.get() > 128 << 10);
    // Neither keep-alive nor window probes run out of patience while the peer lives, even if it answers slowly.
    let dice = Dice::new(1);
    lab.decide(move |_| Some(Fate::Delay(LATENCY * (1 + dice.roll(100) as u32))));
    lab.pass(Duration::from_secs(600));
    let read = lab.run(async move { read_all(&far).await });
    assert!(read.unwrap() == pattern(3, 1 << 20));
}

#[test]
fn parts_go_out_in_order_and_as_far_as_there_is_room() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    lab.exec.spawn(async move {
        let bytes = pattern(5, 400_000);
        let mut done = 0;
        while done < bytes.len() {
            let parts = bytes[done..].chunks(1 + done % 5000);
            let count = near.write_parts(parts).await.unwrap();
            assert!((1..=128 << 10).contains(&count), "{count}");
            done += count;
        }
        assert_eq!(near.write_parts(core::iter::empty()).await, Ok(0));
        near.finish();
    });
    let read = lab.run(async move { read_all(&far).await });
    assert!(read.unwrap() == pattern(5, 400_000));
}

#[test]
fn quiet_connections_stay() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    lab.pass(Duration::from_secs(3600));
    lab.run(async move { near.write_all(b"still there").await })
        .unwrap();
    let mut read = [0; 11];
    let read = lab.run(async move { far.read_exact(&mut read).await.map(|()| read) });
    assert_eq!(&read.unwrap(), b"still there");
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let lab = Lab::with(fixed(1), fixed(2), [plain_link(1), plain_link(2)]);
    lab.serve_echo(7, ListenOptions::default());
    for turn in 0..1000 {
        let stream = lab.connect("10.0.0.1:7").unwrap_or_else(|error| {
            panic!("connection {turn}: {error}, {:?}", lab.server.counters());
        });
        lab.run(async move {
            stream.write_all(b"0123456789").await.unwrap();
            let mut read = [0; 10];
            stream.read_exact(&mut read).await.unwrap();
            // Both orders of closing, and neither.
            match turn % 3 {
                0 => stream.finish(),
                1 => stream.abort(),
                _ => {}
            }
        });
    }
    lab.pass(Duration::from_secs(60));
    for stack in [&lab.server, &lab.client] {
        let counters = stack.counters();
        assert_eq!((counters.sockets, counters.half_open), (0, 0));
    }
    assert_eq!(lab.server.counters().accepted, 1000);
    assert_eq!(lab.client.counters().connected, 1000);
}

#[test]
fn a_reply_carries_the_acknowledgement() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    lab.pass(Duration::from_secs(1));
    let sent = lab.server.counters().frames_sent;
    let ends = (far.clone(), near.clone());
    lab.run(async move {
        let ((far, near), mut byte) = (ends, [0]);
        near.write(b"x").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        far.write(b"y").await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
    });
    assert_eq!(lab.server.counters().frames_sent, sent + 1);
}

#[test]
fn bytes_without_a_reply_are_acknowledged_soon() {
    let lab = Lab::new();
    let (_far, near) = lab.pair();
    lab.pass(Duration::from_secs(1));
    let sent = lab.server.counters().frames_sent;
    lab.run(async move { near.write(b"x").await }).unwrap();
    lab.pass(Duration::from_millis(1));
    assert_eq!(lab.server.counters().frames_sent, sent);
    lab.pass(Duration::from_millis(3));
    assert_eq!(lab.server.counters().frames_sent, sent + 1);
}
