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
    /// Empty lists of buffers that had several pages, for the next such buffers.
    lists: Vec<Vec<Box<Page>>>,
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
                lists: Vec::new(),
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
        let pages = match count {
            0 => Pages::None,
            1 => Pages::One([self.page()]),
            2..=Buf::PAGES_MAX => {
                let mut list = self.lists.pop().unwrap_or_else(Pages::list);
                list.extend((0..count).map(|_| self.page()));
                Pages::Several(list)
            }
            _ => panic!("a buffer of {count} pages"),
        };
        Buf {
            pages,
            pool: Some(pool.clone()),
        }
    }

    fn page(&mut self) -> Box<Page> {
        self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            Page::new_box()
        })
    }

    fn take_back(&mut self, pages: Pages) {
        match pages {
            Pages::None => return,
            Pages::One([page]) => self.free.push(page),
            Pages::Several(mut list) => {
                self.free.append(&mut list);
                if self.lists.len() < LISTS_MAX && list.capacity() >= Buf::PAGES_MAX {
                    self.lists.push(list);
                }
            }
        }
        self.wake_first();
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
    pages: Pages,
    pool: Option<Pool>,
}

/// The pages of a buffer. A buffer moves through many hands, so it is four words; that of a single block, which most
/// are, needs no list.
#[derive(Default)]
enum Pages {
    #[default]
    None,
    One([Box<Page>; 1]),
    Several(Vec<Box<Page>>),
}

/// Empty lists that a pool keeps.
const LISTS_MAX: usize = 64;

const _: () = assert!(size_of::<Buf>() <= 4 * size_of::<usize>());

impl Pages {
    /// An empty list with room for the pages of any buffer.
    fn list() -> Vec<Box<Page>> {
        Vec::with_capacity(Buf::PAGES_MAX)
    }

    fn all(&self) -> &[Box<Page>] {
        match self {
            Self::None => &[],
            Self::One(page) => page,
            Self::Several(list) => list,
        }
    }

    fn all_mut(&mut self) -> &mut [Box<Page>] {
        match self {
            Self::None => &mut [],
            Self::One(page) => page,
            Self::Several(list) => list,
        }
    }

    fn into_list(self) -> Vec<Box<Page>> {
        match self {
            Self::None => Self::list(),
            Self::One([page]) => {
                let mut list = Self::list();
                list.push(page);
                list
            }
            Self::Several(list) => list,
        }
    }
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
    ///
    /// # Panics
    /// When `pages` is more than [`PAGES_MAX`](Self::PAGES_MAX).
    #[must_use]
    pub fn from_heap(pages: usize) -> Self {
        let pages = match pages {
            0 => Pages::None,
            1 => Pages::One([Page::new_box()]),
            2..=Self::PAGES_MAX => Pages::Several((0..pages).map(|_| Page::new_box()).collect()),
            _ => panic!("a buffer of {pages} pages"),
        };
        Self { pages, pool: None }
    }

    /// Length in blocks (= pages).
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.pages().len()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks() * BLOCK_SIZE
    }

    /// Whether there is no page in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages().is_empty()
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> &[Box<Page>] {
        self.pages.all()
    }

    /// The pages.
    pub fn pages_mut(&mut self) -> &mut [Box<Page>] {
        self.pages.all_mut()
    }

    /// The bytes of block `index`.
    ///
    /// # Panics
    /// When there are not that many blocks.
    #[must_use]
    pub fn block(&self, index: usize) -> &[u8; BLOCK_SIZE] {
        &self.pages()[index].bytes
    }

    /// The bytes of block `index`.
    ///
    /// # Panics
    /// When there are not that many blocks.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_SIZE] {
        &mut self.pages_mut()[index].bytes
    }

    /// Cuts the buffer in two: `self` keeps the first `blocks`, the rest is returned. Copies nothing.
    ///
    /// # Panics
    /// When there are fewer than `blocks` blocks.
    #[must_use]
    pub fn split_off(&mut self, blocks: usize) -> Self {
        assert!(blocks <= self.blocks(), "{blocks} blocks of {self:?}");
        let pages = if blocks == self.blocks() {
            Pages::None
        } else if blocks == 0 {
            core::mem::take(&mut self.pages)
        } else if let Pages::Several(list) = &mut self.pages {
            if blocks + 1 == list.len()
                && let Some(last) = list.pop()
            {
                return Self {
                    pages: Pages::One([last]),
                    pool: self.pool.clone(),
                };
            }
            let mut rest = Pages::list();
            rest.extend(list.drain(blocks..));
            Pages::Several(rest)
        } else {
            unreachable!("a single page has no middle")
        };
        Self {
            pages,
            pool: self.pool.clone(),
        }
    }

    /// Puts the pages of `rest` behind those of `self`. Both must come from the same pool (or none).
    ///
    /// # Panics
    /// When the two together exceed [`PAGES_MAX`](Self::PAGES_MAX).
    pub fn append(&mut self, mut rest: Self) {
        if rest.is_empty() {
            return;
        }
        if self.is_empty() {
            if self.pool.is_none() {
                self.pool.clone_from(&rest.pool);
            }
            self.pages = core::mem::take(&mut rest.pages);
            return;
        }
        let blocks = self.blocks() + rest.blocks();
        assert!(blocks <= Self::PAGES_MAX, "a buffer of {blocks} pages");
        let mut list = core::mem::take(&mut self.pages).into_list();
        match core::mem::take(&mut rest.pages) {
            Pages::None => {}
            Pages::One([page]) => list.push(page),
            Pages::Several(mut more) => list.append(&mut more),
        }
        self.pages = Pages::Several(list);
    }

    /// Sets every byte to zero.
    pub fn zero(&mut self) {
        for page in self.pages_mut() {
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
        if let Some(pool) = &self.pool {
            let pages = core::mem::take(&mut self.pages);
            pool.shared.borrow_mut().take_back(pages);
        }
    }
}

#[cfg(test)]
mod tests;
