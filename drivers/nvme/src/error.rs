//! Why a controller cannot be brought up.

use core::fmt;

use pci::PciError;

use crate::Status;

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeError {
    /// Its registers cannot be reached.
    Pci(PciError),
    /// It does not answer: every register reads as all ones.
    Gone,
    /// It has no NVM command set, or only an administrative one.
    NoNvmCommands,
    /// It does not take pages of 4 KiB.
    PageSize,
    /// Its queues are too short to be useful.
    QueueTooShort,
    /// Its doorbells lie outside its registers.
    Doorbells,
    /// It did not become ready, or disabled, within the time it promises.
    NotReady,
    /// It reports a fatal error.
    Fatal,
    /// It did not answer a command in time.
    Timeout,
    /// It refused a command (opcode) with a status.
    Refused(u8, Status),
    /// Its description of itself makes no sense.
    Identity,
    /// It grants no queue for commands.
    NoQueues,
}

impl fmt::Display for NvmeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(out),
            Self::Gone => out.write_str("the controller is gone"),
            Self::NoNvmCommands => out.write_str("the controller has no NVM command set"),
            Self::PageSize => out.write_str("the controller takes no pages of 4 KiB"),
            Self::QueueTooShort => out.write_str("the controller's queues are too short"),
            Self::Doorbells => out.write_str("the doorbells lie outside the registers"),
            Self::NotReady => out.write_str("the controller did not become ready in time"),
            Self::Fatal => out.write_str("the controller reports a fatal error"),
            Self::Timeout => out.write_str("the controller did not answer in time"),
            Self::Refused(opcode, status) => {
                write!(
                    out,
                    "the controller refused command {opcode:#04x}: {status}"
                )
            }
            Self::Identity => out.write_str("the controller's description makes no sense"),
            Self::NoQueues => out.write_str("the controller grants no queue"),
        }
    }
}

impl core::error::Error for NvmeError {}

impl From<PciError> for NvmeError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}
