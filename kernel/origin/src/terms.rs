//! What was agreed on with a server, and what requests look like under it.

use wire::nbd::{Headers, NBD_CMD_BLOCK_STATUS, Request};

/// The most bytes of one BLOCK_STATUS whose length has 32 bits.
const STATUS_MAX: u64 = 1 << 31;
/// The most bytes of one READ when the server does not say.
const PAYLOAD_MAX: u32 = 32 << 20;
/// What offsets and lengths are multiples of when the server does not say; sizes of volumes are, too.
const MINIMUM: u32 = 512;
/// The largest unit that the protocol lets a server insist on.
const MINIMUM_MAX: u32 = 64 << 10;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The form of requests and replies.
    pub headers: Headers,
    /// Bytes of the export.
    pub size: u64,
    /// Id of `base:allocation`, if the server knows it.
    pub allocation: Option<u32>,
    /// How requests are cut.
    pub sizes: Sizes,
}

/// How requests are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// What offsets and lengths are multiples of, a power of two.
    minimum: u64,
    /// The most bytes of one READ, a multiple of the minimum.
    payload_max: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            minimum: MINIMUM.into(),
            payload_max: PAYLOAD_MAX.into(),
        }
    }
}

impl Sizes {
    /// What a server says, or `None` when that cannot be.
    pub fn new(minimum: u32, payload_max: u32) -> Option<Self> {
        if !minimum.is_power_of_two() || minimum > MINIMUM_MAX {
            return None;
        }
        let minimum = minimum.max(MINIMUM);
        let payload_max = payload_max - payload_max % minimum;
        (payload_max > 0).then_some(Self {
            minimum: minimum.into(),
            payload_max: payload_max.into(),
        })
    }
}

impl Terms {
    /// The READs, offset and length each, that bring the `len` bytes at `offset`, and maybe some around them.
    pub fn reads(self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let (mut at, end) = self.widened(offset, len);
        core::iter::from_fn(move || {
            let len = self.sizes.payload_max.min(end - at);
            at += len;
            (len > 0).then_some((at - len, len))
        })
    }

    /// The BLOCK_STATUS for the `len` bytes at `offset`, or the first of them: its offset and length.
    pub fn status(self, offset: u64, len: u64) -> (u64, u64) {
        let (at, end) = self.widened(offset, len);
        // Where the export ends within a unit, some servers tell nothing of that one, and nothing of what is asked with it.
        let whole = self.size - self.size % self.sizes.minimum;
        let end = if at < whole { end.min(whole) } else { end };
        match self.headers {
            Headers::Extended => (at, end - at),
            Headers::Simple | Headers::Structured => (at, (end - at).min(STATUS_MAX)),
        }
    }

    /// Whether a request keeps to these terms; it may have been cut under others.
    pub fn allow(self, request: Request) -> bool {
        let unit = self.sizes.minimum;
        let end = request.offset + request.len;
        let fits = request.offset.is_multiple_of(unit)
            && (end == self.size || end < self.size && end.is_multiple_of(unit));
        fits && match (request.command, self.headers) {
            (NBD_CMD_BLOCK_STATUS, _) if self.allocation.is_none() => false,
            (NBD_CMD_BLOCK_STATUS, Headers::Extended) => true,
            (NBD_CMD_BLOCK_STATUS, _) => request.len <= STATUS_MAX,
            _ => request.len <= self.sizes.payload_max,
        }
    }

    /// Beginning and end in the server's units; the export may end within one.
    fn widened(self, offset: u64, len: u64) -> (u64, u64) {
        let unit = self.sizes.minimum;
        let end = (offset + len).next_multiple_of(unit).min(self.size);
        (offset - offset % unit, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use wire::nbd::NBD_CMD_READ;

    const SIZE: u64 = (1 << 40) - 512;

    fn terms(sizes: Sizes) -> Terms {
        Terms {
            headers: Headers::Structured,
            size: SIZE,
            allocation: None,
            sizes,
        }
    }

    fn reads(sizes: Option<Sizes>, offset: u64, len: u64) -> Vec<(u64, u64)> {
        terms(sizes.unwrap()).reads(offset, len).collect()
    }

    #[test]
    fn reads_fit_the_server() {
        let usual = Some(Sizes::default());
        assert_eq!(reads(usual, 4096, 8192), [(4096, 8192)]);
        let tiny = Sizes::new(1, 1023);
        assert_eq!(reads(tiny, 4096, 1024), [(4096, 512), (4608, 512)]);
        let coarse = Sizes::new(1 << 16, 3 << 15);
        let whole = [(0, 1 << 16), (1 << 16, 1 << 16)];
        assert_eq!(reads(coarse, 61440, 8192), whole);
        // The last unit is not whole.
        let last = SIZE - SIZE % (1 << 16);
        assert_eq!(reads(coarse, SIZE - 3584, 3584), [(last, SIZE - last)]);
    }

    #[test]
    fn what_was_cut_under_other_terms_is_noticed() {
        let mut terms = terms(Sizes::new(4096, 8192).unwrap());
        let request = |command, offset, len| Request {
            flags: 0,
            command,
            cookie: 0,
            offset,
            len,
        };
        let read = |offset, len| terms.allow(request(NBD_CMD_READ, offset, len));
        assert!(read(4096, 8192) && read(SIZE - SIZE % 4096, SIZE % 4096));
        assert!(!read(512, 4096) && !read(0, 512) && !read(0, 12288) && !read(SIZE - 3584, 4096));
        let status = request(NBD_CMD_BLOCK_STATUS, 0, 1 << 33);
        assert!(!terms.allow(status));
        terms.allocation = Some(1);
        assert!(!terms.allow(status));
        terms.headers = Headers::Extended;
        assert!(terms.allow(status));
    }

    #[test]
    fn what_no_server_can_mean_is_refused() {
        for (minimum, payload_max) in [(0, 512), (3, 512), (1 << 17, 1 << 17), (4096, 4095)] {
            assert_eq!(Sizes::new(minimum, payload_max), None, "{minimum}");
        }
        assert!(Sizes::new(1, u32::MAX).is_some());
    }

    #[test]
    fn a_length_of_32_bits_is_not_exceeded() {
        let compact = terms(Sizes::default());
        assert_eq!(compact.status(512, SIZE - 512), (512, STATUS_MAX));
        let extended = Terms {
            headers: Headers::Extended,
            ..compact
        };
        assert_eq!(extended.status(512, SIZE - 512), (512, SIZE - 512));
    }

    #[test]
    fn the_last_unit_is_asked_about_alone_if_it_is_not_whole() {
        let terms = terms(Sizes::new(1 << 16, 1 << 16).unwrap());
        let last = SIZE - SIZE % (1 << 16);
        let before = terms.status(last - 4096, 8192);
        assert_eq!(before, (last - (1 << 16), 1 << 16));
        assert_eq!(terms.status(last, 4096), (last, SIZE - last));
    }
}
