//! Metadata contexts in the handshake: what LIST_META_CONTEXT and SET_META_CONTEXT ask for.

use super::handshake::split_string;
use super::{NbdError, take};

/// The context that tells what is allocated.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The data of [`NBD_OPT_LIST_META_CONTEXT`](super::NBD_OPT_LIST_META_CONTEXT) and
/// [`NBD_OPT_SET_META_CONTEXT`](super::NBD_OPT_SET_META_CONTEXT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// Export name, maybe empty.
    pub name: &'a str,
    queries: &'a [u8],
}

impl<'a> MetaRequest<'a> {
    /// Reads the data of the option, and checks each query: a namespace, a colon, and whatever that namespace knows.
    ///
    /// # Errors
    /// Lengths or a count that do not add up, text that is not UTF-8, no namespace, or a text that is too long.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, NbdError> {
        let name = split_string(&mut bytes)?;
        let count = take(&mut bytes)
            .map(u32::from_be_bytes)
            .ok_or(NbdError::Malformed)?;
        let queries = bytes;
        for _ in 0..count {
            let query = split_string(&mut bytes)?;
            match query.split_once(':') {
                Some((namespace, _)) if !namespace.is_empty() => {}
                _ => return Err(NbdError::Malformed),
            }
        }
        if !bytes.is_empty() {
            return Err(NbdError::Malformed);
        }
        Ok(Self { name, queries })
    }

    /// The queries.
    pub fn queries(self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.queries;
        core::iter::from_fn(move || split_string(&mut rest).ok())
    }
}
