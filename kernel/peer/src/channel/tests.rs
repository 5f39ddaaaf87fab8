//! A peer that has the keys and does not keep to the protocol.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use net::pipe::{Pipe, pipe};
use world::{Clock, Entropy};

use super::*;
use crate::PublicKey;
use crate::key::PrivateKey;
use crate::noise::{Handshake, SEAL_LEN};

#[derive(Default)]
struct Fake(Cell<u64>);

impl Clock for Fake {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// A channel, and the end and keys of who is on its other side.
fn channel(exec: &Exec) -> (Channel<Pipe>, Pipe, Keys) {
    let key = PrivateKey::draw(&Sevens);
    let mut initiator = Handshake::link_to(&key, &key.public(), &Sevens);
    let mut responder = Handshake::link_from(&key, &Sevens);
    responder.read(&initiator.write(&[]).unwrap()).unwrap();
    initiator.read(&responder.write(&[]).unwrap()).unwrap();
    let (near, far) = pipe(1 << 20);
    let peer = Peer {
        name: "b".into(),
        key: PublicKey::new([0; 32]),
        address: near.peer(),
        paired_at_nanos: 0,
    };
    let keys = initiator.finish().unwrap();
    let channel = Channel::new(exec.clone(), near, keys, (peer, Rc::default()));
    (channel, far, responder.finish().unwrap())
}

/// Frames and what is heard of them.
type Case<'a> = (&'static str, &'a [&'a [u8]], &'a [Heard]);
type Heard = Result<Option<usize>, PeerError>;

/// What is received when these are sent, sealed as they are.
fn hear(frames: &[&[u8]]) -> Vec<Heard> {
    let exec = Exec::new(Rc::<Fake>::default());
    let (channel, far, mut keys) = channel(&exec);
    let out = Rc::new(RefCell::new(Vec::new()));
    let heard = out.clone();
    for plain in frames {
        let mut sealed = vec![0; plain.len() + SEAL_LEN];
        keys.seal(plain, &mut sealed).unwrap();
        let len = u16::try_from(sealed.len()).unwrap().to_be_bytes();
        assert_eq!(
            far.try_write([&len[..], &sealed].into_iter()),
            sealed.len() + 2
        );
    }
    far.finish();
    exec.spawn(async move {
        loop {
            let received = channel.receive(&mut [0; 40_000]).await;
            heard.borrow_mut().push(received);
            if !matches!(received, Ok(Some(_))) {
                return;
            }
        }
    });
    while exec.run_ready() {}
    drop(far);
    out.take()
}

#[test]
fn frames_that_nobody_should_send_end_the_channel() {
    let part = |kind: u8, len: usize| [&[kind][..], &vec![9; len]].concat();
    let full = part(0, PART_MAX);
    let protocol = Err(PeerError::Protocol);
    let cases: [Case<'_>; 12] = [
        (
            "well",
            &[&full, &part(1, 5), &[2], &[3]],
            &[Ok(Some(PART_MAX + 5)), Ok(None)],
        ),
        ("an empty message", &[&[1], &[3]], &[Ok(Some(0)), Ok(None)]),
        (
            "full parts, then none",
            &[&full, &[1], &[3]],
            &[Ok(Some(PART_MAX)), Ok(None)],
        ),
        ("no kind", &[&[]], &[protocol]),
        ("an unknown kind", &[&[4]], &[protocol]),
        (
            "a part that is not full",
            &[&part(0, PART_MAX - 1)],
            &[protocol],
        ),
        ("nothing, with something", &[&[2, 0]], &[protocol]),
        ("an end with something", &[&[3, 0]], &[protocol]),
        ("an end in a message", &[&full, &[3]], &[protocol]),
        ("nothing in a message", &[&full, &[2]], &[protocol]),
        (
            "more than there is room for",
            &[&full, &full, &full],
            &[protocol],
        ),
        ("a long frame", &[&part(1, PART_MAX + 1)], &[protocol]),
    ];
    for (name, frames, expected) in cases {
        assert_eq!(hear(frames), expected, "{name}");
    }
}

#[test]
fn what_follows_the_end_is_not_heard() {
    assert_eq!(hear(&[&[1, 9], &[3], &[1, 9]]), [Ok(Some(1)), Ok(None)]);
    assert_eq!(hear(&[&[1, 9]]), [Ok(Some(1)), Err(PeerError::Lost)]);
}
