//! Limits as clients feel them: theirs hold, and nobody else's requests are slower for them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use net::pipe::PipeDialer;
use volume::{Limits, Settings};
use wire::nbd::*;

use crate::client::{ALL, Answer, Client};
use crate::fair::take;
use crate::{Rig, attached};

const TEN_SECONDS: Duration = Duration::from_secs(10);

fn limited(iops: Option<u64>, rate_bytes: Option<u64>) -> Settings {
    Settings {
        limits: Limits { iops, rate_bytes },
        ..Settings::default()
    }
}

/// Goes on asking until it is told to stop, and tells how many requests were answered.
async fn busy(
    port: PipeDialer,
    headers: Headers,
    command: u16,
    len: u64,
    stop: Rc<Cell<bool>>,
) -> u64 {
    let mut client = attached(&port, headers).await;
    let (mut answered, data) = (0, vec![7; len as usize]);
    while !stop.get() {
        let offset = answered % 16 * len;
        let answer = match command {
            NBD_CMD_READ => client.read(offset, len).await,
            NBD_CMD_WRITE => client.write(offset, &data).await,
            _ => client.command(command, 0, offset, len).await,
        };
        assert!(!matches!(answer, Answer::Error(_)), "{answer:?}");
        answered += 1;
    }
    client.bye().await;
    answered
}

/// What clients who are busy for ten seconds, each with such a request, get of the limited `demo`.
fn done(rig: &Rig, settings: Settings, clients: Vec<(Headers, u16, u64)>) -> Vec<u64> {
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    let port = rig.port.clone();
    rig.bench.run(async move {
        volumes.set("demo", settings).await.unwrap();
        let stop = Rc::new(Cell::new(false));
        let all = clients
            .into_iter()
            .map(|(headers, command, len)| busy(port.clone(), headers, command, len, stop.clone()));
        let clock = async {
            exec.sleep(TEN_SECONDS).await;
            stop.set(true);
        };
        exec::futures_util::future::join(exec::join_all(all), clock)
            .await
            .0
    })
}

fn is_close(is: u64, wanted: u64) -> bool {
    is * 100 >= wanted * 95 && is * 100 <= wanted * 105
}

#[test]
fn requests_in_a_second_are_as_many_as_the_limit_says() {
    for headers in ALL {
        for command in [
            NBD_CMD_READ,
            NBD_CMD_WRITE,
            NBD_CMD_TRIM,
            NBD_CMD_WRITE_ZEROES,
        ] {
            let rig = Rig::new();
            let done = done(
                &rig,
                limited(Some(200), None),
                vec![(headers, command, 4096); 3],
            );
            let sum: u64 = done.iter().sum();
            assert!(is_close(sum, 2000), "{headers:?} {command}: {sum}");
            assert!(
                done.iter().all(|one| is_close(*one, 2000 / 3)),
                "not fair: {done:?}"
            );
            rig.settle();
        }
    }
}

#[test]
fn bytes_in_a_second_are_as_many_as_the_limit_says() {
    for headers in ALL {
        for command in [NBD_CMD_READ, NBD_CMD_WRITE] {
            for len in [4096, 1 << 20] {
                let rig = Rig::new();
                let done = done(
                    &rig,
                    limited(None, Some(10 << 20)),
                    vec![(headers, command, len)],
                );
                let bytes = done[0] * len;
                assert!(is_close(bytes, 100 << 20), "{headers:?} {command}: {bytes}");
            }
        }
    }
}

/// Others write, trim and flush as if nobody waited, though limited clients have more under way than there is memory for.
#[test]
fn whoever_is_limited_is_in_nobodys_way() {
    let rig = Rig::new();
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    rig.story(async move |port| {
        volumes.create("other", 1 << 20).await.unwrap();
        volumes
            .set("demo", limited(Some(1), Some(64 << 10)))
            .await
            .unwrap();
        let mut limited = Vec::new();
        for _ in 0..8 {
            let mut client = attached(&port, Headers::Simple).await;
            for index in 0..8 {
                client.send(NBD_CMD_READ, 0, index << 20, 1 << 20).await;
            }
            limited.push(client);
        }
        exec.yield_now().await;
        let begun = exec.now();
        let mut other = Client::connect(&port).await;
        other.negotiate(Headers::Structured).await;
        other.go("other").await;
        for round in 0..100 {
            assert_eq!(other.write(round * 4096, &[1; 4096]).await, Answer::Done);
            let trim = other.command(NBD_CMD_TRIM, 0, round * 4096, 4096).await;
            assert_eq!(trim, Answer::Done);
            assert_eq!(other.command(NBD_CMD_FLUSH, 0, 0, 0).await, Answer::Done);
        }
        assert_eq!(exec.now(), begun, "somebody waited");
        other.bye().await;
        // A limit that is lifted is lifted for what waits, too.
        volumes.set("demo", Settings::default()).await.unwrap();
        let readers = limited.into_iter().map(async |client| {
            take(&client.stream, 8, 1 << 20, &Cell::new(0)).await;
            client.bye().await;
        });
        exec::join_all(readers).await;
        assert_eq!(exec.now(), begun, "somebody still waits");
    });
}

#[test]
fn a_flush_costs_nothing() {
    let rig = Rig::new();
    let (volumes, exec) = (rig.volumes.clone(), rig.bench.exec.clone());
    rig.story(async move |port| {
        volumes.set("demo", limited(Some(1), None)).await.unwrap();
        let mut client = attached(&port, Headers::Structured).await;
        for _ in 0..100 {
            assert_eq!(client.command(NBD_CMD_FLUSH, 0, 0, 0).await, Answer::Done);
        }
        assert_eq!(exec.now().as_nanos(), 0);
        client.bye().await;
    });
}
