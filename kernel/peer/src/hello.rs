//! The bytes around the messages of a handshake: what it is for, in clear, and lengths.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use net::{NetError, Stream};

use crate::PeerError;

/// Time for a whole handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What all connections begin with.
const MAGIC: [u8; 7] = *b"ferrite";
/// Of this protocol.
const VERSION: u8 = 1;
/// Bytes of a hello.
pub const HELLO_LEN: usize = MAGIC.len() + 2;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn each other's keys.
    Pair = 1,
    /// To speak.
    Link = 2,
}

impl Purpose {
    /// What an initiator begins with, and the prologue of both: whoever changes it in between is noticed.
    pub fn hello(self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[MAGIC.len()..].copy_from_slice(&[VERSION, self as u8]);
        bytes
    }

    fn decode(bytes: [u8; HELLO_LEN]) -> Option<Self> {
        let all = [Self::Pair, Self::Link];
        all.into_iter().find(|purpose| purpose.hello() == bytes)
    }
}

/// Receives a hello.
pub async fn receive_hello<S: Stream>(stream: &S) -> Result<Purpose, PeerError> {
    let mut bytes = [0; HELLO_LEN];
    stream.read_exact(&mut bytes).await.map_err(refused)?;
    Purpose::decode(bytes).ok_or(PeerError::Protocol)
}

/// Sends `before` and a message, or a frame.
pub async fn send_message<S: Stream>(
    stream: &S,
    before: &[u8],
    message: &[u8],
) -> Result<(), PeerError> {
    let len = u16::try_from(message.len()).map_err(|_| PeerError::Protocol)?;
    let bytes = [before, &len.to_be_bytes(), message].concat();
    stream.write_all(&bytes).await.map_err(refused)
}

/// Receives a message, or a frame, of which it is known how long it can be.
pub async fn receive_message<S: Stream>(
    stream: &S,
    lens: RangeInclusive<usize>,
) -> Result<Vec<u8>, PeerError> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).await.map_err(refused)?;
    let len = usize::from(u16::from_be_bytes(len));
    if !lens.contains(&len) {
        return Err(PeerError::Protocol);
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await.map_err(refused)?;
    Ok(message)
}

/// Whoever ends a connection in a handshake refuses.
fn refused(error: NetError) -> PeerError {
    match error {
        NetError::Closed => PeerError::Refused,
        other => other.into(),
    }
}
