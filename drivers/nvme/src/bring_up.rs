//! The steps from reset to drives.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use hal::Registers;
use world::{BLOCK_SIZE, Buf, Clock, DiskError};

use crate::command::{Command, Subject};
use crate::controller::Setup;
use crate::drive::Drive;
use crate::engine::{Engine, Queue};
use crate::identify::{ControllerIdentity, NamespaceIdentity, Refusal, namespace_list};
use crate::regs::{ACQ, AQA, ASQ, CC, CSTS, Configuration, VS, Version};
use crate::request::Request;
use crate::slots::{Payload, SLOTS_MAX};
use crate::{ADMIN, BLOCKS, NvmeError};

/// The most namespaces that are looked at.
const NAMESPACES_MAX: usize = 2048;

/// The steps from reset to drives (NVMe Base 2.0, 3.5.1). Each waits with a deadline.
pub struct BringUp<'a, R: Registers> {
    /// The engine, with its administrative queues.
    pub engine: &'a Rc<RefCell<Engine<R>>>,
    /// What the appliance decided.
    pub setup: &'a Setup,
    /// Measures the waits.
    pub clock: &'a dyn Clock,
}

/// What is behind a controller.
pub struct Found<R: Registers> {
    /// Usable namespaces.
    pub drives: Vec<Drive<R>>,
    /// Others, by number.
    pub refused: Vec<(u32, Refusal)>,
}

impl<R: Registers> BringUp<'_, R> {
    /// Disables the controller, gives it the administrative queues and enables it.
    pub fn enable(&self, timeout: Duration) -> Result<(), NvmeError> {
        let engine = self.engine.borrow();
        let regs = &engine.regs;
        if regs.read(CC).is_enabled() {
            // A controller that firmware is still enabling must get there before it can be disabled.
            self.wait(regs, timeout, true)
                .or_else(|error| match error {
                    NvmeError::Fatal => Ok(()),
                    other => Err(other),
                })?;
            regs.write(CC, Configuration::OFF);
        }
        self.wait(regs, timeout, false)?;
        let ring = &engine.queues[ADMIN].ring;
        let [submissions, completions] = ring.addresses();
        let size = u32::from(ring.entries() - 1);
        regs.write(AQA, size << 16 | size);
        regs.write(ASQ, submissions);
        regs.write(ACQ, completions);
        regs.write(CC, Configuration::ON);
        self.wait(regs, timeout, true)
    }

    fn wait(&self, regs: &R, timeout: Duration, wanted: bool) -> Result<(), NvmeError> {
        let until = self.clock.now() + timeout;
        loop {
            let status = regs.read(CSTS);
            if status.is_gone() {
                return Err(NvmeError::Gone);
            }
            if wanted && status.is_fatal() {
                return Err(NvmeError::Fatal);
            }
            if status.is_ready() == wanted {
                return Ok(());
            }
            if self.clock.now() >= until {
                return Err(NvmeError::NotReady);
            }
            core::hint::spin_loop();
        }
    }

    /// Asks the controller who it is.
    pub fn identify(&self) -> Result<ControllerIdentity, NvmeError> {
        let page = self.fetch(Command::identify(Subject::Controller, 0))?;
        ControllerIdentity::decode(page.block(0)).ok_or(NvmeError::Identity)
    }

    /// Creates the queues for blocks.
    pub fn create_queues(
        &self,
        entries: u16,
        stride: usize,
        interrupts: bool,
        transfer_blocks_max: u32,
    ) -> Result<(), NvmeError> {
        let granted = self.run(Command::set_queue_count(1), Payload::None)?.1;
        // Both counts are less one; this one never fails but by nonsense.
        if granted == u32::MAX {
            return Err(NvmeError::NoQueues);
        }
        let number = BLOCKS as u16;
        let slots = SLOTS_MAX.min(entries - 1);
        let mut queue = Queue::new(number, entries, slots, stride);
        queue.set_pages_max(transfer_blocks_max as usize);
        let [submissions, completions] = queue.ring.addresses();
        // From here on the controller may know the queue, so it belongs to the engine.
        self.engine.borrow_mut().queues.push(queue);
        let create = Command::create_completion_queue(number, entries, interrupts);
        self.run(create, Payload::Queue(completions))?;
        let create = Command::create_submission_queue(number, entries);
        self.run(create, Payload::Queue(submissions))?;
        Ok(())
    }

    /// Makes drives of all usable namespaces. `slot` is where the controller sits.
    pub fn namespaces(
        &self,
        identity: &Rc<ControllerIdentity>,
        slot: &str,
    ) -> Result<Found<R>, NvmeError> {
        let (mut drives, mut refused) = (Vec::new(), Vec::new());
        for number in self.active_namespaces(identity)? {
            let id = format!("{}n{number}", self.setup.name());
            match self.namespace(number)? {
                Ok(shape) => drives.push(Drive::new(
                    self.engine.clone(),
                    identity.clone(),
                    self.setup.deadlines,
                    number,
                    shape,
                    crate::drive::info(id, identity, slot),
                )),
                Err(refusal) => {
                    log::warn!("nvme: {id} cannot be used: {refusal}");
                    refused.push((number, refusal));
                }
            }
        }
        Ok(Found { drives, refused })
    }

    fn active_namespaces(&self, identity: &ControllerIdentity) -> Result<Vec<u32>, NvmeError> {
        let version = self.engine.borrow().regs.read(VS);
        if version < Version::V1_1 {
            let count = identity.namespaces.min(NAMESPACES_MAX as u32);
            return Ok((1..=count).collect());
        }
        let mut numbers: Vec<u32> = Vec::new();
        while numbers.len() < NAMESPACES_MAX {
            let last = numbers.last().copied().unwrap_or(0);
            let page = self.fetch(Command::identify(Subject::ActiveNamespaces, last))?;
            let before = numbers.len();
            for number in namespace_list(page.block(0)) {
                // Lists ascend; anything else would have no end.
                if numbers.last().is_some_and(|last| number <= *last) {
                    return Err(NvmeError::Identity);
                }
                numbers.push(number);
            }
            if numbers.len() - before < BLOCK_SIZE / 4 {
                break;
            }
        }
        numbers.truncate(NAMESPACES_MAX);
        Ok(numbers)
    }

    fn namespace(&self, number: u32) -> Result<Result<NamespaceIdentity, Refusal>, NvmeError> {
        match self.fetch(Command::identify(Subject::Namespace, number)) {
            Ok(page) => Ok(NamespaceIdentity::decode(page.block(0))),
            // One bad namespace does not take the others with it.
            Err(NvmeError::Refused(_, status)) => Ok(Err(Refusal::Unidentified(status.code()))),
            Err(error) => Err(error),
        }
    }

    fn fetch(&self, command: Command) -> Result<Buf, NvmeError> {
        let payload = Payload::Pages(Buf::from_heap(1));
        Ok(self.run(command, payload)?.0)
    }

    /// Runs one administrative command to its end; the engine's deadline bounds the wait.
    fn run(&self, command: Command, payload: Payload) -> Result<(Buf, u32), NvmeError> {
        let limit = self.setup.deadlines.admin;
        self.engine.borrow_mut().poll(self.clock.now());
        let mut request = Request::new(self.engine, ADMIN, command, payload, limit);
        let mut context = Context::from_waker(Waker::noop());
        let outcome = loop {
            if let Poll::Ready(outcome) = Pin::new(&mut request).poll(&mut context) {
                break outcome;
            }
            self.engine.borrow_mut().poll(self.clock.now());
            core::hint::spin_loop();
        };
        match outcome {
            Ok(done) if done.status.is_success() => Ok((request.take_pages(), done.result)),
            Ok(done) => Err(NvmeError::Refused(command.opcode(), done.status)),
            Err(DiskError::Timeout) => Err(NvmeError::Timeout),
            Err(_) => Err(NvmeError::Gone),
        }
    }
}
