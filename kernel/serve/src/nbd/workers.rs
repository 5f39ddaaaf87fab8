//! The tasks of one connection that carry out its requests.
//!
//! Workers are hired as the queue deepens and reused last in, first out; a connection with one request at a time has
//! one worker. 16 are always to be had, up to 128 while the server's extra ones last.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use exec::{Exec, Notify, Permit, Semaphore};

use super::jobs::Job;

/// Workers that every connection may have.
const OWN: usize = 16;
/// The most workers of a connection.
const MOST: usize = 128;

/// The workers of one connection.
pub(super) struct Workers {
    idle: RefCell<Vec<Rc<Seat>>>,
    hired: Cell<usize>,
    dismissed: Cell<bool>,
    /// Someone became idle.
    changed: Notify,
    extra: Semaphore,
}

/// Where a worker waits for its next job.
pub(super) struct Seat {
    job: Cell<Option<Job>>,
    /// Of the task that sits here, from its first wait on.
    waker: OnceCell<Waker>,
    /// What it costs the whole server to have this worker.
    _extra: Option<Permit>,
}

impl Workers {
    /// No workers yet; those beyond the connection's own take permits from `extra`.
    pub(super) fn new(extra: Semaphore) -> Self {
        Self {
            idle: RefCell::default(),
            hired: Cell::new(0),
            dismissed: Cell::new(false),
            changed: Notify::default(),
            extra,
        }
    }

    /// Waits for an idle worker, or hires one; `work` is the life of a new one.
    pub(super) async fn claim<F>(&self, exec: &Exec, work: impl Fn(Rc<Seat>) -> F) -> Claim<'_>
    where
        F: Future<Output = ()> + 'static,
    {
        loop {
            let seat = self
                .idle
                .borrow_mut()
                .pop()
                .or_else(|| self.hire(exec, &work));
            if seat.is_some() {
                return Claim {
                    workers: self,
                    seat,
                };
            }
            self.changed.wait().await;
        }
    }

    fn hire<F>(&self, exec: &Exec, work: impl Fn(Rc<Seat>) -> F) -> Option<Rc<Seat>>
    where
        F: Future<Output = ()> + 'static,
    {
        let extra = match self.hired.get() {
            ..OWN => None,
            OWN..MOST => Some(self.extra.try_acquire()?),
            MOST.. => return None,
        };
        let seat = Rc::new(Seat {
            job: Cell::new(None),
            waker: OnceCell::new(),
            _extra: extra,
        });
        self.hired.set(self.hired.get() + 1);
        exec.spawn(work(seat.clone()));
        Some(seat)
    }

    /// Waits for the next job of the worker in `seat`; `None` when it is to end.
    pub(super) fn next_job(&self, seat: &Seat) -> impl Future<Output = Option<Job>> {
        poll_fn(|context| {
            if let Some(job) = seat.job.take() {
                return Poll::Ready(Some(job));
            }
            if self.dismissed.get() {
                return Poll::Ready(None);
            }
            // A worker is a task, and keeps its waker.
            seat.waker.get_or_init(|| context.waker().clone());
            Poll::Pending
        })
    }

    /// Makes the worker in `seat` idle.
    pub(super) fn rest(&self, seat: Rc<Seat>) {
        self.idle.borrow_mut().push(seat);
        self.changed.notify();
    }

    /// Waits until all jobs are done and ends the workers.
    pub(super) async fn dismiss(&self) {
        while self.idle.borrow().len() < self.hired.get() {
            self.changed.wait().await;
        }
        self.dismissed.set(true);
        for seat in self.idle.borrow_mut().drain(..) {
            seat.call();
        }
    }
}

impl Seat {
    /// Makes the worker look for a job. One that never waited will do so by itself.
    fn call(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// An idle worker that nobody else can take; goes back to rest when not given a job.
pub(super) struct Claim<'a> {
    workers: &'a Workers,
    seat: Option<Rc<Seat>>,
}

impl Claim<'_> {
    /// Gives the worker its job.
    pub(super) fn assign(mut self, job: Job) {
        if let Some(seat) = self.seat.take() {
            seat.job.set(Some(job));
            seat.call();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.workers.rest(seat);
        }
    }
}
