//! The client's half of the replies: heads, and what stands before (or instead of) the data of a chunk.

use super::{
    Errno, Headers, NBD_EXTENDED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_SIMPLE_REPLY_MAGIC,
    NBD_STRUCTURED_REPLY_MAGIC, NbdError, take,
};

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply; the data of a READ follows a success.
    Simple {
        /// What failed, if anything.
        error: Option<Errno>,
        /// That of the request.
        cookie: u64,
    },
    /// A chunk, structured or extended; its payload follows.
    Chunk(Chunk),
}

/// The head of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whether it is the last one of its reply.
    pub is_last: bool,
    /// `NBD_REPLY_TYPE_*`.
    pub kind: u16,
    /// That of the request.
    pub cookie: u64,
    /// Offset of the request; only extended ones say it.
    pub offset: Option<u64>,
    /// Bytes of payload that follow.
    pub len: u64,
}

impl Reply {
    /// The most bytes of a head.
    pub const LEN_MAX: usize = 32;

    /// Bytes of the head that begins with this magic number.
    ///
    /// # Errors
    /// One that does not begin a reply of this form.
    pub fn len(headers: Headers, magic: [u8; 4]) -> Result<usize, NbdError> {
        match (u32::from_be_bytes(magic), headers) {
            (NBD_SIMPLE_REPLY_MAGIC, Headers::Simple | Headers::Structured) => Ok(16),
            (NBD_STRUCTURED_REPLY_MAGIC, Headers::Structured) => Ok(20),
            (NBD_EXTENDED_REPLY_MAGIC, Headers::Extended) => Ok(Self::LEN_MAX),
            _ => Err(NbdError::BadMagic),
        }
    }

    /// Reads a head.
    ///
    /// # Errors
    /// A wrong magic number, and a length that is not [`len`](Self::len).
    pub fn decode(headers: Headers, mut bytes: &[u8]) -> Result<Self, NbdError> {
        let len = bytes.len();
        let rest = &mut bytes;
        let magic = take(rest).ok_or(NbdError::Malformed)?;
        if len != Self::len(headers, magic)? {
            return Err(NbdError::Malformed);
        }
        let reply = match u32::from_be_bytes(magic) {
            NBD_SIMPLE_REPLY_MAGIC => simple(rest),
            magic => chunk(rest, magic == NBD_EXTENDED_REPLY_MAGIC).map(Self::Chunk),
        };
        reply.ok_or(NbdError::Malformed)
    }
}

fn simple(rest: &mut &[u8]) -> Option<Reply> {
    let error = take(rest).map(u32::from_be_bytes)?;
    Some(Reply::Simple {
        error: (error != 0).then_some(Errno(error)),
        cookie: take(rest).map(u64::from_be_bytes)?,
    })
}

fn chunk(rest: &mut &[u8], is_extended: bool) -> Option<Chunk> {
    let flags = take(rest).map(u16::from_be_bytes)?;
    let kind = take(rest).map(u16::from_be_bytes)?;
    let cookie = take(rest).map(u64::from_be_bytes)?;
    let (offset, len) = if is_extended {
        let offset = take(rest).map(u64::from_be_bytes)?;
        (Some(offset), take(rest).map(u64::from_be_bytes)?)
    } else {
        (None, take(rest).map(u32::from_be_bytes)?.into())
    };
    Some(Chunk {
        is_last: flags & NBD_REPLY_FLAG_DONE != 0,
        kind,
        cookie,
        offset,
        len,
    })
}

/// The whole payload of a chunk [`NBD_REPLY_TYPE_OFFSET_HOLE`](super::NBD_REPLY_TYPE_OFFSET_HOLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where the zeros begin.
    pub offset: u64,
    /// How many there are.
    pub len: u32,
}

impl Hole {
    /// Bytes on the wire.
    pub const LEN: usize = 12;

    /// Reads the payload.
    #[must_use]
    pub fn decode(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, len @ ..] = bytes;
        Self {
            offset: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_be_bytes(len),
        }
    }
}

/// What the payload of a chunk of an error begins with; the message follows, and then what its kind adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorHead {
    /// The error, never 0.
    pub error: Errno,
    /// Bytes of the message.
    pub message_len: u16,
}

impl ErrorHead {
    /// Bytes on the wire.
    pub const LEN: usize = 6;

    /// Reads the beginning of the payload.
    ///
    /// # Errors
    /// An error that is none.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let [a, b, c, d, len @ ..] = bytes;
        match u32::from_be_bytes([a, b, c, d]) {
            0 => Err(NbdError::Malformed),
            error => Ok(Self {
                error: Errno(error),
                message_len: u16::from_be_bytes(len),
            }),
        }
    }
}

/// What the payload of a chunk of BLOCK_STATUS begins with; [`Descriptor`]s follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusHead {
    /// Id of the context.
    pub id: u32,
    /// Descriptors that follow, at least one.
    pub count: u64,
}

impl StatusHead {
    /// The most bytes of one.
    pub const LEN_MAX: usize = 8;

    /// Its bytes on the wire.
    #[must_use]
    pub fn len(headers: Headers) -> usize {
        if headers == Headers::Extended { 8 } else { 4 }
    }

    /// Reads the beginning of a payload of `payload_len` bytes.
    ///
    /// # Errors
    /// Fewer bytes than [`len`](Self::len), no descriptor, or a length or count that does not fit the other.
    pub fn decode(headers: Headers, mut bytes: &[u8], payload_len: u64) -> Result<Self, NbdError> {
        let mut number = || take(&mut bytes).map(u32::from_be_bytes);
        let id = number().ok_or(NbdError::Malformed)?;
        let descriptor = Descriptor::len(headers) as u64;
        let rest = payload_len.checked_sub(Self::len(headers) as u64);
        let count = match rest {
            Some(rest) if rest > 0 && rest.is_multiple_of(descriptor) => rest / descriptor,
            _ => return Err(NbdError::Malformed),
        };
        if headers == Headers::Extended && number().map(u64::from) != Some(count) {
            return Err(NbdError::Malformed);
        }
        Ok(Self { id, count })
    }
}

/// What a context says about a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes, at least one.
    pub len: u64,
    /// What the context says, `NBD_STATE_*` for `base:allocation`.
    pub flags: u64,
}

impl Descriptor {
    /// The most bytes of one.
    pub const LEN_MAX: usize = 16;

    /// Its bytes on the wire.
    #[must_use]
    pub fn len(headers: Headers) -> usize {
        if headers == Headers::Extended { 16 } else { 8 }
    }

    /// Reads one at the beginning of `bytes`.
    ///
    /// # Errors
    /// Fewer bytes than [`len`](Self::len), or a run of none.
    pub fn decode(headers: Headers, mut bytes: &[u8]) -> Result<Self, NbdError> {
        let mut number = || match headers {
            Headers::Extended => take(&mut bytes).map(u64::from_be_bytes),
            _ => take(&mut bytes).map(u32::from_be_bytes).map(u64::from),
        };
        match (number(), number()) {
            (Some(len @ 1..), Some(flags)) => Ok(Self { len, flags }),
            _ => Err(NbdError::Malformed),
        }
    }
}
