//! The drive against its own promises.

use core::pin::pin;
use core::task::{Context, Poll, Waker};

use super::*;

struct Bench {
    clock: Rc<VirtualClock>,
    disk: SimDisk,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let clock = Rc::new(VirtualClock::default());
        let latency = Latency {
            transfer_min: 10,
            transfer_max: 1000,
            flush_max: 2000,
            outliers: 0,
            stalls: 0,
        };
        let disk = SimDisk::new(
            1 << 28,
            0,
            latency,
            Random::new(seed),
            clock.clone(),
            Rc::new(Trace::default()),
            Rc::default(),
        );
        Self { clock, disk }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            let deadline = self.disk.next_deadline().expect("nothing to wait for");
            self.clock.advance_to(deadline);
            self.disk.poll();
        }
    }

    async fn write(&self, at: BlockAddr, fill: u8) {
        let mut buf = Buf::from_heap(1);
        buf.block_mut(0).fill(fill);
        self.disk.write(at, buf).await.1.expect("write");
    }

    fn read(&self, at: BlockAddr) -> Vec<u8> {
        let (buf, result) = self.run(self.disk.read(at, Buf::from_heap(1)));
        result.expect("read");
        buf.block(0).to_vec()
    }
}

#[test]
fn reads_see_the_last_write_and_zeros_elsewhere() {
    let bench = Bench::new(1);
    bench.run(bench.write(1 << 27, 7));
    assert!(bench.read(1 << 27).iter().all(|byte| *byte == 7));
    assert!(bench.read(5).iter().all(|byte| *byte == 0));
}

#[test]
fn a_flushed_write_survives_every_cut() {
    for seed in 0..200 {
        let bench = Bench::new(seed);
        bench.run(async {
            bench.write(3, 1).await;
            bench.disk.flush().await.expect("flush");
        });
        bench.disk.cut_power();
        assert!(
            bench.read(3).iter().all(|byte| *byte == 1),
            "seed {seed:#x}"
        );
    }
}

#[test]
fn an_unflushed_write_may_survive_vanish_or_tear_at_sectors() {
    let mut seen = [false; 3];
    for seed in 0..200 {
        let bench = Bench::new(seed);
        bench.run(bench.write(3, 1));
        bench.disk.cut_power();
        let block = bench.read(3);
        for sector in block.chunks(512) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "torn inside a sector"
            );
        }
        let new = block.iter().filter(|byte| **byte == 1).count();
        seen[match new {
            0 => 0,
            4096 => 1,
            _ => 2,
        }] = true;
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn a_flush_covers_only_what_completed_before_it() {
    // A write in flight when the flush was submitted may be lost although the flush completed after it.
    let lost = (0..300).any(|seed| {
        let bench = Bench::new(seed);
        bench.run(async {
            let write = pin!(bench.write(3, 1));
            let flush = pin!(bench.disk.flush());
            exec::join_all([
                Box::pin(write) as std::pin::Pin<Box<dyn Future<Output = ()>>>,
                Box::pin(async { flush.await.expect("flush") }),
            ])
            .await;
        });
        bench.disk.cut_power();
        bench.read(3)[0] == 0
    });
    assert!(lost);
}

#[test]
fn of_two_unflushed_versions_the_older_may_survive() {
    let survivors: std::collections::BTreeSet<u8> = (0..300)
        .map(|seed| {
            let bench = Bench::new(seed);
            bench.run(async {
                bench.write(3, 1).await;
                bench.write(3, 2).await;
            });
            bench.disk.cut_power();
            bench.read(3)[0]
        })
        .collect();
    assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_write_in_flight_may_reach_the_medium() {
    let reached = (0..100).any(|seed| {
        let bench = Bench::new(seed);
        {
            let mut write = pin!(bench.write(3, 1));
            let mut context = Context::from_waker(Waker::noop());
            assert!(write.as_mut().poll(&mut context).is_pending());
            bench.disk.cut_power();
        }
        bench.read(3)[0] == 1
    });
    assert!(reached);
}

#[test]
fn an_unreadable_block_is_healed_by_writing_it() {
    let bench = Bench::new(1);
    bench.disk.set_faults(Faults {
        unreadable: 1_000_000,
        ..Faults::default()
    });
    bench.run(bench.write(3, 1));
    let (_, result) = bench.run(bench.disk.read(3, Buf::from_heap(1)));
    assert_eq!(result, Err(DiskError::Media));
    bench.disk.set_faults(Faults::default());
    bench.run(bench.write(3, 2));
    assert_eq!(bench.read(3)[0], 2);
}
