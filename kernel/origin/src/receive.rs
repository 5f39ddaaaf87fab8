//! The reader of a connection: replies in, each checked against its request before anything of it is kept.

use alloc::rc::Rc;
use core::future::pending;
use core::pin::pin;

use futures_util::future::{Either, select};
use net::Stream;
use volume::OriginError;
use wire::nbd::*;

use crate::connection::{Connection, Work};
use crate::handshake::nonsense;
use crate::listing::Listing;
use crate::reading::Reading;

/// Descriptors that are read at once.
const DESCRIPTORS: usize = 32;
/// The bit of a chunk's kind that makes it an error.
const IS_ERROR: u16 = 1 << 15;
/// Bytes of an offset that stands before data or behind an error.
const OFFSET_BYTES: u64 = 8;

impl<S: Stream> Connection<S> {
    /// Receives until the connection ends, and then tells all who wait.
    pub async fn listen(self: Rc<Self>) {
        let reason = loop {
            if let Err(reason) = self.receive_reply().await {
                break reason;
            }
        };
        self.cut(reason);
        self.fail_all();
    }

    /// Receives a simple reply or a chunk.
    async fn receive_reply(&self) -> Result<(), OriginError> {
        let headers = self.terms.headers;
        let mut head = [0; Reply::LEN_MAX];
        let magic: [u8; 4] = self.receive_field().await?;
        let len = Reply::len(headers, magic).map_err(nonsense)?;
        head[..4].copy_from_slice(&magic);
        self.receive(&mut head[4..len]).await?;
        let reply = Reply::decode(headers, &head[..len]).map_err(nonsense)?;
        let (Reply::Simple { cookie, .. } | Reply::Chunk(Chunk { cookie, .. })) = reply;
        let mut work = self.take(cookie)?;
        let received = match reply {
            Reply::Simple { error, .. } => self.receive_simple(error, &mut work).await,
            Reply::Chunk(chunk) => self.receive_chunk(chunk, &mut work).await,
        };
        let is_last = !matches!(reply, Reply::Chunk(Chunk { is_last: false, .. }));
        let outcome = received.and_then(|()| is_last.then(|| work.outcome()).transpose());
        self.put_back(cookie, work, outcome.ok().flatten());
        outcome.map(|_| ())
    }

    /// Receives the rest of a simple reply.
    async fn receive_simple(
        &self,
        error: Option<Errno>,
        work: &mut Work,
    ) -> Result<(), OriginError> {
        match (error, work) {
            (Some(error), work) => work.fail(error),
            (None, Work::Read(reading)) if self.terms.headers == Headers::Simple => {
                let (offset, len) = (reading.offset, reading.len);
                reading.claim(offset, len)?;
                self.receive_data(reading, offset, len).await?;
            }
            (None, _) => return Err(OriginError::Protocol),
        }
        Ok(())
    }

    /// Receives the payload of a chunk.
    async fn receive_chunk(&self, chunk: Chunk, work: &mut Work) -> Result<(), OriginError> {
        if chunk.offset.is_some_and(|offset| offset != work.offset()) {
            return Err(OriginError::Protocol);
        }
        match (chunk.kind, work) {
            (NBD_REPLY_TYPE_NONE, _) if chunk.is_last && chunk.len == 0 => Ok(()),
            (NBD_REPLY_TYPE_OFFSET_DATA, Work::Read(reading)) if chunk.len > OFFSET_BYTES => {
                let offset = u64::from_be_bytes(self.receive_field().await?);
                let len = chunk.len - OFFSET_BYTES;
                reading.claim(offset, len)?;
                self.receive_data(reading, offset, len).await
            }
            (NBD_REPLY_TYPE_OFFSET_HOLE, Work::Read(reading)) if chunk.len == Hole::LEN as u64 => {
                let hole = Hole::decode(self.receive_field().await?);
                reading.claim(hole.offset, hole.len.into())?;
                reading.zero(hole.offset, hole.len.into());
                Ok(())
            }
            (kind, Work::Status(listing)) if kind == self.status_kind() => {
                self.receive_descriptors(listing, chunk.len).await
            }
            (kind, work) if kind & IS_ERROR != 0 => self.receive_error(kind, chunk.len, work).await,
            _ => Err(OriginError::Protocol),
        }
    }

    fn status_kind(&self) -> u16 {
        match self.terms.headers {
            Headers::Extended => NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
            Headers::Simple | Headers::Structured => NBD_REPLY_TYPE_BLOCK_STATUS,
        }
    }

    /// Receives the `len` bytes at `offset` into their place; the only copy on this side.
    async fn receive_data(
        &self,
        reading: &mut Reading,
        offset: u64,
        len: u64,
    ) -> Result<(), OriginError> {
        let place = reading.place(offset, len);
        self.skip(place.before).await?;
        let mut within = place.within;
        while !within.is_empty() {
            let part = reading.part(within.clone());
            self.receive(part).await?;
            within.start += part.len();
        }
        self.skip(place.after).await
    }

    async fn receive_descriptors(
        &self,
        listing: &mut Listing,
        payload_len: u64,
    ) -> Result<(), OriginError> {
        let headers = self.terms.headers;
        let mut head = [0; StatusHead::LEN_MAX];
        let head = &mut head[..StatusHead::len(headers)];
        self.receive(head).await?;
        let status = StatusHead::decode(headers, head, payload_len).map_err(nonsense)?;
        if Some(status.id) != self.terms.allocation {
            return Err(OriginError::Protocol);
        }
        listing.begin()?;
        let mut scratch = [0; DESCRIPTORS * Descriptor::LEN_MAX];
        let each = Descriptor::len(headers);
        let mut left = status.count;
        while left > 0 {
            let count = left.min(DESCRIPTORS as u64);
            let bytes = &mut scratch[..count as usize * each];
            self.receive(bytes).await?;
            for one in bytes.chunks_exact(each) {
                let one = Descriptor::decode(headers, one).map_err(nonsense)?;
                listing.push(one)?;
            }
            left -= count;
        }
        Ok(())
    }

    /// Receives an error; of a kind that is not known, only that it is one.
    async fn receive_error(
        &self,
        kind: u16,
        payload_len: u64,
        work: &mut Work,
    ) -> Result<(), OriginError> {
        let rest = payload_len.checked_sub(ErrorHead::LEN as u64);
        let rest = rest.ok_or(OriginError::Protocol)?;
        let head = ErrorHead::decode(self.receive_field().await?).map_err(nonsense)?;
        let message = u64::from(head.message_len);
        let behind = rest.checked_sub(message).ok_or(OriginError::Protocol)?;
        self.skip(message).await?;
        match kind {
            NBD_REPLY_TYPE_ERROR if behind == 0 => {}
            NBD_REPLY_TYPE_ERROR_OFFSET if behind == OFFSET_BYTES => {
                let offset = u64::from_be_bytes(self.receive_field().await?);
                if !work.has(offset) {
                    return Err(OriginError::Protocol);
                }
            }
            NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET => {
                return Err(OriginError::Protocol);
            }
            _ if behind <= u64::from(u16::MAX) => self.skip(behind).await?,
            _ => return Err(OriginError::Protocol),
        }
        work.fail(head.error);
        Ok(())
    }

    async fn receive_field<const N: usize>(&self) -> Result<[u8; N], OriginError> {
        let mut bytes = [0; N];
        self.receive(&mut bytes).await?;
        Ok(bytes)
    }

    async fn skip(&self, len: u64) -> Result<(), OriginError> {
        let mut scratch = [0; 512];
        let mut left = len;
        while left > 0 {
            let count = left.min(scratch.len() as u64);
            self.receive(&mut scratch[..count as usize]).await?;
            left -= count;
        }
        Ok(())
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// [`OriginError::Unreachable`] when the connection ended, here or there, or the server was silent for too long while
    /// somebody waited.
    async fn receive(&self, into: &mut [u8]) -> Result<(), OriginError> {
        let mut done = 0;
        while done < into.len() {
            done += match self.stream.try_read(&mut into[done..]) {
                0 => self.wait_for_bytes(&mut into[done..]).await?,
                count => count,
            };
            self.hear();
        }
        Ok(())
    }

    async fn wait_for_bytes(&self, into: &mut [u8]) -> Result<usize, OriginError> {
        while !self.is_over() {
            let silence = pin!(async {
                match self.patience_ends() {
                    Some(end) => self.exec.sleep_until(end).await,
                    None => pending().await,
                }
            });
            let changed = pin!(self.changed.wait());
            let read = pin!(self.stream.read(into));
            match select(read, select(changed, silence)).await {
                Either::Left((Ok(count @ 1..), _)) => return Ok(count),
                Either::Left((Ok(0) | Err(_), _)) | Either::Right((Either::Right(_), _)) => break,
                Either::Right((Either::Left(_), _)) => {}
            }
        }
        Err(OriginError::Unreachable)
    }
}
