//! Requests and replies.

use super::{NbdError, take};

/// Magic of a request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

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

/// Durable before the reply.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Zeros that use space.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One content chunk only.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// Zeros only if that is faster than writing them.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Chunk flag: the last one of its reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk without payload.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Chunk with offset and data.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk with an error.
pub const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;
/// Chunk with an error and where it happened.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;

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
/// Not possible in the way asked for.
pub const NBD_ENOTSUP: Errno = Errno(95);
/// The export is going away.
pub const NBD_ESHUTDOWN: Errno = Errno(108);

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
    /// Bytes; those of a WRITE follow.
    pub len: u32,
}

impl Request {
    /// Bytes on the wire.
    pub const LEN: usize = 28;

    /// Reads a request.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        let mut fields = || {
            let magic = take(&mut rest).map(u32::from_be_bytes)?;
            let request = Self {
                flags: take(&mut rest).map(u16::from_be_bytes)?,
                command: take(&mut rest).map(u16::from_be_bytes)?,
                cookie: take(&mut rest).map(u64::from_be_bytes)?,
                offset: take(&mut rest).map(u64::from_be_bytes)?,
                len: take(&mut rest).map(u32::from_be_bytes)?,
            };
            (magic == NBD_REQUEST_MAGIC).then_some(request)
        };
        fields().ok_or(NbdError::BadMagic)
    }

    /// The bytes of the request.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// A simple reply; the data of a successful READ follows it. `None` is success.
#[must_use]
pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.map_or(0, |error| error.0).to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// What stands before the payload of a structured reply chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// `NBD_REPLY_FLAG_DONE` or nothing.
    pub done: bool,
    /// `NBD_REPLY_TYPE_*`.
    pub kind: u16,
    /// The request it answers.
    pub cookie: u64,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl ChunkHead {
    /// Bytes on the wire.
    pub const LEN: usize = 20;

    /// The bytes of the head.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let flags = if self.done { NBD_REPLY_FLAG_DONE } else { 0 };
        out[..4].copy_from_slice(&NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// An [`NBD_REPLY_TYPE_OFFSET_DATA`] chunk up to its `len` bytes of data.
#[must_use]
pub fn chunk_offset_data(cookie: u64, done: bool, offset: u64, len: u32) -> [u8; 28] {
    let mut out = [0; 28];
    let head = ChunkHead {
        done,
        kind: NBD_REPLY_TYPE_OFFSET_DATA,
        cookie,
        len: len + 8,
    };
    out[..20].copy_from_slice(&head.encode());
    out[20..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// A whole [`NBD_REPLY_TYPE_NONE`] chunk, the last of its reply.
#[must_use]
pub fn chunk_none(cookie: u64) -> [u8; 20] {
    let head = ChunkHead {
        done: true,
        kind: NBD_REPLY_TYPE_NONE,
        cookie,
        len: 0,
    };
    head.encode()
}

/// A whole [`NBD_REPLY_TYPE_ERROR`] chunk without a message, the last of its reply.
#[must_use]
pub fn chunk_error(cookie: u64, error: Errno) -> [u8; 26] {
    let mut out = [0; 26];
    let head = ChunkHead {
        done: true,
        kind: NBD_REPLY_TYPE_ERROR,
        cookie,
        len: 6,
    };
    out[..20].copy_from_slice(&head.encode());
    out[20..24].copy_from_slice(&error.0.to_be_bytes());
    out
}

/// A whole [`NBD_REPLY_TYPE_ERROR_OFFSET`] chunk without a message.
#[must_use]
pub fn chunk_error_offset(cookie: u64, done: bool, error: Errno, offset: u64) -> [u8; 34] {
    let mut out = [0; 34];
    let head = ChunkHead {
        done,
        kind: NBD_REPLY_TYPE_ERROR_OFFSET,
        cookie,
        len: 14,
    };
    out[..20].copy_from_slice(&head.encode());
    out[20..24].copy_from_slice(&error.0.to_be_bytes());
    out[26..].copy_from_slice(&offset.to_be_bytes());
    out
}
