//! A simulated drive: a store of 4 KiB blocks behind a volatile cache of 512-byte sectors.
//!
//! Operations complete after a latency that the seed draws, so in any order. A completed write sits in the cache; a
//! flush makes those writes durable that had completed when the flush was *submitted*. [`SimDisk::cut_power`] ends
//! everything at once: of what was cached or in flight, any subset of sectors reaches the medium (see
//! [`cache`](self::cache)). Storage is sparse, so a drive may be as large as it likes.
//!
//! The faults a drive can have are in [`Faults`]; all are off until the scenario turns them on.

mod cache;
mod faults;
mod queue;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use world::{BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Geometry, Instant};

use crate::clock::{Trace, VirtualClock};
use crate::random::Random;
use cache::Medium;
pub use faults::{Fault, Faults, Latency, Struck};
use queue::{Operation, Queue, Work};

/// A drive; clones are the same drive. It outlives the simulated appliance, as drives do.
#[derive(Clone)]
pub struct SimDisk {
    shared: Rc<Shared>,
}

struct Shared {
    clock: Rc<VirtualClock>,
    trace: Rc<Trace>,
    /// Counts submissions and completions of all drives: the points at which power can fail.
    points: Rc<Cell<u64>>,
    geometry: Geometry,
    info: DiskInfo,
    state: RefCell<State>,
}

struct State {
    random: Random,
    latency: Latency,
    faults: Faults,
    struck: Struck,
    medium: Medium,
    queue: Queue,
    /// Nothing completes before.
    stalled_until: Instant,
}

impl SimDisk {
    /// A drive of zeros with `blocks` blocks, which draws everything from `random`.
    #[must_use]
    pub fn new(
        blocks: u64,
        number: usize,
        latency: Latency,
        mut random: Random,
        clock: Rc<VirtualClock>,
        trace: Rc<Trace>,
        points: Rc<Cell<u64>>,
    ) -> Self {
        let geometry = Geometry {
            blocks,
            sector_bytes: 512,
            transfer_blocks_max: random.pick(&[1, 2, 7, 8, 32, 64]),
            can_discard: !random.one_in(4),
        };
        let info = DiskInfo {
            id: format!("sim{number}"),
            model: "Simulated drive".to_string(),
            serial: format!("SIM{number:04}"),
            slot: number.to_string(),
        };
        let state = State {
            random,
            latency,
            faults: Faults::default(),
            struck: Struck::default(),
            medium: Medium::default(),
            queue: Queue::default(),
            stalled_until: Instant::ZERO,
        };
        Self {
            shared: Rc::new(Shared {
                clock,
                trace,
                points,
                geometry,
                info,
                state: RefCell::new(state),
            }),
        }
    }

    /// Turns faults on or off from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.state.borrow_mut().faults = faults;
    }

    /// Lets blocks rot while the power is off, as the faults say.
    pub fn decay(&self) {
        let mut state = self.shared.state.borrow_mut();
        let State {
            random,
            faults,
            struck,
            medium,
            ..
        } = &mut *state;
        for _ in 0..4 {
            let count = medium.written().len();
            if count == 0 || !random.per_million(faults.decay) {
                break;
            }
            let block = medium.written()[random.index(count)];
            if random.one_in(2) {
                medium.make_unreadable(block);
                struck.count(Fault::Unreadable);
            } else if medium.flip_bit(random, block) {
                struck.count(Fault::Rot);
            }
        }
    }

    /// Changes how long operations take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.shared.state.borrow_mut().latency = latency;
    }

    /// How often faults struck so far.
    #[must_use]
    pub fn struck(&self) -> Struck {
        self.shared.state.borrow().struck
    }

    /// When the next operation completes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shared.state.borrow().queue.next_deadline()
    }

    /// Completes one operation that is due. Returns whether there was one.
    pub fn poll(&self) -> bool {
        self.complete(self.shared.clock.now())
    }

    /// Completes all that is under way: a controller that is reset does not come back to it later, when others have begun to use
    /// it.
    pub fn reset(&self) {
        while self.complete(Instant::from_nanos(u64::MAX)) {}
    }

    /// Completes one operation that is due by then.
    fn complete(&self, by: Instant) -> bool {
        let mut state = self.shared.state.borrow_mut();
        let Some((id, mut operation)) = state.queue.take_due(by) else {
            return false;
        };
        operation.result = Some(state.perform(&mut operation.work, self.shared.geometry.blocks));
        self.note("done", id, &operation);
        if let Some(waker) = state.queue.put_done(id, operation) {
            waker.wake();
        }
        true
    }

    /// Ends the power: what was cached or in flight survives by halves, whoever waits waits for ever. Faults other
    /// than those of the medium are forgotten.
    pub fn cut_power(&self) {
        let mut state = self.shared.state.borrow_mut();
        let State {
            random,
            medium,
            queue,
            ..
        } = &mut *state;
        let in_flight = queue.power_off();
        let style = medium.cut(random, &in_flight);
        let facts = [in_flight.len() as u64, style, 0];
        self.shared
            .trace
            .note(self.shared.clock.now(), "power cut", facts);
    }

    /// Another drive that holds what a reader of this one would see now, and goes by another clock.
    #[must_use]
    pub fn copy(&self, clock: &Rc<VirtualClock>) -> Self {
        let mut state = self.shared.state.borrow_mut();
        let state = State {
            random: state.random.fork(10),
            latency: state.latency.calm(),
            faults: Faults::default(),
            struck: Struck::default(),
            medium: state.medium.copy(),
            queue: Queue::default(),
            stalled_until: Instant::ZERO,
        };
        Self {
            shared: Rc::new(Shared {
                clock: clock.clone(),
                trace: Rc::default(),
                points: Rc::default(),
                geometry: self.shared.geometry,
                info: self.shared.info.clone(),
                state: RefCell::new(state),
            }),
        }
    }

    /// The durable contents of `block` as they are now, for tests and tools of the simulation.
    #[must_use]
    pub fn peek(&self, block: BlockAddr) -> Vec<u8> {
        let mut bytes = vec![0; world::BLOCK_SIZE];
        self.shared
            .state
            .borrow()
            .medium
            .read_stable(block, &mut bytes);
        bytes
    }

    /// Whether all that was written there is durable.
    #[must_use]
    pub fn is_stable(&self, block: BlockAddr) -> bool {
        self.shared.state.borrow().medium.is_stable(block)
    }

    /// Overwrites the durable contents of `block` behind everybody's back.
    pub fn poke(&self, block: BlockAddr, bytes: &[u8]) {
        let mut state = self.shared.state.borrow_mut();
        state.medium.write_stable(block, bytes);
    }

    /// Blocks that were ever durably written, in the order of their first write.
    #[must_use]
    pub fn written(&self) -> Vec<BlockAddr> {
        self.shared.state.borrow().medium.written().to_vec()
    }

    async fn submit(&self, work: Work) -> Operation {
        let id = {
            let mut state = self.shared.state.borrow_mut();
            let now = self.shared.clock.now();
            let deadline = state.draw_deadline(&work, now);
            let operation = Operation::new(work, &state.medium);
            let id = state.queue.insert(deadline, operation);
            self.note("start", id, state.queue.get(id));
            id
        };
        let mut ticket = Ticket {
            disk: self,
            id: Some(id),
        };
        core::future::poll_fn(|context| self.shared.state.borrow_mut().queue.poll(id, context))
            .await
            .finish(&mut ticket)
    }

    fn note(&self, what: &str, id: u64, operation: &Operation) {
        let points = &self.shared.points;
        points.set(points.get() + 1);
        let (kind, at, len) = operation.work.describe();
        let mut facts = [at, len, operation.fingerprint()];
        facts[2] ^= id << 32;
        let what = match what {
            "start" => kind,
            done => done,
        };
        self.shared.trace.note(self.shared.clock.now(), what, facts);
    }
}

impl Operation {
    fn finish(self, ticket: &mut Ticket<'_>) -> Self {
        ticket.id = None;
        self
    }
}

/// A place in the queue; a dropped future leaves its operation to complete unobserved.
struct Ticket<'a> {
    disk: &'a SimDisk,
    id: Option<u64>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let (Some(id), Ok(mut state)) = (self.id, self.disk.shared.state.try_borrow_mut()) {
            state.queue.abandon(id);
        }
    }
}

impl State {
    fn draw_deadline(&mut self, work: &Work, now: Instant) -> Instant {
        let Latency {
            transfer_min,
            transfer_max,
            flush_max,
            outliers,
            stalls,
        } = self.latency;
        let mut nanos = match work {
            Work::Flush { .. } => self.random.between(transfer_min, flush_max),
            _ => self.random.between(transfer_min, transfer_max),
        };
        if self.random.per_million(outliers) {
            nanos *= 1000;
        }
        if self.random.per_million(stalls) {
            self.struck.count(Fault::Stall);
            let pause = Duration::from_millis(self.random.below(10_000));
            self.stalled_until = self.stalled_until.max(now + pause);
        }
        now.max(self.stalled_until) + Duration::from_nanos(nanos)
    }

    fn perform(&mut self, work: &mut Work, blocks: u64) -> Result<(), DiskError> {
        match work {
            Work::Read { at, buf } => {
                let end = at.saturating_add(buf.blocks() as u64);
                if end > blocks {
                    return Err(DiskError::OutOfRange);
                }
                self.read(*at, buf, blocks)
            }
            Work::Write { at, buf } => {
                if at.saturating_add(buf.blocks() as u64) > blocks {
                    return Err(DiskError::OutOfRange);
                }
                self.write(*at, buf, blocks)
            }
            Work::Flush { covers } => {
                if self.random.per_million(self.faults.flush_error) {
                    self.struck.count(Fault::FlushError);
                    return Err(DiskError::Device(0x0006));
                }
                if self.random.per_million(self.faults.lying_flush) {
                    self.struck.count(Fault::LyingFlush);
                    return Ok(());
                }
                self.medium.flush(*covers);
                Ok(())
            }
            Work::Discard { ranges } => {
                if ranges.iter().any(|range| range.end > blocks) {
                    return Err(DiskError::OutOfRange);
                }
                for range in ranges {
                    self.medium.discard(&mut self.random, range);
                }
                Ok(())
            }
        }
    }

    fn read(&mut self, mut at: BlockAddr, buf: &mut Buf, blocks: u64) -> Result<(), DiskError> {
        if self.random.per_million(self.faults.read_error) {
            self.struck.count(Fault::ReadError);
            return Err(DiskError::Device(0x0281));
        }
        if self.random.per_million(self.faults.rot) {
            let block = at + self.random.below(buf.blocks() as u64);
            if self.medium.flip_bit(&mut self.random, block) {
                self.struck.count(Fault::Rot);
            }
        }
        if self.random.per_million(self.faults.misdirected_read) {
            self.struck.count(Fault::MisdirectedRead);
            at = self.random.near(at, blocks - buf.blocks() as u64);
        }
        for index in 0..buf.blocks() {
            let block = at + index as u64;
            if self.medium.is_unreadable(block) {
                return Err(DiskError::Media);
            }
            self.medium.read(block, buf.block_mut(index));
            // A read that races with a write of the same block may see any mixture of sectors.
            for (_, newer) in self.queue.writes_of(block) {
                for sector in 0..8 {
                    if self.random.one_in(2) {
                        let range = sector * 512..(sector + 1) * 512;
                        buf.block_mut(index)[range.clone()].copy_from_slice(&newer[range]);
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, mut at: BlockAddr, buf: &Buf, blocks: u64) -> Result<(), DiskError> {
        let random = &mut self.random;
        if random.per_million(self.faults.write_error) {
            self.struck.count(Fault::WriteError);
            for index in 0..buf.blocks() {
                self.medium
                    .write_torn(random, at + index as u64, buf.block(index));
            }
            return Err(DiskError::Device(0x0280));
        }
        if random.per_million(self.faults.lost_write) {
            self.struck.count(Fault::LostWrite);
            return Ok(());
        }
        if random.per_million(self.faults.misdirected_write) {
            self.struck.count(Fault::MisdirectedWrite);
            at = random.near(at, blocks - buf.blocks() as u64);
        }
        self.medium.write(at, buf);
        if random.per_million(self.faults.unreadable) {
            self.struck.count(Fault::Unreadable);
            let block = at + random.below(buf.blocks() as u64);
            self.medium.make_unreadable(block);
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    fn info(&self) -> DiskInfo {
        self.shared.info.clone()
    }

    async fn read(&self, at: BlockAddr, into: Buf) -> (Buf, Result<(), DiskError>) {
        self.check_transfer(&into);
        self.submit(Work::Read { at, buf: into }).await.into_buf()
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        self.check_transfer(&from);
        self.submit(Work::Write { at, buf: from }).await.into_buf()
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let covers = self.shared.state.borrow().medium.completed();
        self.submit(Work::Flush { covers }).await.into_buf().1
    }

    async fn discard(&self, ranges: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        let ranges = ranges.to_vec();
        let work = Work::Discard { ranges };
        self.submit(work).await.into_buf().1
    }
}

impl SimDisk {
    fn check_transfer(&self, buf: &Buf) {
        let most = self.shared.geometry.transfer_blocks_max as usize;
        let blocks = buf.blocks();
        assert!(
            (1..=most).contains(&blocks),
            "a transfer of {blocks} blocks where 1 to {most} are allowed"
        );
    }
}
