//! The main loop: poll the edges, run ready tasks, send what they queued; when nothing is left, sleep.

use exec::Exec;

use crate::machine::Machine;
use crate::power::{End, Power};
use crate::service::Stack;

/// Runs until everything is saved for the end.
pub fn run(machine: &Machine, exec: &Exec, stack: Option<&Stack>, power: &Power) -> End {
    loop {
        let mut worked = stack.is_some_and(Stack::ingress);
        worked |= machine.poll(exec.now());
        worked |= exec.run_ready();
        // Commands that tasks have just queued: one doorbell for all of them.
        worked |= machine.poll(exec.now());
        worked |= stack.is_some_and(Stack::egress);
        if let Some(end) = power.reached() {
            return end;
        }
        if !worked && !exec.has_ready() {
            sleep(machine, exec, stack);
        }
    }
}

/// Sleeps until a device has something to say or time is up.
fn sleep(machine: &Machine, exec: &Exec, stack: Option<&Stack>) {
    if machine.enable_interrupts() {
        return;
    }
    let deadlines = [
        exec.next_deadline(),
        stack.and_then(Stack::next_deadline),
        machine.next_deadline(exec.now()),
    ];
    let next = deadlines.into_iter().flatten().min();
    hal::irq::wait_for_interrupt(next.map(|next| next.as_nanos()));
}
