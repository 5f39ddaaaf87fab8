//! Cutting a request at the 128 KiB boundaries of its volume.

use volume::Span;
use world::{BLOCK_SIZE, Buf};

/// Bytes between boundaries; what a buffer holds.
const PIECE: u64 = (Buf::PAGES_MAX * BLOCK_SIZE) as u64;

/// The pieces of a range, in order; none for an empty range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    offset: u64,
    end: u64,
}

impl Pieces {
    /// The pieces of `len` bytes at `offset`. The range must not pass the end of the numbers.
    pub(super) fn new(offset: u64, len: u64) -> Self {
        let end = offset + len;
        Self { offset, end }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        if self.offset == self.end {
            return 0;
        }
        let count = self.end.div_ceil(PIECE) - self.offset / PIECE;
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

fn span(offset: u64, end: u64) -> Span {
    let len = u32::try_from(end - offset).expect("a piece is at most 128 KiB");
    Span { offset, len }
}

impl Iterator for Pieces {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let start = self.offset;
        if start == self.end {
            return None;
        }
        self.offset = ((start / PIECE + 1) * PIECE).min(self.end);
        Some(span(start, self.offset))
    }
}

impl DoubleEndedIterator for Pieces {
    fn next_back(&mut self) -> Option<Span> {
        let end = self.end;
        if self.offset == end {
            return None;
        }
        self.end = ((end - 1) / PIECE * PIECE).max(self.offset);
        Some(span(self.end, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn pieces_cover_the_range_and_fit_a_buffer() {
        for (offset, len, count) in [
            (0, 0, 0),
            (0, 512, 1),
            (0, PIECE, 1),
            (512, PIECE, 2),
            (PIECE - 512, 1024, 2),
            (PIECE, 32 << 20, 256),
            (PIECE + 512, 32 << 20, 257),
        ] {
            let pieces: Vec<Span> = Pieces::new(offset, len).collect();
            let mut back: Vec<Span> = Pieces::new(offset, len).rev().collect();
            back.reverse();
            assert_eq!(pieces, back);
            assert_eq!(pieces.len(), count);
            assert_eq!(Pieces::new(offset, len).count(), count);
            let mut at = offset;
            for piece in pieces {
                assert_eq!(piece.offset, at);
                assert!(piece.len > 0 && piece.blocks() <= Buf::PAGES_MAX);
                at += u64::from(piece.len);
            }
            assert_eq!(at, offset + len);
        }
    }
}
