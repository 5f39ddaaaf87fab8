//! Pairing: how each of two appliances learns the other's key, by a token.
//!
//! ```text
//! initiator                                responder
//! hello, e                       ──►       which of the tokens is it made with?
//! is the name free?              ◄──       e, s, its introduction
//! s, its introduction            ──►       is the name free? is the token still there? keeps the initiator
//! keeps the responder            ◄──       sealed: verdict 1
//! ```
//!
//! An introduction is `port 2, big endian | name`. When the last step is lost, the responder knows the initiator and not the
//! other way round; nothing can come of that, and pairing again puts it right.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ops::RangeInclusive;

use net::{Connect, Stream};
use world::Disk;

use crate::hello::{HANDSHAKE_TIME, Purpose, receive_message, send_message};
use crate::noise::{Handshake, PAIR_LENS, SEAL_LEN};
use crate::peers::{Me, Peer, Peers};
use crate::token::{Psk, secret_of};
use crate::{PeerError, PeersError};

/// Bytes of a port.
const PORT_LEN: usize = 2;
/// Bytes of introductions.
const INTRODUCTION_LENS: RangeInclusive<usize> = PORT_LEN + 1..=PORT_LEN + 63;

impl<D: Disk + 'static> Peers<D> {
    /// Pairs this appliance with the one at `to`, which made the token. Both know each other then, and the token is used up.
    ///
    /// # Errors
    /// See [`PeersError`]; [`PeerError::Refused`] when the token is not one of that appliance, or not any more.
    pub async fn pair<C: Connect>(
        &self,
        way: &C,
        to: SocketAddr,
        token: &str,
    ) -> Result<Peer, PeersError> {
        let psk = secret_of(token).ok_or(PeersError::BadToken)?;
        let stream = way.connect(to).await.map_err(PeerError::from)?;
        let paired = self.pair_over(&stream, to, &psk);
        let paired = self.shared.exec.timeout(HANDSHAKE_TIME, paired).await;
        let paired = paired.unwrap_or(Err(PeerError::TimedOut.into()));
        match &paired {
            Ok(_) => stream.finish(),
            Err(_) => stream.abort(),
        }
        paired
    }

    async fn pair_over<S: Stream>(
        &self,
        stream: &S,
        to: SocketAddr,
        psk: &Psk,
    ) -> Result<Peer, PeersError> {
        let shared = &self.shared;
        let mut handshake = Handshake::pair_with(&shared.private, psk, &*shared.entropy);
        let first = handshake.write(&[])?;
        send_message(stream, &Purpose::Pair.hello(), &first).await?;
        let second = receive_message(stream, with_introduction(PAIR_LENS[1])).await?;
        let (name, _) = decode(&handshake.read(&second)?)?;
        let key = handshake.their_key().ok_or(PeerError::Protocol)?;
        self.check_new(&name, &key)?;
        let third = handshake.write(&encode(&shared.me))?;
        send_message(stream, &[], &third).await?;
        let mut keys = handshake.finish()?;
        let sealed = receive_message(stream, 1 + SEAL_LEN..=1 + SEAL_LEN).await?;
        let mut verdict = [0];
        keys.open(&sealed, &mut verdict)?;
        Verdict::decode(verdict[0])?;
        self.keep((&name, key, to), || Ok(())).await
    }

    /// The other side of [`pair`](Self::pair). Why nobody was paired in spite of the token, the initiator is told.
    ///
    /// # Errors
    /// [`PeerError::Refused`] when the initiator has no token, or as the connection fails.
    pub(crate) async fn pair_with_initiator<S: Stream>(&self, stream: &S) -> Result<(), PeerError> {
        let shared = &self.shared;
        let first = receive_message(stream, PAIR_LENS[0]..=PAIR_LENS[0]).await?;
        let (mut handshake, psk) = self.recognise(&first).ok_or(PeerError::Refused)?;
        let second = handshake.write(&encode(&shared.me))?;
        send_message(stream, &[], &second).await?;
        let third = receive_message(stream, with_introduction(PAIR_LENS[2])).await?;
        let (name, port) = decode(&handshake.read(&third)?)?;
        let key = handshake.their_key().ok_or(PeerError::Protocol)?;
        let mut keys = handshake.finish()?;
        let address = SocketAddr::new(stream.peer().ip(), port);
        let kept = self.keep((&name, key, address), || self.use_up(&psk)).await;
        if let Err(PeersError::Handshake(error)) = kept {
            return Err(error);
        }
        let mut sealed = [0; 1 + SEAL_LEN];
        keys.seal(&[Verdict::of(&kept) as u8], &mut sealed)?;
        send_message(stream, &[], &sealed).await
    }

    /// The token that the initiator has. All are tried in any case.
    fn recognise(&self, first: &[u8]) -> Option<(Handshake, Psk)> {
        let shared = &self.shared;
        let secrets = shared.tokens.borrow_mut().secrets(shared.exec.now());
        let mut found = None;
        for psk in secrets {
            let mut handshake = Handshake::pair_from(&shared.private, &psk, &*shared.entropy);
            if handshake.read(first).is_ok() {
                found = Some((handshake, psk));
            }
        }
        // One that was told to nobody fits nobody, and this one may have expired just now.
        found.filter(|(_, psk)| shared.tokens.borrow_mut().has(psk, shared.exec.now()))
    }

    /// Takes a token, if nobody else did meanwhile.
    fn use_up(&self, psk: &Psk) -> Result<(), PeersError> {
        let shared = &self.shared;
        let is_there = shared.tokens.borrow_mut().take(psk, shared.exec.now());
        is_there.then_some(()).ok_or(PeerError::Refused.into())
    }
}

/// What the responder tells at the end.
#[derive(Clone, Copy)]
enum Verdict {
    Paired = 0,
    Taken = 1,
    Failed = 2,
}

impl Verdict {
    fn of(kept: &Result<Peer, PeersError>) -> Self {
        match kept {
            Ok(_) => Self::Paired,
            Err(PeersError::NameTaken | PeersError::KnownAlready) => Self::Taken,
            Err(_) => Self::Failed,
        }
    }

    fn decode(byte: u8) -> Result<(), PeersError> {
        match byte {
            0 => Ok(()),
            1 => Err(PeersError::TakenThere),
            2 => Err(PeersError::FailedThere),
            _ => Err(PeerError::Protocol.into()),
        }
    }
}

fn with_introduction(len: usize) -> RangeInclusive<usize> {
    len + INTRODUCTION_LENS.start()..=len + INTRODUCTION_LENS.end()
}

fn encode(me: &Me) -> Vec<u8> {
    [&me.port.to_be_bytes(), me.name.as_bytes()].concat()
}

/// Name and port.
fn decode(bytes: &[u8]) -> Result<(String, u16), PeerError> {
    let (port, name) = bytes.split_first_chunk().ok_or(PeerError::Protocol)?;
    let name = core::str::from_utf8(name).map_err(|_| PeerError::Protocol)?;
    Ok((name.to_string(), u16::from_be_bytes(*port)))
}
