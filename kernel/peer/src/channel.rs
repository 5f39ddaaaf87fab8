//! A channel: messages to and from a peer, both ways at once.
//!
//! ```text
//! open ── finish, and the peer's end ──► over          every receive: nothing more
//!   └──── anything else ───────────────► cut           every call: the reason, the first one
//! ```

use alloc::rc::{Rc, Weak};
use core::cell::{Cell, RefCell};
use core::iter;
use core::pin::pin;
use core::time::Duration;

use exec::{Exec, Semaphore};
use futures_util::future::select;
use net::Stream;
use world::Instant;

use crate::frame::{Incoming, Kind, Outgoing, PART_MAX, Parts};
use crate::leash::Leash;
use crate::noise::Keys;
use crate::{Peer, PeerError};

/// The most bytes of one message: the largest buffer, and a page that says what it is.
pub const MESSAGE_MAX: usize = 132 << 10;
/// Who has nothing to say for so long says that.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Who says nothing, or takes nothing, for so long, is not there any more.
pub const SILENCE: Duration = Duration::from_secs(30);

/// An authenticated, encrypted connection to a peer. Clones are the same channel; one task may send while another
/// receives, and further ones wait for their turn. When the last clone is dropped, the connection ends; unless
/// [`finish`](Self::finish) was called before, that is an error for the other side.
///
/// Others see how long messages are and when they are sent, and nothing else.
pub struct Channel<S: Stream> {
    inner: Rc<Inner<S>>,
}

impl<S: Stream> Clone for Channel<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<S: Stream> {
    exec: Exec,
    stream: S,
    peer: Peer,
    keys: RefCell<Keys>,
    leash: Rc<Leash>,
    /// The right to send; it has `outgoing`.
    line: Semaphore,
    outgoing: RefCell<Option<Outgoing>>,
    /// The right to receive; it has `incoming`.
    ear: Semaphore,
    incoming: RefCell<Option<Incoming>>,
    /// When the last frame was sent.
    said: Cell<Instant>,
    /// The end was sent.
    is_finished: Cell<bool>,
    /// The end was received.
    is_over: Cell<bool>,
}

impl<S: Stream> Channel<S> {
    /// A channel whose handshake is done.
    pub(crate) fn new(exec: Exec, stream: S, keys: Keys, (peer, leash): (Peer, Rc<Leash>)) -> Self {
        let inner = Rc::new(Inner {
            said: Cell::new(exec.now()),
            stream: stream.clone(),
            peer,
            keys: RefCell::new(keys),
            leash: leash.clone(),
            line: Semaphore::new(1),
            outgoing: RefCell::new(Some(Outgoing::new())),
            ear: Semaphore::new(1),
            incoming: RefCell::new(Some(Incoming::new())),
            is_finished: Cell::new(false),
            is_over: Cell::new(false),
            exec: exec.clone(),
        });
        exec.spawn(keep(exec.clone(), Rc::downgrade(&inner), leash, stream));
        Self { inner }
    }

    /// Who is on the other side, as it was known when the channel was made.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// Sends one message, which is `parts`, one behind the other. When this returns, it is queued; it goes out by itself.
    /// Dropped before, it ends the channel, unless nothing of it was sent yet.
    ///
    /// # Errors
    /// Why the channel ended; [`PeerError::Lost`] after [`finish`](Self::finish).
    ///
    /// # Panics
    /// When the message is longer than [`MESSAGE_MAX`].
    pub async fn send(&self, parts: &[&[u8]]) -> Result<(), PeerError> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(len <= MESSAGE_MAX, "a message of {len} bytes");
        self.inner.send(Kind::Last, parts, len).await
    }

    /// Receives one message into the beginning of `into`; its length, or `None` when the peer has finished. At most one
    /// message is lost when this is dropped before it returns: if a part of one had come, the channel ends.
    ///
    /// # Errors
    /// Why the channel ended. That the connection ended without a word is [`PeerError::Lost`], and a message longer than
    /// `into` is [`PeerError::Protocol`].
    pub async fn receive(&self, into: &mut [u8]) -> Result<Option<usize>, PeerError> {
        let inner = &*self.inner;
        let _turn = inner.ear.acquire().await;
        if inner.is_over.get() {
            return Ok(None);
        }
        inner.leash.check()?;
        let mut hearing = Hearing::new(inner);
        let received = hearing.message(into).await;
        received.map_err(|reason| inner.leash.cut(reason))
    }

    /// Tells the peer that no more messages follow. What it sends can still be received.
    ///
    /// # Errors
    /// Why the channel ended.
    pub async fn finish(&self) -> Result<(), PeerError> {
        if self.inner.is_finished.get() {
            return Ok(());
        }
        self.inner.send(Kind::End, &[], 0).await
    }

    /// Ends the channel at once.
    pub fn abort(&self) {
        self.inner.leash.cut(PeerError::Lost);
    }

    /// Sends the frame that tells the responder that nobody repeats an old handshake.
    pub(crate) async fn confirm(&self) -> Result<(), PeerError> {
        self.inner.send(Kind::Alive, &[], 0).await
    }

    /// Receives that frame.
    pub(crate) async fn confirmation(&self) -> Result<(), PeerError> {
        let inner = &*self.inner;
        let _turn = inner.ear.acquire().await;
        let mut hearing = Hearing::new(inner);
        let heard = match hearing.frame().await {
            Ok((Kind::Alive, _)) => Ok(()),
            Ok(_) => Err(PeerError::Protocol),
            Err(reason) => Err(reason),
        };
        heard.map_err(|reason| inner.leash.cut(reason))
    }
}

impl<S: Stream> Inner<S> {
    /// Sends a message, or a frame of another kind.
    async fn send(&self, last: Kind, parts: &[&[u8]], len: usize) -> Result<(), PeerError> {
        let _turn = self.line.acquire().await;
        self.leash.check()?;
        if self.is_finished.get() {
            return Err(PeerError::Lost);
        }
        let mut whole = Whole {
            leash: &self.leash,
            is_sent: false,
        };
        let outgoing = self.outgoing.borrow_mut().take();
        // Gone with a sender that was dropped; but then the channel was cut.
        let mut outgoing = outgoing.ok_or(PeerError::Lost)?;
        let (mut parts, mut left) = (Parts::new(parts), len);
        while left > PART_MAX {
            let part = (Kind::Part, PART_MAX);
            self.send_frame(&mut outgoing, part, &mut parts).await?;
            left -= PART_MAX;
        }
        let part = (last, left);
        self.send_frame(&mut outgoing, part, &mut parts).await?;
        *self.outgoing.borrow_mut() = Some(outgoing);
        whole.is_sent = true;
        if last == Kind::End {
            self.is_finished.set(true);
            self.stream.finish();
        }
        Ok(())
    }

    async fn send_frame(
        &self,
        outgoing: &mut Outgoing,
        (kind, len): (Kind, usize),
        parts: &mut Parts<'_>,
    ) -> Result<(), PeerError> {
        let sealed = outgoing.seal(kind, parts, len, &mut self.keys.borrow_mut());
        let mut rest = sealed.map_err(|reason| self.leash.cut(reason))?;
        self.said.set(self.exec.now());
        loop {
            self.leash.check()?;
            // Mostly there is room, and it is done.
            rest = &rest[self.stream.try_write(iter::once(rest))..];
            if rest.is_empty() {
                return Ok(());
            }
            let write = self.stream.write(rest);
            let written = self.leash.hold(&self.exec, SILENCE, write).await;
            match written.and_then(|written| Ok(written?)) {
                Ok(count) => rest = &rest[count..],
                Err(reason) => return Err(self.leash.cut(reason)),
            }
        }
    }
}

/// Sees to it that a message is sent whole, or the channel ends.
struct Whole<'a> {
    leash: &'a Leash,
    is_sent: bool,
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.leash.cut(PeerError::Lost);
        }
    }
}

/// Whoever receives. Dropped in a message, it ends the channel; between two it only gives back what came of a frame.
struct Hearing<'a, S: Stream> {
    inner: &'a Inner<S>,
    incoming: Incoming,
    is_within: bool,
}

impl<'a, S: Stream> Hearing<'a, S> {
    /// For whoever has the right to receive.
    fn new(inner: &'a Inner<S>) -> Self {
        let incoming = inner.incoming.borrow_mut().take();
        Self {
            inner,
            incoming: incoming.unwrap_or_else(Incoming::new),
            is_within: false,
        }
    }

    async fn message(&mut self, into: &mut [u8]) -> Result<Option<usize>, PeerError> {
        let mut len = 0;
        loop {
            let is_within = self.is_within;
            let (kind, bytes) = self.frame().await?;
            match kind {
                Kind::Part | Kind::Last => {
                    let place = into.get_mut(len..len + bytes.len());
                    place.ok_or(PeerError::Protocol)?.copy_from_slice(bytes);
                    len += bytes.len();
                    self.is_within = kind == Kind::Part;
                    if kind == Kind::Last {
                        return Ok(Some(len));
                    }
                }
                Kind::Alive | Kind::End if is_within => return Err(PeerError::Protocol),
                Kind::Alive => {}
                Kind::End => {
                    self.inner.is_over.set(true);
                    return Ok(None);
                }
            }
        }
    }

    /// The next frame.
    async fn frame(&mut self) -> Result<(Kind, &[u8]), PeerError> {
        let Inner {
            exec,
            stream,
            leash,
            keys,
            ..
        } = self.inner;
        loop {
            leash.check()?;
            let room = self.incoming.room()?;
            if room.is_empty() {
                return self.incoming.open(&mut keys.borrow_mut());
            }
            let mut count = stream.try_read(room);
            if count == 0 {
                count = leash.hold(exec, SILENCE, stream.read(room)).await??;
                if count == 0 {
                    return Err(PeerError::Lost);
                }
            }
            self.incoming.filled(count);
        }
    }
}

impl<S: Stream> Drop for Hearing<'_, S> {
    fn drop(&mut self) {
        if self.is_within {
            self.inner.leash.cut(PeerError::Lost);
        }
        let incoming = core::mem::replace(&mut self.incoming, Incoming::none());
        *self.inner.incoming.borrow_mut() = Some(incoming);
    }
}

impl<S: Stream> Drop for Inner<S> {
    fn drop(&mut self) {
        self.leash.stir();
    }
}

/// Says now and then that this side is still there, and ends the connection when the channel is cut.
async fn keep<S: Stream>(exec: Exec, channel: Weak<Inner<S>>, leash: Rc<Leash>, stream: S) {
    while let Some(inner) = channel.upgrade() {
        if leash.check().is_err() {
            stream.abort();
            return;
        }
        let due = inner.said.get() + KEEP_ALIVE;
        if inner.is_finished.get() {
            drop(inner);
            leash.changed().await;
        } else if exec.now() < due {
            drop(inner);
            let (changed, later) = (pin!(leash.changed()), pin!(exec.sleep_until(due)));
            select(changed, later).await;
        } else if inner.line.is_free() {
            // Why it failed hears who uses the channel.
            let _ = inner.send(Kind::Alive, &[], 0).await;
        } else {
            // Somebody is at it.
            inner.said.set(exec.now());
        }
    }
}

#[cfg(test)]
mod tests;
