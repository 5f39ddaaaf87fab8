//! Who is connected: so many at a time, and who does nothing gives way to who comes.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use world::Instant;

/// How long a request or an answer may take before another client may have the place.
const FAIR: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for a request to begin, or for the client to close.
    Idle,
    /// A request comes in, or an answer goes out.
    Transfer,
    /// Something is being done.
    Work,
}

/// The connections of one server.
pub(super) struct Clients {
    most: usize,
    all: RefCell<Vec<Rc<Client>>>,
}

/// A connection.
struct Client {
    phase: Cell<(Phase, Instant)>,
    abort: Box<dyn Fn()>,
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    of: Rc<Clients>,
    client: Rc<Client>,
}

impl Clients {
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self {
            most,
            all: RefCell::default(),
        })
    }

    /// A place for a new connection, which `abort` ends. If there is none, the one gives way that has been idle longest,
    /// or else the slowest one; `None` when all of them deserve theirs.
    pub fn enter(self: &Rc<Self>, now: Instant, abort: impl Fn() + 'static) -> Option<Place> {
        let mut all = self.all.borrow_mut();
        if all.len() >= self.most {
            let index = Self::least_deserving(&all, now)?;
            (all.remove(index).abort)();
        }
        let client = Rc::new(Client {
            phase: Cell::new((Phase::Idle, now)),
            abort: Box::new(abort),
        });
        all.push(client.clone());
        drop(all);
        Some(Place {
            of: self.clone(),
            client,
        })
    }

    fn least_deserving(all: &[Rc<Client>], now: Instant) -> Option<usize> {
        let rank = |client: &Client| match client.phase.get() {
            (Phase::Idle, since) => Some((0, since)),
            (Phase::Transfer, since) if now.since(since) >= FAIR => Some((1, since)),
            _ => None,
        };
        let ranks = all.iter().map(|client| rank(client)).zip(0..);
        let ranks = ranks.filter_map(|(rank, index)| Some((rank?, index)));
        ranks.min().map(|(_, index)| index)
    }
}

impl Place {
    /// Says what the connection does from `now` on.
    pub fn enters(&self, phase: Phase, now: Instant) {
        self.client.phase.set((phase, now));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.of.all.borrow_mut();
        all.retain(|client| !Rc::ptr_eq(client, &self.client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn who_does_nothing_gives_way_to_who_comes() {
        let clients = Clients::new(3);
        let gone: Rc<RefCell<Vec<u32>>> = Rc::default();
        let enter = |name: u32, now: Instant| {
            let gone = gone.clone();
            clients.enter(now, move || gone.borrow_mut().push(name))
        };
        let places: Vec<Place> = (0..3).map(|name| enter(name, at(0)).unwrap()).collect();
        places[0].enters(Phase::Work, at(0));
        places[1].enters(Phase::Transfer, at(0));
        places[2].enters(Phase::Transfer, at(100));
        assert!(enter(3, at(999)).is_none(), "all of them are busy");
        let third = enter(3, at(1050)).unwrap();
        assert_eq!(*gone.borrow(), [1], "the slower one");
        let fourth = enter(4, at(1060)).unwrap();
        assert_eq!(*gone.borrow(), [1, 3], "an idle one before a slow one");
        third.enters(Phase::Work, at(1060));
        drop(third);
        fourth.enters(Phase::Work, at(1060));
        let fifth = enter(5, at(1100)).unwrap();
        assert_eq!(*gone.borrow(), [1, 3, 2]);
        fifth.enters(Phase::Work, at(1100));
        assert!(enter(6, at(100_000)).is_none(), "work is not given up");
        drop(fifth);
        assert!(enter(6, at(100_000)).is_some());
    }
}
