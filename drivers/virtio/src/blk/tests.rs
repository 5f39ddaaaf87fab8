//! The drive against a device in software that serves, stalls, fails, lies or vanishes.

use super::*;
use crate::fake::{Chain, FakeDevice, TickingClock};
use alloc::vec::Vec;
use core::cell::Cell;
use core::pin::{Pin, pin};
use core::slice::from_ref;
use core::task::{Context, Poll, Waker};
use hal::fake::is_lent;
use virtio_drivers::device::common::Feature;

const RING: u64 = Feature::RING_INDIRECT_DESC.bits() | Feature::RING_EVENT_IDX.bits();
const ALL: u64 = WANTED & !feature::RO | RING;
const BLOCKS: u64 = 64;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Serve,
    /// Do what is asked, but answer with this status.
    Status(u8),
    Silent,
}

/// A device with memory behind it.
#[derive(Clone)]
struct Medium {
    device: FakeDevice,
    data: Rc<RefCell<Vec<u8>>>,
    /// Kind, first sector and length in bytes (for ranges: in sectors) of each command.
    log: Rc<RefCell<Vec<(u32, u64, u64)>>>,
    mode: Rc<Cell<Mode>>,
    depth: u16,
}

impl Medium {
    fn new(features: u64, depth: u16) -> Self {
        Self::with_queue(features, 256, depth)
    }

    fn with_queue(features: u64, queue_size: u16, depth: u16) -> Self {
        let mut config = alloc::vec![0; 60];
        // Three sectors too many for whole blocks.
        config[0..8].copy_from_slice(&(BLOCKS * 8 + 3).to_le_bytes());
        config[12..16].copy_from_slice(&126_u32.to_le_bytes());
        config[20..24].copy_from_slice(&512_u32.to_le_bytes());
        config[36..40].copy_from_slice(&100_u32.to_le_bytes());
        config[48..52].copy_from_slice(&64_u32.to_le_bytes());
        config[56] = 1;
        let device = FakeDevice::new(features, &[queue_size], &config);
        let medium = Self {
            device,
            data: Rc::new(RefCell::new(alloc::vec![0; BLOCKS as usize * BLOCK_SIZE])),
            log: Rc::default(),
            mode: Rc::new(Cell::new(Mode::Serve)),
            depth,
        };
        let hooked = medium.clone();
        medium.device.on_notify(move |_, _| hooked.serve());
        medium
    }

    fn open(&self) -> BlkDisk<FakeDevice> {
        let config = BlkConfig {
            id: String::from("vblk0"),
            depth_max: self.depth,
            ..BlkConfig::default()
        };
        BlkDisk::open(self.device.clone(), config, &TickingClock::default()).unwrap()
    }

    fn serve(&self) {
        while self.mode.get() != Mode::Silent
            && let Some(chain) = self.device.take(QUEUE)
        {
            self.execute(&chain);
        }
    }

    fn execute(&self, chain: &Chain) {
        let (request, room) = (chain.read(), chain.writable());
        let kind = u32::from_le_bytes(request[..4].try_into().unwrap());
        let mut sector = u64::from_le_bytes(request[8..16].try_into().unwrap());
        let mut data = self.data.borrow_mut();
        let at = (sector * SECTOR) as usize;
        let (mut reply, mut length) = (Vec::new(), 0);
        match kind {
            0 => reply.extend(&data[at..at + room - 1]),
            1 => data[at..at + request.len() - 16].copy_from_slice(&request[16..]),
            4 => {}
            8 => reply.extend(b"SER 42\xff\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            11 | 13 => {
                sector = u64::from_le_bytes(request[16..24].try_into().unwrap());
                length = u32::from_le_bytes(request[24..28].try_into().unwrap()).into();
                assert_eq!(request[28..], [u8::from(kind == 13), 0, 0, 0]);
            }
            kind => panic!("command {kind}"),
        }
        if length == 0 {
            length = (request.len() - 16 + room - 1) as u64;
        }
        self.log.borrow_mut().push((kind, sector, length));
        reply.push(match self.mode.get() {
            Mode::Status(status) => status,
            _ => 0,
        });
        assert_eq!(reply.len(), room);
        chain.write(&reply);
        self.device.answer(QUEUE, chain, reply.len());
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a command to its end on a device that serves.
fn finish<F: Future>(disk: &BlkDisk<FakeDevice>, future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..100 {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return output;
        }
        disk.poll(1);
    }
    panic!("not finished")
}

fn patterned(blocks: usize, salt: u8) -> Buf {
    let mut buf = Buf::from_heap(blocks);
    for index in 0..blocks {
        buf.block_mut(index).fill(salt + index as u8);
    }
    buf
}

#[test]
fn what_is_written_is_read_at_every_length() {
    for features in [ALL, ALL & !Feature::RING_INDIRECT_DESC.bits()] {
        let medium = Medium::new(features, 256);
        let disk = medium.open();
        for blocks in 1..=Buf::PAGES_MAX {
            let (_, result) = finish(&disk, disk.write(7, patterned(blocks, 3)));
            assert_eq!(result, Ok(()));
            assert_eq!(medium.data.borrow()[7 * BLOCK_SIZE], 3);
            let (buf, result) = finish(&disk, disk.read(7, Buf::from_heap(blocks)));
            assert_eq!(result, Ok(()));
            for index in 0..blocks {
                assert_eq!(buf.block(index), &[3 + index as u8; BLOCK_SIZE]);
            }
        }
        assert_eq!(finish(&disk, disk.flush()), Ok(()));
        assert_eq!(medium.log.borrow().last(), Some(&(4, 0, 0)));
    }
}

#[test]
fn geometry_and_names() {
    let disk = Medium::new(ALL, 256).open();
    let expected = Geometry {
        blocks: BLOCKS,
        sector_bytes: 512,
        transfer_blocks_max: 32,
        can_discard: true,
    };
    assert_eq!(disk.geometry(), expected);
    assert_eq!(disk.info().serial, "SER 42");
    assert_eq!(disk.info().id, "vblk0");
    let medium = Medium::new(RING, 256);
    let expected = Geometry {
        transfer_blocks_max: 1,
        can_discard: false,
        ..expected
    };
    assert_eq!(medium.open().geometry(), expected);
    let medium = Medium::new(ALL, 256);
    medium.device.set_config8(config::BLK_SIZE + 1, 0x10);
    assert_eq!(medium.open().geometry().sector_bytes, 4096);
    medium.device.set_config8(config::BLK_SIZE + 1, 0x20);
    let clock = TickingClock::default();
    let refused = BlkDisk::open(medium.device.clone(), BlkConfig::default(), &clock).err();
    assert_eq!(refused, Some(VirtioError::Refused), "8 KiB sectors");
}

#[test]
fn transfers_are_no_longer_than_the_ring() {
    for features in [ALL, ALL & !Feature::RING_INDIRECT_DESC.bits()] {
        let medium = Medium::with_queue(features, 16, 256);
        let disk = medium.open();
        assert_eq!(disk.geometry().transfer_blocks_max, 14);
        let (_, result) = finish(&disk, disk.write(0, patterned(14, 9)));
        assert_eq!(result, Ok(()));
        assert_eq!(medium.data.borrow()[14 * BLOCK_SIZE - 1], 9 + 13);
    }
    let clock = TickingClock::default();
    let medium = Medium::with_queue(ALL, 2, 256);
    let refused = BlkDisk::open(medium.device, BlkConfig::default(), &clock).err();
    assert_eq!(refused, Some(VirtioError::Refused));
}

#[test]
fn requests_beyond_the_ring_wait_in_order() {
    let medium = Medium::new(ALL, 4);
    let disk = medium.open();
    medium.mode.set(Mode::Silent);
    let mut all: Vec<_> = (0..10)
        .map(|index| alloc::boxed::Box::pin(disk.write(index, patterned(1, index as u8))))
        .collect();
    for request in &mut all {
        assert!(poll(request.as_mut()).is_pending());
    }
    // Two leave: one in line, one in flight, whose command goes on.
    drop(all.remove(5));
    drop(all.remove(1));
    disk.poll(1);
    medium.mode.set(Mode::Serve);
    medium.log.borrow_mut().clear();
    medium.serve();
    for _ in 0..5 {
        disk.poll(2);
        all.retain_mut(|request| match poll(request.as_mut()) {
            Poll::Ready((buf, result)) => {
                assert_eq!((buf.blocks(), result), (1, Ok(())));
                false
            }
            Poll::Pending => true,
        });
    }
    assert!(all.is_empty());
    let sectors: Vec<_> = medium
        .log
        .borrow()
        .iter()
        .map(|entry| entry.1 / 8)
        .collect();
    assert_eq!(sectors, [0, 1, 2, 3, 4, 6, 7, 8, 9]);
}

#[test]
fn discards_are_cut_to_what_the_device_takes() {
    let medium = Medium::new(ALL, 256);
    let disk = medium.open();
    medium.log.borrow_mut().clear();
    assert_eq!(finish(&disk, disk.discard(&[2..22, 40..41])), Ok(()));
    // 100 sectors at most, in whole blocks.
    assert_eq!(
        *medium.log.borrow(),
        [(11, 16, 96), (11, 112, 64), (11, 320, 8)]
    );
    let medium = Medium::new(ALL & !feature::DISCARD, 256);
    let disk = medium.open();
    medium.log.borrow_mut().clear();
    assert_eq!(finish(&disk, disk.discard(from_ref(&(2..11)))), Ok(()));
    assert_eq!(*medium.log.borrow(), [(13, 16, 64), (13, 80, 8)]);
}

#[test]
fn wrong_requests_do_not_reach_the_device() {
    let medium = Medium::new(ALL | feature::RO, 256);
    let disk = medium.open();
    medium.log.borrow_mut().clear();
    let (_, result) = finish(&disk, disk.write(0, Buf::from_heap(1)));
    assert_eq!(result, Err(DiskError::ReadOnly));
    let (_, result) = finish(&disk, disk.read(BLOCKS - 1, Buf::from_heap(2)));
    assert_eq!(result, Err(DiskError::OutOfRange));
    let (_, result) = finish(&disk, disk.read(u64::MAX, Buf::from_heap(2)));
    assert_eq!(result, Err(DiskError::OutOfRange));
    assert_eq!(
        finish(&disk, disk.discard(from_ref(&(BLOCKS..BLOCKS + 1)))),
        Err(DiskError::OutOfRange)
    );
    assert!(!disk.geometry().can_discard);
    assert!(medium.log.borrow().is_empty());
}

#[test]
fn a_device_without_a_cache_needs_no_flush() {
    let medium = Medium::new(ALL & !feature::FLUSH, 256);
    let disk = medium.open();
    medium.log.borrow_mut().clear();
    assert_eq!(finish(&disk, disk.flush()), Ok(()));
    assert!(medium.log.borrow().is_empty());
}

#[test]
fn statuses_become_errors_and_the_device_goes_on() {
    let medium = Medium::new(ALL, 256);
    let disk = medium.open();
    let read = || finish(&disk, disk.read(0, Buf::from_heap(1))).1;
    let flush = || finish(&disk, disk.flush());
    medium.mode.set(Mode::Status(1));
    assert_eq!(
        (read(), flush()),
        (Err(DiskError::Media), Err(DiskError::Device(1)))
    );
    medium.mode.set(Mode::Status(2));
    assert_eq!(read(), Err(DiskError::Device(2)));
    medium.mode.set(Mode::Status(0xff));
    assert_eq!(read(), Err(DiskError::Device(0xff)));
    medium.mode.set(Mode::Serve);
    assert_eq!((read(), flush()), (Ok(()), Ok(())));
}

/// Blocks of a buffer that came back, and what with.
type Answer = (usize, Result<(), DiskError>);

/// Two commands in flight and one in line on a silent device; then `end` happens, and time passes.
fn end_of(end: fn(&Medium), now: u64) -> (Vec<Answer>, Vec<bool>, Medium) {
    let medium = Medium::new(ALL, 2);
    let disk = medium.open();
    medium.mode.set(Mode::Silent);
    disk.poll(SECOND);
    let mut all: Vec<_> = (0..3)
        .map(|index| alloc::boxed::Box::pin(disk.read(index, Buf::from_heap(2))))
        .collect();
    for request in &mut all {
        assert!(poll(request.as_mut()).is_pending());
    }
    assert!(!disk.poll(SECOND + 1));
    let pages: Vec<_> = core::iter::from_fn(|| medium.device.take(QUEUE))
        .map(|chain| chain.segments[1].address)
        .collect();
    assert!(pages.iter().all(|page| is_lent(*page, BLOCK_SIZE)));
    end(&medium);
    assert!(disk.next_poll().is_some_and(|next| next <= now));
    assert!(disk.poll(now));
    let answers = all
        .iter_mut()
        .map(|request| match poll(request.as_mut()) {
            Poll::Ready((buf, result)) => (buf.blocks(), result),
            Poll::Pending => panic!("not answered"),
        })
        .collect();
    let (_, after) = finish(&disk, disk.read(0, Buf::from_heap(1)));
    assert_eq!(after.err(), disk.failure());
    assert_eq!(finish(&disk, disk.flush()).err(), disk.failure());
    assert!(!disk.enable_interrupts() && disk.next_poll().is_none());
    let lent = pages
        .iter()
        .map(|page| is_lent(*page, BLOCK_SIZE))
        .collect();
    (answers, lent, medium)
}

#[test]
fn a_silent_device_is_reset_before_its_memory_comes_back() {
    let (answers, lent, medium) = end_of(|_| {}, 12 * SECOND);
    assert_eq!(answers, [(2, Err(DiskError::Timeout)); 3]);
    assert_eq!(lent, [false; 2]);
    assert!(!medium.device.is_running());
}

#[test]
fn memory_of_a_device_that_cannot_be_reset_is_given_up() {
    let (answers, lent, _) = end_of(|medium| medium.device.ignore_reset(), 12 * SECOND);
    let timeout = Err(DiskError::Timeout);
    assert_eq!(answers, [(0, timeout), (0, timeout), (2, timeout)]);
    assert_eq!(lent, [true; 2]);
}

#[test]
fn a_vanished_device_is_noticed_before_the_deadline() {
    let (answers, lent, _) = end_of(|medium| medium.device.vanish(), 2 * SECOND);
    let gone = Err(DiskError::Gone);
    assert_eq!(answers, [(0, gone), (0, gone), (2, gone)]);
    assert_eq!(lent, [true; 2]);
}

#[test]
fn a_device_that_gives_up_or_lies_is_shut_down() {
    let ends: [fn(&Medium); 3] = [
        |medium| medium.device.give_up(),
        |medium| medium.device.answer_raw(QUEUE, 900, 1),
        |medium| medium.device.answer_raw(QUEUE, 0, 9000),
    ];
    for end in ends {
        let (answers, lent, medium) = end_of(end, 2 * SECOND);
        assert_eq!(answers, [(2, Err(DiskError::Device(0xff))); 3]);
        assert_eq!(lent, [false; 2]);
        assert!(!medium.device.is_running());
    }
}

#[test]
fn each_command_has_a_deadline_of_its_own() {
    let medium = Medium::new(ALL, 256);
    let disk = medium.open();
    medium.mode.set(Mode::Silent);
    let mut all = [0, 1].map(|at| alloc::boxed::Box::pin(disk.read(at, Buf::from_heap(1))));
    for (request, now) in all.iter_mut().zip([SECOND, 6 * SECOND]) {
        disk.poll(now);
        assert!(poll(request.as_mut()).is_pending());
    }
    assert!(!disk.poll(10 * SECOND));
    medium.execute(&medium.device.take(QUEUE).unwrap());
    assert!(disk.poll(12 * SECOND));
    assert!(poll(all[0].as_mut()).is_ready());
    assert!(poll(all[1].as_mut()).is_pending());
    assert!(
        !disk.poll(15 * SECOND),
        "the first deadline is of no account"
    );
    assert!(disk.failure().is_none());
    assert!(disk.poll(16 * SECOND));
    assert_eq!(disk.failure(), Some(DiskError::Timeout));
}

#[test]
fn a_newcomer_does_not_overtake_the_line() {
    let medium = Medium::new(ALL, 2);
    let disk = medium.open();
    medium.mode.set(Mode::Silent);
    let mut all = [0, 1, 2, 3].map(|at| alloc::boxed::Box::pin(disk.read(at, Buf::from_heap(1))));
    for request in &mut all[..3] {
        assert!(poll(request.as_mut()).is_pending());
    }
    disk.poll(1);
    medium.mode.set(Mode::Serve);
    medium.serve();
    disk.poll(2);
    assert!(poll(all[0].as_mut()).is_ready());
    for index in [3, 2] {
        assert!(poll(all[index].as_mut()).is_pending());
    }
    disk.poll(3);
    disk.poll(4);
    assert!(poll(all[2].as_mut()).is_ready());
}

#[test]
fn abandoned_commands_leave_no_trace() {
    let medium = Medium::new(ALL, 4);
    let disk = medium.open();
    for _ in 0..10 {
        let request = |at| alloc::boxed::Box::pin(disk.read(at, Buf::from_heap(1)));
        let (mut before, mut after) = ([0, 1].map(request), [2, 3].map(request));
        for request in before.iter_mut().chain(&mut after) {
            assert!(poll(request.as_mut()).is_pending());
        }
        // Given up before the answer, and after it.
        drop(before);
        disk.poll(1);
        disk.poll(2);
        drop(after);
    }
    assert_eq!(finish(&disk, disk.flush()), Ok(()));
}

#[test]
fn opening_a_silent_device_fails_in_time() {
    let medium = Medium::new(ALL, 256);
    medium.mode.set(Mode::Silent);
    let config = BlkConfig {
        command_timeout: Duration::from_millis(5),
        ..BlkConfig::default()
    };
    let failed = BlkDisk::open(medium.device.clone(), config, &TickingClock::default());
    assert_eq!(failed.err(), Some(VirtioError::Stuck));
    assert!(!medium.device.is_running());
}

#[test]
fn interrupts_are_asked_for_before_sleep() {
    let medium = Medium::new(ALL, 256);
    let disk = medium.open();
    medium.mode.set(Mode::Silent);
    let before = medium.device.interrupts();
    let mut request = pin!(disk.read(0, Buf::from_heap(1)));
    assert!(poll(request.as_mut()).is_pending());
    assert!(!disk.enable_interrupts());
    medium.mode.set(Mode::Serve);
    medium.serve();
    assert_eq!(medium.device.interrupts(), before + 1);
    assert!(disk.enable_interrupts());
}
