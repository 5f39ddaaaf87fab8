//! Who may do what, and who did what.
//!
//! | file | what |
//! | --- | --- |
//! | [`role`] | what somebody may do |
//! | [`secret`] | what somebody knows, and its hash, which is all that is kept |
//! | [`tokens`] | who there is: made, listed, revoked, recognised |
//! | [`attempts`] | how often an address may guess |
//! | [`audit`] | what was changed, by whom, and what came of it |
//!
//! Invariants:
//! - a secret is in memory from when it is made until it was told, and never on a drive or in a log;
//! - secrets are compared by their hashes, all of them each time, in a time that does not depend on them;
//! - there is always a token that may make others;
//! - all tables are bounded.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod attempts;
pub mod audit;
mod error;
pub mod role;
pub mod secret;
pub mod tokens;

pub use audit::{Audit, Entry};
pub use error::TokenError;
pub use role::Role;
pub use secret::Secret;
pub use tokens::{Refusal, TokenInfo, Tokens, Who};
