//! Who gets how much memory.
//!
//! Everything that grows with the machine's memory is sized here, once, out of what is free when the controllers are up.
//! About a third is not given to anybody: it is for tasks, and for what is small.

/// Bytes of a frame that a network device with segmentation offload needs, in whole pages.
const FRAME_BYTES: usize = 68 << 10;
const PAGE_BYTES: usize = 4096;

/// The most NBD connections at one time: 64 that work, and some that come and go. Their sockets are the largest thing
/// that clients can make us allocate.
pub const NBD_CONNECTIONS_MAX: usize = 80;
/// The most API connections at one time.
pub const API_CONNECTIONS_MAX: usize = 32;
/// API connections that come while all of them are there.
pub const API_CONNECTIONS_SPARE: usize = 8;
/// Bytes of each buffer of an API connection.
pub const API_BUFFER_BYTES: usize = 8 << 10;

/// Connections of other appliances that did not prove yet who they are.
pub const PEER_STRANGERS_MAX: usize = peer::HALF_OPEN_MAX;

/// How memory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Bytes for what the store keeps in memory: changes, map nodes, bitmaps.
    pub store_bytes: usize,
    /// Pages for the store's own reads and writes.
    pub store_pages: usize,
    /// Pages for data on its way between clients and the store.
    pub nbd_pages: usize,
    /// Pages for what arrives of adopted volumes.
    pub fetch_pages: usize,
    /// Pages for what peers read here. Not the same: two appliances that fetch from each other would wait for each other's pages.
    pub lend_pages: usize,
    /// Bytes of each of the two buffers of an NBD connection, a power of two.
    pub nbd_buffer_bytes: usize,
    /// Channels that peers may have opened, at one time.
    pub peer_channels: usize,
    /// Bytes of each of the two buffers of a peer's connection, a power of two.
    pub peer_buffer_bytes: usize,
    /// Frames of the network device, each way.
    pub frames: u16,
}

impl Shares {
    /// Divides `free` bytes.
    #[must_use]
    pub fn of(free: usize) -> Self {
        Self {
            store_bytes: (free / 4).min(4 << 30),
            store_pages: (free / 16 / PAGE_BYTES).clamp(512, 16 << 10),
            nbd_pages: (free / 8 / PAGE_BYTES).clamp(256, 64 << 10),
            fetch_pages: (free / 64 / PAGE_BYTES).clamp(128, 2 << 10),
            lend_pages: (free / 160 / PAGE_BYTES).clamp(64, 2 << 10),
            nbd_buffer_bytes: power_of_two(free / 5 / (2 * NBD_CONNECTIONS_MAX), 16 << 10, 1 << 20),
            peer_channels: (free / (8 << 20)).clamp(8, peer::CHANNELS_MAX),
            peer_buffer_bytes: power_of_two(free / (3 << 10), 16 << 10, 256 << 10),
            frames: power_of_two(free / 12 / (2 * FRAME_BYTES), 8, 128) as u16,
        }
    }

    /// Connections of other appliances, at one time.
    #[must_use]
    pub fn peer_connections(&self) -> usize {
        self.peer_channels + PEER_STRANGERS_MAX
    }

    /// Bytes in all, when everything is in use.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.store_bytes
            + (self.store_pages + self.nbd_pages + self.fetch_pages + self.lend_pages) * PAGE_BYTES
            + 2 * NBD_CONNECTIONS_MAX * self.nbd_buffer_bytes
            + 2 * (API_CONNECTIONS_MAX + API_CONNECTIONS_SPARE) * API_BUFFER_BYTES
            + 2 * self.peer_connections() * self.peer_buffer_bytes
            + 2 * usize::from(self.frames) * FRAME_BYTES
    }
}

/// The largest power of two up to `value`, within bounds that are powers of two.
fn power_of_two(value: usize, least: usize, most: usize) -> usize {
    (1 << value.max(1).ilog2()).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_whatever_there_is() {
        for free in [32 << 20, 38 << 20, 54 << 20, 118 << 20, 1 << 30, 16 << 30] {
            let shares = Shares::of(free);
            let total = shares.total_bytes();
            assert!(total <= free / 4 * 3, "{total} of {free}: {shares:?}");
        }
    }

    #[test]
    fn more_memory_never_means_less_of_anything() {
        let mut last = Shares::of(24 << 20);
        for mib in 25..4096 {
            let shares = Shares::of(mib << 20);
            assert!(shares.store_bytes >= last.store_bytes && shares.frames >= last.frames);
            assert!(shares.nbd_pages >= last.nbd_pages && shares.store_pages >= last.store_pages);
            assert!(shares.nbd_buffer_bytes >= last.nbd_buffer_bytes);
            assert!(shares.fetch_pages >= last.fetch_pages && shares.lend_pages >= last.lend_pages);
            assert!(shares.peer_channels >= last.peer_channels);
            assert!(shares.peer_buffer_bytes >= last.peer_buffer_bytes);
            last = shares;
        }
    }
}
