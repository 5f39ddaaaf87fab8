//! A READ under way: where its bytes go, and which of them came.

use alloc::vec::Vec;
use core::ops::Range;

use volume::OriginError;
use wire::nbd::Errno;
use world::{BLOCK_SIZE, Buf};

/// Separate runs of one reply that are remembered. Servers answer in order, or in a few large parts.
const RUNS_MAX: usize = 32;

/// A READ under way.
pub struct Reading {
    /// First byte that was asked for.
    pub offset: u64,
    /// Bytes that were asked for.
    pub len: u64,
    /// Where the buffer's first byte is in the origin.
    buf_at: u64,
    buf: Buf,
    /// What came, in order; none touches the next.
    came: Vec<Range<u64>>,
    /// The first error that came.
    pub error: Option<Errno>,
}

/// What to do with a run of bytes: so many are not for the buffer, then a part of it, then so many that are not.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes to skip first.
    pub before: u64,
    /// Bytes of the buffer.
    pub within: Range<usize>,
    /// Bytes to skip then.
    pub after: u64,
}

impl Reading {
    /// A READ of `len` bytes at `offset`, for a buffer whose first byte is that at `buf_at`.
    pub fn new(offset: u64, len: u64, buf_at: u64, buf: Buf) -> Self {
        Self {
            offset,
            len,
            buf_at,
            buf,
            came: Vec::new(),
            error: None,
        }
    }

    /// The buffer.
    pub fn into_buf(self) -> Buf {
        self.buf
    }

    /// Gives the buffer up: nobody waits for it any more, but the reply still comes.
    pub fn let_go(&mut self) {
        self.buf = Buf::empty();
    }

    /// Forgets what came: the request is made again.
    pub fn start_over(&mut self) {
        self.came.clear();
        self.error = None;
    }

    /// Notes that the `len` bytes at `offset` come now.
    ///
    /// # Errors
    /// [`OriginError::Protocol`] for none, some that were not asked for or came already, and for too many separate runs.
    pub fn claim(&mut self, offset: u64, len: u64) -> Result<(), OriginError> {
        let end = offset.checked_add(len).ok_or(OriginError::Protocol)?;
        if len == 0 || offset < self.offset || end > self.offset + self.len {
            return Err(OriginError::Protocol);
        }
        let is_full = self.came.len() == RUNS_MAX;
        let index = self.came.partition_point(|run| run.start < offset);
        let (before, after) = self.came.split_at_mut(index);
        let (before, after) = (before.last_mut(), after.first_mut());
        let begins_late = before.as_ref().is_none_or(|run| run.end <= offset);
        let ends_early = after.as_ref().is_none_or(|run| end <= run.start);
        if !begins_late || !ends_early {
            return Err(OriginError::Protocol);
        }
        match (
            before.filter(|run| run.end == offset),
            after.filter(|run| run.start == end),
        ) {
            (Some(before), Some(after)) => {
                before.end = after.end;
                self.came.remove(index);
            }
            (Some(before), None) => before.end = end,
            (None, Some(after)) => after.start = offset,
            (None, None) if is_full => return Err(OriginError::Protocol),
            (None, None) => self.came.insert(index, offset..end),
        }
        Ok(())
    }

    /// Whether every byte came.
    pub fn is_whole(&self) -> bool {
        self.came.first() == Some(&(self.offset..self.offset + self.len))
    }

    /// Where the `len` bytes at `offset`, which were asked for, belong.
    pub fn place(&self, offset: u64, len: u64) -> Place {
        let end = offset + len;
        let from = offset.max(self.buf_at);
        let to = end.min(self.buf_at + self.buf.len() as u64);
        if from >= to {
            return Place {
                before: len,
                within: 0..0,
                after: 0,
            };
        }
        // Both are within the buffer, whose length fits.
        let index = |at: u64| (at - self.buf_at) as usize;
        Place {
            before: from - offset,
            within: index(from)..index(to),
            after: end - to,
        }
    }

    /// The part of the buffer from `range.start` on that is in one page.
    pub fn part(&mut self, range: Range<usize>) -> &mut [u8] {
        let first = range.start % BLOCK_SIZE;
        let last = BLOCK_SIZE.min(first + range.len());
        &mut self.buf.block_mut(range.start / BLOCK_SIZE)[first..last]
    }

    /// Makes the `len` bytes at `offset` zeros.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let mut within = self.place(offset, len).within;
        while !within.is_empty() {
            let part = self.part(within.clone());
            part.fill(0);
            within.start += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = BLOCK_SIZE as u64;

    fn reading() -> Reading {
        Reading::new(PAGE, 2 * PAGE, PAGE, Buf::from_heap(2))
    }

    #[test]
    fn bytes_come_in_any_order_but_once() {
        let mut reading = reading();
        for (offset, len) in [(2048, 1024), (0, 1024), (4096, 4096), (1024, 1024)] {
            assert!(!reading.is_whole());
            assert_eq!(reading.claim(PAGE + offset, len), Ok(()));
        }
        assert!(!reading.is_whole());
        for (offset, len) in [
            (0, 1),
            (1023, 2),
            (3071, 2),
            (3072, 1025),
            (8191, 1),
            (0, 8192),
        ] {
            let claimed = reading.claim(PAGE + offset, len);
            assert_eq!(claimed, Err(OriginError::Protocol), "{offset}");
        }
        assert_eq!(reading.claim(PAGE + 3072, 1024), Ok(()));
        assert!(reading.is_whole());
        reading.start_over();
        assert_eq!(reading.claim(PAGE, 2 * PAGE), Ok(()));
        assert!(reading.is_whole());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let mut reading = reading();
        for (offset, len) in [
            (PAGE, 0),
            (PAGE - 1, 1),
            (PAGE - 1, 2 * PAGE),
            (PAGE, 2 * PAGE + 1),
            (3 * PAGE, 1),
            (u64::MAX, 2),
        ] {
            let claimed = reading.claim(offset, len);
            assert_eq!(claimed, Err(OriginError::Protocol), "{offset}");
        }
        assert!(reading.came.is_empty());
    }

    #[test]
    fn crumbs_are_refused() {
        let mut reading = reading();
        for index in 0..RUNS_MAX as u64 {
            assert_eq!(reading.claim(PAGE + 2 * index, 1), Ok(()));
        }
        let next = reading.claim(PAGE + 100, 1);
        assert_eq!(next, Err(OriginError::Protocol));
        assert_eq!(reading.claim(PAGE + 1, 1), Ok(()));
        assert_eq!(reading.claim(PAGE + 100, 1), Ok(()));
    }

    #[test]
    fn bytes_go_to_their_places_and_others_nowhere() {
        // The server's unit is larger than the buffer.
        let mut reading = Reading::new(0, 16 * PAGE, 3 * PAGE, Buf::from_heap(2));
        let place = |before, within, after| Place {
            before,
            within,
            after,
        };
        let page = BLOCK_SIZE;
        for (offset, len, expected) in [
            (0, 16 * PAGE, place(3 * PAGE, 0..2 * page, 11 * PAGE)),
            (0, 3 * PAGE, place(3 * PAGE, 0..0, 0)),
            (5 * PAGE, PAGE, place(PAGE, 0..0, 0)),
            (3 * PAGE + 7, 9, place(0, 7..16, 0)),
            (2 * PAGE, PAGE + 1, place(PAGE, 0..1, 0)),
        ] {
            assert_eq!(reading.place(offset, len), expected, "{offset}");
        }
        for page in reading.buf.pages_mut() {
            page.bytes.fill(7);
        }
        reading.zero(4 * PAGE - 1, 2);
        let (first, second) = (reading.buf.block(0), reading.buf.block(1));
        assert_eq!((first[4094], first[4095]), (7, 0));
        assert_eq!((second[0], second[1]), (0, 7));
        assert_eq!(reading.part(4090..4100).len(), 6);
        reading.let_go();
        let nowhere = reading.place(3 * PAGE, PAGE);
        assert_eq!(nowhere, place(PAGE, 0..0, 0));
        reading.zero(3 * PAGE, PAGE);
    }
}
