//! Links that lose, repeat and delay, and peers that vanish.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use exec::futures_util::future::join4;
use exec::join_all;
use net::cable::Fate;
use net::inspect::{Role, Seen, Segment, fill_checksum, inspect, sent};
use net::{ListenOptions, NetError, Stream};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
};
use world::LinkInfo;

use crate::lab::{Dice, LATENCY, Lab, Neighbour, Wire, fixed, pattern, plain_link, read_all};

/// Both ends of a connection that has carried some bytes there and back.
fn warm_pair(lab: &Lab) -> (Wire, Wire) {
    let (far, near) = lab.pair();
    let ends = (far.clone(), near.clone());
    lab.run(async move {
        let ((far, near), mut bytes) = (ends, [0; 100]);
        for _ in 0..5 {
            near.write_all(&[1; 100]).await.unwrap();
            far.read_exact(&mut bytes).await.unwrap();
            far.write_all(&[2; 100]).await.unwrap();
            near.read_exact(&mut bytes).await.unwrap();
        }
    });
    (far, near)
}

#[test]
fn a_lost_end_is_sent_again_soon() {
    let lab = Lab::new();
    let (far, near) = warm_pair(&lab);
    let is_lost = Cell::new(false);
    lab.decide(move |passing| {
        let is_first = passing.from == 0 && passing.bytes.len() > 100 && !is_lost.replace(true);
        is_first.then_some(Fate::Drop)
    });
    let (start, ends) = (lab.exec.now(), (far.clone(), near.clone()));
    lab.run(async move {
        let (far, near) = ends;
        far.write_all(&[3; 100]).await.unwrap();
        near.read_exact(&mut [0; 100]).await.unwrap();
    });
    let took = lab.exec.now() - start;
    assert!(
        took > Duration::from_millis(50),
        "nothing was lost: {took:?}"
    );
    assert!(took < Duration::from_millis(100), "{took:?}");
    let retransmissions = [&lab.client, &lab.server].map(|stack| stack.counters().retransmissions);
    assert_eq!(retransmissions.iter().sum::<u64>(), 1);
}

#[test]
fn an_outage_ends_soon_after_the_link_is_back() {
    let lab = Lab::new();
    let (far, near) = warm_pair(&lab);
    lab.cut();
    let reply = far.clone();
    lab.run(async move { reply.write_all(&[3; 100_000]).await.unwrap() });
    lab.pass(Duration::from_secs(50));
    lab.decide(|_| None);
    let start = lab.exec.now();
    let reader = near.clone();
    lab.run(async move { reader.read_exact(&mut [0; 100_000]).await.unwrap() });
    let took = lab.exec.now() - start;
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_peer_that_waits_before_it_acknowledges_is_not_sent_everything_twice() {
    let lab = Lab::new();
    let (far, near) = warm_pair(&lab);
    // As peers do that wait for something the acknowledgement can ride on.
    lab.decide(|passing| (passing.from == 1).then_some(Fate::Delay(Duration::from_millis(40))));
    let sent = lab.server.counters().frames_sent;
    let ends = (far.clone(), near.clone());
    lab.run(async move {
        let (far, near) = ends;
        for _ in 0..10 {
            far.write_all(&[3; 100]).await.unwrap();
            near.read_exact(&mut [0; 100]).await.unwrap();
        }
    });
    lab.pass(Duration::from_secs(1));
    assert!(lab.server.counters().frames_sent - sent <= 11);
}

#[test]
fn bytes_survive_loss_repetition_and_delay() {
    for seed in 0..4 {
        let lab = Lab::new();
        let (far, near) = lab.pair();
        let dice = Dice::new(seed);
        lab.decide(move |_| match dice.roll(100) {
            0..5 => Some(Fate::Drop),
            5..7 => Some(Fate::Duplicate),
            7..10 => Some(Fate::Delay(LATENCY * 20)),
            _ => None,
        });
        let (forth, back) = (pattern(seed, 1 << 20), pattern(seed + 100, 1 << 20));
        let (forth_sent, back_sent) = (forth.clone(), back.clone());
        let (near_writer, far_writer) = (near.clone(), far.clone());
        let (read_forth, read_back, (), ()) = lab.run(async move {
            join4(
                read_all(&far),
                read_all(&near),
                async move {
                    near_writer.write_all(&forth_sent).await.unwrap();
                    near_writer.finish();
                },
                async move {
                    far_writer.write_all(&back_sent).await.unwrap();
                    far_writer.finish();
                },
            )
            .await
        });
        assert!(read_forth.unwrap() == forth, "seed {seed}");
        assert!(read_back.unwrap() == back, "seed {seed}");
    }
}

#[test]
fn connecting_survives_loss() {
    let lab = Lab::new();
    lab.serve_echo(7, ListenOptions::default());
    let dice = Dice::new(9);
    lab.decide(move |_| (dice.roll(100) < 20).then_some(Fate::Drop));
    let (client, to) = (lab.client.clone(), "10.0.0.1:7".parse().unwrap());
    let attempts = join_all((0..64).map(move |_| {
        let client = client.clone();
        async move { client.connect(to).await.map(drop) }
    }));
    let made = lab.run(attempts).iter().filter(|made| made.is_ok()).count();
    assert!(made > 55, "only {made} of 64");
    lab.decide(|_| None);
    lab.pass(Duration::from_secs(120));
    assert_eq!(lab.server.counters().sockets, 0);
    assert_eq!(lab.client.counters().sockets, 0);
}

#[test]
fn a_dead_peer_is_dropped() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    lab.cut();
    let start = lab.now();
    let read = lab.run(async move { far.read(&mut [0]).await });
    assert_eq!(read, Err(NetError::TimedOut));
    let took = lab.now() - start;
    assert!(took >= Duration::from_secs(60), "{took:?}");
    assert!(took <= Duration::from_secs(90), "{took:?}");
    drop(near);
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.server.counters().sockets, 0);
    assert_eq!(lab.client.counters().sockets, 0);
}

#[test]
fn a_dead_peer_is_dropped_while_writing() {
    let lab = Lab::new();
    let (far, _near) = lab.pair();
    lab.cut();
    let start = lab.now();
    let written = lab.run(async move { far.write_all(&pattern(1, 1 << 20)).await });
    assert_eq!(written, Err(NetError::TimedOut));
    let took = lab.now() - start;
    assert!(took <= Duration::from_secs(90), "{took:?}");
}

#[test]
fn half_open_connections_are_bounded_and_time_out() {
    let lab = Lab::new();
    let options = ListenOptions {
        half_open_max: 4,
        ..ListenOptions::default()
    };
    lab.serve_echo(7, options);
    drop(lab.connect("10.0.0.1:7").unwrap());
    lab.pass(Duration::from_secs(30));
    // The client hears nothing any more.
    lab.decide(|passing| (passing.from == 0).then_some(Fate::Drop));
    for _ in 0..10 {
        let (client, to) = (lab.client.clone(), "10.0.0.1:7".parse().unwrap());
        lab.exec.spawn(async move {
            assert!(client.connect(to).await.is_err());
        });
    }
    lab.pass(Duration::from_millis(100));
    let counters = lab.server.counters();
    assert_eq!(
        (counters.half_open, counters.sockets, counters.refused),
        (4, 4, 6)
    );
    lab.pass(Duration::from_secs(60));
    let counters = lab.server.counters();
    assert_eq!((counters.half_open, counters.sockets), (0, 0));
    // And the port works as before.
    lab.decide(|_| None);
    assert!(lab.connect("10.0.0.1:7").is_ok());
}

#[test]
fn a_repeated_opening_makes_one_connection() {
    let lab = Lab::new();
    lab.serve_echo(7, ListenOptions::default());
    let openings = Rc::new(Cell::new(0));
    let count = openings.clone();
    lab.decide(move |passing| match inspect(passing.bytes) {
        Seen::Tcp(segment) if segment.role == Role::Open => {
            count.set(count.get() + 1);
            Some(Fate::Duplicate)
        }
        _ => None,
    });
    let stream = lab.connect("10.0.0.1:7").unwrap();
    lab.pass(Duration::from_secs(30));
    assert_eq!(openings.get(), 1);
    let counters = lab.server.counters();
    assert_eq!((counters.accepted, counters.sockets), (1, 1));
    drop(stream);
}

#[test]
fn a_late_opening_does_not_take_a_connection_over() {
    let opening: Rc<RefCell<Vec<u8>>> = Rc::default();
    let is_due = Rc::new(Cell::new(false));
    let (repeated, due) = (opening.clone(), is_due.clone());
    let neighbour: Neighbour = Box::new(move |_| due.take().then(|| repeated.borrow().clone()));
    let lab = Lab::with_neighbour(fixed(1), neighbour);
    lab.serve_echo(7, ListenOptions::default());
    let first = lab.connect("10.0.0.1:7").unwrap();
    lab.decide(move |passing| {
        if let Seen::Tcp(Segment {
            role: Role::Open, ..
        }) = inspect(passing.bytes)
        {
            *opening.borrow_mut() = passing.bytes.to_vec();
        }
        None
    });
    let second = lab.connect("10.0.0.1:7").unwrap();
    lab.decide(|_| None);
    // The first one's place is free again when the second one's opening comes once more.
    first.abort();
    lab.pass(Duration::from_secs(1));
    is_due.set(true);
    let echoed = lab.run(async move {
        for _ in 0..3 {
            second.write_all(b"ping").await?;
            second.read_exact(&mut [0; 4]).await?;
        }
        Ok::<(), NetError>(())
    });
    assert_eq!(echoed, Ok(()));
    let counters = lab.server.counters();
    assert_eq!((counters.accepted, counters.half_open), (2, 0));
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.server.counters().sockets, 0);
}

/// A client whose segments come a second time, with some bytes of the TCP header changed and the checksum right.
fn talk_among_forgeries(seed: u64, to: &'static str) {
    let last: Rc<RefCell<Vec<u8>>> = Rc::default();
    let (kept, forged, dice) = (last.clone(), last, Dice::new(seed));
    let neighbour: Neighbour = Box::new(move |_| {
        let mut bytes = forged.borrow().clone();
        let header = if bytes.get(12) == Some(&8) { 34 } else { 54 };
        for _ in 0..=dice.roll(3) {
            let at = header + dice.roll(40) as usize;
            *bytes.get_mut(at)? = dice.roll(256) as u8;
        }
        fill_checksum(&mut bytes);
        Some(bytes)
    });
    let lab = Lab::with_neighbour(fixed(1), neighbour);
    lab.serve_echo(7, ListenOptions::default());
    lab.decide(move |passing| {
        if passing.from == 1 && sent(passing.bytes).is_some() {
            *kept.borrow_mut() = passing.bytes.to_vec();
        }
        None
    });
    let (client, exec) = (lab.client.clone(), lab.exec.clone());
    lab.exec.spawn(async move {
        for _ in 0..20 {
            // Forgeries may reset it or fill it with other bytes; what matters is that both ends go on.
            let talk = async {
                let stream = client.connect(to.parse().unwrap()).await?;
                stream.write_all(&pattern(seed, 3000)).await?;
                stream.read_exact(&mut [0; 3000]).await?;
                stream.finish();
                read_all(&stream).await
            };
            let _ = exec.timeout(Duration::from_secs(30), talk).await;
        }
    });
    lab.pass(Duration::from_secs(1200));
    assert_eq!(lab.server.counters().half_open, 0);
    assert_eq!(lab.server.counters().sockets, 0);
}

#[test]
fn no_segment_brings_the_stack_down() {
    for seed in 0..30 {
        talk_among_forgeries(seed, "10.0.0.1:7");
        talk_among_forgeries(seed, "[fd00::1]:7");
    }
}

/// What a greedy peer answers to a SYN-ACK: bytes past the end of a receive buffer of 128 KiB.
fn overshoot(syn_ack: &[u8]) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let frame = EthernetFrame::new_checked(syn_ack).ok()?;
    let ip = Ipv4Repr::parse(&Ipv4Packet::new_checked(frame.payload()).ok()?, &checksums).ok()?;
    let (us, peer) = (ip.src_addr.into(), ip.dst_addr.into());
    let tcp = TcpPacket::new_checked(frame.payload().get(20..)?).ok()?;
    let tcp = TcpRepr::parse(&tcp, &us, &peer, &checksums).ok()?;
    if tcp.control != TcpControl::Syn {
        return None;
    }
    let answer = TcpRepr {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        control: TcpControl::None,
        seq_number: tcp.ack_number? + 200_000,
        ack_number: Some(tcp.seq_number + 1),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        payload: &[7; 1000],
        ..tcp
    };
    let header = Ipv4Repr {
        src_addr: ip.dst_addr,
        dst_addr: ip.src_addr,
        payload_len: answer.buffer_len(),
        ..ip
    };
    let mut bytes = vec![0; 34 + answer.buffer_len()];
    let mut out = EthernetFrame::new_unchecked(&mut bytes);
    out.set_dst_addr(frame.src_addr());
    out.set_src_addr(frame.dst_addr());
    out.set_ethertype(EthernetProtocol::Ipv4);
    header.emit(
        &mut Ipv4Packet::new_unchecked(out.payload_mut()),
        &checksums,
    );
    let segment = &mut TcpPacket::new_unchecked(&mut out.payload_mut()[20..]);
    answer.emit(segment, &peer, &us, &checksums);
    Some(bytes)
}

#[test]
fn bytes_past_the_window_are_left_out() {
    let overshot = Rc::new(Cell::new(0));
    let count = overshot.clone();
    let neighbour: Neighbour = Box::new(move |bytes| {
        let answer = overshoot(bytes);
        count.set(count.get() + u32::from(answer.is_some()));
        answer
    });
    let lab = Lab::with_neighbour(fixed(1), neighbour);
    lab.serve_echo(7, ListenOptions::default());
    let near = lab.connect("10.0.0.1:7").unwrap();
    let back = lab.run(async move {
        near.write_all(b"ping").await.unwrap();
        near.finish();
        read_all(&near).await
    });
    assert_eq!(back.unwrap(), b"ping");
    assert_eq!(overshot.get(), 1);
}

#[test]
fn a_full_link_only_delays() {
    // 128 KiB are under way at once in 364 frames, and the cable holds 256: the sender has to wait for it.
    let links = [1, 2].map(|host| LinkInfo {
        mtu: 400,
        ..plain_link(host)
    });
    let lab = Lab::with(fixed(1), fixed(2), links);
    let (far, near) = lab.pair();
    lab.decide(|_| Some(Fate::Delay(Duration::from_millis(5))));
    let bytes = pattern(8, 1 << 20);
    let sent = bytes.clone();
    lab.exec.spawn(async move {
        near.write_all(&sent).await.unwrap();
    });
    let read = lab.run(async move { read_all(&far).await });
    assert!(read.unwrap() == bytes);
}
