//! Servers that do not say what they should: named, cut off, nothing damaged, and the next connection works.

use volume::OriginError;
use wire::nbd::*;

use crate::fake::{Act, Asked, Fake, Knows, content, option_reply};
use crate::{dirty, extents, open, read_well, story};

/// A way to answer a request.
type Lie = fn(&Asked) -> Vec<u8>;

const PAGE: u64 = 4096;
/// Where the reads are that are lied about.
const AT: u64 = 8 * PAGE;
/// Their length.
const LEN: u64 = 4 * PAGE;

/// Can be told with extended headers only.
const EXTENDED: &str = "another request's offset";
/// Can be told without them only.
const COMPACT: &str = "a simple success";

/// Lies about a READ in chunks.
const IN_CHUNKS: [(&str, Lie); 23] = [
    ("nothing", |asked| asked.to.none().to_vec()),
    ("too little", |asked| asked.chunk(true, AT, LEN - 512)),
    ("a gap", |asked| {
        let first = asked.chunk(false, AT, PAGE);
        [first, asked.chunk(true, AT + 2 * PAGE, 2 * PAGE)].concat()
    }),
    ("too much", |asked| asked.chunk(true, AT, LEN + 1)),
    ("too early", |asked| asked.chunk(true, AT - 1, LEN)),
    ("elsewhere", |asked| asked.chunk(true, AT + LEN, LEN)),
    ("far away", |asked| {
        let mut bytes = asked.to.data(true, u64::MAX - 10, LEN as u32).to_vec();
        bytes.extend(content(0, LEN));
        bytes
    }),
    ("twice", |asked| {
        let all = asked.chunk(false, AT, LEN);
        [all, asked.chunk(true, AT, LEN)].concat()
    }),
    ("an overlap", |asked| {
        let first = asked.chunk(false, AT, 2 * PAGE);
        [first, asked.chunk(true, AT + PAGE, 3 * PAGE)].concat()
    }),
    ("an empty chunk", |asked| {
        asked.to.data(false, AT, 0).to_vec()
    }),
    ("a hole over data", |asked| {
        let all = asked.chunk(false, AT, LEN);
        [all, asked.to.hole(true, AT, 512).to_vec()].concat()
    }),
    ("an endless hole", |asked| {
        asked.to.hole(true, AT, u32::MAX).to_vec()
    }),
    ("an empty hole", |asked| {
        asked.to.hole(false, AT, 0).to_vec()
    }),
    ("a chunk of 4 GiB", |asked| {
        asked.to.data(true, AT, u32::MAX - 8).to_vec()
    }),
    ("a status", |asked| asked.status(&[(LEN, 0)])),
    (COMPACT, |asked| {
        let data = content(AT, LEN);
        [&asked.to.simple(None)[..], &data].concat()
    }),
    ("an error of zero", |asked| {
        asked.to.error(Errno(0)).to_vec()
    }),
    ("an error elsewhere", |asked| {
        asked.to.error_at(true, NBD_EIO, AT + LEN).to_vec()
    }),
    ("an error longer than it", |asked| {
        let mut bytes = asked.to.error(NBD_EIO).to_vec();
        *bytes.last_mut().unwrap() = 1;
        bytes.push(b'x');
        bytes
    }),
    ("an unknown kind", |asked| {
        let mut bytes = asked.to.none().to_vec();
        bytes[7] = 0x77;
        bytes
    }),
    ("another cookie", |asked| {
        let to = ReplyTo {
            cookie: asked.to.cookie + 1,
            ..asked.to
        };
        to.none().to_vec()
    }),
    (EXTENDED, |asked| {
        let to = ReplyTo {
            offset: AT + PAGE,
            ..asked.to
        };
        [&to.data(true, AT, LEN as u32)[..], &content(AT, LEN)].concat()
    }),
    ("another magic", |asked| {
        let mut bytes = asked.data();
        bytes[3] ^= 1;
        bytes
    }),
];

/// Lies about a BLOCK_STATUS.
const ABOUT_STATUS: [(&str, Lie); 7] = [
    ("nothing", |asked| asked.to.none().to_vec()),
    ("another context", |asked| {
        let mut bytes = asked.to.block_status(true, 6, 1).to_vec();
        bytes.extend(&*asked.to.descriptor(LEN, 0));
        bytes
    }),
    ("an empty list", |asked| asked.status(&[])),
    ("an empty extent", |asked| asked.status(&[(512, 0), (0, 0)])),
    ("extents behind the end", |asked| {
        asked.status(&[(LEN, 0), (512, 0)])
    }),
    ("two lists", |asked| {
        let mut first = asked.status(&[(LEN, 0)]);
        first[5] &= !1;
        [first, asked.status(&[(LEN, 0)])].concat()
    }),
    ("data", |asked| asked.chunk(true, AT, LEN)),
];

#[test]
fn lies_about_data_are_named_and_the_next_connection_works() {
    for knows in [Knows::ALL, Knows::STRUCTURED] {
        for (name, lie) in IN_CHUNKS {
            if name == if knows.extended { COMPACT } else { EXTENDED } {
                continue;
            }
            story(async move |bench| {
                let fake = Fake::new(&bench.exec, knows).scripted(move |asked| {
                    Act::Say(match asked.connection {
                        0 => lie(asked),
                        _ => asked.honestly(),
                    })
                });
                let origin = open(&bench, &fake).await.expect("an origin");
                let read = origin.read(AT, dirty(4)).await;
                assert_eq!(read.err(), Some(OriginError::Protocol), "{name}");
                read_well(&*origin, AT, 4).await;
                assert_eq!(fake.dialled.get(), 2, "{name}");
            });
        }
    }
}

#[test]
fn lies_about_what_is_allocated_are_named_too() {
    for knows in [Knows::ALL, Knows::STRUCTURED] {
        for (name, lie) in ABOUT_STATUS {
            story(async move |bench| {
                let fake = Fake::new(&bench.exec, knows).scripted(move |asked| {
                    Act::Say(match asked.connection {
                        0 => lie(asked),
                        _ => asked.honestly(),
                    })
                });
                let origin = open(&bench, &fake).await.expect("an origin");
                let told = extents(&*origin, AT, LEN).await;
                assert_eq!(told, Err(OriginError::Protocol), "{name}");
                let told = extents(&*origin, 0, LEN).await;
                assert_eq!(told, Ok(vec![(LEN, false)]), "{name}");
            });
        }
    }
}

/// All that was under way fails with the one who was lied to; nobody gets another one's bytes.
#[test]
fn answers_that_are_mixed_up_are_noticed() {
    story(async |bench| {
        let fake =
            Fake::new(&bench.exec, Knows::STRUCTURED).scripted(|asked| match asked.request {
                // The bytes of the first request under the cookie of the second.
                Request { offset: 0, .. } => Act::Nothing,
                _ => Act::Say(asked.chunk(true, 0, 4 * PAGE)),
            });
        let origin = open(&bench, &fake).await.expect("an origin");
        let both = [0, AT].map(|offset| origin.read(offset, dirty(4)));
        for read in exec::join_all(both).await {
            assert_eq!(read.err(), Some(OriginError::Protocol));
        }
    });
}

#[test]
fn a_second_answer_is_one_too_many() {
    for knows in [Knows::ALL, Knows::STRUCTURED, Knows::SIMPLE] {
        story(async move |bench| {
            let fake = Fake::new(&bench.exec, knows)
                .scripted(|asked| Act::Say([asked.data(), asked.data()].concat()));
            let origin = open(&bench, &fake).await.expect("an origin");
            read_well(&*origin, AT, 4).await;
            // It was cut off in between; nothing is lost by that.
            bench.exec.sleep(std::time::Duration::from_secs(1)).await;
            read_well(&*origin, AT, 4).await;
            assert_eq!(fake.dialled.get(), 2);
        });
    }
}

/// An error is an answer: it is handed on, and the connection stays.
#[test]
fn errors_are_handed_on() {
    let errors: [(&str, Lie); 5] = [
        ("alone", |asked| asked.to.error(NBD_EIO).to_vec()),
        ("somewhere", |asked| {
            asked.to.error_at(true, NBD_EIO, AT + 512).to_vec()
        }),
        ("with a message", |asked| {
            let mut bytes = asked.to.error(NBD_EIO).to_vec();
            let message = [b'x'; 600];
            // The lengths of payload and message.
            let at = bytes.len() - 6;
            bytes[at - 2..at].copy_from_slice(&606_u16.to_be_bytes());
            let len = bytes.len();
            bytes[len - 2..].copy_from_slice(&600_u16.to_be_bytes());
            [&bytes[..], &message].concat()
        }),
        ("after data", |asked| {
            let data = asked.chunk(false, AT, PAGE);
            let error = asked.to.error_at(false, NBD_EIO, AT + PAGE);
            let other = asked.to.error_at(false, NBD_ENOSPC, AT + 2 * PAGE);
            [&data[..], &error, &other, &asked.to.none()].concat()
        }),
        ("of an unknown kind", |asked| {
            let mut bytes = asked.to.error(NBD_EIO).to_vec();
            bytes[7] = 0x55;
            bytes
        }),
    ];
    for knows in [Knows::ALL, Knows::STRUCTURED] {
        for (name, error) in errors {
            story(async move |bench| {
                let fake = Fake::new(&bench.exec, knows).scripted(move |asked| {
                    match asked.request.offset {
                        AT => Act::Say(error(asked)),
                        _ => Act::Say(asked.honestly()),
                    }
                });
                let origin = open(&bench, &fake).await.expect("an origin");
                let read = origin.read(AT, dirty(4)).await;
                assert_eq!(read.err(), Some(OriginError::Failed(5)), "{name}");
                read_well(&*origin, 0, 4).await;
                assert_eq!(fake.dialled.get(), 1, "{name}");
            });
        }
    }
    for knows in [Knows::STRUCTURED, Knows::SIMPLE] {
        story(async move |bench| {
            let fake = Fake::new(&bench.exec, knows)
                .scripted(|asked| Act::Say(asked.to.simple(Some(NBD_EIO)).to_vec()));
            let origin = open(&bench, &fake).await.expect("an origin");
            let read = origin.read(AT, dirty(4)).await;
            assert_eq!(read.err(), Some(OriginError::Failed(5)));
            assert_eq!(fake.dialled.get(), 1);
        });
    }
}

#[test]
fn lies_in_the_handshake_are_named() {
    let export = || info_export(1 << 20, NBD_FLAG_HAS_FLAGS);
    let info = |data: &[u8]| option_reply(NBD_OPT_GO, NBD_REP_INFO, data);
    let ack = || option_reply(NBD_OPT_GO, NBD_REP_ACK, &[]);
    let head = |option, len| {
        let reply = NBD_REP_INFO;
        OptionReplyHead { option, reply, len }.encode().to_vec()
    };
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("no export", ack()),
        ("a short export", [info(&export()[..11]), ack()].concat()),
        (
            "a long export",
            [info(&[&export()[..], &[0; 99]].concat()), ack()].concat(),
        ),
        ("no kind", [info(&[0]), ack()].concat()),
        (
            "another option",
            [
                option_reply(NBD_OPT_INFO, NBD_REP_INFO, &export()),
                option_reply(NBD_OPT_INFO, NBD_REP_ACK, &[]),
            ]
            .concat(),
        ),
        (
            "another reply",
            option_reply(NBD_OPT_GO, NBD_REP_SERVER, &[]),
        ),
        ("4 GiB", head(NBD_OPT_GO, u32::MAX)),
        ("no end", info(&export()).repeat(100)),
        ("no unit", [info(&info_block_size(0, 0, 0)), ack()].concat()),
        (
            "an odd unit",
            [info(&info_block_size(513, 4096, 1 << 20)), ack()].concat(),
        ),
        (
            "a huge unit",
            [info(&info_block_size(1 << 31, 1 << 31, 1 << 31)), ack()].concat(),
        ),
        ("another magic", vec![7; 20]),
    ];
    for (name, lie) in lies {
        story(async move |bench| {
            let fake = Fake::new(&bench.exec, Knows::STRUCTURED)
                .with_options(move |_, option| (option == NBD_OPT_GO).then(|| lie.clone()));
            let refused = open(&bench, &fake).await.err();
            assert_eq!(refused, Some(OriginError::Protocol), "{name}");
        });
    }
}
