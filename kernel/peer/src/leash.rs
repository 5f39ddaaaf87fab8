//! How a channel ends: once, for one reason, which all who wait hear at once.

use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;

use exec::{Exec, Notify};
use futures_util::future::{Either, select};

use crate::PeerError;

/// What a channel hangs on; whoever has it can end the channel.
#[derive(Default)]
pub struct Leash {
    end: Cell<Option<PeerError>>,
    changed: Notify,
}

impl Leash {
    /// Ends the channel, if it has not ended yet; returns why it ended.
    pub fn cut(&self, reason: PeerError) -> PeerError {
        if let Some(first) = self.end.get() {
            return first;
        }
        self.end.set(Some(reason));
        self.changed.notify();
        reason
    }

    /// Fails when the channel has ended.
    pub fn check(&self) -> Result<(), PeerError> {
        self.end.get().map_or(Ok(()), Err)
    }

    /// Wakes who watches it.
    pub fn stir(&self) {
        self.changed.notify();
    }

    /// Completes when it is cut or stirred.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.wait()
    }

    /// Runs `future` as long as the channel has not ended, and for at most `limit`.
    pub async fn hold<T>(
        &self,
        exec: &Exec,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, PeerError> {
        let (mut future, end) = (pin!(future), exec.now() + limit);
        loop {
            self.check()?;
            let over = pin!(exec.sleep_until(end));
            match select(future.as_mut(), select(pin!(self.changed.wait()), over)).await {
                Either::Left((value, _)) => return Ok(value),
                Either::Right((Either::Left(_), _)) => {}
                Either::Right((Either::Right(_), _)) => return Err(PeerError::TimedOut),
            }
        }
    }
}
