//! Many connections at once: all are served, none by the others' leave, and a flush on one is good for all.

use std::cell::Cell;
use std::rc::Rc;

use net::Stream;
use net::pipe::{Pipe, PipeDialer};
use volume::{Access, Span, Volumes};
use wire::nbd::*;
use world::Buf;

use crate::client::Answer;
use crate::ram::RamDisk;
use crate::{Rig, SIZE, attached, noise};

/// What the server moves at a time.
const PIECE: u64 = 128 << 10;
/// Large reads of each connection that has many in flight.
const READS: u64 = 256;

async fn number(stream: &Pipe) -> u32 {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    u32::from_be_bytes(bytes)
}

/// Takes simple replies to `count` READs of `len` bytes; `seen` counts them.
pub async fn take(stream: &Pipe, count: u64, len: u64, seen: &Cell<u64>) {
    let mut data = vec![0; len as usize];
    for _ in 0..count {
        assert_eq!(number(stream).await, NBD_SIMPLE_REPLY_MAGIC);
        assert_eq!(number(stream).await, 0);
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream.read_exact(&mut data).await.unwrap();
        seen.set(seen.get() + 1);
    }
}

/// A client that keeps `depth` READs in flight, each of `len` bytes, until it has had `count` answers.
async fn deep(port: PipeDialer, depth: u64, len: u64, count: u64, seen: Rc<Cell<u64>>) {
    let mut client = attached(&port, Headers::Simple).await;
    let stream = client.stream.clone();
    let own = Cell::new(0);
    let sender = async {
        for index in 0..count {
            let offset = index * len % SIZE;
            client.send(NBD_CMD_READ, 0, offset, len).await;
        }
    };
    let receiver = async {
        for _ in 0..count / depth {
            take(&stream, depth, len, &own).await;
            seen.set(seen.get() + depth);
        }
    };
    exec::futures_util::future::join(sender, receiver).await;
    assert_eq!(own.get(), count);
    client.bye().await;
}

/// 64 connections, each with 128 requests that wait for an answer before the client takes the first one.
#[test]
fn all_of_64_connections_with_128_requests_in_flight_are_answered() {
    let rig = Rig::with_pool(256);
    let (exec, now) = (rig.bench.exec.clone(), rig.bench.exec.clone());
    let sent = Rc::new(Cell::new(0));
    rig.story(async move |port| {
        let clients = (0..64).map(|_| {
            let (port, sent, exec) = (port.clone(), sent.clone(), exec.clone());
            async move {
                let mut client = attached(&port, Headers::Simple).await;
                for index in 0..128 {
                    client.send(NBD_CMD_READ, 0, index * 512, 512).await;
                }
                sent.set(sent.get() + 1);
                while sent.get() < 64 {
                    exec.yield_now().await;
                }
                take(&client.stream, 128, 512, &Cell::new(0)).await;
                client.bye().await;
            }
        });
        exec::join_all(clients).await;
        let waited = now.now().as_nanos();
        assert_eq!(waited, 0, "somebody waited for a timeout");
    });
}

/// Measured in operations: what one connection does at a time is not what another waits for.
#[test]
fn deep_large_reads_do_not_starve_a_connection_with_one_request() {
    for (pages, hogs) in [(64, 1), (64, 8), (1024, 1), (1024, 8)] {
        let rig = Rig::with_pool(pages);
        rig.story(async move |port| {
            let large = 4 * PIECE;
            let mut client = attached(&port, Headers::Simple).await;
            let data = noise(SIZE as usize / 2, 5);
            for half in [0, SIZE / 2] {
                assert_eq!(client.write(half, &data).await, Answer::Done);
            }
            let seen = Rc::new(Cell::new(0));
            let others = (0..hogs).map(|_| deep(port.clone(), 128, large, READS, seen.clone()));
            let hogs_done = exec::join_all(others);
            let own = Rc::new(Cell::new(0));
            let light = {
                let (own, seen) = (own.clone(), seen.clone());
                async move {
                    while seen.get() < READS * hogs {
                        let Answer::Data(_) = client.read(0, 4096).await else {
                            panic!("no data");
                        };
                        own.set(own.get() + 1);
                    }
                    client.bye().await;
                }
            };
            exec::futures_util::future::join(hogs_done, light).await;
            let share = seen.get() / own.get().max(1);
            assert!(
                share <= 2 * hogs,
                "{pages} pages: {share} reads of {hogs} others for each of the one with one request"
            );
        });
    }
}

/// What was answered on one connection is durable after a flush on another.
#[test]
fn a_flush_on_one_connection_is_for_what_all_have_written() {
    let rig = Rig::new();
    let bench = rig.bench.clone();
    rig.story(async move |port| {
        let mut one = attached(&port, Headers::Simple).await;
        let mut two = attached(&port, Headers::Structured).await;
        let data = noise(1 << 20, 3);
        assert_eq!(one.write(0, &data).await, Answer::Done);
        let trim = one.command(NBD_CMD_TRIM, 0, 4096, 4096).await;
        assert_eq!(trim, Answer::Done);
        assert_eq!(two.command(NBD_CMD_FLUSH, 0, 0, 0).await, Answer::Done);
        let after = RamDisk::from(&*bench.disk.durable.borrow());
        let volumes = Volumes::new(bench.open(after).await);
        let volume = volumes.attach("demo", Access::ReadOnly).unwrap();
        let span = Span {
            offset: 0,
            len: 128 << 10,
        };
        let (buf, result) = volume.read(span, Buf::from_heap(32)).await;
        result.unwrap();
        assert!(buf.block(0)[..] == data[..4096], "a write was lost");
        assert!(
            buf.block(1).iter().all(|byte| *byte == 0),
            "a TRIM was lost"
        );
        assert!(buf.block(31)[..] == data[31 * 4096..32 * 4096]);
        one.bye().await;
        two.bye().await;
    });
}
