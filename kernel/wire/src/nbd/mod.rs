//! Both halves of the NBD protocol (proto.md of the NetworkBlockDevice project): fixed newstyle handshake, options, requests, simple
//! and structured replies, metadata contexts, and its extension for extended headers. Constants carry the names of that document; all numbers are big-endian.
//!
//! ```text
//! server  "NBDMAGIC" "IHAVEOPT" flags:16                                  greeting
//! client  flags:32                                                        client flags
//! client  "IHAVEOPT" option:32 length:32 data                             any number of options
//! server  0x3e889045565a9:64 option:32 type:32 length:32 data             one or more replies to each
//!         … until GO or EXPORT_NAME succeeds; then transmission:
//! client  0x25609513:32 flags:16 type:16 cookie:64 offset:64 length:32    request, then the payload of a WRITE
//! server  0x67446698:32 error:32 cookie:64                                simple reply, then the data of a READ
//! server  0x668e33ef:32 flags:16 type:16 cookie:64 length:32              structured reply chunk, then its payload
//!         … or, with extended headers, only:
//! client  0x21e41c71:32 flags:16 type:16 cookie:64 offset:64 length:64    request, then the payload if a flag says so
//! server  0x6e8a278c:32 flags:16 type:16 cookie:64 offset:64 length:64    reply chunk, then its payload
//! ```

mod chunk;
mod client;
mod handshake;
mod meta;
mod reply;
#[cfg(test)]
mod tests;
mod transmission;

pub use chunk::*;
pub use client::*;
pub use handshake::*;
pub use meta::*;
pub use reply::*;
pub use transmission::*;

use core::fmt;

/// The most bytes of an export name.
pub const NBD_MAX_STRING: usize = 4096;

/// Why bytes are not what the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NbdError {
    /// A magic number is wrong: the peer speaks something else or lost step. Only closing helps.
    BadMagic,
    /// The client set handshake flags that the server did not offer. Only closing helps.
    UnknownFlags,
    /// The data of an option, of its reply or of a chunk does not have the structure that it should have.
    Malformed,
    /// A name is longer than [`NBD_MAX_STRING`].
    NameTooLong,
}

impl fmt::Display for NbdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadMagic => "wrong magic number",
            Self::UnknownFlags => "unknown handshake flags",
            Self::Malformed => "malformed data",
            Self::NameTooLong => "name too long",
        })
    }
}

impl core::error::Error for NbdError {}

/// Takes the first `N` bytes off `bytes`, or `None` when there are fewer.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    *bytes = tail;
    Some(*head)
}
