//! Many clients at a time.

use alloc::rc::Rc;
use core::cell::Cell;

use world::{BLOCK_SIZE, Buf};

use super::lab::Lab;
use crate::api::Span;

/// Each of these needs a page for the block around it, a page for every map node, and the journal: nobody may hold one of
/// the pool's pages meanwhile.
#[test]
fn more_partial_changes_than_the_pool_has_pages_come_to_an_end() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let changes = 3 * lab.environment().pool.limit() as u64;
    let done = Rc::new(Cell::new(0));
    let making = store.clone();
    let volume = lab
        .run(async move { making.create_volume("v", 40 << 20).await })
        .unwrap()
        .id;
    for block in 0..changes {
        let (store, done) = (store.clone(), done.clone());
        lab.exec.spawn(async move {
            let offset = block * BLOCK_SIZE as u64 + 512;
            if block % 2 == 0 {
                store.discard(volume, offset, 512).await.unwrap();
            } else {
                let span = Span { offset, len: 512 };
                let from = Buf::from_heap(1);
                store.write(volume, span, from).await.unwrap();
            }
            done.set(done.get() + 1);
        });
    }
    let (exec, seen) = (lab.exec.clone(), done.clone());
    lab.run(async move {
        while seen.get() < changes {
            exec.sleep(core::time::Duration::from_millis(1)).await;
            assert!(
                exec.now().as_nanos() < 60_000_000_000,
                "{} are done",
                seen.get()
            );
        }
        store.flush().await.unwrap();
    });
    lab.expect_sound();
}
