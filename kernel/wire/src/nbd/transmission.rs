//! Requests, compact and extended.

use super::{NbdError, take};

/// Magic of a compact request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of an extended request.
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;

/// Reads.
pub const NBD_CMD_READ: u16 = 0;
/// Writes the payload that follows the request.
pub const NBD_CMD_WRITE: u16 = 1;
/// Ends the session; has no reply.
pub const NBD_CMD_DISC: u16 = 2;
/// Makes completed writes durable.
pub const NBD_CMD_FLUSH: u16 = 3;
/// Tells that contents are not needed.
pub const NBD_CMD_TRIM: u16 = 4;
/// Tells that a range will be read soon.
pub const NBD_CMD_CACHE: u16 = 5;
/// Writes zeros without a payload.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Tells of a range what the negotiated metadata contexts say.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

/// Durable before the reply.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Zeros that use space.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One content chunk only.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// One extent for each context.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Zeros only if that is faster than writing them.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// The length is that of a payload that follows; only in extended requests.
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// An error number of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

/// Not permitted: the export is read-only.
pub const NBD_EPERM: Errno = Errno(1);
/// Input or output error.
pub const NBD_EIO: Errno = Errno(5);
/// The request is wrong.
pub const NBD_EINVAL: Errno = Errno(22);
/// No space left, or a write beyond the end.
pub const NBD_ENOSPC: Errno = Errno(28);
/// The length is larger than can be served at once.
pub const NBD_EOVERFLOW: Errno = Errno(75);
/// Not possible in the way asked for.
pub const NBD_ENOTSUP: Errno = Errno(95);
/// The export is going away.
pub const NBD_ESHUTDOWN: Errno = Errno(108);

/// What requests and replies look like, as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies where data is.
    Structured,
    /// Extended requests and replies.
    Extended,
}

impl Headers {
    /// Bytes of a request without its payload.
    #[must_use]
    pub fn request_len(self) -> usize {
        match self {
            Self::Extended => Request::EXTENDED_LEN,
            Self::Simple | Self::Structured => Request::LEN,
        }
    }

    /// Whether a reply with data consists of chunks.
    #[must_use]
    pub fn in_chunks(self) -> bool {
        self != Self::Simple
    }
}

/// A request, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `NBD_CMD_FLAG_*`.
    pub flags: u16,
    /// `NBD_CMD_*`.
    pub command: u16,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes that it is about, or of its payload (see [`payload_len`](Self::payload_len)).
    pub len: u64,
}

impl Request {
    /// Bytes of a compact one on the wire.
    pub const LEN: usize = 28;
    /// Bytes of an extended one on the wire.
    pub const EXTENDED_LEN: usize = 32;

    /// Reads a compact request.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        Self::fields(&mut rest, NBD_REQUEST_MAGIC, |rest| {
            take(rest).map(u32::from_be_bytes).map(u64::from)
        })
    }

    /// Reads an extended request.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn decode_extended(bytes: [u8; Self::EXTENDED_LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        Self::fields(&mut rest, NBD_EXTENDED_REQUEST_MAGIC, |rest| {
            take(rest).map(u64::from_be_bytes)
        })
    }

    fn fields(
        rest: &mut &[u8],
        expected: u32,
        len: impl Fn(&mut &[u8]) -> Option<u64>,
    ) -> Result<Self, NbdError> {
        let mut fields = || {
            let magic = take(rest).map(u32::from_be_bytes)?;
            let request = Self {
                flags: take(rest).map(u16::from_be_bytes)?,
                command: take(rest).map(u16::from_be_bytes)?,
                cookie: take(rest).map(u64::from_be_bytes)?,
                offset: take(rest).map(u64::from_be_bytes)?,
                len: len(rest)?,
            };
            (magic == expected).then_some(request)
        };
        fields().ok_or(NbdError::BadMagic)
    }

    /// Bytes that follow the request.
    #[must_use]
    pub fn payload_len(self, headers: Headers) -> u64 {
        let has_payload = match headers {
            Headers::Extended => self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0,
            Headers::Simple | Headers::Structured => self.command == NBD_CMD_WRITE,
        };
        if has_payload { self.len } else { 0 }
    }

    /// The bytes of the request as a compact one.
    ///
    /// # Panics
    /// When its length needs more than 32 bits.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let len = u32::try_from(self.len).expect("a compact request has a length of 32 bits");
        self.put(&mut out, NBD_REQUEST_MAGIC, &len.to_be_bytes());
        out
    }

    /// The bytes of the request as an extended one.
    #[must_use]
    pub fn encode_extended(self) -> [u8; Self::EXTENDED_LEN] {
        let mut out = [0; Self::EXTENDED_LEN];
        self.put(
            &mut out,
            NBD_EXTENDED_REQUEST_MAGIC,
            &self.len.to_be_bytes(),
        );
        out
    }

    fn put(self, out: &mut [u8], magic: u32, len: &[u8]) {
        out[..4].copy_from_slice(&magic.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(len);
    }
}

/// The payload that a [`NBD_CMD_BLOCK_STATUS`] may have: which contexts it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusFilter<'a> {
    /// Bytes that the request is about.
    pub len: u64,
    ids: &'a [u8],
}

impl<'a> StatusFilter<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// One that is not a length and some ids.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, NbdError> {
        let len = take(&mut bytes).map(u64::from_be_bytes);
        match len {
            Some(len) if bytes.len().is_multiple_of(4) => Ok(Self { len, ids: bytes }),
            _ => Err(NbdError::Malformed),
        }
    }

    /// Ids of the contexts, as they were given out.
    pub fn ids(self) -> impl Iterator<Item = u32> {
        let ids = self.ids.chunks_exact(4);
        ids.map(|id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]))
    }
}
