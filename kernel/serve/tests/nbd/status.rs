//! Metadata contexts, BLOCK_STATUS, holes in reads, and extended headers.

use net::Stream;
use wire::nbd::*;

use crate::client::{Answer, Client, meta_data};
use crate::{Rig, SIZE};

const BLOCK: u64 = 4096;
const HOLE: u64 = 3;
const DATA: u64 = 0;
const CHUNKED: [Headers; 2] = [Headers::Structured, Headers::Extended];

/// A client of `export` that selected these contexts, which get the ids 0, 1, …
async fn with_contexts(
    port: &net::pipe::PipeDialer,
    headers: Headers,
    export: &str,
    queries: &[&str],
) -> Client {
    let mut client = Client::connect(port).await;
    client.negotiate(headers).await;
    let selected = client
        .contexts(NBD_OPT_SET_META_CONTEXT, export, queries)
        .await;
    let expected: Vec<_> = (0..)
        .zip(queries.iter().map(|query| query.to_string()))
        .collect();
    assert_eq!(selected, expected);
    client.go(export).await;
    client
}

async fn status(client: &mut Client, flags: u16, offset: u64, len: u64) -> Answer {
    client
        .command(NBD_CMD_BLOCK_STATUS, flags, offset, len)
        .await
}

#[test]
fn allocation_is_told_as_it_is() {
    for headers in CHUNKED {
        Rig::new().story(async move |port| {
            let mut client = with_contexts(&port, headers, "demo", &["base:allocation"]).await;
            let told = |extents: &[(u64, u64)]| Answer::Status(vec![(0, extents.to_vec())]);
            assert_eq!(status(&mut client, 0, 0, SIZE).await, told(&[(SIZE, HOLE)]));
            assert_eq!(client.write(BLOCK, &[7; 2 * 4096]).await, Answer::Done);
            assert_eq!(client.write(9 * BLOCK + 512, &[7; 512]).await, Answer::Done);
            let all = [
                (BLOCK, HOLE),
                (2 * BLOCK, DATA),
                (6 * BLOCK, HOLE),
                (BLOCK, DATA),
                (SIZE - 10 * BLOCK, HOLE),
            ];
            assert_eq!(status(&mut client, 0, 0, SIZE).await, told(&all));
            let one = NBD_CMD_FLAG_REQ_ONE;
            let first = status(&mut client, one, 512, SIZE - 512).await;
            assert_eq!(first, told(&[(BLOCK - 512, HOLE)]));
            let within = status(&mut client, one, BLOCK, 1024).await;
            assert_eq!(within, told(&[(1024, DATA)]));
            let part = status(&mut client, 0, 2 * BLOCK, 2 * BLOCK).await;
            assert_eq!(part, told(&[(BLOCK, DATA), (BLOCK, HOLE)]));
            let trim = client.command(NBD_CMD_TRIM, 0, 0, SIZE).await;
            assert_eq!(trim, Answer::Done);
            assert_eq!(status(&mut client, 0, 0, SIZE).await, told(&[(SIZE, HOLE)]));
            let flags = NBD_CMD_FLAG_NO_HOLE;
            let zeros = client.command(NBD_CMD_WRITE_ZEROES, flags, 0, BLOCK).await;
            assert_eq!(zeros, Answer::Done);
            let first = status(&mut client, 0, 0, 2 * BLOCK).await;
            assert_eq!(first, told(&[(BLOCK, DATA), (BLOCK, HOLE)]));
            client.bye().await;
        });
    }
}

/// However fragmented, an answer is bounded and the client goes on behind it.
#[test]
fn a_long_answer_comes_in_parts() {
    for headers in CHUNKED {
        Rig::new().story(async move |port| {
            let mut client = with_contexts(&port, headers, "demo", &["base:allocation"]).await;
            for lba in (0..4000).step_by(2) {
                assert_eq!(client.write(lba * BLOCK, &[7; 4096]).await, Answer::Done);
            }
            let (mut at, mut extents) = (0, 0);
            while at < 4000 * BLOCK {
                let rest = 4000 * BLOCK - at;
                let Answer::Status(told) = status(&mut client, 0, at, rest).await else {
                    panic!("no status");
                };
                assert!(told[0].1.len() <= 1024);
                for (len, flags) in &told[0].1 {
                    assert_eq!(
                        *flags,
                        if (at / BLOCK).is_multiple_of(2) {
                            DATA
                        } else {
                            HOLE
                        }
                    );
                    assert_eq!(*len, BLOCK);
                    (at, extents) = (at + len, extents + 1);
                }
            }
            assert_eq!((at, extents), (4000 * BLOCK, 4000));
            client.bye().await;
        });
    }
}

#[test]
fn wrong_status_requests_get_their_error() {
    for headers in CHUNKED {
        Rig::new().story(async move |port| {
            let mut client = with_contexts(&port, headers, "demo", &["base:allocation"]).await;
            for (flags, offset, len) in [
                (0, SIZE - 512, 1024),
                (0, 0, 0),
                (0, 1, 512),
                (0, 0, 513),
                (NBD_CMD_FLAG_DF, 0, 512),
                (0x4000, 0, 512),
            ] {
                let answer = status(&mut client, flags, offset, len).await;
                assert_eq!(answer, Answer::Error(NBD_EINVAL), "{flags} {offset} {len}");
            }
            client.bye().await;
            // Without contexts there is nothing to tell.
            for queries in [vec![], vec!["base:"], vec!["x-else:y"]] {
                let mut client = Client::connect(&port).await;
                client.negotiate(headers).await;
                let set = NBD_OPT_SET_META_CONTEXT;
                assert_eq!(client.contexts(set, "demo", &queries).await, []);
                client.go("demo").await;
                let answer = status(&mut client, 0, 0, 512).await;
                assert_eq!(answer, Answer::Error(NBD_EINVAL));
                client.bye().await;
            }
        });
    }
}

#[test]
fn changes_since_a_snapshot_are_told_for_the_volume_and_for_later_snapshots() {
    for headers in CHUNKED {
        let rig = Rig::new();
        let volumes = rig.volumes.clone();
        rig.story(async move |port| {
            let mut writer = Client::connect(&port).await;
            writer.go("demo").await;
            assert_eq!(writer.write(0, &[7; 8 * 4096]).await, Answer::Done);
            volumes.create_snapshot("demo", "one").await.unwrap();
            assert_eq!(writer.write(BLOCK, &[8; 4096]).await, Answer::Done);
            let trim = writer.command(NBD_CMD_TRIM, 0, 4 * BLOCK, 2 * BLOCK).await;
            assert_eq!(trim, Answer::Done);
            volumes.create_snapshot("demo", "two").await.unwrap();
            assert_eq!(writer.write(100 * BLOCK, &[9; 4096]).await, Answer::Done);

            let since = [
                "base:allocation",
                "ferrite:changed:one",
                "ferrite:changed:two",
            ];
            let mut client = with_contexts(&port, headers, "demo", &since).await;
            let len = 128 * BLOCK;
            let told = |allocation: &[_], one: &[_], two: &[_]| {
                let all = [allocation, one, two].map(<[(u64, u64)]>::to_vec);
                Answer::Status((0..).zip(all).collect())
            };
            let first = [(BLOCK, 0), (BLOCK, 1), (2 * BLOCK, 0), (2 * BLOCK, 3)];
            let mut one = first.to_vec();
            one.extend([(94 * BLOCK, 0), (BLOCK, 1), (27 * BLOCK, 0)]);
            let expected = told(
                &[
                    (4 * BLOCK, DATA),
                    (2 * BLOCK, HOLE),
                    (2 * BLOCK, DATA),
                    (92 * BLOCK, HOLE),
                    (BLOCK, DATA),
                    (27 * BLOCK, HOLE),
                ],
                &one,
                &[(100 * BLOCK, 0), (BLOCK, 1), (27 * BLOCK, 0)],
            );
            assert_eq!(status(&mut client, 0, 0, len).await, expected);

            let mut later =
                with_contexts(&port, headers, "demo@two", &["ferrite:changed:one"]).await;
            let mut expected = first.to_vec();
            expected.push((122 * BLOCK, 0));
            let expected = Answer::Status(vec![(0, expected)]);
            assert_eq!(status(&mut later, 0, 0, len).await, expected);

            // Once it is gone nobody can tell, and the session goes on.
            volumes.delete_snapshot("demo", "one", false).await.unwrap();
            let gone = status(&mut later, 0, 0, len).await;
            assert_eq!(gone, Answer::Error(NBD_EINVAL));
            let gone = status(&mut client, 0, 0, len).await;
            assert_eq!(gone, Answer::Error(NBD_EINVAL));
            let Answer::Data(_) = client.read(0, 512).await else {
                panic!("no data");
            };
            for client in [writer, client, later] {
                client.bye().await;
            }
        });
    }
}

#[test]
fn contexts_are_listed_as_they_can_be_selected() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        volumes.create_snapshot("demo", "one").await.unwrap();
        volumes.create_snapshot("demo", "two").await.unwrap();
        let mut client = Client::connect(&port).await;
        let list = NBD_OPT_LIST_META_CONTEXT;
        let early = client.option(list, &meta_data("demo", &[])).await;
        assert_eq!(early[0].0, NBD_REP_ERR_INVALID);
        client.structured().await;
        let both = ["ferrite:changed:one", "ferrite:changed:two"];
        let all = ["base:allocation", both[0], both[1]];
        let cases: [(&[&str], &[&str]); 9] = [
            (&[], &all),
            (&["base:"], &all[..1]),
            (&["base:allocation", "base:allocation"], &all[..1]),
            (&["ferrite:"], &both),
            (&["ferrite:changed:", "base:"], &all),
            (&["ferrite:changed:two"], &both[1..]),
            (&["ferrite:changed:three", "qemu:dirty-bitmap:x"], &[]),
            (&["base:else", "x:"], &[]),
            (&["ferrite:changed:one", "base:allocation"], &all[..2]),
        ];
        for export in ["demo", "", "demo@two"] {
            for (queries, expected) in cases {
                let listed = client.contexts(list, export, queries).await;
                let names: Vec<&str> = listed.iter().map(|(_, name)| name.as_str()).collect();
                assert_eq!(names, expected, "{queries:?} of {export}");
            }
        }
        let set = NBD_OPT_SET_META_CONTEXT;
        let wildcards = ["base:", "ferrite:", "ferrite:changed:"];
        assert_eq!(client.contexts(set, "demo", &wildcards).await, []);
        for (option, data, error) in [
            (list, meta_data("none", &[]), NBD_REP_ERR_UNKNOWN),
            (set, meta_data("demo@none", &[]), NBD_REP_ERR_UNKNOWN),
            (set, meta_data("demo", &["allocation"]), NBD_REP_ERR_INVALID),
            (set, vec![0; 7], NBD_REP_ERR_INVALID),
            (list, meta_data(&"a".repeat(4097), &[]), NBD_REP_ERR_TOO_BIG),
        ] {
            let replies = client.option(option, &data).await;
            assert_eq!((replies.len(), replies[0].0), (1, error));
        }
        for number in 0..17 {
            let name = format!("s{number}");
            volumes.create_snapshot("demo", &name).await.unwrap();
        }
        let names: Vec<String> = (0..17).map(|n| format!("ferrite:changed:s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = client.option(set, &meta_data("demo", &names)).await;
        assert_eq!(many[0].0, NBD_REP_ERR_TOO_BIG);
        assert_eq!(client.contexts(set, "demo", &names[..16]).await.len(), 16);
    });
}

/// A selection is for one export, by one name, and the last one counts even if it failed.
#[test]
fn contexts_of_another_export_do_not_count() {
    Rig::new().story(async |port| {
        let set = NBD_OPT_SET_META_CONTEXT;
        let allocation = meta_data("demo", &["base:allocation"]);
        for spoil in [
            meta_data("", &["base:allocation"]),
            meta_data("none", &["base:allocation"]),
            meta_data("demo", &[]),
            vec![1],
        ] {
            let mut client = Client::connect(&port).await;
            client.extended().await;
            assert_eq!(client.option(set, &allocation).await.len(), 2);
            client.option(set, &spoil).await;
            let (_, flags) = client.go("demo").await;
            assert_eq!(flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD, 0);
            let answer = status(&mut client, 0, 0, 512).await;
            assert_eq!(answer, Answer::Error(NBD_EINVAL));
            client.bye().await;
        }
    });
}

#[test]
fn holes_are_read_without_their_zeros() {
    for headers in CHUNKED {
        Rig::new().story(async move |port| {
            let mut client = crate::attached(&port, headers).await;
            assert_eq!(
                client.write(3 * BLOCK + 512, &[7; 4096]).await,
                Answer::Done
            );
            let mut expected = vec![0; 1 << 20];
            expected[3 * 4096 + 512..4 * 4096 + 512].fill(7);
            let answer = client.read(0, 1 << 20).await;
            assert_eq!(answer, Answer::Data(expected.clone()));
            assert_eq!(client.holes.take(), (1 << 20) - 2 * BLOCK);
            // The ends need not be those of blocks.
            let answer = client.read(512, 3 * BLOCK).await;
            assert_eq!(answer, Answer::Data(expected[512..512 + 3 * 4096].to_vec()));
            assert_eq!(client.holes.take(), 3 * BLOCK - 512);
            let answer = client.read_flags(NBD_CMD_FLAG_DF, 0, 1 << 20).await;
            assert_eq!(answer, Answer::Data(expected));
            assert_eq!(client.holes.take(), 0);
            client.bye().await;
        });
    }
}

#[test]
fn extended_headers_are_negotiated_as_the_document_says() {
    Rig::new().story(async |port| {
        let mut client = Client::connect(&port).await;
        let replies = client.option(NBD_OPT_EXTENDED_HEADERS, &[0]).await;
        assert_eq!(replies[0].0, NBD_REP_ERR_INVALID);
        client.structured().await;
        client.extended().await;
        let replies = client.option(NBD_OPT_STRUCTURED_REPLY, &[]).await;
        assert_eq!(replies[0].0, NBD_REP_ERR_EXT_HEADER_REQD);
        let set = NBD_OPT_SET_META_CONTEXT;
        let query = ["base:allocation"];
        assert_eq!(client.contexts(set, "demo", &query).await.len(), 1);
        let (_, flags) = client.go("demo").await;
        assert_ne!(flags & NBD_FLAG_SEND_DF, 0);
        assert_ne!(flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD, 0);
        // A compact request is not one of this session.
        let request = Request {
            flags: 0,
            command: NBD_CMD_FLUSH,
            cookie: 1,
            offset: 0,
            len: 0,
        };
        client.stream.write_all(&request.encode()).await.unwrap();
        client.stream.write_all(&[0; 4]).await.unwrap();
        assert!(client.is_cut_off().await);
        // EXPORT_NAME does not go with them.
        let mut client = Client::connect(&port).await;
        client.extended().await;
        client.send_option(NBD_OPT_EXPORT_NAME, b"demo").await;
        assert!(client.is_cut_off().await);
    });
}

/// Lengths beyond 32 bits, for everything that has no data.
#[test]
fn extended_requests_may_be_of_any_length() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        let size: u64 = 64 << 40;
        volumes.create("large", size).await.unwrap();
        let mut client =
            with_contexts(&port, Headers::Extended, "large", &["base:allocation"]).await;
        let told = |extents: &[(u64, u64)]| Answer::Status(vec![(0, extents.to_vec())]);
        assert_eq!(status(&mut client, 0, 0, size).await, told(&[(size, HOLE)]));
        let far = 33 << 40;
        assert_eq!(client.write(far, &[7; 4096]).await, Answer::Done);
        let rest = size - far - BLOCK;
        let expected = told(&[(far, HOLE), (BLOCK, DATA), (rest, HOLE)]);
        assert_eq!(status(&mut client, 0, 0, size).await, expected);
        for command in [NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM] {
            assert_eq!(client.write(far, &[7; 4096]).await, Answer::Done);
            let fast = match command {
                NBD_CMD_TRIM => 0,
                _ => NBD_CMD_FLAG_FAST_ZERO,
            };
            assert_eq!(client.command(command, fast, 0, size).await, Answer::Done);
            assert_eq!(status(&mut client, 0, 0, size).await, told(&[(size, HOLE)]));
        }
        let beyond = client.command(NBD_CMD_TRIM, 0, 512, size).await;
        assert_eq!(beyond, Answer::Error(NBD_EINVAL));
        let answer = client.command(NBD_CMD_CACHE, 0, far, 5 << 20).await;
        assert_eq!(answer, Answer::Done);
        let answer = client.read(0, 1 << 40).await;
        assert_eq!(answer, Answer::Error(NBD_EOVERFLOW));
        client.bye().await;
    });
}

#[test]
fn payloads_that_nobody_expects_are_taken_and_refused() {
    Rig::new().story(async |port| {
        let query = ["base:allocation"];
        let mut client = with_contexts(&port, Headers::Extended, "demo", &query).await;
        let flag = NBD_CMD_FLAG_PAYLOAD_LEN;
        for command in [NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_FLUSH, 77] {
            let cookie = client.send(command, flag, 0, 512).await;
            client.stream.write_all(&[7; 512]).await.unwrap();
            let answer = client.reply(None).await;
            assert_eq!(answer, (cookie, Answer::Error(NBD_EINVAL)), "{command}");
        }
        // A WRITE says that it has a payload.
        let request = Request {
            flags: 0,
            command: NBD_CMD_WRITE,
            cookie: 9,
            offset: 0,
            len: 512,
        };
        let bytes = request.encode_extended();
        client.stream.write_all(&bytes).await.unwrap();
        let answer = client.reply(None).await;
        assert_eq!(answer, (9, Answer::Error(NBD_EINVAL)));
        assert_eq!(client.write(0, &[7; 512]).await, Answer::Done);
        client.send(NBD_CMD_TRIM, flag, 0, 1 << 40).await;
        assert!(client.is_cut_off().await);
    });
}

#[test]
fn a_payload_chooses_contexts() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        volumes.create_snapshot("demo", "s").await.unwrap();
        let queries = ["base:allocation", "ferrite:changed:s"];
        let mut client = with_contexts(&port, Headers::Extended, "demo", &queries).await;
        let one = NBD_CMD_FLAG_REQ_ONE;
        let mut ask = async |len: u64, ids: &[u32]| {
            let mut payload = len.to_be_bytes().to_vec();
            ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
            let flags = NBD_CMD_FLAG_PAYLOAD_LEN | one;
            let size = payload.len() as u64;
            client.send(NBD_CMD_BLOCK_STATUS, flags, BLOCK, size).await;
            client.stream.write_all(&payload).await.unwrap();
            client.reply(None).await.1
        };
        let allocation = (0, vec![(2 * BLOCK, HOLE)]);
        let changed = (1, vec![(2 * BLOCK, 0)]);
        let expected = Answer::Status(vec![changed.clone()]);
        assert_eq!(ask(2 * BLOCK, &[1]).await, expected);
        let expected = Answer::Status(vec![allocation, changed]);
        assert_eq!(ask(2 * BLOCK, &[1, 0]).await, expected);
        for (len, ids) in [
            (BLOCK, vec![]),
            (BLOCK, vec![2]),
            (BLOCK, vec![0, 0]),
            (BLOCK, vec![u32::MAX]),
            (BLOCK, vec![0; 1000]),
            (SIZE, vec![0]),
            (0, vec![0]),
        ] {
            let answer = ask(len, &ids).await;
            assert_eq!(answer, Answer::Error(NBD_EINVAL), "{len} {ids:?}");
        }
        client.bye().await;
    });
}
