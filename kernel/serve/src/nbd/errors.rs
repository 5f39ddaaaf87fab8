//! From errors of this house to those of the protocol, and why a connection ends.

use core::fmt;

use net::NetError;
use volume::{StoreError, VolumeError};
use wire::nbd::*;

/// The protocol's number for `error` as the answer to `command` (`NBD_CMD_*`).
pub(super) fn errno(error: VolumeError, command: u16) -> Errno {
    match error {
        VolumeError::OutOfRange => match command {
            NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES => NBD_ENOSPC,
            _ => NBD_EINVAL,
        },
        VolumeError::Unaligned => NBD_EINVAL,
        // A pool that became read-only cannot make anything durable; only a write is a matter of permission.
        VolumeError::Store(StoreError::ReadOnly) if command == NBD_CMD_FLUSH => NBD_EIO,
        VolumeError::ReadOnly
        | VolumeError::NotYet
        | VolumeError::Elsewhere
        | VolumeError::Store(StoreError::ReadOnly) => NBD_EPERM,
        VolumeError::Store(StoreError::NoSpace) => NBD_ENOSPC,
        // A context's snapshot is gone; the export is still there.
        VolumeError::NoSnapshot if command == NBD_CMD_BLOCK_STATUS => NBD_EINVAL,
        VolumeError::Deleted
        | VolumeError::RolledBack
        | VolumeError::NoVolume
        | VolumeError::NoSnapshot
        | VolumeError::Store(StoreError::Closed) => NBD_ESHUTDOWN,
        // Errors of the catalog, which no request of a client can bring about.
        VolumeError::NoDefault
        | VolumeError::NameTaken
        | VolumeError::BadName
        | VolumeError::BadSize
        | VolumeError::Shrinks(_)
        | VolumeError::NamedTwice
        | VolumeError::BadNetwork
        | VolumeError::BadLimit
        | VolumeError::NotAllowed
        | VolumeError::BadOrigin
        | VolumeError::Offered
        | VolumeError::Needed
        | VolumeError::Attached(_) => NBD_EINVAL,
        VolumeError::Origin(_) | VolumeError::Store(_) => NBD_EIO,
    }
}

/// Why a connection ended other than by the client's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client broke the protocol.
    Protocol(NbdError),
    /// A payload or an option is larger than anything announced.
    TooLarge,
    /// The client asked by a way without error replies for what is not there.
    NoExport,
    /// It sent or took nothing for too long.
    Stalled,
    /// What it is attached to was deleted or rolled back.
    Ended(VolumeError),
    /// The stream failed.
    Net(NetError),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(out),
            Self::TooLarge => out.write_str("too large"),
            Self::NoExport => out.write_str("no such export"),
            Self::Stalled => out.write_str("stalled"),
            Self::Ended(why) => why.fmt(out),
            Self::Net(error) => error.fmt(out),
        }
    }
}

impl From<NbdError> for Broken {
    fn from(error: NbdError) -> Self {
        Self::Protocol(error)
    }
}

impl From<NetError> for Broken {
    fn from(error: NetError) -> Self {
        Self::Net(error)
    }
}
