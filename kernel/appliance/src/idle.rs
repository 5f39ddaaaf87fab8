//! The main loop: poll the edges, run ready tasks, send what they queued; when nothing is left, sleep.

use exec::Exec;
use world::sooner;

use crate::clock::TurnClock;
use crate::machine::Machine;
use crate::power::{End, Power};
use crate::service::Stack;

/// How often tasks that make each other ready run before the edges get a turn.
const ROUNDS_MAX: usize = 4;

/// Runs until everything is saved for the end.
pub fn run(
    machine: &Machine,
    exec: &Exec,
    stack: Option<&Stack>,
    power: &Power,
    clock: &TurnClock,
) -> End {
    loop {
        clock.tick();
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
