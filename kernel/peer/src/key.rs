//! Keys of appliances: X25519 (RFC 7748), one pair for each appliance, for good.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use world::Entropy;

use crate::hex::{from_hex, to_hex};
use crate::noise;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// What an appliance is known by. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PublicKey({self})")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = NoKey;

    fn try_from(text: String) -> Result<Self, NoKey> {
        text.parse()
    }
}

/// A text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl fmt::Display for NoKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not the key of an appliance")
    }
}

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        from_hex(text).map(Self).ok_or(NoKey)
    }
}

/// What proves that an appliance is the one of its public key. It never shows itself.
#[derive(Clone)]
pub struct PrivateKey {
    bytes: [u8; KEY_LEN],
    public: PublicKey,
}

impl PrivateKey {
    /// A new one.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; KEY_LEN];
        entropy.fill(&mut bytes);
        Self::new(bytes)
    }

    /// The one that was kept.
    pub fn from_text(text: &str) -> Option<Self> {
        from_hex(text).map(Self::new)
    }

    fn new(bytes: [u8; KEY_LEN]) -> Self {
        let public = noise::public_key(&bytes);
        Self { bytes, public }
    }

    /// What is kept.
    pub fn to_text(&self) -> String {
        to_hex(&self.bytes)
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.bytes
    }

    /// Whether `other` can be anybody's key: with one of a few points (RFC 7748, section 6.1) everybody would agree on the
    /// same secret.
    pub fn agrees_with(&self, other: &PublicKey) -> bool {
        noise::agreement(self, other) != [0; KEY_LEN]
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PrivateKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn keys_are_x25519() {
        let bob = PrivateKey::from_text(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        );
        let bob = bob.expect("64 digits");
        let public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
        assert_eq!(bob.public().to_string(), public);
        assert_eq!(public.parse(), Ok(bob.public()));
        let alice = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let alice = alice.parse().expect("64 digits");
        let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        assert_eq!(to_hex(&noise::agreement(&bob, &alice)), shared);
        assert!(bob.agrees_with(&alice));
        assert_eq!(public[1..].parse::<PublicKey>(), Err(NoKey));
    }

    #[test]
    fn a_private_key_does_not_show_itself() {
        let key = PrivateKey::new([7; 32]);
        assert!(!format!("{key:?}").contains("07"));
    }

    #[test]
    fn keys_that_everybody_agrees_with_are_known() {
        let key = PrivateKey::new([7; 32]);
        let mut one = [0; 32];
        assert!(!key.agrees_with(&PublicKey::new(one)));
        one[0] = 1;
        assert!(!key.agrees_with(&PublicKey::new(one)));
        one[0] = 9;
        assert!(key.agrees_with(&PublicKey::new(one)));
    }
}
