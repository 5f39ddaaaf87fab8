//! The values that go in and out of a store.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use exec::Exec;
use world::{BLOCK_SIZE, Buf, DiskError, Entropy, Pool};

use crate::mutant::Mutants;

/// What a store needs besides drives.
#[derive(Clone)]
pub struct Environment {
    /// Runs its background work and tells the time.
    pub exec: Exec,
    /// Draws its uuids and salts.
    pub entropy: Rc<dyn Entropy>,
    /// Pages for its own reads and writes (journal, metadata, partial blocks). Nobody else takes from it.
    pub pool: Pool,
}

impl Environment {
    /// A new random uuid: version 4, variant 1 (RFC 9562, section 5.4).
    pub(crate) fn new_uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        self.entropy.fill(&mut uuid);
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// Sizes of the structures in memory; all of them are hard limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Changes to the maps kept in memory between checkpoints, both halves together (64 bytes each).
    pub deltas_max: usize,
    /// Map nodes cached (4.2 KiB each).
    pub nodes_max: usize,
    /// Allocation groups whose bitmaps are loaded (12 KiB each).
    pub groups_open_max: usize,
    /// Volumes and snapshots, deleted ones that are not taken apart yet included (0.8 KiB each).
    pub maps_max: usize,
    /// Blocks of what was deleted or discarded that one checkpoint frees, about: more free space sooner, fewer keep
    /// checkpoints short.
    pub reclaim_blocks: usize,
    /// Deliberate bugs, for the simulator.
    pub mutants: Mutants,
}

impl Config {
    /// What fits into `bytes` of memory.
    #[must_use]
    pub fn for_memory(bytes: usize) -> Self {
        let deltas_max = (bytes * 2 / 5 / 64).clamp(8192, 1 << 22);
        let groups_open_max = (bytes / 24 / (12 * 1024)).clamp(16, 1024);
        let maps_max = (bytes / 4 / 800).clamp(1024, 1 << 20);
        let own = deltas_max * 64 + groups_open_max * 12 * 1024 + maps_max * 800;
        let rest = bytes.saturating_sub(own);
        Self {
            deltas_max,
            groups_open_max,
            maps_max,
            reclaim_blocks: 8192,
            nodes_max: (rest / 4300).clamp(128, 1 << 20),
            mutants: Mutants::default(),
        }
    }
}

/// How a new pool is made.
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// log2 of the blocks of an allocation group; chosen from the size of the drives when absent.
    pub group_shift: Option<u8>,
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing: first and last 4 MiB and spread samples are zero.
    Blank,
    /// A member of a pool that this version can open.
    Member {
        /// The pool it belongs to.
        pool_uuid: [u8; 16],
        /// This drive within the pool.
        device_uuid: [u8; 16],
        /// Drives of the whole pool.
        members: usize,
    },
    /// Something else; the text names it, e.g. `an ext4 file system`.
    Foreign(String),
}

/// Names a volume for as long as the pool exists; never used again after a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u64);

/// Names a snapshot for as long as the pool exists; never used again after a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// Names what arrived so far of an adopted volume, for as long as a volume or snapshot may need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseId(pub u64);

/// What arrived so far of an adopted volume. Its snapshots and clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseInfo {
    /// Its number.
    pub id: BaseId,
    /// Identity across pools.
    pub uuid: [u8; 16],
    /// Size of what was adopted, in bytes.
    pub size_bytes: u64,
    /// Bytes that arrived; as of the last checkpoint.
    pub stored_bytes: u64,
    /// Of so many bytes from the beginning on, all that is not zeros is here.
    pub known_bytes: u64,
}

impl BaseInfo {
    /// Whether all is here, and the origin is not needed any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.known_bytes >= self.size_bytes
    }
}

/// A run of blocks that are here, or that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Blocks.
    pub blocks: usize,
    /// The base that lacks them; nothing if they can be read.
    pub absent: Option<BaseId>,
}

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A volume as it is now.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl From<VolumeId> for Source {
    fn from(id: VolumeId) -> Self {
        Self::Volume(id)
    }
}

impl From<SnapshotId> for Source {
    fn from(id: SnapshotId) -> Self {
        Self::Snapshot(id)
    }
}

/// A volume as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its number.
    pub id: VolumeId,
    /// Its unique name.
    pub name: String,
    /// Identity across pools.
    pub uuid: [u8; 16],
    /// Size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Bytes that hold data, those shared with snapshots and clones included; as of the last checkpoint.
    pub allocated_bytes: u64,
    /// Nanoseconds since 1970, 0 when there was no clock.
    pub created_at_nanos: u64,
    /// The snapshot that it was cloned from, while that exists.
    pub origin: Option<SnapshotId>,
    /// What it shares with an origin elsewhere, if it was adopted, or cloned from what was.
    pub bases: Vec<BaseId>,
    /// How many snapshots it has.
    pub snapshots: usize,
}

/// A snapshot as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its number.
    pub id: SnapshotId,
    /// The volume that it is of.
    pub volume: VolumeId,
    /// Its name, unique among the snapshots of its volume.
    pub name: String,
    /// Identity across pools.
    pub uuid: [u8; 16],
    /// Size of the volume at that moment, in bytes.
    pub size_bytes: u64,
    /// Bytes that hold data, shared ones included; as of the last checkpoint.
    pub allocated_bytes: u64,
    /// Nanoseconds since 1970, 0 when there was no clock.
    pub created_at_nanos: u64,
}

impl SnapshotInfo {
    /// Where it is among the snapshots of its volume.
    #[must_use]
    pub fn order(&self) -> SnapshotOrder {
        SnapshotOrder {
            created_at_nanos: self.created_at_nanos,
            id: self.id,
        }
    }

    /// What it is called, wherever it is.
    #[must_use]
    pub fn label(&self) -> SnapshotLabel {
        SnapshotLabel {
            name: self.name.clone(),
            uuid: self.uuid,
            size_bytes: self.size_bytes,
            created_at_nanos: self.created_at_nanos,
        }
    }
}

/// Snapshots of a volume are in order of their times: those that came from elsewhere are older than their numbers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotOrder {
    /// Nanoseconds since 1970.
    pub created_at_nanos: u64,
    /// Of the same time, the one that was made here first comes first.
    pub id: SnapshotId,
}

/// What is known of a snapshot on whatever appliance it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotLabel {
    /// Its name.
    pub name: String,
    /// Identity across pools.
    pub uuid: [u8; 16],
    /// Size of the volume at that moment, in bytes.
    pub size_bytes: u64,
    /// Nanoseconds since 1970, 0 when there was no clock.
    pub created_at_nanos: u64,
}

/// What a part of a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStep {
    /// Where to go on, in bytes; absent at the end.
    pub next: Option<u64>,
    /// Bytes that were freed.
    pub freed_bytes: u64,
    /// Ranges that they were in.
    pub holes: u64,
}

/// Who uses how much. `referenced = unique + shared`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of data that it refers to.
    pub referenced_bytes: u64,
    /// Of these, bytes that its deletion frees.
    pub unique_bytes: u64,
}

impl Usage {
    /// Bytes that something else needs as well.
    #[must_use]
    pub fn shared_bytes(self) -> u64 {
        self.referenced_bytes - self.unique_bytes
    }
}

/// A range in which two sources differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// First byte, a multiple of 4096.
    pub offset: u64,
    /// Bytes, a multiple of 4096.
    pub len: u64,
    /// Whether the newer one has zeros here and no block; otherwise it has data.
    pub is_zero: bool,
}

/// A part of a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ascending and not touching when of the same kind.
    pub ranges: Vec<Change>,
    /// Where to go on, in bytes; absent at the end.
    pub next: Option<u64>,
}

/// What a part of a volume or snapshot is, compared with an older snapshot or with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// As it was; compared with nothing, zeros and no block.
    Same,
    /// Data that the other has not, or has otherwise.
    Data,
    /// Zeros and no block, where the other has data.
    Zero,
}

/// A run of blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// What they are.
    pub content: Content,
}

/// How far a scrub has come; the default is the beginning. Both numbers mean nothing outside the store, but may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubPosition {
    /// The map.
    pub map: u64,
    /// The block within it.
    pub block: u64,
}

/// A block that does not hold what was written, on any drive. Two steps may tell of the same one when its map is taken apart between
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Who has it, and the byte where: the first 64 of them. Empty for a block of the pool's own, and for what only deleted maps have.
    pub places: Vec<(Source, u64)>,
    /// How many more have it.
    pub places_more: u64,
    /// Bytes that cannot be read, at each of these places; what ends before that has lost less.
    pub len: u64,
}

/// What one step of a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Where the next one begins; absent when all has been seen.
    pub next: Option<ScrubPosition>,
    /// Blocks that were verified, of data and of maps.
    pub blocks: u64,
    /// What cannot be read.
    pub damaged: Vec<Damage>,
    /// Replicas that were bad and were written anew from good ones.
    pub repaired: u64,
}

/// How close to full the pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// Enough left.
    #[default]
    Fine,
    /// Less than a fifth is left for data.
    Low,
    /// Less than a twentieth is left for data.
    Critical,
    /// Writes are refused; deletes and discards work.
    Full,
}

impl Fullness {
    /// By figures in bytes: what data can have now, what is on its way back, and all there is.
    pub(crate) fn of(writable: u64, pending: u64, size: u64) -> Self {
        if writable == 0 && pending == 0 {
            Self::Full
        } else if writable < size / 20 {
            Self::Critical
        } else if writable < size / 5 {
            Self::Low
        } else {
            Self::Fine
        }
    }
}

/// Whether the pool takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Everything works.
    Serving,
    /// Reads only, and why.
    ReadOnly(String),
}

/// The pool as a whole. `used + free = size` always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Identity.
    pub uuid: [u8; 16],
    /// Bytes that volumes and maps can use in all.
    pub size_bytes: u64,
    /// Bytes in use, those not yet given back included.
    pub used_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Of the used bytes: freed, but not yet reusable.
    pub pending_bytes: u64,
    /// Of the free bytes: what data can have before more is freed.
    pub writable_bytes: u64,
    /// Of the free bytes: kept back for deletes, discards and checkpoints.
    pub reserved_bytes: u64,
    /// Whether it takes writes.
    pub state: PoolState,
    /// How close to full it is.
    pub fullness: Fullness,
    /// Bytes that the drives were told are not needed any more, since the pool was opened.
    pub deallocated_bytes: u64,
    /// Checkpoints since the pool was opened.
    pub checkpoints: u64,
    /// Blocks whose tag did not match when read, since the pool was opened.
    pub damaged_reads: u64,
}

/// A byte range of a volume: offset and length are multiples of 512.
///
/// Its buffer has one page for each 4 KiB block that the range touches, and byte `offset % 4096` of the first page is
/// the range's first byte. So aligned and unaligned requests use the same buffers and nothing is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Span {
    /// Pages that a buffer for this range has.
    #[must_use]
    pub fn blocks(self) -> usize {
        let block = BLOCK_SIZE as u64;
        let end = self.offset + u64::from(self.len);
        usize::try_from(end.div_ceil(block) - self.offset / block).unwrap_or(usize::MAX)
    }

    /// Whether the range covers whole blocks only.
    #[must_use]
    pub fn is_aligned(self) -> bool {
        self.offset.is_multiple_of(BLOCK_SIZE as u64)
            && (self.len as usize).is_multiple_of(BLOCK_SIZE)
    }
}

/// Which blocks of a buffer that was read are holes: those that read as zeros and use no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holes(u32);

const _: () = assert!(Buf::PAGES_MAX <= u32::BITS as usize);

impl Holes {
    /// `count` blocks, at least one, from `first` on.
    pub(crate) fn new(first: usize, count: usize) -> Self {
        Self(u32::MAX >> (u32::BITS as usize - count) << first)
    }

    /// These and others.
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether block `first` of the buffer is one, and how many blocks in all, of `blocks`, are as it is from there on.
    #[must_use]
    pub fn run(self, first: usize, blocks: usize) -> (bool, usize) {
        let rest = self.0 >> first;
        let is_hole = rest & 1 != 0;
        let same = if is_hole { !rest } else { rest };
        (
            is_hole,
            (same.trailing_zeros() as usize).min(blocks - first),
        )
    }
}

/// Why the store refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The request is wrong: beyond the end of the volume, or not in units of 512 bytes.
    OutOfRange,
    /// The request is wrong: no such volume (any more).
    NoVolume,
    /// The request is wrong: no such snapshot (any more).
    NoSnapshot,
    /// The request is wrong: the snapshot is not one of this volume.
    OtherVolume,
    /// The request is wrong: more volumes in one instant than one journal record takes.
    TooManyAtOnce,
    /// The request is wrong: there are as many volumes and snapshots as memory has room for.
    TooManyMaps,
    /// The request is wrong: the name is taken.
    NameTaken,
    /// The request is wrong: names are 1 to 63 of `a-z 0-9 . _ -` and begin with a letter or digit.
    BadName,
    /// The request is wrong: a volume's size is a multiple of 512, at least one block and at most 128 TiB; it only grows.
    BadSize,
    /// The request is wrong: a record's key or value is too long.
    RecordTooLong,
    /// The pool is full. Deletes and discards still work; try again after one.
    NoSpace,
    /// The pool takes no writes until it is opened again.
    ReadOnly,
    /// The store was closed.
    Closed,
    /// A drive failed.
    Disk(DiskError),
    /// A part of it is not here yet: fetch it from the origin and try again.
    Absent,
    /// The data of this block is damaged: what the drive returned is not what was written.
    Damaged {
        /// Block number within the volume.
        block: u64,
    },
    /// Metadata is damaged beyond what redundancy repairs.
    DamagedPool,
    /// Not a pool of this format, or a newer one.
    Unsupported,
    /// Drives of the pool are missing.
    Incomplete,
    /// The drive is too small: 64 MiB is the least.
    TooSmall,
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => {
                out.write_str("beyond the end of the volume, or not in units of 512 bytes")
            }
            Self::NoVolume => out.write_str("no such volume"),
            Self::NoSnapshot => out.write_str("no such snapshot"),
            Self::OtherVolume => out.write_str("the snapshot is of another volume"),
            Self::TooManyAtOnce => out.write_str("at most 60 volumes in one instant"),
            Self::TooManyMaps => out.write_str("no memory for more volumes and snapshots"),
            Self::NameTaken => out.write_str("that name is taken"),
            Self::BadName => out
                .write_str("a name is 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit"),
            Self::BadSize => out.write_str(
                "a size is a multiple of 512 bytes, at least 4096, at most 128 TiB, and only grows",
            ),
            Self::RecordTooLong => out.write_str("the record is too long"),
            Self::NoSpace => out.write_str("no space left in the pool"),
            Self::ReadOnly => out.write_str("the pool is read-only"),
            Self::Closed => out.write_str("the pool is closed"),
            Self::Disk(error) => error.fmt(out),
            Self::Absent => out.write_str("a part of it has not arrived from its origin yet"),
            Self::Damaged { block } => write!(out, "block {block} is damaged"),
            Self::DamagedPool => out.write_str("the pool's metadata is damaged"),
            Self::Unsupported => out.write_str("not a pool of a format that this version knows"),
            Self::Incomplete => out.write_str("drives of the pool are missing"),
            Self::TooSmall => out.write_str("the drive is smaller than 64 MiB"),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
