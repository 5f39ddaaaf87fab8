//! How a drive has been doing: what it did, how long that took, and whether it does what it should.
//!
//! A drive that is gone or silent has *failed*. One that answers, but with errors, is *failing*: its last write or flush was
//! refused, or its last few reads were. A single block that cannot be read makes no drive failing.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;
use core::time::Duration;

use serve::api::DriveState;
use volume::{Meters, Operation};
use world::DiskError;

/// Reads in a row that fail before a drive is failing: one may be of a bad block.
const READS_MIN: u32 = 3;
/// What the pool cannot do without, and how many in a row may fail.
const NEEDED: [(Operation, u32); 3] = [
    (Operation::Write, 1),
    (Operation::Flush, 1),
    (Operation::Read, READS_MIN),
];

/// The counters of one drive.
#[derive(Default)]
pub struct Health {
    meters: Rc<Meters>,
    errors: Cell<u64>,
    /// Failures of each operation since its last success, and the last of them.
    in_vain: [Cell<(u32, Option<DiskError>)>; Operation::ALL.len()],
    /// Set when it does not come back.
    failure: Cell<Option<DiskError>>,
}

impl Health {
    /// Notes an operation that ended.
    pub fn note(
        &self,
        operation: Operation,
        bytes: u64,
        took: Duration,
        result: Result<(), DiskError>,
    ) {
        let in_vain = &self.in_vain[operation as usize];
        match result {
            Ok(()) => {
                self.meters.note(operation, bytes, took);
                in_vain.set((0, None));
            }
            Err(error) => {
                self.errors.set(self.errors.get() + 1);
                in_vain.set((in_vain.get().0.saturating_add(1), Some(error)));
                if matches!(error, DiskError::Gone | DiskError::Timeout) {
                    self.failure.set(Some(error));
                }
            }
        }
    }

    /// What it did, failed operations left out.
    #[must_use]
    pub fn meters(&self) -> &Rc<Meters> {
        &self.meters
    }

    /// Failed operations since it was opened.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// State and reason, for people, of a drive that is not as it should be.
    #[must_use]
    pub fn trouble(&self) -> Option<(DriveState, String)> {
        let errors = match self.errors() {
            1 => "1 operation failed".into(),
            many => format!("{many} operations failed"),
        };
        if let Some(failure) = self.failure.get() {
            return Some((DriveState::Failed, format!("{failure}; {errors}")));
        }
        NEEDED.into_iter().find_map(|(operation, least)| {
            let (count, last) = self.in_vain[operation as usize].get();
            let last = last.filter(|_| count >= least)?;
            let what = operation.name();
            let why = format!("its last {what} failed: {last}; {errors} since the start");
            Some((DriveState::Failing, why))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(health: &Health, operation: Operation, result: Result<(), DiskError>) {
        health.note(operation, 4096, Duration::from_micros(100), result);
    }

    fn state(health: &Health) -> Option<DriveState> {
        health.trouble().map(|(state, _)| state)
    }

    #[test]
    fn a_drive_that_refuses_writes_is_failing_until_it_takes_one() {
        let health = Health::default();
        assert_eq!(health.trouble(), None);
        note(&health, Operation::Write, Err(DiskError::Media));
        let (state_now, why) = health.trouble().unwrap();
        assert_eq!(state_now, DriveState::Failing);
        assert_eq!(
            why,
            "its last write failed: unreadable or unwritable blocks; 1 operation failed since the start"
        );
        note(&health, Operation::Read, Ok(()));
        note(&health, Operation::Flush, Ok(()));
        assert_eq!(
            state(&health),
            Some(DriveState::Failing),
            "writes still fail"
        );
        note(&health, Operation::Write, Ok(()));
        assert_eq!((state(&health), health.errors()), (None, 1));
    }

    #[test]
    fn one_bad_block_makes_no_drive_failing_but_nothing_else_does() {
        let health = Health::default();
        for _ in 0..READS_MIN - 1 {
            note(&health, Operation::Read, Err(DiskError::Media));
            assert_eq!(state(&health), None);
        }
        note(&health, Operation::Read, Ok(()));
        note(&health, Operation::Discard, Err(DiskError::Device(2)));
        assert_eq!(state(&health), None, "nobody needs discards");
        for _ in 0..READS_MIN {
            note(&health, Operation::Read, Err(DiskError::Media));
        }
        assert_eq!(state(&health), Some(DriveState::Failing));
        assert_eq!(health.errors(), u64::from(2 * READS_MIN));
    }

    #[test]
    fn a_drive_that_is_gone_has_failed_for_good() {
        let health = Health::default();
        note(&health, Operation::Read, Err(DiskError::Gone));
        note(&health, Operation::Read, Ok(()));
        assert_eq!(state(&health), Some(DriveState::Failed));
    }

    #[test]
    fn only_what_was_done_is_measured() {
        let health = Health::default();
        note(&health, Operation::Read, Ok(()));
        note(&health, Operation::Read, Err(DiskError::Media));
        let reads = health.meters().of(Operation::Read);
        assert_eq!((reads.requests(), reads.bytes()), (1, 4096));
        assert_eq!(reads.nanos(), 100_000);
    }
}
