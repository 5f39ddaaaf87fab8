//! The last lines, in a fixed number of bytes.

use alloc::string::String;
use alloc::vec::Vec;

/// `N` bytes of lines, each ended by a newline; the oldest are overwritten.
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Bytes ever written.
    written: usize,
    /// Where the last complete line ends, counted like `written`.
    complete: usize,
}

impl<const N: usize> Ring<N> {
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            written: 0,
            complete: 0,
        }
    }

    /// Adds a part of a line.
    pub fn push(&mut self, text: &[u8]) {
        for byte in text {
            self.bytes[self.written % N] = *byte;
            self.written += 1;
        }
    }

    /// Says that what was pushed last is the end of a line.
    pub fn end_line(&mut self) {
        self.complete = self.written;
    }

    /// The last `count` complete lines, oldest first. A line that is partly overwritten is not among them.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let oldest = self.written.saturating_sub(N);
        let bytes: Vec<u8> = (oldest..self.complete)
            .map(|at| self.bytes[at % N])
            .collect();
        // What was cut at the front is not a line, unless nothing was cut.
        let first = if oldest == 0 {
            0
        } else {
            bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(bytes.len(), |at| at + 1)
        };
        let text = String::from_utf8_lossy(&bytes[first..]);
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(count);
        lines[skipped..]
            .iter()
            .map(|line| String::from(*line))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<const N: usize>(ring: &mut Ring<N>, text: &str) {
        ring.push(text.as_bytes());
        ring.push(b"\n");
        ring.end_line();
    }

    #[test]
    fn the_last_lines_come_oldest_first() {
        let mut ring = Ring::<64>::new();
        assert!(ring.tail(5).is_empty());
        for text in ["one", "two", "three"] {
            line(&mut ring, text);
        }
        assert_eq!(ring.tail(2), ["two", "three"]);
        assert_eq!(ring.tail(9), ["one", "two", "three"]);
    }

    #[test]
    fn overwritten_lines_are_gone_as_a_whole() {
        let mut ring = Ring::<16>::new();
        for text in ["aaaaaa", "bbbbbb", "cccc"] {
            line(&mut ring, text);
        }
        assert_eq!(ring.tail(9), ["bbbbbb", "cccc"]);
        line(&mut ring, "a line longer than all of it");
        assert!(ring.tail(9).is_empty());
    }

    #[test]
    fn an_unfinished_line_is_not_shown() {
        let mut ring = Ring::<32>::new();
        line(&mut ring, "done");
        ring.push(b"half");
        assert_eq!(ring.tail(9), ["done"]);
        ring.push(&[b'x'; 25]);
        assert!(
            ring.tail(9).is_empty(),
            "it has overwritten the finished one"
        );
    }
}
