//! Two ends of a connection without a network: bounded buffers, and a listener that tests dial.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use exec::{Channel, Notify};
use net::{Listener, NetError, Stream};

/// Bytes that each direction holds before writers wait.
const CAPACITY: usize = 64 << 10;

#[derive(Default)]
struct Half {
    bytes: RefCell<VecDeque<u8>>,
    finished: Cell<bool>,
    aborted: Cell<bool>,
    changed: Notify,
}

/// One end; clones are the same end.
#[derive(Clone)]
pub struct End {
    incoming: Rc<Half>,
    outgoing: Rc<Half>,
}

impl End {
    /// Whether either end aborted.
    pub fn is_aborted(&self) -> bool {
        self.incoming.aborted.get()
    }
}

/// Both ends of a new connection.
pub fn pair() -> (End, End) {
    let (a, b) = (Rc::new(Half::default()), Rc::new(Half::default()));
    let one = End {
        incoming: a.clone(),
        outgoing: b.clone(),
    };
    let other = End {
        incoming: b,
        outgoing: a,
    };
    (one, other)
}

impl Stream for End {
    async fn read(&self, into: &mut [u8]) -> Result<usize, NetError> {
        loop {
            if self.incoming.aborted.get() {
                return Err(NetError::Closed);
            }
            let count = {
                let mut bytes = self.incoming.bytes.borrow_mut();
                let count = into.len().min(bytes.len());
                for (to, from) in into.iter_mut().zip(bytes.drain(..count)) {
                    *to = from;
                }
                count
            };
            if count > 0 || self.incoming.finished.get() {
                self.incoming.changed.notify();
                return Ok(count);
            }
            self.incoming.changed.wait().await;
        }
    }

    async fn write(&self, from: &[u8]) -> Result<usize, NetError> {
        loop {
            if self.outgoing.aborted.get() || self.outgoing.finished.get() {
                return Err(NetError::Closed);
            }
            let room = CAPACITY - self.outgoing.bytes.borrow().len();
            if room > 0 {
                let count = from.len().min(room);
                self.outgoing.bytes.borrow_mut().extend(&from[..count]);
                self.outgoing.changed.notify();
                return Ok(count);
            }
            self.outgoing.changed.wait().await;
        }
    }

    fn finish(&self) {
        self.outgoing.finished.set(true);
        self.outgoing.changed.notify();
    }

    fn abort(&self) {
        for half in [&self.incoming, &self.outgoing] {
            half.aborted.set(true);
            half.changed.notify();
        }
    }

    fn peer(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 1).into()
    }
}

/// A port that tests dial; clones are the same port.
#[derive(Clone)]
pub struct Port(Channel<End>);

impl Port {
    /// An open port.
    pub fn new() -> Self {
        Self(Channel::new(64))
    }

    /// Connects to it.
    pub fn dial(&self) -> End {
        let (here, there) = pair();
        assert!(self.0.try_send(there).is_ok(), "backlog is full");
        here
    }
}

impl Listener for Port {
    type Stream = End;

    async fn accept(&self) -> End {
        match self.0.receive().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }
}
