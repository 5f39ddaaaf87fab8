//! An NBD server that says whatever it wants to, and the client that reads a volume from it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use net::pipe::{Pipe, pipe};
use net::{NetError, Stream};
use origin::{Connect, NbdOrigins, Patience};
use volume::{OriginAddress, OriginError, OriginExtent, Origins};
use wire::nbd::*;
use world::Pool;

use super::{DEADLINE, machine};

/// Bytes of what the server has.
const SIZE: u64 = 1 << 20;
/// The context's id.
const CONTEXT: [u8; 4] = [0, 0, 0, 5];

/// One connection, on which a server says `bytes`; with a first byte of 64 or more a proper handshake goes before, of the
/// simplest form, with 128 or more one for structured replies, and with 192 or more one for extended ones. Whoever reads
/// must get an answer in time, and all memory back.
pub fn nbd_origin(bytes: &[u8]) {
    let machine = machine(&[]);
    let exec = machine.exec.clone();
    let (near, far) = pipe(64 << 10);
    let said = [
        handshake(bytes),
        bytes.get(1..).unwrap_or_default().to_vec(),
    ]
    .concat();
    exec.spawn(async move {
        let (taking, saying) = (far.clone(), far);
        let take = async { while let Ok(1..) = taking.read(&mut [0; 512]).await {} };
        let say = async {
            if saying.write_all(&said).await.is_ok() {
                saying.finish();
            }
        };
        exec::futures_util::future::join(take, say).await;
    });
    let pool = Pool::new(128);
    let (of, buffers) = (exec.clone(), pool.clone());
    let finished = machine.block_on(DEADLINE, async move {
        let patience = Patience {
            request: Duration::from_secs(1),
            ..Patience::default()
        };
        let once = Once(Cell::new(Some(near)));
        let origins = NbdOrigins::new(of, once).with_patience(patience);
        let address = OriginAddress::Nbd {
            host: "10.0.0.2".to_owned(),
            port: 10809,
            export: "demo".to_owned(),
        };
        let Ok(origin) = origins.open(&address).await else {
            return;
        };
        let read = async |offset, pages| {
            let buf = buffers.take(pages).await;
            let read = origin.read(offset, buf).await;
            assert!(read.is_err() || read.is_ok_and(|buf| buf.blocks() == pages));
        };
        let list = async || check(4096, origin.extents(4096, 1 << 19).await);
        // In this order, which makes the cookies 1, 2, 3.
        let first = exec::futures_util::future::join(read(0, 1), read(8192, 2));
        exec::futures_util::future::join(first, list()).await;
        read(SIZE - 4096, 32).await;
    });
    assert_eq!(finished, Ok(()), "a client that hangs");
    assert_eq!(pool.available(), pool.limit(), "buffers leaked");
    machine.switch_off();
}

fn check(offset: u64, told: Result<Vec<OriginExtent>, OriginError>) {
    let Ok(extents) = told else { return };
    assert!(!extents.is_empty() && extents.iter().all(|extent| extent.len > 0));
    let end = extents.iter().fold(offset, |at, extent| at + extent.len);
    assert!(end <= offset + (1 << 19), "more than was asked for");
}

/// What goes before.
fn handshake(bytes: &[u8]) -> Vec<u8> {
    let answer = |option, reply, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap_or_default();
        let head = OptionReplyHead { option, reply, len };
        [&head.encode()[..], data].concat()
    };
    let known = |option| answer(option, NBD_REP_ACK, &[]);
    let unknown = |option| answer(option, NBD_REP_ERR_UNSUP, &[]);
    let (extended, structured) = (NBD_OPT_EXTENDED_HEADERS, NBD_OPT_STRUCTURED_REPLY);
    let mut said = greeting().to_vec();
    match bytes.first() {
        None | Some(0..64) => return Vec::new(),
        Some(64..128) => said.extend([unknown(extended), unknown(structured)].concat()),
        Some(128..192) => said.extend([unknown(extended), known(structured)].concat()),
        Some(192..) => said.extend(known(extended)),
    }
    if bytes[0] >= 128 {
        let context = [&CONTEXT, BASE_ALLOCATION.as_bytes()].concat();
        said.extend(answer(
            NBD_OPT_SET_META_CONTEXT,
            NBD_REP_META_CONTEXT,
            &context,
        ));
        said.extend(known(NBD_OPT_SET_META_CONTEXT));
    }
    let export = info_export(SIZE, NBD_FLAG_HAS_FLAGS);
    said.extend(answer(NBD_OPT_GO, NBD_REP_INFO, &export));
    said.extend(known(NBD_OPT_GO));
    said
}

/// A way out that works once.
struct Once(Cell<Option<Pipe>>);

impl Connect for Once {
    type Stream = Pipe;

    async fn connect(&self, _: SocketAddr) -> Result<Pipe, NetError> {
        self.0.take().ok_or(NetError::Unreachable)
    }
}
