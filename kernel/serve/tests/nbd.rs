//! NBD as clients see it: bytes in, bytes out, over a pipe and a store in memory.

#[path = "nbd/client.rs"]
mod client;
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

#[path = "nbd/fair.rs"]
mod fair;
#[path = "nbd/handshake.rs"]
mod handshake;
#[path = "nbd/hostile.rs"]
mod hostile;
#[path = "nbd/limits.rs"]
mod limits;
#[path = "nbd/requests.rs"]
mod requests;
#[path = "nbd/snapshots.rs"]
mod snapshots;
#[path = "nbd/status.rs"]
mod status;
#[path = "nbd/storm.rs"]
mod storm;

use client::Client;
use net::pipe::{PipeDialer, pipe_port};
use ram::{Bench, RamDisk};
use serve::nbd::{Limits, Server};
use volume::Volumes;
use wire::nbd::Headers;
use world::Pool;

/// 64 MiB, the size of the volume `demo`.
const SIZE: u64 = 64 << 20;

/// A server with the volume `demo`.
struct Rig {
    bench: Bench,
    port: PipeDialer,
    pool: Pool,
    volumes: Volumes<RamDisk>,
}

impl Rig {
    /// A server with a pool of the least size.
    fn new() -> Self {
        Self::with_pool(64)
    }

    fn with_pool(pages: usize) -> Self {
        Self::with_limits(pages, Limits::default())
    }

    fn with_limits(pages: usize, limits: Limits) -> Self {
        let bench = Bench::new();
        let volumes = Volumes::new(bench.store());
        let (listener, port) = pipe_port(64 << 10);
        let pool = Pool::new(pages);
        let exec = bench.exec.clone();
        let server = Server::new(exec, volumes.clone(), pool.clone(), limits);
        bench.exec.spawn(server.serve(listener));
        let demo = volumes.clone();
        bench.run(async move {
            demo.create("demo", SIZE).await.expect("create");
        });
        Self {
            bench,
            port,
            pool,
            volumes,
        }
    }

    /// Runs the story of one client, given a way to connect.
    fn story<F: Future<Output = ()> + 'static>(&self, story: impl FnOnce(PipeDialer) -> F) {
        self.bench.run(story(self.port.clone()));
        self.settle();
    }

    /// Lets the server notice that clients went; then nothing of the pool may be held.
    fn settle(&self) {
        let exec = self.bench.exec.clone();
        self.bench
            .run(async move { exec.sleep(std::time::Duration::from_secs(1)).await });
        assert_eq!(self.pool.available(), self.pool.limit(), "buffers leaked");
    }
}

/// Pseudo-random bytes.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    (0..len).map(|_| random.next() as u8).collect()
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

async fn attached(port: &PipeDialer, headers: Headers) -> Client {
    let mut client = Client::connect(port).await;
    client.negotiate(headers).await;
    client.go("demo").await;
    client
}
