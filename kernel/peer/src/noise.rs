//! Handshakes and keys of the Noise protocol, by the crate `snow`. Nothing else in this room knows that crate.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};
use world::Entropy;

use crate::PeerError;
use crate::hello::Purpose;
use crate::key::{KEY_LEN, PrivateKey, PublicKey};

/// How appliances that know each other connect.
const LINK: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// How appliances that share a token learn each other's keys.
const PAIR: &str = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s";

/// Bytes by which what is sealed is longer.
pub const SEAL_LEN: usize = 16;
/// Bytes of the messages of a handshake, without what is in them. IK: `e, es, s, ss` and `e, ee, se`.
pub const LINK_LENS: [usize; 2] = [
    KEY_LEN + (KEY_LEN + SEAL_LEN) + SEAL_LEN,
    KEY_LEN + SEAL_LEN,
];
/// The same of XXpsk0: `psk, e`, and `e, ee, s, es`, and `s, se`.
pub const PAIR_LENS: [usize; 3] = [
    KEY_LEN + SEAL_LEN,
    KEY_LEN + (KEY_LEN + SEAL_LEN) + SEAL_LEN,
    (KEY_LEN + SEAL_LEN) + SEAL_LEN,
];
/// Frames of one direction after which its key is replaced (Noise, section 11.3).
pub const REKEY_FRAMES: u64 = 1 << 20;
/// More than any message of a handshake has.
const MESSAGE_MAX: usize = 512;

/// A handshake that is under way.
pub struct Handshake {
    state: HandshakeState,
}

impl Handshake {
    /// Connects to whoever has the private key of `them`.
    pub fn link_to(me: &PrivateKey, them: &PublicKey, entropy: &dyn Entropy) -> Self {
        Self::new(LINK, Purpose::Link, entropy, |builder| {
            let state = builder
                .local_private_key(me.bytes())?
                .remote_public_key(them.bytes())?;
            state.build_initiator()
        })
    }

    /// Waits for who knows the public key of `me`.
    pub fn link_from(me: &PrivateKey, entropy: &dyn Entropy) -> Self {
        Self::new(LINK, Purpose::Link, entropy, |builder| {
            builder.local_private_key(me.bytes())?.build_responder()
        })
    }

    /// Connects to who made this token.
    pub fn pair_with(me: &PrivateKey, token: &[u8; KEY_LEN], entropy: &dyn Entropy) -> Self {
        Self::new(PAIR, Purpose::Pair, entropy, |builder| {
            let state = builder.local_private_key(me.bytes())?.psk(0, token)?;
            state.build_initiator()
        })
    }

    /// Waits for who was given this token.
    pub fn pair_from(me: &PrivateKey, token: &[u8; KEY_LEN], entropy: &dyn Entropy) -> Self {
        Self::new(PAIR, Purpose::Pair, entropy, |builder| {
            let state = builder.local_private_key(me.bytes())?.psk(0, token)?;
            state.build_responder()
        })
    }

    fn new(
        name: &str,
        purpose: Purpose,
        entropy: &dyn Entropy,
        build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
    ) -> Self {
        let mut drawn = [0; KEY_LEN];
        entropy.fill(&mut drawn);
        let params: NoiseParams = name.parse().expect("a pattern that snow knows");
        let builder = Builder::with_resolver(params, Box::new(Resolver { drawn }));
        let prologue = purpose.hello();
        let state = builder.prologue(&prologue).and_then(build);
        Self {
            state: state.expect("all that the pattern needs"),
        }
    }

    /// The next message, with `payload` in it.
    pub fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, PeerError> {
        let mut message = vec![0; MESSAGE_MAX];
        let len = self.state.write_message(payload, &mut message);
        message.truncate(len.map_err(wrong)?);
        Ok(message)
    }

    /// What is in the next message, if it is what it should be.
    ///
    /// # Errors
    /// [`PeerError::Protocol`]; the handshake is over then.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, PeerError> {
        let mut payload = vec![0; MESSAGE_MAX];
        if message.len() > payload.len() {
            return Err(PeerError::Protocol);
        }
        let len = self.state.read_message(message, &mut payload);
        payload.truncate(len.map_err(wrong)?);
        Ok(payload)
    }

    /// The other's key, as soon as it is known.
    pub fn their_key(&self) -> Option<PublicKey> {
        let bytes = self.state.get_remote_static()?;
        bytes.try_into().ok().map(PublicKey::new)
    }

    /// What seals from here on.
    pub fn finish(self) -> Result<Keys, PeerError> {
        let state = self.state.into_stateless_transport_mode();
        Ok(Keys {
            state: state.map_err(wrong)?,
            sent: 0,
            received: 0,
        })
    }
}

/// What seals and opens frames, each once and in their order.
pub struct Keys {
    state: StatelessTransportState,
    sent: u64,
    received: u64,
}

impl Keys {
    /// Seals `plain` into `into`, which has room for [`SEAL_LEN`] more bytes.
    pub fn seal(&mut self, plain: &[u8], into: &mut [u8]) -> Result<usize, PeerError> {
        let len = self.state.write_message(self.sent, plain, into);
        let len = len.map_err(wrong)?;
        self.sent += 1;
        if self.sent.is_multiple_of(REKEY_FRAMES) {
            self.state.rekey_outgoing();
        }
        Ok(len)
    }

    /// Opens `sealed` into `into`.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] when it is not the next frame of the other side.
    pub fn open(&mut self, sealed: &[u8], into: &mut [u8]) -> Result<usize, PeerError> {
        let len = self.state.read_message(self.received, sealed, into);
        let len = len.map_err(wrong)?;
        self.received += 1;
        if self.received.is_multiple_of(REKEY_FRAMES) {
            self.state.rekey_incoming();
        }
        Ok(len)
    }
}

/// Which of the library's errors it was is nobody's business.
fn wrong(_: snow::Error) -> PeerError {
    PeerError::Protocol
}

fn curve() -> Box<dyn Dh> {
    let curve = DefaultResolver.resolve_dh(&DHChoice::Curve25519);
    curve.expect("snow was built with this curve")
}

/// The public key of a private one.
pub fn public_key(private: &[u8; KEY_LEN]) -> PublicKey {
    let mut curve = curve();
    curve.set(private);
    PublicKey::new(curve.pubkey().try_into().expect("32 bytes"))
}

/// What both sides can compute.
pub fn agreement(me: &PrivateKey, them: &PublicKey) -> [u8; KEY_LEN] {
    let (mut curve, mut out) = (curve(), [0; KEY_LEN]);
    curve.set(me.bytes());
    curve.dh(them.bytes(), &mut out).expect("32 bytes");
    out
}

/// The primitives of a handshake, and random bytes for its one ephemeral key.
struct Resolver {
    drawn: [u8; KEY_LEN],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn(Some(self.drawn))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Random bytes that were drawn beforehand, given out once: the library wants a source that threads could share.
struct Drawn(Option<[u8; KEY_LEN]>);

impl Random for Drawn {
    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), snow::Error> {
        match (self.0.take(), into.len()) {
            (Some(drawn), KEY_LEN) => into.copy_from_slice(&drawn),
            _ => return Err(snow::Error::Rng),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
