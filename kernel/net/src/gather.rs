//! Joins segments of one connection that arrived together, so that the stack above takes them as one.
//!
//! A client with many requests in flight sends each of them as a segment of its own, and one passes the whole stack for
//! as much as many do. Only what could have arrived as one segment is joined: plain data (RFC 9293), in order, without
//! options, vouched for by the link. Everything else is left as it came.
//!
//! ```text
//! Ethernet  0 destination · 6 source · 12 type
//! IPv4     14 version, header words · 15 service · 16 total length · 20 flags, fragment · 23 protocol · 24 checksum
//!          26 source · 30 destination
//! TCP      34 ports · 38 sequence · 42 acknowledgement · 46 header words · 47 flags · 48 window
//! ```

use world::Frame;

/// Bytes of all headers of a plain segment.
const HEADERS: usize = 54;
const ETHERNET: usize = 14;
/// Bytes of the IP and TCP headers.
const IP_HEADERS: usize = HEADERS - ETHERNET;

/// Longer data costs more to move to the segment before than its own way through the stack.
const JOINED_BYTES_MAX: usize = 8192;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A segment that others are joined to. [`finish`](Self::finish) makes it one again.
pub struct Gathering {
    /// Its length as the IP header says, and as it is by now.
    total_before: u16,
    total: usize,
    next_sequence: u32,
    acknowledgement: u32,
}

impl Gathering {
    /// Begins with `frame`, if it is a plain segment.
    pub fn begin(frame: &Frame) -> Option<Self> {
        let (head, total) = plain(frame)?;
        let sequence = word(head, 38);
        Some(Self {
            total_before: half(head, 16),
            total,
            next_sequence: sequence.wrapping_add((total - IP_HEADERS) as u32),
            acknowledgement: word(head, 42),
        })
    }

    /// Adds what `next` carries to `frame`, if it is what follows on the same connection. Returns whether it was.
    pub fn join(&mut self, frame: &mut Frame, next: &Frame) -> bool {
        let Some((head, total)) = plain(next) else {
            return false;
        };
        let (end, bytes) = (ETHERNET + self.total, total - IP_HEADERS);
        let acknowledgement = word(head, 42);
        let is_newer = acknowledgement.wrapping_sub(self.acknowledgement) < 1 << 31;
        let is_next = word(head, 38) == self.next_sequence
            && is_newer
            && bytes <= JOINED_BYTES_MAX
            && end + bytes <= frame.capacity()
            && self.total + bytes <= usize::from(u16::MAX)
            && is_same(head, frame)
            && header_holds(head);
        if !is_next {
            return false;
        }
        frame.set_len(end + bytes);
        let into = frame.bytes_mut();
        into[end..].copy_from_slice(&next.bytes()[HEADERS..HEADERS + bytes]);
        into[42..46].copy_from_slice(&head[42..46]);
        into[47] |= head[47];
        into[48..50].copy_from_slice(&head[48..50]);
        self.acknowledgement = acknowledgement;
        self.next_sequence = self.next_sequence.wrapping_add(bytes as u32);
        self.total += bytes;
        true
    }

    /// Writes the length of all that was joined.
    pub fn finish(self, frame: &mut Frame) {
        let total = self.total as u16;
        if total == self.total_before {
            return;
        }
        let bytes = frame.bytes_mut();
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        // A wrong checksum stays wrong: only the difference goes in (RFC 1624, equation 3).
        let sum = u32::from(!u16::from_be_bytes([bytes[24], bytes[25]]))
            + u32::from(!self.total_before)
            + u32::from(total);
        bytes[24..26].copy_from_slice(&(!fold(sum)).to_be_bytes());
    }
}

/// The headers and the IP length of a segment that can be joined.
fn plain(frame: &Frame) -> Option<(&[u8; HEADERS], usize)> {
    let bytes = frame.bytes();
    let head = bytes.first_chunk::<HEADERS>()?;
    let total = usize::from(half(head, 16));
    let is_plain = frame.meta.checksum_valid
        && head[12..15] == [0x08, 0x00, 0x45]
        && half(head, 20) & 0x3fff == 0
        && head[23] == 6
        && head[46] == 0x50
        && head[47] & !PSH == ACK
        && total > IP_HEADERS
        && total <= bytes.len() - ETHERNET;
    is_plain.then_some((head, total))
}

/// Whether both are of one connection, and of one service class.
fn is_same(head: &[u8; HEADERS], frame: &Frame) -> bool {
    let Some(other) = frame.bytes().first_chunk::<HEADERS>() else {
        return false;
    };
    head[..12] == other[..12] && head[15] == other[15] && head[26..38] == other[26..38]
}

/// Whether the checksum of the IP header is right.
fn header_holds(head: &[u8; HEADERS]) -> bool {
    let words = (ETHERNET..ETHERNET + 20).step_by(2);
    let sum = words.fold(0, |sum, at| sum + u32::from(half(head, at)));
    fold(sum) == u16::MAX
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn half(head: &[u8; HEADERS], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

fn word(head: &[u8; HEADERS], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests;
