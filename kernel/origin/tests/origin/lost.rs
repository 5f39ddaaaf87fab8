//! Servers that stall, go away, and come back, the same or not.

use std::time::Duration;

use exec::join_all;
use origin::{NbdOrigins, Patience};
use volume::{OriginError, Origins};
use wire::nbd::{NBD_OPT_GO, NBD_REP_ERR_UNKNOWN};

use crate::fake::{Act, Fake, Knows, option_reply};
use crate::{address, dirty, extents, open, read_well, story};

const SECOND: Duration = Duration::from_secs(1);

/// The first connection ends after so many bytes, whichever they are; what was open goes on by another one.
#[test]
fn a_connection_may_end_anywhere() {
    for knows in [Knows::ALL, Knows::STRUCTURED, Knows::SIMPLE] {
        let knows = Knows {
            size: 8192,
            ..knows
        };
        let mut opened = None;
        for cut in 0.. {
            let (whole, took) = cut_after(knows, cut);
            assert!(took < SECOND, "it waited for nothing: {took:?}");
            match whole {
                None => assert_eq!(opened, None, "open after {opened:?}, not after {cut}"),
                Some(2) => {
                    opened.get_or_insert(cut);
                }
                Some(connections) => {
                    assert_eq!(connections, 1);
                    assert!(cut > 8192, "{cut} bytes are not all");
                    break;
                }
            }
        }
        assert!(opened.is_some_and(|bytes| bytes > 18), "{opened:?}");
    }
}

/// How many connections it took to read all when the first one ends after so many bytes, or `None` when it could not be
/// opened then; and how long it took.
fn cut_after(knows: Knows, cut: usize) -> (Option<usize>, Duration) {
    let connections = std::rc::Rc::new(std::cell::Cell::new(None));
    let out = connections.clone();
    let took = story(async move |bench| {
        let fake = Fake::new(&bench.exec, knows);
        fake.cut_after.set(Some(cut));
        let origin = match open(&bench, &fake).await {
            Ok(origin) => {
                out.set(Some(0));
                origin
            }
            Err(error) => {
                assert_eq!(error, OriginError::Unreachable, "{cut}");
                open(&bench, &fake).await.expect("the second time")
            }
        };
        read_well(&*origin, 0, 2).await;
        let told = extents(&*origin, 0, 8192).await;
        assert_eq!(told, Ok(vec![(8192, false)]), "{cut}");
        if out.get().is_some() {
            out.set(Some(fake.dialled.get()));
        }
    });
    (connections.get(), took)
}

#[test]
fn all_that_was_under_way_is_asked_again() {
    for knows in [Knows::ALL, Knows::STRUCTURED, Knows::SIMPLE] {
        story(async move |bench| {
            // Three are answered on each connection.
            let fake = Fake::new(&bench.exec, knows).scripted(|asked| match asked.request.cookie {
                1..=3 => Act::Say(asked.honestly()),
                _ => Act::SayAndClose(asked.honestly()[..99].to_vec()),
            });
            let origin = open(&bench, &fake).await.expect("an origin");
            let reads = (0..16).map(|index| read_well(&*origin, index * 65536, 16));
            join_all(reads).await;
            assert_eq!(fake.dialled.get(), 6);
        });
    }
}

#[test]
fn silence_is_borne_for_ten_seconds_and_then_another_connection_is_made() {
    let took = story(async |bench| {
        let fake = Fake::new(&bench.exec, Knows::ALL).scripted(|asked| match asked.connection {
            0 => Act::Nothing,
            _ => Act::Say(asked.honestly()),
        });
        let origin = open(&bench, &fake).await.expect("an origin");
        // While nobody asks, it may be silent.
        bench.exec.sleep(1000 * SECOND).await;
        assert_eq!(fake.dialled.get(), 1);
        let reads = (0..4).map(|index| read_well(&*origin, index * 4096, 1));
        join_all(reads).await;
        assert_eq!(fake.dialled.get(), 2);
    });
    assert!(took >= 1010 * SECOND && took < 1011 * SECOND, "{took:?}");
}

#[test]
fn a_slow_server_is_waited_for() {
    let took = story(async |bench| {
        // 9 s for each of three parts of the answer.
        let fake = Fake::new(&bench.exec, Knows::STRUCTURED).scripted(|asked| {
            let answer = asked.honestly();
            Act::SayLater(9 * SECOND, answer)
        });
        let origin = open(&bench, &fake).await.expect("an origin");
        read_well(&*origin, 0, 32).await;
        assert_eq!(fake.dialled.get(), 1);
    });
    assert_eq!(took, 9 * SECOND);
}

#[test]
fn whatever_it_does_a_request_ends_in_time() {
    let silent: fn() -> Act = || Act::Nothing;
    let dripping: fn() -> Act = || Act::Drip(9 * SECOND, vec![0x67, 0x44, 0x66, 0x98, 0, 0]);
    let closing: fn() -> Act = || Act::SayAndClose(Vec::new());
    for (act, connections) in [(silent, 3..=4), (dripping, 1..=2), (closing, 8..=12)] {
        for request in [Duration::from_secs(30), Duration::from_secs(3)] {
            let connections = connections.clone();
            let took = story(async move |bench| {
                let fake = Fake::new(&bench.exec, Knows::STRUCTURED).scripted(move |_| act());
                let patience = Patience {
                    request,
                    ..Patience::default()
                };
                let origins = NbdOrigins::new(bench.exec.clone(), fake.clone());
                let origins = origins.with_patience(patience);
                let origin = origins.open(&address("demo")).await.expect("an origin");
                let reads = (0..40).map(|index| origin.read(index * 4096, dirty(1)));
                for read in join_all(reads).await {
                    assert_eq!(read.err(), Some(OriginError::Unreachable));
                }
                if request.as_secs() == 30 {
                    let dialled = fake.dialled.get();
                    assert!(connections.contains(&dialled), "{dialled} connections");
                }
            });
            assert_eq!(took, request);
        }
    }
}

/// Bytes that never make an answer do not keep a connection for good.
#[test]
fn a_dripping_server_is_left_for_another_connection() {
    story(async |bench| {
        let fake =
            Fake::new(&bench.exec, Knows::STRUCTURED).scripted(|asked| match asked.connection {
                0 => Act::Drip(9 * SECOND, asked.honestly()),
                _ => Act::Say(asked.honestly()),
            });
        let origin = open(&bench, &fake).await.expect("an origin");
        let read = origin.read(0, dirty(1)).await;
        assert_eq!(read.err(), Some(OriginError::Unreachable));
        bench.exec.sleep(SECOND).await;
        read_well(&*origin, 0, 32).await;
        assert_eq!(fake.dialled.get(), 2);
    });
}

#[test]
fn who_is_away_is_called_now_and_then_and_found_again() {
    story(async |bench| {
        let fake = Fake::new(&bench.exec, Knows::ALL);
        fake.is_away.set(true);
        let refused = open(&bench, &fake).await.err();
        assert_eq!(refused, Some(OriginError::Unreachable));
        fake.is_away.set(false);
        let origin = open(&bench, &fake).await.expect("an origin");
        read_well(&*origin, 0, 1).await;
        // It goes: the connection ends, and nobody is there.
        let going = Fake::new(&bench.exec, Knows::ALL).scripted(|_| Act::SayAndClose(vec![]));
        let left = open(&bench, &going).await.expect("an origin");
        going.is_away.set(true);
        let before = going.dialled.get();
        let read = left.read(0, dirty(1)).await;
        assert_eq!(read.err(), Some(OriginError::Unreachable));
        let dialled = going.dialled.get() - before;
        assert!((5..=12).contains(&dialled), "{dialled} calls in 30 s");
        let (exec, back) = (bench.exec.clone(), going.clone());
        bench.exec.spawn(async move {
            exec.sleep(20 * SECOND).await;
            back.becomes(Knows {
                size: 1 << 21,
                ..Knows::ALL
            });
            back.is_away.set(false);
        });
        // It comes back as another one.
        let read = left.read(0, dirty(1)).await;
        assert_eq!(read.err(), Some(OriginError::Size(1 << 21)));
        going.becomes(Knows::ALL);
        bench.exec.sleep(SECOND).await;
        let read = left.read(0, dirty(1)).await;
        assert_eq!(read.err(), Some(OriginError::Unreachable));
    });
}

#[test]
fn a_server_that_comes_back_with_less_is_read_on() {
    for knows in [
        Knows::STRUCTURED,
        Knows::SIMPLE,
        Knows {
            sizes: Some((65536, 65536)),
            ..Knows::STRUCTURED
        },
    ] {
        story(async move |bench| {
            let fake =
                Fake::new(&bench.exec, Knows::ALL).scripted(|asked| match asked.connection {
                    0 => Act::SayAndClose(vec![]),
                    _ => Act::Say(asked.honestly()),
                });
            let origin = open(&bench, &fake).await.expect("an origin");
            fake.becomes(knows);
            // What was cut for the old terms may fail once, but not badly.
            let first = extents(&*origin, 4096, 8192).await;
            assert_eq!(first, Ok(vec![(8192, false)]));
            if let Err(error) = origin.read(4096, dirty(8)).await {
                assert!(error.may_pass(), "{error}");
            }
            read_well(&*origin, 4096, 8).await;
            assert_eq!(fake.dialled.get(), 2);
        });
    }
}

/// Many wait, and all hear of it, but the server is not asked by each.
#[test]
fn a_refusal_is_for_all_who_wait() {
    let took = story(async |bench| {
        let fake = Fake::new(&bench.exec, Knows::ALL)
            .scripted(|_| Act::SayAndClose(vec![]))
            .with_options(|connection, option| match (connection, option) {
                (1.., NBD_OPT_GO) => Some(option_reply(option, NBD_REP_ERR_UNKNOWN, &[])),
                _ => None,
            });
        let origin = open(&bench, &fake).await.expect("an origin");
        for round in 1..10 {
            let reads = (0..20).map(|index| origin.read(index * 4096, dirty(1)));
            for read in join_all(reads).await {
                assert_eq!(read.err(), Some(OriginError::NoExport));
            }
            assert!(fake.dialled.get() <= 1 + 2 * round, "asked too often");
            bench.exec.sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(took > SECOND, "asked too fast");
}

#[test]
fn names_are_not_looked_up() {
    story(async |bench| {
        let fake = Fake::new(&bench.exec, Knows::ALL);
        let origins = NbdOrigins::new(bench.exec.clone(), fake.clone());
        let volume::OriginAddress::Nbd { port, export, .. } = address("demo") else {
            panic!("an export of NBD");
        };
        let host = "nas".to_owned();
        let named = volume::OriginAddress::Nbd { host, port, export };
        let refused = origins.open(&named).await.err();
        assert_eq!(refused, Some(OriginError::NoAddress));
        assert_eq!(fake.dialled.get(), 0);
    });
}

#[test]
fn a_handshake_that_stalls_is_given_up() {
    let took = story(async |bench| {
        let fake = Fake::new(&bench.exec, Knows::ALL).with_options(|_, _| Some(Vec::new()));
        let refused = open(&bench, &fake).await.err();
        assert_eq!(refused, Some(OriginError::Unreachable));
    });
    assert_eq!(took, 10 * SECOND);
}
