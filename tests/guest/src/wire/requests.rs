//! What an NBD client sends, cut into requests.

use anyhow::{Context, Result};

/// What each option begins with.
const OPTION_MAGIC: &[u8; 4] = b"IHAV";
const OPTION_HEAD: usize = 16;
const REQUEST_MAGIC: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const REQUEST_HEAD: usize = 28;
/// The client's flags, which come first.
const FLAGS: usize = 4;
const READ: u16 = 0;
const WRITE: u16 = 1;
const BLOCK_STATUS: u16 = 7;

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `NBD_CMD_READ`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
    /// Any other.
    Other,
    /// Something else; what follows is not understood.
    Unclear,
}

/// The state between two pieces of what a client sends.
#[derive(Debug, Default)]
pub struct Requests {
    /// The beginning of something whose end has not come.
    pending: Vec<u8>,
    /// So much of what comes next is data.
    skipped: usize,
    is_greeted: bool,
    is_lost: bool,
}

impl Requests {
    /// Takes the next bytes and returns the requests that became complete, without the data of writes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Request> {
        let mut found = Vec::new();
        while !self.is_lost && !bytes.is_empty() {
            let data = self.skipped.min(bytes.len());
            self.skipped -= data;
            bytes = &bytes[data..];
            let wanted = self.head_len().saturating_sub(self.pending.len());
            let (more, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.pending.extend_from_slice(more);
            bytes = rest;
            if self.pending.len() == self.head_len() {
                found.extend(self.take());
            }
        }
        found
    }

    /// How long what is pending will be, as far as it can be told from its beginning.
    fn head_len(&self) -> usize {
        match self.pending.first_chunk::<4>() {
            _ if !self.is_greeted => FLAGS,
            None => 4,
            Some(OPTION_MAGIC) => OPTION_HEAD,
            Some(&REQUEST_MAGIC) => REQUEST_HEAD,
            Some(_) => 4,
        }
    }

    fn take(&mut self) -> Option<Request> {
        let head = std::mem::take(&mut self.pending);
        match head.len() {
            _ if !self.is_greeted => {
                self.is_greeted = true;
                None
            }
            OPTION_HEAD => {
                self.skipped = u32_at(&head, 12).map_or(0, |len| len as usize);
                None
            }
            REQUEST_HEAD => self.request(&head).ok(),
            _ => {
                self.is_lost = true;
                Some(Request::Unclear)
            }
        }
    }

    fn request(&mut self, head: &[u8]) -> Result<Request> {
        let kind = head[6..]
            .first_chunk()
            .map(|bytes| u16::from_be_bytes(*bytes));
        let offset = head[16..]
            .first_chunk()
            .map(|bytes| u64::from_be_bytes(*bytes));
        let (len, offset) = (u32_at(head, 24)?, offset.context("a whole head")?);
        Ok(match kind {
            Some(READ) => Request::Read { offset, len },
            Some(BLOCK_STATUS) => Request::BlockStatus,
            Some(WRITE) => {
                self.skipped = len as usize;
                Request::Other
            }
            _ => Request::Other,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes[at..].first_chunk().context("a whole head")?;
    Ok(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u16, offset: u64, len: u32) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_vec();
        bytes.extend([0; 2]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([9; 8]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    }

    #[test]
    fn requests_are_found_however_they_are_cut() {
        let mut said = vec![0, 0, 0, 3];
        said.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x05hello");
        said.extend(request(READ, 1 << 40, 4096));
        said.extend(request(WRITE, 0, 30));
        // Data that looks like a request.
        said.extend(&request(READ, 0, 1)[..]);
        said.extend([0; 2]);
        said.extend(request(BLOCK_STATUS, 5, 6));
        let expected = [
            Request::Read {
                offset: 1 << 40,
                len: 4096,
            },
            Request::Other,
            Request::BlockStatus,
        ];
        for size in [1, 3, 28, 1000] {
            let mut requests = Requests::default();
            let pieces = said.chunks(size);
            let found: Vec<Request> = pieces.flat_map(|piece| requests.feed(piece)).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
        let mut requests = Requests::default();
        assert_eq!(requests.feed(b"\0\0\0\x03GET / HTTP"), [Request::Unclear]);
    }
}
