//! Deliberate bugs for the simulator, compiled out unless the feature `mutants` is on.
//!
//! A simulator that does not notice one of these tests nothing.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A flush is acknowledged without a FLUSH of the drives.
    NoFlush,
    /// Replaced blocks are reused before the checkpoint that freed them.
    EarlyReuse,
    /// Recovery believes the journal's tail without looking at the data.
    NoTailVerify,
    /// Frames claim that they themselves are durable.
    DurableOffByOne,
    /// Overlapping changes run at the same time.
    NoOverlapRule,
    /// The record of a new or deleted volume comes after the acknowledgement.
    LateControlRecord,
}

/// Which deliberate bug is on; without the feature always none, and no code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    active: Option<Mutant>,
}

macro_rules! switch {
    ($name:ident, $variant:ident) => {
        #[cfg(feature = "mutants")]
        pub(crate) fn $name(self) -> bool {
            self.active == Some(Mutant::$variant)
        }

        #[cfg(not(feature = "mutants"))]
        pub(crate) fn $name(self) -> bool {
            false
        }
    };
}

impl Mutants {
    /// Switches one deliberate bug on.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn only(mutant: Mutant) -> Self {
        Self {
            active: Some(mutant),
        }
    }

    switch!(no_flush, NoFlush);
    switch!(early_reuse, EarlyReuse);
    switch!(no_tail_verify, NoTailVerify);
    switch!(durable_off_by_one, DurableOffByOne);
    switch!(no_overlap_rule, NoOverlapRule);
    switch!(late_control_record, LateControlRecord);
}
