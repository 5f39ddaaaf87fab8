//! One export as an origin: requests that outlive the connection they were made on.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;

use exec::{Exec, Semaphore};
use log::{debug, info};
use volume::{Answer, Origin, OriginError, OriginExtent, check_size};
use wire::nbd::{NBD_EINVAL, NBD_ENOTSUP};
use world::{BLOCK_SIZE, Buf, Instant};

use crate::Connect;
use crate::connection::{Connection, Work};
use crate::handshake::negotiate;
use crate::listing::Listing;
use crate::origins::Patience;
use crate::reading::Reading;
use crate::terms::Terms;

/// The first pause between connections; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// Doublings of it: 6.4 s in the end.
const DOUBLINGS_MAX: u32 = 6;

/// What it takes to connect.
pub struct Dialer<C> {
    pub exec: Exec,
    pub connect: Rc<C>,
    pub to: SocketAddr,
    pub export: String,
    pub patience: Patience,
}

/// One export as an origin.
pub struct NbdOrigin<C: Connect> {
    dialer: Dialer<C>,
    size: u64,
    live: RefCell<Option<Rc<Connection<C::Stream>>>>,
    /// The right to dial.
    dialing: Semaphore,
    /// Connections that ended, or were not made, since the last reply.
    failures: Cell<u32>,
    /// Nobody dials before this.
    not_before: Cell<Instant>,
    /// When the last attempt was refused, and why.
    refused: Cell<Option<(Instant, OriginError)>>,
}

impl<C: Connect> Dialer<C> {
    /// Connects, agrees on terms, and starts the connection's reader.
    async fn dial(&self) -> Result<Rc<Connection<C::Stream>>, OriginError> {
        let story = async {
            let stream = self.connect.connect(self.to).await;
            let stream = stream.map_err(|_| OriginError::Unreachable)?;
            let terms = negotiate(&stream, &self.export).await?;
            Ok((stream, terms))
        };
        let (stream, terms) = self
            .exec
            .timeout(self.patience.open, story)
            .await
            .unwrap_or(Err(OriginError::Unreachable))?;
        let connection = Connection::new(self.exec.clone(), stream, terms, self.patience);
        self.exec.spawn(connection.clone().listen());
        Ok(connection)
    }
}

impl<C: Connect> NbdOrigin<C> {
    /// Connects for the first time.
    pub async fn open(dialer: Dialer<C>) -> Result<Self, OriginError> {
        let connection = dialer.dial().await?;
        let Terms { size, .. } = connection.terms;
        if check_size(size).is_err() {
            connection.close();
            return Err(OriginError::Size(size));
        }
        debug!("{}: {:?}", dialer.to, connection.terms);
        Ok(Self {
            dialer,
            size,
            live: RefCell::new(Some(connection)),
            dialing: Semaphore::new(1),
            failures: Cell::new(0),
            not_before: Cell::new(Instant::ZERO),
            refused: Cell::new(None),
        })
    }

    /// A connection that is there, or a new one, however often that has to be tried.
    async fn connection(&self) -> Result<Rc<Connection<C::Stream>>, OriginError> {
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        let since = self.dialer.exec.now();
        let _turn = self.dialing.acquire().await;
        loop {
            // Somebody else may have made one meanwhile, or was told that there is none to be had.
            if let Some(connection) = self.living() {
                return Ok(connection);
            }
            if let Some((at, error)) = self.refused.get()
                && at >= since
            {
                return Err(error);
            }
            self.dialer.exec.sleep_until(self.not_before.get()).await;
            match self.dialer.dial().await {
                Ok(connection) if connection.terms.size == self.size => {
                    debug!("{}: connected again", self.dialer.to);
                    *self.live.borrow_mut() = Some(connection);
                }
                Ok(connection) => {
                    connection.close();
                    return Err(self.note_refusal(OriginError::Size(connection.terms.size)));
                }
                Err(OriginError::Unreachable) => self.pause(),
                Err(error) => return Err(self.note_refusal(error)),
            }
        }
    }

    /// Nobody who waits now has to hear it from the server again, and nobody asks it again at once.
    fn note_refusal(&self, error: OriginError) -> OriginError {
        self.refused.set(Some((self.dialer.exec.now(), error)));
        self.pause();
        error
    }

    fn living(&self) -> Option<Rc<Connection<C::Stream>>> {
        let live = self.live.borrow().clone();
        let connection = live?;
        if connection.is_over() {
            self.give_up(&connection);
            return None;
        }
        Some(connection)
    }

    /// Forgets a connection that ended.
    fn give_up(&self, connection: &Rc<Connection<C::Stream>>) {
        let mut live = self.live.borrow_mut();
        // Only the first of those who notice.
        if live.take_if(|live| Rc::ptr_eq(live, connection)).is_some() {
            info!("{}: the connection was lost", self.dialer.to);
            self.pause();
        }
    }

    /// Lets some time pass before the next attempt, the more the longer nothing worked.
    fn pause(&self) {
        let failures = self.failures.get();
        let pause = match failures.checked_sub(1) {
            Some(earlier) => PAUSE * (1 << earlier.min(DOUBLINGS_MAX)),
            None => Duration::ZERO,
        };
        self.failures.set(failures.saturating_add(1));
        self.not_before.set(self.dialer.exec.now() + pause);
    }

    /// Makes a request, on as many connections as it takes.
    async fn ask(&self, mut work: Work) -> Result<Work, OriginError> {
        loop {
            let connection = self.connection().await?;
            let outcome;
            (work, outcome) = connection.ask(work).await;
            match outcome {
                Err(OriginError::Unreachable) => {
                    self.give_up(&connection);
                    work.start_over();
                }
                Err(error @ OriginError::Protocol) => {
                    self.give_up(&connection);
                    return Err(error);
                }
                outcome => {
                    self.failures.set(0);
                    return outcome.map(|()| work);
                }
            }
        }
    }

    /// The terms under which requests are cut now. A new connection may have other ones, though few servers do; what does
    /// not fit them fails, and is cut anew when it is asked for again.
    async fn terms(&self) -> Result<Terms, OriginError> {
        Ok(self.connection().await?.terms)
    }

    async fn in_time<T>(
        &self,
        story: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        let limit = self.dialer.patience.request;
        let ended = self.dialer.exec.timeout(limit, story).await;
        ended.unwrap_or(Err(OriginError::Unreachable))
    }

    async fn read_in_pieces(&self, offset: u64, mut buf: Buf) -> Result<Buf, OriginError> {
        let len = (buf.len() as u64).min(self.size.saturating_sub(offset));
        zero_from(&mut buf, len as usize);
        if len == 0 {
            return Ok(buf);
        }
        for (at, len) in self.terms().await?.reads(offset, len) {
            let work = Work::Read(Reading::new(at, len, offset, buf));
            let Work::Read(reading) = self.ask(work).await? else {
                unreachable!("a work stays what it is");
            };
            buf = reading.into_buf();
        }
        Ok(buf)
    }

    async fn list(&self, offset: u64, len: u64) -> Result<Vec<OriginExtent>, OriginError> {
        let all = |is_zero, len| Ok(Vec::from([OriginExtent { len, is_zero }]));
        if offset >= self.size {
            return all(true, len);
        }
        let len = len.min(self.size - offset);
        let terms = self.terms().await?;
        if terms.allocation.is_none() {
            return all(false, len);
        }
        let (at, asked) = terms.status(offset, len);
        let wanted = offset..(offset + len).min(at + asked);
        let work = Work::Status(Listing::new(at, asked, wanted));
        match self.ask(work).await {
            Ok(Work::Status(listing)) => match listing.into_extents() {
                extents if extents.is_empty() => Err(OriginError::Protocol),
                extents => Ok(extents),
            },
            Ok(Work::Read(_)) => unreachable!("a work stays what it is"),
            // It cannot tell, or not any more.
            Err(OriginError::Failed(error)) if error == NBD_EINVAL.0 || error == NBD_ENOTSUP.0 => {
                all(false, len)
            }
            Err(error) => Err(error),
        }
    }
}

impl<C: Connect> Origin for NbdOrigin<C> {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn extents(&self, offset: u64, len: u64) -> Answer<'_, Vec<OriginExtent>> {
        Box::pin(self.in_time(self.list(offset, len)))
    }

    fn read(&self, offset: u64, into: Buf) -> Answer<'_, Buf> {
        Box::pin(self.in_time(self.read_in_pieces(offset, into)))
    }
}

impl<C: Connect> Drop for NbdOrigin<C> {
    fn drop(&mut self) {
        if let Some(connection) = self.live.take() {
            connection.close();
        }
    }
}

/// Makes all bytes from `from` on zeros.
fn zero_from(buf: &mut Buf, from: usize) {
    for (index, page) in buf.pages_mut().iter_mut().enumerate() {
        let first = from.saturating_sub(index * BLOCK_SIZE);
        if first < BLOCK_SIZE {
            page.bytes[first..].fill(0);
        }
    }
}
