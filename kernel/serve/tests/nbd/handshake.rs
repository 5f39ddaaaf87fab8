//! Options.

use net::Stream;
use net::pipe::pipe_port;
use serve::nbd::{Limits, Server};
use volume::Volumes;
use wire::nbd::*;
use world::Pool;

use crate::client::{Client, info_data};
use crate::ram::{Bench, RamDisk};
use crate::{Rig, SIZE};

const RW: u16 = NBD_FLAG_HAS_FLAGS
    | NBD_FLAG_SEND_FLUSH
    | NBD_FLAG_SEND_FUA
    | NBD_FLAG_SEND_TRIM
    | NBD_FLAG_SEND_WRITE_ZEROES
    | NBD_FLAG_SEND_FAST_ZERO
    | NBD_FLAG_SEND_CACHE
    | NBD_FLAG_CAN_MULTI_CONN;

#[test]
fn go_tells_size_flags_and_block_sizes() {
    Rig::new().story(async |port| {
        let mut client = Client::connect(&port).await;
        client.structured().await;
        let wanted = [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 77];
        let data = info_data("", &wanted);
        let replies = client.option(NBD_OPT_INFO, &data).await;
        let infos = [
            (
                NBD_REP_INFO,
                info_export(SIZE, RW | NBD_FLAG_SEND_DF).to_vec(),
            ),
            (NBD_REP_INFO, b"\x00\x01demo".to_vec()),
            (NBD_REP_INFO, b"\x00\x02Ferrite volume demo".to_vec()),
            (NBD_REP_INFO, info_block_size(512, 4096, 32 << 20).to_vec()),
            (NBD_REP_ACK, vec![]),
        ];
        assert_eq!(replies, infos);
        assert_eq!(client.go("demo").await, (SIZE, RW | NBD_FLAG_SEND_DF));
        client.bye().await;
    });
}

#[test]
fn without_structured_replies_there_is_no_df() {
    Rig::new().story(async |port| {
        let mut client = Client::connect(&port).await;
        assert_eq!(client.go("demo").await, (SIZE, RW));
        client.bye().await;
    });
}

#[test]
fn export_name_with_and_without_zeros() {
    Rig::new().story(async |port| {
        for (flags, zeros) in [(3, 0), (1, 124), (0, 124)] {
            let client = Client::raw(&port).await;
            client.stream.write_all(&[0, 0, 0, flags]).await.unwrap();
            client.send_option(NBD_OPT_EXPORT_NAME, b"demo").await;
            assert_eq!(client.bytes::<10>().await, info_export(SIZE, RW)[2..]);
            for _ in 0..zeros {
                assert_eq!(client.bytes::<1>().await, [0]);
            }
            client.bye().await;
        }
        let client = Client::connect(&port).await;
        client.send_option(NBD_OPT_EXPORT_NAME, b"nothing").await;
        assert!(client.is_closed().await);
    });
}

#[test]
fn list_names_all_volumes() {
    let rig = Rig::new();
    let volumes = rig.volumes.clone();
    rig.bench.run(async move {
        volumes.create("other", 4096).await.unwrap();
    });
    rig.story(async |port| {
        let client = Client::connect(&port).await;
        let expected = [
            (NBD_REP_SERVER, b"\x00\x00\x00\x04demo".to_vec()),
            (NBD_REP_SERVER, b"\x00\x00\x00\x05other".to_vec()),
            (NBD_REP_ACK, vec![]),
        ];
        assert_eq!(client.option(NBD_OPT_LIST, &[]).await, expected);
        let replies = client.option(NBD_OPT_ABORT, &[]).await;
        assert_eq!(replies, [(NBD_REP_ACK, vec![])]);
        assert!(client.is_closed().await);
    });
}

#[test]
fn without_a_pool_there_are_no_exports() {
    let bench = Bench::new();
    let (listener, port) = pipe_port(64 << 10);
    let none: Option<Volumes<RamDisk>> = None;
    let server = Server::new(bench.exec.clone(), none, Pool::new(64), Limits::default());
    bench.exec.spawn(server.serve(listener));
    bench.run(async move {
        let client = Client::connect(&port).await;
        let listed = client.option(NBD_OPT_LIST, &[]).await;
        assert_eq!(listed, [(NBD_REP_ACK, vec![])]);
        for name in ["", "demo"] {
            let replies = client.option(NBD_OPT_GO, &info_data(name, &[])).await;
            assert_eq!((replies.len(), replies[0].0), (1, NBD_REP_ERR_UNKNOWN));
        }
        let replies = client.option(NBD_OPT_ABORT, &[]).await;
        assert_eq!(replies, [(NBD_REP_ACK, vec![])]);
    });
}

#[test]
fn wrong_options_are_refused_and_haggling_goes_on() {
    Rig::new().story(async |port| {
        let mut client = Client::connect(&port).await;
        let long_name = info_data(&"a".repeat(5000), &[]);
        let too_long = vec![0; 100_000];
        for (option, data, reply) in [
            (NBD_OPT_STARTTLS, &b""[..], NBD_REP_ERR_UNSUP),
            (
                NBD_OPT_SET_META_CONTEXT,
                b"\0\0\0\0\0\0\0\0",
                NBD_REP_ERR_INVALID,
            ),
            (
                NBD_OPT_LIST_META_CONTEXT,
                b"\0\0\0\0\0\0\0\0",
                NBD_REP_ERR_INVALID,
            ),
            (0xffff_ffff, b"what", NBD_REP_ERR_UNSUP),
            (NBD_OPT_LIST, b"x", NBD_REP_ERR_INVALID),
            (NBD_OPT_STRUCTURED_REPLY, b"x", NBD_REP_ERR_INVALID),
            (NBD_OPT_EXTENDED_HEADERS, b"x", NBD_REP_ERR_INVALID),
            (NBD_OPT_GO, b"", NBD_REP_ERR_INVALID),
            (NBD_OPT_GO, b"\0\0\0\x09demo\0\0", NBD_REP_ERR_INVALID),
            (
                NBD_OPT_GO,
                b"\0\0\0\x04\xff\xff\xff\xff\0\0",
                NBD_REP_ERR_INVALID,
            ),
            (NBD_OPT_GO, &info_data("nothing", &[]), NBD_REP_ERR_UNKNOWN),
            (
                NBD_OPT_INFO,
                &info_data("demo@monday", &[]),
                NBD_REP_ERR_UNKNOWN,
            ),
            (NBD_OPT_GO, &long_name, NBD_REP_ERR_TOO_BIG),
            (NBD_OPT_GO, &too_long, NBD_REP_ERR_TOO_BIG),
        ] {
            let replies = client.option(option, data).await;
            assert_eq!((replies.len(), replies[0].0), (1, reply), "option {option}");
        }
        assert_eq!(client.go("demo").await.0, SIZE);
        client.bye().await;
    });
}

#[test]
fn a_client_of_plain_newstyle_gets_no_option_replies() {
    Rig::new().story(async |port| {
        let client = Client::raw(&port).await;
        client.stream.write_all(&[0, 0, 0, 0]).await.unwrap();
        client.send_option(NBD_OPT_LIST, &[]).await;
        assert!(client.is_closed().await);
    });
}
