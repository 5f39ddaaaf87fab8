//! Requests in: checks each one, takes its payload, and finds it a worker.

use alloc::rc::Rc;

use net::Stream;
use volume::Access;
use wire::nbd::*;
use world::Disk;

use super::errors::Broken;
use super::jobs::{Job, work};
use super::pieces::Pieces;
use super::workers::Claim;
use super::{PAYLOAD_MAX, Session};

/// Receives requests until the client disconnects.
///
/// # Errors
/// Whatever leaves no way but to hang up.
pub(super) async fn requests<D: Disk + 'static, S: Stream>(
    session: &Rc<Session<D, S>>,
) -> Result<(), Broken> {
    let mut bytes = [0; Request::LEN];
    while session.line.receive_head(&mut bytes).await? {
        let request = Request::decode(bytes)?;
        if request.command == NBD_CMD_DISC {
            break;
        }
        match session.admit(request) {
            Ok(()) if request.len == 0 && request.command != NBD_CMD_FLUSH => {
                session.refuse_or_finish(request, None).await?;
            }
            Ok(()) if request.command == NBD_CMD_WRITE => receive_write(session, request).await?,
            Ok(()) if in_chunks(session, request) => start_read(session, request).await,
            Ok(()) => claim(session).await.assign(Job::Whole(request)),
            Err(error) => session.refuse_or_finish(request, Some(error)).await?,
        }
    }
    Ok(())
}

async fn claim<D: Disk + 'static, S: Stream>(session: &Rc<Session<D, S>>) -> Claim<'_> {
    let hire = |seat| work(session.clone(), seat);
    session.workers.claim(&session.exec, hire).await
}

fn in_chunks<D, S>(session: &Session<D, S>, request: Request) -> bool {
    let whole = request.flags & NBD_CMD_FLAG_DF != 0 || !session.structured;
    request.command == NBD_CMD_READ && !whole
}

async fn start_read<D: Disk + 'static, S: Stream>(session: &Rc<Session<D, S>>, request: Request) {
    let pieces = Pieces::new(request.offset, request.len.into());
    let of = session.requests.borrow_mut().begin(request, pieces.count());
    for span in pieces {
        claim(session).await.assign(Job::Read { of, span });
    }
}

async fn receive_write<D: Disk + 'static, S: Stream>(
    session: &Rc<Session<D, S>>,
    request: Request,
) -> Result<(), Broken> {
    let pieces = Pieces::new(request.offset, request.len.into());
    let of = session.requests.borrow_mut().begin(request, pieces.count());
    for span in pieces {
        // The worker before the buffer: idle workers may depend on buffers, never the other way round.
        let worker = claim(session).await;
        let share = session.incoming.take(span.blocks()).await;
        let mut buf = session.pool.take(span.blocks()).await;
        session.line.receive(span, &mut buf).await?;
        worker.assign(Job::Write {
            of,
            span,
            buf,
            share,
        });
    }
    Ok(())
}

impl<D: Disk + 'static, S: Stream> Session<D, S> {
    /// Checks all of a request that can be checked before it starts.
    fn admit(&self, request: Request) -> Result<(), Errno> {
        // FUA may be set on every command, and means nothing where nothing is written.
        let known_flags = NBD_CMD_FLAG_FUA
            | match request.command {
                NBD_CMD_READ if self.structured => NBD_CMD_FLAG_DF,
                NBD_CMD_WRITE_ZEROES => NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
                _ => 0,
            };
        let access = match request.command {
            NBD_CMD_READ | NBD_CMD_CACHE => Access::ReadOnly,
            NBD_CMD_WRITE | NBD_CMD_TRIM | NBD_CMD_WRITE_ZEROES => Access::ReadWrite,
            // Offset and length of a FLUSH are reserved.
            NBD_CMD_FLUSH if request.flags & !known_flags == 0 => return Ok(()),
            _ => return Err(NBD_EINVAL),
        };
        let carries = matches!(request.command, NBD_CMD_READ | NBD_CMD_WRITE);
        if request.flags & !known_flags != 0 || (carries && request.len > PAYLOAD_MAX) {
            return Err(NBD_EINVAL);
        }
        let slow_zeros = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
        if request.flags & slow_zeros == slow_zeros {
            return Err(NBD_ENOTSUP);
        }
        let checked = self
            .volume
            .check(access, request.offset, request.len.into());
        checked.map_err(|error| self.explain(error, request.command))
    }

    /// Answers a request at once, after the payload that it may have.
    async fn refuse_or_finish(&self, request: Request, error: Option<Errno>) -> Result<(), Broken> {
        if request.command == NBD_CMD_WRITE {
            if request.len > PAYLOAD_MAX {
                return Err(Broken::TooLarge);
            }
            self.line.skip(request.len).await?;
        }
        if request.command == NBD_CMD_READ && self.structured {
            let mut turn = self.line.turn().await;
            match error {
                Some(error) => turn.send(&chunk_error(request.cookie, error)).await,
                None => turn.send(&chunk_none(request.cookie)).await,
            }
        } else {
            self.reply(request.cookie, error).await;
        }
        Ok(())
    }
}
