//! What a channel promises to those who use it.

use std::rc::Rc;

use exec::join_all;
use futures_util::future::join;
use peer::{KEEP_ALIVE, MESSAGE_MAX, PeerError};

use crate::network::{Fate, Way};
use crate::{SECOND, Town, noise, receive};

#[test]
fn messages_arrive_as_they_were_sent_both_ways_at_once() {
    let town = Town::new();
    let [a, b] = town.pair();
    let ends = town.linked(&a, &b);
    let part = 16 << 10;
    let lens = [
        0,
        1,
        part - 1,
        part,
        part + 1,
        2 * part,
        65536,
        65536 + 32,
        MESSAGE_MAX,
    ];
    let send = async move |end: &crate::Channel, seed| {
        for len in lens {
            let bytes = noise(len, seed);
            let (head, tail) = bytes.split_at(len / 3);
            assert_eq!(end.send(&[head, &[], tail]).await, Ok(()));
        }
        assert_eq!(end.finish().await, Ok(()));
        assert_eq!(end.finish().await, Ok(()));
        assert_eq!(end.send(&[b"late"]).await, Err(PeerError::Lost));
    };
    let take = async move |end: &crate::Channel, seed| {
        for len in lens {
            assert!(receive(end).await == Ok(Some(noise(len, seed))), "{len}");
        }
        assert_eq!(receive(end).await, Ok(None));
        assert_eq!(receive(end).await, Ok(None));
    };
    town.bench.run(async move {
        let [near, far] = &ends;
        let forth = join(send(near, 1), take(far, 1));
        let back = join(send(far, 2), take(near, 2));
        join(forth, back).await;
    });
}

#[test]
fn messages_of_many_senders_are_not_mixed() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    town.bench.run(async move {
        let all = (0..20_usize).map(|seed| {
            let near = near.clone();
            async move { near.send(&[&noise(40_000 + seed, seed)]).await }
        });
        let takes = async {
            let mut seen = 0;
            for _ in 0..20 {
                let message = receive(&far).await.unwrap().expect("a message");
                let seed = message.len() - 40_000;
                assert!(message == noise(message.len(), seed));
                seen |= 1 << seed;
            }
            assert_eq!(seen, (1 << 20) - 1);
        };
        join(join_all(all), takes).await;
    });
}

#[test]
fn one_direction_may_end_before_the_other() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    let exec = town.bench.exec.clone();
    town.bench.run(async move {
        assert_eq!(near.finish().await, Ok(()));
        assert_eq!(receive(&far).await, Ok(None));
        for _ in 0..5 {
            exec.sleep(100 * SECOND).await;
            assert_eq!(far.send(&[b"still here"]).await, Ok(()));
            assert_eq!(receive(&near).await, Ok(Some(b"still here".to_vec())));
        }
        assert_eq!(far.finish().await, Ok(()));
        assert_eq!(receive(&near).await, Ok(None));
    });
}

/// Silent, but there: for a day.
#[test]
fn those_who_have_nothing_to_say_stay_connected() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    let exec = town.bench.exec.clone();
    town.bench.run(async move {
        let waits = join(receive(&near), receive(&far));
        let later = async {
            exec.sleep(86_400 * SECOND).await;
            assert_eq!(near.send(&[b"day"]).await, Ok(()));
            assert_eq!(far.send(&[b"night"]).await, Ok(()));
        };
        let ((back, forth), ()) = join(waits, later).await;
        assert_eq!(forth, Ok(Some(b"day".to_vec())));
        assert_eq!(back, Ok(Some(b"night".to_vec())));
    });
    let frames = town.network.passed(1, Way::Forth).len() as u64;
    let expected = 86_400 / KEEP_ALIVE.as_secs();
    assert!(frames <= expected + 10, "{frames} frames, not {expected}");
}

#[test]
fn who_falls_silent_is_given_up() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    town.network.meddle(|_| Fate::Become(Vec::new()));
    let (exec, start) = (town.bench.exec.clone(), town.bench.exec.now());
    town.bench.run(async move {
        let both = join(receive(&near), receive(&far)).await;
        assert_eq!(both, (Err(PeerError::TimedOut), Err(PeerError::TimedOut)));
        assert_eq!(near.send(&[b"x"]).await, Err(PeerError::TimedOut));
        let took = exec.now().since(start);
        assert!(took >= 30 * SECOND && took < 31 * SECOND, "{took:?}");
    });
}

/// Whoever takes nothing is given up, too; what waits to be sent is bounded by the connection.
#[test]
fn who_takes_nothing_is_given_up() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    let (exec, start) = (town.bench.exec.clone(), town.bench.exec.now());
    town.bench.run(async move {
        let mut sent = 0;
        let end = loop {
            match near.send(&[&noise(MESSAGE_MAX, 1)]).await {
                Ok(()) => sent += 1,
                Err(end) => break end,
            }
        };
        assert_eq!(end, PeerError::TimedOut);
        assert!(sent < 10, "{sent} messages are somewhere");
        let took = exec.now().since(start);
        assert!(took >= 30 * SECOND && took < 41 * SECOND, "{took:?}");
        drop(far);
    });
}

#[test]
fn a_connection_that_just_ends_is_an_error() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    town.bench.run(async move {
        assert_eq!(near.send(&[b"last words"]).await, Ok(()));
        drop(near);
        assert_eq!(receive(&far).await, Ok(Some(b"last words".to_vec())));
        assert_eq!(receive(&far).await, Err(PeerError::Lost));
        assert_eq!(receive(&far).await, Err(PeerError::Lost));
    });
    let [near, far] = town.linked(&a, &b);
    town.bench.run(async move {
        near.abort();
        assert_eq!(receive(&far).await, Err(PeerError::Lost));
        assert_eq!(near.send(&[b"x"]).await, Err(PeerError::Lost));
    });
}

#[test]
fn a_message_must_fit() {
    let town = Town::new();
    let [a, b] = town.pair();
    for (len, room, fits) in [(100, 100, true), (101, 100, false), (40_000, 39_999, false)] {
        let [near, far] = town.linked(&a, &b);
        town.bench.run(async move {
            assert_eq!(near.send(&[&noise(len, 1)]).await, Ok(()));
            let mut into = vec![0; room];
            let expected = if fits {
                Ok(Some(len))
            } else {
                Err(PeerError::Protocol)
            };
            assert_eq!(far.receive(&mut into).await, expected);
            let after = near.send(&[b"x"]).await.and(receive(&far).await);
            assert_eq!(after.is_ok(), fits);
        });
    }
}

/// Whoever stops waiting between two messages loses nothing; in a message, the channel.
#[test]
fn who_stops_waiting_finds_the_next_message_whole() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    let exec = town.bench.exec.clone();
    town.bench.run(async move {
        for round in 0..10 {
            let waited = exec.timeout(SECOND / 10, receive(&far)).await;
            assert!(waited.is_err());
            assert_eq!(near.send(&[&noise(10_000, round)]).await, Ok(()));
            assert!(receive(&far).await == Ok(Some(noise(10_000, round))));
        }
        // The sender is stopped in a message that is longer than what the connection holds.
        for _ in 0..2 {
            let long = noise(MESSAGE_MAX, 1);
            let send = async { near.send(&[&long]).await.and(near.send(&[&long]).await) };
            let _ = exec.timeout(SECOND, send).await;
        }
        assert_eq!(near.send(&[b"x"]).await, Err(PeerError::Lost));
        while let Ok(Some(message)) = receive(&far).await {
            assert!(message == noise(MESSAGE_MAX, 1));
        }
        assert_eq!(receive(&far).await, Err(PeerError::Lost));
    });
}

#[test]
fn who_stops_in_a_message_loses_the_channel() {
    let town = Town::new();
    let [a, b] = town.pair();
    let [near, far] = town.linked(&a, &b);
    // Only the first of three frames comes.
    let first = Rc::new(std::cell::Cell::new(true));
    town.network.meddle(move |_| match first.replace(false) {
        true => Fate::Pass,
        false => Fate::Become(Vec::new()),
    });
    let exec = town.bench.exec.clone();
    town.bench.run(async move {
        assert_eq!(near.send(&[&noise(40_000, 1)]).await, Ok(()));
        assert!(exec.timeout(SECOND, receive(&far)).await.is_err());
        assert_eq!(receive(&far).await, Err(PeerError::Lost));
    });
}
