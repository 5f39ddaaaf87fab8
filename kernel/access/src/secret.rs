//! Secrets: 256 random bits for people to copy, and the hash by which they are recognised.

use alloc::string::String;
use core::fmt;
use core::fmt::Write;
use core::hint::black_box;

use sha2::{Digest as _, Sha256};
use world::Entropy;

/// What secrets begin with, so that one that went astray can be found by searching for it.
const PREFIX: &str = "ferrite_";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A secret that was just made. It shows itself only to who asks for its text.
pub struct Secret(String);

impl Secret {
    /// A new one.
    #[must_use]
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        entropy.fill(&mut bytes);
        let mut text = String::with_capacity(PREFIX.len() + 2 * SECRET_BYTES);
        text.push_str(PREFIX);
        for byte in bytes {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The secret itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

/// The hash of a secret (SHA-256). Secrets are long and random, so nothing is gained by a slow hash.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Whether both are the same, in a time that depends on neither.
    pub fn is(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let differences = pairs.fold(0, |all, (one, two)| all | black_box(one ^ two));
        black_box(differences) == 0
    }

    pub fn to_hex(self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash is that of FIPS 180-4, whose test vector for "abc" this is.
    #[test]
    fn digests_are_sha_256_and_survive_as_text() {
        let digest = Digest::of("abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_hex(), text);
        assert!(Digest::from_hex(text).unwrap().is(&digest));
        assert!(!digest.is(&Digest::of("abd")));
        for bad in [
            "",
            "ba78",
            &text.replace('b', "x"),
            &text.replace("ba", "é"),
        ] {
            assert!(Digest::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_long_and_does_not_show_itself() {
        struct Sevens;
        impl Entropy for Sevens {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(7);
            }
        }
        let secret = Secret::draw(&Sevens);
        assert_eq!(secret.text(), alloc::format!("ferrite_{}", "07".repeat(32)));
        assert!(!alloc::format!("{secret:?}").contains("07"));
    }
}
