//! The commands of one block device: a fixed table, the ring, deadlines, and the end of it all.
//!
//! Invariants:
//! - pages of a command belong to the engine from [`start`](Engine::start) until the device answered or was reset; if
//!   neither is certain they are given up for ever and an empty buffer is returned;
//! - commands that find no room wait in line and start in the order they came;
//! - an engine that failed once answers every command with the same error.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::Waker;
use core::time::Duration;

use hal::dma::{self, DmaBuf};
use log::{error, warn};
use world::{Buf, Clock, DiskError};

use super::QUEUE;
use super::layout::{self, AREA, Kind, STATUS_IO_ERROR, STATUS_NONE, STATUS_OK, Segments};
use crate::queue::Queue;
use crate::transport::{self, DeviceStatus, Transport, VirtioError, is_gone};

/// While commands are in flight the device's status is looked at this often, to notice early that it is gone.
const CHECK_NANOS: u64 = 500_000_000;

/// A command to be started.
pub struct Command {
    pub kind: Kind,
    pub sector: u64,
    /// Length of a discarded range; transfers have that of their pages.
    pub sectors: u32,
    pub buf: Buf,
}

/// One entry of the command table.
enum Entry {
    Free,
    InFlight {
        kind: Kind,
        buf: Buf,
        deadline: u64,
        /// Nobody to wake: not polled since, or abandoned.
        waker: Option<Waker>,
        abandoned: bool,
    },
    Answered(Buf, Result<(), DiskError>),
}

pub struct Engine<T: Transport> {
    transport: T,
    queue: Queue,
    /// Shared so that it can be given up: see [`Queue::quarantine`].
    areas: Rc<DmaBuf>,
    entries: Box<[Entry]>,
    free: Vec<usize>,
    /// Entry in flight under each token.
    by_token: Box<[usize]>,
    in_flight: usize,
    line: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    timeout_nanos: u64,
    now: u64,
    /// Not later than the earliest deadline in flight.
    next_deadline: u64,
    next_check: u64,
    failure: Option<DiskError>,
}

impl<T: Transport> Engine<T> {
    /// An engine of at most `depth_max` commands at one time.
    pub fn new(transport: T, mut queue: Queue, depth_max: u16, timeout: Duration) -> Self {
        let slots = queue.slots();
        let depth = usize::from(depth_max).clamp(1, slots);
        queue.disable_interrupts();
        Self {
            transport,
            areas: Rc::new(DmaBuf::new((depth * AREA).div_ceil(dma::PAGE_SIZE))),
            entries: (0..depth).map(|_| Entry::Free).collect(),
            free: (0..depth).rev().collect(),
            by_token: alloc::vec![0; slots].into_boxed_slice(),
            queue,
            in_flight: 0,
            line: VecDeque::with_capacity(depth),
            next_ticket: 0,
            timeout_nanos: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            now: 0,
            next_deadline: u64::MAX,
            next_check: u64::MAX,
            failure: None,
        }
    }

    pub fn failure(&self) -> Option<DiskError> {
        self.failure
    }

    /// Whether a command may start now: there is room and nobody is before it.
    pub fn may_start(&self, ticket: Option<u64>) -> bool {
        let first = self
            .line
            .front()
            .is_none_or(|(front, _)| ticket == Some(*front));
        first && !self.free.is_empty()
    }

    /// Takes or keeps a place in line.
    pub fn wait_in_line(&mut self, ticket: Option<u64>, waker: &Waker) -> u64 {
        if let Some(ticket) = ticket
            && let Some(place) = self.line.iter_mut().find(|place| place.0 == ticket)
        {
            place.1.clone_from(waker);
            return ticket;
        }
        self.next_ticket += 1;
        self.line.push_back((self.next_ticket, waker.clone()));
        self.next_ticket
    }

    pub fn leave_line(&mut self, ticket: Option<u64>) {
        if let Some(ticket) = ticket {
            self.line.retain(|place| place.0 != ticket);
            self.wake_first();
        }
    }

    fn wake_first(&self) {
        if let Some((_, waker)) = self.line.front()
            && !self.free.is_empty()
        {
            waker.wake_by_ref();
        }
    }

    /// Puts `command` in the ring; the device hears of it at the next [`poll`](Self::poll). Returns its number.
    ///
    /// # Panics
    /// When there is no room: [`may_start`](Self::may_start) tells.
    pub fn start(&mut self, command: Command) -> usize {
        let Some(number) = self.free.pop() else {
            panic!("no room for a command")
        };
        let Command {
            kind,
            sector,
            sectors,
            mut buf,
        } = command;
        let area = number * AREA;
        layout::write(&self.areas, area, kind, sector, sectors);
        let segments = Segments::of(kind, self.areas.device_address() + area as u64, &mut buf);
        // There is a ring slot for each entry, and an entry outlives its slot.
        let Some(token) = self.queue.push(segments.as_slice()) else {
            panic!("fewer slots than commands")
        };
        self.by_token[token.index()] = number;
        if self.in_flight == 0 {
            self.next_check = self.now.saturating_add(CHECK_NANOS);
        }
        self.in_flight += 1;
        let deadline = self.now.saturating_add(self.timeout_nanos);
        self.next_deadline = self.next_deadline.min(deadline);
        self.entries[number] = Entry::InFlight {
            kind,
            buf,
            deadline,
            waker: None,
            abandoned: false,
        };
        number
    }

    /// The answer to command `number`, if there is one; else `waker` is woken when it comes.
    pub fn take_answer(
        &mut self,
        number: usize,
        waker: &Waker,
    ) -> Option<(Buf, Result<(), DiskError>)> {
        if let Entry::InFlight { waker: slot, .. } = &mut self.entries[number] {
            match slot {
                Some(slot) => slot.clone_from(waker),
                None => *slot = Some(waker.clone()),
            }
            return None;
        }
        match core::mem::replace(&mut self.entries[number], Entry::Free) {
            Entry::Answered(buf, result) => {
                self.release(number);
                Some((buf, result))
            }
            _ => unreachable!("the answer was taken already"),
        }
    }

    fn release(&mut self, number: usize) {
        self.entries[number] = Entry::Free;
        self.free.push(number);
        self.wake_first();
    }

    /// Nobody waits for command `number` any more.
    pub fn abandon(&mut self, number: usize) {
        match &mut self.entries[number] {
            Entry::InFlight {
                waker, abandoned, ..
            } => {
                *waker = None;
                *abandoned = true;
            }
            _ => self.release(number),
        }
    }

    pub fn poll(&mut self, now: u64) -> bool {
        self.now = now;
        if self.failure.is_some() {
            return false;
        }
        self.publish();
        let mut answered = false;
        // Bounded: nothing is pushed in between.
        loop {
            match self.queue.pop() {
                Ok(Some(used)) => {
                    answered = true;
                    self.complete(self.by_token[used.token.index()]);
                }
                Ok(None) => break,
                Err(_) => {
                    error!("virtio-blk: the device broke the protocol");
                    self.fail(DiskError::Device(STATUS_NONE.into()));
                    return true;
                }
            }
        }
        if self.in_flight == 0 {
            (self.next_deadline, self.next_check) = (u64::MAX, u64::MAX);
            return answered;
        }
        self.check_health() | answered
    }

    fn publish(&mut self) {
        if self.queue.publish() {
            self.transport.notify(QUEUE);
        }
    }

    /// Takes the device's answer to command `number` from its area.
    fn complete(&mut self, number: usize) {
        let status = layout::status(&self.areas, number * AREA);
        let Entry::InFlight { kind, .. } = &self.entries[number] else {
            unreachable!("the queue answers only what is in flight")
        };
        let result = match (status, kind) {
            (STATUS_OK, _) => Ok(()),
            (STATUS_IO_ERROR, Kind::Read | Kind::Write) => Err(DiskError::Media),
            (status, _) => Err(DiskError::Device(status.into())),
        };
        self.answer(number, result, true);
    }

    /// Answers command `number`. Its pages come back only if the device is `done` with them.
    fn answer(&mut self, number: usize, result: Result<(), DiskError>, done: bool) {
        let entry = core::mem::replace(&mut self.entries[number], Entry::Free);
        let Entry::InFlight {
            mut buf,
            waker,
            abandoned,
            ..
        } = entry
        else {
            unreachable!("an answer to a command that is not in flight")
        };
        self.in_flight -= 1;
        if done {
            for page in buf.pages_mut() {
                dma::reclaim(&mut page.bytes);
            }
        } else {
            core::mem::forget(core::mem::take(&mut buf));
        }
        if abandoned {
            self.release(number);
            return;
        }
        self.entries[number] = Entry::Answered(buf, result);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Looks at deadlines and, now and then, at the device's status. Returns whether the device failed.
    fn check_health(&mut self) -> bool {
        if self.now >= self.next_deadline {
            let deadlines = self.entries.iter().filter_map(|entry| match entry {
                Entry::InFlight { deadline, .. } => Some(*deadline),
                _ => None,
            });
            self.next_deadline = deadlines.min().unwrap_or(u64::MAX);
            if self.now >= self.next_deadline {
                warn!("virtio-blk: a command was not answered in time");
                self.fail(DiskError::Timeout);
                return true;
            }
        }
        if self.now >= self.next_check {
            self.next_check = self.now.saturating_add(CHECK_NANOS);
            let status = self.transport.status();
            if is_gone(status) {
                self.fail(DiskError::Gone);
                return true;
            }
            if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                warn!("virtio-blk: the device gave up");
                self.fail(DiskError::Device(STATUS_NONE.into()));
                return true;
            }
        }
        false
    }

    /// Takes the device out of use and answers everything.
    fn fail(&mut self, error: DiskError) {
        let error = match is_gone(self.transport.status()) {
            true => DiskError::Gone,
            false => error,
        };
        self.failure = Some(error);
        let done = self.stop();
        for number in 0..self.entries.len() {
            if matches!(self.entries[number], Entry::InFlight { .. }) {
                self.answer(number, Err(error), done);
            }
        }
        for (_, waker) in self.line.drain(..) {
            waker.wake();
        }
    }

    /// Resets the device. Whether it confirmed; if not, what it shares with us is given up.
    fn stop(&mut self) -> bool {
        let done = transport::shut_down(&mut self.transport);
        if !done {
            self.queue.quarantine();
            core::mem::forget(self.areas.clone());
        }
        done
    }

    pub fn enable_interrupts(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        self.publish();
        if self.queue.is_overlooked() {
            self.transport.notify(QUEUE);
        }
        self.queue.enable_interrupts()
    }

    pub fn next_poll(&self) -> Option<u64> {
        let next = self.next_deadline.min(self.next_check);
        (self.in_flight > 0).then_some(next)
    }

    /// Asks for the serial number and waits for it.
    pub fn identify(&mut self, clock: &dyn Clock) -> Result<String, VirtioError> {
        self.now = clock.now().as_nanos();
        let number = self.start(Command {
            kind: Kind::Identify,
            sector: 0,
            sectors: 0,
            buf: Buf::empty(),
        });
        let result = loop {
            self.poll(clock.now().as_nanos());
            if let Some((_, result)) = self.take_answer(number, Waker::noop()) {
                break result;
            }
            core::hint::spin_loop();
        };
        match (result, self.failure) {
            (Ok(()), _) => Ok(layout::serial(&self.areas, number * AREA)),
            // A device without a serial number is a device all the same.
            (Err(_), None) => Ok(String::new()),
            (Err(_), Some(DiskError::Gone)) => Err(VirtioError::Gone),
            (Err(_), Some(DiskError::Timeout)) => Err(VirtioError::Stuck),
            (Err(_), Some(_)) => Err(VirtioError::Lied),
        }
    }
}

impl<T: Transport> Drop for Engine<T> {
    fn drop(&mut self) {
        if self.failure.is_none() {
            self.fail(DiskError::Gone);
        }
    }
}
