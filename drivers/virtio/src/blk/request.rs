//! One command as a future: in line, in flight, answered.

use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll};

use world::{Buf, DiskError};

use super::engine::{Command, Engine};
use super::layout::Kind;
use crate::transport::Transport;

/// A command on its way through an [`Engine`]. Dropping it leaves line; a command in flight goes on without it, and
/// the engine keeps its memory until the device is done.
pub struct Request<'a, T: Transport> {
    engine: &'a RefCell<Engine<T>>,
    state: State,
}

/// ```text
/// Waiting ──room──► InFlight ──answer──► Done
///    └───────────device out of use────────┘
/// ```
enum State {
    /// Not given to the device yet; the number is the place in line, once taken.
    Waiting(Option<Command>, Option<u64>),
    /// Known to the engine under this number.
    InFlight(usize),
    Done,
}

impl<'a, T: Transport> Request<'a, T> {
    pub fn new(
        engine: &'a RefCell<Engine<T>>,
        kind: Kind,
        sector: u64,
        sectors: u32,
        buf: Buf,
    ) -> Self {
        let command = Command {
            kind,
            sector,
            sectors,
            buf,
        };
        Self {
            engine,
            state: State::Waiting(Some(command), None),
        }
    }
}

impl<T: Transport> Future for Request<'_, T> {
    type Output = (Buf, Result<(), DiskError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut engine = this.engine.borrow_mut();
        if let State::Waiting(command, ticket) = &mut this.state {
            if let Some(error) = engine.failure() {
                let buf = command
                    .take()
                    .map_or_else(Buf::empty, |command| command.buf);
                engine.leave_line(ticket.take());
                this.state = State::Done;
                return Poll::Ready((buf, Err(error)));
            }
            if !engine.may_start(*ticket) {
                *ticket = Some(engine.wait_in_line(*ticket, context.waker()));
                return Poll::Pending;
            }
            let Some(command) = command.take() else {
                unreachable!("a request starts once")
            };
            let number = engine.start(command);
            engine.leave_line(ticket.take());
            this.state = State::InFlight(number);
        }
        let State::InFlight(number) = this.state else {
            unreachable!("polled after it was done")
        };
        match engine.take_answer(number, context.waker()) {
            Some(answer) => {
                this.state = State::Done;
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

impl<T: Transport> Drop for Request<'_, T> {
    fn drop(&mut self) {
        match &mut self.state {
            State::Waiting(_, ticket) => self.engine.borrow_mut().leave_line(ticket.take()),
            State::InFlight(number) => self.engine.borrow_mut().abandon(*number),
            State::Done => {}
        }
    }
}
