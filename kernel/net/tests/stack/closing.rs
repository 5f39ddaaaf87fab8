//! The ways in which connections end.

use std::time::Duration;

use net::{Listener, NetError, Stream};

use crate::lab::{Lab, pattern, read_all};

#[test]
fn each_side_finishes_for_itself() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    let (request, reply) = (pattern(1, 200_000), pattern(2, 200_000));
    let (request_sent, reply_sent) = (request.clone(), reply.clone());
    lab.exec.spawn(async move {
        assert!(read_all(&far).await.unwrap() == request);
        // The client has finished, but still reads.
        far.write_all(&reply_sent).await.unwrap();
        far.finish();
    });
    let read = lab.run(async move {
        near.write_all(&request_sent).await.unwrap();
        near.finish();
        assert_eq!(near.write(b"more").await, Err(NetError::Closed));
        read_all(&near).await
    });
    assert!(read.unwrap() == reply);
}

#[test]
fn an_abort_ends_both_directions() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    let reader = far.clone();
    near.abort();
    let read = lab.run_within(Duration::from_secs(1), async move {
        reader.read(&mut [0]).await
    });
    assert_eq!(read, Err(NetError::Closed));
    assert_eq!(
        lab.run(async move { far.write(b"x").await }),
        Err(NetError::Closed)
    );
    let near_again = near.clone();
    assert_eq!(
        lab.run(async move { near.read(&mut [0]).await }),
        Err(NetError::Closed)
    );
    assert_eq!(
        lab.run(async move { near_again.write(b"x").await }),
        Err(NetError::Closed)
    );
    assert_eq!(lab.server.counters().reset, 1);
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.server.counters().sockets, 0);
    assert_eq!(lab.client.counters().sockets, 0);
}

#[test]
fn an_abort_wakes_a_waiting_reader_here() {
    let lab = Lab::new();
    let (_far, near) = lab.pair();
    let (exec, aborter) = (lab.exec.clone(), near.clone());
    lab.exec.spawn(async move {
        exec.sleep(Duration::from_secs(1)).await;
        aborter.abort();
    });
    let read = lab.run_within(
        Duration::from_secs(2),
        async move { near.read(&mut [0]).await },
    );
    assert_eq!(read, Err(NetError::Closed));
}

#[test]
fn what_is_queued_survives_a_drop() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    let bytes = pattern(5, 100_000);
    let sent = bytes.clone();
    lab.run(async move { near.write_all(&sent).await }).unwrap();
    let read = lab.run(async move { read_all(&far).await });
    assert!(read.unwrap() == bytes);
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.server.counters().sockets, 0);
}

#[test]
fn a_peer_that_never_ends_is_reset_after_a_drop() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    drop(far);
    lab.pass(Duration::from_secs(10));
    assert_eq!(lab.server.counters().sockets, 1);
    lab.pass(Duration::from_secs(15));
    assert_eq!(lab.server.counters().sockets, 0);
    let write = lab.run(async move { near.write(b"x").await });
    assert_eq!(write, Err(NetError::Closed));
}

#[test]
fn a_dropped_connection_swallows_what_still_comes() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    drop(far);
    // Far more than the buffers hold: the dropped side has to keep its window open.
    let writer = near.clone();
    lab.run(async move { writer.write_all(&pattern(6, 1 << 20)).await })
        .unwrap();
    near.finish();
    drop(near);
    lab.pass(Duration::from_secs(15));
    assert_eq!(lab.server.counters().sockets, 0);
}

#[test]
fn a_dropped_listener_closes_its_port() {
    let lab = Lab::new();
    let listener = lab.listen(7);
    let near = lab.connect("10.0.0.1:7").unwrap();
    lab.pass(Duration::from_millis(10));
    assert_eq!(listener.connections(), 1);
    drop(listener);
    let read = lab.run_within(
        Duration::from_secs(1),
        async move { near.read(&mut [0]).await },
    );
    assert_eq!(read, Err(NetError::Closed));
    assert!(lab.connect("10.0.0.1:7").is_err());
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.server.counters().sockets, 0);
    // It can be opened again.
    let listener = lab.listen(7);
    assert!(lab.connect("10.0.0.1:7").is_ok());
    drop(listener);
}

#[test]
fn connections_reset_before_they_are_accepted_are_skipped() {
    let lab = Lab::new();
    let listener = lab.listen(7);
    let first = lab.connect("10.0.0.1:7").unwrap();
    lab.pass(Duration::from_secs(1));
    assert_eq!(listener.connections(), 1);
    first.abort();
    lab.pass(Duration::from_secs(1));
    let second = lab.connect("10.0.0.1:7").unwrap();
    let accepted = lab.run(async move { listener.accept().await });
    assert_eq!(accepted.peer(), second.local());
}

#[test]
fn an_ended_connection_stays_ended() {
    let lab = Lab::new();
    let (far, near) = lab.pair();
    near.finish();
    let (reader, closer) = (far.clone(), far.clone());
    assert_eq!(lab.run(async move { reader.read(&mut [0]).await }), Ok(0));
    closer.finish();
    let reader = near.clone();
    assert_eq!(lab.run(async move { reader.read(&mut [0]).await }), Ok(0));
    // Long after the sockets have forgotten everything.
    lab.pass(Duration::from_secs(100));
    for stream in [near, far] {
        let reader = stream.clone();
        assert_eq!(lab.run(async move { reader.read(&mut [0]).await }), Ok(0));
        assert_eq!(
            lab.run(async move { stream.write(b"x").await }),
            Err(NetError::Closed)
        );
    }
}
