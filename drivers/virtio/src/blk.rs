//! Block devices as drives (virtio 1.2, 5.2).
//!
//! [`BlkDisk`] is the [`Disk`]; below it, [`engine`] is the synchronous core that [`BlkDisk::poll`] drives.

use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use core::ops::Range;
use core::time::Duration;

use log::info;
use world::{BLOCK_SIZE, BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Geometry};

use crate::transport::{self, Transport, VirtioError, config64, read_config};

mod engine;
mod layout;
mod request;

use engine::Engine;
use layout::Kind;
use request::Request;

/// The unit of addresses on the wire, whatever the device's own sector is.
const SECTOR: u64 = 512;
const SECTORS_PER_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR;
const QUEUE: u16 = 0;
/// Header and status of a request come on top of its pages.
const SEGMENTS_EXTRA: u16 = 2;

/// Entries of the ring, where the device has them, however few commands are wanted: as many as make the largest
/// transfer possible.
const RING_MIN: u16 = 64;

/// Feature bits of block devices (5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Offsets in the configuration (5.2.4).
mod config {
    pub const CAPACITY: usize = 0;
    pub const SEG_MAX: usize = 12;
    pub const BLK_SIZE: usize = 20;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_WRITE_ZEROES_SECTORS: usize = 48;
    pub const WRITE_ZEROES_MAY_UNMAP: usize = 56;
}

/// How a drive is named and driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Its name within this appliance, e.g. `vblk0`.
    pub id: String,
    /// Where it is plugged in, e.g. a PCI address.
    pub slot: String,
    /// Time after which an unanswered command means that the device is lost.
    pub command_timeout: Duration,
    /// The most commands at one time; the device may allow fewer.
    pub depth_max: u16,
}

impl Default for BlkConfig {
    /// 256 commands of ten seconds; no name.
    fn default() -> Self {
        Self {
            id: String::new(),
            slot: String::new(),
            command_timeout: Duration::from_secs(10),
            depth_max: 256,
        }
    }
}

/// A block device. Clones are the same one.
///
/// Whoever owns the main loop calls [`poll`](Self::poll) once a round, and before it sleeps
/// [`enable_interrupts`](Self::enable_interrupts) and [`next_poll`](Self::next_poll).
pub struct BlkDisk<T: Transport> {
    shared: Rc<Shared<T>>,
}

struct Shared<T: Transport> {
    engine: RefCell<Engine<T>>,
    traits: Traits,
    info: DiskInfo,
}

impl<T: Transport> Clone for BlkDisk<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T: Transport> BlkDisk<T> {
    /// Starts the device and asks for its serial number, waiting for that at most the command timeout.
    ///
    /// # Errors
    /// When the device refuses, is gone or makes no sense; it is not running then.
    pub fn open(
        mut transport: T,
        config: BlkConfig,
        clock: &dyn Clock,
    ) -> Result<Self, VirtioError> {
        let features = transport::negotiate(&mut transport, WANTED)?;
        let mut traits = read_config(&transport, |transport| Traits::read(transport, features))?
            .ok_or(VirtioError::Refused)?;
        let entries = config
            .depth_max
            .clamp(RING_MIN, 1 << 15)
            .next_power_of_two();
        let ring = transport.queue_size_max(QUEUE).min(entries);
        // No chain may be longer than the ring, even an indirect one (2.7.5.3.1).
        let segments_max = ring.min(Buf::PAGES_MAX as u16 + SEGMENTS_EXTRA);
        let blocks_max = segments_max.saturating_sub(SEGMENTS_EXTRA);
        if blocks_max == 0 {
            return Err(VirtioError::Refused);
        }
        let transfer_max = &mut traits.geometry.transfer_blocks_max;
        *transfer_max = u32::from(blocks_max).min(*transfer_max);
        let segments_max = *transfer_max as u16 + SEGMENTS_EXTRA;
        let queue = transport::open_queue(&mut transport, QUEUE, ring, segments_max, features)?;
        traits.read_only |= traits.geometry.blocks == 0;
        transport::go(&mut transport)?;
        let mut engine = Engine::new(transport, queue, config.depth_max, config.command_timeout);
        let serial = engine.identify(clock)?;
        let geometry = traits.geometry;
        info!(
            "virtio-blk {}: {geometry:?}, features {features:#x}",
            config.id
        );
        Ok(Self {
            shared: Rc::new(Shared {
                engine: RefCell::new(engine),
                traits,
                info: DiskInfo {
                    id: config.id,
                    model: String::from("virtio block device"),
                    serial,
                    slot: config.slot,
                },
            }),
        })
    }

    /// Tells the device about new commands, takes its answers and enforces deadlines; `now_nanos` is the monotonic
    /// clock. Returns whether anything was answered.
    pub fn poll(&self, now_nanos: u64) -> bool {
        self.shared.engine.borrow_mut().poll(now_nanos)
    }

    /// Asks for an interrupt at the next answer. Returns whether there are answers already; then the caller must not
    /// sleep.
    #[must_use]
    pub fn enable_interrupts(&self) -> bool {
        self.shared.engine.borrow_mut().enable_interrupts()
    }

    /// When [`poll`](Self::poll) must be called even without an interrupt, on the monotonic clock.
    #[must_use]
    pub fn next_poll(&self) -> Option<u64> {
        self.shared.engine.borrow().next_poll()
    }

    /// Why the device is out of use, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<DiskError> {
        self.shared.engine.borrow().failure()
    }

    async fn transfer(&self, kind: Kind, at: BlockAddr, buf: Buf) -> (Buf, Result<(), DiskError>) {
        let traits = &self.shared.traits;
        let blocks = buf.blocks() as u64;
        assert!(
            blocks <= u64::from(traits.geometry.transfer_blocks_max),
            "a transfer of {blocks} blocks"
        );
        if let Err(error) = traits.check(at, blocks) {
            return (buf, Err(error));
        }
        if blocks == 0 {
            return (buf, Ok(()));
        }
        Request::new(&self.shared.engine, kind, at * SECTORS_PER_BLOCK, 0, buf).await
    }
}

impl<T: Transport> Disk for BlkDisk<T> {
    fn geometry(&self) -> Geometry {
        self.shared.traits.geometry
    }

    fn info(&self) -> DiskInfo {
        self.shared.info.clone()
    }

    async fn read(&self, at: BlockAddr, into: Buf) -> (Buf, Result<(), DiskError>) {
        self.transfer(Kind::Read, at, into).await
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        if self.shared.traits.read_only {
            return (from, Err(DiskError::ReadOnly));
        }
        self.transfer(Kind::Write, at, from).await
    }

    async fn flush(&self) -> Result<(), DiskError> {
        if !self.shared.traits.has_cache {
            return self.failure().map_or(Ok(()), Err);
        }
        let request = Request::new(&self.shared.engine, Kind::Flush, 0, 0, Buf::empty());
        request.await.1
    }

    async fn discard(&self, ranges: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        let traits = &self.shared.traits;
        for range in ranges {
            traits.check(range.start, range.end.saturating_sub(range.start))?;
        }
        let Some((kind, sectors_max)) = traits.discard else {
            return Ok(());
        };
        for range in ranges {
            let end = range.end * SECTORS_PER_BLOCK;
            let mut sector = range.start * SECTORS_PER_BLOCK;
            while sector < end {
                let count = (end - sector).min(u64::from(sectors_max));
                let engine = &self.shared.engine;
                let request = Request::new(engine, kind, sector, count as u32, Buf::empty());
                request.await.1?;
                sector += count;
            }
        }
        Ok(())
    }
}

const WANTED: u64 = feature::SEG_MAX
    | feature::RO
    | feature::BLK_SIZE
    | feature::FLUSH
    | feature::DISCARD
    | feature::WRITE_ZEROES;

/// What the configuration says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traits {
    geometry: Geometry,
    read_only: bool,
    /// Writes are durable only after a flush; without the feature they are at once (5.2.5).
    has_cache: bool,
    /// The command that discards, and the most sectors it takes.
    discard: Option<(Kind, u32)>,
}

impl Traits {
    /// Reads the configuration, or `None` when such a device cannot be driven in blocks of 4 KiB.
    fn read<T: Transport>(transport: &T, features: u64) -> Option<Self> {
        let has = |feature| features & feature != 0;
        let sector_bytes = if has(feature::BLK_SIZE) {
            transport.config32(config::BLK_SIZE)
        } else {
            SECTOR as u32
        };
        if !sector_bytes.is_power_of_two()
            || !(SECTOR as u32..=BLOCK_SIZE as u32).contains(&sector_bytes)
        {
            return None;
        }
        let segments_max = if has(feature::SEG_MAX) {
            transport.config32(config::SEG_MAX)
        } else {
            1
        };
        let read_only = has(feature::RO);
        let discard = read_discard(transport, features).filter(|_| !read_only);
        Some(Self {
            geometry: Geometry {
                blocks: config64(transport, config::CAPACITY) / SECTORS_PER_BLOCK,
                // The physical block size of the topology is advice about speed; only this one is never torn.
                sector_bytes: if sector_bytes < BLOCK_SIZE as u32 {
                    SECTOR as u32
                } else {
                    BLOCK_SIZE as u32
                },
                transfer_blocks_max: segments_max.clamp(1, Buf::PAGES_MAX as u32),
                can_discard: discard.is_some(),
            },
            read_only,
            has_cache: has(feature::FLUSH),
            discard,
        })
    }

    fn check(&self, at: BlockAddr, blocks: u64) -> Result<(), DiskError> {
        match at.checked_add(blocks) {
            Some(end) if end <= self.geometry.blocks => Ok(()),
            _ => Err(DiskError::OutOfRange),
        }
    }
}

/// How to discard: with the command made for it, or by writing zeros if that frees space too.
fn read_discard<T: Transport>(transport: &T, features: u64) -> Option<(Kind, u32)> {
    let whole_blocks = |offset| {
        let sectors = transport.config32(offset);
        let sectors = sectors - sectors % SECTORS_PER_BLOCK as u32;
        (sectors > 0).then_some(sectors)
    };
    if features & feature::DISCARD != 0
        && let Some(sectors) = whole_blocks(config::MAX_DISCARD_SECTORS)
    {
        return Some((Kind::Discard, sectors));
    }
    let frees = features & feature::WRITE_ZEROES != 0
        && transport.config8(config::WRITE_ZEROES_MAY_UNMAP) & 1 != 0;
    let sectors = whole_blocks(config::MAX_WRITE_ZEROES_SECTORS).filter(|_| frees)?;
    Some((Kind::WriteZeroes, sectors))
}

#[cfg(test)]
mod tests;
