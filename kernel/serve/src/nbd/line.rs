//! The bytes of one connection: whole replies out, payloads in, and an end to both when the peer stalls.

use core::cell::Cell;
use core::time::Duration;

use exec::{Exec, Permit, Semaphore};
use net::Stream;
use volume::Span;
use world::{BLOCK_SIZE, Buf, Instant, Pool};

use super::errors::Broken;

/// How long a peer may take for one piece when others may be waiting for memory and it does not move.
const PATIENCE_WHEN_SHORT: Duration = Duration::from_secs(5);
/// How long it may take otherwise (a paused virtual machine, a suspended laptop).
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a waiting side looks whether memory became short.
const LOOK: Duration = Duration::from_secs(1);

/// One connection.
pub(super) struct Line<S> {
    exec: Exec,
    stream: S,
    pool: Pool,
    lock: Semaphore,
    dead: Cell<bool>,
}

impl<S: Stream> Line<S> {
    pub(super) fn new(exec: Exec, stream: S, pool: Pool) -> Self {
        Self {
            exec,
            stream,
            pool,
            lock: Semaphore::new(1),
            dead: Cell::new(false),
        }
    }

    /// Whether replies go nowhere.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Ends the connection at once.
    pub(super) fn hang_up(&self) {
        if !self.dead.replace(true) {
            self.stream.abort();
        }
    }

    /// Ends the sending side after what was sent.
    pub(super) fn finish(&self) {
        if !self.is_dead() {
            self.stream.finish();
        }
    }

    /// Waits for the right to send a reply.
    pub(super) async fn turn(&self) -> Turn<'_, S> {
        // Mostly nobody else is sending.
        let permit = match self.lock.try_acquire() {
            Some(permit) => permit,
            None => self.lock.acquire().await,
        };
        Turn {
            line: self,
            since: self.exec.now(),
            _permit: permit,
        }
    }

    /// Reads the next request's bytes, however long that takes; `false` when the client is gone instead.
    pub(super) async fn receive_head(&self, into: &mut [u8]) -> Result<bool, Broken> {
        let count = self.stream.read(into).await?;
        if count == 0 {
            return Ok(false);
        }
        self.stream.read_exact(&mut into[count..]).await?;
        Ok(true)
    }

    /// Reads the bytes of `span` into its place in `into`.
    pub(super) async fn receive(&self, span: Span, into: &mut Buf) -> Result<(), Broken> {
        let since = self.exec.now();
        let (mut at, mut left) = (within(span), span.len as usize);
        while left > 0 {
            let offset = at % BLOCK_SIZE;
            let count = left.min(BLOCK_SIZE - offset);
            let part = &mut into.block_mut(at / BLOCK_SIZE)[offset..offset + count];
            self.receive_part(part, since).await?;
            at += count;
            left -= count;
        }
        Ok(())
    }

    /// Reads and forgets `len` bytes.
    pub(super) async fn skip(&self, len: u64) -> Result<(), Broken> {
        let mut scratch = [0; 512];
        let mut left = len;
        while left > 0 {
            let count = left.min(scratch.len() as u64);
            self.receive_bytes(&mut scratch[..count as usize]).await?;
            left -= count;
        }
        Ok(())
    }

    /// Fills `into`, which is not much.
    pub(super) async fn receive_bytes(&self, into: &mut [u8]) -> Result<(), Broken> {
        let since = self.exec.now();
        self.receive_part(into, since).await
    }

    async fn receive_part(&self, into: &mut [u8], since: Instant) -> Result<(), Broken> {
        // What has arrived already needs no patience.
        let mut done = self.stream.try_read(into);
        while done < into.len() {
            match self
                .exec
                .timeout(LOOK, self.stream.read(&mut into[done..]))
                .await
            {
                Ok(Ok(0)) => return Err(net::NetError::Closed.into()),
                Ok(Ok(count)) => {
                    done += count;
                    self.is_worth_it(since)?;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => self.bear_with(since)?,
            }
        }
        Ok(())
    }

    /// Decides whether a peer that moves goes on: drop by drop, a piece would hold its memory for days.
    fn is_worth_it(&self, since: Instant) -> Result<(), Broken> {
        if self.exec.now().since(since) >= PATIENCE {
            return Err(Broken::Stalled);
        }
        Ok(())
    }

    /// Decides whether a peer that made no progress just now gets more time.
    fn bear_with(&self, since: Instant) -> Result<(), Broken> {
        let short = self.pool.available() < Buf::PAGES_MAX;
        let patience = if short { PATIENCE_WHEN_SHORT } else { PATIENCE };
        if self.exec.now().since(since) >= patience {
            return Err(Broken::Stalled);
        }
        Ok(())
    }
}

/// Where in its buffer the first byte of `span` is.
fn within(span: Span) -> usize {
    (span.offset % BLOCK_SIZE as u64) as usize
}

/// The right to send one reply. When sending fails the connection is over, and further sending does nothing.
pub(super) struct Turn<'a, S> {
    line: &'a Line<S>,
    since: Instant,
    _permit: Permit,
}

impl<S: Stream> Turn<'_, S> {
    /// Sends `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        if self.line.is_dead() {
            return;
        }
        // Mostly there is room, and it is done.
        let queued = self.line.stream.try_write(bytes);
        if queued == bytes.len() {
            return;
        }
        if let Err(broken) = self.try_send(&bytes[queued..]).await {
            log::debug!("nbd: {}: {broken}", self.line.stream.peer());
            self.line.hang_up();
        }
    }

    /// Sends the bytes of `span` from its place in `from`. Each call has the patience of a piece.
    pub(super) async fn send_span(&mut self, span: Span, from: &Buf) {
        self.since = self.line.exec.now();
        let (mut at, mut left) = (within(span), span.len as usize);
        while left > 0 {
            let offset = at % BLOCK_SIZE;
            let count = left.min(BLOCK_SIZE - offset);
            self.send(&from.block(at / BLOCK_SIZE)[offset..offset + count])
                .await;
            at += count;
            left -= count;
        }
    }

    async fn try_send(&self, bytes: &[u8]) -> Result<(), Broken> {
        let line = self.line;
        let mut done = 0;
        while done < bytes.len() {
            match line
                .exec
                .timeout(LOOK, line.stream.write(&bytes[done..]))
                .await
            {
                Ok(Ok(count)) => {
                    done += count;
                    line.is_worth_it(self.since)?;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => line.bear_with(self.since)?,
            }
        }
        Ok(())
    }
}
