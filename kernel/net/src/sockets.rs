//! The TCP sockets, each in a set of its own: what one connection does costs the same whatever the number of others.
//!
//! smoltcp walks all sockets of a set for each packet, in and out. The stack knows from a look at a frame whose it is, and
//! a socket has something to send only after somebody touched it or when its time has come:
//!
//! ```text
//!              touched, time has come                sent everything
//!   (still) ───────────────────────────► restless ───────────────────► (unsettled) ──► still, with a deadline
//!      └────────────────────────── a little came in or was read ────────────►┘
//! ```
//!
//! Invariant: a socket that is not restless has nothing to send before its deadline. Deadlines of unsettled sockets are
//! found out [`SETTLE_INTERVAL`] after the last time that was done, which makes timers late by as much.
//!
//! Most segments bring a request, or acknowledge a reply. There is nothing to say to either until the next reply, on which
//! the acknowledgement rides; so the socket is not asked.

use alloc::vec::Vec;
use core::time::Duration;

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::socket::{self, tcp};
use world::{Instant, Link, sooner};

use crate::device::{Device, Refusal};
use crate::recovery::Recovery;
use crate::time::{from_wire, to_wire};

/// Packets of one connection sent in one call of [`Sockets::egress`].
const ROUNDS_MAX: usize = 64;

/// How late a timer may be. Finding out when a socket wants to be polled costs as much as polling it.
const SETTLE_INTERVAL: Duration = Duration::from_millis(1);

/// More bytes than this, come in or read since it last sent, may make a socket tell its peer at once.
const LITTLE_BYTES: usize = 8192;

/// More than the longest time for which smoltcp 0.14 sets the timer of a retransmission.
const TIMER_MAX: Duration = Duration::from_secs(61);

/// Names one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// All of them.
pub struct Sockets {
    all: Vec<Slot>,
    vacant: Vec<usize>,
    restless: Vec<usize>,
    unsettled: Vec<usize>,
    /// The earliest deadline of those that are settled.
    earliest: Option<Instant>,
    settled_at: Instant,
    /// How often a connection lost patience and sent again.
    pub retransmissions: u64,
}

struct Slot {
    set: SocketSet<'static>,
    handle: Option<SocketHandle>,
    is_restless: bool,
    is_unsettled: bool,
    deadline: Option<Instant>,
    /// Bytes that came in or were read since it was last let send.
    moved_bytes: usize,
    recovery: Recovery,
}

impl Sockets {
    pub fn new() -> Self {
        Self {
            all: Vec::new(),
            vacant: Vec::new(),
            restless: Vec::new(),
            unsettled: Vec::new(),
            earliest: None,
            settled_at: Instant::ZERO,
            retransmissions: 0,
        }
    }

    pub fn add(&mut self, socket: tcp::Socket<'static>) -> Place {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(Slot {
                set: SocketSet::new(Vec::new()),
                handle: None,
                is_restless: false,
                is_unsettled: false,
                deadline: None,
                moved_bytes: 0,
                recovery: Recovery::default(),
            });
            self.all.len() - 1
        });
        let slot = &mut self.all[index];
        slot.handle = Some(slot.set.add(socket));
        self.touch(Place(index));
        Place(index)
    }

    pub fn remove(&mut self, place: Place) -> tcp::Socket<'static> {
        let slot = &mut self.all[place.0];
        let handle = slot.handle.take().expect("a socket is removed once");
        (slot.deadline, slot.moved_bytes, slot.recovery) = (None, 0, Recovery::default());
        let socket = slot.set.remove(handle);
        self.vacant.push(place.0);
        match socket {
            socket::Socket::Tcp(socket) => socket,
            _ => unreachable!("only TCP sockets are put in"),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len() - self.vacant.len()
    }

    pub fn get(&self, place: Place) -> &tcp::Socket<'static> {
        let slot = &self.all[place.0];
        slot.set.get(slot.handle())
    }

    /// For a change that gives the socket something to send, or another deadline.
    pub fn get_mut(&mut self, place: Place) -> &mut tcp::Socket<'static> {
        self.touch(place);
        self.get_quietly(place)
    }

    /// For a change after which there is not more to send than before: leaving a waker.
    pub fn get_quietly(&mut self, place: Place) -> &mut tcp::Socket<'static> {
        let slot = &mut self.all[place.0];
        let handle = slot.handle();
        slot.set.get_mut(handle)
    }

    /// Lets `process` process a packet for a socket, with the set that has only this one.
    pub fn feed(
        &mut self,
        place: Place,
        now: Instant,
        process: impl FnOnce(&mut SocketSet<'static>),
    ) {
        let slot = &mut self.all[place.0];
        let before = slot.socket().recv_queue();
        process(&mut slot.set);
        let count = slot.socket().recv_queue().saturating_sub(before);
        slot.moved_bytes += count;
        if slot.has_nothing_to_say() {
            slot.observe(now);
            self.unsettle(place);
        } else {
            self.touch(place);
        }
    }

    /// Notes that `count` bytes were read, after which there may be a larger window to tell of.
    pub fn has_read(&mut self, place: Place, count: usize) {
        let slot = &mut self.all[place.0];
        slot.moved_bytes += count;
        if slot.moved_bytes > LITTLE_BYTES {
            self.touch(place);
        } else {
            self.unsettle(place);
        }
    }

    /// Notes `count` bytes that were queued in a socket.
    pub fn wrote(&mut self, place: Place, count: usize) {
        self.all[place.0].recovery.wrote(count);
        self.touch(place);
    }

    /// Notes that a socket may have something to send.
    pub fn touch(&mut self, place: Place) {
        let slot = &mut self.all[place.0];
        if !slot.is_restless {
            slot.is_restless = true;
            self.restless.push(place.0);
        }
    }

    /// Notes that the deadline of a socket may be another.
    fn unsettle(&mut self, place: Place) {
        let slot = &mut self.all[place.0];
        if !slot.is_unsettled {
            slot.is_unsettled = true;
            self.unsettled.push(place.0);
        }
    }

    /// Notes that any socket may have something to send: a neighbour may have been found, an address lost.
    pub fn touch_all(&mut self) {
        for index in 0..self.all.len() {
            if self.all[index].handle.is_some() {
                self.touch(Place(index));
            }
        }
    }

    /// Sends what is due, in turns. Returns whether there was anything.
    pub fn egress<L: Link>(
        &mut self,
        now: Instant,
        interface: &mut Interface,
        device: &mut Device<L>,
    ) -> bool {
        self.wake(now, interface);
        let mut worked = false;
        for _ in 0..ROUNDS_MAX {
            if self.restless.is_empty() {
                break;
            }
            let (before, mut kept) = (self.restless.len(), 0);
            for at in 0..before {
                let index = self.restless[at];
                let slot = &mut self.all[index];
                let sent = slot.send_one(now, interface, device);
                worked |= matches!(sent, Sent::Part | Sent::Everything);
                if matches!(sent, Sent::Part | Sent::Refused) {
                    self.restless[kept] = index;
                    kept += 1;
                    continue;
                }
                slot.is_restless = false;
                slot.moved_bytes = 0;
                slot.observe(now);
                self.unsettle(Place(index));
            }
            self.restless.truncate(kept);
            if device.is_refusing() {
                break;
            }
        }
        worked
    }

    /// When [`egress`](Self::egress) has to run next; a past time means at once.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if !self.restless.is_empty() {
            return Some(now);
        }
        let settle = (!self.unsettled.is_empty()).then(|| self.settled_at + SETTLE_INTERVAL);
        sooner(self.earliest, settle)
    }

    /// Makes those restless whose time has come.
    fn wake(&mut self, now: Instant, interface: &mut Interface) {
        if !self.unsettled.is_empty() && now.since(self.settled_at) >= SETTLE_INTERVAL {
            self.settle(now, interface);
        }
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        for index in 0..self.all.len() {
            if self.all[index].deadline.is_some_and(|at| at <= now) {
                self.touch(Place(index));
                self.all[index].deadline = None;
                let is_again = self.all[index].lose_patience(now, interface);
                self.retransmissions += u64::from(is_again);
            }
        }
        self.find_earliest();
    }

    /// Finds out the deadlines of those that were touched since they were known.
    fn settle(&mut self, now: Instant, interface: &mut Interface) {
        self.settled_at = now;
        for index in self.unsettled.drain(..) {
            let slot = &mut self.all[index];
            slot.is_unsettled = false;
            let due = interface.poll_at(to_wire(now), &slot.set);
            slot.deadline = sooner(due.map(from_wire), slot.recovery.deadline());
        }
        self.find_earliest();
    }

    fn find_earliest(&mut self) {
        self.earliest = self.all.iter().filter_map(|slot| slot.deadline).min();
    }
}

/// What came of letting a socket send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// There is more.
    Part,
    Everything,
    /// The link has no frame left.
    Refused,
}

impl Slot {
    fn handle(&self) -> SocketHandle {
        self.handle.expect("a place names a socket that is there")
    }

    fn socket(&self) -> &tcp::Socket<'static> {
        self.set.get(self.handle())
    }

    /// Whether all is acknowledged, and what came in since it last sent is so little that it can wait for the reply.
    fn has_nothing_to_say(&self) -> bool {
        let socket = self.socket();
        self.moved_bytes <= LITTLE_BYTES
            && socket.send_queue() == 0
            && socket.state() == State::Established
    }

    /// Looks how far the peer has acknowledged.
    fn observe(&mut self, now: Instant) {
        if let Some(handle) = self.handle {
            let queued = self.set.get::<tcp::Socket>(handle).send_queue();
            self.recovery.observe(now, queued);
        }
    }

    /// Makes the socket send everything again if it is time for that. Returns whether it is.
    ///
    /// The only way to make its timer expire is to tell it a later time. It then goes back to the first byte that is not
    /// acknowledged and wants to send, which is refused; so nothing but that, and its timer, changes. It sends when it is
    /// asked next, at the right time. Patience and probes are switched off meanwhile: for them too much time has passed.
    fn lose_patience(&mut self, now: Instant, interface: &mut Interface) -> bool {
        self.observe(now);
        let Some(handle) = self.handle else {
            return false;
        };
        if self.recovery.deadline().is_none_or(|at| at > now) {
            return false;
        }
        self.recovery.begin_again(now);
        let socket = self.set.get_mut::<tcp::Socket>(handle);
        // Others have nothing to send again, but timers that mean something else.
        if !matches!(
            socket.state(),
            State::Established
                | State::CloseWait
                | State::FinWait1
                | State::Closing
                | State::LastAck
        ) {
            return false;
        }
        let (timeout, keep_alive) = (socket.timeout(), socket.keep_alive());
        socket.set_timeout(None);
        socket.set_keep_alive(None);
        let later = to_wire(now + TIMER_MAX);
        interface.poll_egress(later, &mut Refusal, &mut self.set);
        let socket = self.set.get_mut::<tcp::Socket>(handle);
        socket.set_timeout(timeout);
        socket.set_keep_alive(keep_alive);
        true
    }

    fn send_one<L: Link>(
        &mut self,
        now: Instant,
        interface: &mut Interface,
        device: &mut Device<L>,
    ) -> Sent {
        device.before_egress();
        let result = interface.poll_egress(to_wire(now), device, &mut self.set);
        match result {
            _ if device.is_refusing() => Sent::Refused,
            PollResult::None => Sent::Nothing,
            PollResult::SocketStateChanged if device.has_sent_part() => Sent::Part,
            PollResult::SocketStateChanged => Sent::Everything,
        }
    }
}
