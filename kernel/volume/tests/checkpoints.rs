//! What an idle pool does of its own accord.

mod ram;

use core::time::Duration;

use ram::Bench;
use volume::{Access, Span, Volumes};
use world::Buf;

/// No change waits longer for its checkpoint.
const DIRTY_MAX: Duration = Duration::from_secs(30);

const MARGIN: Duration = Duration::from_secs(2);

#[test]
fn the_last_change_before_a_pool_falls_idle_gets_its_checkpoint_in_time() {
    let bench = Bench::new();
    let volumes = Volumes::new(bench.store());
    let exec = bench.exec.clone();
    bench.run(async move {
        for change in ["a new volume", "a write", "a discard"] {
            // What the change before left to give back.
            exec.sleep(2 * DIRTY_MAX).await;
            let before = volumes.store().pool().checkpoints;
            if change == "a new volume" {
                volumes.create("a", 1 << 20).await.unwrap();
            }
            let volume = volumes.attach("a", Access::ReadWrite).unwrap();
            let span = Span {
                offset: 0,
                len: 4096,
            };
            match change {
                "a write" => volume.write(span, Buf::from_heap(1)).await.unwrap(),
                "a discard" => volume.discard(0, 4096).await.unwrap(),
                _ => {}
            }
            exec.sleep(DIRTY_MAX - MARGIN).await;
            let early = volumes.store().pool().checkpoints;
            assert_eq!(early, before, "{change}: nothing is in a hurry");
            exec.sleep(2 * MARGIN).await;
            let after = volumes.store().pool().checkpoints;
            assert!(after > before, "{change} is in no checkpoint");
        }
    });
}
