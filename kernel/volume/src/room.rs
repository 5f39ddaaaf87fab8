//! How much can still be written: what the pool's figures say, until a write is told otherwise.
//!
//! The figures cannot know everything: space comes in groups, and the maps need theirs. So a write that is refused for want
//! of space counts for more than they do, and it counts until there is clearly more room, or writes get through again.

use core::cell::Cell;

use exec::Notify;
use store::{Fullness, PoolInfo, PoolState, StoreError};
use world::Disk;

use crate::{VolumeError, Volumes};

/// So many writes in a row get through before a refusal counts no more: those of a single block may find a place where
/// larger ones do not.
const SERVED_MIN: u32 = 64;
/// There is clearly more room with this part of the pool more free than at the refusal, and at most so many bytes.
const CLEARLY_MORE: (u64, u64) = (256, 64 << 20);

/// The last refusal of a write for want of space.
#[derive(Clone, Copy)]
struct Refusal {
    /// Bytes that were free.
    free_bytes: u64,
    /// Writes that got through since.
    served: u32,
}

/// What writes were told about space.
#[derive(Default)]
pub(crate) struct Room {
    last: Cell<Option<Refusal>>,
    /// The first refusal, and the first after one that counted no more.
    news: Notify,
}

impl Room {
    fn refuse(&self, free_bytes: impl FnOnce() -> u64) {
        let last = self.last.get();
        // To count what is free takes a while in a large pool, and refusals come in swarms.
        let free_bytes = last.map_or_else(free_bytes, |last| last.free_bytes);
        self.last.set(Some(Refusal {
            free_bytes,
            served: 0,
        }));
        if last.is_none() {
            self.news.notify();
        }
    }

    fn serve(&self) {
        if let Some(last) = self.last.get() {
            let served = last.served + 1;
            let last = Refusal { served, ..last };
            self.last.set((served < SERVED_MIN).then_some(last));
        }
    }

    /// Whether the next write has to expect a refusal, going by the last ones.
    fn is_refusing(&self, free_bytes: u64, size_bytes: u64) -> bool {
        let Some(last) = self.last.get() else {
            return false;
        };
        let (part, most) = CLEARLY_MORE;
        let is_over = free_bytes > last.free_bytes + (size_bytes / part).min(most);
        if is_over {
            self.last.set(None);
        }
        !is_over
    }
}

/// Bytes that can be written before writes are refused, about: none while they are.
#[must_use]
pub fn writable_bytes(pool: &PoolInfo) -> u64 {
    match (&pool.state, pool.fullness) {
        (PoolState::ReadOnly(_), _) | (_, Fullness::Full) => 0,
        _ => pool.writable_bytes,
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// Space and state of the pool. It is [`Full`](Fullness::Full) from the refusal of a write on.
    #[must_use]
    pub fn pool(&self) -> PoolInfo {
        let mut pool = self.store().pool();
        if self.room().is_refusing(pool.free_bytes, pool.size_bytes) {
            pool.fullness = Fullness::Full;
        }
        pool
    }

    /// Completes when a write is refused for want of space and none was before, in the view of [`pool`](Self::pool).
    pub async fn refused(&self) {
        self.room().news.wait().await;
    }

    /// Notes what came of a write.
    pub(crate) fn note_write<T>(&self, result: &Result<T, VolumeError>) {
        match result {
            Ok(_) => self.room().serve(),
            Err(VolumeError::Store(StoreError::NoSpace)) => {
                self.room().refuse(|| self.store().pool().free_bytes);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 256 << 20;

    #[test]
    fn a_refusal_counts_until_there_is_clearly_more_room() {
        let room = Room::default();
        assert!(!room.is_refusing(0, SIZE));
        room.refuse(|| 5 << 20);
        assert!(room.is_refusing(0, SIZE));
        assert!(room.is_refusing(6 << 20, SIZE));
        assert!(!room.is_refusing((6 << 20) + 1, SIZE));
        // Once that is told it stays so, until the next refusal.
        assert!(!room.is_refusing(5 << 20, SIZE));
        room.refuse(|| 5 << 20);
        assert!(room.is_refusing(5 << 20, SIZE));
    }

    #[test]
    fn a_write_that_finds_a_place_among_many_that_do_not_changes_nothing() {
        let room = Room::default();
        for _ in 0..4 {
            room.refuse(|| 0);
            (1..SERVED_MIN).for_each(|_| room.serve());
            assert!(room.is_refusing(0, SIZE));
        }
        room.serve();
        assert!(!room.is_refusing(0, SIZE));
    }
}
