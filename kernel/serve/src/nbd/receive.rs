//! Requests in: checks each one, takes its payload, and finds it a worker.

use alloc::rc::Rc;

use net::Stream;
use volume::{Access, Span};
use wire::nbd::*;
use world::Disk;

use super::errors::Broken;
use super::jobs::{Job, Ticket, work};
use super::line::Incoming;
use super::pieces::Pieces;
use super::status::FILTER_MAX;
use super::workers::Claim;
use super::{PAYLOAD_MAX, Session};

/// Receives requests until the client disconnects.
///
/// # Errors
/// Whatever leaves no way but to hang up.
pub(super) async fn requests<D: Disk + 'static, S: Stream>(
    session: &Rc<Session<D, S>>,
) -> Result<(), Broken> {
    let mut incoming = session.line.incoming();
    let mut bytes = [0; Request::EXTENDED_LEN];
    let len = session.headers.request_len();
    while incoming.receive_head(&mut bytes[..len]).await? {
        let request = decode(session.headers, &bytes)?;
        if request.command == NBD_CMD_DISC {
            break;
        }
        let payload = request.payload_len(session.headers);
        if payload > u64::from(PAYLOAD_MAX) {
            return Err(Broken::TooLarge);
        }
        match session.admit(request) {
            Ok(()) if request.command == NBD_CMD_BLOCK_STATUS => {
                start_status(session, &mut incoming, request, payload).await?;
            }
            Ok(()) if request.len == 0 && request.command != NBD_CMD_FLUSH => {
                session.answer(request, None).await;
            }
            Ok(()) if request.command == NBD_CMD_WRITE => {
                receive_write(session, &mut incoming, request).await?;
            }
            Ok(()) if in_chunks(session, request) => start_read(session, request).await,
            Ok(()) => {
                let begun = session.exec.now();
                pace_whole(session, request).await;
                claim(session).await.assign(Job::Whole(request, begun));
            }
            Err(error) => {
                incoming.skip(payload).await?;
                session.answer(request, Some(error)).await;
            }
        }
    }
    Ok(())
}

fn decode(headers: Headers, bytes: &[u8; Request::EXTENDED_LEN]) -> Result<Request, NbdError> {
    match (headers, bytes.first_chunk()) {
        (Headers::Simple | Headers::Structured, Some(bytes)) => Request::decode(*bytes),
        _ => Request::decode_extended(*bytes),
    }
}

async fn claim<D: Disk + 'static, S: Stream>(session: &Rc<Session<D, S>>) -> Claim<'_> {
    let hire = |seat| work(session.clone(), seat);
    session.workers.claim(&session.exec, hire).await
}

fn in_chunks<D, S>(session: &Session<D, S>, request: Request) -> bool {
    let whole = request.flags & NBD_CMD_FLAG_DF != 0 || !session.headers.in_chunks();
    request.command == NBD_CMD_READ && !whole
}

/// Notes a request that is done in pieces.
fn begin<D: Disk + 'static, S: Stream>(
    session: &Session<D, S>,
    request: Request,
) -> (Pieces, Ticket) {
    let pieces = Pieces::new(request.offset, request.len);
    let to = session.reply_to(request);
    let mut requests = session.requests.borrow_mut();
    let now = session.exec.now();
    (pieces, requests.begin(request, to, pieces.count(), now))
}

/// Waits until the volume's limits let this piece in; the first one is the request.
async fn pace_piece<D: Disk + 'static, S: Stream>(
    session: &Session<D, S>,
    request: Request,
    span: Span,
) {
    let pace = session.volume.traffic().pace();
    if pace.is_limited() {
        let requests = u64::from(span.offset == request.offset);
        pace.admit(&session.exec, requests, span.len.into()).await;
    }
}

/// Waits until the volume's limits let all of a request in.
async fn pace_whole<D: Disk + 'static, S: Stream>(session: &Session<D, S>, request: Request) {
    let pace = session.volume.traffic().pace();
    if !pace.is_limited() {
        return;
    }
    let no_hole = request.flags & NBD_CMD_FLAG_NO_HOLE != 0;
    match request.command {
        // Whoever wants to be sure of something does not wait for the sake of others.
        NBD_CMD_FLUSH => {}
        NBD_CMD_TRIM => pace.admit(&session.exec, 1, 0).await,
        NBD_CMD_WRITE_ZEROES if !no_hole => pace.admit(&session.exec, 1, 0).await,
        _ => {
            for span in Pieces::new(request.offset, request.len) {
                pace_piece(session, request, span).await;
            }
        }
    }
}

async fn start_read<D: Disk + 'static, S: Stream>(session: &Rc<Session<D, S>>, request: Request) {
    let (pieces, of) = begin(session, request);
    for span in pieces {
        pace_piece(session, request, span).await;
        claim(session).await.assign(Job::Read { of, span });
    }
}

async fn receive_write<D: Disk + 'static, S: Stream>(
    session: &Rc<Session<D, S>>,
    incoming: &mut Incoming<'_, S>,
    request: Request,
) -> Result<(), Broken> {
    let (pieces, of) = begin(session, request);
    for span in pieces {
        // Before anything is held: whoever is limited takes nothing from others.
        pace_piece(session, request, span).await;
        // The worker before the buffer: idle workers may depend on buffers, never the other way round.
        let worker = claim(session).await;
        let share = session.incoming.take(span.blocks()).await;
        let mut buf = session.pool.take(span.blocks()).await;
        incoming.receive(span, &mut buf).await?;
        worker.assign(Job::Write {
            of,
            span,
            buf,
            share,
        });
    }
    Ok(())
}

/// Finds out what a BLOCK_STATUS is about, which its payload may say.
async fn start_status<D: Disk + 'static, S: Stream>(
    session: &Rc<Session<D, S>>,
    incoming: &mut Incoming<'_, S>,
    mut request: Request,
    payload: u64,
) -> Result<(), Broken> {
    let mut filter = [0; FILTER_MAX];
    let mut contexts = Ok(session.all_contexts());
    if request.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0 {
        let bytes = filter.get_mut(..usize::try_from(payload).unwrap_or(usize::MAX));
        let chosen = match bytes {
            Some(bytes) => {
                incoming.receive_bytes(bytes).await?;
                session.choose(bytes)
            }
            None => {
                incoming.skip(payload).await?;
                Err(NBD_EINVAL)
            }
        };
        contexts = chosen.map(|(len, contexts)| {
            request.len = len;
            contexts
        });
    }
    match contexts.and_then(|contexts| session.admit_status(request).map(|()| contexts)) {
        Ok(contexts) => claim(session).await.assign(Job::Status(request, contexts)),
        Err(error) => session.answer(request, Some(error)).await,
    }
    Ok(())
}

impl<D: Disk + 'static, S: Stream> Session<D, S> {
    /// Checks all of a request that can be checked before it starts.
    fn admit(&self, request: Request) -> Result<(), Errno> {
        if request.flags & !self.known_flags(request.command) != 0 {
            return Err(NBD_EINVAL);
        }
        let access = match request.command {
            NBD_CMD_READ | NBD_CMD_CACHE => Access::ReadOnly,
            NBD_CMD_WRITE if self.lacks_payload(request) => return Err(NBD_EINVAL),
            NBD_CMD_WRITE | NBD_CMD_TRIM | NBD_CMD_WRITE_ZEROES => Access::ReadWrite,
            // Offset and length of a FLUSH are reserved.
            NBD_CMD_FLUSH => return Ok(()),
            // Its range may be in the payload.
            NBD_CMD_BLOCK_STATUS if !self.contexts.is_empty() => return Ok(()),
            _ => return Err(NBD_EINVAL),
        };
        if request.command == NBD_CMD_READ && request.len > u64::from(PAYLOAD_MAX) {
            return Err(match self.headers.in_chunks() {
                true => NBD_EOVERFLOW,
                false => NBD_EINVAL,
            });
        }
        let checked = self.volume.check(access, request.offset, request.len);
        checked.map_err(|error| self.explain(error, request.command))?;
        let slow_zeros = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
        if request.flags & slow_zeros == slow_zeros {
            // Zeros that use space are written like any data; only holes are fast.
            return Err(NBD_ENOTSUP);
        }
        Ok(())
    }

    /// Flags that a command may have.
    fn known_flags(&self, command: u16) -> u16 {
        let with_payload = match self.headers {
            Headers::Extended => NBD_CMD_FLAG_PAYLOAD_LEN,
            Headers::Simple | Headers::Structured => 0,
        };
        // FUA may be set on every command, and means nothing where nothing is written.
        NBD_CMD_FLAG_FUA
            | match command {
                NBD_CMD_READ if self.headers.in_chunks() => NBD_CMD_FLAG_DF,
                NBD_CMD_WRITE => with_payload,
                NBD_CMD_WRITE_ZEROES => NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
                NBD_CMD_BLOCK_STATUS => NBD_CMD_FLAG_REQ_ONE | with_payload,
                _ => 0,
            }
    }

    fn lacks_payload(&self, request: Request) -> bool {
        self.headers == Headers::Extended && request.flags & NBD_CMD_FLAG_PAYLOAD_LEN == 0
    }

    /// Answers a request at once.
    async fn answer(&self, request: Request, error: Option<Errno>) {
        let to = self.reply_to(request);
        let is_for_data = matches!(request.command, NBD_CMD_READ | NBD_CMD_BLOCK_STATUS);
        let reply = match error {
            Some(error) if is_for_data && self.headers.in_chunks() => to.error(error),
            None if is_for_data && self.headers.in_chunks() => to.none(),
            error => to.result(error),
        };
        self.line.turn().await.send(&reply).await;
    }
}
