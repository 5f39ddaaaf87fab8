//! Frames: what messages are cut into, before they are sealed.
//!
//! ```text
//! clear   length 2, big endian, of what follows
//! sealed  kind 1 | bytes
//! ```
//!
//! A message is parts, all full, and then a last part, which may be empty. Nothing comes between them.

use alloc::vec;
use alloc::vec::Vec;

use crate::PeerError;
use crate::noise::{Keys, SEAL_LEN};

/// Bytes of a message in one frame.
pub const PART_MAX: usize = 16 << 10;
/// Bytes of a length.
const LEN_LEN: usize = 2;
/// The shortest frame.
const SEALED_MIN: usize = 1 + SEAL_LEN;
/// The longest frame.
const SEALED_MAX: usize = SEALED_MIN + PART_MAX;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of a message; others follow.
    Part,
    /// The last part of a message.
    Last,
    /// Nothing: its sender is still there.
    Alive,
    /// No more messages follow.
    End,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Part, Self::Last, Self::Alive, Self::End];

    /// The kind of a frame with so many bytes, if there is such a one.
    fn decode(byte: u8, len: usize) -> Option<Self> {
        let kind = *Self::ALL.get(usize::from(byte))?;
        let fits = match kind {
            Self::Part => len == PART_MAX,
            Self::Last => true,
            Self::Alive | Self::End => len == 0,
        };
        fits.then_some(kind)
    }
}

/// The frame that is sent next.
pub struct Outgoing {
    plain: Vec<u8>,
    frame: Vec<u8>,
}

impl Outgoing {
    /// Room for one frame.
    pub fn new() -> Self {
        Self {
            plain: Vec::with_capacity(1 + PART_MAX),
            frame: vec![0; LEN_LEN + SEALED_MAX],
        }
    }

    /// Seals what `parts` have next, at most `len` bytes of it; the bytes to send.
    pub fn seal(
        &mut self,
        kind: Kind,
        parts: &mut Parts<'_>,
        len: usize,
        keys: &mut Keys,
    ) -> Result<&[u8], PeerError> {
        self.plain.clear();
        self.plain.push(kind as u8);
        parts.take(len, &mut self.plain);
        let sealed = keys.seal(&self.plain, &mut self.frame[LEN_LEN..])?;
        let head = u16::try_from(sealed).map_err(|_| PeerError::Protocol)?;
        self.frame[..LEN_LEN].copy_from_slice(&head.to_be_bytes());
        Ok(&self.frame[..LEN_LEN + sealed])
    }
}

/// What is left of the parts of a message.
pub struct Parts<'a> {
    rest: &'a [&'a [u8]],
    /// Of the first one.
    done: usize,
}

impl<'a> Parts<'a> {
    /// All of them.
    pub fn new(parts: &'a [&'a [u8]]) -> Self {
        Self {
            rest: parts,
            done: 0,
        }
    }

    fn take(&mut self, len: usize, into: &mut Vec<u8>) {
        let mut left = len;
        while left > 0 {
            let Some(first) = self.rest.first() else {
                return;
            };
            let there = &first[self.done..];
            let count = there.len().min(left);
            into.extend_from_slice(&there[..count]);
            left -= count;
            self.done += count;
            if self.done == first.len() {
                (self.rest, self.done) = (&self.rest[1..], 0);
            }
        }
    }
}

/// The frame that is received now.
pub struct Incoming {
    frame: Vec<u8>,
    filled: usize,
    plain: Vec<u8>,
}

impl Incoming {
    /// Room for one frame.
    pub fn new() -> Self {
        Self {
            frame: vec![0; LEN_LEN + SEALED_MAX],
            filled: 0,
            plain: vec![0; 1 + PART_MAX],
        }
    }

    /// No room, for what is not used any more.
    pub const fn none() -> Self {
        Self {
            frame: Vec::new(),
            filled: 0,
            plain: Vec::new(),
        }
    }

    /// Where the next bytes go; nothing when the frame is whole.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] when its length is none that a frame can have.
    pub fn room(&mut self) -> Result<&mut [u8], PeerError> {
        let mut end = LEN_LEN;
        if let Some((head, _)) = self.frame[..self.filled].split_first_chunk() {
            let len = usize::from(u16::from_be_bytes(*head));
            if !(SEALED_MIN..=SEALED_MAX).contains(&len) {
                return Err(PeerError::Protocol);
            }
            end += len;
        }
        Ok(&mut self.frame[self.filled..end])
    }

    /// Notes that so many bytes came.
    pub fn filled(&mut self, count: usize) {
        self.filled += count;
    }

    /// Opens the frame, which is whole, and makes room for the next one.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] when it is not the one that the other side made next.
    pub fn open(&mut self, keys: &mut Keys) -> Result<(Kind, &[u8]), PeerError> {
        let sealed = &self.frame[LEN_LEN..self.filled];
        let len = keys.open(sealed, &mut self.plain)?;
        self.filled = 0;
        let (kind, bytes) = self.plain[..len].split_first().ok_or(PeerError::Protocol)?;
        let kind = Kind::decode(*kind, bytes.len()).ok_or(PeerError::Protocol)?;
        Ok((kind, bytes))
    }
}
