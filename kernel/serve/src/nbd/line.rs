//! The bytes of one connection: whole replies out, payloads in, and an end to both when the peer stalls.

use core::cell::Cell;
use core::iter;
use core::ops::Range;
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
            since: None,
            _permit: permit,
        }
    }

    /// The receiving side; there is to be only one.
    pub(super) fn incoming(&self) -> Incoming<'_, S> {
        Incoming {
            line: self,
            ahead: [0; AHEAD_BYTES],
            rest: 0..0,
            has_payloads: false,
        }
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

/// Bytes of requests that are read at once, whether they were asked for or not.
const AHEAD_BYTES: usize = 512;

/// The receiving side of one connection.
pub(super) struct Incoming<'a, S> {
    line: &'a Line<S>,
    /// What came in behind a request; mostly more of them.
    ahead: [u8; AHEAD_BYTES],
    /// Where in `ahead` the bytes are that nobody took yet.
    rest: Range<usize>,
    /// The last request had a payload, and mostly the next one has: that had better go to its place at once.
    has_payloads: bool,
}

impl<S: Stream> Incoming<'_, S> {
    /// Reads the next request's bytes, however long that takes; `false` when the client is gone instead.
    pub(super) async fn receive_head(&mut self, into: &mut [u8]) -> Result<bool, Broken> {
        let mut done = self.take_ahead(into);
        let has_payloads = core::mem::take(&mut self.has_payloads);
        while done < into.len() {
            let wanted = if has_payloads {
                into.len() - done
            } else {
                AHEAD_BYTES
            };
            let count = self.line.stream.read(&mut self.ahead[..wanted]).await?;
            self.rest = 0..count;
            match count {
                0 if done == 0 => return Ok(false),
                0 => return Err(net::NetError::Closed.into()),
                _ => done += self.take_ahead(&mut into[done..]),
            }
        }
        Ok(true)
    }

    /// Reads the bytes of `span` into its place in `into`.
    pub(super) async fn receive(&mut self, span: Span, into: &mut Buf) -> Result<(), Broken> {
        self.has_payloads = true;
        let since = self.line.exec.now();
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
    pub(super) async fn skip(&mut self, len: u64) -> Result<(), Broken> {
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
    pub(super) async fn receive_bytes(&mut self, into: &mut [u8]) -> Result<(), Broken> {
        let since = self.line.exec.now();
        self.receive_part(into, since).await
    }

    async fn receive_part(&mut self, into: &mut [u8], since: Instant) -> Result<(), Broken> {
        let line = self.line;
        let mut done = self.take_ahead(into);
        // What has arrived already needs no patience.
        done += line.stream.try_read(&mut into[done..]);
        while done < into.len() {
            let read = line.stream.read(&mut into[done..]);
            match line.exec.timeout(LOOK, read).await {
                Ok(Ok(0)) => return Err(net::NetError::Closed.into()),
                Ok(Ok(count)) => {
                    done += count;
                    line.is_worth_it(since)?;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => line.bear_with(since)?,
            }
        }
        Ok(())
    }

    /// Takes of what was read ahead what fits in `into`.
    fn take_ahead(&mut self, into: &mut [u8]) -> usize {
        if self.rest.is_empty() {
            return 0;
        }
        let count = self.rest.len().min(into.len());
        let end = self.rest.start + count;
        into[..count].copy_from_slice(&self.ahead[self.rest.start..end]);
        self.rest.start = end;
        count
    }
}

/// Where in its buffer the first byte of `span` is.
fn within(span: Span) -> usize {
    (span.offset % BLOCK_SIZE as u64) as usize
}

/// The bytes of `span` in `from`, block by block.
fn parts(span: Span, from: &Buf) -> impl Iterator<Item = &[u8]> + Clone {
    let start = within(span);
    let end = start + span.len as usize;
    (0..end.div_ceil(BLOCK_SIZE)).map(move |block| {
        let first = block * BLOCK_SIZE;
        &from.block(block)[start.saturating_sub(first)..BLOCK_SIZE.min(end - first)]
    })
}

/// The right to send one reply. When sending fails the connection is over, and further sending does nothing.
pub(super) struct Turn<'a, S> {
    line: &'a Line<S>,
    /// When it first had to wait.
    since: Option<Instant>,
    _permit: Permit,
}

impl<S: Stream> Turn<'_, S> {
    /// Sends `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.send_parts(iter::once(bytes), bytes.len()).await;
    }

    /// Sends `head`, and then the bytes of `span` from its place in `from`. Each call has the patience of a piece.
    pub(super) async fn send_span(&mut self, head: &[u8], span: Span, from: &Buf) {
        self.since = None;
        let len = head.len() + span.len as usize;
        self.send_parts(iter::once(head).chain(parts(span, from)), len)
            .await;
    }

    /// Sends `parts`, which are `len` bytes.
    async fn send_parts<'b>(&mut self, parts: impl Iterator<Item = &'b [u8]> + Clone, len: usize) {
        if self.line.is_dead() {
            return;
        }
        // Mostly there is room, and it is done.
        let queued = self.line.stream.try_write(parts.clone());
        if queued == len {
            return;
        }
        if let Err(broken) = self.send_rest(parts, len, queued).await {
            log::debug!("nbd: {}: {broken}", self.line.stream.peer());
            self.line.hang_up();
        }
    }

    /// Sends `parts`, which are `len` bytes, without the first `done` bytes.
    async fn send_rest<'b>(
        &mut self,
        parts: impl Iterator<Item = &'b [u8]> + Clone,
        len: usize,
        mut done: usize,
    ) -> Result<(), Broken> {
        let line = self.line;
        let since = *self.since.get_or_insert_with(|| line.exec.now());
        while done < len {
            let rest = line.stream.write_parts(without(parts.clone(), done));
            match line.exec.timeout(LOOK, rest).await {
                Ok(Ok(count)) => {
                    done += count;
                    line.is_worth_it(since)?;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => line.bear_with(since)?,
            }
        }
        Ok(())
    }
}

/// `parts` without their first `count` bytes.
fn without<'b>(
    parts: impl Iterator<Item = &'b [u8]> + Clone,
    mut count: usize,
) -> impl Iterator<Item = &'b [u8]> + Clone {
    parts.map(move |part| {
        let before = count.min(part.len());
        count -= before;
        &part[before..]
    })
}
