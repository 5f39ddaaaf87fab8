//! Servers of all ages and habits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use exec::join_all;
use volume::OriginError;
use wire::nbd::*;
use world::Pool;

use crate::fake::{Act, Fake, Knows, option_reply};
use crate::{extents, open, read_well, story};

const KIB: u64 = 1 << 10;

#[test]
fn whatever_a_server_knows_it_is_read() {
    let all = [
        Knows::ALL,
        Knows::STRUCTURED,
        Knows::SIMPLE,
        Knows {
            allocation: false,
            ..Knows::ALL
        },
        Knows {
            allocation: false,
            ..Knows::STRUCTURED
        },
        Knows {
            go: false,
            ..Knows::STRUCTURED
        },
        Knows {
            go: false,
            no_zeroes: false,
            ..Knows::SIMPLE
        },
        Knows {
            fixed: false,
            ..Knows::SIMPLE
        },
        Knows {
            fixed: false,
            no_zeroes: false,
            ..Knows::SIMPLE
        },
        Knows {
            sizes: None,
            ..Knows::ALL
        },
    ];
    for knows in all {
        story(async move |bench| {
            let fake = Fake::new(&bench.exec, knows);
            let origin = open(&bench, &fake).await.expect("an origin");
            assert_eq!(origin.size_bytes(), 1 << 20);
            let reads = (0..8).map(|index| read_well(&*origin, index * 128 * KIB, 32));
            join_all(reads).await;
            let told = extents(&*origin, 4 * KIB, 100 * KIB).await.unwrap();
            if knows.allocation && knows.structured && knows.fixed {
                let halves = [
                    (28 * KIB, false),
                    (32 * KIB, true),
                    (32 * KIB, false),
                    (8 * KIB, true),
                ];
                assert_eq!(told, halves, "{knows:?}");
            } else {
                assert_eq!(told, [(100 * KIB, false)], "{knows:?}");
            }
            assert_eq!(fake.dialled.get(), 1, "{knows:?}");
            drop(origin);
            bench.exec.sleep(Duration::from_millis(1)).await;
            assert_eq!(fake.count(NBD_CMD_DISC), 1, "no word at the end");
        });
    }
}

#[test]
fn requests_keep_to_the_servers_units() {
    for (sizes, requests) in [
        // 128 KiB at 4 KiB: of one request, of many, of few large units.
        ((512, 1 << 20), 1),
        ((1, 4096), 32),
        ((512, 512), 256),
        ((512, 100_000), 2),
        ((64 << 10, 64 << 10), 3),
        ((64 << 10, 160 << 10), 2),
    ] {
        for knows in [Knows::STRUCTURED, Knows::SIMPLE] {
            story(async move |bench| {
                let knows = Knows {
                    sizes: Some(sizes),
                    size: (1 << 20) + 1536,
                    ..knows
                };
                let fake = Fake::new(&bench.exec, knows);
                let origin = open(&bench, &fake).await.expect("an origin");
                read_well(&*origin, 4096, 32).await;
                assert_eq!(fake.count(NBD_CMD_READ), requests, "{sizes:?}");
                // Across the end, and beyond.
                read_well(&*origin, (1 << 20) - 8192, 4).await;
                read_well(&*origin, 1 << 21, 2).await;
                let told = extents(&*origin, (1 << 20) - 4096, 1 << 20).await.unwrap();
                if knows.structured {
                    let all = [(4096, true), (1536, false)];
                    // The last unit is not whole, and asked about by itself.
                    let first = if sizes.0 > 512 { &all[..1] } else { &all };
                    assert_eq!(told, first);
                    let last = extents(&*origin, 1 << 20, 4096).await.unwrap();
                    assert_eq!(last, all[1..]);
                }
                let beyond = extents(&*origin, 1 << 21, 4096).await.unwrap();
                assert_eq!(beyond, [(4096, true)]);
            });
        }
    }
}

#[test]
fn a_large_origin_is_listed_in_one_request_if_the_server_knows_long_ones() {
    const SIZE: u64 = 16 << 40;
    for (knows, first) in [(Knows::ALL, SIZE), (Knows::STRUCTURED, 1 << 31)] {
        story(async move |bench| {
            let size = SIZE;
            let fake = Fake::new(&bench.exec, Knows { size, ..knows })
                .scripted(|asked| Act::Say(asked.status(&[(asked.request.len, 3)])));
            let origin = open(&bench, &fake).await.expect("an origin");
            let told = extents(&*origin, 0, SIZE).await.unwrap();
            assert_eq!(told, [(first, true)]);
        });
    }
}

#[test]
fn a_server_that_cannot_list_after_all_has_only_data() {
    for error in [NBD_EINVAL, NBD_ENOTSUP, NBD_EIO] {
        story(async move |bench| {
            let fake = Fake::new(&bench.exec, Knows::ALL)
                .scripted(move |asked| Act::Say(asked.to.error(error).to_vec()));
            let origin = open(&bench, &fake).await.expect("an origin");
            let expected = match error {
                NBD_EIO => Err(OriginError::Failed(5)),
                _ => Ok(vec![(4096, false)]),
            };
            assert_eq!(extents(&*origin, 0, 4096).await, expected);
        });
    }
}

#[test]
fn refusals_say_why() {
    for (reply, expected) in [
        (NBD_REP_ERR_UNKNOWN, OriginError::NoExport),
        (NBD_REP_ERR_TOO_BIG, OriginError::NoExport),
        (NBD_REP_ERR_POLICY, OriginError::Refused),
        (NBD_REP_ERR_TLS_REQD, OriginError::Refused),
        (NBD_REP_ERR_PLATFORM, OriginError::Refused),
        (NBD_REP_ERR_BLOCK_SIZE_REQD, OriginError::Refused),
        (NBD_REP_ERR_SHUTDOWN, OriginError::Unreachable),
        (NBD_REP_ERR_INVALID, OriginError::Protocol),
    ] {
        story(async move |bench| {
            // With TLS required, everything is refused.
            let fake = Fake::new(&bench.exec, Knows::ALL)
                .with_options(move |_, option| Some(option_reply(option, reply, b"no")));
            assert_eq!(
                open(&bench, &fake).await.err(),
                Some(expected),
                "{reply:#x}"
            );
        });
    }
    // The old way has no words for it.
    story(async |bench| {
        let knows = Knows {
            fixed: false,
            ..Knows::SIMPLE
        };
        let fake = Fake::new(&bench.exec, knows);
        fake.cut_after.set(Some(18));
        let refused = open(&bench, &fake).await.err();
        assert_eq!(refused, Some(OriginError::NoExport));
    });
}

#[test]
fn sizes_that_no_volume_can_have_are_refused() {
    for size in [0, 512, 4096 + 1, (1 << 20) - 1, u64::MAX, u64::MAX - 511] {
        story(async move |bench| {
            let sizes = None;
            let knows = Knows {
                size,
                sizes,
                ..Knows::ALL
            };
            let fake = Fake::new(&bench.exec, knows);
            let refused = open(&bench, &fake).await.err();
            assert_eq!(refused, Some(OriginError::Size(size)));
            bench.exec.sleep(Duration::from_millis(1)).await;
            assert_eq!(fake.count(NBD_CMD_DISC), 1);
        });
    }
}

#[test]
fn requests_run_at_once_but_not_too_many() {
    for knows in [Knows::ALL, Knows::SIMPLE] {
        let took = story(async move |bench| {
            let (under_way, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (now, peak, exec) = (under_way, most.clone(), bench.exec.clone());
            let fake = Fake::new(&bench.exec, knows).scripted(move |asked| {
                now.set(now.get() + 1);
                peak.set(peak.get().max(now.get()));
                // The later the request, the sooner its answer.
                let pause = Duration::from_millis(1000 - 10 * (asked.request.cookie % 32));
                let (now, inner) = (now.clone(), exec.clone());
                exec.spawn(async move {
                    inner.sleep(pause).await;
                    now.set(now.get() - 1);
                });
                Act::SayLater(pause, asked.data())
            });
            let origin = open(&bench, &fake).await.expect("an origin");
            let reads = (0..128).map(|index| read_well(&*origin, index * 8192, 2));
            join_all(reads).await;
            assert_eq!(most.get(), origin::REQUESTS_MAX);
        });
        assert!(
            took < Duration::from_secs(5),
            "one after the other: {took:?}"
        );
    }
}

#[test]
fn who_no_longer_waits_is_in_nobodys_way() {
    for knows in [Knows::ALL, Knows::SIMPLE] {
        story(async move |bench| {
            let later = Duration::from_secs(1);
            let fake = Fake::new(&bench.exec, knows)
                .scripted(move |asked| Act::SayLater(later, asked.data()));
            let origin = open(&bench, &fake).await.expect("an origin");
            let pool = Pool::new(64);
            for _ in 0..100 {
                let buf = pool.take(2).await;
                let pause = Duration::from_millis(500);
                let read = bench.exec.timeout(pause, origin.read(8192, buf));
                assert!(read.await.is_err(), "not that soon");
                assert_eq!(pool.available(), 64, "memory is kept for nobody");
            }
            read_well(&*origin, 0, 32).await;
            assert_eq!(fake.dialled.get(), 1);
        });
    }
}
