//! Appliances on a network that loses, repeats and changes what passes.

#[path = "peer/network.rs"]
mod network;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

#[path = "peer/channels.rs"]
mod channels;
#[path = "peer/limits.rs"]
mod limits;
#[path = "peer/meddling.rs"]
mod meddling;
#[path = "peer/pairs.rs"]
mod pairs;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use dice::Dice;
use net::pipe::Pipe;
use network::Network;
use peer::{Me, PeerError, Peers};
use ram::{Bench, RamDisk};
use store::Store;

const SECOND: Duration = Duration::from_secs(1);

type Channel = peer::Channel<Pipe>;

/// Numbers that the seed decides.
mod dice {
    use std::cell::Cell;

    use world::Entropy;

    pub struct Dice(pub Cell<u64>);

    impl Entropy for Dice {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005);
                self.0.set(next.wrapping_add(1_442_695_040_888_963_407));
                *byte = (self.0.get() >> 33) as u8;
            }
        }
    }
}

/// An appliance that listens; what others open comes out of `opened`.
#[derive(Clone)]
struct Appliance {
    peers: Peers<RamDisk>,
    address: SocketAddr,
    opened: exec::Channel<Channel>,
}

/// Appliances and their network.
struct Town {
    bench: Bench,
    network: Network,
}

impl Town {
    fn new() -> Self {
        let bench = Bench::with_blocks(1);
        let network = Network::new(&bench.exec);
        Self { bench, network }
    }

    /// An appliance with this name, on a new drive, at 127.0.0.1 and this port.
    fn appliance(&self, name: &str, port: u16) -> Appliance {
        let mut bench = self.bench.clone();
        bench.disk = RamDisk::default();
        let store = bench.store();
        self.start(name, port, store)
    }

    /// An appliance with what this store has.
    fn start(&self, name: &str, port: u16, store: Store<RamDisk>) -> Appliance {
        let me = Me {
            name: name.to_owned(),
            port,
        };
        let dice = Rc::new(Dice(std::cell::Cell::new(port.into())));
        let exec = self.bench.exec.clone();
        let peers = Peers::open(exec.clone(), store, dice, me);
        let peers = self.bench.run(peers).expect("peers");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let opened = exec::Channel::new(128);
        let (listener, out) = (self.network.listen(address), opened.clone());
        let serve = peers.clone().serve(listener, move |channel: Channel| {
            let out = out.clone();
            async move {
                assert!(out.try_send(channel).is_ok(), "too many channels");
            }
        });
        exec.spawn(serve);
        Appliance {
            peers,
            address,
            opened,
        }
    }

    /// Two that are paired: `a` connects to `b`.
    fn pair(&self) -> [Appliance; 2] {
        let (a, b) = (self.appliance("a", 1001), self.appliance("b", 1002));
        self.paired(&a, &b);
        [a, b]
    }

    fn paired(&self, a: &Appliance, b: &Appliance) {
        let token = b.peers.make_token().expect("a token").text();
        let (peers, network, to) = (a.peers.clone(), self.network.clone(), b.address);
        let paired = async move { peers.pair(&network, to, &token).await };
        self.bench.run(paired).expect("a pair");
    }

    /// A channel of `a` to `b`, and its other end.
    fn linked(&self, a: &Appliance, b: &Appliance) -> [Channel; 2] {
        let near = self.link(a, &b.peers.me().name).expect("a channel");
        let opened = b.opened.clone();
        let far = self.bench.run(async move { opened.receive().await });
        [near, far.expect("its other end")]
    }

    fn link(&self, a: &Appliance, to: &str) -> Result<Channel, PeerError> {
        let (peers, network, to) = (a.peers.clone(), self.network.clone(), to.to_owned());
        let linked = async move { peers.connect(&network, &to).await };
        self.bench.run(linked)
    }

    fn pass(&self, time: Duration) {
        self.bench.run(self.bench.exec.sleep(time));
    }
}

async fn receive(channel: &Channel) -> Result<Option<Vec<u8>>, PeerError> {
    let mut into = vec![0; peer::MESSAGE_MAX];
    let len = channel.receive(&mut into).await?;
    Ok(len.map(|len| into[..len].to_vec()))
}

/// Bytes that are found again.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + (at >> 8) * 13 + seed) as u8)
        .collect()
}
