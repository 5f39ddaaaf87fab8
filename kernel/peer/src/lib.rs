//! Paired appliances: who they are, and authenticated, encrypted channels between them.
//!
//! ```text
//! Peers ── pair ─────► hello, Noise XXpsk0, verdict ─────────► a record each, with the other's key
//!   │  ── connect ───► hello, Noise IK, confirmation ──┐
//!   └─── serve ──────► the same, from the other side ──┴─────► Channel: frames, both ways at once
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `key` | what an appliance is known by, and what proves it |
//! | `token` | secrets by which two appliances are paired: short-lived, for one use |
//! | `hello` | the bytes around the messages of a handshake |
//! | `noise` | the only place that knows the library |
//! | `pairing`, `link` | the two handshakes, from both sides |
//! | `peers` | who is known, kept in records of the store |
//! | `listener` | who is let in |
//! | `channel`, `frame`, `leash` | messages, cut into frames; and how a channel ends |
//!
//! Words: a **peer** is an appliance that this one was paired with; **pairing** is how each of two learns the other's public
//! key. The **initiator** connects, the **responder** listens. A **message** is what users send; a **frame** is a part of it,
//! sealed. A **leash** is how channels of a removed peer are ended.
//!
//! # The protocol
//!
//! ```text
//! hello      "ferrite" | version 1 | purpose: 1 pair, 2 link            clear; the prologue of the handshake
//! message    length 2, big endian | Noise message
//! frame      length 2, big endian | sealed: kind 1 | at most 16 KiB      kinds: part, last part, alive, end
//! ```
//!
//! It is the [Noise protocol](https://noiseprotocol.org/noise.html), revision 34, with 25519, ChaChaPoly and BLAKE2s, by the
//! crate `snow`: it builds without `std`, its primitives are those of RustCrypto and dalek, it passes the published test
//! vectors (`noise` repeats those of the patterns used here), and it takes random numbers from whoever gives them, here
//! [`world::Entropy`]. Nothing of cryptography is written here. ChaChaPoly and BLAKE2s are fast and constant in time without
//! special instructions.
//!
//! **Pairing is `XXpsk0`.** Neither side knows the other's key, so both send theirs (XX); what they trust each other by is
//! the token, a pre-shared key of 256 bits. It is mixed in before the first message, so that the responder can tell from
//! that message alone, without computing anything costly, whether the initiator has a token, and which one. Whoever has none
//! hears nothing: neither name nor key, nor whether there is a token at all. (With `psk3` everybody would be told the key.)
//!
//! **Links are `IK`.** Both know the other's key. The initiator's comes in the first message, encrypted to the responder's
//! key, so strangers do not see who calls, and whoever does not know the responder's key cannot ask it anything; with `KK` the
//! responder would have to try each peer it knows. The first message of IK can be replayed, so nothing is in it, and the
//! responder takes nobody for connected before a frame has come that only the owner of the key could make.
//!
//! # Invariants
//!
//! - nobody is told anything, by bytes, before they proved to have a token or the key of a peer;
//! - private key and tokens are never logged, and never sent;
//! - a length is checked before it is used, memory of a connection is bounded whatever the other side does, and each wait has
//!   an end;
//! - a frame is accepted once, in its order, whole, or the channel ends; an end that nobody meant is an error;
//! - when a removal returns, the peer has no channels, and gets no more.
//!
//! The private key is in a record of the store, which is an exception to the rule that no secret is on a drive: who has the
//! drives has all that the key could protect.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod channel;
mod error;
mod frame;
mod hello;
mod hex;
mod key;
mod leash;
mod link;
mod listener;
mod noise;
mod pairing;
mod peers;
mod token;

pub use channel::{Channel, KEEP_ALIVE, MESSAGE_MAX, SILENCE};
pub use error::{PeerError, PeersError};
pub use hello::HANDSHAKE_TIME;
pub use key::PublicKey;
pub use listener::{CHANNELS_MAX, HALF_OPEN_MAX};
pub use peers::{Me, PEERS_MAX, Peer, Peers};
pub use token::{PairingToken, TOKEN_TIME, TOKENS_MAX};

/// Where appliances listen for peers.
pub const PORT: u16 = 10810;
