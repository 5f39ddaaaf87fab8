//! Tests of buffers and pools.

use super::*;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::pin::pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Context;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_page_is_page_aligned() {
    let buf = Buf::from_heap(3);
    for page in buf.pages() {
        assert_eq!(core::ptr::from_ref(&**page) as usize % BLOCK_SIZE, 0);
    }
}

#[test]
fn split_and_append_keep_order_and_bytes() {
    let mut buf = Buf::from_heap(4);
    for index in 0..4 {
        buf.block_mut(index).fill(index as u8);
    }
    let rest = buf.split_off(1);
    assert_eq!((buf.blocks(), rest.blocks()), (1, 3));
    buf.append(rest);
    assert_eq!(
        (0..4).map(|i| buf.block(i)[7]).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
}

#[test]
fn buffers_are_cut_and_joined_anywhere() {
    let pool = Pool::new(8);
    for pages in 0..=4 {
        for cut in 0..=pages {
            let mut buf = pool.try_take(pages).unwrap();
            for index in 0..pages {
                buf.block_mut(index).fill(index as u8);
            }
            let rest = buf.split_off(cut);
            assert_eq!((buf.blocks(), rest.blocks()), (cut, pages - cut));
            buf.append(rest);
            let bytes = buf.pages().iter().map(|page| page.bytes[0]);
            assert!(bytes.eq(0..pages as u8), "{pages} cut at {cut}");
            drop(buf);
            assert_eq!(pool.available(), 8);
        }
    }
}

#[test]
#[should_panic(expected = "2 blocks of")]
fn a_buffer_is_not_cut_behind_its_end() {
    let _ = Buf::from_heap(1).split_off(2);
}

#[test]
fn copies_cross_page_borders() {
    let mut buf = Buf::from_heap(2);
    buf.copy_from(BLOCK_SIZE - 2, &[1, 2, 3, 4]);
    let mut back = [0; 6];
    buf.copy_to(BLOCK_SIZE - 3, &mut back);
    assert_eq!(back, [0, 1, 2, 3, 4, 0]);
}

#[test]
fn a_large_request_is_served_before_a_later_small_one() {
    let pool = Pool::new(4);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let held = pool.try_take(2).unwrap();
    let mut large = pin!(pool.take(4));
    let mut small = pin!(pool.take(1));
    assert!(large.as_mut().poll(&mut context).is_pending());
    assert!(small.as_mut().poll(&mut context).is_pending());
    assert!(pool.try_take(1).is_none(), "a newcomer must not overtake");
    drop(held);
    assert!(count.0.load(Ordering::Relaxed) > 0);
    assert!(small.as_mut().poll(&mut context).is_pending());
    let Poll::Ready(buf) = large.as_mut().poll(&mut context) else {
        panic!("not served")
    };
    drop(buf);
    assert!(small.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_dropped_waiter_gives_up_its_place() {
    let pool = Pool::new(1);
    let waker = Waker::noop();
    let mut context = Context::from_waker(waker);
    let held = pool.try_take(1).unwrap();
    {
        let mut first = pin!(pool.take(1));
        assert!(first.as_mut().poll(&mut context).is_pending());
    }
    drop(held);
    assert!(pool.try_take(1).is_some());
}
