//! What tasks of one executor wait on: events, permits, queues and each other.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Poll, Waker};

/// Something happened: wakes everyone who waits.
///
/// Waiters look at the state they care about before and after: `while !condition() { notify.wait().await }`. As tasks
/// are not preempted, nothing is missed between the look and the wait.
#[derive(Default)]
pub struct Notify {
    epoch: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Wakes all who wait now.
    pub fn notify(&self) {
        self.epoch.set(self.epoch.get() + 1);
        for waker in self.waiters.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Completes at the first [`notify`](Self::notify) after this call (the call, not the first poll).
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let start = self.epoch.get();
        poll_fn(move |context| {
            if self.epoch.get() != start {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// A number of permits, given out in the order of asking.
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<SemaphoreShared>,
}

struct SemaphoreShared {
    free: Cell<usize>,
    /// Tickets in line, oldest first.
    line: RefCell<VecDeque<(u64, Waker)>>,
    next_ticket: Cell<u64>,
}

impl Semaphore {
    /// `permits` permits.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            shared: Rc::new(SemaphoreShared {
                free: Cell::new(permits),
                line: RefCell::default(),
                next_ticket: Cell::new(0),
            }),
        }
    }

    /// Waits for one permit; it is returned when the [`Permit`] is dropped.
    pub async fn acquire(&self) -> Permit {
        let mut place = Place {
            shared: &self.shared,
            ticket: None,
        };
        poll_fn(|context| {
            let mut line = self.shared.line.borrow_mut();
            let first = match (line.front(), place.ticket) {
                (None, _) => true,
                (Some((front, _)), Some(ticket)) => *front == ticket,
                (Some(_), None) => false,
            };
            if first && self.shared.free.get() > 0 {
                if place.ticket.take().is_some() {
                    line.pop_front();
                }
                self.shared.free.set(self.shared.free.get() - 1);
                drop(line);
                self.shared.wake_first();
                return Poll::Ready(Permit {
                    shared: self.shared.clone(),
                });
            }
            match place.ticket {
                Some(ticket) => {
                    if let Some(entry) = line.iter_mut().find(|entry| entry.0 == ticket) {
                        entry.1.clone_from(context.waker());
                    }
                }
                None => {
                    let ticket = self.shared.next_ticket.get();
                    self.shared.next_ticket.set(ticket + 1);
                    line.push_back((ticket, context.waker().clone()));
                    place.ticket = Some(ticket);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether a permit is free and nobody is in line.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.shared.free.get() > 0 && self.shared.line.borrow().is_empty()
    }

    /// Takes a permit at once, if one is free and nobody is in line.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.is_free().then(|| {
            self.shared.free.set(self.shared.free.get() - 1);
            Permit {
                shared: self.shared.clone(),
            }
        })
    }
}

impl SemaphoreShared {
    fn wake_first(&self) {
        if self.free.get() > 0
            && let Some((_, waker)) = self.line.borrow().front()
        {
            waker.wake_by_ref();
        }
    }
}

struct Place<'a> {
    shared: &'a SemaphoreShared,
    ticket: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared
                .line
                .borrow_mut()
                .retain(|entry| entry.0 != ticket);
            self.shared.wake_first();
        }
    }
}

/// One permit of a [`Semaphore`].
pub struct Permit {
    shared: Rc<SemaphoreShared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.free.set(self.shared.free.get() + 1);
        self.shared.wake_first();
    }
}

/// A bounded queue between tasks; clones share it.
#[derive(Clone)]
pub struct Channel<T> {
    shared: Rc<ChannelShared<T>>,
}

struct ChannelShared<T> {
    queue: RefCell<VecDeque<T>>,
    capacity: usize,
    closed: Cell<bool>,
    changed: Notify,
}

impl<T> Channel<T> {
    /// A queue of at most `capacity` items.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            shared: Rc::new(ChannelShared {
                queue: RefCell::new(VecDeque::with_capacity(capacity)),
                capacity,
                closed: Cell::new(false),
                changed: Notify::default(),
            }),
        }
    }

    /// Puts `item` in, waiting while the queue is full.
    ///
    /// # Errors
    /// Gives the item back when the channel is closed.
    pub async fn send(&self, item: T) -> Result<(), T> {
        while !self.shared.closed.get() && self.shared.queue.borrow().len() == self.shared.capacity
        {
            self.shared.changed.wait().await;
        }
        self.try_send(item)
    }

    /// Puts `item` in at once.
    ///
    /// # Errors
    /// Gives the item back when the queue is full or closed.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        let mut queue = self.shared.queue.borrow_mut();
        if self.shared.closed.get() || queue.len() == self.shared.capacity {
            return Err(item);
        }
        queue.push_back(item);
        drop(queue);
        self.shared.changed.notify();
        Ok(())
    }

    /// Takes the oldest item, waiting for one; `None` when the channel is closed and empty.
    pub async fn receive(&self) -> Option<T> {
        loop {
            if let Some(item) = self.try_receive() {
                return Some(item);
            }
            if self.shared.closed.get() {
                return None;
            }
            self.shared.changed.wait().await;
        }
    }

    /// Takes the oldest item, if there is one.
    #[must_use]
    pub fn try_receive(&self) -> Option<T> {
        let item = self.shared.queue.borrow_mut().pop_front();
        if item.is_some() {
            self.shared.changed.notify();
        }
        item
    }

    /// Refuses further items; those inside can still be taken.
    pub fn close(&self) {
        self.shared.closed.set(true);
        self.shared.changed.notify();
    }
}

/// One future of a [`join_all`], then its result.
enum Joined<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
}

/// Runs all of `futures` at once and returns their results in order.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<Joined<F>> = futures
        .into_iter()
        .map(|future| Joined::Running(Box::pin(future)))
        .collect();
    poll_fn(|context| {
        let mut pending = false;
        for one in &mut all {
            if let Joined::Running(future) = one {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *one = Joined::Done(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let result = |one| match one {
        Joined::Done(value) => value,
        Joined::Running(_) => unreachable!("all were done"),
    };
    all.into_iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::pin::pin;
    use core::task::Context;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn notify_counts_from_the_call() {
        let notify = Notify::default();
        let mut wait = pin!(notify.wait());
        notify.notify();
        assert!(poll(wait.as_mut()).is_ready());
        assert!(poll(pin!(notify.wait())).is_pending());
    }

    #[test]
    fn permits_go_in_order() {
        let semaphore = Semaphore::new(1);
        let Poll::Ready(first) = poll(pin!(semaphore.acquire())) else {
            panic!()
        };
        let (mut second, mut third) = (Box::pin(semaphore.acquire()), pin!(semaphore.acquire()));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(first);
        assert!(semaphore.try_acquire().is_none());
        assert!(poll(third.as_mut()).is_pending());
        drop(second);
        assert!(poll(third.as_mut()).is_ready());
    }

    #[test]
    fn channel_is_bounded_and_closes() {
        let channel = Channel::new(1);
        assert_eq!(channel.try_send(1), Ok(()));
        assert_eq!(channel.try_send(2), Err(2));
        channel.close();
        assert_eq!(poll(pin!(channel.receive())), Poll::Ready(Some(1)));
        assert_eq!(poll(pin!(channel.receive())), Poll::Ready(None));
        assert_eq!(poll(pin!(channel.send(3))), Poll::Ready(Err(3)));
    }

    #[test]
    fn join_all_keeps_order() {
        let all = pin!(join_all([5, 6].map(|n| async move { n })));
        assert_eq!(poll(all), Poll::Ready(alloc::vec![5, 6]));
    }
}
