//! Why a channel did not come about or ended, and why a peer was not paired or changed.

use core::fmt;

use net::NetError;
use store::StoreError;

use crate::peers::PEERS_MAX;
use crate::token::TOKENS_MAX;

/// Why there is no channel, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// Nobody answers there. Trying again later may help.
    Unreachable,
    /// It answers, and does not want to speak to this appliance: it does not know it, or has too many connections. While
    /// pairing: the token is wrong, was used, or is too old.
    Refused,
    /// This appliance does not know the other one (any more).
    NotPaired,
    /// What the other side said is wrong: it does not have the key that it should have, or somebody changed what it said.
    Protocol,
    /// The connection ended, and the other side did not mean it to. Trying again may help.
    Lost,
    /// The other side stopped answering. Trying again may help.
    TimedOut,
}

impl fmt::Display for PeerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unreachable => "the other appliance cannot be reached",
            Self::Refused => "the other appliance refuses this one",
            Self::NotPaired => "the other appliance is not paired with this one",
            Self::Protocol => {
                "the other side is not the appliance that it should be, or says nonsense"
            }
            Self::Lost => "the connection to the other appliance was lost",
            Self::TimedOut => "the other appliance stopped answering",
        })
    }
}

impl core::error::Error for PeerError {}

impl From<NetError> for PeerError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Closed => Self::Lost,
            NetError::TimedOut => Self::TimedOut,
            NetError::Unreachable => Self::Unreachable,
        }
    }
}

/// Why a peer was not paired, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeersError {
    /// The request is wrong: not a pairing token.
    BadToken,
    /// The request is wrong: the other side is this appliance.
    Itself,
    /// There is no such peer.
    NoPeer,
    /// The other appliance has the name of this one, or of another peer. Names are in the configuration.
    NameTaken,
    /// The other appliance is known already, by another name. Remove that one first.
    KnownAlready,
    /// There are [`PEERS_MAX`] peers already.
    TooMany,
    /// There are [`TOKENS_MAX`] pairing tokens already.
    TooManyTokens,
    /// The other appliance could not take this one as a peer: there the name is taken, or this one known by another name.
    TakenThere,
    /// The other appliance could not take this one as a peer: it has too many, or could not keep it.
    FailedThere,
    /// The handshake did not come about.
    Handshake(PeerError),
    /// The store refused or failed.
    Store(StoreError),
}

impl fmt::Display for PeersError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadToken => out.write_str("not a pairing token"),
            Self::Itself => out.write_str("this is the appliance itself"),
            Self::NoPeer => out.write_str("no such peer"),
            Self::NameTaken => out.write_str(
                "the other appliance has the name of this one or of another peer; give it another one",
            ),
            Self::KnownAlready => {
                out.write_str("the other appliance is a peer already, by another name")
            }
            Self::TooMany => write!(out, "there are {PEERS_MAX} peers already"),
            Self::TooManyTokens => write!(
                out,
                "there are {TOKENS_MAX} pairing tokens already; use them or wait until they expire"
            ),
            Self::TakenThere => {
                out.write_str("the other appliance has a peer of this name, or knows this one by another")
            }
            Self::FailedThere => out.write_str("the other appliance cannot take more peers"),
            Self::Handshake(PeerError::Refused) => out.write_str(
                "the other appliance refuses: the token is wrong, was used, or is too old, or there were too many attempts",
            ),
            Self::Handshake(error) => error.fmt(out),
            Self::Store(error) => error.fmt(out),
        }
    }
}

impl core::error::Error for PeersError {}

impl From<PeerError> for PeersError {
    fn from(error: PeerError) -> Self {
        Self::Handshake(error)
    }
}

impl From<StoreError> for PeersError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
