//! How much is taken on, and for how long.

use net::pipe::Pipe;
use net::{Listener, Stream};
use peer::{CHANNELS_MAX, HALF_OPEN_MAX, HANDSHAKE_TIME, PeerError};

use crate::{SECOND, Town};

/// How many bytes came before the other side ended the connection; `None` when it did not, within this time.
async fn ends(exec: exec::Exec, stream: Pipe, within: std::time::Duration) -> Option<usize> {
    let read = async {
        let mut all = 0;
        while let Ok(count @ 1..) = stream.read(&mut [0; 99]).await {
            all += count;
        }
        all
    };
    exec.timeout(within, read).await.ok()
}

#[test]
fn silence_in_a_handshake_is_borne_for_ten_seconds() {
    let town = Town::new();
    let [a, b] = town.pair();
    for said in [
        &b""[..],
        b"ferrite",
        b"ferrite\x01\x02",
        b"ferrite\x01\x01\0\x30",
        b"ferrite\x01\x02\0\x60\xff",
    ] {
        let (network, to, exec) = (town.network.clone(), b.address, town.bench.exec.clone());
        let start = exec.now();
        let ended = async move {
            let stream = network.dial(to);
            stream.write_all(said).await.expect("room");
            ends(exec, stream, 100 * SECOND).await
        };
        assert_eq!(town.bench.run(ended), Some(0));
        assert_eq!(town.bench.exec.now().since(start), HANDSHAKE_TIME);
    }
    // And on the side that connects.
    let silent = town.network.listen(b.address);
    let exec = town.bench.exec.clone();
    town.bench.exec.spawn(async move {
        let _stream = silent.accept().await;
        exec.sleep(100 * SECOND).await;
    });
    let start = town.bench.exec.now();
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::TimedOut));
    assert_eq!(town.bench.exec.now().since(start), HANDSHAKE_TIME);
    let nowhere = town.appliance("c", 1003);
    town.paired(&a, &nowhere);
    let gone = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let peers = a.peers.clone();
    let moved = async move { peers.set_address("c", gone).await };
    assert!(town.bench.run(moved).is_ok());
    assert_eq!(town.link(&a, "c").err(), Some(PeerError::Unreachable));
}

#[test]
fn nonsense_is_ended_at_once_and_without_an_answer() {
    let town = Town::new();
    let [_, b] = town.pair();
    let nonsense: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"ferrite\x02\x01",
        b"ferrite\x01\x03",
        b"ferrite\x01\x01\xff\xff",
        b"ferrite\x01\x01\0\0",
        b"ferrite\x01\x02\0\x5f",
        &[b"ferrite\x01\x02\0\x60", &[9; 96][..]].concat(),
    ];
    for said in nonsense.map(<[u8]>::to_vec) {
        let (network, to, exec) = (town.network.clone(), b.address, town.bench.exec.clone());
        let ended = async move {
            let stream = network.dial(to);
            stream.write_all(&said).await.expect("room");
            ends(exec, stream, SECOND).await
        };
        assert_eq!(town.bench.run(ended), Some(0));
    }
}

/// Four from one address may be in a handshake; here all are from one. Further ones are ended at once.
#[test]
fn those_at_the_door_are_counted() {
    let town = Town::new();
    let [a, b] = town.pair();
    let (network, to, exec) = (town.network.clone(), b.address, town.bench.exec.clone());
    let (waiting, _kept) = town.bench.run(async move {
        let mut waiting = 0;
        let mut kept = Vec::new();
        for _ in 0..HALF_OPEN_MAX {
            let stream = network.dial(to);
            let end = ends(exec.clone(), stream.clone(), SECOND / 100).await;
            waiting += u32::from(end.is_none());
            kept.push(stream);
        }
        (waiting, kept)
    });
    assert_eq!(waiting, 4);
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::Refused));
    town.pass(HANDSHAKE_TIME);
    town.linked(&a, &b);
}

#[test]
fn channels_are_counted_until_their_handler_is_done() {
    let town = Town::new();
    let [a, b] = town.pair();
    let listener = town.network.listen(b.address);
    let kept = exec::Channel::new(1000);
    let out = kept.clone();
    let serve = b
        .peers
        .clone()
        .serve(listener, move |channel: crate::Channel| {
            let out = out.clone();
            async move {
                let _ = out.try_send(channel.clone());
                let _ = channel.receive(&mut [0; 9]).await;
            }
        });
    town.bench.exec.spawn(serve);
    let mut channels: Vec<_> = (0..CHANNELS_MAX)
        .map(|_| town.link(&a, "b").expect("a channel"))
        .collect();
    let further = town.link(&a, "b").expect("a handshake");
    let ended = async move { further.receive(&mut [0; 9]).await };
    assert_eq!(town.bench.run(ended), Err(PeerError::Lost));
    channels.pop();
    town.pass(SECOND);
    let further = town.link(&a, "b").expect("a channel");
    let waits = town.bench.exec.clone();
    let waits = async move { waits.timeout(SECOND, further.receive(&mut [0; 9])).await };
    assert!(town.bench.run(waits).is_err());
    assert!(kept.try_receive().is_some());
}

#[test]
fn who_has_memory_for_few_channels_takes_few() {
    let town = Town::new();
    let [a, b] = town.pair();
    let listener = town.network.listen(b.address);
    let serve = b.peers.clone();
    let serve = serve.serve_at_most(2, listener, |channel: crate::Channel| async move {
        let _ = channel.receive(&mut [0; 9]).await;
    });
    town.bench.exec.spawn(serve);
    let ends = || {
        let channel = town.link(&a, "b").expect("a handshake");
        let (exec, near) = (town.bench.exec.clone(), channel.clone());
        let ended = async move { exec.timeout(SECOND, near.receive(&mut [0; 9])).await };
        (channel, town.bench.run(ended).is_ok())
    };
    let channels: Vec<_> = (0..2).map(|_| ends()).collect();
    assert!(channels.iter().all(|(_, has_ended)| !has_ended));
    assert!(ends().1, "a third channel");
    drop(channels);
    town.pass(SECOND);
    assert!(!ends().1, "there is room again");
}
