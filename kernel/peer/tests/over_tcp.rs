//! Peers over two whole network stacks, with frames that get lost.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../net/tests/stack/lab.rs"]
mod lab;
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use lab::{Dice, Lab, LabLink};
use net::TcpStream;
use net::cable::Fate;
use peer::{MESSAGE_MAX, Me, PeerError, Peers};
use ram::{Bench, RamDisk};

type Channel = peer::Channel<TcpStream<LabLink>>;

/// Where the server listens.
const PORT: u16 = 7700;
/// Messages each way.
const MESSAGES: usize = 16;

fn appliance(lab: &Lab, name: &str, seed: u64) -> Peers<RamDisk> {
    let me = Me {
        name: name.to_owned(),
        port: PORT,
    };
    let mut bench = Bench::new();
    bench.exec = lab.exec.clone();
    let store = bench.store();
    let peers = Peers::open(lab.exec.clone(), store, Rc::new(Dice::new(seed)), me);
    lab.run(peers).expect("peers")
}

/// A client's channel and its other end.
fn connect(lab: &Lab) -> [Channel; 2] {
    let (a, b) = (appliance(lab, "a", 1), appliance(lab, "b", 2));
    let opened = exec::Channel::new(9);
    let out = opened.clone();
    let serve = b.clone().serve(lab.listen(PORT), move |channel: Channel| {
        let out = out.clone();
        async move { assert!(out.try_send(channel).is_ok()) }
    });
    lab.exec.spawn(serve);
    let token = b.make_token().expect("a token").text();
    let client = lab.client.clone();
    lab.run(async move {
        let to = "10.0.0.1:7700".parse().expect("an address");
        a.pair(&client, to, &token).await.expect("a pair");
        assert_eq!(
            b.list()[0].address,
            "10.0.0.2:7700".parse().expect("an address")
        );
        let near = a.connect(&client, "b").await.expect("a channel");
        [near, opened.receive().await.expect("its other end")]
    })
}

fn message(seed: usize) -> Vec<u8> {
    lab::pattern(seed as u64, MESSAGE_MAX - seed)
}

async fn send(channel: Channel) {
    for seed in 0..MESSAGES {
        assert_eq!(channel.send(&[&message(seed)]).await, Ok(()));
    }
    assert_eq!(channel.finish().await, Ok(()));
}

async fn receive(channel: Channel) {
    let mut into = vec![0; MESSAGE_MAX];
    for seed in 0..MESSAGES {
        let len = channel.receive(&mut into).await;
        assert_eq!(len, Ok(Some(MESSAGE_MAX - seed)));
        assert!(into[..MESSAGE_MAX - seed] == message(seed), "wrong bytes");
    }
    assert_eq!(channel.receive(&mut into).await, Ok(None));
}

#[test]
fn everything_arrives_though_frames_get_lost() {
    let lab = Lab::new();
    let dice = Dice::new(7);
    lab.decide(move |_| (dice.roll(20) == 0).then_some(Fate::Drop));
    let [near, far] = connect(&lab);
    lab.run(async move {
        let forth = join(send(near.clone()), receive(far.clone()));
        let back = join(send(far), receive(near));
        join(forth, back).await;
    });
}

#[test]
fn a_cable_that_is_pulled_ends_the_channel_in_time() {
    let lab = Lab::new();
    let [near, far] = connect(&lab);
    let start = lab.now();
    lab.cut();
    let ended = lab.run(async move {
        let (near, far) = (near.receive(&mut []).await, far.receive(&mut []).await);
        [near, far]
    });
    for end in ended {
        assert!(
            matches!(end, Err(PeerError::TimedOut | PeerError::Lost)),
            "{end:?}"
        );
    }
    assert!(lab.now().since(start) < Duration::from_secs(70));
}
