//! Reads, writes and the rest.

use std::time::Duration;

use net::Stream;
use volume::{Operation, VolumeError};
use wire::nbd::*;

use crate::client::{ALL, Answer};
use crate::{Random, Rig, SIZE, attached, noise};

/// What a plain array would hold must be what the volume holds, through both kinds of reply.
#[test]
fn random_requests_agree_with_an_array() {
    for (headers, pages) in ALL.into_iter().flat_map(|all| [(all, 64), (all, 1024)]) {
        Rig::with_pool(pages).story(async move |port| {
            let mut client = attached(&port, headers).await;
            let mut model = vec![0_u8; SIZE as usize];
            let mut random = Random(7 + pages as u64);
            for round in 0..300 {
                let most = if round % 10 == 0 { 4096 } else { 64 };
                let len = 512 * (1 + random.below(most));
                let offset = 512 * random.below((SIZE - len) / 512 + 1);
                let range = offset as usize..(offset + len) as usize;
                let fua = if random.below(2) == 0 {
                    NBD_CMD_FLAG_FUA
                } else {
                    0
                };
                match random.below(6) {
                    0 | 1 => {
                        let data = noise(len as usize, random.next());
                        assert_eq!(client.write_flags(fua, offset, &data).await, Answer::Done);
                        model[range].copy_from_slice(&data);
                    }
                    2 => {
                        let answer = client.command(NBD_CMD_WRITE_ZEROES, fua, offset, len).await;
                        assert_eq!(answer, Answer::Done);
                        model[range].fill(0);
                    }
                    3 => {
                        let flags = fua | NBD_CMD_FLAG_NO_HOLE;
                        let answer = client
                            .command(NBD_CMD_WRITE_ZEROES, flags, offset, len)
                            .await;
                        assert_eq!(answer, Answer::Done);
                        model[range].fill(0);
                    }
                    _ => {
                        let df = headers.in_chunks() && random.below(2) == 0;
                        let flags = if df { NBD_CMD_FLAG_DF } else { 0 };
                        let Answer::Data(data) = client.read_flags(flags, offset, len).await else {
                            panic!("round {round}: no data");
                        };
                        assert!(data == model[range], "round {round}: wrong data");
                    }
                }
            }
            for command in [NBD_CMD_FLUSH, NBD_CMD_CACHE] {
                let len = if command == NBD_CMD_CACHE { 1 << 20 } else { 0 };
                assert_eq!(client.command(command, 0, 0, len).await, Answer::Done);
            }
            client.bye().await;
        });
    }
}

#[test]
fn the_largest_requests_fit_through_the_smallest_pool() {
    for (headers, flags) in [
        (Headers::Structured, 0),
        (Headers::Structured, NBD_CMD_FLAG_DF),
        (Headers::Extended, 0),
        (Headers::Simple, 0),
    ] {
        Rig::new().story(async move |port| {
            let mut client = attached(&port, headers).await;
            let data = noise(32 << 20, 3);
            assert_eq!(client.write(512, &data).await, Answer::Done);
            let Answer::Data(back) = client.read_flags(flags, 512, 32 << 20).await else {
                panic!("no data");
            };
            assert!(back == data);
            client.bye().await;
        });
    }
}

#[test]
fn wrong_requests_get_their_error_and_the_session_goes_on() {
    for headers in ALL {
        Rig::new().story(async move |port| {
            let mut client = attached(&port, headers).await;
            let block = [7; 512];
            assert_eq!(client.write(SIZE, &block).await, Answer::Error(NBD_ENOSPC));
            assert_eq!(
                client.write(u64::MAX - 511, &block).await,
                Answer::Error(NBD_ENOSPC)
            );
            assert_eq!(client.write(1, &block).await, Answer::Error(NBD_EINVAL));
            assert_eq!(client.write(0, &[7; 100]).await, Answer::Error(NBD_EINVAL));
            let df = client.write_flags(NBD_CMD_FLAG_DF, 0, &block).await;
            assert_eq!(df, Answer::Error(NBD_EINVAL));
            assert_eq!(
                client.read(SIZE - 512, 1024).await,
                Answer::Error(NBD_EINVAL)
            );
            assert_eq!(client.read(5, 512).await, Answer::Error(NBD_EINVAL));
            let too_much = match headers.in_chunks() {
                true => NBD_EOVERFLOW,
                false => NBD_EINVAL,
            };
            assert_eq!(
                client.read(0, (32 << 20) + 512).await,
                Answer::Error(too_much)
            );
            for (command, flags, offset, len, error) in [
                (NBD_CMD_TRIM, 0, SIZE, 512, NBD_EINVAL),
                (NBD_CMD_TRIM, 0, 0, 513, NBD_EINVAL),
                (NBD_CMD_TRIM, NBD_CMD_FLAG_NO_HOLE, 0, 512, NBD_EINVAL),
                (NBD_CMD_WRITE_ZEROES, 0, SIZE, 512, NBD_ENOSPC),
                (NBD_CMD_WRITE_ZEROES, 0x12, 0, 512, NBD_ENOTSUP),
                (NBD_CMD_FLUSH, 0x8000, 0, 0, NBD_EINVAL),
                (NBD_CMD_BLOCK_STATUS, 0, 0, 512, NBD_EINVAL),
                (8, 0, 0, 512, NBD_EINVAL),
                (0xffff, 0, 0, 0, NBD_EINVAL),
            ] {
                let answer = client.command(command, flags, offset, len).await;
                assert_eq!(
                    answer,
                    Answer::Error(error),
                    "command {command} flags {flags}"
                );
            }
            assert_eq!(client.write(0, &block).await, Answer::Done);
            assert_eq!(client.read(0, 512).await, Answer::Data(block.to_vec()));
            client.bye().await;
        });
    }
}

#[test]
fn df_without_structured_replies_is_refused() {
    Rig::new().story(async |port| {
        let mut client = attached(&port, Headers::Simple).await;
        let answer = client.read_flags(NBD_CMD_FLAG_DF, 0, 512).await;
        assert_eq!(answer, Answer::Error(NBD_EINVAL));
        client.bye().await;
    });
}

#[test]
fn requests_without_length_do_nothing() {
    for headers in ALL {
        Rig::new().story(async move |port| {
            let mut client = attached(&port, headers).await;
            assert_eq!(client.read(0, 0).await, Answer::Data(vec![]));
            assert_eq!(client.write(0, &[]).await, Answer::Done);
            assert_eq!(client.command(NBD_CMD_TRIM, 0, 0, 0).await, Answer::Done);
            client.bye().await;
        });
    }
}

/// A whole-volume TRIM has no payload, so the payload limit is not for it.
#[test]
fn trim_and_zeroes_may_be_longer_than_any_payload() {
    Rig::new().story(async |port| {
        let mut client = attached(&port, Headers::Structured).await;
        assert_eq!(client.write(0, &[7; 4096]).await, Answer::Done);
        let len = SIZE;
        assert_eq!(
            client.command(NBD_CMD_WRITE_ZEROES, 0, 0, len).await,
            Answer::Done
        );
        assert_eq!(client.read(0, 4096).await, Answer::Data(vec![0; 4096]));
        assert_eq!(client.command(NBD_CMD_TRIM, 0, 0, len).await, Answer::Done);
        client.bye().await;
    });
}

/// A small request is answered while a long one is still on its way: replies come in the order of completion.
#[test]
fn replies_overtake() {
    Rig::new().story(async |port| {
        let mut client = attached(&port, Headers::Structured).await;
        let flags = NBD_CMD_FLAG_NO_HOLE;
        let long = client.send(NBD_CMD_WRITE_ZEROES, flags, 0, 32 << 20).await;
        let short = client.send(NBD_CMD_FLUSH, 0, 0, 0).await;
        assert_eq!(client.reply(None).await, (short, Answer::Done));
        assert_eq!(client.reply(None).await, (long, Answer::Done));
        client.bye().await;
    });
}

#[test]
fn all_requests_before_a_disconnect_are_answered() {
    Rig::new().story(async |port| {
        let mut client = attached(&port, Headers::Simple).await;
        let mut open = Vec::new();
        for index in 0..200 {
            open.push(client.send(NBD_CMD_TRIM, 0, index * 4096, 4096).await);
        }
        client.send(NBD_CMD_DISC, 0, 0, 0).await;
        for _ in 0..200 {
            let (cookie, answer) = client.reply(None).await;
            assert_eq!(answer, Answer::Done);
            open.retain(|one| *one != cookie);
        }
        assert!(open.is_empty() && client.is_closed().await);
    });
}

#[test]
fn what_one_connection_wrote_another_reads() {
    Rig::new().story(async |port| {
        let mut one = attached(&port, Headers::Structured).await;
        let mut other = attached(&port, Headers::Simple).await;
        assert_eq!(one.write(8192, &[9; 512]).await, Answer::Done);
        assert_eq!(other.read(8192, 512).await, Answer::Data(vec![9; 512]));
        assert_eq!(other.command(NBD_CMD_FLUSH, 0, 0, 0).await, Answer::Done);
        one.bye().await;
        other.bye().await;
    });
}

#[test]
fn a_volume_deleted_under_its_client_fails_cleanly() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.story(async move |port| {
        let mut client = attached(&port, Headers::Structured).await;
        assert_eq!(client.write(0, &[1; 512]).await, Answer::Done);
        assert_eq!(
            volumes.delete("demo", false).await,
            Err(VolumeError::Attached(1))
        );
        volumes.delete("demo", true).await.unwrap();
        let gone = Answer::Error(NBD_ESHUTDOWN);
        assert_eq!(client.read(0, 512).await, gone);
        assert_eq!(client.write(0, &[1; 512]).await, gone);
        assert_eq!(client.command(NBD_CMD_FLUSH, 0, 0, 0).await, gone);
        client.bye().await;
    });
}

/// Chunks can tell that a part failed; a simple reply that has begun can only be cut short.
#[test]
fn a_read_that_fails_half_way_does_not_pretend() {
    for headers in ALL {
        let rig = Rig::new();
        let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
        rig.story(async move |port| {
            let mut client = attached(&port, headers).await;
            let len = 8 << 20;
            assert_eq!(client.write(0, &noise(8 << 20, 5)).await, Answer::Done);
            let cookie = client.send(NBD_CMD_READ, 0, 0, len).await;
            exec.sleep(Duration::from_millis(1)).await;
            volumes.delete("demo", true).await.unwrap();
            if headers.in_chunks() {
                let (_, answer) = client.reply(Some((cookie, 0, len))).await;
                assert_eq!(answer, Answer::Error(NBD_ESHUTDOWN));
                client.bye().await;
            } else {
                assert_eq!(client.bytes::<16>().await[8..], cookie.to_be_bytes());
                let mut data = vec![0; len as usize];
                assert!(client.stream.read_exact(&mut data).await.is_err());
            }
        });
    }
}

/// Requests of a client that vanished are carried out all the same, and nothing of it stays behind.
#[test]
fn closing_drops_the_replies_only() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let mut client = attached(&port, Headers::Structured).await;
        for index in 0..32 {
            client.send(NBD_CMD_WRITE, 0, index * 4096, 4096).await;
            client.stream.write_all(&[5; 4096]).await.unwrap();
        }
        client.send(NBD_CMD_READ, 0, 0, 1 << 20).await;
        client.stream.finish();
        exec.sleep(Duration::from_secs(1)).await;
        client.stream.abort();
        exec.sleep(Duration::from_secs(1)).await;
        assert_eq!(volumes.clients(volumes.get("demo").unwrap().id), 0);
        let mut other = attached(&port, Headers::Structured).await;
        assert_eq!(
            other.read(31 * 4096, 4096).await,
            Answer::Data(vec![5; 4096])
        );
        other.bye().await;
    });
}

#[test]
fn each_request_is_counted_once_whatever_its_length() {
    for headers in ALL {
        let rig = Rig::new();
        let volumes = rig.volumes.clone();
        rig.story(async move |port| {
            let mut client = attached(&port, headers).await;
            let len = 300 << 10;
            assert_eq!(client.write(512, &noise(len, 1)).await, Answer::Done);
            assert!(matches!(client.read(0, len as u64).await, Answer::Data(_)));
            assert!(matches!(client.read(0, 512).await, Answer::Data(_)));
            for (command, len) in [
                (NBD_CMD_FLUSH, 0),
                (NBD_CMD_TRIM, 8192),
                (NBD_CMD_CACHE, 512),
            ] {
                assert_eq!(client.command(command, 0, 0, len).await, Answer::Done);
            }
            let id = volumes.get("demo").unwrap().id;
            let traffic = volumes.traffic(id).unwrap();
            let counted = Operation::ALL.map(|operation| {
                let meter = traffic.of(operation);
                (meter.requests(), meter.bytes())
            });
            let len = len as u64;
            assert_eq!(counted, [(2, len + 512), (1, len), (1, 0), (1, 8192)]);
        });
    }
}
