//! Timers: an ordered set of deadlines.

use alloc::collections::BTreeMap;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use world::Instant;

use crate::Exec;

/// All pending timers of an executor, by deadline and then by age.
#[derive(Default)]
pub struct Timers {
    pending: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
}

impl Timers {
    pub fn next(&self) -> Option<Instant> {
        self.pending
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    pub fn fire(&mut self, now: Instant) {
        while self.next().is_some_and(|deadline| deadline <= now) {
            if let Some((_, waker)) = self.pending.pop_first() {
                waker.wake();
            }
        }
    }
}

/// A future that completes at a point in time.
pub struct Sleep {
    exec: Exec,
    deadline: Instant,
    id: Option<u64>,
}

impl Sleep {
    pub(crate) fn new(exec: Exec, deadline: Instant) -> Self {
        Self {
            exec,
            deadline,
            id: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.exec.now() >= self.deadline {
            return Poll::Ready(());
        }
        let (id, deadline) = (self.id, self.deadline);
        let id = self.exec.with_timers(|timers| {
            let id = id.unwrap_or_else(|| {
                timers.next_id += 1;
                timers.next_id
            });
            timers
                .pending
                .insert((deadline, id), context.waker().clone());
            id
        });
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.exec
                .with_timers(|timers| timers.pending.remove(&(self.deadline, id)));
        }
    }
}

/// A time limit ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not done in time")
    }
}

impl core::error::Error for Elapsed {}
