//! What an NBD server says, held against the protocol: whatever a client sent, each answer has the form of its kind.

use wire::nbd::*;

/// Bytes of each export.
const EXPORT: u64 = 1 << 20;

/// Follows the answers of a whole connection; its end may cut the last one short.
///
/// # Panics
/// At an answer that the protocol does not know.
pub fn follow(bytes: &[u8]) {
    let mut replies = Replies {
        rest: bytes,
        headers: Headers::Simple,
    };
    // None is the end of the connection.
    let _ = replies.session();
}

struct Replies<'a> {
    rest: &'a [u8],
    headers: Headers,
}

impl<'a> Replies<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let bytes = self.take(bytes)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    }

    fn number_32(&mut self) -> Option<u32> {
        self.number(4).and_then(|number| u32::try_from(number).ok())
    }

    fn number_16(&mut self) -> Option<u16> {
        self.number(2).and_then(|number| u16::try_from(number).ok())
    }

    fn session(&mut self) -> Option<()> {
        assert_eq!(self.take(18)?, greeting());
        while !self.option()? {}
        loop {
            self.reply()?;
        }
    }

    /// An answer to an option; true when requests come next.
    fn option(&mut self) -> Option<bool> {
        if *self.rest.first_chunk()? != NBD_REP_MAGIC.to_be_bytes() {
            self.export_name()?;
            return Some(true);
        }
        self.take(8)?;
        let (option, reply) = (self.number_32()?, self.number_32()?);
        let len = self.number_32()?;
        let data = self.take(len as usize)?;
        let text = |from: usize| core::str::from_utf8(data.get(from..).unwrap_or(&[0xff])).is_ok();
        let is_sound = match reply {
            NBD_REP_ACK => data.is_empty(),
            NBD_REP_SERVER => data.len() == 4 + length_of_text(data) && text(4),
            NBD_REP_INFO => match data.first_chunk().map(|kind| u16::from_be_bytes(*kind)) {
                Some(NBD_INFO_EXPORT) => data.len() == 12,
                Some(NBD_INFO_BLOCK_SIZE) => data.len() == 14,
                Some(NBD_INFO_NAME | NBD_INFO_DESCRIPTION) => text(2),
                _ => false,
            },
            NBD_REP_META_CONTEXT => text(4) && data[4..].contains(&b':'),
            error => error >> 31 == 1 && text(0),
        };
        assert!(is_sound, "option {option} is answered {reply:#x} {data:?}");
        match (option, reply) {
            (NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK) => self.headers = Headers::Structured,
            (NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK) => self.headers = Headers::Extended,
            _ => {}
        }
        Some(option == NBD_OPT_GO && reply == NBD_REP_ACK)
    }

    /// The answer to EXPORT_NAME has no head.
    fn export_name(&mut self) -> Option<()> {
        let (size, flags) = (self.number(8)?, self.number_16()?);
        assert_eq!(
            (size, flags & NBD_FLAG_HAS_FLAGS),
            (EXPORT, NBD_FLAG_HAS_FLAGS)
        );
        if self.rest.first() == Some(&0) {
            assert_eq!(self.take(124)?, [0; 124]);
        }
        Some(())
    }

    fn reply(&mut self) -> Option<()> {
        match (self.number_32()?, self.headers) {
            (NBD_SIMPLE_REPLY_MAGIC, Headers::Simple | Headers::Structured) => {
                let error = self.number_32()?;
                let _cookie = self.number(8)?;
                // How much data follows, only the client knows.
                (self.headers == Headers::Structured || error != 0).then_some(())
            }
            (NBD_STRUCTURED_REPLY_MAGIC, Headers::Structured) => {
                let (flags, kind) = (self.number_16()?, self.number_16()?);
                let _cookie = self.number(8)?;
                let len = self.number_32()?;
                self.chunk(flags, kind, len.into())
            }
            (NBD_EXTENDED_REPLY_MAGIC, Headers::Extended) => {
                let (flags, kind) = (self.number_16()?, self.number_16()?);
                let (_cookie, _offset) = (self.number(8)?, self.number(8)?);
                let len = self.number(8)?;
                self.chunk(flags, kind, len)
            }
            (magic, headers) => panic!("a reply begins with {magic:#x}, {headers:?}"),
        }
    }

    fn chunk(&mut self, flags: u16, kind: u16, len: u64) -> Option<()> {
        assert!(flags & !NBD_REPLY_FLAG_DONE == 0, "chunk flags {flags:#x}");
        let mut payload = Self {
            rest: self.take(usize::try_from(len).ok()?)?,
            headers: self.headers,
        };
        let is_sound = payload.is_payload(kind).unwrap_or(false) && payload.rest.is_empty();
        assert!(is_sound, "a chunk of kind {kind} with {len} bytes");
        Some(())
    }

    /// Whether this is what a chunk of this kind says; takes all of it.
    fn is_payload(&mut self, kind: u16) -> Option<bool> {
        Some(match kind {
            NBD_REPLY_TYPE_NONE => true,
            NBD_REPLY_TYPE_OFFSET_DATA => {
                let offset = self.number(8)?;
                let data = core::mem::take(&mut self.rest);
                !data.is_empty() && offset + data.len() as u64 <= EXPORT
            }
            NBD_REPLY_TYPE_OFFSET_HOLE => {
                let (offset, len) = (self.number(8)?, self.number(4)?);
                len > 0 && offset + len <= EXPORT
            }
            NBD_REPLY_TYPE_BLOCK_STATUS if self.headers == Headers::Structured => {
                let _id = self.number(4)?;
                let count = self.rest.len() / 8;
                self.are_extents(4, count as u64)?
            }
            NBD_REPLY_TYPE_BLOCK_STATUS_EXT if self.headers == Headers::Extended => {
                let (_id, count) = (self.number(4)?, self.number(4)?);
                self.are_extents(8, count)?
            }
            NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET => {
                let (error, len) = (self.number(4)?, self.number_16()?);
                self.take(len.into())?;
                if kind == NBD_REPLY_TYPE_ERROR_OFFSET {
                    self.number(8)?;
                }
                error != 0
            }
            _ => false,
        })
    }

    /// Whether so many descriptors follow, of lengths and flags of so many bytes each, and lie within the export.
    fn are_extents(&mut self, bytes: usize, count: u64) -> Option<bool> {
        let mut all = 0;
        for _ in 0..count {
            let (len, flags) = (self.number(bytes)?, self.number(bytes)?);
            if len == 0 || flags > 3 {
                return Some(false);
            }
            all += len;
        }
        Some((1..=EXPORT).contains(&all))
    }
}

fn length_of_text(data: &[u8]) -> usize {
    let len = data.first_chunk().map(|len| u32::from_be_bytes(*len));
    len.map_or(usize::MAX / 2, |len| len as usize)
}
