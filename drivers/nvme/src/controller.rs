//! Bringing a controller up, and the edge that the main loop polls.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use hal::{Mmio, Registers};
use pci::{Function, Msix, PciError};
use world::{Clock, DiskError, Instant};

use crate::bring_up::{BringUp, Found};
use crate::drive::Drive;
use crate::engine::{Engine, Gate, Queue};
use crate::identify::Refusal;
use crate::regs::{self, CAP, CC, CSTS, Configuration};
use crate::slots::SLOTS_MAX;
use crate::{BLOCKS, NvmeError};

/// Entries of the administrative queues.
const ADMIN_ENTRIES: u16 = 32;
/// Entries of the queues for blocks, if the controller takes that many. Twice the commands, so that neither side ever
/// meets the end of a ring.
const BLOCK_ENTRIES: u32 = 2 * SLOTS_MAX as u32;
/// The least time to become ready, whatever the controller promises.
const READY_MIN: Duration = Duration::from_secs(1);
/// How long a controller may take to get ready for power to go.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// How long commands may take before the controller counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Reads and writes.
    pub transfer: Duration,
    /// Flush, Deallocate and Write Zeroes.
    pub flush: Duration,
    /// Administrative commands.
    pub admin: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            transfer: Duration::from_secs(10),
            flush: Duration::from_secs(30),
            admin: Duration::from_secs(10),
        }
    }
}

/// What the appliance decides about a controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// Number of the controller within this appliance; its drives are called `nvme<index>n<namespace>`.
    pub index: usize,
    /// The message (address and data) to send when commands complete; without one, nothing interrupts.
    pub interrupt: Option<(u64, u32)>,
    /// How long commands may take.
    pub deadlines: Deadlines,
}

impl Setup {
    /// What the controller is called.
    pub(crate) fn name(&self) -> String {
        format!("nvme{}", self.index)
    }
}

/// A controller: an edge that the main loop polls, and the drives behind it.
///
/// Dropping it disables the controller; its drives answer [`DiskError::Gone`] from then on.
pub struct Controller<R: Registers = Mmio> {
    engine: Rc<RefCell<Engine<R>>>,
    found: Found<R>,
    /// Keeps the table of interrupts that the function uses.
    _interrupts: Option<Msix>,
}

impl Controller {
    /// Brings the controller behind `function` up, waiting for it as long as it promises (seconds at worst).
    ///
    /// Gives its BAR a place if it was plugged in after firmware ran. `clock` measures deadlines and must be the one
    /// that [`poll`](Self::poll) is given the time of.
    ///
    /// # Errors
    /// When the controller cannot be used. It is disabled then.
    pub fn open(function: &Function, setup: &Setup, clock: &dyn Clock) -> Result<Self, NvmeError> {
        let regs = match function.map_bar(0) {
            Err(PciError::Unassigned(_)) => {
                function.assign()?;
                function.map_bar(0)?
            }
            other => other?,
        };
        function.enable();
        let interrupts = match setup.interrupt {
            Some(message) => Self::interrupts(function, message),
            None => None,
        };
        let place = Place {
            slot: function.address().to_string(),
            regs_len: regs.len(),
            has_interrupts: interrupts.is_some(),
        };
        let mut controller = Self::start(regs, place, Box::new(function.clone()), setup, clock)
            .inspect_err(|_| function.set_bus_master(false))?;
        controller._interrupts = interrupts;
        Ok(controller)
    }

    fn interrupts(function: &Function, message: (u64, u32)) -> Option<Msix> {
        let msix = Msix::new(function)
            .inspect_err(|error| log::warn!("nvme: {} is only polled: {error}", function.address()))
            .ok()?;
        msix.route(0, message);
        msix.enable();
        Some(msix)
    }
}

/// Where a controller sits and what its surroundings offer.
pub(crate) struct Place {
    pub slot: String,
    /// Bytes of registers.
    pub regs_len: usize,
    /// Interrupt entry 0 is routed.
    pub has_interrupts: bool,
}

impl<R: Registers> Controller<R> {
    /// Its drives, one for each usable namespace.
    #[must_use]
    pub fn drives(&self) -> &[Drive<R>] {
        &self.found.drives
    }

    /// Namespaces that cannot be used, and why.
    #[must_use]
    pub fn refused(&self) -> &[(u32, Refusal)] {
        &self.found.refused
    }

    /// Sends what drives were asked for, takes completions and checks deadlines. Returns whether anything happened.
    ///
    /// Commands reach the controller only here and with [`send`](Self::send), so the loop calls one of them after tasks ran
    /// and before it sleeps.
    pub fn poll(&self, now: Instant) -> bool {
        let worked = self.engine.borrow_mut().poll(now);
        self.keep_what_may_be_written();
        worked
    }

    /// Sends what drives were asked for, and does not look for completions.
    pub fn send(&self) {
        self.engine.borrow_mut().send();
    }

    /// When [`poll`](Self::poll) must be called even if no interrupt came before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.engine.borrow().next_deadline()
    }

    /// Why it takes no commands any more, if it does not.
    #[must_use]
    pub fn failure(&self) -> Option<DiskError> {
        self.engine.borrow().failure()
    }

    /// Tells the controller that power will go, waits for it (5 seconds at most), and disables it.
    ///
    /// Every write that matters must have been flushed.
    pub fn shut_down(self, clock: &dyn Clock) {
        if self.failure().is_none() {
            let until = clock.now() + SHUTDOWN_MAX;
            let engine = self.engine.borrow();
            engine.regs.write(CC, Configuration::SHUTDOWN);
            while !engine.regs.read(CSTS).is_shut_down() && clock.now() < until {
                core::hint::spin_loop();
            }
        }
    }

    pub(crate) fn start(
        regs: R,
        place: Place,
        gate: Box<dyn Gate>,
        setup: &Setup,
        clock: &dyn Clock,
    ) -> Result<Self, NvmeError> {
        let cap = regs.read(CAP);
        if cap.is_gone() {
            return Err(NvmeError::Gone);
        }
        if !cap.has_nvm_commands() {
            return Err(NvmeError::NoNvmCommands);
        }
        if !cap.has_small_pages() {
            return Err(NvmeError::PageSize);
        }
        let stride = cap.doorbell_stride();
        if regs::len_for(BLOCKS as u16 + 1, stride) > place.regs_len {
            return Err(NvmeError::Doorbells);
        }
        let entries = cap.queue_entries_max().min(BLOCK_ENTRIES) as u16;
        if entries < 2 {
            return Err(NvmeError::QueueTooShort);
        }
        let timeout = cap.timeout().max(READY_MIN);
        let admin = Queue::new(0, ADMIN_ENTRIES, ADMIN_ENTRIES - 1, stride);
        let name = setup.name();
        let engine = Engine::new(name, regs, gate, admin, timeout, clock.now());
        let mut controller = Self {
            engine: Rc::new(RefCell::new(engine)),
            found: Found {
                drives: Vec::new(),
                refused: Vec::new(),
            },
            _interrupts: None,
        };
        let bring_up = BringUp {
            engine: &controller.engine,
            setup,
            clock,
        };
        bring_up.enable(timeout)?;
        let identity = Rc::new(bring_up.identify()?);
        let transfer_max = identity.transfer_blocks_max;
        bring_up.create_queues(entries, stride, place.has_interrupts, transfer_max)?;
        let found = bring_up.namespaces(&identity, &place.slot)?;
        controller.found = found;
        Ok(controller)
    }

    /// A controller that may still write to its queues keeps them for ever.
    fn keep_what_may_be_written(&self) {
        if self.engine.borrow_mut().take_must_leak() {
            core::mem::forget(self.engine.clone());
        }
    }
}

impl<R: Registers> Drop for Controller<R> {
    fn drop(&mut self) {
        self.engine.borrow_mut().abort();
        self.keep_what_may_be_written();
    }
}
