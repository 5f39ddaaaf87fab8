//! One connection in transmission: requests out, and who waits for which reply ([`mod@crate::receive`] has the replies).

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::iter;
use core::task::{Poll, Waker};

use exec::{Exec, Notify, Permit, Semaphore};
use net::Stream;
use volume::OriginError;
use wire::nbd::*;
use world::Instant;

use crate::listing::Listing;
use crate::origins::Patience;
use crate::reading::Reading;
use crate::terms::Terms;

/// Requests under way on one connection; further ones wait for a place.
pub const REQUESTS_MAX: usize = 32;

/// One connection in transmission. It ends once, for good; then its reader fails what waits.
pub struct Connection<S> {
    pub exec: Exec,
    pub stream: S,
    pub terms: Terms,
    patience: Patience,
    entries: RefCell<Vec<Entry>>,
    next_cookie: Cell<u64>,
    places: Semaphore,
    /// The right to send.
    line: Semaphore,
    /// When the last byte came, or when it began to be waited for.
    heard: Cell<Instant>,
    /// Why it ended, if it did.
    end: Cell<Option<OriginError>>,
    /// It ended, or somebody waits where nobody did.
    pub changed: Notify,
}

/// What a request is for.
pub enum Work {
    /// Bytes.
    Read(Reading),
    /// What is allocated.
    Status(Listing),
}

/// A request under way.
struct Entry {
    cookie: u64,
    since: Instant,
    /// Absent while a part of the reply is received.
    work: Option<Work>,
    outcome: Option<Result<(), OriginError>>,
    /// Whoever asked has gone; the reply still comes and must be followed.
    is_forsaken: bool,
    waker: Option<Waker>,
    _place: Permit,
}

impl Work {
    /// The request, but for its cookie.
    fn request(&self) -> Request {
        let command = match self {
            Self::Read(_) => NBD_CMD_READ,
            Self::Status(_) => NBD_CMD_BLOCK_STATUS,
        };
        let (offset, len) = match self {
            Self::Read(reading) => (reading.offset, reading.len),
            Self::Status(listing) => (listing.offset, listing.len),
        };
        Request {
            flags: 0,
            command,
            cookie: 0,
            offset,
            len,
        }
    }

    /// First byte that is asked for.
    pub fn offset(&self) -> u64 {
        self.request().offset
    }

    /// Whether the byte at `offset` was asked for.
    pub fn has(&self, offset: u64) -> bool {
        let request = self.request();
        (request.offset..request.offset + request.len).contains(&offset)
    }

    /// Forgets what came: the request is made again.
    pub fn start_over(&mut self) {
        match self {
            Self::Read(reading) => reading.start_over(),
            Self::Status(listing) => listing.start_over(),
        }
    }

    /// Notes an error that came; the first one counts.
    pub fn fail(&mut self, error: Errno) {
        let (Self::Read(Reading { error: noted, .. }) | Self::Status(Listing { error: noted, .. })) =
            self;
        noted.get_or_insert(error);
    }

    /// What came of it when the last chunk was received.
    ///
    /// # Errors
    /// [`OriginError::Protocol`] when the reply was not all that it should have been.
    pub fn outcome(&self) -> Result<Result<(), OriginError>, OriginError> {
        let (error, is_whole) = match self {
            Self::Read(reading) => (reading.error, reading.is_whole()),
            Self::Status(listing) => (listing.error, listing.is_whole()),
        };
        match error {
            Some(Errno(error)) => Ok(Err(OriginError::Failed(error))),
            None if is_whole => Ok(Ok(())),
            None => Err(OriginError::Protocol),
        }
    }
}

impl<S: Stream> Connection<S> {
    /// A connection that was just negotiated; its reader is to run as a task.
    pub fn new(exec: Exec, stream: S, terms: Terms, patience: Patience) -> Rc<Self> {
        Rc::new(Self {
            heard: Cell::new(exec.now()),
            exec,
            stream,
            terms,
            patience,
            entries: RefCell::new(Vec::with_capacity(REQUESTS_MAX)),
            next_cookie: Cell::new(1),
            places: Semaphore::new(REQUESTS_MAX),
            line: Semaphore::new(1),
            end: Cell::new(None),
            changed: Notify::default(),
        })
    }

    /// Makes the request and waits for its reply; the work comes back in any case.
    ///
    /// # Errors
    /// [`OriginError::Unreachable`] when the connection ended first, [`OriginError::Failed`] as the server says, and
    /// [`OriginError::Protocol`] when it said something wrong to anybody who waited.
    pub async fn ask(&self, work: Work) -> (Work, Result<(), OriginError>) {
        let place = self.places.acquire().await;
        let turn = self.line.acquire().await;
        if self.is_over() {
            return (work, Err(OriginError::Unreachable));
        }
        let request = work.request();
        if !self.terms.allow(request) {
            return (work, Err(OriginError::Failed(NBD_EINVAL.0)));
        }
        let ticket = self.register(work, place);
        let request = Request {
            cookie: ticket.cookie,
            ..request
        };
        self.send(request).await;
        drop(turn);
        ticket.outcome().await
    }

    fn register(&self, work: Work, place: Permit) -> Ticket<'_, S> {
        let cookie = self.next_cookie.get();
        self.next_cookie.set(cookie + 1);
        let now = self.exec.now();
        let mut entries = self.entries.borrow_mut();
        if entries.is_empty() {
            self.heard.set(now);
            self.changed.notify();
        }
        entries.push(Entry {
            cookie,
            since: now,
            work: Some(work),
            outcome: None,
            is_forsaken: false,
            waker: None,
            _place: place,
        });
        Ticket {
            connection: self,
            cookie,
        }
    }

    /// Sends a request; whoever has the line calls this. A part of a request would be the end, so it is made one.
    async fn send(&self, request: Request) {
        let bytes = Bytes::of(request, self.terms.headers);
        let mut whole = Whole {
            connection: self,
            is_sent: false,
        };
        let mut rest = &*bytes;
        // Mostly there is room, and it is done.
        rest = &rest[self.stream.try_write(iter::once(rest))..];
        while !rest.is_empty() {
            let write = self.stream.write(rest);
            match self.exec.timeout(self.patience.silence, write).await {
                Ok(Ok(count)) => rest = &rest[count..],
                Ok(Err(_)) | Err(_) => return,
            }
        }
        whole.is_sent = true;
    }

    /// Ends the connection at once, for this reason.
    pub fn cut(&self, reason: OriginError) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
            self.stream.abort();
            self.changed.notify();
        }
    }

    /// Ends the connection with a word to the server.
    pub fn close(&self) {
        if self.is_over() {
            return;
        }
        let request = Request {
            flags: 0,
            command: NBD_CMD_DISC,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        let bytes = Bytes::of(request, self.terms.headers);
        let said = self.line.try_acquire().map(|_turn| {
            let said = self.stream.try_write(iter::once(&*bytes));
            said == bytes.len()
        });
        if said == Some(true) {
            self.end.set(Some(OriginError::Unreachable));
            self.stream.finish();
            self.changed.notify();
        } else {
            self.cut(OriginError::Unreachable);
        }
    }

    /// Whether it ended.
    pub fn is_over(&self) -> bool {
        self.end.get().is_some()
    }

    /// Notes that bytes came.
    pub fn hear(&self) {
        self.heard.set(self.exec.now());
    }

    /// When the server, silent until then, has been silent for too long; `None` while nobody waits.
    pub fn patience_ends(&self) -> Option<Instant> {
        let entries = self.entries.borrow();
        let oldest = entries.iter().map(|entry| entry.since).min()?;
        let silence = self.heard.get() + self.patience.silence;
        Some(silence.min(oldest + self.patience.request))
    }

    /// Takes the work that a reply is about out of its entry.
    ///
    /// # Errors
    /// [`OriginError::Protocol`] when nobody waits for this one.
    pub fn take(&self, cookie: u64) -> Result<Work, OriginError> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.iter_mut().find(|entry| entry.cookie == cookie);
        let entry = entry.filter(|entry| entry.outcome.is_none());
        let work = entry.and_then(|entry| entry.work.take());
        work.ok_or(OriginError::Protocol)
    }

    /// Puts it back, with what came of it if that is known.
    pub fn put_back(&self, cookie: u64, work: Work, outcome: Option<Result<(), OriginError>>) {
        let mut entries = self.entries.borrow_mut();
        let Some(index) = entries.iter().position(|entry| entry.cookie == cookie) else {
            return;
        };
        let entry = &mut entries[index];
        entry.work = Some(work);
        entry.outcome = outcome;
        if entry.is_forsaken {
            entry.forsake();
        }
        if entry.is_forsaken && outcome.is_some() {
            entries.swap_remove(index);
        } else if outcome.is_some()
            && let Some(waker) = entry.waker.take()
        {
            waker.wake();
        }
    }

    /// Fails all that waits for a reply; the last thing that the reader does.
    pub fn fail_all(&self) {
        let reason = self.end.get().unwrap_or(OriginError::Unreachable);
        let mut entries = self.entries.borrow_mut();
        entries.retain_mut(|entry| {
            entry.outcome.get_or_insert(Err(reason));
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
            !entry.is_forsaken
        });
    }
}

impl Entry {
    /// Nobody waits any more: frees the memory that the reply was to fill.
    fn forsake(&mut self) {
        self.is_forsaken = true;
        self.waker = None;
        if let Some(Work::Read(reading)) = &mut self.work {
            reading.let_go();
        }
    }
}

/// The place of one who waits for a reply.
struct Ticket<'a, S> {
    connection: &'a Connection<S>,
    cookie: u64,
}

impl<S> Ticket<'_, S> {
    async fn outcome(self) -> (Work, Result<(), OriginError>) {
        poll_fn(|context| {
            let mut entries = self.connection.entries.borrow_mut();
            let index = entries.iter().position(|entry| entry.cookie == self.cookie);
            let index = index.expect("an entry stays while its ticket is there");
            let entry = &mut entries[index];
            if entry.outcome.is_none() {
                entry.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            match entries.swap_remove(index) {
                Entry {
                    work: Some(work),
                    outcome: Some(outcome),
                    ..
                } => Poll::Ready((work, outcome)),
                _ => unreachable!("the reader puts works back before their outcome"),
            }
        })
        .await
    }
}

impl<S> Drop for Ticket<'_, S> {
    fn drop(&mut self) {
        let mut entries = self.connection.entries.borrow_mut();
        let index = entries.iter().position(|entry| entry.cookie == self.cookie);
        let Some(index) = index else {
            return;
        };
        if entries[index].outcome.is_some() {
            entries.swap_remove(index);
        } else {
            entries[index].forsake();
        }
    }
}

/// Sees to it that a request is sent whole, or the connection ends.
struct Whole<'a, S: Stream> {
    connection: &'a Connection<S>,
    is_sent: bool,
}

impl<S: Stream> Drop for Whole<'_, S> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.connection.cut(OriginError::Unreachable);
        }
    }
}

/// The bytes of a request in the form that was agreed on.
enum Bytes {
    Compact([u8; Request::LEN]),
    Extended([u8; Request::EXTENDED_LEN]),
}

impl Bytes {
    fn of(request: Request, headers: Headers) -> Self {
        match headers {
            Headers::Extended => Self::Extended(request.encode_extended()),
            Headers::Simple | Headers::Structured => Self::Compact(request.encode()),
        }
    }
}

impl core::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Compact(bytes) => bytes,
            Self::Extended(bytes) => bytes,
        }
    }
}
