//! Replies: simple ones, structured and extended chunks.

use super::{Errno, Headers};

/// Magic of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Magic of an extended reply chunk.
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Chunk flag: the last one of its reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk without payload.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Chunk with offset and data.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk with offset and length of zeros.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk with descriptors of 32-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk with descriptors of 64-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Chunk with an error.
pub const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;
/// Chunk with an error and where it happened.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;

/// Descriptor flag of `base:allocation`: nothing is stored there.
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// Descriptor flag of `base:allocation`: it reads as zeros.
pub const NBD_STATE_ZERO: u32 = 1 << 1;

/// What a reply answers, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The form.
    pub headers: Headers,
    /// Cookie of the request.
    pub cookie: u64,
    /// Offset of the request.
    pub offset: u64,
}

/// The bytes of a reply or chunk up to its data.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
}

impl ReplyHead {
    /// The most bytes of one: an extended chunk with an error and its offset.
    pub const LEN_MAX: usize = 46;

    fn new() -> Self {
        Self {
            bytes: [0; Self::LEN_MAX],
            len: 0,
        }
    }

    fn with<const N: usize>(mut self, field: [u8; N]) -> Self {
        self.bytes[self.len..self.len + N].copy_from_slice(&field);
        self.len += N;
        self
    }
}

impl core::ops::Deref for ReplyHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl ReplyTo {
    /// A whole simple reply, or all of it but the data that a READ was for.
    #[must_use]
    pub fn simple(self, error: Option<Errno>) -> ReplyHead {
        ReplyHead::new()
            .with(NBD_SIMPLE_REPLY_MAGIC.to_be_bytes())
            .with(error.map_or(0, |error| error.0).to_be_bytes())
            .with(self.cookie.to_be_bytes())
    }

    /// The whole reply to a request that was not for data; `None` is success.
    #[must_use]
    pub fn result(self, error: Option<Errno>) -> ReplyHead {
        match (self.headers, error) {
            (Headers::Simple | Headers::Structured, error) => self.simple(error),
            (Headers::Extended, Some(error)) => self.error(error),
            (Headers::Extended, None) => self.none(),
        }
    }

    /// What stands before the `len` bytes of a chunk's payload. Only with negotiated chunks.
    fn chunk(self, done: bool, kind: u16, len: u32) -> ReplyHead {
        let flags = if done { NBD_REPLY_FLAG_DONE } else { 0 };
        let head = ReplyHead::new();
        if self.headers == Headers::Extended {
            return head
                .with(NBD_EXTENDED_REPLY_MAGIC.to_be_bytes())
                .with(flags.to_be_bytes())
                .with(kind.to_be_bytes())
                .with(self.cookie.to_be_bytes())
                .with(self.offset.to_be_bytes())
                .with(u64::from(len).to_be_bytes());
        }
        head.with(NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes())
            .with(flags.to_be_bytes())
            .with(kind.to_be_bytes())
            .with(self.cookie.to_be_bytes())
            .with(len.to_be_bytes())
    }

    /// A chunk of `len` bytes of data at `offset`, up to the data.
    #[must_use]
    pub fn data(self, done: bool, offset: u64, len: u32) -> ReplyHead {
        self.chunk(done, NBD_REPLY_TYPE_OFFSET_DATA, len + 8)
            .with(offset.to_be_bytes())
    }

    /// A whole chunk that says that `len` bytes at `offset` are zeros.
    #[must_use]
    pub fn hole(self, done: bool, offset: u64, len: u32) -> ReplyHead {
        self.chunk(done, NBD_REPLY_TYPE_OFFSET_HOLE, 12)
            .with(offset.to_be_bytes())
            .with(len.to_be_bytes())
    }

    /// A whole chunk that ends its reply and says nothing else.
    #[must_use]
    pub fn none(self) -> ReplyHead {
        self.chunk(true, NBD_REPLY_TYPE_NONE, 0)
    }

    /// A whole chunk with an error without a message, the last of its reply.
    #[must_use]
    pub fn error(self, error: Errno) -> ReplyHead {
        self.chunk(true, NBD_REPLY_TYPE_ERROR, 6)
            .with(error.0.to_be_bytes())
            .with([0; 2])
    }

    /// A whole chunk with an error at `offset` without a message.
    #[must_use]
    pub fn error_at(self, done: bool, error: Errno, offset: u64) -> ReplyHead {
        self.chunk(done, NBD_REPLY_TYPE_ERROR_OFFSET, 14)
            .with(error.0.to_be_bytes())
            .with([0; 2])
            .with(offset.to_be_bytes())
    }

    /// A chunk with what context `id` says in `count` [descriptors](Self::descriptor), up to them.
    #[must_use]
    pub fn block_status(self, done: bool, id: u32, count: u32) -> ReplyHead {
        if self.headers == Headers::Extended {
            return self
                .chunk(done, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 8 + 16 * count)
                .with(id.to_be_bytes())
                .with(count.to_be_bytes());
        }
        self.chunk(done, NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * count)
            .with(id.to_be_bytes())
    }

    /// One descriptor of a [`block_status`](Self::block_status): `len` bytes have these flags.
    ///
    /// # Panics
    /// When the length needs more than 32 bits and extended headers are not negotiated.
    #[must_use]
    pub fn descriptor(self, len: u64, flags: u32) -> ReplyHead {
        if self.headers == Headers::Extended {
            return ReplyHead::new()
                .with(len.to_be_bytes())
                .with(u64::from(flags).to_be_bytes());
        }
        let len = u32::try_from(len).expect("not longer than its request");
        ReplyHead::new()
            .with(len.to_be_bytes())
            .with(flags.to_be_bytes())
    }
}
