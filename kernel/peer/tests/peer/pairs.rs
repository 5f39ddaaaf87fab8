//! Who becomes a peer, who does not, and who is one no longer.

use std::net::SocketAddr;

use peer::{PEERS_MAX, Peer, PeerError, PeersError, TOKEN_TIME, TOKENS_MAX};

use crate::network::Way;
use crate::{Appliance, SECOND, Town, receive};

fn pair(town: &Town, who: &Appliance, to: SocketAddr, token: &str) -> Result<Peer, PeersError> {
    let (peers, network, token) = (who.peers.clone(), town.network.clone(), token.to_owned());
    let paired = async move { peers.pair(&network, to, &token).await };
    town.bench.run(paired)
}

fn token(of: &Appliance) -> String {
    of.peers.make_token().expect("a token").text()
}

const REFUSED: PeersError = PeersError::Handshake(PeerError::Refused);

#[test]
fn both_know_each_other_afterwards() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [known_by_a, known_by_b] = [&a, &b].map(|one| one.peers.list());
    assert_eq!((known_by_a.len(), known_by_b.len()), (1, 1));
    assert_eq!(known_by_a[0].name, "b");
    assert_eq!(known_by_a[0].key, b.peers.key());
    assert_eq!(known_by_a[0].address, b.address);
    assert!(known_by_a[0].paired_at_nanos > 0);
    assert_eq!(known_by_b[0].name, "a");
    assert_eq!(known_by_b[0].key, a.peers.key());
    assert_eq!(known_by_b[0].address.port(), 1001);
    assert_eq!(a.peers.find("b"), a.peers.find_key(&b.peers.key()));
    assert!(a.peers.find("a").is_none());
    let [near, far] = town.linked(&a, &b);
    assert_eq!(
        (near.peer().name.as_str(), far.peer().name.as_str()),
        ("b", "a")
    );
}

/// Wrong, used, too old, or none at all: the error is the same, and no byte comes back.
#[test]
fn who_has_no_token_hears_nothing() {
    let town = Town::new();
    let (a, b) = (town.appliance("a", 1001), town.appliance("b", 1002));
    let refused = |token: &str| {
        let connection = town.network.connections.get();
        assert_eq!(pair(&town, &a, b.address, token).err(), Some(REFUSED));
        assert!(town.network.passed(connection, Way::Back).is_empty());
    };
    let of_another = token(&a);
    refused(&of_another);
    let good = token(&b);
    refused(&of_another);
    // One digit is another one.
    let last = if good.ends_with('0') { "1" } else { "0" };
    refused(&[&good[..good.len() - 1], last].concat());
    let old = token(&b);
    town.pass(TOKEN_TIME);
    refused(&old);
    refused(&good);
    let good = token(&b);
    assert!(pair(&town, &a, b.address, &good).is_ok());
    refused(&good);
    let bad = pair(&town, &a, b.address, "ferrite_pair_");
    assert_eq!(bad.err(), Some(PeersError::BadToken));
    assert_eq!(b.peers.list().len(), 1);
}

#[test]
fn a_token_that_two_have_is_for_the_first() {
    let town = Town::new();
    let b = town.appliance("b", 1002);
    let (a, c) = (town.appliance("a", 1001), town.appliance("c", 1003));
    let token = token(&b);
    let together = [&a, &c].map(|one| {
        let (peers, network, to) = (one.peers.clone(), town.network.clone(), b.address);
        let token = token.clone();
        async move { peers.pair(&network, to, &token).await }
    });
    let both = town.bench.run(exec::join_all(together));
    assert_eq!(both.iter().filter(|one| one.is_ok()).count(), 1);
    assert!(both.contains(&Err(REFUSED)));
    assert_eq!(b.peers.list().len(), 1);
}

#[test]
fn guesses_are_limited() {
    let town = Town::new();
    let (a, b) = (town.appliance("a", 1001), town.appliance("b", 1002));
    let (wrong, good) = (token(&a), token(&b));
    for _ in 0..10 {
        assert_eq!(pair(&town, &a, b.address, &wrong).err(), Some(REFUSED));
    }
    assert_eq!(pair(&town, &a, b.address, &good).err(), Some(REFUSED));
    // Those who are known are let in meanwhile.
    town.paired(&b, &a);
    town.linked(&a, &b);
    town.pass(10 * SECOND);
    assert!(pair(&town, &a, b.address, &good).is_ok());
}

#[test]
fn there_are_four_tokens_at_a_time() {
    let town = Town::new();
    let b = town.appliance("b", 1002);
    let tokens: Vec<_> = (0..TOKENS_MAX).map(|_| token(&b)).collect();
    assert_eq!(b.peers.make_token().err(), Some(PeersError::TooManyTokens));
    for (number, token) in tokens.iter().enumerate() {
        let other = town.appliance(&format!("c{number}"), 1003 + number as u16);
        assert!(pair(&town, &other, b.address, token).is_ok());
    }
    assert!(b.peers.make_token().is_ok());
}

#[test]
fn names_and_keys_are_for_one() {
    let town = Town::new();
    let [a, b] = town.pair();
    // The appliance itself.
    let own = token(&a);
    assert_eq!(
        pair(&town, &a, a.address, &own).err(),
        Some(PeersError::Itself)
    );
    // The name of the one that pairs, or of its peer.
    let second_b = town.appliance("b", 1003);
    let theirs = token(&second_b);
    for who in [&a, &b] {
        let refused = pair(&town, who, second_b.address, &theirs).err();
        assert_eq!(refused, Some(PeersError::NameTaken));
    }
    // The name of a peer there. The token is not used up by that.
    let second_a = town.appliance("a", 1004);
    let theirs = token(&b);
    let refused = pair(&town, &second_a, b.address, &theirs).err();
    assert_eq!(refused, Some(PeersError::TakenThere));
    assert!(second_a.peers.list().is_empty());
    // Again, by the same name: it may have moved.
    assert!(pair(&town, &a, b.address, &theirs).is_ok());
    assert_eq!((a.peers.list().len(), b.peers.list().len()), (1, 1));
}

#[test]
fn a_key_that_is_known_comes_by_no_other_name() {
    let town = Town::new();
    let (mut bench, a) = (town.bench.clone(), town.appliance("a", 1001));
    bench.disk = crate::RamDisk::default();
    let store = bench.store();
    let b = town.start("b", 1002, store.clone());
    town.paired(&a, &b);
    let renamed = town.start("c", 1003, store);
    assert_eq!(renamed.peers.key(), b.peers.key());
    let theirs = token(&renamed);
    let refused = pair(&town, &a, renamed.address, &theirs).err();
    assert_eq!(refused, Some(PeersError::KnownAlready));
    let theirs = token(&a);
    let refused = pair(&town, &renamed, a.address, &theirs).err();
    assert_eq!(refused, Some(PeersError::TakenThere));
    assert_eq!(a.peers.list()[0].name, "b");
}

#[test]
fn peers_are_bounded() {
    let town = Town::new();
    let a = town.appliance("a", 1001);
    let (mut bench, mut last) = (town.bench.clone(), None);
    for number in 0..=PEERS_MAX {
        bench.disk = crate::RamDisk::default();
        let port = 2000 + number as u16;
        let other = town.appliance(&format!("b{number}"), port);
        let theirs = token(&a);
        last = Some(pair(&town, &other, a.address, &theirs).map(|_| ()));
        // What is not used expires.
        town.pass(TOKEN_TIME);
    }
    assert_eq!(last, Some(Err(PeersError::FailedThere)));
    assert_eq!(a.peers.list().len(), PEERS_MAX);
}

#[test]
fn a_removed_peer_is_a_stranger_at_once() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    let waiting = {
        let (near, far) = (near.clone(), far.clone());
        town.bench.exec.spawn({
            let b = b.peers.clone();
            async move {
                assert_eq!(b.remove("a").await, Ok(()));
                assert_eq!(b.remove("a").await, Err(PeersError::NoPeer));
            }
        });
        async move { futures_util::future::join(receive(&near), receive(&far)).await }
    };
    let ended = town.bench.run(waiting);
    assert_eq!(ended, (Err(PeerError::Lost), Err(PeerError::NotPaired)));
    let connection = town.network.connections.get();
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::Refused));
    assert!(town.network.passed(connection, Way::Back).is_empty());
    assert_eq!(town.link(&b, "a").err(), Some(PeerError::NotPaired));
    let sent = town.bench.run(async move { far.send(&[b"x"]).await });
    assert_eq!(sent, Err(PeerError::NotPaired));
    // And it can be paired again, though the other one still knows it.
    town.paired(&a, &b);
    town.linked(&a, &b);
}

#[test]
fn peers_survive_a_restart() {
    let town = Town::new();
    let a = town.appliance("a", 1001);
    let mut bench = town.bench.clone();
    bench.disk = crate::RamDisk::default();
    let b = town.start("b", 1002, bench.store());
    let c = town.appliance("c", 1003);
    town.paired(&a, &b);
    town.paired(&c, &b);
    let elsewhere = SocketAddr::from(([10, 0, 0, 9], 1003));
    let (peers, key) = (b.peers.clone(), b.peers.key());
    town.bench.run(async move {
        assert!(peers.set_address("c", elsewhere).await.is_ok());
        assert!(peers.set_address("d", elsewhere).await.is_err());
        assert_eq!(peers.remove("a").await, Ok(()));
    });
    let unused = token(&b);
    // The power goes: only what was flushed is there.
    let disk = crate::RamDisk::from(&*bench.disk.durable.borrow());
    let again = bench.clone();
    let store = town.bench.run(async move { again.open(disk).await });
    let b = town.start("b", 1002, store);
    assert_eq!(b.peers.key(), key);
    let names: Vec<_> = b.peers.list().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["c"]);
    assert_eq!(b.peers.list()[0].address, elsewhere);
    town.linked(&c, &b);
    assert_eq!(town.link(&a, "b").err(), Some(PeerError::Refused));
    // Tokens are not kept.
    assert_eq!(pair(&town, &a, b.address, &unused).err(), Some(REFUSED));
}

#[test]
fn a_damaged_key_is_not_replaced() {
    let town = Town::new();
    let mut bench = town.bench.clone();
    bench.disk = crate::RamDisk::default();
    let store = bench.store();
    town.start("b", 1002, store.clone());
    let exec = town.bench.exec.clone();
    let opened = town.bench.run(async move {
        let record = store.record("peer-key").await.unwrap().expect("a key");
        store
            .set_record("peer-key", Some(&record[1..]))
            .await
            .unwrap();
        store.set_record("peer/00", Some(b"what?")).await.unwrap();
        let me = peer::Me {
            name: "b".to_owned(),
            port: 1,
        };
        let dice = std::rc::Rc::new(crate::dice::Dice(std::cell::Cell::new(1)));
        peer::Peers::open(exec, store, dice, me).await.err()
    });
    let damaged = PeersError::Store(store::StoreError::DamagedPool);
    assert_eq!(opened, Some(damaged));
}
