//! What a snapshot holds: for each block one state, or several of which a reader will find out one.

use std::collections::BTreeMap;

use super::Operation;
use super::history::{History, SECTORS, Sight, State};
use super::verdict::Verdict;

/// A block of a snapshot.
#[derive(Clone, Debug)]
pub enum Frozen {
    /// This.
    Known(State),
    /// One of the states of a history, from this position on: requests were under way when it was taken.
    Open(Box<History>, usize),
    /// Requests had failed half-way: whatever is seen first.
    Unknown,
}

/// The blocks of a snapshot; those that are not here were never written.
pub type Contents = BTreeMap<u64, Frozen>;

impl Frozen {
    /// What it holds, if that is certain.
    pub fn state(&self) -> Option<State> {
        match self {
            Self::Known(state) => Some(*state),
            Self::Open(..) | Self::Unknown => None,
        }
    }

    /// Whether it may look so.
    pub fn may_be(&self, sight: &Sight, operations: &[Operation]) -> bool {
        match self {
            Self::Known(state) => sight.fits(state),
            Self::Open(history, floor) => history.matching(sight, *floor, operations).is_some(),
            Self::Unknown => true,
        }
    }

    /// Compares with what a reader saw; what was open is decided by that, and by `verdict` for all blocks together.
    ///
    /// # Errors
    /// In words, when it cannot hold that.
    pub fn check(
        &mut self,
        sight: &Sight,
        operations: &[Operation],
        verdict: &mut Verdict,
    ) -> Result<(), String> {
        match self {
            Self::Known(state) if sight.fits(state) => Ok(()),
            Self::Known(state) => Err(format!("{state:?}")),
            Self::Open(history, floor) => {
                let Some(matching) = history.matching(sight, *floor, operations) else {
                    let states = history.describe(operations);
                    return Err(format!("a state from {floor} on of\n{states}"));
                };
                verdict.weigh(history, &matching, operations, "of a snapshot");
                if sight.is_whole() {
                    *self = Self::Known(matching.state);
                }
                Ok(())
            }
            Self::Unknown => {
                if sight.is_whole() {
                    *self = Self::Known(sight.state());
                }
                Ok(())
            }
        }
    }
}

/// The sectors of a block that a volume of this size has.
pub fn mask_within(size_bytes: u64, block: u64) -> u8 {
    let first = block * SECTORS as u64;
    let sectors = (size_bytes / 512).saturating_sub(first).min(8);
    u8::MAX
        .checked_shr(8 - u32::try_from(sectors).unwrap_or(8))
        .unwrap_or(0)
}
