//! Somebody on the way, or at the other end, who is not who they should be.

use std::cell::Cell;
use std::rc::Rc;

use net::{Listener, Stream};
use peer::{HANDSHAKE_TIME, PeerError};

use crate::network::{Fate, Unit, Way};
use crate::{Appliance, SECOND, Town, receive};

const SECRET: &[u8] = b"the quick brown fox jumps over the lazy dog";

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Pairs and speaks; nothing that passes tells anything.
#[test]
fn nothing_can_be_read_on_the_way() {
    let town = Town::new();
    let (a, b) = (
        town.appliance("appliance-a", 1001),
        town.appliance("appliance-b", 1002),
    );
    let token = b.peers.make_token().unwrap().text();
    let (peers, network, to) = (a.peers.clone(), town.network.clone(), b.address);
    let told = token.clone();
    let paired = async move { peers.pair(&network, to, &told).await };
    town.bench.run(paired).expect("a pair");
    let [near, far] = town.linked(&a, &b);
    town.bench.run(async move {
        assert_eq!(near.send(&[SECRET]).await, Ok(()));
        assert_eq!(receive(&far).await, Ok(Some(SECRET.to_vec())));
        assert_eq!(far.send(&[SECRET]).await, Ok(()));
        assert_eq!(receive(&near).await, Ok(Some(SECRET.to_vec())));
    });
    let digits = &token["ferrite_pair_".len()..];
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let psk: Vec<u8> = (0..64).step_by(2).map(byte).collect();
    let seen = town.network.seen.borrow();
    let all: Vec<u8> = seen.iter().flat_map(|unit| unit.bytes.clone()).collect();
    assert!(all.len() > 500);
    for (what, bytes) in [
        ("the token", token.as_bytes()),
        ("its bytes", &psk),
        ("a key", a.peers.key().bytes()),
        ("the other key", b.peers.key().bytes()),
        ("a name", b"appliance-"),
        ("the message", SECRET),
        ("a part of it", &SECRET[10..20]),
    ] {
        assert!(!contains(&all, bytes), "{what} is to be seen");
    }
    // The same again looks different.
    let mut frames: Vec<&Unit> = seen.iter().filter(|unit| unit.bytes.len() > 30).collect();
    frames.sort_by(|one, other| one.bytes.cmp(&other.bytes));
    assert!(frames.windows(2).all(|two| two[0].bytes != two[1].bytes));
}

/// What one connection does to two messages of `a` and one of `b`; who got what, and who heard of what.
fn converse(town: &Town, a: &Appliance, b: &Appliance) -> (Vec<Vec<u8>>, Result<(), PeerError>) {
    while b.opened.try_receive().is_some() {}
    let near = town.link(a, "b");
    let (opened, exec) = (b.opened.clone(), town.bench.exec.clone());
    town.bench.run(async move {
        let near = near.map_err(|error| (Vec::new(), Err(error)));
        let near = match near {
            Ok(near) => near,
            Err(nothing) => return nothing,
        };
        let mut got = Vec::new();
        let sent = async {
            near.send(&[b"one"]).await?;
            near.send(&[b"two"]).await?;
            near.finish().await?;
            let answer = receive(&near).await?;
            assert_eq!(answer, Some(b"three".to_vec()));
            assert_eq!(receive(&near).await?, None);
            Ok(())
        };
        let took = async {
            let opened = exec.timeout(HANDSHAKE_TIME, opened.receive()).await;
            let Ok(Some(far)) = opened else {
                return Err(PeerError::Refused);
            };
            while let Some(message) = receive(&far).await? {
                got.push(message);
            }
            far.send(&[b"three"]).await?;
            far.finish().await
        };
        let (sent, took) = futures_util::future::join(sent, took).await;
        (got, sent.and(took))
    })
}

/// Each byte of everything that passes, once changed: whatever arrives is what was sent, and somebody hears of it.
#[test]
fn a_changed_byte_is_noticed() {
    let town = Town::new();
    let [a, b] = town.pair();
    let whole = town.network.connections.get();
    assert_eq!(converse(&town, &a, &b).1, Ok(()));
    let units = |way| town.network.passed(whole, way);
    let (forth, back) = (units(Way::Forth), units(Way::Back));
    // hello, message, confirmation, one, two, end; message, three, end.
    assert_eq!((forth.len(), back.len()), (6, 3));
    let mut changes = 0;
    for unit in forth.iter().chain(&back) {
        for at in 0..unit.bytes.len() {
            let (way, index) = (unit.way, unit.index);
            town.network.meddle(move |passing| {
                if (passing.way, passing.index) != (way, index) {
                    return Fate::Pass;
                }
                let mut bytes = passing.bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                Fate::Become(bytes)
            });
            let (got, heard) = converse(&town, &a, &b);
            assert!(heard.is_err(), "byte {at} of {way:?} {index}");
            assert!([b"one".to_vec(), b"two".to_vec()].starts_with(&got));
            changes += 1;
        }
    }
    assert!(changes > 250, "{changes}");
    town.network.behave();
    assert_eq!(converse(&town, &a, &b).1, Ok(()));
}

/// Cut off after any byte: an error, never an end.
#[test]
fn a_cut_connection_is_noticed() {
    let town = Town::new();
    let [a, b] = town.pair();
    for index in 0..6 {
        for at in [0, 1, 2, 5] {
            town.network.meddle(move |passing| match passing.way {
                Way::Forth if passing.index == index => {
                    Fate::BecomeAndEnd(passing.bytes[..at].to_vec())
                }
                _ => Fate::Pass,
            });
            let (got, heard) = converse(&town, &a, &b);
            assert!(heard.is_err(), "after {at} bytes of {index}");
            assert_eq!(got.len(), index.saturating_sub(3), "{index}");
        }
    }
}

/// What becomes of a unit, given those that passed before.
type Case = fn(&Unit, &[Unit]) -> Fate;

/// Frames that come twice, in another order, not at all, or in place of one of the other direction.
#[test]
fn frames_come_once_and_in_order() {
    let town = Town::new();
    let [a, b] = town.pair();
    let cases: [(&str, Case); 4] = [
        ("twice", |unit, _| match unit.index {
            3 => Fate::Become(unit.bytes.repeat(2)),
            _ => Fate::Pass,
        }),
        ("swapped", |unit, held| match unit.index {
            3 => Fate::Become(Vec::new()),
            4 => Fate::Become([&unit.bytes[..], &held[3].bytes].concat()),
            _ => Fate::Pass,
        }),
        ("missing", |unit, _| match unit.index {
            3 => Fate::Become(Vec::new()),
            _ => Fate::Pass,
        }),
        ("old", |unit, held| match unit.index {
            4 => Fate::Become(held[2].bytes.clone()),
            _ => Fate::Pass,
        }),
    ];
    for (name, case) in cases {
        let network = town.network.clone();
        town.network.meddle(move |unit| match unit.way {
            Way::Forth => case(unit, &network.passed(unit.connection, Way::Forth)),
            Way::Back => Fate::Pass,
        });
        let (got, heard) = converse(&town, &a, &b);
        assert_eq!(heard, Err(PeerError::Lost), "{name}");
        let expected = usize::from(name == "twice" || name == "old");
        assert_eq!(got.len(), expected, "{name}");
    }
    // What was said is said back to who said it.
    let (network, frame) = (town.network.clone(), Cell::new(0));
    town.network.meddle(move |unit| {
        let own = network.passed(unit.connection, Way::Forth);
        match (unit.way, unit.index) {
            (Way::Back, 1) => {
                frame.set(frame.get() + 1);
                Fate::Become(own[3].bytes.clone())
            }
            _ => Fate::Pass,
        }
    });
    let (got, heard) = converse(&town, &a, &b);
    assert_eq!((got.len(), heard), (2, Err(PeerError::Protocol)));
}

/// All that an initiator said, said again by somebody else, opens no channel.
#[test]
fn a_repeated_handshake_opens_nothing() {
    let town = Town::new();
    let [a, b] = town.pair();
    let connection = town.network.connections.get();
    assert_eq!(converse(&town, &a, &b).1, Ok(()));
    let said = town.network.passed(connection, Way::Forth);
    let paired = town.network.passed(0, Way::Forth);
    assert_eq!(paired.len(), 3);
    for units in [&said[..2], &said[..3], &said, &paired[..2], &paired] {
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.bytes.clone()).collect();
        let (network, to, exec) = (town.network.clone(), b.address, town.bench.exec.clone());
        town.bench.run(async move {
            let stream = network.dial(to);
            stream.write_all(&bytes).await.expect("room");
            let read = async { while let Ok(1..) = stream.read(&mut [0; 99]).await {} };
            let ended = exec.timeout(HANDSHAKE_TIME + SECOND, read).await;
            assert_eq!(ended, Ok(()), "it listens on");
        });
        assert!(b.opened.try_receive().is_none(), "{} units", units.len());
    }
    assert_eq!(b.peers.list().len(), 1);
    assert_eq!(converse(&town, &a, &b).1, Ok(()));
}

/// At the address of a peer there is another appliance, whether it knows this one or not, or one that makes things up.
#[test]
fn another_appliance_is_not_taken_for_the_right_one() {
    let town = Town::new();
    let [a, b] = town.pair();
    let c = town.appliance("c", 1003);
    let direct = |to| {
        let peers = a.peers.clone();
        let set = async move { peers.set_address("b", to).await };
        town.bench.run(set).expect("an address");
    };
    direct(c.address);
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::Refused));
    town.paired(&a, &c);
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::Refused));
    assert!(c.opened.try_receive().is_none());
    // It says something of the right length; of a wrong one; or what the right one said once.
    let connection = town.network.connections.get();
    direct(b.address);
    town.linked(&a, &b);
    let once = town.network.passed(connection, Way::Back)[0].bytes.clone();
    for answer in [
        [0, 48].into_iter().chain([7; 48]).collect(),
        [0, 49].into_iter().chain([7; 49]).collect(),
        once,
    ] {
        let listener = town.network.listen(c.address);
        direct(c.address);
        let answer = Rc::new(answer);
        town.bench.exec.spawn(async move {
            let stream = listener.accept().await;
            let _ = stream.write_all(&answer).await;
            while let Ok(1..) = stream.read(&mut [0; 99]).await {}
        });
        assert_eq!(town.link(&a, "b").err(), Some(PeerError::Protocol));
    }
}
