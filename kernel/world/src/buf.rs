//! Page-aligned buffers, moved by value, from a bounded pool.
//!
//! A buffer is a rope of single pages: it is cut and joined without copying, its memory never fragments, and a PRP
//! list or a scatter list is just its list of pages. The image maps memory one to one, so any page can be given to a
//! device.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use alloc::collections::VecDeque;
use arrayvec::ArrayVec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a block and of a page.
pub const BLOCK_SIZE: usize = 4096;

/// One page of memory.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page {
    /// The bytes.
    pub bytes: [u8; BLOCK_SIZE],
}

impl Page {
    /// A new page of zeros from the heap.
    #[must_use]
    pub fn new_box() -> Box<Self> {
        Self::new_box_zeroed().unwrap_or_else(|_| panic!("out of memory: no page left"))
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Page")
    }
}

/// A bounded supply of pages. Cloning gives another handle to the same supply.
///
/// Waiters are served in the order of their arrival, so a large request is not starved by small ones.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    free: Vec<Box<Page>>,
    /// Pages that exist, free or not.
    made: usize,
    /// Pages that may exist.
    limit: usize,
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
}

struct Waiter {
    ticket: u64,
    waker: Waker,
}

impl Pool {
    /// A supply of at most `pages` pages. Memory is taken from the heap as it is first needed and then kept.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self {
            shared: Rc::new(RefCell::new(Shared {
                free: Vec::with_capacity(pages),
                made: 0,
                limit: pages,
                waiters: VecDeque::new(),
                next_ticket: 0,
            })),
        }
    }

    /// Takes a buffer of `pages` pages with arbitrary contents, waiting for its turn.
    ///
    /// Nobody may wait here while holding a buffer of the same pool.
    ///
    /// # Panics
    /// When `pages` is more than [`Buf::PAGES_MAX`] or than the whole pool.
    pub async fn take(&self, pages: usize) -> Buf {
        assert!(
            pages <= self.shared.borrow().limit,
            "a buffer larger than its pool"
        );
        let mut turn = Turn {
            pool: self,
            ticket: None,
        };
        poll_fn(|context| {
            let mut shared = self.shared.borrow_mut();
            let first = match (shared.waiters.front(), turn.ticket) {
                (None, _) => true,
                (Some(front), Some(ticket)) => front.ticket == ticket,
                (Some(_), None) => false,
            };
            if first && shared.available() >= pages {
                if turn.ticket.take().is_some() {
                    shared.waiters.pop_front();
                }
                let buf = shared.take(pages, self);
                // What is left may be enough for the next in line.
                shared.wake_first();
                return Poll::Ready(buf);
            }
            let waker = context.waker().clone();
            match turn.ticket {
                Some(ticket) => {
                    if let Some(waiter) = shared.waiters.iter_mut().find(|w| w.ticket == ticket) {
                        waiter.waker = waker;
                    }
                }
                None => {
                    let ticket = shared.next_ticket;
                    shared.next_ticket += 1;
                    shared.waiters.push_back(Waiter { ticket, waker });
                    turn.ticket = Some(ticket);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes a buffer at once, or `None` when that many pages are not free or others wait already.
    #[must_use]
    pub fn try_take(&self, pages: usize) -> Option<Buf> {
        let mut shared = self.shared.borrow_mut();
        (shared.waiters.is_empty() && shared.available() >= pages).then(|| shared.take(pages, self))
    }

    /// Pages that could be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.shared.borrow().available()
    }

    /// Pages in all.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.borrow().limit
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Pool({} of {} pages free)",
            self.available(),
            self.limit()
        )
    }
}

impl Shared {
    fn available(&self) -> usize {
        self.free.len() + (self.limit - self.made)
    }

    fn take(&mut self, count: usize, pool: &Pool) -> Buf {
        let mut pages = ArrayVec::new();
        for _ in 0..count {
            pages.push(self.free.pop().unwrap_or_else(|| {
                self.made += 1;
                Page::new_box()
            }));
        }
        Buf {
            pages,
            pool: Some(pool.clone()),
        }
    }

    fn wake_first(&self) {
        if let Some(front) = self.waiters.front() {
            front.waker.wake_by_ref();
        }
    }
}

/// A place in the queue of a pool; gives it up when the waiting future is dropped.
struct Turn<'a> {
    pool: &'a Pool,
    ticket: Option<u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut shared = self.pool.shared.borrow_mut();
            shared.waiters.retain(|waiter| waiter.ticket != ticket);
            shared.wake_first();
        }
    }
}

/// Pages of memory, owned by whoever holds it; returned to their pool when dropped.
#[derive(Default)]
pub struct Buf {
    pages: ArrayVec<Box<Page>, { Buf::PAGES_MAX }>,
    pool: Option<Pool>,
}

impl Buf {
    /// The most pages of one buffer: 128 KiB.
    pub const PAGES_MAX: usize = 32;

    /// An empty buffer that belongs to no pool.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A buffer of `pages` zeroed pages straight from the heap, outside any pool (set-up and tests).
    #[must_use]
    pub fn from_heap(pages: usize) -> Self {
        Self {
            pages: (0..pages).map(|_| Page::new_box()).collect(),
            pool: None,
        }
    }

    /// Length in blocks (= pages).
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.pages.len()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len() * BLOCK_SIZE
    }

    /// Whether there is no page in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> &[Box<Page>] {
        &self.pages
    }

    /// The pages.
    pub fn pages_mut(&mut self) -> &mut [Box<Page>] {
        &mut self.pages
    }

    /// The bytes of block `index`.
    ///
    /// # Panics
    /// When there are not that many blocks.
    #[must_use]
    pub fn block(&self, index: usize) -> &[u8; BLOCK_SIZE] {
        &self.pages[index].bytes
    }

    /// The bytes of block `index`.
    ///
    /// # Panics
    /// When there are not that many blocks.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_SIZE] {
        &mut self.pages[index].bytes
    }

    /// Cuts the buffer in two: `self` keeps the first `blocks`, the rest is returned. Copies nothing.
    ///
    /// # Panics
    /// When there are fewer than `blocks` blocks.
    #[must_use]
    pub fn split_off(&mut self, blocks: usize) -> Self {
        Self {
            pages: self.pages.drain(blocks..).collect(),
            pool: self.pool.clone(),
        }
    }

    /// Puts the pages of `rest` behind those of `self`. Both must come from the same pool (or none).
    ///
    /// # Panics
    /// When the two together exceed [`PAGES_MAX`](Self::PAGES_MAX).
    pub fn append(&mut self, mut rest: Self) {
        if self.pool.is_none() && self.pages.is_empty() {
            self.pool.clone_from(&rest.pool);
        }
        self.pages.extend(rest.pages.drain(..));
    }

    /// Sets every byte to zero.
    pub fn zero(&mut self) {
        for page in &mut self.pages {
            page.bytes.fill(0);
        }
    }

    /// Copies `bytes` to `offset` and following, across pages.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn copy_from(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = offset % BLOCK_SIZE;
            let count = bytes.len().min(BLOCK_SIZE - within);
            let (head, tail) = bytes.split_at(count);
            self.block_mut(offset / BLOCK_SIZE)[within..within + count].copy_from_slice(head);
            offset += count;
            bytes = tail;
        }
    }

    /// Copies the bytes from `offset` on into `bytes`, across pages.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn copy_to(&self, mut offset: usize, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let within = offset % BLOCK_SIZE;
            let count = bytes.len().min(BLOCK_SIZE - within);
            let (head, tail) = bytes.split_at_mut(count);
            head.copy_from_slice(&self.block(offset / BLOCK_SIZE)[within..within + count]);
            offset += count;
            bytes = tail;
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buf({} blocks)", self.blocks())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut shared = pool.shared.borrow_mut();
            shared.free.extend(self.pages.drain(..));
            shared.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
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
}
