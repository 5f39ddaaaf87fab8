//! Streams in memory behave like connections.

use std::time::Duration;

use net::pipe::{pipe, pipe_port};
use net::{Listener, NetError, Stream};

use crate::lab::Lab;

#[test]
fn pipes_are_bounded_and_end() {
    let lab = Lab::new();
    let (near, far) = pipe(10);
    lab.exec.spawn(async move {
        near.write_all(&[1; 35]).await.unwrap();
        near.finish();
        assert_eq!(near.write(&[1]).await, Err(NetError::Closed));
    });
    let count = lab.run_within(Duration::from_secs(1), async move {
        let mut total = 0;
        loop {
            match far.read(&mut [0; 100]).await.unwrap() {
                0 => return total,
                count => {
                    assert!(count <= 10);
                    total += count;
                }
            }
        }
    });
    assert_eq!(count, 35);
}

#[test]
fn parts_fill_a_pipe_in_order() {
    let lab = Lab::new();
    let (near, far) = pipe(10);
    lab.run(async move {
        let parts: [&[u8]; 4] = [b"one", b"", b"two", b"three and more"];
        assert_eq!(near.write_parts(parts.into_iter()).await, Ok(10));
        let mut got = [0; 20];
        assert_eq!(far.read(&mut got).await, Ok(10));
        assert_eq!(&got[..10], b"onetwothre");
        assert_eq!(near.write_parts([&b""[..]].into_iter()).await, Ok(0));
    });
}

#[test]
fn a_dropped_pipe_ends_both_directions() {
    let lab = Lab::new();
    let (near, far) = pipe(10);
    lab.run(async move { near.write_all(b"last").await })
        .unwrap();
    lab.run(async move {
        assert_eq!(far.write(b"x").await, Err(NetError::Closed));
        assert_eq!(far.read(&mut [0; 9]).await, Ok(4));
        assert_eq!(far.read(&mut [0; 9]).await, Ok(0));
    });
}

#[test]
fn an_aborted_pipe_fails_at_once() {
    let lab = Lab::new();
    let (near, far) = pipe(10);
    lab.run(async move {
        near.write_all(b"lost").await.unwrap();
        near.abort();
        assert_eq!(far.read(&mut [0; 9]).await, Err(NetError::Closed));
        assert_eq!(far.write(b"x").await, Err(NetError::Closed));
        assert_eq!(near.read(&mut [0; 9]).await, Err(NetError::Closed));
    });
}

#[test]
fn a_port_in_memory_accepts() {
    let lab = Lab::new();
    let (listener, dialer) = pipe_port(10);
    let near = dialer.connect().unwrap();
    let far = lab.run(async move { listener.accept().await });
    assert_ne!(near.peer(), far.peer());
    // Accepting took the listener along.
    assert_eq!(dialer.connect().err(), Some(NetError::Unreachable));
}
