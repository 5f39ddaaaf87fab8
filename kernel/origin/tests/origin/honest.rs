//! Our own server as an origin.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::join_all;
use net::NetError;
use net::pipe::{Pipe, PipeDialer, pipe_port};
use origin::{Connect, NbdOrigins};
use serve::nbd::{Limits, Server};
use volume::{Access, Origin, OriginError, Origins, Volumes};
use world::Pool;

use crate::ram::{Bench, RamDisk};
use crate::{address, bytes, dirty, extents};

const BLOCK: u64 = 4096;
/// 16 MiB and a bit.
const SIZE: u64 = (16 << 20) + 1536;

struct Port(PipeDialer);

impl Connect for Port {
    type Stream = Pipe;

    async fn connect(&self, _: SocketAddr) -> Result<Pipe, NetError> {
        self.0.connect()
    }
}

/// A server with an empty volume `demo`, and what opens its exports.
fn rig() -> (Bench, Volumes<RamDisk>, NbdOrigins<Port>) {
    let bench = Bench::new();
    let volumes = Volumes::new(bench.store());
    let (listener, port) = pipe_port(64 << 10);
    let (exec, pool) = (bench.exec.clone(), Pool::new(128));
    let server = Server::new(exec, volumes.clone(), pool, Limits::default());
    bench.exec.spawn(server.serve(listener));
    let demo = volumes.clone();
    bench.run(async move {
        demo.create("demo", SIZE).await.expect("create");
    });
    let origins = NbdOrigins::new(bench.exec.clone(), Port(port));
    (bench, volumes, origins)
}

/// Writes `count` blocks at `block`; returns them.
async fn write(volumes: &Volumes<RamDisk>, block: u64, count: usize, seed: u8) -> Vec<u8> {
    let volume = volumes.attach("demo", Access::ReadWrite).expect("attach");
    let mut buf = dirty(count);
    for (index, page) in buf.pages_mut().iter_mut().enumerate() {
        page.bytes.fill(seed.wrapping_add(index as u8).max(1));
    }
    let written = bytes(&buf);
    let span = volume::Span {
        offset: block * BLOCK,
        len: (count as u64 * BLOCK) as u32,
    };
    volume.write(span, buf).await.expect("a write");
    written
}

async fn whole(origin: &Rc<dyn Origin>) -> Vec<u8> {
    let reads = (0..SIZE.div_ceil(32 * BLOCK)).map(|index| {
        let origin = origin.clone();
        async move { origin.read(index * 32 * BLOCK, dirty(32)).await }
    });
    let parts = join_all(reads).await;
    let parts = parts.into_iter().map(|part| bytes(&part.expect("a read")));
    parts.collect::<Vec<_>>().concat()
}

#[test]
fn a_volume_is_read_as_it_was_written_and_a_snapshot_as_it_was() {
    let (bench, volumes, origins) = rig();
    let exec = bench.exec.clone();
    bench.run(async move {
        let mut expected = vec![0; SIZE.next_multiple_of(32 * BLOCK) as usize];
        for (block, count, seed) in [(0, 1, 9), (31, 2, 20), (1000, 32, 30), (2047, 16, 70)] {
            let written = write(&volumes, block, count, seed).await;
            let at = (block * BLOCK) as usize;
            expected[at..at + written.len()].copy_from_slice(&written);
        }
        let origin = origins.open(&address("demo")).await.expect("an origin");
        assert_eq!(origin.size_bytes(), SIZE);
        assert!(whole(&origin).await == expected);
        volumes
            .create_snapshot("demo", "s")
            .await
            .expect("a snapshot");
        write(&volumes, 5, 1, 99).await;
        let snapshot = origins.open(&address("demo@s")).await.expect("an origin");
        assert!(whole(&snapshot).await == expected);
        let changed = origin.read(5 * BLOCK, dirty(1)).await.expect("a read");
        assert_eq!(bytes(&changed), [99; BLOCK as usize]);
        let told = extents(&*origin, 0, SIZE).await.unwrap();
        let runs = [
            (1, false),
            (4, true),
            (1, false),
            (25, true),
            (2, false),
            (967, true),
            (32, false),
            (1015, true),
            (16, false),
        ];
        let mut runs: Vec<_> = runs.map(|(count, is)| (count * BLOCK, is)).to_vec();
        runs.push((SIZE - 2063 * BLOCK, true));
        assert_eq!(told, runs);
        drop((origin, snapshot));
        // Nobody is attached any more.
        exec.sleep(Duration::from_millis(1)).await;
        volumes.delete("demo", false).await.expect("delete");
    });
}

#[test]
fn what_is_not_there_is_told() {
    let (bench, volumes, origins) = rig();
    bench.run(async move {
        for export in ["nobody", "demo@none", &"x".repeat(5000)] {
            let refused = origins.open(&address(export)).await.err();
            assert_eq!(refused, Some(OriginError::NoExport), "{export}");
        }
        // It goes away while it is read.
        let origin = origins.open(&address("demo")).await.expect("an origin");
        volumes.delete("demo", true).await.expect("delete");
        let read = origin.read(0, dirty(1)).await.err();
        assert!(
            matches!(read, Some(OriginError::Failed(_) | OriginError::NoExport)),
            "{read:?}"
        );
    });
}
