//! What workers do: a piece of a read or of a write, or a whole request of another kind.

use alloc::rc::Rc;
use alloc::vec::Vec;

use net::Stream;
use volume::{Holes, Operation, Span, VolumeError};
use wire::nbd::*;
use world::{BLOCK_SIZE, Buf, Disk, Instant};

use super::Session;
use super::errors::errno;
use super::line::Turn;
use super::pieces::Pieces;
use super::status::Chosen;
use super::workers::Seat;
use crate::quota::Share;

/// Work for one worker.
pub(super) enum Job {
    /// Read a piece and send it as a chunk.
    Read {
        /// The request it is a part of.
        of: Ticket,
        /// What to read.
        span: Span,
    },
    /// Write a piece; the reply follows the last one.
    Write {
        /// The request it is a part of.
        of: Ticket,
        /// Where to write.
        span: Span,
        /// What to write.
        buf: Buf,
        /// The connection's part of the pool that `buf` takes.
        share: Share,
    },
    /// Carry out a request that was admitted, and received then, and reply.
    Whole(Request, Instant),
    /// Tell what these contexts say of a range that was admitted.
    Status(Request, Chosen),
}

/// A request in pieces.
#[derive(Clone, Copy)]
struct Progress {
    to: ReplyTo,
    fua: bool,
    len: u64,
    /// When it was received.
    begun: Instant,
    pieces_left: usize,
    error: Option<Errno>,
}

/// Names a request in pieces.
#[derive(Clone, Copy)]
pub(super) struct Ticket(usize);

/// The requests in pieces of one connection. Places are reused.
#[derive(Default)]
pub(super) struct Requests {
    all: Vec<Progress>,
    free: Vec<usize>,
}

impl Requests {
    /// Notes a request of `pieces` pieces.
    pub(super) fn begin(
        &mut self,
        request: Request,
        to: ReplyTo,
        pieces: usize,
        now: Instant,
    ) -> Ticket {
        let progress = Progress {
            to,
            fua: request.flags & NBD_CMD_FLAG_FUA != 0,
            len: request.len,
            begun: now,
            pieces_left: pieces,
            error: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(progress);
            self.all.len() - 1
        });
        self.all[index] = progress;
        Ticket(index)
    }

    /// Notes the end of a piece; the request as it stands now, forgotten here if that was its last piece.
    fn end_piece(&mut self, ticket: Ticket, error: Option<Errno>) -> Progress {
        let progress = &mut self.all[ticket.0];
        progress.pieces_left -= 1;
        progress.error = progress.error.or(error);
        let progress = *progress;
        if progress.pieces_left == 0 {
            self.free.push(ticket.0);
        }
        progress
    }
}

/// The life of a worker.
pub(super) async fn work<D: Disk + 'static, S: Stream>(session: Rc<Session<D, S>>, seat: Rc<Seat>) {
    while let Some(job) = session.workers.next_job(&seat).await {
        match job {
            Job::Read { of, span } => session.read_piece(of, span).await,
            Job::Write {
                of,
                span,
                buf,
                share,
            } => session.write_piece(of, span, buf, share).await,
            Job::Whole(request, begun) => session.whole(request, begun).await,
            Job::Status(request, contexts) => session.block_status(request, contexts).await,
        }
        session.workers.rest(seat.clone());
    }
}

/// The most buffers that one reply without chunks collects before it starts.
const COLLECTED_MAX: usize = 8;

impl<D: Disk + 'static, S: Stream> Session<D, S> {
    async fn read_piece(&self, of: Ticket, span: Span) {
        if self.line.is_dead() {
            self.requests.borrow_mut().end_piece(of, None);
            return;
        }
        let (_share, buf) = self.buffer(span.blocks()).await;
        let (buf, result) = self.volume.read(span, buf).await;
        let mut turn = self.line.turn().await;
        // Only in its turn does a chunk know whether it is the last.
        let progress = self.requests.borrow_mut().end_piece(of, None);
        let (to, done) = (progress.to, progress.pieces_left == 0);
        match result {
            Ok(holes) if holes.is_empty() => {
                let head = to.data(done, span.offset, span.len);
                turn.send_span(&head, span, &buf).await;
            }
            Ok(holes) => send_with_holes(&mut turn, to, done, (span, buf), holes).await,
            Err(error) => {
                let error = self.explain(error, NBD_CMD_READ);
                turn.send(&to.error_at(done, error, span.offset)).await;
            }
        }
        if done {
            self.count(Operation::Read, progress.len, progress.begun);
        }
    }

    async fn write_piece(&self, of: Ticket, span: Span, buf: Buf, share: Share) {
        let result = self.volume.write(span, buf).await;
        drop(share);
        let error = result.err().map(|error| self.explain(error, NBD_CMD_WRITE));
        let progress = self.requests.borrow_mut().end_piece(of, error);
        if progress.pieces_left > 0 {
            return;
        }
        let mut error = progress.error;
        if error.is_none() && progress.fua {
            error = self.flush(NBD_CMD_WRITE).await.err();
        }
        self.reply(progress.to, error).await;
        self.count(Operation::Write, progress.len, progress.begun);
    }

    async fn whole(&self, request: Request, begun: Instant) {
        self.carry_out(request).await;
        let operation = match request.command {
            NBD_CMD_READ => Operation::Read,
            NBD_CMD_FLUSH => Operation::Flush,
            NBD_CMD_WRITE_ZEROES if request.flags & NBD_CMD_FLAG_NO_HOLE != 0 => Operation::Write,
            NBD_CMD_TRIM | NBD_CMD_WRITE_ZEROES => Operation::Discard,
            _ => return,
        };
        let len = match operation {
            Operation::Flush => 0,
            _ => request.len,
        };
        self.count(operation, len, begun);
    }

    /// Counts a request that was answered.
    fn count(&self, operation: Operation, bytes: u64, begun: Instant) {
        let took = self.exec.now().since(begun);
        self.volume.traffic().note(operation, bytes, took);
    }

    async fn carry_out(&self, request: Request) {
        let result = match request.command {
            NBD_CMD_READ => return self.read_contiguous(request).await,
            NBD_CMD_FLUSH => self.flush(request.command).await,
            NBD_CMD_CACHE => self.cache(request).await,
            NBD_CMD_WRITE_ZEROES if request.flags & NBD_CMD_FLAG_NO_HOLE != 0 => {
                self.write_zeros(request).await
            }
            // TRIM and WRITE_ZEROES: a hole is both.
            _ => self.discard(request).await,
        };
        let fua = request.flags & NBD_CMD_FLAG_FUA != 0;
        let result = match (result, request.command) {
            (Ok(()), NBD_CMD_TRIM | NBD_CMD_WRITE_ZEROES) if fua => {
                self.flush(request.command).await
            }
            (result, _) => result,
        };
        self.reply(self.reply_to(request), result.err()).await;
    }

    async fn flush(&self, command: u16) -> Result<(), Errno> {
        let result = self.volume.flush().await;
        result.map_err(|error| self.explain(error, command))
    }

    async fn discard(&self, request: Request) -> Result<(), Errno> {
        let result = self.volume.discard(request.offset, request.len).await;
        result.map_err(|error| self.explain(error, request.command))
    }

    /// Zeros that use space, so that later writes need none.
    async fn write_zeros(&self, request: Request) -> Result<(), Errno> {
        for span in Pieces::new(request.offset, request.len) {
            let (_share, mut buf) = self.buffer(span.blocks()).await;
            buf.zero();
            let result = self.volume.write(span, buf).await;
            result.map_err(|error| self.explain(error, request.command))?;
            if self.line.is_dead() {
                break;
            }
            self.exec.yield_now().await;
        }
        Ok(())
    }

    /// Reads the range, so that the store's maps of it are in memory and damage is known.
    async fn cache(&self, request: Request) -> Result<(), Errno> {
        for span in Pieces::new(request.offset, request.len) {
            let (_share, buf) = self.buffer(span.blocks()).await;
            let (_, result) = self.volume.read(span, buf).await;
            result.map_err(|error| self.explain(error, request.command))?;
            if self.line.is_dead() {
                break;
            }
            self.exec.yield_now().await;
        }
        Ok(())
    }

    /// Answers a READ by one simple reply or one chunk.
    ///
    /// Such a reply cannot tell of an error once it has begun, so every piece is read before, from the last to the
    /// first. As many as there is memory for at once are kept; the others were read only to see that they can be, and
    /// are read again when it is their turn, into the first buffer: nothing here waits for memory while holding some.
    async fn read_contiguous(&self, request: Request) {
        let pieces = Pieces::new(request.offset, request.len);
        let largest = pieces.map(Span::blocks).max().unwrap_or(0);
        let (_share, mut buf) = self.buffer(largest).await;
        let others = pieces.count().saturating_sub(1);
        let mut collected: Vec<(Span, Buf, Share)> = Vec::with_capacity(others.min(COLLECTED_MAX));
        let mut result = Ok(());
        for span in pieces.rev() {
            if span.offset != request.offset
                && collected.len() < COLLECTED_MAX
                && let Some((share, extra)) = self.buffer_at_once(span.blocks())
            {
                let read = self.volume.read(span, extra).await;
                result = result.and(read.1.map(|_| ()));
                collected.push((span, read.0, share));
            } else {
                let read = self.read_into(span, buf).await;
                result = result.and(read.1.map(|_| ()));
                buf = read.0;
            }
            if result.is_err() {
                break;
            }
        }
        let to = self.reply_to(request);
        let error = result.err().map(|error| self.explain(error, NBD_CMD_READ));
        let len = u32::try_from(request.len).expect("a READ has at most the largest payload");
        let mut turn = self.line.turn().await;
        let head = match error {
            Some(error) if self.headers.in_chunks() => to.error(error),
            None if self.headers.in_chunks() => to.data(true, request.offset, len),
            error => to.simple(error),
        };
        turn.send(&head).await;
        if error.is_some() {
            return;
        }
        for span in pieces {
            if span.offset == request.offset {
                turn.send_span(&[], span, &buf).await;
                continue;
            }
            if let Some(at) = collected.iter().position(|one| one.0 == span) {
                let (_, kept, _share) = collected.swap_remove(at);
                turn.send_span(&[], span, &kept).await;
                continue;
            }
            let read = self.read_into(span, buf).await;
            buf = read.0;
            if read.1.is_err() || self.line.is_dead() {
                // It could be read a moment ago. The reply cannot be completed, which only closing can tell.
                self.line.hang_up();
                return;
            }
            turn.send_span(&[], span, &buf).await;
        }
    }

    /// Reads `span` into the first pages of `buf`.
    async fn read_into(&self, span: Span, mut buf: Buf) -> (Buf, Result<Holes, VolumeError>) {
        let rest = buf.split_off(span.blocks());
        let (mut buf, result) = self.volume.read(span, buf).await;
        buf.append(rest);
        (buf, result)
    }

    /// Waits for a buffer of `blocks` within the connection's quota. Not to be called while holding another.
    async fn buffer(&self, blocks: usize) -> (Share, Buf) {
        // Mostly there is enough of both.
        if let Some(both) = self.buffer_at_once(blocks) {
            return both;
        }
        let share = self.outgoing.take(blocks).await;
        (share, self.pool.take(blocks).await)
    }

    fn buffer_at_once(&self, blocks: usize) -> Option<(Share, Buf)> {
        let share = self.outgoing.try_take(blocks)?;
        Some((share, self.pool.try_take(blocks)?))
    }

    /// Sends the reply to a request that was not for data.
    async fn reply(&self, to: ReplyTo, error: Option<Errno>) {
        self.line.turn().await.send(&to.result(error)).await;
    }

    /// What replies to `request` are made from.
    pub(super) fn reply_to(&self, request: Request) -> ReplyTo {
        ReplyTo {
            headers: self.headers,
            cookie: request.cookie,
            offset: request.offset,
        }
    }

    /// The protocol's number for `error`; what is not the client's fault is logged.
    pub(super) fn explain(&self, error: VolumeError, command: u16) -> Errno {
        let number = errno(error, command);
        if number == NBD_EIO {
            log::warn!("nbd: {}: {error}", self.volume.name());
        }
        number
    }
}

/// Sends a piece of a READ as chunks of data and of holes.
async fn send_with_holes<S: Stream>(
    turn: &mut Turn<'_, S>,
    to: ReplyTo,
    done: bool,
    (span, mut buf): (Span, Buf),
    holes: Holes,
) {
    let block = BLOCK_SIZE as u64;
    let (end, blocks) = (span.offset + u64::from(span.len), span.blocks());
    let (mut at, mut first) = (span.offset, 0);
    while first < blocks {
        let (is_hole, count) = holes.run(first, blocks);
        first += count;
        let until = ((span.offset / block + first as u64) * block).min(end);
        let part = Span {
            offset: at,
            len: u32::try_from(until - at).expect("a part of a piece"),
        };
        let done = done && until == end;
        let rest = buf.split_off(count);
        if is_hole {
            turn.send(&to.hole(done, at, part.len)).await;
        } else {
            turn.send_span(&to.data(done, at, part.len), part, &buf)
                .await;
        }
        (at, buf) = (until, rest);
    }
}

const _: () = assert!(super::BLOCK_PREFERRED as usize == BLOCK_SIZE);
