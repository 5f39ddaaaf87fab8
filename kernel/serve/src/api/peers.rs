//! Peers: appliances that this one was paired with.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use net::Connect;
use peer::{PORT, Peer, PeerError, Peers, PeersError, TOKEN_TIME};
use serde::Serialize;
use serde_json::{json, to_value};
use upkeep::calendar::rfc3339;
use world::Disk;

use super::edits::tag_of;
use super::forms::{PAIRING_TOKEN, PEER_ADDRESS};
use super::node::Pending;
use super::problem::Problem;
use super::resources::no_pool;
use super::router::{Call, Handled, Response};
use super::{Backend, forms};

/// Peers, and the way to those that are none yet.
pub struct Peering<D> {
    peers: Peers<D>,
    pair: Box<Pair>,
}

/// Pairs with the appliance at an address, by a token.
type Pair = dyn Fn(SocketAddr, String) -> Pending<Result<Peer, PeersError>>;

impl<D: Disk + 'static> Peering<D> {
    /// Peers that are reached by `way`.
    #[must_use]
    pub fn new<C: Connect>(peers: Peers<D>, way: C) -> Self {
        let (known, way) = (peers.clone(), Rc::new(way));
        let pair = move |to, token: String| -> Pending<_> {
            let (known, way) = (known.clone(), way.clone());
            Box::pin(async move { known.pair(&*way, to, &token).await })
        };
        Self {
            peers,
            pair: Box::new(pair),
        }
    }
}

#[derive(Serialize)]
struct PeerResource {
    name: String,
    key: String,
    address: String,
    paired_at: Option<String>,
}

impl From<Peer> for PeerResource {
    fn from(peer: Peer) -> Self {
        Self {
            name: peer.name,
            key: peer.key.to_string(),
            address: peer.address.to_string(),
            paired_at: (peer.paired_at_nanos > 0).then(|| rfc3339(peer.paired_at_nanos)),
        }
    }
}

/// What `If-Match` is about.
pub(super) fn tag<D: Disk + 'static>(backend: &Backend<D>, call: &Call) -> Option<String> {
    let peer = backend.peers.as_ref()?.peers.find(&call.captures[0])?;
    to_value(PeerResource::from(peer)).ok().as_ref().map(tag_of)
}

/// This appliance as peers know it, and its peers.
pub(super) async fn list<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let peers = &peering(&backend)?.peers;
    let all: Vec<PeerResource> = peers.list().into_iter().map(Into::into).collect();
    let me = peers.me();
    let answer =
        json!({"name": me.name, "key": peers.key().to_string(), "port": me.port, "peers": all});
    Ok(Response::json(200, &answer))
}

pub(super) async fn get<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let (peers, name) = (&peering(&backend)?.peers, &call.captures[0]);
    let found = peers.find(name).ok_or(PeersError::NoPeer);
    let peer = found.map_err(|error| missing(name, error))?;
    Ok(Response::json(200, &PeerResource::from(peer)))
}

pub(super) async fn make_token<D: Disk + 'static>(backend: Rc<Backend<D>>, _: Call) -> Handled {
    let token = peering(&backend)?.peers.make_token()?;
    let millis = u64::try_from(TOKEN_TIME.as_millis()).unwrap_or(u64::MAX);
    let answer = json!({"token": token.text(), "expires_in_ms": millis});
    Ok(Response::json(201, &answer))
}

pub(super) async fn pair<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let peering = peering(&backend)?;
    let to = address(&call)?;
    let token = call.text(&PAIRING_TOKEN).unwrap_or_default();
    let paired = (peering.pair)(to, token.into()).await;
    let peer = paired.map_err(|error| refuse(&peering.peers, to, error))?;
    let location = format!("/v1/peers/{}", peer.name);
    Ok(Response::created(&PeerResource::from(peer), location))
}

pub(super) async fn change<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let (peers, name) = (&peering(&backend)?.peers, &call.captures[0]);
    let changed = peers.set_address(name, address(&call)?).await;
    let peer = changed.map_err(|error| missing(name, error))?;
    Ok(Response::json(200, &PeerResource::from(peer)))
}

pub(super) async fn remove<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let (peers, name) = (&peering(&backend)?.peers, &call.captures[0]);
    let removed = peers.remove(name).await;
    removed.map_err(|error| missing(name, error))?;
    Ok(Response::empty(204))
}

fn peering<D>(backend: &Backend<D>) -> Result<&Peering<D>, Problem> {
    backend.peers.as_ref().ok_or_else(|| match backend.volumes {
        None => no_pool(),
        Some(_) => {
            let detail =
                "this appliance's key cannot be read, so it has no peers; /v1/log tells more";
            Problem::new(503, detail)
        }
    })
}

/// Where the other appliance is.
fn address(call: &Call) -> Result<SocketAddr, Problem> {
    let parsed = call.text(&PEER_ADDRESS).and_then(parse_address);
    // The route's body admits only what can be read.
    parsed.ok_or_else(|| {
        let detail = forms::PEER_ADDRESS.kind.what();
        Problem::of_field(422, PEER_ADDRESS.name, detail)
    })
}

/// Reads an address, with or without a port. One of IPv6 is in brackets: what is behind its last colon could be a port.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']');
    let v4 = || text.parse::<Ipv4Addr>().ok();
    let v6 = || in_brackets()?.parse::<Ipv6Addr>().ok();
    let alone = v4().map(Into::into).or_else(|| v6().map(Into::into));
    let with_port = || text.parse::<SocketAddr>().ok();
    let parsed = alone.map_or_else(with_port, |ip| Some(SocketAddr::new(ip, PORT)));
    parsed.filter(|address| address.port() > 0 && !text.contains('%'))
}

/// Why there is no pair, and what to do.
fn refuse<D: Disk + 'static>(peers: &Peers<D>, to: SocketAddr, error: PeersError) -> Problem {
    let me = &peers.me().name;
    let rename = "give one of them another `node.name` in its configuration, start it again, and pair them then";
    let detail = match error {
        PeersError::NameTaken => {
            format!(
                "the appliance at {to} has the name of this one (`{me}`) or of one of its peers; {rename}"
            )
        }
        PeersError::TakenThere => format!(
            "the appliance at {to} has a peer `{me}` already, or knows this one by another name: remove that peer there, or {rename}"
        ),
        PeersError::KnownAlready => format!(
            "the appliance at {to} is a peer already, by another name; remove that peer first, its key is the same"
        ),
        PeersError::Itself => format!("{to} is this appliance itself"),
        PeersError::Handshake(PeerError::Refused) => format!(
            "the appliance at {to} refuses: the token is not one of its own, was used, or is older than {} minutes, or too many wrong ones came from here; make another one there",
            TOKEN_TIME.as_secs() / 60
        ),
        PeersError::Handshake(PeerError::Unreachable) => {
            format!("nobody answers at {to}; a Ferrite appliance listens at port {PORT}")
        }
        PeersError::Handshake(error) => format!("{to}: {error}"),
        error => error.to_string(),
    };
    Problem::from(error).with_detail(detail)
}

/// The refusal of a name.
fn missing(name: &str, error: PeersError) -> Problem {
    let problem = Problem::from(error);
    match error {
        PeersError::NoPeer => problem.with_detail(format!("{error}: `{name}`")),
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_their_pattern_says() {
        for (text, address) in [
            ("10.0.0.5", "10.0.0.5:10810"),
            ("10.0.0.5:7", "10.0.0.5:7"),
            ("[fd00::5]", "[fd00::5]:10810"),
            ("[fd00::5]:65535", "[fd00::5]:65535"),
        ] {
            assert_eq!(parse_address(text), address.parse().ok(), "{text}");
        }
        for text in [
            "",
            "10.0.0",
            "10.0.0.5:",
            "10.0.0.5:0",
            "10.0.0.5:65536",
            "fd00::5",
            "fd00::5:10810",
            "[fd00::5",
            "[fd00::5%1]:7",
            "[10.0.0.5]",
            "box",
            "box:10810",
            "10.0.0.5 ",
        ] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }
}
