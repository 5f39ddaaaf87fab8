//! The way of a request through the network: two TCP/IP stacks, a lossy cable between them, the NBD server on one end
//! and clients on the other.
//!
//! The appliance's stack is the real one, and so is the clients'; both run on the appliance's executor and vanish with
//! it. Frames are lost, doubled and delayed (which reorders them) as the seed says, and now and then nothing gets
//! through for a while.

mod nbd;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::rc::Rc;

use exec::Exec;
use net::cable::{Cable, CableEnd, Fate};
use net::{Cidr, ListenOptions, NetConfig, NetError, Stack, TcpStream};
use serve::nbd::{Limits, Server};
use volume::Volumes;
use world::{Clock, Entropy, Instant, LinkInfo, Pool};

use crate::disk::SimDisk;
use crate::machine::Edge;
use crate::random::Random;
pub use nbd::{Answer, Clients};

const PORT: u16 = 10809;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// What happens to frames, in parts per million.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u32,
    pub doubled: u32,
    pub delayed: u32,
    /// Frames after which the cable is cut for up to half a minute.
    pub cut: u32,
}

/// Both ends of the cable.
pub struct Network {
    cable: Cable,
    server: Stack<CableEnd>,
    client: Stack<CableEnd>,
}

impl Network {
    /// Lays the cable and starts the NBD server for `volumes` on `exec`.
    pub fn start(
        exec: &Exec,
        clock: Rc<dyn Clock>,
        volumes: Volumes<SimDisk>,
        entropy: &dyn Entropy,
        weather: Weather,
        mut random: Random,
    ) -> Rc<Self> {
        let info = |last: u8, random: &mut Random| LinkInfo {
            mac: [2, 0, 0, 0, 0, last],
            mtu: 1500,
            transmit_checksum: random.one_in(2),
            receive_checksum: random.one_in(2),
            segmentation_tcp4: random.one_in(2),
        };
        let infos = [info(1, &mut random), info(2, &mut random)];
        let (cable, server_end, client_end) = Cable::new(clock.clone(), infos);
        let pool = Pool::new(random.pick(&[64, 256, 1024]));
        let mut cut_until = Instant::ZERO;
        cable.decide(move |_| {
            let now = clock.now();
            if random.per_million(weather.cut) {
                cut_until = now + Duration::from_millis(random.below(30_000));
            }
            if now < cut_until || random.per_million(weather.lost) {
                Fate::Drop
            } else if random.per_million(weather.doubled) {
                Fate::Duplicate
            } else if random.per_million(weather.delayed) {
                Fate::Delay(Duration::from_micros(random.below(20_000)))
            } else {
                Fate::Delay(Duration::from_micros(20))
            }
        });
        let stack = |end, address: Ipv4Addr| {
            let cidr = Cidr::new(IpAddr::V4(address), 24);
            let config = NetConfig::fixed(cidr.as_slice(), &[]);
            Stack::new(end, config, exec.clone(), entropy)
        };
        let network = Self {
            cable,
            server: stack(server_end, SERVER),
            client: stack(client_end, CLIENT),
        };
        let listener = network.server.listen(PORT, ListenOptions::default());
        let server = Server::new(exec.clone(), volumes, pool, Limits::default());
        exec.spawn(server.serve(listener));
        Rc::new(network)
    }

    async fn connect(&self) -> Result<TcpStream<CableEnd>, NetError> {
        let remote = SocketAddr::new(IpAddr::V4(SERVER), PORT);
        self.client.connect(remote).await
    }
}

impl Edge for Network {
    fn poll(&self) -> bool {
        let mut worked = false;
        for stack in [&self.server, &self.client] {
            worked |= stack.ingress();
            worked |= stack.egress();
        }
        worked
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stacks = [&self.server, &self.client].map(Stack::next_deadline);
        let all = stacks.into_iter().chain([self.cable.next_arrival()]);
        all.flatten().min()
    }
}
