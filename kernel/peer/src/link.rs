//! Links: connections between appliances that know each other's keys.
//!
//! ```text
//! initiator                                responder
//! hello, e, s                    ──►       is that the key of a peer?
//! it has the key that it should  ◄──       e
//! confirmation                   ──►       nobody repeats an old message
//! ```

use core::pin::pin;

use net::{Connect, Stream};
use world::Disk;

use crate::PeerError;
use crate::channel::Channel;
use crate::hello::{HANDSHAKE_TIME, Purpose, receive_message, send_message};
use crate::noise::{Handshake, LINK_LENS};
use crate::peers::{Peer, Peers};

impl<D: Disk + 'static> Peers<D> {
    /// Opens a channel to the peer with this name.
    ///
    /// # Errors
    /// See [`PeerError`]; [`PeerError::NotPaired`] when there is no such peer, [`PeerError::Refused`] when it does not know
    /// this appliance, and [`PeerError::Protocol`] when somebody else answers.
    pub async fn connect<C: Connect>(
        &self,
        way: &C,
        name: &str,
    ) -> Result<Channel<C::Stream>, PeerError> {
        let peer = self.find(name).ok_or(PeerError::NotPaired)?;
        let stream = way.connect(peer.address).await?;
        let linked = pin!(self.link_to(&stream, &peer));
        let linked = self.shared.exec.timeout(HANDSHAKE_TIME, linked).await;
        let linked = linked.unwrap_or(Err(PeerError::TimedOut));
        if linked.is_err() {
            stream.abort();
        }
        linked
    }

    async fn link_to<S: Stream>(&self, stream: &S, peer: &Peer) -> Result<Channel<S>, PeerError> {
        let shared = &self.shared;
        let mut handshake = Handshake::link_to(&shared.private, &peer.key, &*shared.entropy);
        let first = handshake.write(&[])?;
        send_message(stream, &Purpose::Link.hello(), &first).await?;
        let second = receive_message(stream, LINK_LENS[1]..=LINK_LENS[1]).await?;
        handshake.read(&second)?;
        let keys = handshake.finish()?;
        // It may have been removed meanwhile.
        let leashed = self.leash(&peer.key)?;
        let channel = Channel::new(shared.exec.clone(), stream.clone(), keys, leashed);
        channel.confirm().await?;
        Ok(channel)
    }

    /// The other side of [`connect`](Self::connect).
    pub(crate) async fn link_from<S: Stream>(&self, stream: &S) -> Result<Channel<S>, PeerError> {
        let shared = &self.shared;
        let first = receive_message(stream, LINK_LENS[0]..=LINK_LENS[0]).await?;
        let mut handshake = Handshake::link_from(&shared.private, &*shared.entropy);
        handshake.read(&first)?;
        let key = handshake.their_key().ok_or(PeerError::Protocol)?;
        let leashed = self.leash(&key)?;
        let second = handshake.write(&[])?;
        send_message(stream, &[], &second).await?;
        let keys = handshake.finish()?;
        let channel = Channel::new(shared.exec.clone(), stream.clone(), keys, leashed);
        channel.confirmation().await?;
        Ok(channel)
    }
}
