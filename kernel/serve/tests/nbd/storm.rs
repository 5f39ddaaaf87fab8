//! Many connections with many requests each, through the smallest pool: no deadlock, no mixed-up bytes, no waiting.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use net::Stream;
use net::pipe::{Pipe, PipeDialer};
use serve::nbd::Limits;
use wire::nbd::*;

use crate::{Random, Rig, attached, noise};

/// Bytes of the volume that each client has to itself.
const REGION: u64 = 8 << 20;
/// What the server moves at a time.
const PIECE: u64 = 128 << 10;

#[test]
fn many_clients_with_deep_queues_share_the_smallest_pool() {
    // 16 reads of one piece keep all workers of a connection busy, and then a write comes.
    for (headers, depth, most) in [
        (Headers::Structured, 16, PIECE),
        (Headers::Structured, 21, PIECE * 3 / 2),
        (Headers::Simple, 32, PIECE),
    ] {
        // Fewer workers than requests, so that both memory and workers run out.
        let rig = Rig::with_limits(
            64,
            Limits {
                extra_requests_max: 0,
                ..Limits::default()
            },
        );
        let exec = rig.bench.exec.clone();
        rig.story(async move |port| {
            let clients = (0..8).map(|number| client(port.clone(), headers, number, depth, most));
            exec::join_all(clients).await;
            assert_eq!(exec.now().as_nanos(), 0, "somebody waited for a timeout");
        });
    }
}

/// In each round, reads what the last round wrote to one half of each slot and writes to the other, all at once:
/// `depth` requests of at most `half` bytes of each kind.
async fn client(port: PipeDialer, headers: Headers, number: u64, depth: u64, half: u64) {
    let mut client = attached(&port, headers).await;
    let mut random = Random(number + 1);
    let mut written: Vec<(u64, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        let mut slots = Vec::new();
        for slot in 0..depth {
            let len = 512 * (1 + random.below(half / 512));
            let start = number * REGION + (2 * slot + round % 2) * half;
            let offset = start + 512 * random.below((half - len) / 512 + 1);
            slots.push((offset, noise(len as usize, random.next())));
        }
        let open: Open = Rc::default();
        let mut expected = HashMap::new();
        let answers = depth + written.len() as u64;
        let reader = collect(client.stream.clone(), open.clone(), answers);
        let writer = async {
            for (offset, data) in written {
                let len = data.len() as u32;
                let cookie = client.next_cookie();
                open.borrow_mut()
                    .insert(cookie, (offset, vec![0; len as usize], 0));
                expected.insert(cookie, data);
                client.send(NBD_CMD_READ, 0, offset, len.into()).await;
            }
            for (offset, data) in &slots {
                let fua = NBD_CMD_FLAG_FUA * (random.next() % 2) as u16;
                client
                    .send(NBD_CMD_WRITE, fua, *offset, data.len() as u64)
                    .await;
                client.stream.write_all(data).await.unwrap();
            }
        };
        both(reader, writer).await;
        for (cookie, (_, data, covered)) in open.borrow_mut().drain() {
            assert_eq!(covered, data.len());
            assert!(data == expected[&cookie], "another request's bytes");
        }
        written = slots;
    }
    client.bye().await;
}

async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    exec::futures_util::future::join(one, other).await;
}

/// READs in progress: offset, what came so far, and how much that is.
type Open = Rc<RefCell<HashMap<u64, (u64, Vec<u8>, usize)>>>;

/// Receives the answers to `left` requests, all of them successes, in any order and with chunks mixed.
async fn collect(stream: Pipe, open: Open, mut left: u64) {
    let number = async || {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        u32::from_be_bytes(bytes)
    };
    let long = async || u64::from(number().await) << 32 | u64::from(number().await);
    while left > 0 {
        let (cookie, offset, len) = match number().await {
            NBD_SIMPLE_REPLY_MAGIC => {
                left -= 1;
                assert_eq!(number().await, 0, "an error");
                let cookie = long().await;
                match open.borrow().get(&cookie) {
                    Some((offset, data, _)) => (cookie, *offset, data.len()),
                    None => continue,
                }
            }
            NBD_STRUCTURED_REPLY_MAGIC => {
                let kind = number().await;
                left -= u64::from(kind >> 16 & u32::from(NBD_REPLY_FLAG_DONE));
                assert_eq!(kind as u16, NBD_REPLY_TYPE_OFFSET_DATA);
                let cookie = long().await;
                let len = number().await as usize - 8;
                (cookie, long().await, len)
            }
            magic => panic!("magic {magic:#x}: replies are mixed up"),
        };
        let mut part = vec![0; len];
        stream.read_exact(&mut part).await.unwrap();
        let mut open = open.borrow_mut();
        let (start, data, covered) = open.get_mut(&cookie).expect("a READ in progress");
        let at = (offset - *start) as usize;
        data[at..at + len].copy_from_slice(&part);
        *covered += len;
    }
}
