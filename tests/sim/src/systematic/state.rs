//! What users have: volumes and snapshots, and what is in them, as it should be and as it is.

use std::collections::BTreeMap;

use store::{Source, Span, Store, StoreError};
use world::{BLOCK_SIZE, Buf};

use super::tape::TapeDisk;

const SECTOR: usize = 512;

/// The blocks that operations touch: in one leaf, in two, and far away.
pub const LBAS: [u64; 4] = [0, 127, 128, 20_000];

/// What each sector of a block is: 0 for zeros, the number of the write that it came from, or one of these.
pub type Sectors = [u64; BLOCK_SIZE / SECTOR];

/// Nobody ever wrote this.
const GARBAGE: u64 = u64::MAX;

/// The store says that it cannot be read.
const UNREADABLE: u64 = u64::MAX - 1;

/// The store says that it has not arrived from its origin.
pub const ABSENT: u64 = u64::MAX - 2;

/// One volume or snapshot: its size in blocks, and blocks that are not zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub size: u64,
    pub blocks: BTreeMap<u64, Sectors>,
}

/// A volume with its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    pub now: Contents,
    pub snapshots: BTreeMap<String, Contents>,
}

/// All of it, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    pub volumes: BTreeMap<String, Volume>,
}

impl Users {
    /// Looks at everything.
    ///
    /// # Errors
    /// What the store says, other than that a block cannot be read.
    pub async fn observe(store: &Store<TapeDisk>) -> Result<Self, String> {
        let mut users = Self::default();
        for info in store.volumes() {
            let mut volume = Volume {
                now: look(store, info.id.into(), info.size_bytes).await?,
                snapshots: BTreeMap::new(),
            };
            for snapshot in store.snapshots(info.id) {
                let contents = look(store, snapshot.id.into(), snapshot.size_bytes).await?;
                volume.snapshots.insert(snapshot.name, contents);
            }
            if store.find(&info.name).map(|found| found.id) != Some(info.id) {
                return Err(format!("{} is not found by its name", info.name));
            }
            users.volumes.insert(info.name, volume);
        }
        Ok(users)
    }

    /// Whether this is `other` but for blocks that cannot be read.
    pub fn is_part_of(&self, other: &Self) -> bool {
        let is_part = |one: &Contents, other: &Contents| {
            let is_part = |lba: &u64| match (one.blocks.get(lba), other.blocks.get(lba)) {
                (Some(found), _) if found.contains(&UNREADABLE) => true,
                (found, expected) => found == expected,
            };
            one.size == other.size && LBAS.iter().all(is_part)
        };
        self.volumes.len() == other.volumes.len()
            && self.volumes.iter().all(|(name, one)| {
                other.volumes.get(name).is_some_and(|other| {
                    is_part(&one.now, &other.now)
                        && one.snapshots.len() == other.snapshots.len()
                        && one.snapshots.iter().all(|(name, one)| {
                            other
                                .snapshots
                                .get(name)
                                .is_some_and(|other| is_part(one, other))
                        })
                })
            })
    }

    /// How many blocks cannot be read.
    pub fn unreadable(&self) -> usize {
        let count = |contents: &Contents| {
            let blocks = contents.blocks.values();
            blocks.filter(|block| block.contains(&UNREADABLE)).count()
        };
        let of = |volume: &Volume| {
            count(&volume.now) + volume.snapshots.values().map(count).sum::<usize>()
        };
        self.volumes.values().map(of).sum()
    }
}

async fn look(store: &Store<TapeDisk>, source: Source, bytes: u64) -> Result<Contents, String> {
    let block = BLOCK_SIZE as u64;
    let mut contents = Contents {
        size: bytes / block,
        blocks: BTreeMap::new(),
    };
    for lba in LBAS.into_iter().filter(|lba| *lba < contents.size) {
        let span = Span {
            offset: lba * block,
            len: BLOCK_SIZE as u32,
        };
        let (buf, result) = store.read(source, span, Buf::from_heap(1)).await;
        let sectors = match result {
            Ok(_) => decode(buf.block(0)),
            Err(StoreError::Damaged { .. } | StoreError::Disk(_) | StoreError::DamagedPool) => {
                [UNREADABLE; BLOCK_SIZE / SECTOR]
            }
            Err(StoreError::Absent) => [ABSENT; BLOCK_SIZE / SECTOR],
            Err(error) => return Err(format!("reading block {lba} of {source:?}: {error:?}")),
        };
        if sectors != [0; BLOCK_SIZE / SECTOR] {
            contents.blocks.insert(lba, sectors);
        }
    }
    Ok(contents)
}

/// Fills a sector with what write `stamp` puts there.
pub fn encode(stamp: u64, sector: &mut [u8]) {
    for (index, word) in (0..).zip(sector.as_chunks_mut::<8>().0) {
        *word = word_of(stamp, index).to_le_bytes();
    }
}

fn word_of(stamp: u64, index: u64) -> u64 {
    match index {
        0 => stamp,
        _ => stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ index,
    }
}

fn decode(block: &[u8; BLOCK_SIZE]) -> Sectors {
    core::array::from_fn(|at| {
        let sector = &block[at * SECTOR..(at + 1) * SECTOR];
        let words = sector.as_chunks::<8>().0;
        let stamp = u64::from_le_bytes(words[0]);
        if sector.iter().all(|byte| *byte == 0) {
            return 0;
        }
        let is_whole = (0..)
            .zip(words)
            .all(|(index, word)| u64::from_le_bytes(*word) == word_of(stamp, index));
        if is_whole { stamp } else { GARBAGE }
    })
}
