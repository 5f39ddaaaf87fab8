//! Peers: the appliances that this one was paired with.
//!
//! Each is one record of the store, `peer/` and the first half of its key. This appliance's own key is the record `peer-key`.

use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::SocketAddr;

use access::attempts::Attempts;
use exec::{Exec, Semaphore};
use serde::{Deserialize, Serialize};
use store::{Store, StoreError, is_name};
use world::{Disk, Entropy};

use crate::key::PrivateKey;
use crate::leash::Leash;
use crate::token::Tokens;
use crate::{PairingToken, PeerError, PeersError, PublicKey};

/// The most peers.
pub const PEERS_MAX: usize = 64;
/// What keys of records of peers begin with.
const KEY: &str = "peer/";
/// Digits of a public key that a record is named by.
const KEY_DIGITS: usize = 32;
/// The record with the private key.
const OWN_KEY: &str = "peer-key";

/// What this appliance says of itself when it is paired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its name, as of a volume.
    pub name: String,
    /// The port at which it serves peers.
    pub port: u16,
}

/// An appliance that this one was paired with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it called itself then.
    pub name: String,
    /// What it is known by.
    pub key: PublicKey,
    /// Where it listens.
    pub address: SocketAddr,
    /// Nanoseconds since 1970; 0 when nobody knows.
    pub paired_at_nanos: u64,
}

/// The peers of one appliance; clones are the same ones.
pub struct Peers<D> {
    pub(crate) shared: Rc<Shared<D>>,
}

impl<D> Clone for Peers<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

pub struct Shared<D> {
    pub exec: Exec,
    pub entropy: Rc<dyn Entropy>,
    pub me: Me,
    pub private: PrivateKey,
    store: Store<D>,
    table: RefCell<Vec<Known>>,
    pub tokens: RefCell<Tokens>,
    /// Wrong tokens lately.
    pub attempts: RefCell<Attempts>,
    /// Whoever adds, changes or removes a peer holds it, so that records and table say the same.
    turn: Semaphore,
}

struct Known {
    peer: Peer,
    /// Of its channels; some may be gone.
    leashes: Vec<Weak<Leash>>,
}

/// What is kept of this appliance.
#[derive(Serialize, Deserialize)]
struct OwnRecord {
    key: String,
}

/// What is kept of a peer.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    key: String,
    address: SocketAddr,
    paired_at_nanos: u64,
}

impl<D: Disk + 'static> Peers<D> {
    /// Those that were kept. The first time, this appliance's key is drawn.
    ///
    /// # Errors
    /// The store's; [`StoreError::DamagedPool`] when the key cannot be read: nobody would know this appliance any more, so
    /// no other one is drawn.
    pub async fn open(
        exec: Exec,
        store: Store<D>,
        entropy: Rc<dyn Entropy>,
        me: Me,
    ) -> Result<Self, PeersError> {
        let private = own_key(&store, &*entropy).await?;
        let table = load(&store).await;
        Ok(Self {
            shared: Rc::new(Shared {
                exec,
                me,
                private,
                store,
                table: RefCell::new(table),
                tokens: RefCell::new(Tokens::new(entropy.clone())),
                entropy,
                attempts: RefCell::default(),
                turn: Semaphore::new(1),
            }),
        })
    }

    /// What this appliance is known by.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.shared.private.public()
    }

    /// What it says of itself.
    #[must_use]
    pub fn me(&self) -> &Me {
        &self.shared.me
    }

    /// All peers, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Peer> {
        let table = self.shared.table.borrow();
        let mut all: Vec<Peer> = table.iter().map(|known| known.peer.clone()).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The peer with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Peer> {
        self.find_by(|peer| peer.name == name)
    }

    /// The peer with this key.
    #[must_use]
    pub fn find_key(&self, key: &PublicKey) -> Option<Peer> {
        self.find_by(|peer| peer.key == *key)
    }

    fn find_by(&self, is_it: impl Fn(&Peer) -> bool) -> Option<Peer> {
        let table = self.shared.table.borrow();
        let mut all = table.iter().map(|known| &known.peer);
        all.find(|peer| is_it(peer)).cloned()
    }

    /// Makes a pairing token, for one other appliance, within ten minutes ([`TOKEN_TIME`](crate::TOKEN_TIME)).
    ///
    /// # Errors
    /// [`PeersError::TooManyTokens`].
    pub fn make_token(&self) -> Result<PairingToken, PeersError> {
        let now = self.shared.exec.now();
        let made = self.shared.tokens.borrow_mut().make(now);
        made.ok_or(PeersError::TooManyTokens)
    }

    /// Says where a peer listens from now on. Channels that are open stay.
    ///
    /// # Errors
    /// [`PeersError::NoPeer`], and the store's.
    pub async fn set_address(&self, name: &str, address: SocketAddr) -> Result<Peer, PeersError> {
        let _turn = self.shared.turn.acquire().await;
        let peer = self.find(name).ok_or(PeersError::NoPeer)?;
        let peer = Peer { address, ..peer };
        self.put(&peer).await?;
        Ok(peer)
    }

    /// Removes a peer: its channels end, and when this returns it is a stranger, after a restart, too.
    ///
    /// # Errors
    /// [`PeersError::NoPeer`], and the store's.
    pub async fn remove(&self, name: &str) -> Result<(), PeersError> {
        let shared = &self.shared;
        let _turn = shared.turn.acquire().await;
        let peer = self.find(name).ok_or(PeersError::NoPeer)?;
        shared
            .store
            .set_record(&record_key(&peer.key), None)
            .await?;
        let mut table = shared.table.borrow_mut();
        let index = table.iter().position(|known| known.peer.key == peer.key);
        let removed = index.map(|index| table.swap_remove(index));
        drop(table);
        for leash in removed.iter().flat_map(|known| &known.leashes) {
            if let Some(leash) = leash.upgrade() {
                leash.cut(PeerError::NotPaired);
            }
        }
        log::info!("{name} is no peer any more");
        Ok(())
    }

    /// Whether an appliance that calls itself so could become a peer now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_new(&self, name: &str, key: &PublicKey) -> Result<(), PeersError> {
        if *key == self.key() {
            return Err(PeersError::Itself);
        }
        if !is_name(name) || !self.shared.private.agrees_with(key) {
            return Err(PeerError::Protocol.into());
        }
        let known = self.find_key(key);
        if known.as_ref().is_some_and(|known| known.name != name) {
            return Err(PeersError::KnownAlready);
        }
        if known.is_some() {
            return Ok(());
        }
        if name == self.shared.me.name || self.find(name).is_some() {
            return Err(PeersError::NameTaken);
        }
        if self.shared.table.borrow().len() >= PEERS_MAX {
            return Err(PeersError::TooMany);
        }
        Ok(())
    }

    /// Keeps a new peer, or one that was paired again, if `may` still says so when its turn has come.
    pub(crate) async fn keep(
        &self,
        (name, key, address): (&str, PublicKey, SocketAddr),
        may: impl FnOnce() -> Result<(), PeersError>,
    ) -> Result<Peer, PeersError> {
        let _turn = self.shared.turn.acquire().await;
        self.check_new(name, &key)?;
        may()?;
        let peer = Peer {
            name: name.to_string(),
            key,
            address,
            paired_at_nanos: self.shared.exec.clock().wall_nanos().unwrap_or(0),
        };
        self.put(&peer).await?;
        log::info!("paired with {name} at {address}");
        Ok(peer)
    }

    /// Writes a peer's record and then its place in the table. For whoever has the turn.
    async fn put(&self, peer: &Peer) -> Result<(), PeersError> {
        let record = peer.encode();
        let key = record_key(&peer.key);
        self.shared.store.set_record(&key, Some(&record)).await?;
        let mut table = self.shared.table.borrow_mut();
        match table.iter_mut().find(|known| known.peer.key == peer.key) {
            Some(known) => known.peer = peer.clone(),
            None => table.push(Known {
                peer: peer.clone(),
                leashes: Vec::new(),
            }),
        }
        Ok(())
    }

    /// Puts a channel of the peer with this key on a leash.
    ///
    /// # Errors
    /// [`PeerError::NotPaired`].
    pub(crate) fn leash(&self, key: &PublicKey) -> Result<(Peer, Rc<Leash>), PeerError> {
        let mut table = self.shared.table.borrow_mut();
        let known = table.iter_mut().find(|known| known.peer.key == *key);
        let known = known.ok_or(PeerError::NotPaired)?;
        known.leashes.retain(|leash| leash.strong_count() > 0);
        let leash = Rc::new(Leash::default());
        known.leashes.push(Rc::downgrade(&leash));
        Ok((known.peer.clone(), leash))
    }
}

fn record_key(key: &PublicKey) -> String {
    let text = key.to_string();
    format!("{KEY}{}", &text[..KEY_DIGITS])
}

async fn own_key<D: Disk + 'static>(
    store: &Store<D>,
    entropy: &dyn Entropy,
) -> Result<PrivateKey, PeersError> {
    if let Some(bytes) = store.record(OWN_KEY).await? {
        let record: Option<OwnRecord> = serde_json::from_slice(&bytes).ok();
        let key = record.and_then(|record| PrivateKey::from_text(&record.key));
        return key.ok_or(StoreError::DamagedPool.into());
    }
    let private = PrivateKey::draw(entropy);
    let key = private.to_text();
    let record = serde_json::to_vec(&OwnRecord { key }).expect("our own types become JSON");
    store.set_record(OWN_KEY, Some(&record)).await?;
    Ok(private)
}

async fn load<D: Disk + 'static>(store: &Store<D>) -> Vec<Known> {
    let mut table = Vec::new();
    for key in store.record_keys() {
        if !key.starts_with(KEY) {
            continue;
        }
        let peer = match store.record(&key).await {
            Ok(Some(bytes)) => Peer::decode(&bytes),
            _ => None,
        };
        match peer.filter(|peer| record_key(&peer.key) == key) {
            Some(peer) => table.push(Known {
                peer,
                leashes: Vec::new(),
            }),
            None => log::warn!("the peer {key} cannot be read; it is a stranger"),
        }
    }
    table
}

impl Peer {
    fn encode(&self) -> Vec<u8> {
        let record = Record {
            name: self.name.clone(),
            key: self.key.to_string(),
            address: self.address,
            paired_at_nanos: self.paired_at_nanos,
        };
        serde_json::to_vec(&record).expect("our own types become JSON")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            name: record.name,
            key: record.key.parse().ok()?,
            address: record.address,
            paired_at_nanos: record.paired_at_nanos,
        })
    }
}
