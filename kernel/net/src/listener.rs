//! An open TCP port as a [`Listener`].

use alloc::rc::Rc;

use world::Link;

use crate::Listener;
use crate::connection::Port;
use crate::stack::Shared;
use crate::stream::TcpStream;

/// An open TCP port. Dropping it closes the port and resets the connections that were not accepted.
pub struct TcpListener<L: Link + 'static> {
    shared: Rc<Shared<L>>,
    port: Rc<Port>,
}

impl<L: Link> TcpListener<L> {
    pub(crate) fn new(shared: Rc<Shared<L>>, port: Rc<Port>) -> Self {
        Self { shared, port }
    }

    /// The port's number.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Connections of this port now: half-open, waiting to be accepted, and held by streams.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.port.connections.get()
    }

    fn try_accept(&self) -> Option<TcpStream<L>> {
        let now = self.shared.exec.now();
        let connection = self
            .shared
            .core
            .borrow_mut()
            .table
            .accept(&self.port, now)?;
        Some(TcpStream::new(self.shared.clone(), connection))
    }
}

impl<L: Link> Listener for TcpListener<L> {
    type Stream = TcpStream<L>;

    async fn accept(&self) -> TcpStream<L> {
        loop {
            if let Some(stream) = self.try_accept() {
                return stream;
            }
            self.port.arrived.wait().await;
        }
    }
}

impl<L: Link> Drop for TcpListener<L> {
    fn drop(&mut self) {
        let now = self.shared.exec.now();
        self.shared.core.borrow_mut().table.shut(&self.port, now);
    }
}
