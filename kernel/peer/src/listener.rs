//! Who is let in.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;

use access::attempts::household;
use exec::{Permit, Semaphore};
use net::{Listener, Stream};
use world::Disk;

use crate::PeerError;
use crate::channel::Channel;
use crate::hello::{HANDSHAKE_TIME, Purpose, receive_hello};
use crate::peers::Peers;

/// Channels that peers may have opened, at one time.
pub const CHANNELS_MAX: usize = 64;
/// Handshakes at one time.
pub const HALF_OPEN_MAX: usize = 16;
/// Of those, from one address.
const HALF_OPEN_OF_ONE_MAX: usize = 4;

impl<D: Disk + 'static> Peers<D> {
    /// Accepts connections, pairs who has a token, and gives the channels of peers to `handler`, each in a task of its own.
    /// A channel counts among [`CHANNELS_MAX`] until the handler is done with it. Never returns.
    pub async fn serve<L, H, F>(self, listener: L, handler: H)
    where
        L: Listener,
        H: Fn(Channel<L::Stream>) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.serve_at_most(CHANNELS_MAX, listener, handler).await;
    }

    /// The same with at most so many channels at one time, for whoever has memory for no more.
    pub async fn serve_at_most<L, H, F>(self, channels_max: usize, listener: L, handler: H)
    where
        L: Listener,
        H: Fn(Channel<L::Stream>) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (handler, gate) = (Rc::new(handler), Rc::new(Gate::new(channels_max)));
        loop {
            let stream = listener.accept().await;
            let Some(place) = gate.enter(stream.peer().ip()) else {
                log::debug!("{} refused, too many connections", stream.peer());
                stream.abort();
                continue;
            };
            let (peers, handler) = (self.clone(), handler.clone());
            self.shared.exec.spawn(async move {
                let Some(channel) = peers.greet(&stream).await else {
                    return;
                };
                drop(stream);
                if let Some(permit) = place.pass() {
                    handler(channel).await;
                    drop(permit);
                } else {
                    channel.abort();
                }
            });
        }
    }

    /// The handshake. Whoever is refused hears nothing but the end of the connection.
    async fn greet<S: Stream>(&self, stream: &S) -> Option<Channel<S>> {
        let answered = self.answer(stream);
        let answered = self.shared.exec.timeout(HANDSHAKE_TIME, answered).await;
        let error = match answered {
            Ok(Ok(channel)) => return channel,
            Ok(Err(error)) => error,
            Err(_) => PeerError::TimedOut,
        };
        log::debug!("{} refused: {error:?}", stream.peer());
        stream.abort();
        None
    }

    async fn answer<S: Stream>(&self, stream: &S) -> Result<Option<Channel<S>>, PeerError> {
        match receive_hello(stream).await? {
            Purpose::Link => Ok(Some(self.link_from(stream).await?)),
            Purpose::Pair => {
                self.answer_pairing(stream).await?;
                stream.finish();
                Ok(None)
            }
        }
    }

    async fn answer_pairing<S: Stream>(&self, stream: &S) -> Result<(), PeerError> {
        let (shared, from) = (&self.shared, stream.peer().ip());
        let now = shared.exec.now();
        if shared.attempts.borrow_mut().wait(from, now).is_some() {
            return Err(PeerError::Refused);
        }
        let paired = self.pair_with_initiator(stream).await;
        if paired == Err(PeerError::Refused) {
            let now = shared.exec.now();
            let count = shared.attempts.borrow_mut().fail(from, now);
            // Not each of them, so that they do not displace everything else.
            if count.is_power_of_two() {
                log::warn!(
                    "{from} wants to be paired and has no token that is valid ({count} times lately)"
                );
            }
        }
        paired
    }
}

/// How many are inside, and how many at the door.
struct Gate {
    at_door: RefCell<Vec<IpAddr>>,
    inside: Semaphore,
}

impl Gate {
    fn new(channels_max: usize) -> Self {
        Self {
            at_door: RefCell::default(),
            inside: Semaphore::new(channels_max),
        }
    }

    fn enter(self: &Rc<Self>, from: IpAddr) -> Option<Place> {
        let from = household(from);
        let mut at_door = self.at_door.borrow_mut();
        let of_one = at_door.iter().filter(|other| **other == from).count();
        if at_door.len() >= HALF_OPEN_MAX || of_one >= HALF_OPEN_OF_ONE_MAX {
            return None;
        }
        at_door.push(from);
        Some(Place {
            gate: self.clone(),
            from,
        })
    }
}

/// A place at the door.
struct Place {
    gate: Rc<Gate>,
    from: IpAddr,
}

impl Place {
    /// Goes in, if there is room.
    fn pass(self) -> Option<Permit> {
        self.gate.inside.try_acquire()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut at_door = self.gate.at_door.borrow_mut();
        if let Some(index) = at_door.iter().position(|from| *from == self.from) {
            at_door.swap_remove(index);
        }
    }
}
