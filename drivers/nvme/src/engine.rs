//! The running controller: queues, completions, deadlines, and how it is stopped when it fails.
//!
//! ```text
//! Running ── deadline passed, fatal status, gone, nonsense ──► Stopping ── not ready, or cut off ──► Stopped
//! ```
//!
//! No command is answered between the failure and the moment the controller is known not to touch memory (it says that
//! it is disabled, or the bus does not carry its accesses any more). When neither can be shown, the memory of its
//! commands and queues is given up.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::Waker;
use core::time::Duration;

use hal::Registers;
use world::{Buf, DiskError, Instant};

use crate::command::Command;
use crate::regs::{CC, CSTS, Configuration};
use crate::ring::Ring;
use crate::slots::{Answer, Payload, Slots};

/// How often commands are checked for their deadlines while any are on their way.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the status is read while there is nothing to do.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The bus between a controller and memory.
pub trait Gate {
    /// Stops the controller from reading and writing memory. Returns whether that is certain.
    fn cut_off(&self) -> bool;
}

impl Gate for pci::Function {
    fn cut_off(&self) -> bool {
        self.set_bus_master(false);
        // An answer also means that every write the function sent before it has arrived.
        self.is_present() && !self.command().contains(pci::Command::BUS_MASTER)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopping { cause: DiskError, until: Instant },
    Stopped { cause: DiskError },
}

/// A pair of queues and the commands in it.
pub struct Queue {
    pub ring: Ring,
    pub slots: Slots,
    /// The most pages of one command.
    pages_max: usize,
    /// The command at the ring's end, while others can still become part of it.
    open: Option<OpenCommand>,
}

/// A read or write that the controller was not told of yet.
struct OpenCommand {
    command: Command,
    id: u16,
    /// Slots of its first and its last request.
    slots: (u16, u16),
    /// Its first page's address, and its pages.
    pages: (u64, usize),
}

impl Queue {
    pub fn new(number: u16, entries: u16, slots: u16, stride: usize) -> Self {
        assert!(slots < entries, "more commands than a queue holds");
        Self {
            ring: Ring::new(number, entries, stride),
            slots: Slots::new(slots),
            pages_max: 1,
            open: None,
        }
    }

    /// Sets how many pages one command may have.
    pub fn set_pages_max(&mut self, pages: usize) {
        self.pages_max = pages.min(Buf::PAGES_MAX);
    }

    /// Puts a command at the ring's end.
    fn push(&mut self, slot: u16, command: &Command, payload: &mut Payload, deadline: Instant) {
        let (id, prp) = self.slots.start(slot, payload, deadline);
        self.ring.push(&command.encode(id, prp));
        self.open = match payload {
            Payload::Pages(pages) => Some(OpenCommand {
                command: *command,
                id,
                slots: (slot, slot),
                pages: (prp[0], pages.blocks()),
            }),
            Payload::None | Payload::Queue(_) | Payload::Ranges(..) => None,
        };
    }

    /// Makes a request part of the command at the ring's end, if it goes on where that ends.
    fn join(
        &mut self,
        slot: u16,
        command: &Command,
        payload: &mut Payload,
        until: Instant,
    ) -> bool {
        let (Some(open), Payload::Pages(buf)) = (&mut self.open, payload) else {
            return false;
        };
        let pages = open.pages.1 + buf.blocks();
        let joined = open.command.joined(command);
        let Some(joined) = joined.filter(|_| pages <= self.pages_max) else {
            return false;
        };
        let prp = self.slots.join(slot, open.slots, open.pages, buf, until);
        open.command = joined;
        open.slots.1 = slot;
        open.pages.1 = pages;
        self.ring.replace_last(&joined.encode(open.id, prp));
        true
    }
}

/// What became of an attempt to start a command.
pub enum Start {
    Sent(u16),
    Wait,
    Refused(DiskError),
}

/// A controller that takes commands, or has stopped doing so.
pub struct Engine<R> {
    /// For the log.
    name: String,
    pub regs: R,
    gate: Box<dyn Gate>,
    /// By number: administrative, then for blocks.
    pub queues: Vec<Queue>,
    state: State,
    /// How long disabling may take.
    timeout: Duration,
    now: Instant,
    next_check: Instant,
    /// No completion came since the last check.
    is_quiet: bool,
    must_leak: bool,
}

impl<R: Registers> Engine<R> {
    pub fn new(
        name: String,
        regs: R,
        gate: Box<dyn Gate>,
        admin: Queue,
        timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            name,
            regs,
            gate,
            queues: alloc::vec![admin],
            state: State::Running,
            timeout,
            now,
            next_check: now + CHECK_INTERVAL,
            is_quiet: false,
            must_leak: false,
        }
    }

    /// Why the controller takes no commands, if it does not.
    pub fn failure(&self) -> Option<DiskError> {
        match self.state {
            State::Running => None,
            State::Stopping { cause, .. } | State::Stopped { cause } => Some(cause),
        }
    }

    /// Puts a command into queue `number`, if it is the caller's turn. The payload is lent to the controller then. Unless
    /// `alone`, it may become part of the command before.
    pub fn start(
        &mut self,
        number: usize,
        (command, alone): (&Command, bool),
        payload: &mut Payload,
        limit: Duration,
        ticket: &mut Option<u64>,
        waker: &Waker,
    ) -> Start {
        if let Some(cause) = self.failure() {
            return Start::Refused(cause);
        }
        let queue = &mut self.queues[number];
        let Some(slot) = queue.slots.acquire(ticket) else {
            queue.slots.wait(ticket, waker);
            return Start::Wait;
        };
        if self.next_check > self.now + CHECK_INTERVAL {
            self.next_check = self.now + CHECK_INTERVAL;
        }
        let deadline = self.now + limit;
        if alone || !queue.join(slot, command, payload, deadline) {
            queue.push(slot, command, payload, deadline);
        }
        if alone {
            queue.open = None;
        }
        Start::Sent(slot)
    }

    /// The answer to the command in `slot`, once there is one.
    pub fn finish(&mut self, number: usize, slot: u16, waker: &Waker) -> Option<Answer> {
        self.queues[number].slots.take(slot, waker)
    }

    /// Sends what was started, takes completions, checks deadlines. Returns whether anything happened.
    pub fn poll(&mut self, now: Instant) -> bool {
        self.now = now;
        match self.state {
            State::Running => {
                let sent = self.announce();
                let taken = self.take_completions();
                if now >= self.next_check {
                    self.check();
                }
                sent || taken
            }
            State::Stopping { cause, until } => self.try_stop(cause, until),
            State::Stopped { .. } => false,
        }
    }

    /// Sends what was started.
    pub fn send(&mut self) {
        if matches!(self.state, State::Running) {
            self.announce();
        }
    }

    /// When [`poll`](Self::poll) must be called even if no interrupt comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Running if self.queues.iter().all(|queue| queue.slots.is_idle()) => None,
            State::Running => Some(self.next_check),
            State::Stopping { .. } => Some(self.now + Duration::from_millis(1)),
            State::Stopped { .. } => None,
        }
    }

    /// Whether the whole engine has to be kept for ever, as the controller may still write to its queues. Says so once.
    pub fn take_must_leak(&mut self) -> bool {
        core::mem::take(&mut self.must_leak)
    }

    fn announce(&mut self) -> bool {
        let mut sent = false;
        for queue in &mut self.queues {
            queue.open = None;
            sent |= queue.ring.announce(&self.regs);
        }
        sent
    }

    fn take_completions(&mut self) -> bool {
        let mut taken = false;
        for queue in &mut self.queues {
            // A ring holds no more than this, so a controller that fills it for ever cannot hold the loop.
            for _ in 0..queue.ring.entries() {
                let Some(completion) = queue.ring.take() else {
                    break;
                };
                taken = true;
                self.is_quiet = false;
                let known = completion.is_ok_and(|done| queue.slots.complete(done).is_ok());
                if !known {
                    log::error!("{}: a completion that belongs to no command", self.name);
                    self.stop(DiskError::Gone);
                    return true;
                }
            }
        }
        if taken {
            // The controller learns where there is room again.
            self.announce();
        }
        taken
    }

    fn check(&mut self) {
        let now = self.now;
        if self.queues.iter().any(|queue| queue.slots.has_expired(now)) {
            log::error!("{}: a command was not answered in time", self.name);
            self.stop(DiskError::Timeout);
            return;
        }
        // Reading a register is slow; a controller that completes commands is there.
        if core::mem::replace(&mut self.is_quiet, true) {
            let status = self.regs.read(CSTS);
            if status.is_gone() || status.is_fatal() || !status.is_ready() {
                log::error!("{}: failed, status {:#x}", self.name, status.0);
                self.stop(DiskError::Gone);
                return;
            }
        }
        let is_idle = self.queues.iter().all(|queue| queue.slots.is_idle());
        let interval = if is_idle {
            IDLE_CHECK_INTERVAL
        } else {
            CHECK_INTERVAL
        };
        self.next_check = now + interval;
    }

    /// Begins to stop the controller; commands are answered with `cause` when that is done.
    fn stop(&mut self, cause: DiskError) {
        let until = self.now + self.timeout;
        self.state = State::Stopping { cause, until };
        if !self.regs.read(CSTS).is_gone() {
            self.regs.write(CC, Configuration::OFF);
        }
        self.try_stop(cause, until);
    }

    fn try_stop(&mut self, cause: DiskError, until: Instant) -> bool {
        let status = self.regs.read(CSTS);
        let is_disabled = !status.is_gone() && !status.is_ready();
        if !is_disabled && !status.is_gone() && self.now < until {
            return false;
        }
        self.end(cause, is_disabled);
        true
    }

    /// Stops at once, without waiting for the controller.
    pub fn abort(&mut self) {
        let cause = match self.state {
            State::Stopped { .. } => return,
            State::Stopping { cause, .. } => cause,
            State::Running => DiskError::Gone,
        };
        let mut status = self.regs.read(CSTS);
        if !status.is_gone() {
            self.regs.write(CC, Configuration::OFF);
            status = self.regs.read(CSTS);
        }
        self.end(cause, !status.is_gone() && !status.is_ready());
    }

    fn end(&mut self, cause: DiskError, is_disabled: bool) {
        // Never used again, so its way to memory is closed even when it says that it is disabled.
        let is_cut_off = self.gate.cut_off();
        let is_idle = is_disabled || is_cut_off;
        if !is_idle {
            log::error!(
                "{}: may still write to its memory, which is given up",
                self.name
            );
            self.must_leak = true;
        }
        self.state = State::Stopped { cause };
        for queue in &mut self.queues {
            queue.slots.lose_all(cause, is_idle);
        }
    }
}
