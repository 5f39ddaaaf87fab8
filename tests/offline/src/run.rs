//! The loop under a store in this process.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use exec::Exec;
use store::Environment;
use world::{Clock, Instant, Pool};

use crate::Random;

/// Rounds of the executor in which a story must end; long ones take some hundred thousand.
const ROUNDS_MAX: u64 = 50_000_000;
/// Pages for the store's own use: 8 MiB.
const PAGES: usize = 2048;
/// 2026-01-01.
const FIRST_DAY_NANOS: u64 = 1_767_225_600_000_000_000;

/// A story that does not end: everything waits for something that never comes, or it goes round in circles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

impl std::fmt::Display for Stuck {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("the store does not come to an end")
    }
}

impl std::error::Error for Stuck {}

/// Time that passes only when everything waits for it.
#[derive(Debug, Default)]
struct JumpingClock(Cell<u64>);

impl Clock for JumpingClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        Some(FIRST_DAY_NANOS + self.0.get())
    }
}

/// Runs the story that `begin` makes of an environment to its end, and then drops whatever still runs in the
/// background: as a power cut does. The same story and `seed` do the same.
///
/// # Errors
/// [`Stuck`].
pub fn run<T, S>(seed: u64, begin: impl FnOnce(Environment) -> S) -> Result<T, Stuck>
where
    T: 'static,
    S: Future<Output = T> + 'static,
{
    let clock = Rc::new(JumpingClock::default());
    let exec = Exec::new(clock.clone());
    let story = begin(Environment {
        exec: exec.clone(),
        entropy: Rc::new(Random::new(seed)),
        pool: Pool::new(PAGES),
    });
    let slot = Rc::new(RefCell::new(None));
    let result = slot.clone();
    exec.spawn(async move {
        let value = story.await;
        *result.borrow_mut() = Some(value);
    });
    let mut rounds = 0;
    while slot.borrow().is_none() && rounds < ROUNDS_MAX {
        rounds += 1;
        if exec.run_ready() {
            // Work takes time too, so that who yields sees it pass.
            clock.0.set(clock.0.get() + 1000);
            continue;
        }
        match exec.next_deadline() {
            Some(next) => clock.0.set(next.as_nanos().max(clock.0.get())),
            None => break,
        }
    }
    exec.clear();
    slot.take().ok_or(Stuck)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn an_hour_passes_at_once_and_a_dead_end_is_told() {
        let slept = run(1, |environment| async move {
            environment.exec.sleep(Duration::from_secs(3600)).await;
            environment.exec.now().as_nanos()
        });
        assert!(slept.unwrap() >= 3_600_000_000_000);
        let stuck: Result<(), _> = run(1, |_| std::future::pending());
        assert_eq!(stuck, Err(Stuck));
    }
}
