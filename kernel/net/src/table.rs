//! The sockets and the life of connections around them.
//!
//! Invariants:
//! - every socket here belongs to exactly one [`Connection`];
//! - no socket listens between two frames: it is made for one SYN and bound by it, or gone again;
//! - half-open, leaving and closed connections are bounded in number and in time, whatever peers do.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::IpListenEndpoint;
use world::Instant;

use crate::config::NetConfig;
use crate::connection::{Connection, Ends, Port, Stage, decrement, increment};
use crate::sockets::Sockets;

/// A half-open connection is given this long: its SYN-ACK goes out three times.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A dropped connection that makes no progress for this long is reset.
const LINGER: Duration = Duration::from_secs(20);

/// The most dropped connections that are not closed yet; the one idle for longest is reset when there are more.
const LEAVING_MAX: usize = 64;

/// The most closed connections that still answer; the oldest is forgotten when there are more.
const TIME_WAIT_MAX: usize = 8;

pub struct Table {
    pub sockets: Sockets,
    connections: BTreeMap<Ends, Rc<Connection>>,
    /// The connection that was looked for last.
    last: Option<Rc<Connection>>,
    pub ports: BTreeMap<u16, Rc<Port>>,
    half_open: Vec<Rc<Connection>>,
    leaving: Vec<Leaving>,
    time_wait: VecDeque<Rc<Connection>>,
    keep_alive: smoltcp::time::Duration,
    timeout: smoltcp::time::Duration,
    pub accepted: u64,
    pub refused: u64,
}

struct Leaving {
    connection: Rc<Connection>,
    /// What was queued when it last made progress.
    queued_bytes: usize,
    deadline: Instant,
}

impl Table {
    pub fn new(config: &NetConfig) -> Self {
        Self {
            sockets: Sockets::new(),
            connections: BTreeMap::new(),
            last: None,
            ports: BTreeMap::new(),
            half_open: Vec::new(),
            leaving: Vec::new(),
            time_wait: VecDeque::new(),
            keep_alive: config.keep_alive.into(),
            timeout: config.timeout.into(),
            accepted: 0,
            refused: 0,
        }
    }

    pub fn socket(&mut self, connection: &Connection) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(connection.place)
    }

    pub fn state(&self, connection: &Connection) -> State {
        self.sockets.get(connection.place).state()
    }

    /// The connection between `ends`. The one asked for last is found at once.
    pub fn find(&mut self, ends: &Ends) -> Option<&Rc<Connection>> {
        if self.last.as_ref().is_none_or(|last| last.ends != *ends) {
            self.last = Some(self.connections.get(ends)?.clone());
        }
        self.last.as_ref()
    }

    pub fn half_open_count(&self) -> usize {
        self.half_open.len()
    }

    /// Makes a socket for the SYN that is about to be processed, when it opens a connection to an open port.
    pub fn admit(&mut self, ends: Ends) -> Option<Rc<Connection>> {
        let port = self.ports.get(&ends.0.port())?.clone();
        if let Some(old) = self.connections.get(&ends).cloned() {
            match self.state(&old) {
                State::Closed => {}
                State::TimeWait if old.stage.get() == Stage::TimeWait => self.forget(&old),
                // The socket answers by itself.
                _ => return None,
            }
        }
        if !port.has_room() {
            self.refused += 1;
            return None;
        }
        let mut socket = port.take_socket();
        socket.set_keep_alive(Some(self.keep_alive));
        socket.set_timeout(Some(HALF_OPEN_TIMEOUT.into()));
        let local = IpListenEndpoint {
            addr: Some(ends.0.ip().into()),
            port: ends.0.port(),
        };
        socket
            .listen(local)
            .expect("a closed socket and a port that is not 0");
        let place = self.sockets.add(socket);
        Some(Rc::new(Connection::new(
            place,
            ends,
            Some(port),
            Stage::HalfOpen,
        )))
    }

    /// After the SYN was processed: books the connection, or drops its socket when the SYN was not accepted.
    pub fn settle(&mut self, connection: Rc<Connection>) {
        let port = connection.port.as_ref().expect("it came in at a port");
        if self.state(&connection) != State::SynReceived {
            port.keep_socket(self.sockets.remove(connection.place));
            return;
        }
        increment(&port.connections);
        increment(&port.half_open);
        self.book(connection.clone());
        self.half_open.push(connection);
    }

    /// Books a connection that is being made here.
    pub fn insert_outgoing(&mut self, mut socket: tcp::Socket<'static>, ends: Ends) -> Connection {
        socket.set_keep_alive(Some(self.keep_alive));
        socket.set_timeout(Some(HALF_OPEN_TIMEOUT.into()));
        let place = self.sockets.add(socket);
        Connection::new(place, ends, None, Stage::Held)
    }

    /// Makes `connection` the one between its ends.
    pub fn book(&mut self, connection: Rc<Connection>) {
        self.last = None;
        self.connections.insert(connection.ends, connection);
    }

    pub fn is_booked(&self, ends: &Ends) -> bool {
        self.connections.contains_key(ends)
    }

    /// Gives an established connection the full patience.
    pub fn establish(&mut self, connection: &Connection) {
        let timeout = self.timeout;
        self.socket(connection).set_timeout(Some(timeout));
    }

    /// Moves what was established to the queues of its ports, and drops what failed.
    pub fn sweep_half_open(&mut self) {
        let mut index = 0;
        while index < self.half_open.len() {
            let connection = self.half_open[index].clone();
            let state = self.state(&connection);
            if state == State::SynReceived {
                index += 1;
                continue;
            }
            self.half_open.swap_remove(index);
            let port = connection
                .port
                .as_ref()
                .expect("it came in at a port")
                .clone();
            decrement(&port.half_open);
            if matches!(state, State::Listen | State::Closed) {
                decrement(&port.connections);
                self.forget(&connection);
            } else {
                self.accepted += 1;
                self.establish(&connection);
                connection.stage.set(Stage::Queued);
                port.queue.borrow_mut().push_back(connection);
                port.arrived.notify();
            }
        }
    }

    /// Takes the next established connection of `port`.
    pub fn accept(&mut self, port: &Port, now: Instant) -> Option<Rc<Connection>> {
        loop {
            let connection = port.queue.borrow_mut().pop_front()?;
            if self.state(&connection) == State::Closed {
                self.leave(&connection, now);
                continue;
            }
            connection.stage.set(Stage::Held);
            return Some(connection);
        }
    }

    /// Takes over a connection that nobody holds any more. What is queued still goes out.
    pub fn leave(&mut self, connection: &Rc<Connection>, now: Instant) {
        if let Some(port) = &connection.port {
            decrement(&port.connections);
        }
        connection.stage.set(Stage::Leaving);
        let socket = self.socket(connection);
        socket.close();
        let queued_bytes = socket.send_queue();
        self.leaving.push(Leaving {
            queued_bytes,
            connection: connection.clone(),
            deadline: now + LINGER,
        });
    }

    /// Shuts `port`: connections that nobody accepted are reset.
    pub fn shut(&mut self, port: &Rc<Port>, now: Instant) {
        self.ports.remove(&port.number);
        let is_here = |connection: &Rc<Connection>| {
            connection
                .port
                .as_ref()
                .is_some_and(|its| Rc::ptr_eq(its, port))
        };
        let half_open = self.half_open.extract_if(.., |one| is_here(one));
        let mut unaccepted: Vec<_> = half_open.collect();
        unaccepted.extend(port.queue.borrow_mut().drain(..));
        for connection in unaccepted {
            if connection.stage.get() == Stage::HalfOpen {
                decrement(&port.half_open);
            }
            self.socket(&connection).abort();
            self.leave(&connection, now);
        }
    }

    /// Sees dropped connections to their end.
    pub fn sweep_leaving(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.leaving.len() {
            let connection = self.leaving[index].connection.clone();
            let socket = self.sockets.get_quietly(connection.place);
            // Nobody reads: an open window lets the peer come to its end.
            if socket.can_recv() {
                let _ = socket.recv(|bytes| (bytes.len(), ()));
                self.sockets.touch(connection.place);
            }
            let socket = self.sockets.get(connection.place);
            let (state, queued_bytes) = (socket.state(), socket.send_queue());
            let is_reset_sent = socket.remote_endpoint().is_none();
            let leaving = &mut self.leaving[index];
            if leaving.queued_bytes != queued_bytes {
                leaving.queued_bytes = queued_bytes;
                leaving.deadline = now + LINGER;
            }
            let is_late = now >= leaving.deadline;
            match state {
                State::TimeWait => {
                    self.leaving.swap_remove(index);
                    connection.stage.set(Stage::TimeWait);
                    self.time_wait.push_back(connection);
                }
                State::Closed if is_reset_sent || is_late => {
                    self.leaving.swap_remove(index);
                    self.forget(&connection);
                }
                State::Closed => index += 1,
                _ => {
                    if is_late {
                        self.reset_leaving(index, now);
                    }
                    index += 1;
                }
            }
        }
        if self.leaving.len() > LEAVING_MAX {
            self.bound_leaving(now);
        }
        self.sweep_time_wait();
    }

    /// Resets those without progress for longest while there are too many.
    fn bound_leaving(&mut self, now: Instant) {
        let is_open = |leaving: &Leaving| self.state(&leaving.connection) != State::Closed;
        let mut open: Vec<usize> = (0..self.leaving.len())
            .filter(|&index| is_open(&self.leaving[index]))
            .collect();
        open.sort_by_key(|&index| self.leaving[index].deadline);
        let excess = open.len().saturating_sub(LEAVING_MAX);
        for &index in &open[..excess] {
            self.reset_leaving(index, now);
        }
    }

    /// Resets one, and gives its RST as long again to go out.
    fn reset_leaving(&mut self, index: usize, now: Instant) {
        self.leaving[index].deadline = now + LINGER;
        let connection = self.leaving[index].connection.clone();
        self.socket(&connection).abort();
    }

    /// Forgets those that are over; mostly they are in the order in which they came.
    fn sweep_time_wait(&mut self) {
        while let Some(oldest) = self.time_wait.front() {
            let is_over = self.state(oldest) == State::Closed;
            if !is_over && self.time_wait.len() <= TIME_WAIT_MAX {
                break;
            }
            let oldest = oldest.clone();
            self.forget(&oldest);
        }
    }

    /// When the next dropped connection is late.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.leaving.iter().map(|leaving| leaving.deadline).min()
    }

    /// Marks the connections of an address that is gone.
    pub fn lose_address(&mut self, address: core::net::IpAddr) {
        self.sockets.touch_all();
        for connection in self.connections.values() {
            if connection.ends.0.ip() == address {
                connection.is_reset.set(true);
            }
        }
    }

    /// Removes a connection and its socket.
    fn forget(&mut self, connection: &Rc<Connection>) {
        self.time_wait.retain(|one| !Rc::ptr_eq(one, connection));
        let socket = self.sockets.remove(connection.place);
        if let Some(port) = &connection.port {
            port.keep_socket(socket);
        }
        // Its ends may belong to a newer connection by now.
        let booked = self.connections.get(&connection.ends);
        if booked.is_some_and(|booked| Rc::ptr_eq(booked, connection)) {
            self.connections.remove(&connection.ends);
        }
        self.last = None;
    }
}
