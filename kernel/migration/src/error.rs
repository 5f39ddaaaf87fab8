//! Why a volume does not move.

use alloc::string::String;
use core::fmt;

use store::StoreError;
use upkeep::JobsError;
use volume::VolumeError;

/// Why a volume does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// The request is wrong: there is no such peer.
    NoPeer,
    /// The request is wrong: the volume is not this appliance's, or is being moved already.
    NotOwner,
    /// The request is wrong: the volume was not offered to anybody.
    NotOffered,
    /// The request is wrong: the volume is neither offered nor given to anybody.
    NotGiven,
    /// The other appliance has not said yet that it is prepared. Nothing has changed.
    NotPrepared,
    /// It is done here, and the other appliance has not answered yet; it is told as soon as it can be.
    Unconfirmed,
    /// Too many copies of it are still here.
    TooManyCopies,
    /// Its snapshots are still coming from where it was.
    PastComing,
    /// The appliance is starting.
    NotNow,
    /// The other appliance refuses, and why.
    Refused(String),
    /// The volume.
    Volume(VolumeError),
}

impl fmt::Display for MoveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeer => out.write_str("there is no such peer; pair the two appliances first"),
            Self::NotOwner => out.write_str("it is not this appliance's, or it is being moved"),
            Self::NotOffered => out.write_str("it was not offered to anybody; migrate it first"),
            Self::NotGiven => out.write_str("it was neither offered nor given to anybody"),
            Self::NotPrepared => out.write_str(
                "the other appliance has not said yet that it is prepared; nothing has changed",
            ),
            Self::Unconfirmed => out.write_str(
                "the other appliance does not answer; it is told as soon as it can be reached",
            ),
            Self::TooManyCopies => out.write_str(
                "too many copies of it are here, for their snapshots; delete what is not needed",
            ),
            Self::PastComing => out.write_str(
                "its own snapshots are still coming from where it was; wait for them, or move it without",
            ),
            Self::NotNow => out.write_str("the appliance is starting"),
            Self::Refused(why) => write!(out, "the other appliance refuses: {why}"),
            Self::Volume(error) => error.fmt(out),
        }
    }
}

impl core::error::Error for MoveError {}

impl From<VolumeError> for MoveError {
    fn from(error: VolumeError) -> Self {
        Self::Volume(error)
    }
}

impl From<StoreError> for MoveError {
    fn from(error: StoreError) -> Self {
        Self::Volume(error.into())
    }
}

impl From<JobsError> for MoveError {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Store(error) => error.into(),
            // A migration is a new job.
            _ => Self::NotNow,
        }
    }
}
