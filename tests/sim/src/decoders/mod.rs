//! Everything that reads bytes from outside, given bytes by anybody: no input may panic, hang or allocate without
//! bounds. The fuzz targets of `tests/fuzz` and the bounded loops of `tests/decoders.rs` call these functions.

mod origins;
mod peers;
mod replies;
mod servers;

use std::hint::black_box;
use std::rc::Rc;

use config::Config as Settings;
use net::inspect;
use net::{Cidr, ListenOptions, NetConfig, Stack};
use store::{Environment, FormatOptions, Store};
use wire::nbd::{
    ClientFlags, Descriptor, ErrorHead, Greeting, Headers, Info, InfoRequest, MetaContext,
    MetaRequest, OptionHead, OptionReplyHead, Reply, Request, StatusFilter, StatusHead,
};
use world::{Buf, Disk, Entropy, Frame, Instant, Link, LinkInfo, Pool};

use crate::clock::{Trace, VirtualClock};
use crate::disk::{Latency, SimDisk};
use crate::machine::Machine;
use crate::random::{Random, SeededEntropy};
pub use origins::nbd_origin;
pub use peers::peer;
pub use servers::{api, nbd_session};

/// Virtual time within which an input must be dealt with.
const DEADLINE: Instant = Instant::from_nanos(3_600_000_000_000);

/// What a paired appliance says of volumes that move.
pub fn migration(bytes: &[u8]) {
    black_box(migration::inspect(bytes));
}

/// NBD structures.
pub fn nbd(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        black_box(ClientFlags::decode(*head).is_ok());
    }
    if let Some(head) = bytes.first_chunk()
        && let Ok(option) = OptionHead::decode(*head)
    {
        assert_eq!(option.encode(), *head);
    }
    if let Some(head) = bytes.first_chunk()
        && let Ok(request) = Request::decode(*head)
    {
        assert_eq!(request.encode(), *head);
    }
    if let Some(head) = bytes.first_chunk()
        && let Ok(request) = Request::decode_extended(*head)
    {
        assert_eq!(request.encode_extended(), *head);
    }
    if let Ok(filter) = StatusFilter::decode(bytes) {
        assert_eq!(8 + 4 * filter.ids().count(), bytes.len());
    }
    if let Ok(request) = MetaRequest::decode(bytes) {
        let texts: usize = request.queries().map(|query| 4 + query.len()).sum();
        assert_eq!(8 + request.name.len() + texts, bytes.len());
    }
    if let Ok(request) = InfoRequest::decode(bytes) {
        let (name, rest) = bytes[4..].split_at(request.name.len());
        assert_eq!(request.name.as_bytes(), name);
        // Nothing follows the list, and all of it can be asked for.
        let count = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        assert_eq!(rest.len(), 2 + 2 * count);
        for pair in rest[2..].as_chunks().0 {
            assert!(request.wants(u16::from_be_bytes(*pair)));
        }
    }
    answers(bytes);
}

/// What a client reads of an NBD server.
fn answers(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        black_box(Greeting::decode(*head).is_ok());
    }
    if let Some(head) = bytes.first_chunk()
        && let Ok(reply) = OptionReplyHead::decode(*head)
    {
        assert_eq!(reply.encode(), *head);
    }
    black_box(Info::decode(bytes).is_ok());
    if let Ok(context) = MetaContext::decode(bytes) {
        assert_eq!(context.name, &bytes[4..]);
    }
    if let Some(head) = bytes.first_chunk() {
        black_box(ErrorHead::decode(*head).is_ok());
    }
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        if let Some(magic) = bytes.first_chunk()
            && let Ok(len) = Reply::len(headers, *magic)
        {
            let whole = bytes.get(..len).map(|head| Reply::decode(headers, head));
            assert!(whole.is_none_or(|reply| reply.is_ok()));
        }
        black_box(Reply::decode(headers, bytes).is_ok());
        let payload = bytes.len() as u64;
        if let Ok(status) = StatusHead::decode(headers, bytes, payload) {
            let (head, each) = (StatusHead::len(headers), Descriptor::len(headers));
            assert_eq!((head as u64) + status.count * each as u64, payload);
            for one in bytes[head..].chunks(each) {
                let decoded = Descriptor::decode(headers, one);
                assert!(decoded.is_err() || decoded.is_ok_and(|run| run.len > 0));
            }
        }
    }
}

/// HTTP request heads.
pub fn http(bytes: &[u8]) {
    let whole = wire::http::RequestHead::decode(bytes);
    if let Ok(Some((head, len))) = &whole {
        assert!(*len <= bytes.len(), "a head longer than its bytes");
        black_box(wire::http::percent_decode(&head.path, false));
        black_box(wire::http::percent_decode(&head.query, true));
    }
    // What is whole stays what it is, whatever follows.
    if let Ok(Some((_, len))) = whole {
        assert_eq!(wire::http::RequestHead::decode(&bytes[..len]), whole);
    }
}

/// Configuration: TOML and kernel command line.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    black_box(Settings::default().apply_toml(&text).is_ok());
    black_box(Settings::default().apply_command_line(&text).is_ok());
}

/// A frame from the wire: the look at it, and the whole stack.
pub fn frame(bytes: &[u8]) {
    black_box(inspect::inspect(bytes));
    black_box(inspect::checksum_holds(bytes));
    if bytes.len() > 1514 {
        return;
    }
    let machine = machine(&[]);
    let address = Cidr::new([10, 0, 0, 1].into(), 24);
    let config = NetConfig::fixed(address.as_slice(), &[]);
    let link = OneFrame(Some(bytes.to_vec()));
    let stack = Stack::new(link, config, machine.exec.clone(), &entropy());
    let _listener = stack.listen(10809, ListenOptions::default());
    while stack.ingress() | stack.egress() {}
}

/// A link that delivers one frame.
struct OneFrame(Option<Vec<u8>>);

impl Link for OneFrame {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            transmit_checksum: true,
            receive_checksum: false,
            segmentation_tcp4: false,
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        let bytes = self.0.take()?;
        let len = bytes.len();
        Some(Frame::new(bytes.into_boxed_slice(), 0, len))
    }

    fn release(&mut self, _frame: Frame) {}

    fn transmit_frame(&mut self) -> Option<Frame> {
        Some(Frame::new(vec![0; 1514].into_boxed_slice(), 0, 0))
    }

    fn transmit(&mut self, _frame: Frame) {}

    fn kick(&mut self) {}
}

/// A drive with a pool on it, damaged as the bytes say, then looked at and opened. What opens must also be checked and
/// read without a panic.
///
/// The bytes are patches: a block among those in use (2 bytes), a place in it (2), a length (1), and the new bytes.
pub fn image(bytes: &[u8]) {
    let (blocks, contents) = formatted();
    let machine = machine(&[blocks]);
    let disk = machine.disks[0].clone();
    for (block, content) in &contents {
        disk.poke(*block, content);
    }
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let [block_low, block_high, at_low, at_high, len] = *head;
        let index = usize::from(u16::from_le_bytes([block_low, block_high])) % contents.len();
        let block = contents[index].0;
        let (patch, left) = tail.split_at(usize::from(len).min(tail.len()));
        rest = left;
        let mut content = disk.peek(block);
        let at = usize::from(u16::from_le_bytes([at_low, at_high])) % content.len();
        for (place, byte) in content[at..].iter_mut().zip(patch) {
            *place = *byte;
        }
        disk.poke(block, &content);
    }
    let environment = environment(&machine);
    let finished = machine.block_on(DEADLINE, async move {
        black_box(Store::inspect(&disk).await.is_ok());
        black_box(
            crate::verify::at_rest(vec![disk.clone()], true, true)
                .await
                .is_ok(),
        );
        let opened = Store::open(vec![disk], environment, small_config()).await;
        let Ok(store) = opened else { return };
        for info in store.volumes() {
            let span = crate::client::span(0, info.size_bytes.min(128 << 10));
            let read = store.read(info.id, span, Buf::from_heap(span.blocks()));
            black_box(read.await.1.is_ok());
        }
        black_box(store.close().await.is_ok());
    });
    assert_eq!(finished, Ok(()), "an image that hangs");
    machine.switch_off();
}

/// The blocks in use of a drive with a small pool, and the drive's size.
fn formatted() -> (u64, Vec<(u64, Vec<u8>)>) {
    thread_local! {
        static IMAGE: (u64, Vec<(u64, Vec<u8>)>) = make_image();
    }
    IMAGE.with(Clone::clone)
}

fn make_image() -> (u64, Vec<(u64, Vec<u8>)>) {
    let machine = machine(&[(64 << 20) / 4096]);
    let disk = machine.disks[0].clone();
    let (environment, drive) = (environment(&machine), disk.clone());
    let made = machine.block_on(DEADLINE, async move {
        let options = FormatOptions::default();
        let disks = [drive.clone()];
        Store::format(&disks, &environment, options).await?;
        let store = Store::open(disks.to_vec(), environment, small_config()).await?;
        let volume = store.create_volume("v", 1 << 20).await?.id;
        for round in 0..4 {
            for block in 0..16 {
                let span = crate::client::span(block * 8192, 4096);
                store.write(volume, span, Buf::from_heap(1)).await?;
            }
            store.set_record("key", Some(&[round; 100])).await?;
            store.discard(volume, 0, 8192).await?;
            store.flush().await?;
        }
        drive.flush().await?;
        Ok::<(), store::StoreError>(())
    });
    assert_eq!(made, Ok(Ok(())), "the image for the fuzzer");
    let blocks = disk.written();
    let contents = blocks.into_iter().map(|block| (block, disk.peek(block)));
    let contents: Vec<_> = contents.collect();
    machine.switch_off();
    (disk.geometry().blocks, contents)
}

fn small_config() -> store::Config {
    store::Config::for_memory(1 << 20)
}

fn entropy() -> impl Entropy + 'static {
    SeededEntropy::new(Random::new(7))
}

fn environment(machine: &Machine) -> Environment {
    Environment {
        exec: machine.exec.clone(),
        entropy: Rc::new(entropy()),
        pool: Pool::new(512),
    }
}

/// A machine with drives of so many blocks, always the same.
fn machine(drives: &[u64]) -> Machine {
    let clock = Rc::new(VirtualClock::default());
    let trace = Rc::new(Trace::default());
    let points = Rc::default();
    let latency = Latency {
        transfer_min: 1000,
        transfer_max: 1000,
        flush_max: 1000,
        outliers: 0,
        stalls: 0,
    };
    let disks = drives.iter().enumerate().map(|(number, blocks)| {
        let random = Random::new(number as u64);
        let (clock, trace) = (clock.clone(), trace.clone());
        SimDisk::new(
            *blocks,
            number,
            latency,
            random,
            clock,
            trace,
            Rc::clone(&points),
        )
    });
    let disks = disks.collect();
    Machine::new(clock, disks, points, Random::new(3))
}
