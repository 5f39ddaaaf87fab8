//! A connection's fair part of a shared supply.

use alloc::rc::Rc;
use core::cell::Cell;

use exec::{Notify, Semaphore};

/// A number of units, given out in the order of asking; clones share it.
#[derive(Clone)]
pub(crate) struct Quota {
    free: Rc<Free>,
    /// Only the first in line looks at `free`, so a large request is not starved by small ones.
    line: Semaphore,
}

struct Free {
    units: Cell<usize>,
    changed: Notify,
}

impl Quota {
    pub(crate) fn new(units: usize) -> Self {
        let free = Free {
            units: Cell::new(units),
            changed: Notify::default(),
        };
        Self {
            free: Rc::new(free),
            line: Semaphore::new(1),
        }
    }

    /// Waits for `units`; more than the whole quota never come.
    pub(crate) async fn take(&self, units: usize) -> Share {
        if let Some(share) = self.try_take(units) {
            return share;
        }
        let _first = self.line.acquire().await;
        loop {
            if let Some(share) = self.share(units) {
                return share;
            }
            self.free.changed.wait().await;
        }
    }

    /// Takes `units` if they are free and nobody is in line.
    pub(crate) fn try_take(&self, units: usize) -> Option<Share> {
        if !self.line.is_free() {
            return None;
        }
        self.share(units)
    }

    fn share(&self, units: usize) -> Option<Share> {
        let left = self.free.units.get().checked_sub(units)?;
        self.free.units.set(left);
        Some(Share {
            units,
            of: self.free.clone(),
        })
    }
}

/// Units taken; given back when dropped.
pub(crate) struct Share {
    units: usize,
    of: Rc<Free>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.units.set(self.of.units.get() + self.units);
        self.of.changed.notify();
    }
}
