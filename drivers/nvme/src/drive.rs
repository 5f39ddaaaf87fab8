//! Namespaces as drives: the last stop of a write, below `store`, and the first of its way back.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;

use hal::{Mmio, Registers};
use world::{BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

use crate::command::Command;
use crate::controller::Deadlines;
use crate::engine::Engine;
use crate::identify::{ControllerIdentity, NamespaceIdentity, SmartLog};
use crate::request::Request;
use crate::slots::{Outcome, Payload, RANGES_MAX, Range};
use crate::{ADMIN, BLOCKS};

/// Times a command is sent when the controller says that it was merely interrupted.
const ATTEMPTS_MAX: u32 = 4;
/// The most blocks of one range of a Deallocate: 1 GiB, so that no command takes a drive for long.
const DEALLOCATE_BLOCKS_MAX: u64 = 1 << 18;
/// The most blocks of one Write Zeroes: what 16 bits of blocks of 512 bytes can say.
const ZERO_BLOCKS_MAX: u64 = 1 << 13;

/// One namespace of a controller. Clones are the same drive.
pub struct Drive<R: Registers = Mmio> {
    engine: Rc<RefCell<Engine<R>>>,
    namespace: Rc<Namespace>,
}

struct Namespace {
    number: u32,
    shape: NamespaceIdentity,
    controller: Rc<ControllerIdentity>,
    deadlines: Deadlines,
    info: DiskInfo,
    /// Commands that the controller refused.
    refused: Cell<u64>,
}

impl<R: Registers> Clone for Drive<R> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

/// Who the drive `id` is.
pub(crate) fn info(id: String, identity: &ControllerIdentity, slot: &str) -> DiskInfo {
    DiskInfo {
        id,
        model: identity.model.clone(),
        serial: identity.serial.clone(),
        slot: slot.into(),
    }
}

impl<R: Registers> Drive<R> {
    pub(crate) fn new(
        engine: Rc<RefCell<Engine<R>>>,
        controller: Rc<ControllerIdentity>,
        deadlines: Deadlines,
        number: u32,
        shape: NamespaceIdentity,
        info: DiskInfo,
    ) -> Self {
        let namespace = Namespace {
            number,
            shape,
            controller,
            deadlines,
            info,
            refused: Cell::new(0),
        };
        Self {
            engine,
            namespace: Rc::new(namespace),
        }
    }

    /// What its controller says about itself.
    #[must_use]
    pub fn controller(&self) -> &ControllerIdentity {
        &self.namespace.controller
    }

    /// As [`Disk::write`], but past the volatile cache: durable when it completes, if the drive keeps its word.
    pub async fn write_through(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        self.transfer(at, from, |number, lba, count| {
            Command::write(number, lba, count, true)
        })
        .await
    }

    /// Makes `blocks` blocks from `at` on read as zeros.
    ///
    /// # Errors
    /// [`DiskError::Device`] with the status Invalid Command Opcode when the drive cannot
    /// ([`ControllerIdentity::has_write_zeroes`]).
    pub async fn write_zeroes(&self, at: BlockAddr, blocks: u64) -> Result<(), DiskError> {
        self.check_range(at, blocks)?;
        let limit = self.namespace.deadlines.flush;
        let (mut at, end) = (at, at + blocks);
        while at < end {
            let count = (end - at).min(ZERO_BLOCKS_MAX);
            let (lba, lbas) = self.lbas(at, count);
            let command = Command::write_zeroes(self.namespace.number, lba, lbas);
            self.run(BLOCKS, command, Payload::None, limit).await.1?;
            at += count;
        }
        Ok(())
    }

    /// Tells the drive that the contents of all `ranges` are not needed, in as few commands as possible.
    ///
    /// # Errors
    /// As every operation; some of the ranges may have been deallocated already.
    pub async fn deallocate(
        &self,
        ranges: impl IntoIterator<Item = ops::Range<BlockAddr>>,
    ) -> Result<(), DiskError> {
        if !self.namespace.controller.has_deallocate {
            return Ok(());
        }
        let mut batch = Vec::new();
        for range in ranges {
            let blocks = range.end.saturating_sub(range.start);
            self.check_range(range.start, blocks)?;
            let mut at = range.start;
            while at < range.end {
                if batch.len() == RANGES_MAX {
                    self.deallocate_batch(core::mem::take(&mut batch)).await?;
                }
                let piece = (range.end - at).min(DEALLOCATE_BLOCKS_MAX);
                let (lba, lbas) = self.lbas(at, piece);
                batch.push(Range { lba, count: lbas });
                at += piece;
            }
        }
        if !batch.is_empty() {
            self.deallocate_batch(batch).await?;
        }
        Ok(())
    }

    async fn deallocate_batch(&self, ranges: Vec<Range>) -> Result<(), DiskError> {
        let command = Command::deallocate(self.namespace.number, ranges.len());
        let payload = Payload::Ranges(ranges);
        let limit = self.namespace.deadlines.flush;
        self.run(BLOCKS, command, payload, limit).await.1
    }

    /// Reads the health log of its controller.
    ///
    /// # Errors
    /// As every operation.
    pub async fn health(&self) -> Result<SmartLog, DiskError> {
        let command = Command::log_page(SmartLog::PAGE, SmartLog::BYTES);
        let payload = Payload::Pages(Buf::from_heap(1));
        let limit = self.namespace.deadlines.admin;
        let (page, result) = self.run(ADMIN, command, payload, limit).await;
        result.map(|()| SmartLog::decode(page.block(0)))
    }

    /// Reads or writes all pages of `pages`.
    fn transfer(
        &self,
        at: BlockAddr,
        pages: Buf,
        command: impl Fn(u32, u64, u32) -> Command,
    ) -> Transfer<'_, R> {
        let blocks = pages.blocks();
        assert!(
            blocks <= self.geometry().transfer_blocks_max as usize,
            "a transfer larger than the drive takes"
        );
        let known = match self.check_range(at, blocks as u64) {
            Ok(()) if blocks == 0 => Some(Ok(())),
            Ok(()) => None,
            Err(error) => Some(Err(error)),
        };
        let command = match known {
            None => {
                let (lba, count) = self.lbas(at, blocks as u64);
                command(self.namespace.number, lba, count)
            }
            // Never sent.
            Some(_) => Command::flush(self.namespace.number),
        };
        let limit = self.namespace.deadlines.transfer;
        Transfer {
            drive: self,
            request: Request::new(&self.engine, BLOCKS, command, Payload::Pages(pages), limit),
            attempts: ATTEMPTS_MAX,
            known,
        }
    }

    async fn run(
        &self,
        queue: usize,
        command: Command,
        payload: Payload,
        limit: Duration,
    ) -> (Buf, Result<(), DiskError>) {
        let mut request = Request::new(&self.engine, queue, command, payload, limit);
        let outcome = (&mut request).await;
        (request.take_pages(), self.judge(&command, outcome))
    }

    fn judge(&self, command: &Command, outcome: Outcome) -> Result<(), DiskError> {
        let status = outcome?.status;
        if status.is_success() {
            return Ok(());
        }
        // A dying drive must not fill the log: the 1st, 2nd, 4th, 8th … refusal is told.
        let refused = self.namespace.refused.get() + 1;
        self.namespace.refused.set(refused);
        if refused.is_power_of_two() {
            let id = &self.namespace.info.id;
            log::warn!(
                "{id}: command {:#04x} failed ({refused} so far): {status}",
                command.opcode()
            );
        }
        Err(status.to_error())
    }

    fn check_range(&self, at: BlockAddr, blocks: u64) -> Result<(), DiskError> {
        let end = at.checked_add(blocks).ok_or(DiskError::OutOfRange)?;
        if end > self.namespace.shape.blocks {
            return Err(DiskError::OutOfRange);
        }
        Ok(())
    }

    /// The logical blocks of a range that lies on the drive.
    fn lbas(&self, at: BlockAddr, blocks: u64) -> (u64, u32) {
        let per_block = self.namespace.shape.lbas_per_block;
        (at * u64::from(per_block), blocks as u32 * per_block)
    }
}

/// A read or write on its way. By hand instead of an `async fn`, which would move the buffer at each level.
struct Transfer<'a, R: Registers> {
    drive: &'a Drive<R>,
    request: Request<'a, R>,
    /// How often it may still be sent.
    attempts: u32,
    /// The result, where nothing needs to be sent.
    known: Option<Result<(), DiskError>>,
}

impl<R: Registers> Future for Transfer<'_, R> {
    type Output = (Buf, Result<(), DiskError>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(result) = this.known {
            return Poll::Ready((this.request.take_pages(), result));
        }
        loop {
            let outcome = ready!(Pin::new(&mut this.request).poll(context));
            this.attempts -= 1;
            if this.attempts > 0 && outcome.is_ok_and(|done| done.status.is_transient()) {
                this.request.restart();
                continue;
            }
            let result = this.drive.judge(this.request.command(), outcome);
            return Poll::Ready((this.request.take_pages(), result));
        }
    }
}

impl<R: Registers> Disk for Drive<R> {
    fn geometry(&self) -> Geometry {
        let Namespace {
            shape, controller, ..
        } = &*self.namespace;
        Geometry {
            blocks: shape.blocks,
            sector_bytes: world::BLOCK_SIZE as u32 / shape.lbas_per_block,
            transfer_blocks_max: controller.transfer_blocks_max,
            can_discard: controller.has_deallocate,
        }
    }

    fn info(&self) -> DiskInfo {
        self.namespace.info.clone()
    }

    fn read(&self, at: BlockAddr, into: Buf) -> impl Future<Output = (Buf, Result<(), DiskError>)> {
        self.transfer(at, into, Command::read)
    }

    fn write(
        &self,
        at: BlockAddr,
        from: Buf,
    ) -> impl Future<Output = (Buf, Result<(), DiskError>)> {
        self.transfer(at, from, |number, lba, count| {
            Command::write(number, lba, count, false)
        })
    }

    async fn flush(&self) -> Result<(), DiskError> {
        if !self.namespace.controller.has_volatile_cache {
            // Completed writes are durable; only a controller that has failed cannot vouch for them.
            let failure = self.engine.borrow().failure();
            return failure.map_or(Ok(()), Err);
        }
        let command = Command::flush(self.namespace.number);
        let limit = self.namespace.deadlines.flush;
        self.run(BLOCKS, command, Payload::None, limit).await.1
    }

    async fn discard(&self, ranges: &[ops::Range<BlockAddr>]) -> Result<(), DiskError> {
        self.deallocate(ranges.iter().cloned()).await
    }
}
