//! Strangers at the port for peers, and at the address where a peer should be.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use net::pipe::{Pipe, pipe, pipe_port};
use net::{Connect, NetError, Stream};
use peer::{HANDSHAKE_TIME, Me, Peers};
use store::{FormatOptions, Store};

use super::{DEADLINE, entropy, environment, machine, small_config};
use crate::disk::SimDisk;
use crate::machine::Machine;

/// A peer's record; its private key is nobody's here.
const PEER: (&str, &str) = (
    "peer/de9edb7d7b7dc1b4d35b61c2ece43537",
    r#"{"name":"b","key":"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f","address":"10.0.0.2:7700","paired_at_nanos":0}"#,
);

/// One connection, on which a stranger says `bytes` but for the first: with a first byte below 64 to the port for peers, below
/// 128 as the answer to a peer that connects, and else as the answer to one that wants to be paired. Whatever it says, it
/// learns nothing and is no peer, and the connection ends in time.
pub fn peer(bytes: &[u8]) {
    let (first, said) = bytes.split_first().unwrap_or((&0, &[]));
    let (first, said) = (*first, said.to_vec());
    let machine = machine(&[(64 << 20) / 4096]);
    let (exec, opening) = (machine.exec.clone(), open(&machine));
    let finished = machine.block_on(DEADLINE, async move {
        let peers = opening.await;
        if first < 64 {
            knock(&exec, peers, &said).await;
            return;
        }
        let (near, far) = pipe(64 << 10);
        let way = Once(Cell::new(Some(near)));
        exec.spawn(say(far, said));
        let (start, is_refused) = (
            exec.now(),
            match first {
                64..128 => peers.connect(&way, "b").await.is_err(),
                _ => {
                    let token = peers.make_token().expect("a token").text();
                    let to = SocketAddr::from(([10, 0, 0, 2], 1));
                    peers.pair(&way, to, &token).await.is_err()
                }
            },
        );
        assert!(is_refused, "a stranger is a peer");
        assert!(exec.now() - start <= HANDSHAKE_TIME);
        assert_eq!(peers.list().len(), 1);
    });
    assert_eq!(finished, Ok(()), "a handshake that hangs");
    machine.switch_off();
}

/// An appliance that has one peer.
fn open(machine: &Machine) -> impl Future<Output = Peers<SimDisk>> + 'static {
    let (disk, environment) = (machine.disks[0].clone(), environment(machine));
    async move {
        let exec = environment.exec.clone();
        let disks = vec![disk];
        let made = Store::format(&disks, &environment, FormatOptions::default()).await;
        made.expect("a pool");
        let store = Store::open(disks, environment, small_config()).await;
        let store = store.expect("a store");
        let kept = store.set_record(PEER.0, Some(PEER.1.as_bytes())).await;
        kept.expect("a record");
        let me = Me {
            name: "a".to_owned(),
            port: 7700,
        };
        let peers = Peers::open(exec, store, Rc::new(entropy()), me).await;
        let peers = peers.expect("peers");
        assert!(peers.find("b").is_some() && peers.make_token().is_ok());
        peers
    }
}

/// Says it at the port; nothing may come back, and no channel.
async fn knock(exec: &Exec, peers: Peers<SimDisk>, said: &[u8]) {
    let (listener, dialer) = pipe_port(64 << 10);
    let opened = Rc::new(RefCell::new(0));
    let count = opened.clone();
    exec.spawn(peers.serve(listener, move |_| {
        *count.borrow_mut() += 1;
        async {}
    }));
    let stream = dialer.connect().expect("a connection");
    // It may be ended while it is said.
    let _ = stream.write_all(said).await;
    let limit = HANDSHAKE_TIME + Duration::from_secs(1);
    let answer = exec.timeout(limit, stream.read(&mut [0])).await;
    assert!(
        matches!(answer, Ok(Ok(0) | Err(_))),
        "a stranger heard something"
    );
    assert_eq!(*opened.borrow(), 0, "a stranger has a channel");
}

async fn say(stream: Pipe, said: Vec<u8>) {
    let _ = stream.write_all(&said).await;
    while let Ok(1..) = stream.read(&mut [0; 512]).await {}
}

/// A way out that works once.
struct Once(Cell<Option<Pipe>>);

impl Connect for Once {
    type Stream = Pipe;

    async fn connect(&self, _: SocketAddr) -> Result<Pipe, NetError> {
        self.0.take().ok_or(NetError::Unreachable)
    }
}
