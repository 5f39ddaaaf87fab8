//! Clients that want what is not here: reads wait for it, and partial writes for their edges.

use core::pin::pin;

use exec::futures_util::future::{Either, select};
use store::{Fullness, Presence, Span, StoreError};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::{Volume, VolumeError};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// How often a read begins again because what it needs is not here. Once is enough, unless the volume is rolled back meanwhile.
const TRIES_MAX: usize = 4;

impl<D: Disk + 'static> Volume<D> {
    /// Reads what the store could not, as it is not all here.
    pub(crate) async fn read_absent(
        &self,
        span: Span,
        mut into: Buf,
    ) -> (Buf, Result<store::Holes, VolumeError>) {
        let source = self.source();
        for _ in 0..TRIES_MAX {
            if matches!(
                self.volumes().pool().fullness,
                Fullness::Critical | Fullness::Full
            ) {
                // What is left is for writes.
                return self.read_around(span, into).await;
            }
            match self.unless_ended(self.volumes().bring(source, span)).await {
                Ok(()) => {}
                // What cannot be kept can be passed on.
                Err(VolumeError::Store(_)) => {
                    return self.read_around(span, into).await;
                }
                Err(error) => return (into, Err(error)),
            }
            let (buf, result) = self.volumes().store().read(source, span, into).await;
            into = buf;
            if result != Err(StoreError::Absent) {
                return (into, result.map_err(VolumeError::from));
            }
        }
        (into, Err(StoreError::Absent.into()))
    }

    /// Waits until what `span` touches is here, as far as that can be kept here: who reads next has it, and need hold nothing meanwhile.
    ///
    /// # Errors
    /// An origin that does not answer, or does not have it.
    pub async fn await_presence(&self, span: Span) -> Result<(), VolumeError> {
        let volumes = self.volumes();
        let fullness = volumes.pool().fullness;
        if volumes.store().bases().is_empty()
            || matches!(fullness, Fullness::Critical | Fullness::Full)
        {
            return Ok(());
        }
        match self.unless_ended(volumes.bring(self.source(), span)).await {
            // What cannot be kept can be passed on.
            Err(VolumeError::Store(_)) => Ok(()),
            result => result,
        }
    }

    /// What waits for somebody elsewhere is in nobody's way who deletes the volume or rolls it back.
    async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, VolumeError>>,
    ) -> Result<T, VolumeError> {
        match select(pin!(work), pin!(self.ending())).await {
            Either::Left((result, _)) => result,
            Either::Right((end, _)) => Err(end),
        }
    }

    /// Reads a part from the store and a part from the origin, and keeps nothing.
    pub(crate) async fn read_around(
        &self,
        span: Span,
        into: Buf,
    ) -> (Buf, Result<store::Holes, VolumeError>) {
        let wanted = into.blocks();
        let result = self.unless_ended(self.read_parts(span, into)).await;
        match result {
            Ok(buf) => (buf, Ok(store::Holes::default())),
            Err(error) => (Buf::from_heap(wanted), Err(error)),
        }
    }

    async fn read_parts(&self, span: Span, mut rest: Buf) -> Result<Buf, VolumeError> {
        let volumes = self.volumes();
        let runs = volumes.store().presence(self.source(), span).await?;
        let mut done = Buf::empty();
        let mut at = span.offset / BLOCK * BLOCK;
        for Presence { blocks, absent } in runs {
            let after = rest.split_off(blocks);
            let part = core::mem::replace(&mut rest, after);
            let end = at + blocks as u64 * BLOCK;
            let part = if let Some(base) = absent {
                let adoption = volumes.find_adoption(base)?;
                let origin = volumes.origin(&adoption).await?;
                let read = origin.read(at, part).await;
                adoption.note(read)?
            } else {
                let start = at.max(span.offset);
                let len = end.min(span.offset + u64::from(span.len)) - start;
                let span = Span {
                    offset: start,
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                };
                let (part, result) = volumes.store().read(self.source(), span, part).await;
                result?;
                part
            };
            done.append(part);
            at = end;
        }
        Ok(done)
    }

    /// Before a part of a block is changed: makes the blocks be here in which `offset` and the end of `len` bytes lie.
    pub(crate) async fn bring_edges(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        if len == 0 || self.volumes().store().bases().is_empty() {
            return Ok(());
        }
        for edge in [offset, offset + len] {
            if !edge.is_multiple_of(BLOCK) {
                let span = Span {
                    offset: edge / 512 * 512 - u64::from(edge == offset + len) * 512,
                    len: 512,
                };
                self.unless_ended(self.volumes().bring(self.source(), span))
                    .await?;
            }
        }
        Ok(())
    }
}
