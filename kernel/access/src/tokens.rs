//! Tokens: who there is.
//!
//! Each is one record of the store, `token/NUMBER`, with the hash of its secret. The one of the configuration is kept nowhere.
//! An appliance that has none at all makes a first one, whose secret is for its console.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::IpAddr;
use core::time::Duration;

use exec::{Exec, Semaphore};
use serde::{Deserialize, Serialize};
use store::{Store, is_name};
use world::{Disk, Entropy};

use crate::attempts::Attempts;
use crate::secret::Digest;
use crate::{Role, Secret, TokenError};

/// The most tokens.
pub const TOKENS_MAX: usize = 64;
/// The name of the token that is configured.
pub const CONFIGURED: &str = "configuration";
/// The name of the token that an appliance without any makes.
pub const FIRST: &str = "first";
/// What keys of records of tokens begin with.
const KEY: &str = "token/";
/// The number of a token that is no record.
const UNKEPT: u64 = 0;
/// From this length on a secret is taken for one that nobody can guess.
const STRONG_LEN: usize = 32;

/// The tokens of one appliance; clones are the same ones.
pub struct Tokens<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Tokens<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    exec: Exec,
    /// Where tokens are kept, and what their secrets are made of.
    kept: Option<(Store<D>, Rc<dyn Entropy>)>,
    table: RefCell<BTreeMap<u64, Token>>,
    attempts: RefCell<Attempts>,
    /// Whoever makes or revokes a token holds it, so that records and table say the same.
    turn: Semaphore,
}

struct Token {
    name: Rc<str>,
    role: Role,
    digest: Digest,
    created_at_nanos: u64,
    /// When it was presented last in this run, in nanoseconds since 1970; 0 when it was not.
    seen_at_nanos: Cell<u64>,
    /// Nobody can guess it.
    is_strong: bool,
}

/// What is kept of a token.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    role: Role,
    digest: String,
    created_at_nanos: u64,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Nanoseconds since 1970; 0 when nobody knows.
    pub created_at_nanos: u64,
    /// When it was presented last, since the start; likewise.
    pub seen_at_nanos: u64,
    /// Whether it comes from the configuration and is kept nowhere.
    pub is_configured: bool,
}

/// Somebody who presented a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The token's name.
    pub name: Rc<str>,
    /// What it allows.
    pub role: Role,
}

/// Why somebody is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token has this secret.
    Wrong,
    /// Too many wrong guesses from there: it was not looked at. Time until it will be.
    TooMany(Duration),
}

impl<D: Disk + 'static> Tokens<D> {
    /// Only the one with this secret, for an appliance without a pool.
    #[must_use]
    pub fn only(exec: Exec, secret: &str) -> Self {
        let tokens = Self::empty(exec, None);
        tokens.insert(UNKEPT, Token::configured(secret));
        tokens
    }

    /// Those that were kept, and the configured one. If that leaves nobody who may make tokens, a first one is made: its
    /// secret is returned, to be shown on the console.
    pub async fn open(
        exec: Exec,
        store: Store<D>,
        entropy: Rc<dyn Entropy>,
        configured: Option<&str>,
    ) -> (Self, Option<Secret>) {
        let tokens = Self::empty(exec, Some((store.clone(), entropy.clone())));
        tokens.load(&store).await;
        if let Some(secret) = configured {
            tokens.insert(UNKEPT, Token::configured(secret));
        }
        if tokens.admins() > 0 {
            return (tokens, None);
        }
        let secret = match tokens.create(&tokens.first_name(), Role::Admin).await {
            Ok((_, secret)) => secret,
            Err(error) => {
                log::warn!("the first token could not be kept ({error}): it ends with this run");
                let secret = Secret::draw(&*entropy);
                tokens.insert(UNKEPT, Token::new(FIRST, Role::Admin, &secret, 0));
                secret
            }
        };
        (tokens, Some(secret))
    }

    fn empty(exec: Exec, kept: Option<(Store<D>, Rc<dyn Entropy>)>) -> Self {
        Self {
            shared: Rc::new(Shared {
                exec,
                kept,
                table: RefCell::default(),
                attempts: RefCell::default(),
                turn: Semaphore::new(1),
            }),
        }
    }

    /// `first`, or what comes next when some token that is no admin's has that name.
    fn first_name(&self) -> String {
        let mut name = FIRST.to_string();
        let mut number = 2;
        while self.number_of(&name).is_some() {
            name = format!("{FIRST}-{number}");
            number += 1;
        }
        name
    }

    async fn load(&self, store: &Store<D>) {
        for key in store.record_keys() {
            let Some(number) = key.strip_prefix(KEY).and_then(|text| text.parse().ok()) else {
                continue;
            };
            let token = match store.record(&key).await {
                Ok(Some(bytes)) => Token::decode(&bytes),
                _ => None,
            };
            match token {
                Some(token) if number != UNKEPT => self.insert(number, token),
                _ => log::warn!("the token {key} cannot be read; it admits nobody"),
            }
        }
    }

    fn insert(&self, number: u64, token: Token) {
        self.shared.table.borrow_mut().insert(number, token);
    }

    fn number_of(&self, name: &str) -> Option<u64> {
        let table = self.shared.table.borrow();
        let found = table.iter().find(|(_, token)| *token.name == *name);
        found.map(|(number, _)| *number)
    }

    fn admins(&self) -> usize {
        let table = self.shared.table.borrow();
        let admins = table.values().filter(|token| token.role == Role::Admin);
        admins.count()
    }

    /// Recognises somebody by a secret.
    ///
    /// An address that guesses wrong too often is not listened to for a while, except when it presents a token that
    /// cannot be guessed: so nobody can lock out those who have such a token.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn admit(&self, peer: IpAddr, secret: &str) -> Result<Who, Refusal> {
        let shared = &self.shared;
        let found = self.recognise(secret);
        let now = shared.exec.now();
        let mut attempts = shared.attempts.borrow_mut();
        let wait = attempts.wait(peer, now);
        match (found, wait) {
            (Some((who, true)), _) | (Some((who, false)), None) => Ok(who),
            (_, Some(wait)) => Err(Refusal::TooMany(wait)),
            (None, None) => {
                let count = attempts.fail(peer, now);
                // Not each of them, so that they do not displace everything else.
                if count.is_power_of_two() {
                    log::warn!("{peer} presented a wrong token, {count} times lately");
                }
                Err(Refusal::Wrong)
            }
        }
    }

    /// The token with this secret, and whether it is strong. All are looked at, whichever it is.
    fn recognise(&self, secret: &str) -> Option<(Who, bool)> {
        let digest = Digest::of(secret);
        let table = self.shared.table.borrow();
        let mut found: Option<&Token> = None;
        for token in table.values() {
            if token.digest.is(&digest) {
                found = Some(token);
            }
        }
        if let Some(token) = found {
            let now = self.shared.exec.clock().wall_nanos().unwrap_or(0);
            token.seen_at_nanos.set(now);
        }
        let who = |token: &Token| Who {
            name: token.name.clone(),
            role: token.role,
        };
        found.map(|token| (who(token), token.is_strong))
    }

    /// All tokens, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenInfo> {
        let table = self.shared.table.borrow();
        let all = table.iter();
        all.map(|(number, token)| token.info(*number)).collect()
    }

    /// One token.
    ///
    /// # Errors
    /// [`TokenError::NoToken`].
    pub fn get(&self, name: &str) -> Result<TokenInfo, TokenError> {
        let number = self.number_of(name).ok_or(TokenError::NoToken)?;
        let table = self.shared.table.borrow();
        let token = table.get(&number).ok_or(TokenError::NoToken)?;
        Ok(token.info(number))
    }

    /// Makes a token; durable when this returns. Nobody can learn the secret later.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn create(&self, name: &str, role: Role) -> Result<(TokenInfo, Secret), TokenError> {
        let shared = &self.shared;
        if !is_name(name) {
            return Err(TokenError::BadName);
        }
        let (store, entropy) = shared.kept.as_ref().ok_or(TokenError::NoPool)?;
        let _turn = shared.turn.acquire().await;
        if self.number_of(name).is_some() || name == CONFIGURED {
            return Err(TokenError::NameTaken);
        }
        let last = shared
            .table
            .borrow()
            .last_key_value()
            .map(|(last, _)| *last);
        if shared.table.borrow().len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let number = last.unwrap_or(UNKEPT) + 1;
        let secret = Secret::draw(&**entropy);
        let now = shared.exec.clock().wall_nanos().unwrap_or(0);
        let token = Token::new(name, role, &secret, now);
        store
            .set_record(&key(number), Some(&token.encode()))
            .await?;
        let info = token.info(number);
        self.insert(number, token);
        Ok((info, secret))
    }

    /// Revokes a token; when this returns it admits nobody any more, nor after a restart.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let shared = &self.shared;
        let _turn = shared.turn.acquire().await;
        let number = self.number_of(name).ok_or(TokenError::NoToken)?;
        if number == UNKEPT {
            return Err(TokenError::Configured);
        }
        let is_admin = {
            let table = shared.table.borrow();
            let token = table.get(&number).ok_or(TokenError::NoToken)?;
            token.role == Role::Admin
        };
        if is_admin && self.admins() == 1 {
            return Err(TokenError::LastAdmin);
        }
        let (store, _) = shared.kept.as_ref().ok_or(TokenError::NoPool)?;
        store.set_record(&key(number), None).await?;
        shared.table.borrow_mut().remove(&number);
        Ok(())
    }
}

fn key(number: u64) -> String {
    format!("{KEY}{number}")
}

impl Token {
    fn new(name: &str, role: Role, secret: &Secret, created_at_nanos: u64) -> Self {
        Self {
            name: name.into(),
            role,
            digest: Digest::of(secret.text()),
            created_at_nanos,
            seen_at_nanos: Cell::new(0),
            is_strong: true,
        }
    }

    fn configured(secret: &str) -> Self {
        Self {
            name: CONFIGURED.into(),
            role: Role::Admin,
            digest: Digest::of(secret),
            created_at_nanos: 0,
            seen_at_nanos: Cell::new(0),
            is_strong: secret.len() >= STRONG_LEN,
        }
    }

    fn info(&self, number: u64) -> TokenInfo {
        TokenInfo {
            name: self.name.to_string(),
            role: self.role,
            created_at_nanos: self.created_at_nanos,
            seen_at_nanos: self.seen_at_nanos.get(),
            is_configured: number == UNKEPT,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let record = Record {
            name: self.name.to_string(),
            role: self.role,
            digest: self.digest.to_hex(),
            created_at_nanos: self.created_at_nanos,
        };
        serde_json::to_vec(&record).expect("our own types become JSON")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            digest: Digest::from_hex(&record.digest)?,
            name: record.name.into(),
            role: record.role,
            created_at_nanos: record.created_at_nanos,
            seen_at_nanos: Cell::new(0),
            is_strong: true,
        })
    }
}
