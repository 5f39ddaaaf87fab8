//! Commands on their way: one slot each, so that nothing is allocated for a request.
//!
//! ```text
//!         start                complete
//!  Free ────────► Sent ────────────────────► Ended ─── take ───► Free
//!                  │ │ request dropped          ▲
//!                  │ └──► Abandoned ── complete ─► Free
//!                  └─ controller stopped ──────► Ended
//! ```
//!
//! A request keeps its memory itself while the controller uses it (pages never move), and leaves it here only when it
//! is dropped before the controller is done.
//!
//! Requests that are neighbours on the drive and arrive together are one command. Its slot is that of the first of them; the slots
//! of the others hang on it and end with it. An error of such a command says nothing of which request it is for, so each is
//! sent once more alone.
//!
//! A command's id is its slot's index and a generation that changes with each use, so a completion that comes twice or
//! late is told from the right one.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;

use hal::dma::{self, DmaBuf, PAGE_SIZE};
use world::{Buf, DiskError, Instant};

use crate::command::Completion;

/// The most slots of a queue; an index takes this many bits of a command id.
pub const SLOTS_MAX: u16 = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 8;
/// Generations wrap here, which keeps the id 0xffff, reserved for error logs, from ever being used.
const GENERATION_MASK: u16 = 0x7f;

/// Bytes of a slot's list: one address for each page of a full buffer, or as many bytes of ranges.
const LIST_BYTES: usize = Buf::PAGES_MAX * 8;
/// The most ranges of one Deallocate, 16 bytes each.
pub const RANGES_MAX: usize = LIST_BYTES / 16;
// A list that does not cross a page needs no chaining, and a page holds a whole number of them.
const _: () = assert!(PAGE_SIZE.is_multiple_of(LIST_BYTES));

/// One range of a Deallocate, in logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub count: u32,
}

/// What a command works on.
#[derive(Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// Memory of the caller.
    Pages(Buf),
    /// Contiguous memory of the driver itself.
    Queue(u64),
    /// Ranges, at most [`RANGES_MAX`].
    Ranges(Vec<Range>),
}

/// How a command ended: with a completion, or without one.
pub type Outcome = Result<Completion, DiskError>;

/// What is known when a command has ended.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// The controller does not touch the command's memory any more. If this is not certain, it must never be freed.
    pub is_memory_free: bool,
    /// The command was for other requests, too.
    pub is_shared: bool,
}

enum State {
    Free,
    Sent,
    Abandoned,
    Ended(Answer),
}

struct Slot {
    state: State,
    generation: u16,
    /// What an abandoned command left behind.
    pages: Buf,
    deadline: Instant,
    waker: Option<Waker>,
    /// The next request of the same command.
    next: Option<u16>,
    /// Not the first request of its command: its id is on no ring.
    is_joined: bool,
}

/// The slots of one queue, and who waits for one.
pub struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    lists: DmaBuf,
    waiters: VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

impl Slots {
    /// `count` free slots.
    pub fn new(count: u16) -> Self {
        assert!(count <= SLOTS_MAX, "more slots than ids");
        let slot = |_| Slot {
            state: State::Free,
            generation: 0,
            pages: Buf::empty(),
            deadline: Instant::ZERO,
            waker: None,
            next: None,
            is_joined: false,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            lists: DmaBuf::new((usize::from(count) * LIST_BYTES).div_ceil(PAGE_SIZE)),
            waiters: VecDeque::with_capacity(usize::from(count)),
            next_ticket: 0,
        }
    }

    /// Whether every slot is free.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes a free slot if it is this caller's turn: there is one, and nobody came earlier. `ticket` is the caller's
    /// place in line, if it has one.
    pub fn acquire(&mut self, ticket: &mut Option<u64>) -> Option<u16> {
        let first = match (self.waiters.front(), *ticket) {
            (None, _) => true,
            (Some((front, _)), Some(mine)) => *front == mine,
            (Some(_), None) => false,
        };
        if !first {
            return None;
        }
        let index = self.free.pop()?;
        if ticket.take().is_some() {
            self.waiters.pop_front();
        }
        // What is left may be enough for the next in line.
        self.wake_first();
        Some(index)
    }

    /// Waits in line for a slot.
    pub fn wait(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        let mine = *ticket.get_or_insert_with(|| {
            let mine = self.next_ticket;
            self.next_ticket += 1;
            self.waiters.push_back((mine, waker.clone()));
            mine
        });
        if let Some(waiter) = self.waiters.iter_mut().find(|waiter| waiter.0 == mine) {
            waiter.1.clone_from(waker);
        }
    }

    /// Gives up a place in line.
    pub fn leave(&mut self, ticket: u64) {
        self.waiters.retain(|waiter| waiter.0 != ticket);
        self.wake_first();
    }

    fn wake_first(&self) {
        if !self.free.is_empty()
            && let Some((_, waker)) = self.waiters.front()
        {
            waker.wake_by_ref();
        }
    }

    /// Lends the command's memory to the controller. Returns the command's id and its two PRPs.
    pub fn start(
        &mut self,
        index: u16,
        payload: &mut Payload,
        deadline: Instant,
    ) -> (u16, [u64; 2]) {
        let at = usize::from(index) * LIST_BYTES;
        let slot = &mut self.slots[usize::from(index)];
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        slot.state = State::Sent;
        slot.deadline = deadline;
        let list = self.lists.device_address() + at as u64;
        let prp = match payload {
            Payload::None => [0; 2],
            Payload::Queue(address) => [*address, 0],
            Payload::Pages(pages) => {
                let first = lend(pages, &self.lists, at, 0);
                prps(first.unwrap_or(0), pages.blocks(), &self.lists, at)
            }
            Payload::Ranges(ranges) => {
                for (index, range) in ranges.iter().take(RANGES_MAX).enumerate() {
                    let at = at + index * 16;
                    self.lists.write32(at, 0);
                    self.lists.write32(at + 4, range.count);
                    self.lists.write64(at + 8, range.lba);
                }
                [list, 0]
            }
        };
        (slot.generation << INDEX_BITS | index, prp)
    }

    /// Lends the memory of one request more to the command of slot `first`, whose last request is in slot `last` and which has
    /// `pages` pages so far, the first of them at `address`. Returns the command's two PRPs.
    pub fn join(
        &mut self,
        index: u16,
        (first, last): (u16, u16),
        (address, pages): (u64, usize),
        payload: &mut Buf,
        deadline: Instant,
    ) -> [u64; 2] {
        let at = usize::from(first) * LIST_BYTES;
        self.slots[usize::from(last)].next = Some(index);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Sent;
        slot.deadline = deadline;
        slot.is_joined = true;
        lend(payload, &self.lists, at, pages);
        prps(address, pages + payload.blocks(), &self.lists, at)
    }

    /// Records a completion. `Err` when no command of that id is on its way.
    pub fn complete(&mut self, completion: Completion) -> Result<(), ()> {
        let index = completion.id & (SLOTS_MAX - 1);
        let generation = completion.id >> INDEX_BITS;
        let slot = self.slots.get_mut(usize::from(index)).ok_or(())?;
        if slot.generation != generation || slot.is_joined {
            return Err(());
        }
        if !matches!(slot.state, State::Sent | State::Abandoned) {
            return Err(());
        }
        let answer = Answer {
            outcome: Ok(completion),
            is_memory_free: true,
            is_shared: slot.next.is_some(),
        };
        let mut next = Some(index);
        while let Some(index) = next {
            next = self.slots[usize::from(index)].next.take();
            self.end(index, answer);
        }
        Ok(())
    }

    fn end(&mut self, index: u16, answer: Answer) {
        let slot = &mut self.slots[usize::from(index)];
        match slot.state {
            State::Sent => slot.end(answer),
            State::Abandoned => {
                slot.drop_pages(answer.is_memory_free);
                self.release(index);
            }
            State::Free | State::Ended(_) => {}
        }
    }

    /// Takes the answer of a command that has one, and frees the slot.
    pub fn take(&mut self, index: u16, waker: &Waker) -> Option<Answer> {
        let slot = &mut self.slots[usize::from(index)];
        if let State::Ended(answer) = slot.state {
            self.release(index);
            return Some(answer);
        }
        match &mut slot.waker {
            Some(held) => held.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        None
    }

    /// Nobody waits for this command any more; `pages` are kept until the controller is done with them.
    pub fn abandon(&mut self, index: u16, mut pages: Buf) {
        let slot = &mut self.slots[usize::from(index)];
        match slot.state {
            State::Sent => {
                slot.state = State::Abandoned;
                slot.pages = pages;
                slot.waker = None;
            }
            State::Ended(answer) => {
                settle(&mut pages, answer.is_memory_free);
                self.release(index);
            }
            State::Free | State::Abandoned => {}
        }
    }

    fn release(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        slot.waker = None;
        slot.is_joined = false;
        self.free.push(index);
        self.wake_first();
    }

    /// Whether a command is beyond its deadline.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.slots.iter().any(|slot| {
            matches!(slot.state, State::Sent | State::Abandoned) && slot.deadline <= now
        })
    }

    /// Ends all commands with `error` and wakes everyone.
    ///
    /// `is_idle` says whether the controller is known not to touch memory any more.
    pub fn lose_all(&mut self, error: DiskError, is_idle: bool) {
        let answer = Answer {
            outcome: Err(error),
            is_memory_free: is_idle,
            is_shared: false,
        };
        for index in 0..self.slots.len() as u16 {
            self.slots[usize::from(index)].next = None;
            self.end(index, answer);
        }
        for (_, waker) in &self.waiters {
            waker.wake_by_ref();
        }
    }
}

impl Slot {
    fn drop_pages(&mut self, is_free: bool) {
        settle(&mut self.pages, is_free);
        self.pages = Buf::empty();
    }

    fn end(&mut self, answer: Answer) {
        self.state = State::Ended(answer);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Takes the memory of an ended command back, or gives it up for ever and leaves an empty buffer.
pub fn settle(pages: &mut Buf, is_free: bool) {
    if is_free {
        reclaim(pages);
    } else {
        core::mem::forget(core::mem::take(pages));
    }
}

/// Lends all pages to a command that has `before` pages already, and puts them into its list at `at`. Returns the first one's address.
fn lend(pages: &mut Buf, lists: &DmaBuf, at: usize, before: usize) -> Option<u64> {
    let mut first = None;
    for (index, page) in (before..).zip(pages.pages_mut()) {
        let address = dma::lend(&mut page.bytes);
        first.get_or_insert(address);
        if index > 0 {
            lists.write64(at + (index - 1) * 8, address);
        }
    }
    first
}

/// Describes `pages` pages: the first by PRP 1, the rest by PRP 2 or by the list at `at`.
fn prps(first: u64, pages: usize, lists: &DmaBuf, at: usize) -> [u64; 2] {
    let second = match pages {
        0 | 1 => 0,
        2 => lists.read64(at),
        _ => lists.device_address() + at as u64,
    };
    [first, second]
}

fn reclaim(pages: &mut Buf) {
    for page in pages.pages_mut() {
        dma::reclaim(&mut page.bytes);
    }
}
