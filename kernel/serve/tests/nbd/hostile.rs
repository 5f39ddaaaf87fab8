//! Clients that mean no good, or are broken: they lose their own connection, nobody else's.

use std::time::Duration;

use net::Stream;
use wire::nbd::*;

use crate::client::{Answer, Client};
use crate::{Random, Rig, attached, noise};

#[test]
fn a_wrong_magic_ends_the_connection() {
    Rig::new().story(async |port| {
        let client = Client::connect(&port).await;
        client
            .stream
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        assert!(client.is_closed().await);

        let client = attached(&port, Headers::Structured).await;
        client
            .stream
            .write_all(&[0x25; Request::LEN])
            .await
            .unwrap();
        assert!(client.is_closed().await);

        let client = Client::raw(&port).await;
        client.stream.write_all(&[0, 0, 0, 0x83]).await.unwrap();
        assert!(client.is_closed().await);
    });
}

#[test]
fn payloads_beyond_the_limit_end_the_connection() {
    Rig::new().story(async |port| {
        let mut client = attached(&port, Headers::Structured).await;
        client.send(NBD_CMD_WRITE, 0, 0, (32 << 20) + 512).await;
        assert!(client.is_closed().await);

        let client = Client::connect(&port).await;
        let (option, len) = (NBD_OPT_GO, u32::MAX);
        let head = OptionHead { option, len };
        client.stream.write_all(&head.encode()).await.unwrap();
        assert!(client.is_closed().await);

        let client = Client::connect(&port).await;
        client.send_option(NBD_OPT_EXPORT_NAME, &[b'a'; 4097]).await;
        assert!(client.is_closed().await);
    });
}

#[test]
fn a_silent_handshake_is_ended() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let client = Client::connect(&port).await;
        let start = exec.now();
        assert!(client.is_closed().await);
        assert_eq!(exec.now().since(start), Duration::from_secs(30));
    });
}

#[test]
fn connections_beyond_the_limit_are_reset_and_room_comes_back() {
    Rig::new().story(async |port| {
        let mut all = Vec::new();
        for _ in 0..64 {
            all.push(attached(&port, Headers::Structured).await);
        }
        assert!(port.connect().unwrap().read(&mut [0]).await.is_err());
        all.pop().unwrap().bye().await;
        // The server's side ends a moment later than the client's.
        while port.connect().unwrap().read(&mut [0; 18]).await != Ok(18) {}
        for client in all {
            client.bye().await;
        }
    });
}

/// Neither side of this client moves: it asks for much and reads nothing, and sends half of a payload. Another client
/// is served with the rest of the smallest pool, and once memory is short the first is cut off.
#[test]
fn a_client_that_stops_reading_is_cut_off_when_memory_is_short() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let mut other = attached(&port, Headers::Structured).await;
        let data = noise(4 << 20, 9);
        for half in [0, 4 << 20] {
            assert_eq!(other.write(half, &data).await, Answer::Done);
        }
        let mut stuck = attached(&port, Headers::Structured).await;
        for index in 0..8 {
            stuck.send(NBD_CMD_READ, 0, index << 20, 1 << 20).await;
        }
        assert_eq!(other.write(0, &data).await, Answer::Done);
        assert_eq!(other.read(0, 4 << 20).await, Answer::Data(data.clone()));
        assert_eq!(
            exec.now().as_nanos(),
            0,
            "nobody had to wait for the stuck one"
        );

        let mut half = attached(&port, Headers::Structured).await;
        half.send(NBD_CMD_WRITE, 0, 0, 1 << 20).await;
        half.stream.write_all(&data[..1000]).await.unwrap();
        exec.sleep(Duration::from_millis(1)).await;
        assert_eq!(other.read(0, 4 << 20).await, Answer::Data(data));
        let waited = exec.now().as_nanos() / 1_000_000_000;
        assert!((4..=6).contains(&waited), "served after {waited} s");
        assert!(
            stuck.is_cut_off().await,
            "the one that stood longest in the way"
        );
        half.stream.abort();
        other.bye().await;
    });
}

/// A client that is merely slow keeps its connection while nobody needs the memory.
#[test]
fn a_paused_client_is_waited_for() {
    let rig = Rig::with_pool(256);
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let mut client = attached(&port, Headers::Structured).await;
        let data = noise(1 << 20, 3);
        assert_eq!(client.write(0, &data).await, Answer::Done);
        let cookie = client.send(NBD_CMD_READ, 0, 0, 1 << 20).await;
        exec.sleep(Duration::from_secs(60)).await;
        let (_, answer) = client.reply(Some((cookie, 0, 1 << 20))).await;
        assert_eq!(answer, Answer::Data(data));
        client.bye().await;
    });
}

/// One that does move, but a byte at a time, would keep a piece's memory for days.
#[test]
fn a_client_that_sends_drop_by_drop_is_cut_off() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let mut client = attached(&port, Headers::Structured).await;
        client.send(NBD_CMD_WRITE, 0, 0, 1 << 20).await;
        let start = exec.now();
        for _ in 0..1000 {
            if client.stream.write_all(&[1]).await.is_err() {
                break;
            }
            exec.sleep(Duration::from_millis(500)).await;
        }
        let lasted = exec.now().since(start).as_secs();
        assert!((119..=122).contains(&lasted), "cut off after {lasted} s");
    });
}

/// Valid sessions with bytes flipped, cut, repeated and inserted. The server must survive all, and serve a proper
/// client afterwards.
#[test]
fn noise_hurts_nobody_else() {
    let rig = Rig::new();
    let exec = rig.bench.exec.clone();
    rig.story(async move |port| {
        let valid = valid_session();
        let mut random = Random(0x5eed);
        for _ in 0..3000 {
            let mut bytes = valid.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            let stream = port.connect().unwrap();
            let reader = stream.clone();
            exec.spawn(async move {
                let mut sink = [0; 4096];
                while matches!(reader.read(&mut sink).await, Ok(1..)) {}
            });
            let _ = stream.write_all(&bytes).await;
            stream.finish();
            for _ in 0..4 {
                exec.yield_now().await;
            }
        }
        exec.sleep(Duration::from_secs(200)).await;
        let mut client = attached(&port, Headers::Structured).await;
        assert_eq!(client.write(0, &[3; 512]).await, Answer::Done);
        assert_eq!(client.read(0, 512).await, Answer::Data(vec![3; 512]));
        client.bye().await;
    });
}

fn valid_session() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    let mut option = |option, data: &[u8]| {
        let len = data.len() as u32;
        bytes.extend(OptionHead { option, len }.encode());
        bytes.extend(data);
    };
    option(NBD_OPT_LIST, &[]);
    option(NBD_OPT_STRUCTURED_REPLY, &[]);
    option(
        NBD_OPT_GO,
        &crate::client::info_data("demo", &[NBD_INFO_BLOCK_SIZE]),
    );
    for (command, flags, offset, len) in [
        (NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 512, 1024),
        (NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 140_000 / 512 * 512),
        (NBD_CMD_READ, 0, 512, 1 << 20),
        (NBD_CMD_TRIM, 0, 0, 65536),
        (NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 4096, 8192),
        (NBD_CMD_CACHE, 0, 0, 65536),
        (NBD_CMD_FLUSH, 0, 0, 0),
        (NBD_CMD_DISC, 0, 0, 0),
    ] {
        let request = Request {
            flags,
            command,
            cookie: 1,
            offset,
            len,
        };
        bytes.extend(request.encode());
        if command == NBD_CMD_WRITE {
            bytes.extend(vec![0xaa; len as usize]);
        }
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(5) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at.max(1)),
        3 => bytes.insert(at, random.next() as u8),
        _ => {
            let end = (at + random.below(40) as usize).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
    }
}
