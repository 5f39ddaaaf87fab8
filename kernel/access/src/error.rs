//! Why a token was not made or revoked.

use core::fmt;

use store::StoreError;

use crate::tokens::TOKENS_MAX;

/// Why a token was not made or revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The request is wrong: not a name.
    BadName,
    /// The request is wrong: the name is taken.
    NameTaken,
    /// The request is wrong: there is no such token.
    NoToken,
    /// It comes from the configuration, and goes when it is taken out there.
    Configured,
    /// Without it nobody could make tokens any more. Make another one for an admin first.
    LastAdmin,
    /// There are [`TOKENS_MAX`] already.
    TooMany,
    /// There is no pool to keep it in.
    NoPool,
    /// The store refused or failed.
    Store(StoreError),
}

impl fmt::Display for TokenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => StoreError::BadName.fmt(out),
            Self::NameTaken => StoreError::NameTaken.fmt(out),
            Self::NoToken => out.write_str("no such token"),
            Self::Configured => {
                out.write_str("this token comes from the configuration; take it out there")
            }
            Self::LastAdmin => {
                out.write_str("nobody could give access any more; make another admin token first")
            }
            Self::TooMany => write!(out, "there are {TOKENS_MAX} tokens already"),
            Self::NoPool => out.write_str("there is no pool to keep tokens in"),
            Self::Store(error) => error.fmt(out),
        }
    }
}

impl core::error::Error for TokenError {}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
