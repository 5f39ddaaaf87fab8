//! The main loop: poll the edges, run ready tasks, send what they queued; when nothing is left, sleep.

use core::time::Duration;

use exec::Exec;
use world::{Instant, sooner};

use crate::clock::TurnClock;
use crate::machine::Machine;
use crate::power::{End, Power};
use crate::service::Stack;

/// How often tasks that make each other ready run before the edges get a turn.
const ROUNDS_MAX: usize = 4;

/// How often an emulated processor's translations of addresses are forgotten.
const TRANSLATIONS_KEPT: Duration = Duration::from_millis(250);

/// When that is next.
struct Translations {
    is_emulated: bool,
    kept_until: Instant,
}

impl Translations {
    fn new() -> Self {
        Self {
            is_emulated: hal::cpu::hypervisor() == Some(*b"TCGTCGTCGTCG"),
            kept_until: Instant::ZERO,
        }
    }

    /// Forgets them when it is time.
    ///
    /// QEMU's translator keeps them in a table for 256 pages, far fewer than those of all buffers, and lets it grow only when
    /// it is emptied. Systems with processes do that all the time; here, nothing else would.
    fn look(&mut self, now: Instant) {
        if self.is_emulated && now >= self.kept_until {
            self.kept_until = now + TRANSLATIONS_KEPT;
            hal::cpu::forget_translations();
        }
    }
}

/// Runs until everything is saved for the end.
pub fn run(
    machine: &Machine,
    exec: &Exec,
    stack: Option<&Stack>,
    power: &Power,
    clock: &TurnClock,
) -> End {
    let mut translations = Translations::new();
    loop {
        clock.tick();
        translations.look(exec.now());
        if let Some(stack) = stack {
            stack.ingress();
        }
        machine.poll(exec.now());
        if run_tasks(exec) {
            // Commands that tasks have just queued: one doorbell for all of them.
            machine.send(exec.now());
        }
        if let Some(stack) = stack {
            stack.egress();
        }
        if let Some(end) = power.reached() {
            return end;
        }
        if !exec.has_ready() {
            sleep(machine, exec, stack);
        }
    }
}

/// Runs ready tasks, and those that they make ready: a request goes from one to the next several times before there is
/// anything to send. Returns whether there were any.
fn run_tasks(exec: &Exec) -> bool {
    let mut ran = false;
    for _ in 0..ROUNDS_MAX {
        ran |= exec.run_ready();
        if !exec.has_ready() {
            break;
        }
    }
    ran
}

/// Sleeps until a device has something to say or time is up.
fn sleep(machine: &Machine, exec: &Exec, stack: Option<&Stack>) {
    if machine.enable_interrupts() {
        return;
    }
    let own = sooner(exec.next_deadline(), machine.next_deadline(exec.now()));
    let next = sooner(own, stack.and_then(Stack::next_deadline));
    hal::irq::wait_for_interrupt(next.map(|next| next.as_nanos()));
}
