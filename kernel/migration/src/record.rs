//! What is kept of a volume that moves or has moved: one record of the store for each, `move/` and its identity.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use peer::PublicKey;
use serde::{Deserialize, Serialize};

use crate::rules::{Epoch, Record};

/// What keys of the records begin with.
const KEY: &str = "move/";

/// What an appliance has to do with a volume. What was written is in the volume itself.
pub type Owner = Record<PublicKey, News>;

/// That something was written; what it was is in the volume. (Not `()`: some of that cannot be told from nothing in JSON.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// Perhaps something was.
    Written,
}

/// Identity of a volume: the same on all appliances that it was on. Its text is 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id(pub [u8; 16]);

/// What becomes of the copy that stays where a volume was, once the other appliance has all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// It stays, and nobody can use it but the volume itself, should it come back.
    #[default]
    Keep,
    /// It goes.
    Free,
    /// It stays, with a snapshot of the hand-over.
    Snapshot,
}

/// Everything that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is called.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Whose it is.
    pub owner: Owner,
    /// The newest offer that was made here.
    pub offers: u64,
    /// The volume that is owned, offered or prepared.
    pub volume: Option<u64>,
    /// Where that one came from.
    pub came: Option<Came>,
    /// What was given away and is still here, oldest first.
    pub copies: Vec<OldCopy>,
    /// What was wanted when it was offered.
    pub wish: Wish,
    /// Who gave the volume to this appliance.
    pub giver: Option<PublicKey>,
    /// Who has to be told that the volume was taken over by force.
    pub superseded: Option<PublicKey>,
}

/// What was wanted of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// It is handed over as soon as the other appliance is ready.
    pub at_once: bool,
    /// What becomes of the copy.
    pub after: After,
    /// Snapshots go along.
    #[serde(default)]
    pub with_snapshots: bool,
    /// Number of the job.
    pub job: u64,
}

/// Where a volume came from, and what its blocks are that have not arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// Who gave it, or will.
    pub from: PublicKey,
    /// Epoch of the ownership for which it was given.
    pub epoch: Epoch,
    /// Bytes that it had then.
    pub size_bytes: u64,
    /// Only what is newer than this comes from there.
    pub since: Option<Since>,
    /// Its snapshots come, or have come, too.
    #[serde(default)]
    pub with_snapshots: bool,
    /// Those that are still to come.
    #[serde(default)]
    pub history: Option<History>,
}

/// Snapshots that are still to come with a volume, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The volume that becomes what they are, one after the other; at first it is what was given.
    pub volume: u64,
    /// The last that came.
    pub last: Option<Moment>,
}

/// A snapshot, where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Its identity.
    pub snapshot: Id,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_nanos: u64,
}

/// What a volume was when it was given away, and is read from when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The copy.
    pub volume: u64,
    /// For which ownership it was given.
    pub epoch: Epoch,
}

/// A volume that was given away, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldCopy {
    /// The volume that has it.
    pub volume: u64,
    /// For which ownership it was given.
    pub epoch: Epoch,
    /// To whom.
    pub to: PublicKey,
    /// Where it came from itself.
    pub came: Option<Came>,
    /// That one has all of it, or needs it no more.
    pub has_arrived: bool,
    /// What becomes of it then.
    pub after: After,
    /// Its snapshots go along.
    #[serde(default)]
    pub with_snapshots: bool,
}

impl Kept {
    /// Of a volume that never moved.
    pub fn new(name: &str, size_bytes: u64, owner: Owner, volume: Option<u64>) -> Self {
        Self {
            name: name.into(),
            size_bytes,
            owner,
            offers: 0,
            volume,
            came: None,
            copies: Vec::new(),
            wish: Wish::default(),
            giver: None,
            superseded: None,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types become JSON")
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Where the volume and the copies came from.
    pub fn cames(&self) -> impl Iterator<Item = &Came> {
        let copies = self.copies.iter().filter_map(|copy| copy.came.as_ref());
        self.came.iter().chain(copies)
    }

    /// Volumes that become what snapshots are that are still to come.
    pub fn histories(&self) -> impl Iterator<Item = u64> {
        let histories = self.cames().filter_map(|came| came.history.as_ref());
        histories.map(|history| history.volume)
    }

    /// Whether a volume is what is moved, or a copy of it.
    pub fn has(&self, volume: u64) -> bool {
        self.volume == Some(volume) || self.copies.iter().any(|copy| copy.volume == volume)
    }

    /// Whether who was given the volume for an ownership has all of it, or there is nothing to tell by.
    pub fn has_arrived(&self, epoch: Epoch) -> bool {
        self.copy(epoch).is_none_or(|copy| copy.has_arrived)
    }

    /// Whether the snapshots of what was given for an ownership go along.
    pub fn goes_with_snapshots(&self, epoch: Epoch) -> bool {
        self.copy(epoch).is_some_and(|copy| copy.with_snapshots)
    }

    /// Whether snapshots of the volume are still to come.
    pub fn is_past_coming(&self) -> bool {
        self.came
            .as_ref()
            .is_some_and(|came| came.history.is_some())
    }

    /// Whether something that comes back is read from a copy.
    pub fn reads_copies(&self) -> bool {
        self.cames().any(|came| came.since.is_some())
    }

    /// What `to` gave, from which the volume comes that it is offered or given for `epoch`: only what is newer need go back.
    pub fn since_for(&self, to: PublicKey, epoch: Epoch) -> Option<Epoch> {
        let came = match self.copy(epoch) {
            Some(copy) => copy.came.as_ref(),
            None => self.came.as_ref(),
        };
        came.filter(|came| came.from == to).map(|came| came.epoch)
    }

    /// What came for an ownership.
    pub fn came_for(&self, epoch: Epoch) -> Option<&Came> {
        self.cames().find(|came| came.epoch == epoch)
    }

    /// The copy that was given for an ownership.
    pub fn copy(&self, epoch: Epoch) -> Option<&OldCopy> {
        self.copies.iter().find(|copy| copy.epoch == epoch)
    }
}

impl Id {
    /// The key of the record.
    pub fn key(self) -> String {
        format!("{KEY}{self}")
    }

    /// The one whose record this key is of.
    pub fn of_key(key: &str) -> Option<Self> {
        key.strip_prefix(KEY)?.parse().ok()
    }
}

/// A text is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoId;

impl fmt::Display for NoId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not the identity of a volume")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(NoId)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        format!("{id}")
    }
}

impl TryFrom<String> for Id {
    type Error = NoId;

    fn try_from(text: String) -> Result<Self, NoId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn what_is_kept_survives() {
        let key: PublicKey = "ab".repeat(32).parse().expect("a key");
        let owners = [
            Record::Nothing { floor: 1 },
            Record::Owned { epoch: 2 },
            Record::Offered {
                epoch: 2,
                to: key,
                nonce: 3,
            },
            Record::Prepared {
                epoch: 2,
                from: key,
                nonce: 3,
            },
            Record::Given {
                epoch: 2,
                to: key,
                nonce: 3,
                news: None,
            },
            Record::Given {
                epoch: 2,
                to: key,
                nonce: 3,
                news: Some(News::Written),
            },
        ];
        for owner in owners {
            let mut kept = Kept::new("db", 4096, owner, Some(7));
            let since = Some(Since {
                volume: 5,
                epoch: 1,
            });
            kept.came = Some(Came {
                from: key,
                epoch: 2,
                size_bytes: 4096,
                since,
                with_snapshots: true,
                history: Some(History {
                    volume: 9,
                    last: Some(Moment {
                        snapshot: Id([7; 16]),
                        created_at_nanos: 1,
                    }),
                }),
            });
            kept.copies = vec![OldCopy {
                volume: 5,
                epoch: 1,
                to: key,
                came: None,
                has_arrived: true,
                after: After::Snapshot,
                with_snapshots: true,
            }];
            assert_eq!(Kept::decode(&kept.encode()), Some(kept));
        }
        assert_eq!(Kept::decode(b"{}"), None);
    }

    #[test]
    fn identities_are_digits() {
        let id = Id([0xab; 16]);
        assert_eq!(Id::of_key(&id.key()), Some(id));
        for bad in ["move/", "move/+b", "job/7", &id.key()[..36]] {
            assert_eq!(Id::of_key(bad), None, "{bad}");
        }
    }
}
