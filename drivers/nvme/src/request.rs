//! One command as a future.

use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use hal::Registers;
use world::Buf;

use crate::command::Command;
use crate::engine::{Engine, Start};
use crate::slots::{Outcome, Payload, settle};

/// A command that waits for a slot, is on its way, or is answered.
///
/// Its memory stays inside and can be taken once it is answered. Dropping it gives up its place in line; a command that
/// was sent already goes on, and its memory is kept until it has ended.
pub struct Request<'a, R: Registers> {
    engine: &'a RefCell<Engine<R>>,
    queue: usize,
    command: Command,
    payload: Payload,
    limit: Duration,
    /// It must not become part of another command.
    is_alone: bool,
    state: State,
}

enum State {
    Waiting(Option<u64>),
    Sent(u16),
    Answered,
}

impl<'a, R: Registers> Request<'a, R> {
    pub fn new(
        engine: &'a RefCell<Engine<R>>,
        queue: usize,
        command: Command,
        payload: Payload,
        limit: Duration,
    ) -> Self {
        Self {
            engine,
            queue,
            command,
            payload,
            limit,
            is_alone: false,
            state: State::Waiting(None),
        }
    }

    /// Makes an answered command ready to be sent once more.
    pub fn restart(&mut self) {
        if matches!(self.state, State::Answered) {
            self.state = State::Waiting(None);
        }
    }

    /// What kind of command it is.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Takes the memory of a command that is answered, or was never sent; empty if it had to be given up.
    pub fn take_pages(&mut self) -> Buf {
        match (&self.state, &mut self.payload) {
            (State::Sent(_), _) => panic!("the controller still has this memory"),
            (_, Payload::Pages(pages)) => core::mem::take(pages),
            (_, Payload::None | Payload::Queue(_) | Payload::Ranges(..)) => Buf::empty(),
        }
    }
}

impl<R: Registers> Future for Request<'_, R> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut engine = this.engine.borrow_mut();
        if let State::Waiting(ticket) = &mut this.state {
            let started = engine.start(
                this.queue,
                (&this.command, this.is_alone),
                &mut this.payload,
                this.limit,
                ticket,
                context.waker(),
            );
            match started {
                Start::Sent(slot) => this.state = State::Sent(slot),
                Start::Wait => return Poll::Pending,
                Start::Refused(error) => {
                    if let Some(ticket) = ticket.take() {
                        engine.queues[this.queue].slots.leave(ticket);
                    }
                    this.state = State::Answered;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let State::Sent(slot) = this.state else {
            panic!("a request polled after it was answered");
        };
        let Some(answer) = engine.finish(this.queue, slot, context.waker()) else {
            return Poll::Pending;
        };
        this.state = State::Answered;
        if let Payload::Pages(pages) = &mut this.payload {
            settle(pages, answer.is_memory_free);
        }
        let is_refused = answer.outcome.is_ok_and(|done| !done.status.is_success());
        if is_refused && answer.is_shared {
            // Perhaps because of another one.
            drop(engine);
            this.is_alone = true;
            this.restart();
            return Pin::new(this).poll(context);
        }
        Poll::Ready(answer.outcome)
    }
}

impl<R: Registers> Drop for Request<'_, R> {
    fn drop(&mut self) {
        match self.state {
            State::Waiting(Some(ticket)) => {
                self.engine.borrow_mut().queues[self.queue]
                    .slots
                    .leave(ticket);
            }
            State::Sent(slot) => {
                let pages = match core::mem::take(&mut self.payload) {
                    Payload::Pages(pages) => pages,
                    Payload::None | Payload::Queue(_) | Payload::Ranges(..) => Buf::empty(),
                };
                self.engine.borrow_mut().queues[self.queue]
                    .slots
                    .abandon(slot, pages);
            }
            State::Waiting(None) | State::Answered => {}
        }
    }
}
