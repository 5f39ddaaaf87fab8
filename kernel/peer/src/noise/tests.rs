//! Published test vectors, through what draws our keys; and what a handshake must not let through.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::cell::Cell;

use super::*;

struct Numbers(Cell<u8>);

impl Entropy for Numbers {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0.set(self.0.get().wrapping_mul(5).wrapping_add(113));
            *byte = self.0.get();
        }
    }
}

fn numbers(seed: u8) -> Numbers {
    Numbers(Cell::new(seed))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// One of `vectors.txt`.
#[derive(Default)]
struct Vector {
    fields: BTreeMap<&'static str, &'static str>,
    messages: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Vector {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.fields.get(name).copied().map(bytes)
    }

    /// The state of `side`, made as ours are, but for the prologue.
    fn build(&self, side: &str) -> HandshakeState {
        let params: NoiseParams = self.fields["protocol"].parse().unwrap();
        let part = |what: &str| self.get(&[side, "-", what].concat());
        let drawn = part("ephemeral").unwrap().try_into().unwrap();
        let prologue = self.get("prologue").unwrap();
        let builder = Builder::with_resolver(params, Box::new(Resolver { drawn }));
        let mut builder = builder.prologue(&prologue).unwrap();
        let (own, psk) = (part("static"), self.get("psk"));
        let theirs = self.get("responder-public");
        if let Some(own) = &own {
            builder = builder.local_private_key(own).unwrap();
        }
        let psk: Option<[u8; 32]> = psk.map(|psk| psk.try_into().unwrap());
        if let Some(psk) = &psk {
            let place = if self.fields["protocol"].contains("psk0") {
                0
            } else {
                3
            };
            builder = builder.psk(place, psk).unwrap();
        }
        if side == "responder" {
            return builder.build_responder().unwrap();
        }
        if let Some(theirs) = &theirs {
            builder = builder.remote_public_key(theirs).unwrap();
        }
        builder.build_initiator().unwrap()
    }
}

fn vectors() -> Vec<Vector> {
    let mut all: Vec<Vector> = Vec::new();
    for line in include_str!("vectors.txt").lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        match *words {
            ["protocol", name] => {
                all.push(Vector::default());
                all.last_mut().unwrap().fields.insert("protocol", name);
            }
            ["message", payload, sealed] => {
                let message = (bytes(payload), bytes(sealed));
                all.last_mut().unwrap().messages.push(message);
            }
            ["#", ..] | [""] => {}
            [name, value] => drop(all.last_mut().unwrap().fields.insert(name, value)),
            _ => panic!("{line}"),
        }
    }
    all
}

#[test]
fn published_vectors() {
    let vectors = vectors();
    let names: String = vectors.iter().map(|one| one.fields["protocol"]).collect();
    assert!(names.contains(LINK) && names.contains("_XXpsk3_") && names.contains("_NNpsk0_"));
    for vector in vectors {
        let mut sides = [vector.build("initiator"), vector.build("responder")];
        let mut messages = vector.messages.iter();
        let (mut turn, mut out) = (0, [0; 512]);
        while !sides[0].is_handshake_finished() {
            let (payload, sealed) = messages.next().unwrap();
            let len = sides[turn].write_message(payload, &mut out).unwrap();
            assert_eq!(out[..len], sealed[..], "{}", vector.fields["protocol"]);
            turn = 1 - turn;
            let len = sides[turn].read_message(sealed, &mut out).unwrap();
            assert_eq!(out[..len], payload[..]);
        }
        assert_eq!(sides[0].get_handshake_hash(), vector.get("hash").unwrap());
        let keys = |state| Handshake { state }.finish().unwrap();
        let mut sides = sides.map(keys);
        let mut count = 0;
        for (payload, sealed) in messages {
            let len = sides[turn].seal(payload, &mut out).unwrap();
            assert_eq!(out[..len], sealed[..]);
            turn = 1 - turn;
            let len = sides[turn].open(sealed, &mut out).unwrap();
            assert_eq!(out[..len], payload[..]);
            count += 1;
        }
        assert!(count >= 2);
    }
}

/// Initiator and responder that know each other.
fn linked() -> [Keys; 2] {
    let (one, other) = (PrivateKey::draw(&numbers(1)), PrivateKey::draw(&numbers(2)));
    let mut initiator = Handshake::link_to(&one, &other.public(), &numbers(3));
    let mut responder = Handshake::link_from(&other, &numbers(4));
    let first = initiator.write(&[]).unwrap();
    assert_eq!(first.len(), LINK_LENS[0]);
    responder.read(&first).unwrap();
    assert_eq!(responder.their_key(), Some(one.public()));
    let second = responder.write(&[]).unwrap();
    assert_eq!(second.len(), LINK_LENS[1]);
    initiator.read(&second).unwrap();
    [initiator.finish().unwrap(), responder.finish().unwrap()]
}

fn pass(from: &mut Keys, to: &mut Keys) -> Result<(), PeerError> {
    let (mut sealed, mut plain) = ([0; 64], [0; 64]);
    let len = from.seal(b"frame", &mut sealed)?;
    assert!(!sealed.windows(5).any(|bytes| bytes == b"frame"));
    let len = to.open(&sealed[..len], &mut plain)?;
    assert_eq!(plain[..len], *b"frame");
    Ok(())
}

#[test]
fn keys_are_replaced_by_both_sides_after_as_many_frames() {
    let [mut one, mut other] = linked();
    (one.sent, other.received) = (REKEY_FRAMES - 2, REKEY_FRAMES - 2);
    for _ in 0..4 {
        assert_eq!(pass(&mut one, &mut other), Ok(()));
        assert_eq!(pass(&mut other, &mut one), Ok(()));
    }
    // Whoever goes on with the old key is not heard.
    let [mut stale, mut fresh] = linked();
    (stale.sent, fresh.received) = (REKEY_FRAMES, REKEY_FRAMES - 1);
    let mut sealed = [0; 64];
    let [mut copy, _] = linked();
    copy.sent = REKEY_FRAMES - 1;
    let len = copy.seal(b"frame", &mut sealed).unwrap();
    assert!(fresh.open(&sealed[..len], &mut [0; 64]).is_ok());
    assert_eq!(pass(&mut stale, &mut fresh), Err(PeerError::Protocol));
    assert_eq!(pass(&mut copy, &mut fresh), Ok(()));
}

#[test]
fn pairing_needs_the_token_from_the_first_message_on() {
    let (one, other) = (PrivateKey::draw(&numbers(1)), PrivateKey::draw(&numbers(2)));
    let token = [7; 32];
    let mut initiator = Handshake::pair_with(&one, &token, &numbers(3));
    let first = initiator.write(&[]).unwrap();
    assert_eq!(first.len(), PAIR_LENS[0]);
    for bit in 0..256 {
        let mut wrong = token;
        wrong[bit / 8] ^= 1 << (bit % 8);
        let mut responder = Handshake::pair_from(&other, &wrong, &numbers(4));
        assert_eq!(responder.read(&first), Err(PeerError::Protocol));
    }
    let mut responder = Handshake::pair_from(&other, &token, &numbers(4));
    assert_eq!(responder.read(&first), Ok(Vec::new()));
    let second = responder.write(b"responder").unwrap();
    assert_eq!(second.len(), PAIR_LENS[1] + 9);
    assert_eq!(initiator.read(&second).as_deref(), Ok(&b"responder"[..]));
    let third = initiator.write(b"initiator").unwrap();
    assert_eq!(third.len(), PAIR_LENS[2] + 9);
    assert_eq!(responder.read(&third).as_deref(), Ok(&b"initiator"[..]));
    let known = [initiator.their_key(), responder.their_key()];
    assert_eq!(known, [Some(other.public()), Some(one.public())]);
}

/// The same keys and patterns for something else, or of another version, are not taken for this.
#[test]
fn the_prologue_is_part_of_it() {
    let me = PrivateKey::draw(&numbers(1));
    let prologue = Purpose::Pair.hello();
    let build = |prologue: &[u8]| {
        let drawn = [9; 32];
        let builder = Builder::with_resolver(LINK.parse().unwrap(), Box::new(Resolver { drawn }));
        let builder = builder.prologue(prologue).unwrap();
        let builder = builder.local_private_key(&[5; 32]).unwrap();
        let key = me.public();
        let builder = builder.remote_public_key(key.bytes()).unwrap();
        let state = builder.build_initiator().unwrap();
        Handshake { state }.write(&[]).unwrap()
    };
    let read = |first: &[u8]| Handshake::link_from(&me, &numbers(2)).read(first);
    assert!(read(&build(&Purpose::Link.hello())).is_ok());
    assert_eq!(read(&build(&prologue)), Err(PeerError::Protocol));
}

#[test]
fn random_bytes_are_given_out_once() {
    let mut drawn = Drawn(Some([7; 32]));
    assert!(drawn.try_fill_bytes(&mut [0; 32]).is_ok());
    assert!(drawn.try_fill_bytes(&mut [0; 32]).is_err());
}
