//! What appliances say to each other: messages of a channel, each a head in JSON and, where there is data, what follows it.
//!
//! ```text
//! length of the head 2, little endian | head | data
//!
//! data of a read       a seal of 16 for each block of data | those blocks
//! data of extents      kind 1 | length 8, little endian, for each
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{Content, Extent};

use crate::record::{Id, Moment};
use crate::rules::{Epoch, Nonce};

/// The longest head.
pub const HEAD_MAX: usize = 4096;
/// The most extents of an answer.
pub const EXTENTS_MAX: usize = 4096;
/// Bytes of an extent.
const EXTENT_LEN: usize = 9;

/// A question, and its number, which the answer has, too.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Its number.
    pub number: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Be prepared to own this volume.
    Offer(Offer),
    /// I am prepared for this offer. Does it hold?
    Holds {
        /// Identity of the volume.
        id: Id,
        /// Which offer.
        nonce: Nonce,
    },
    /// The offer does not hold any more.
    Cancel {
        /// Identity of the volume.
        id: Id,
        /// Which offer.
        nonce: Nonce,
    },
    /// You own the volume.
    Give {
        /// Identity of the volume.
        id: Id,
        /// By which offer.
        nonce: Nonce,
        /// Epoch of your ownership.
        epoch: Epoch,
        /// Whether there is something that you have not, if you gave it before.
        has_news: bool,
        /// Its bytes.
        size_bytes: u64,
        /// As of an [`Offer`].
        since: Option<Epoch>,
        /// As of an [`Offer`].
        #[serde(default)]
        with_snapshots: bool,
        /// Bytes in a second at which the rest is to be brought in; 0: no limit.
        rate: u64,
        /// What users have set for it: lines of text.
        settings: String,
    },
    /// I want back what I gave you.
    Return {
        /// Identity of the volume.
        id: Id,
        /// By which offer.
        nonce: Nonce,
        /// Epoch of your ownership.
        epoch: Epoch,
    },
    /// I have taken over by force what I gave you.
    TakenOver {
        /// Identity of the volume.
        id: Id,
        /// Epoch of my ownership.
        epoch: Epoch,
    },
    /// How much of what I gave you is there?
    Progress {
        /// Identity of the volume.
        id: Id,
        /// Epoch of your ownership.
        epoch: Epoch,
    },
    /// What of what I may read was used lately?
    Heat {
        /// Of what.
        of: Part,
    },
    /// Bring in the rest so fast, or not at all for now.
    Pace {
        /// Identity of the volume.
        id: Id,
        /// Epoch of your ownership.
        epoch: Epoch,
        /// Not now.
        is_paused: bool,
        /// Bytes in a second; 0: no limit.
        rate: u64,
    },
    /// Is there such a snapshot?
    Open {
        /// `VOLUME@SNAPSHOT`.
        snapshot: String,
    },
    /// Which snapshot of what I was given is the newest, or the newest before this one?
    Past {
        /// Identity of the volume.
        id: Id,
        /// For which ownership.
        epoch: Epoch,
        /// The one that I have.
        before: Option<Moment>,
    },
    /// What lies there?
    Extents {
        /// Of what.
        of: Part,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Blocks.
    Read {
        /// Of what.
        of: Part,
        /// First byte, a multiple of 4096.
        offset: u64,
        /// Blocks, at most 32.
        blocks: u16,
    },
}

impl Ask {
    /// The epoch that it is about; 0 where there is none.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Offer(offer) => offer.epoch,
            Self::Give { epoch, .. }
            | Self::Return { epoch, .. }
            | Self::TakenOver { epoch, .. }
            | Self::Progress { epoch, .. }
            | Self::Past { epoch, .. }
            | Self::Pace { epoch, .. } => *epoch,
            Self::Holds { .. }
            | Self::Cancel { .. }
            | Self::Heat { .. }
            | Self::Open { .. }
            | Self::Extents { .. }
            | Self::Read { .. } => 0,
        }
    }
}

/// An offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Identity of the volume.
    pub id: Id,
    /// Which offer.
    pub nonce: Nonce,
    /// Epoch of the ownership that is offered.
    pub epoch: Epoch,
    /// Name.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// What users set for it: lines of text.
    pub settings: String,
    /// It came here from whom it is offered to, who gave it for this epoch: only what is newer need go back.
    pub since: Option<Epoch>,
    /// Its snapshots are to be had, too.
    #[serde(default)]
    pub with_snapshots: bool,
}

/// What is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A volume that was offered or given.
    Moved {
        /// Its identity.
        id: Id,
        /// For which ownership.
        epoch: Epoch,
        /// Whoever asks has what it was when it gave it for this epoch.
        since: Option<Epoch>,
    },
    /// A snapshot of a volume that was given.
    Past {
        /// Identity of the volume.
        id: Id,
        /// For which ownership.
        epoch: Epoch,
        /// Number and identity of the snapshot.
        snapshot: (u64, Id),
        /// Whoever asks has this one, and what it does not differ in is the same; else what was given.
        from: Option<u64>,
    },
    /// A snapshot.
    Snapshot {
        /// `VOLUME@SNAPSHOT`.
        name: String,
        /// Its identity.
        id: Id,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the question.
    pub number: u32,
    /// What is answered.
    pub say: Say,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// It is so: prepared, the offer holds, it was taken.
    Yes,
    /// It is not.
    No,
    /// It was granted: it will be given.
    Granted,
    /// It cannot be; why.
    Refused(String),
    /// It cannot be now.
    NotNow(String),
    /// How much is there.
    Progress(Progress),
    /// A snapshot's size and identity.
    Opened {
        /// Bytes.
        size_bytes: u64,
        /// Identity.
        id: Id,
    },
    /// A snapshot; or there is none.
    Past(Option<Past>),
    /// Begins and ends of parts, the one that was used most first.
    Heat(Vec<(u64, u64)>),
    /// Extents follow.
    Extents,
    /// Runs of blocks; those that are data follow.
    Blocks(Vec<(Kind, u16)>),
    /// Why it could not be read.
    Failed(Failure),
}

/// What blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Here they are.
    Data,
    /// They are zeros.
    Zero,
    /// Whoever asks has them.
    Same,
}

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It is not there, or not for whoever asks.
    NotThere,
    /// It is elsewhere, and that does not answer.
    Behind,
    /// A drive failed, or something is damaged.
    Damaged,
    /// The question makes no sense.
    Nonsense,
}

/// A snapshot of a volume that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its number where it is.
    pub number: u64,
    /// Its identity.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_nanos: u64,
}

/// How much of a volume is where it was given to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// It owns the volume.
    pub is_owner: bool,
    /// All of it is there, durably, or nothing needs it any more.
    pub has_all: bool,
    /// All its snapshots, too, that were given with it.
    #[serde(default)]
    pub has_snapshots: bool,
    /// It was given on before all of it was there.
    #[serde(default)]
    pub is_gone: bool,
    /// Of so many bytes from the beginning on, all is there.
    pub known_bytes: u64,
    /// Bytes that were fetched because somebody wanted them.
    pub demanded_bytes: u64,
    /// Bytes that were fetched in the background.
    pub background_bytes: u64,
    /// Bytes that were said about the data.
    pub metadata_bytes: u64,
    /// What keeps it from going on.
    pub trouble: Option<String>,
}

/// The head of a message and its length; the data follows.
pub fn encode_head(head: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(head).expect("our own types become JSON");
    assert!(json.len() <= HEAD_MAX, "heads are bounded");
    let mut bytes = Vec::with_capacity(2 + json.len());
    bytes.extend_from_slice(&(json.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes
}

/// Head and data of a message, if it is one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(*len));
    let head = rest.get(..len).filter(|_| len <= HEAD_MAX)?;
    Some((serde_json::from_slice(head).ok()?, &rest[len..]))
}

/// The data of extents.
pub fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(extents.len() * EXTENT_LEN);
    for extent in extents {
        bytes.push(match extent.content {
            Content::Same => 0,
            Content::Data => 1,
            Content::Zero => 2,
        });
        bytes.extend_from_slice(&extent.len.to_le_bytes());
    }
    bytes
}

/// The extents of that data: at least one, of `len` bytes in all at most.
pub fn decode_extents(bytes: &[u8], len: u64) -> Option<Vec<Extent>> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(EXTENT_LEN) {
        return None;
    }
    let mut left = len;
    let mut extents = Vec::with_capacity(bytes.len() / EXTENT_LEN);
    for bytes in bytes.chunks_exact(EXTENT_LEN) {
        let content = match bytes[0] {
            0 => Content::Same,
            1 => Content::Data,
            2 => Content::Zero,
            _ => return None,
        };
        let len = u64::from_le_bytes(bytes[1..].try_into().ok()?);
        left = left.checked_sub(len).filter(|_| len > 0)?;
        extents.push(Extent { len, content });
    }
    Some(extents)
}

/// Reads bytes as everything that another appliance may say, for whoever looks for bytes that break something. Whether they are anything.
#[must_use]
pub fn inspect(bytes: &[u8]) -> bool {
    let is_question = decode::<Question>(bytes).is_some();
    let is_answer = decode::<Answer>(bytes).is_some();
    is_question || is_answer || decode_extents(bytes, u64::MAX).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn messages_are_read_back() {
        let question = Question {
            number: 7,
            ask: Ask::Read {
                of: Part::Moved {
                    id: Id([9; 16]),
                    epoch: 3,
                    since: Some(2),
                },
                offset: 4096,
                blocks: 32,
            },
        };
        let mut bytes = encode_head(&question);
        bytes.extend_from_slice(b"data");
        let (again, data) = decode::<Question>(&bytes).expect("a question");
        assert_eq!((again.number, again.ask), (7, question.ask));
        assert_eq!(data, b"data");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [
            &b""[..],
            b"\x05",
            b"\x05\x00{}",
            b"\x02\x00{}",
            b"\xff\xff{}",
            b"\x02\x00[]x",
        ] {
            assert!(decode::<Question>(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_answer_has_room() {
        let runs = vec![(Kind::Zero, 1); 32];
        let say = Say::Blocks(runs);
        let answer = Answer {
            number: u32::MAX,
            say,
        };
        let head = encode_head(&answer).len();
        assert!(head + 32 * (4096 + 16) <= peer::MESSAGE_MAX);
        const { assert!(HEAD_MAX + 2 + EXTENTS_MAX * EXTENT_LEN <= peer::MESSAGE_MAX) };
    }

    #[test]
    fn extents_are_read_back_and_lies_are_not() {
        let extents = [
            (Content::Same, 4096),
            (Content::Data, 512),
            (Content::Zero, 1 << 40),
        ];
        let extents = extents.map(|(content, len)| Extent { len, content });
        let bytes = encode_extents(&extents);
        let all = 4096 + 512 + (1 << 40);
        assert_eq!(decode_extents(&bytes, all), Some(extents.to_vec()));
        assert_eq!(decode_extents(&bytes, all - 1), None);
        assert_eq!(decode_extents(&bytes[1..], all), None);
        assert_eq!(decode_extents(&[], all), None);
        assert_eq!(decode_extents(&[3, 1, 0, 0, 0, 0, 0, 0, 0], all), None);
        assert_eq!(decode_extents(&[0; 9], all), None);
    }
}
