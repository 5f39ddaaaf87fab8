//! What people see of a pool that gets full, and of what lists tell.

use std::time::Duration;

use serde_json::{Value, json};
use volume::{Access, Span, StoreError, VolumeError, Volumes};
use world::Buf;

use crate::Rig;
use crate::ram::Bench;

const BLOCK: u64 = 4096;

/// A rig whose pool is full after a few thousand blocks, with a volume that is larger.
fn rig() -> Rig {
    let bench = Bench::with_blocks(3 << 13);
    let store = bench.store();
    let rig = Rig::on(bench, Volumes::new(store));
    let body = r#"{"name":"big","size":1073741824}"#;
    assert_eq!(rig.call("POST", "/v1/volumes", Some(body)).status, 201);
    rig
}

impl Rig {
    fn pool(&self) -> Value {
        let pool = self.call("GET", "/v1/node", None).json()["pool"].take();
        let number = |key: &str| pool[key].as_u64().unwrap();
        assert_eq!(number("used") + number("free"), number("size"));
        assert!(number("writable") <= number("free"));
        pool
    }

    /// Writes `blocks` of `big` one by one; how many got through.
    fn put(&self, blocks: core::ops::Range<u64>) -> u64 {
        let volume = self.volumes.attach("big", Access::ReadWrite).unwrap();
        self.bench.run(async move {
            let mut served = 0;
            for block in blocks {
                let mut buf = Buf::from_heap(1);
                buf.block_mut(0).fill(block as u8 | 1);
                let span = Span {
                    offset: block * BLOCK,
                    len: 4096,
                };
                match volume.write(span, buf).await {
                    Ok(()) => served += 1,
                    Err(error) => assert_eq!(error, VolumeError::Store(StoreError::NoSpace)),
                }
            }
            served
        })
    }

    fn discard(&self, blocks: u64) {
        let volume = self.volumes.attach("big", Access::ReadWrite).unwrap();
        self.bench.run(async move {
            volume.discard(0, blocks * BLOCK).await.unwrap();
        });
        self.pass(Duration::from_secs(60));
    }
}

#[test]
fn a_pool_that_refuses_writes_says_so_until_it_takes_them_again() {
    let rig = rig();
    let pool = rig.pool();
    assert_eq!(pool["fullness"], "fine");
    let most = pool["writable"].as_u64().unwrap() / BLOCK;
    assert!(most > 1000, "{pool}");
    rig.measures(&["ferrite_pool_writable 1"]);

    // It gets full before so much was written, and every look finds what writes are told.
    let served = rig.put(0..most + 64);
    assert!(served < most + 64);
    let pool = rig.pool();
    assert_eq!(
        (&pool["fullness"], &pool["writable"]),
        (&json!("full"), &json!(0))
    );
    assert!(pool["free"].as_u64().unwrap() > 0, "{pool}");
    rig.measures(&["ferrite_pool_writable 0", "ferrite_pool_writable_bytes 0"]);

    // A block that finds a place does not make it another pool, and neither does time.
    rig.discard(8);
    rig.put(0..4);
    assert_eq!(rig.pool()["fullness"], "full");
    rig.pass(Duration::from_secs(600));
    assert_eq!(rig.pool()["fullness"], "full");

    // Nor does a restart, after which nobody was refused yet.
    while rig.put(0..64) > 0 {}
    let again = Volumes::new(rig.volumes.store().clone());
    assert_eq!(again.pool().fullness, volume::Fullness::Full);

    rig.discard(most);
    let pool = rig.pool();
    assert_eq!(pool["fullness"], "fine");
    rig.measures(&["ferrite_pool_writable 1"]);
    assert_eq!(rig.put(0..1000), 1000);

    // Nobody has to write before it is seen that there is room.
    rig.put(0..most + 64);
    assert_eq!(rig.pool()["fullness"], "full");
    rig.call("DELETE", "/v1/volumes/big", None);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.pool()["fullness"], "fine");
}

#[test]
fn lists_tell_what_one_volume_does_when_that_is_wanted() {
    let rig = rig();
    rig.call(
        "POST",
        "/v1/volumes/big/snapshots",
        Some(r#"{"name":"empty"}"#),
    );
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.put(0..10), 10);
    rig.call(
        "POST",
        "/v1/volumes/big/snapshots",
        Some(r#"{"name":"now"}"#),
    );
    let allocated = |path: &str, key: &str| {
        let list = rig.call("GET", path, None).json()[key].take();
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["allocated"].as_u64().unwrap() / BLOCK)
            .collect::<Vec<_>>()
    };
    assert_eq!(allocated("/v1/volumes", "volumes"), [0]);
    assert_eq!(allocated("/v1/volumes?exact=true", "volumes"), [10]);
    let snapshots = "/v1/volumes/big/snapshots";
    assert_eq!(
        allocated(&format!("{snapshots}?exact=true"), "snapshots"),
        [0, 10]
    );
    assert_eq!(rig.put(10..20), 10);
    rig.pass(Duration::from_secs(3));
    assert_eq!(allocated("/v1/volumes?exact=true", "volumes"), [20]);
    rig.call("GET", "/v1/volumes?exact=yes", None)
        .is_problem(400, "`exact`");
}
