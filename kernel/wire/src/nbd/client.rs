//! The client's half of the handshake: what it reads of the server's bytes, and what it asks.

use alloc::vec::Vec;

use super::{
    ClientFlags, IHAVEOPT, NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES, NBD_INFO_BLOCK_SIZE,
    NBD_INFO_EXPORT, NBD_MAX_STRING, NBD_REP_MAGIC, NBDMAGIC, NbdError, OptionReplyHead, take,
};

/// The server's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// It answers options that it does not know.
    pub fixed_newstyle: bool,
    /// It can leave out the zeros after EXPORT_NAME.
    pub no_zeroes: bool,
}

impl Greeting {
    /// Bytes on the wire.
    pub const LEN: usize = 18;

    /// Reads the greeting; flags that are not known here are none to answer.
    ///
    /// # Errors
    /// Wrong magic numbers; those of the old style are wrong, too.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        let first = take(&mut rest).map(u64::from_be_bytes);
        let second = take(&mut rest).map(u64::from_be_bytes);
        let flags = take(&mut rest).map(u16::from_be_bytes);
        match (first, second, flags) {
            (Some(NBDMAGIC), Some(IHAVEOPT), Some(flags)) => Ok(Self {
                fixed_newstyle: flags & NBD_FLAG_FIXED_NEWSTYLE != 0,
                no_zeroes: flags & NBD_FLAG_NO_ZEROES != 0,
            }),
            _ => Err(NbdError::BadMagic),
        }
    }
}

impl ClientFlags {
    /// The bytes of the flags.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let flag = |is_set, flag: u16| if is_set { u32::from(flag) } else { 0 };
        let flags = flag(self.fixed_newstyle, NBD_FLAG_FIXED_NEWSTYLE)
            | flag(self.no_zeroes, NBD_FLAG_NO_ZEROES);
        flags.to_be_bytes()
    }
}

impl OptionReplyHead {
    /// Reads the head of an option reply.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        let mut fields = || {
            let magic = take(&mut rest).map(u64::from_be_bytes)?;
            let head = Self {
                option: take(&mut rest).map(u32::from_be_bytes)?,
                reply: take(&mut rest).map(u32::from_be_bytes)?,
                len: take(&mut rest).map(u32::from_be_bytes)?,
            };
            (magic == NBD_REP_MAGIC).then_some(head)
        };
        fields().ok_or(NbdError::BadMagic)
    }
}

/// The data of INFO and GO: an export's name and which `NBD_INFO_*` are wanted.
///
/// # Panics
/// When the name is longer than [`NBD_MAX_STRING`], or more is wanted than there is.
#[must_use]
pub fn info_request(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, name);
    let count = u16::try_from(wanted.len()).expect("few kinds of information");
    out.extend(count.to_be_bytes());
    for info in wanted {
        out.extend(info.to_be_bytes());
    }
    out
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT: an export's name and queries.
///
/// # Panics
/// When a text is longer than [`NBD_MAX_STRING`].
#[must_use]
pub fn meta_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, name);
    let count = u32::try_from(queries.len()).expect("few queries");
    out.extend(count.to_be_bytes());
    for query in queries {
        put_string(&mut out, query);
    }
    out
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    assert!(string.len() <= NBD_MAX_STRING, "a text of {}", string.len());
    let len = u32::try_from(string.len()).expect("checked above");
    out.extend(len.to_be_bytes());
    out.extend(string.as_bytes());
}

/// Size and flags of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its bytes.
    pub size_bytes: u64,
    /// `NBD_FLAG_*` of the transmission.
    pub flags: u16,
}

impl ExportInfo {
    /// Bytes of the whole answer to EXPORT_NAME, but for the zeros.
    pub const LEN: usize = 10;
    /// The zeros behind it, unless both sides agreed to leave them out.
    pub const ZEROES: usize = 124;

    /// Reads the answer to EXPORT_NAME.
    #[must_use]
    pub fn decode(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, flags @ ..] = bytes;
        Self {
            size_bytes: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            flags: u16::from_be_bytes(flags),
        }
    }
}

/// One piece of information about an export, the data of an `NBD_REP_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info {
    /// [`NBD_INFO_EXPORT`].
    Export(ExportInfo),
    /// [`NBD_INFO_BLOCK_SIZE`], in bytes.
    BlockSize {
        /// What offsets and lengths must be multiples of.
        minimum: u32,
        /// What they are best multiples of.
        preferred: u32,
        /// The most bytes of one READ or WRITE.
        payload_max: u32,
    },
    /// Something else, of this kind.
    Other(u16),
}

impl Info {
    /// The most bytes of one whose contents are read.
    pub const LEN_MAX: usize = 14;

    /// Reads the data of the reply; the first bytes are enough where it is longer than [`LEN_MAX`](Self::LEN_MAX), and
    /// one more.
    ///
    /// # Errors
    /// A length that is not that of its kind.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, NbdError> {
        let kind = take(&mut bytes).map(u16::from_be_bytes);
        match kind.ok_or(NbdError::Malformed)? {
            NBD_INFO_EXPORT => match bytes.try_into() {
                Ok(bytes) => Ok(Self::Export(ExportInfo::decode(bytes))),
                Err(_) => Err(NbdError::Malformed),
            },
            NBD_INFO_BLOCK_SIZE if bytes.len() == 12 => {
                let mut number = || take(&mut bytes).map(u32::from_be_bytes);
                match (number(), number(), number()) {
                    (Some(minimum), Some(preferred), Some(payload_max)) => Ok(Self::BlockSize {
                        minimum,
                        preferred,
                        payload_max,
                    }),
                    _ => Err(NbdError::Malformed),
                }
            }
            NBD_INFO_BLOCK_SIZE => Err(NbdError::Malformed),
            other => Ok(Self::Other(other)),
        }
    }
}

/// A metadata context that the server gave an id, the data of an `NBD_REP_META_CONTEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaContext<'a> {
    /// What BLOCK_STATUS calls it.
    pub id: u32,
    /// Its name; bytes, as only those that were asked for matter.
    pub name: &'a [u8],
}

impl<'a> MetaContext<'a> {
    /// Reads the data of the reply.
    ///
    /// # Errors
    /// No id.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, NbdError> {
        let id = take(&mut bytes).map(u32::from_be_bytes);
        let id = id.ok_or(NbdError::Malformed)?;
        Ok(Self { id, name: bytes })
    }
}
