//! The short operations that sequences are made of: what each does to a store, and what it should do.

use core::fmt;

use store::{BaseId, SnapshotId, Span, Store, StoreError, VolumeId};
use world::{BLOCK_SIZE, Buf};

use super::state::{ABSENT, Contents, LBAS, Users, Volume, encode};
use super::tape::TapeDisk;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks of the volume at first, and after it grew.
const SIZES: [u64; 2] = [256, 20_100];

/// What the origin of the adopted volume has in each block but [`ZERO`].
const ORIGIN: u64 = 1 << 40;

/// Where that has zeros.
const ZERO: u64 = 127;

/// What a user asks for. `V` is the volume, `C` a clone of its newest snapshot; another one is adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    WriteFirst,
    WriteTwo,
    WriteSector,
    Discard,
    DiscardLeaf,
    Flush,
    Snapshot,
    DeleteOldest,
    DeleteNewest,
    Clone,
    WriteClone,
    SnapshotBoth,
    RenameClone,
    DeleteClone,
    Rollback,
    GrowAndWrite,
    DeleteVolume,
    Checkpoint,
    Adopt,
    Arrive,
    WriteAdopted,
}

impl Operation {
    pub const ALL: [Self; 21] = [
        Self::WriteFirst,
        Self::WriteTwo,
        Self::WriteSector,
        Self::Discard,
        Self::DiscardLeaf,
        Self::Flush,
        Self::Snapshot,
        Self::DeleteOldest,
        Self::DeleteNewest,
        Self::Clone,
        Self::WriteClone,
        Self::SnapshotBoth,
        Self::RenameClone,
        Self::DeleteClone,
        Self::Rollback,
        Self::GrowAndWrite,
        Self::DeleteVolume,
        Self::Checkpoint,
        Self::Adopt,
        Self::Arrive,
        Self::WriteAdopted,
    ];

    /// Whether it is durable as soon as it is acknowledged, and with it everything before.
    pub fn is_durable(self) -> bool {
        !matches!(
            self,
            Self::WriteFirst
                | Self::WriteTwo
                | Self::WriteSector
                | Self::Discard
                | Self::DiscardLeaf
                | Self::WriteClone
                | Self::Arrive
                | Self::WriteAdopted
        )
    }

    /// Reads back what [`Display`](fmt::Display) printed.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.to_string() == text)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, letter) in format!("{self:?}").chars().enumerate() {
            if letter.is_uppercase() && index > 0 {
                out.write_str("-")?;
            }
            write!(out, "{}", letter.to_lowercase())?;
        }
        Ok(())
    }
}

/// Who does it: the users' view so far, and numbers for writes and snapshots.
#[derive(Clone, Debug)]
pub struct User {
    pub users: Users,
    stamp: u64,
    snapshots: u64,
}

/// What one operation comes down to, with names.
#[derive(Clone, Debug)]
enum Request {
    Write(String, u64, Vec<u8>),
    Discard(String, u64),
    Flush,
    Snapshot(Vec<(String, String)>),
    DeleteSnapshot(String, String),
    Clone(String, String, String),
    Rename(String, String),
    Delete(String),
    Rollback(String, String),
    Grow(String, u64),
    Checkpoint,
    Adopt(String, u64),
    Fill(String, u64),
    FillZeros(String, u64),
}

impl User {
    /// The beginning: one empty volume.
    pub fn new() -> Self {
        let volume = Volume {
            now: Contents {
                size: SIZES[0],
                ..Contents::default()
            },
            ..Volume::default()
        };
        Self {
            users: Users {
                volumes: [("v".to_string(), volume)].into(),
            },
            stamp: 0,
            snapshots: 0,
        }
    }

    /// A user who comes to volumes that are there; writes get numbers that nobody used.
    pub fn with(users: Users) -> Self {
        Self {
            users,
            stamp: 1 << 32,
            snapshots: 1000,
        }
    }

    /// Makes the volume of the beginning.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(store: Store<TapeDisk>) -> Result<(), StoreError> {
        store.create_volume("v", SIZES[0] * BLOCK).await.map(drop)
    }

    /// Does an operation in the model, unless it is impossible now. Returns what to ask of the store.
    fn plan(&mut self, operation: Operation) -> Option<Vec<Request>> {
        use Operation as O;
        let clone = ["c", "d"]
            .into_iter()
            .find(|name| self.users.volumes.contains_key(*name));
        let clone = clone.map(str::to_string);
        let v = || "v".to_string();
        let newest = self
            .volume("v")
            .and_then(|volume| volume.snapshots.keys().next_back().cloned());
        Some(match operation {
            O::WriteFirst => vec![self.write("v", 0, 1)?],
            O::WriteTwo => vec![self.write("v", 127, 2)?],
            O::WriteClone => vec![self.write(&clone?, 0, 1)?],
            O::WriteSector => {
                self.stamp += 1;
                let stamp = self.stamp;
                let sectors = self.volume("v")?.now.blocks.entry(0).or_default();
                sectors[1] = stamp;
                let mut bytes = vec![0; 512];
                encode(stamp, &mut bytes);
                vec![Request::Write(v(), 512, bytes)]
            }
            O::Discard => {
                let now = &mut self.volume("v")?.now;
                now.blocks.clear();
                vec![Request::Discard(v(), now.size)]
            }
            O::DiscardLeaf => {
                // All of the first leaf but its last block.
                self.volume("v")?.now.blocks.retain(|lba, _| *lba >= 127);
                vec![Request::Discard(v(), 127)]
            }
            O::Flush => vec![Request::Flush],
            O::Checkpoint => vec![Request::Checkpoint],
            O::Snapshot => vec![Request::Snapshot(vec![self.snapshot("v")?])],
            O::SnapshotBoth => {
                let clone = clone?;
                let both = vec![self.snapshot("v")?, self.snapshot(&clone)?];
                vec![Request::Snapshot(both)]
            }
            O::DeleteOldest => {
                let (name, _) = self.volume("v")?.snapshots.pop_first()?;
                vec![Request::DeleteSnapshot(v(), name)]
            }
            O::DeleteNewest => {
                let volume = self.volume("v")?;
                // With one it is the oldest.
                if volume.snapshots.len() < 2 {
                    return None;
                }
                let (name, _) = volume.snapshots.pop_last()?;
                vec![Request::DeleteSnapshot(v(), name)]
            }
            O::Clone => {
                if clone.is_some() {
                    return None;
                }
                let name = newest?;
                let now = self.volume("v")?.snapshots.get(&name)?.clone();
                let volume = Volume {
                    now,
                    ..Volume::default()
                };
                self.users.volumes.insert("c".to_string(), volume);
                vec![Request::Clone(v(), name, "c".to_string())]
            }
            O::RenameClone => {
                let from = clone?;
                let to = if from == "c" { "d" } else { "c" }.to_string();
                let volume = self.users.volumes.remove(&from)?;
                self.users.volumes.insert(to.clone(), volume);
                vec![Request::Rename(from, to)]
            }
            O::DeleteClone => {
                let clone = clone?;
                self.users.volumes.remove(&clone)?;
                vec![Request::Delete(clone)]
            }
            O::DeleteVolume => {
                self.users.volumes.remove("v")?;
                vec![Request::Delete(v())]
            }
            O::Rollback => {
                let name = newest?;
                let volume = self.volume("v")?;
                volume.now = volume.snapshots.get(&name)?.clone();
                vec![Request::Rollback(v(), name)]
            }
            O::GrowAndWrite => {
                if self.volume("v")?.now.size == SIZES[1] {
                    return None;
                }
                self.volume("v")?.now.size = SIZES[1];
                let grow = Request::Grow(v(), SIZES[1]);
                vec![grow, self.write("v", 20_000, 1)?, Request::Flush]
            }
            O::Adopt => {
                let blocks = LBAS.into_iter().filter(|lba| *lba < SIZES[0]);
                let now = Contents {
                    size: SIZES[0],
                    blocks: blocks.map(|lba| (lba, [ABSENT; 8])).collect(),
                };
                let volume = Volume {
                    now,
                    ..Volume::default()
                };
                let is_new = !self.users.volumes.contains_key("a");
                is_new.then(|| self.users.volumes.insert("a".to_string(), volume))?;
                vec![Request::Adopt("a".to_string(), SIZES[0])]
            }
            O::Arrive => {
                self.arrive(0)?;
                self.arrive(ZERO)?;
                let a = "a".to_string();
                vec![Request::Fill(a.clone(), 0), Request::FillZeros(a, ZERO)]
            }
            O::WriteAdopted => vec![self.write("a", 0, 1)?],
        })
    }

    fn volume(&mut self, name: &str) -> Option<&mut Volume> {
        self.users.volumes.get_mut(name)
    }

    /// What an origin has arrives, where nobody wrote.
    fn arrive(&mut self, lba: u64) -> Option<()> {
        let blocks = &mut self.volume("a")?.now.blocks;
        if blocks.get(&lba) == Some(&[ABSENT; 8]) {
            match lba {
                ZERO => blocks.remove(&lba),
                _ => blocks.insert(lba, [ORIGIN; 8]),
            };
        }
        Some(())
    }

    fn write(&mut self, name: &str, lba: u64, count: usize) -> Option<Request> {
        self.stamp += 1;
        let stamp = self.stamp;
        let blocks = &mut self.volume(name)?.now.blocks;
        blocks.extend((lba..).take(count).map(|lba| (lba, [stamp; 8])));
        let mut bytes = vec![0; count * BLOCK_SIZE];
        bytes
            .chunks_mut(512)
            .for_each(|sector| encode(stamp, sector));
        Some(Request::Write(name.to_string(), lba * BLOCK, bytes))
    }

    fn snapshot(&mut self, name: &str) -> Option<(String, String)> {
        self.snapshots += 1;
        let label = format!("s{:02}", self.snapshots);
        let volume = self.volume(name)?;
        let now = volume.now.clone();
        volume.snapshots.insert(label.clone(), now);
        Some((name.to_string(), label))
    }

    /// Does an operation in the model. Returns the states on the way (the last one is the end) and what the store must
    /// be asked for; nothing when it is impossible now.
    pub fn step(&mut self, operation: Operation) -> Option<Step> {
        let mut next = self.clone();
        let requests = next.plan(operation)?;
        let mut states = Vec::new();
        if operation == Operation::GrowAndWrite {
            // It is two: the volume may have grown without the write.
            let mut grown = self.users.clone();
            grown.volumes.get_mut("v")?.now.size = SIZES[1];
            states.push(grown);
        }
        if operation == Operation::Arrive {
            // So is this.
            let mut begun = self.clone();
            begun.arrive(0)?;
            states.push(begun.users);
        }
        states.push(next.users.clone());
        *self = next;
        Some(Step { states, requests })
    }
}

/// An operation that is possible.
pub struct Step {
    pub states: Vec<Users>,
    requests: Vec<Request>,
}

impl Step {
    /// Asks the store for it.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn perform(self, store: Store<TapeDisk>) -> Result<(), String> {
        for request in self.requests {
            let text = format!("{request:?}");
            let done = perform(&store, request).await;
            done.map_err(|error| format!("{} failed: {error:?}", &text[..text.len().min(60)]))?;
        }
        Ok(())
    }
}

async fn perform(store: &Store<TapeDisk>, request: Request) -> Result<(), StoreError> {
    let volume = |name: &str| -> Result<VolumeId, StoreError> {
        let found = store.find(name).ok_or(StoreError::NoVolume)?;
        Ok(found.id)
    };
    let base = |name: &str| -> Result<BaseId, StoreError> {
        let found = store.find(name).ok_or(StoreError::NoVolume)?;
        found.bases.first().copied().ok_or(StoreError::NoVolume)
    };
    let snapshot = |id, name: &str| -> Result<SnapshotId, StoreError> {
        let found = store
            .find_snapshot(id, name)
            .ok_or(StoreError::NoSnapshot)?;
        Ok(found.id)
    };
    match request {
        Request::Write(name, offset, bytes) => {
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            let mut buf = Buf::from_heap(bytes.len().div_ceil(BLOCK_SIZE));
            let within = usize::try_from(offset % BLOCK).unwrap_or(0);
            buf.copy_from(within, &bytes);
            store.write(volume(&name)?, Span { offset, len }, buf).await
        }
        Request::Discard(name, blocks) => store.discard(volume(&name)?, 0, blocks * BLOCK).await,
        Request::Flush => store.flush().await,
        Request::Snapshot(wanted) => {
            let mut named = Vec::new();
            for (name, label) in &wanted {
                named.push((volume(name)?, label.as_str()));
            }
            store.create_snapshots(&named).await.map(drop)
        }
        Request::DeleteSnapshot(name, label) => {
            let id = snapshot(volume(&name)?, &label)?;
            store.delete_snapshot(id).await
        }
        Request::Clone(name, label, clone) => {
            let id = snapshot(volume(&name)?, &label)?;
            store.clone_snapshot(id, &clone).await.map(drop)
        }
        Request::Rename(from, to) => {
            let id = volume(&from)?;
            store.rename_volume(id, &to).await?;
            // Its name leads to it, and the old one to nothing.
            if store.find(&to).map(|found| found.id) != Some(id) || store.find(&from).is_some() {
                return Err(StoreError::BadName);
            }
            Ok(())
        }
        Request::Delete(name) => store.delete_volume(volume(&name)?).await,
        Request::Rollback(name, label) => {
            let id = volume(&name)?;
            store.rollback(id, snapshot(id, &label)?).await.map(drop)
        }
        Request::Grow(name, blocks) => {
            let id = volume(&name)?;
            store.grow_volume(id, blocks * BLOCK).await.map(drop)
        }
        Request::Checkpoint => store.checkpoint().await,
        Request::Adopt(name, blocks) => store.adopt_volume(&name, blocks * BLOCK).await.map(drop),
        Request::Fill(name, lba) => {
            let mut buf = Buf::from_heap(1);
            let sectors = buf.block_mut(0).chunks_mut(512);
            sectors.for_each(|sector| encode(ORIGIN, sector));
            store.fill(base(&name)?, lba * BLOCK, buf).await
        }
        Request::FillZeros(name, lba) => store.fill_zeros(base(&name)?, lba * BLOCK, BLOCK).await,
    }
}
