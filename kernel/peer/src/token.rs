//! Pairing tokens: secrets that let one other appliance become a peer. In memory only.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use world::{Entropy, Instant};

use crate::hex::{from_hex, to_hex};

/// How long a token can be used.
pub const TOKEN_TIME: Duration = Duration::from_secs(600);
/// Tokens at one time.
pub const TOKENS_MAX: usize = 4;
/// What tokens begin with, so that one that went astray can be found by searching for it.
const PREFIX: &str = "ferrite_pair_";

/// 256 random bits that two appliances share for a while.
pub type Psk = [u8; 32];

/// A token that was just made. It shows itself only to who asks for its text.
pub struct PairingToken(Psk);

impl PairingToken {
    /// What to tell the other appliance; `ferrite_pair_` and 64 hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", to_hex(&self.0))
    }
}

impl fmt::Debug for PairingToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PairingToken(…)")
    }
}

/// The secret of a token's text, with or without space around it.
pub fn secret_of(text: &str) -> Option<Psk> {
    from_hex(text.trim().strip_prefix(PREFIX)?)
}

/// The tokens that can be used now.
///
/// There are always [`TOKENS_MAX`] secrets to try; those nobody was told fit nothing. So who tries does not learn, from the
/// time that it takes, how many tokens there are.
pub struct Tokens {
    entropy: Rc<dyn Entropy>,
    slots: [Slot; TOKENS_MAX],
}

struct Slot {
    psk: Psk,
    /// When it cannot be used any more, if it was told.
    end: Option<Instant>,
}

impl Tokens {
    /// None.
    pub fn new(entropy: Rc<dyn Entropy>) -> Self {
        Self {
            slots: core::array::from_fn(|_| Slot::unused(&*entropy)),
            entropy,
        }
    }

    /// A new one; `None` when there are enough.
    pub fn make(&mut self, now: Instant) -> Option<PairingToken> {
        self.expire(now);
        let slot = self.slots.iter_mut().find(|slot| slot.end.is_none())?;
        slot.end = Some(now + TOKEN_TIME);
        Some(PairingToken(slot.psk))
    }

    /// What to try.
    pub fn secrets(&mut self, now: Instant) -> [Psk; TOKENS_MAX] {
        self.expire(now);
        core::array::from_fn(|index| self.slots[index].psk)
    }

    /// Whether it could be used now.
    pub fn has(&mut self, psk: &Psk, now: Instant) -> bool {
        self.expire(now);
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.end.is_some() && slot.psk == *psk)
    }

    /// Uses it up; whether it could be used.
    pub fn take(&mut self, psk: &Psk, now: Instant) -> bool {
        self.expire(now);
        let mut slots = self.slots.iter_mut();
        let found = slots.find(|slot| slot.end.is_some() && slot.psk == *psk);
        match found {
            Some(slot) => {
                *slot = Slot::unused(&*self.entropy);
                true
            }
            None => false,
        }
    }

    fn expire(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if slot.end.is_some_and(|end| end <= now) {
                *slot = Slot::unused(&*self.entropy);
            }
        }
    }
}

impl Slot {
    fn unused(entropy: &dyn Entropy) -> Self {
        let mut psk = [0; 32];
        entropy.fill(&mut psk);
        Self { psk, end: None }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    struct Counter(Cell<u8>);

    impl Entropy for Counter {
        fn fill(&self, bytes: &mut [u8]) {
            self.0.set(self.0.get() + 1);
            bytes.fill(self.0.get());
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_token_is_used_once_and_for_ten_minutes() {
        let mut tokens = Tokens::new(Rc::new(Counter(Cell::new(0))));
        let never_told = tokens.secrets(at(0));
        assert!(!tokens.take(&never_told[0], at(0)));
        let first = tokens.make(at(0)).unwrap();
        let second = tokens.make(at(5)).unwrap();
        assert!(tokens.has(&first.0, at(599)) && tokens.secrets(at(599)).contains(&first.0));
        assert!(!tokens.has(&first.0, at(600)) && !tokens.secrets(at(600)).contains(&first.0));
        assert!(!tokens.take(&first.0, at(600)));
        assert!(tokens.take(&second.0, at(604)));
        assert!(!tokens.take(&second.0, at(604)));
        assert!(!tokens.secrets(at(604)).contains(&second.0));
    }

    #[test]
    fn four_at_a_time() {
        let mut tokens = Tokens::new(Rc::new(Counter(Cell::new(0))));
        for _ in 0..TOKENS_MAX {
            assert!(tokens.make(at(0)).is_some());
        }
        assert!(tokens.make(at(599)).is_none());
        assert!(tokens.make(at(600)).is_some());
    }

    #[test]
    fn its_text_is_pasted_and_its_debug_form_tells_nothing() {
        let token = PairingToken([0xab; 32]);
        let text = token.text();
        assert_eq!(text, format!("ferrite_pair_{}", "ab".repeat(32)));
        assert_eq!(secret_of(&format!(" {text}\n")), Some(token.0));
        for bad in [
            "",
            "ferrite_pair_",
            &text[1..],
            &text[..76],
            &format!("{text}0"),
        ] {
            assert_eq!(secret_of(bad), None, "{bad}");
        }
        assert!(!format!("{token:?}").contains("ab"));
    }
}
