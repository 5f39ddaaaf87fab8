//! An origin over two whole network stacks: frames that get lost, and a cable that is pulled.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "origin/fake.rs"]
mod fake;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../net/tests/stack/lab.rs"]
mod lab;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use exec::join_all;
use fake::{Fake, Knows, content};
use lab::{Dice, Lab};
use net::Listener;
use net::cable::Fate;
use origin::NbdOrigins;
use volume::{Origin, OriginAddress, Origins};
use wire::nbd::NBD_CMD_DISC;
use world::Buf;

/// A server at 10.0.0.1, and an origin of its there.
fn open(lab: &Lab) -> (Fake, Rc<dyn Origin>) {
    let fake = Fake::new(&lab.exec, Knows::ALL);
    let (listener, exec, server) = (lab.listen(10809), lab.exec.clone(), fake.clone());
    lab.exec.spawn(async move {
        for connection in 0.. {
            let stream = listener.accept().await;
            exec.spawn(server.clone().serve(stream, connection));
            server.dialled.set(connection + 1);
        }
    });
    let origins = NbdOrigins::new(lab.exec.clone(), lab.client.clone());
    let address = OriginAddress::Nbd {
        host: "10.0.0.1".to_owned(),
        port: 10809,
        export: "demo".to_owned(),
    };
    let origin = lab.run(async move { origins.open(&address).await });
    (fake, origin.expect("an origin"))
}

/// Reads all of it, eight requests at a time.
async fn read_all(origin: Rc<dyn Origin>) {
    for round in 0..4 {
        let reads = (0..8).map(|index| (round * 8 + index) * 32768);
        let reads = reads.map(|offset| {
            let origin = origin.clone();
            async move {
                let buf = origin
                    .read(offset, Buf::from_heap(8))
                    .await
                    .expect("a read");
                let mut bytes = vec![0; buf.len()];
                buf.copy_to(0, &mut bytes);
                assert!(bytes == content(offset, 32768), "wrong bytes at {offset}");
            }
        });
        join_all(reads).await;
    }
}

#[test]
fn everything_arrives_though_frames_get_lost() {
    let lab = Lab::new();
    let (fake, origin) = open(&lab);
    lab.run(read_all(origin.clone()));
    let dice = Dice::new(7);
    lab.decide(move |_| (dice.roll(20) == 0).then_some(Fate::Drop));
    lab.run(read_all(origin.clone()));
    assert_eq!(fake.dialled.get(), 1);
    drop(origin);
    lab.pass(Duration::from_secs(5));
    assert_eq!(fake.count(NBD_CMD_DISC), 1, "no word at the end");
}

#[test]
fn a_cable_may_be_pulled_for_a_while() {
    let lab = Lab::new();
    let (fake, origin) = open(&lab);
    let (start, is_pulled) = (lab.now(), Rc::new(Cell::new(true)));
    let pulled = is_pulled.clone();
    lab.decide(move |_| pulled.get().then_some(Fate::Drop));
    let exec = lab.exec.clone();
    lab.exec.spawn(async move {
        exec.sleep(Duration::from_secs(15)).await;
        is_pulled.set(false);
    });
    lab.run(read_all(origin));
    assert!(lab.now().since(start) >= Duration::from_secs(15));
    assert_eq!(fake.dialled.get(), 2);
}
