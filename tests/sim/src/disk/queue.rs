//! Operations in flight on one drive.

use core::ops::Range;
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, BTreeSet};

use world::{BLOCK_SIZE, BlockAddr, Buf, DiskError, Instant};

use super::cache::Medium;
use crate::random::mix;

/// What a drive is asked to do.
pub enum Work {
    Read {
        at: BlockAddr,
        buf: Buf,
    },
    Write {
        at: BlockAddr,
        buf: Buf,
    },
    Flush {
        /// Writes up to this number had completed when the flush was submitted.
        covers: u64,
    },
    Discard {
        ranges: Vec<Range<BlockAddr>>,
    },
}

impl Work {
    /// Kind, position and length, for the trace.
    pub fn describe(&self) -> (&'static str, u64, u64) {
        match self {
            Self::Read { at, buf } => ("read", *at, buf.blocks() as u64),
            Self::Write { at, buf } => ("write", *at, buf.blocks() as u64),
            Self::Flush { covers } => ("flush", *covers, 0),
            Self::Discard { ranges } => {
                let first = ranges.first().map_or(0, |range| range.start);
                let blocks = ranges.iter().map(|range| range.end - range.start).sum();
                ("discard", first, blocks)
            }
        }
    }
}

/// One operation, until its submitter takes it back.
pub struct Operation {
    pub work: Work,
    /// Set when the drive is done with it.
    pub result: Option<Result<(), DiskError>>,
    waker: Option<Waker>,
    /// Nobody waits for it any more.
    abandoned: bool,
}

impl Operation {
    pub fn new(work: Work, medium: &Medium) -> Self {
        let work = match work {
            // Taken at the first poll of the future, which is when the command reaches the drive.
            Work::Flush { .. } => Work::Flush {
                covers: medium.completed(),
            },
            other => other,
        };
        Self {
            work,
            result: None,
            waker: None,
            abandoned: false,
        }
    }

    pub fn into_buf(self) -> (Buf, Result<(), DiskError>) {
        let buf = match self.work {
            Work::Read { buf, .. } | Work::Write { buf, .. } => buf,
            Work::Flush { .. } | Work::Discard { .. } => Buf::empty(),
        };
        (buf, self.result.unwrap_or(Err(DiskError::Gone)))
    }

    /// A hash of the data of a write, and of the result.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = match self.result {
            None => 0,
            Some(Ok(())) => 1,
            Some(Err(_)) => 2,
        };
        if let Work::Write { buf, .. } = &self.work
            && self.result.is_none()
        {
            for page in buf.pages() {
                for word in page.bytes.as_chunks::<8>().0 {
                    hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3);
                }
                hash = mix(hash);
            }
        }
        hash & 0xffff_ffff
    }
}

/// All operations of a drive that were not yet taken back.
#[derive(Default)]
pub struct Queue {
    operations: BTreeMap<u64, Operation>,
    due: BTreeSet<(Instant, u64)>,
    next_id: u64,
}

impl Queue {
    pub fn insert(&mut self, deadline: Instant, operation: Operation) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.operations.insert(id, operation);
        self.due.insert((deadline, id));
        id
    }

    pub fn get(&self, id: u64) -> &Operation {
        &self.operations[&id]
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    pub fn take_due(&mut self, now: Instant) -> Option<(u64, Operation)> {
        let (deadline, id) = *self.due.first()?;
        if deadline > now {
            return None;
        }
        self.due.pop_first();
        self.operations.remove(&id).map(|operation| (id, operation))
    }

    /// Keeps a completed operation for its submitter and tells whom to wake.
    pub fn put_done(&mut self, id: u64, mut operation: Operation) -> Option<Waker> {
        if operation.abandoned {
            return None;
        }
        let waker = operation.waker.take();
        self.operations.insert(id, operation);
        waker
    }

    pub fn poll(&mut self, id: u64, context: &Context<'_>) -> Poll<Operation> {
        match self.operations.remove(&id) {
            Some(done) if done.result.is_some() => Poll::Ready(done),
            Some(mut waiting) => {
                waiting.waker = Some(context.waker().clone());
                self.operations.insert(id, waiting);
                Poll::Pending
            }
            // Power failed meanwhile: nothing ever comes back.
            None => Poll::Pending,
        }
    }

    pub fn abandon(&mut self, id: u64) {
        if let Some(operation) = self.operations.get_mut(&id) {
            if operation.result.is_some() {
                self.operations.remove(&id);
            } else {
                operation.abandoned = true;
            }
        }
    }

    /// New contents that writes in flight would give to `block`, oldest first.
    pub fn writes_of(&self, block: BlockAddr) -> impl Iterator<Item = (u64, &[u8; BLOCK_SIZE])> {
        self.operations.iter().filter_map(move |(id, operation)| {
            let Work::Write { at, buf } = &operation.work else {
                return None;
            };
            let index = usize::try_from(block.checked_sub(*at)?).ok()?;
            (operation.result.is_none() && index < buf.blocks()).then(|| (*id, buf.block(index)))
        })
    }

    /// Forgets everything and returns what was in flight.
    pub fn power_off(&mut self) -> Vec<Work> {
        self.due.clear();
        core::mem::take(&mut self.operations)
            .into_values()
            .filter(|operation| operation.result.is_none())
            .map(|operation| operation.work)
            .collect()
    }
}
