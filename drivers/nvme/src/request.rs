//! One command as a future.

use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use hal::Registers;
use world::Buf;

use crate::command::Command;
use crate::engine::{Engine, Start};
use crate::slots::{Outcome, Payload};

/// A command that waits for a slot, is on its way, or is answered.
///
/// Dropping it gives up its place in line; a command that was sent already goes on, and its memory is kept until it
/// has ended.
pub struct Request<'a, R: Registers> {
    engine: &'a RefCell<Engine<R>>,
    queue: usize,
    command: Command,
    payload: Payload,
    limit: Duration,
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
            state: State::Waiting(None),
        }
    }
}

impl<R: Registers> Future for Request<'_, R> {
    type Output = (Buf, Outcome);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut engine = this.engine.borrow_mut();
        if let State::Waiting(ticket) = &mut this.state {
            let started = engine.start(
                this.queue,
                &this.command,
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
                    let pages = match core::mem::take(&mut this.payload) {
                        Payload::Pages(pages) => pages,
                        Payload::None | Payload::Queue(_) | Payload::Ranges(..) => Buf::empty(),
                    };
                    return Poll::Ready((pages, Err(error)));
                }
            }
        }
        let State::Sent(slot) = this.state else {
            panic!("a request polled after it was answered");
        };
        match engine.finish(this.queue, slot, context.waker()) {
            Some(answer) => {
                this.state = State::Answered;
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
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
            State::Sent(slot) => self.engine.borrow_mut().queues[self.queue]
                .slots
                .abandon(slot),
            State::Waiting(None) | State::Answered => {}
        }
    }
}
