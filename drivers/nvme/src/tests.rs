//! The driver against a controller in software: one that behaves, is silent, lies, or goes away.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::Cell;
use core::pin::{Pin, pin};
use core::slice::from_ref;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use hal::fake::is_lent;
use world::{BLOCK_SIZE, Buf, Clock, Disk, DiskError, Instant};

use crate::controller::{Controller, Place, Setup};
use crate::fake::{FakeController, FakeGate, FakeNamespace, Fault};
use crate::{Drive, NvmeError, Refusal, Status};

mod neighbours;

/// Time that passes by a fixed step each time somebody looks.
#[derive(Default)]
struct Ticking {
    nanos: Cell<u64>,
    step: Cell<u64>,
}

impl Clock for Ticking {
    fn now(&self) -> Instant {
        self.nanos.set(self.nanos.get() + self.step.get());
        Instant::from_nanos(self.nanos.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}

struct Bench {
    fake: Rc<FakeController>,
    gate: FakeGate,
    clock: Ticking,
    controller: Controller<Rc<FakeController>>,
}

type FakeDrive = Drive<Rc<FakeController>>;

fn start(
    fake: &Rc<FakeController>,
    gate: &FakeGate,
    clock: &Ticking,
) -> Result<Controller<Rc<FakeController>>, NvmeError> {
    clock.step.set(1_000_000);
    let place = Place {
        slot: "00:04.0".to_string(),
        regs_len: 0x2000,
        has_interrupts: true,
    };
    Controller::start(
        fake.clone(),
        place,
        Box::new(gate.clone()),
        &Setup::default(),
        clock,
    )
}

impl Bench {
    fn new(namespaces: impl IntoIterator<Item = (u32, FakeNamespace)>) -> Self {
        let fake = FakeController::new(namespaces);
        let (gate, clock) = (FakeGate::default(), Ticking::default());
        let controller = start(&fake, &gate, &clock).unwrap();
        fake.seen.borrow_mut().clear();
        Self {
            fake,
            gate,
            clock,
            controller,
        }
    }

    /// One drive of 4 MiB with sectors of 512 bytes.
    fn simple() -> Self {
        Self::new([(1, FakeNamespace::new(4 << 20, 512))])
    }

    fn drive(&self) -> FakeDrive {
        self.controller.drives()[0].clone()
    }

    /// Runs a future while the controller is polled.
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..200_000 {
            if let Poll::Ready(value) = poll(future.as_mut()) {
                return value;
            }
            self.controller.poll(self.clock.now());
        }
        panic!("not answered");
    }

    fn advance(&self, time: Duration) {
        self.clock
            .nanos
            .set(self.clock.nanos.get() + time.as_nanos() as u64);
        self.controller.poll(self.clock.now());
    }

    /// Seen opcodes on blocks.
    fn opcodes(&self) -> Vec<u8> {
        let seen = self.fake.seen.borrow_mut().split_off(0);
        seen.iter()
            .filter(|seen| seen.0 == 1)
            .map(|seen| seen.1)
            .collect()
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls every future that is not answered yet.
fn poll_all<F: Future>(futures: &mut [Option<Pin<Box<F>>>]) {
    for future in futures {
        let answered = future
            .as_mut()
            .is_some_and(|it| poll(it.as_mut()).is_ready());
        if answered {
            *future = None;
        }
    }
}

fn filled(blocks: usize, seed: u8) -> Buf {
    let mut buf = Buf::from_heap(blocks);
    for index in 0..blocks {
        buf.block_mut(index).fill(seed.wrapping_add(index as u8));
    }
    buf
}

fn address(buf: &Buf) -> u64 {
    hal::dma::device_address_of(buf.block(0))
}

#[test]
fn usable_namespaces_become_drives_and_others_are_refused_by_name() {
    let mut odd = FakeNamespace::new(1 << 20, 512);
    odd.metadata = 8;
    let bench = Bench::new([
        (1, FakeNamespace::new((1 << 20) + 512, 512)),
        (2, odd),
        (7, FakeNamespace::new(1 << 20, 4096)),
    ]);
    let drives = bench.controller.drives();
    let info = drives[1].info();
    assert_eq!((&*info.id, &*info.model), ("nvme0n7", "fake"));
    assert_eq!((&*info.serial, &*info.slot), ("serial", "00:04.0"));
    let geometry = drives.iter().map(|drive| drive.geometry());
    let geometry: Vec<_> = geometry.map(|it| (it.blocks, it.sector_bytes)).collect();
    assert_eq!(geometry, [(256, 512), (256, 4096)]);
    assert_eq!(drives[0].geometry().transfer_blocks_max, 16);
    assert_eq!(bench.controller.refused(), [(2, Refusal::Metadata(8))]);
}

#[test]
fn lists_of_many_namespaces_go_on() {
    let count = |namespaces| {
        let all = (1..=namespaces).map(|number| (number, FakeNamespace::new(4096, 4096)));
        Bench::new(all).controller.drives().len()
    };
    assert_eq!([1024, 1030].map(count), [1024, 1030]);
    assert_eq!(count(2050), 2048, "the most that are looked at");
}

#[test]
fn what_is_written_is_read_whatever_the_length_and_the_sectors() {
    for sector in [512, 4096] {
        let bench = Bench::new([(1, FakeNamespace::new(4 << 20, sector))]);
        let drive = bench.drive();
        for blocks in [1, 2, 3, 16] {
            let (_, result) = bench.run(drive.write(100, filled(blocks, 7)));
            assert_eq!(result, Ok(()));
            let bytes = bench.fake.namespaces.borrow()[&1].bytes[100 * BLOCK_SIZE];
            assert_eq!(bytes, 7);
            let (back, result) = bench.run(drive.read(100, filled(blocks, 99)));
            assert_eq!((result, back.blocks()), (Ok(()), blocks));
            for index in 0..blocks {
                assert_eq!(back.block(index), &[7 + index as u8; BLOCK_SIZE]);
            }
            assert!(!is_lent(address(&back), 1), "memory came back");
        }
        let (buf, result) = bench.run(drive.read(1024, Buf::from_heap(1)));
        assert_eq!((buf.blocks(), result), (1, Err(DiskError::OutOfRange)));
        assert_eq!(
            bench.run(drive.read(u64::MAX, Buf::from_heap(1))).1,
            Err(DiskError::OutOfRange)
        );
        assert_eq!(bench.run(drive.read(5, Buf::empty())).1, Ok(()));
    }
}

#[test]
fn more_requests_than_slots_are_all_served_in_order() {
    let bench = Bench::simple();
    let drive = bench.drive();
    bench.fake.is_holding.set(true);
    // Downwards, so that no two of them are one command.
    let reads = (0..600).rev().map(|at| drive.read(at, Buf::from_heap(1)));
    let mut reads: Vec<_> = reads.map(|read| Some(Box::pin(read))).collect();
    poll_all(&mut reads);
    let before = bench.fake.doorbell_writes.get();
    bench.controller.poll(bench.clock.now());
    assert_eq!(
        bench.fake.doorbell_writes.get(),
        before + 1,
        "one doorbell for all"
    );
    assert_eq!(bench.fake.seen.borrow().len(), 256);
    // One that waits in line goes away; nobody else may be forgotten for it.
    reads[300] = None;
    bench.fake.release();
    for _ in 0..20 {
        bench.controller.poll(bench.clock.now());
        poll_all(&mut reads);
    }
    assert!(reads.iter().all(Option::is_none));
    let seen = bench.fake.seen.borrow();
    let order: Vec<_> = seen.iter().map(|seen| u64::from(seen.3[0]) / 8).collect();
    let expected = (0..600).rev().filter(|at| *at != 299);
    assert_eq!(order, expected.collect::<Vec<_>>());
    assert_eq!(bench.controller.next_deadline(), None, "idle");
}

#[test]
fn short_queues_bound_the_commands() {
    let fake = FakeController::new([(1, FakeNamespace::new(1 << 20, 512))]);
    fake.queue_entries.set(4);
    let (gate, clock) = (FakeGate::default(), Ticking::default());
    let controller = start(&fake, &gate, &clock).unwrap();
    fake.seen.borrow_mut().clear();
    let drive = &controller.drives()[0];
    let mut reads: Vec<_> = (0..9)
        .map(|at| Box::pin(drive.read(at, Buf::from_heap(1))))
        .collect();
    let mut done = [false; 9];
    for _ in 0..9 {
        for (read, done) in reads.iter_mut().zip(&mut done) {
            *done = *done || poll(read.as_mut()).is_ready();
        }
        let before = fake.seen.borrow().len();
        controller.poll(clock.now());
        assert!(fake.seen.borrow().len() - before <= 3);
    }
    assert_eq!(done, [true; 9]);
}

#[test]
fn other_commands_reach_the_drive_as_specified() {
    let bench = Bench::simple();
    let drive = bench.drive();
    let seen = || bench.fake.seen.borrow_mut().split_off(0);
    assert_eq!(bench.run(drive.flush()), Ok(()));
    assert_eq!(seen(), [(1, 0, 1, [0; 3])]);
    assert_eq!(bench.run(drive.write_through(1, filled(1, 9))).1, Ok(()));
    assert_eq!(seen(), [(1, 1, 1, [8, 0, 1 << 30 | 7])]);
    assert_eq!(bench.run(drive.write_zeroes(1, 1)), Ok(()));
    assert_eq!(seen(), [(1, 8, 1, [8, 0, 7])]);
    assert_eq!(bench.fake.namespaces.borrow()[&1].bytes[BLOCK_SIZE], 0);
    assert_eq!(bench.run(drive.deallocate([3..4, 5..5, 8..10])), Ok(()));
    assert_eq!(seen(), [(1, 9, 1, [1, 4, 0])], "two ranges in one command");
    let discarded = |at: usize| bench.fake.namespaces.borrow()[&1].bytes[at * BLOCK_SIZE] == 0xdd;
    assert_eq!(
        [3, 4, 5, 8, 9, 10].map(discarded),
        [true, false, false, true, true, false]
    );
    assert_eq!(
        bench.run(drive.deallocate((0..40).map(|at| at * 2..at * 2 + 1))),
        Ok(())
    );
    assert_eq!(bench.opcodes(), [9, 9, 9]);
    assert_eq!(
        bench.run(drive.discard(from_ref(&(1000..1030)))),
        Err(DiskError::OutOfRange)
    );
    assert_eq!(bench.run(drive.health()).unwrap().temperature_kelvin, 300);
}

#[test]
fn a_drive_without_a_volatile_cache_needs_no_flush() {
    let fake = FakeController::new([(1, FakeNamespace::new(1 << 20, 512))]);
    fake.identity.borrow_mut().extend([(525, 0), (520, 0)]);
    let (gate, clock) = (FakeGate::default(), Ticking::default());
    let controller = start(&fake, &gate, &clock).unwrap();
    fake.seen.borrow_mut().clear();
    let drive = &controller.drives()[0];
    assert!(poll(pin!(drive.flush())).is_ready());
    assert!(poll(pin!(drive.discard(from_ref(&(0..1))))).is_ready());
    assert!(!drive.geometry().can_discard);
    assert_eq!(fake.seen.borrow().len(), 0);
}

#[test]
fn refusals_become_errors_and_interruptions_are_repeated() {
    let bench = Bench::simple();
    let drive = bench.drive();
    let cases = [
        (0x281, DiskError::Media),
        (0x280, DiskError::Media),
        (0x020, DiskError::ReadOnly),
        (0x006, DiskError::Device(6)),
    ];
    for (status, error) in cases {
        bench.fake.answers.borrow_mut().push_back(status);
        let (buf, result) = bench.run(drive.read(0, Buf::from_heap(2)));
        assert_eq!((buf.blocks(), result), (2, Err(error)));
    }
    bench.opcodes();
    bench.fake.answers.borrow_mut().extend([0x021, 0x021]);
    assert_eq!(bench.run(drive.write(0, filled(1, 1))).1, Ok(()));
    assert_eq!(bench.opcodes(), [1, 1, 1]);
    bench.fake.answers.borrow_mut().extend([0x021; 4]);
    assert_eq!(
        bench.run(drive.write(0, filled(1, 1))).1,
        Err(DiskError::Device(0x21))
    );
    assert_eq!(
        bench.run(drive.read(0, filled(1, 0))).1,
        Ok(()),
        "the drive still works"
    );
}

#[test]
fn a_silent_drive_is_disabled_before_it_is_answered_for() {
    let bench = Bench::simple();
    let drive = bench.drive();
    bench.fake.fault.set(Fault::Silent);
    let mut read = Box::pin(drive.read(0, Buf::from_heap(2)));
    let mut flush = Box::pin(drive.flush());
    assert!(poll(read.as_mut()).is_pending() && poll(flush.as_mut()).is_pending());
    bench.advance(Duration::from_millis(9_900));
    assert!(poll(read.as_mut()).is_pending());
    assert!(bench.fake.is_enabled());
    bench.advance(Duration::from_millis(200));
    assert!(!bench.fake.is_enabled());
    assert!(bench.gate.is_closed.get());
    let Poll::Ready((buf, result)) = poll(read.as_mut()) else {
        panic!("not answered")
    };
    assert_eq!((buf.blocks(), result), (2, Err(DiskError::Timeout)));
    assert!(!is_lent(address(&buf), 1));
    assert_eq!(poll(flush.as_mut()), Poll::Ready(Err(DiskError::Timeout)));
    let (buf, result) = bench.run(drive.write(0, filled(1, 0)));
    assert_eq!((buf.blocks(), result), (1, Err(DiskError::Timeout)));
    assert_eq!(bench.controller.failure(), Some(DiskError::Timeout));
    assert_eq!(bench.controller.next_deadline(), None);
}

#[test]
fn a_flush_has_more_time_than_a_read() {
    let bench = Bench::simple();
    bench.fake.fault.set(Fault::Silent);
    let drive = bench.drive();
    let mut flush = Box::pin(drive.flush());
    assert!(poll(flush.as_mut()).is_pending());
    bench.advance(Duration::from_secs(29));
    assert!(poll(flush.as_mut()).is_pending());
    assert!(bench.controller.next_deadline().is_some());
    bench.advance(Duration::from_secs(2));
    assert_eq!(poll(flush.as_mut()), Poll::Ready(Err(DiskError::Timeout)));
}

/// Loses a read of two blocks on a drive that cannot be disabled. Returns what came back, and where it had been.
fn lose(bench: &Bench) -> (Buf, Result<(), DiskError>, u64) {
    let drive = bench.drive();
    let buf = Buf::from_heap(2);
    let at = address(&buf);
    let mut read = Box::pin(drive.read(0, buf));
    assert!(poll(read.as_mut()).is_pending());
    bench.controller.poll(bench.clock.now());
    bench.fake.fault.set(Fault::Stubborn);
    bench.advance(Duration::from_secs(11));
    assert!(poll(read.as_mut()).is_pending(), "not known to be idle yet");
    bench.advance(Duration::from_secs(2));
    let Poll::Ready((buf, result)) = poll(read.as_mut()) else {
        panic!("not answered")
    };
    (buf, result, at)
}

#[test]
fn memory_of_a_drive_that_was_cut_off_comes_back() {
    let bench = Bench::simple();
    bench.fake.is_holding.set(true);
    bench.gate.is_certain.set(true);
    let (buf, result, at) = lose(&bench);
    assert_eq!((buf.blocks(), result), (2, Err(DiskError::Timeout)));
    assert!(!is_lent(at, 1));
}

#[test]
fn memory_that_may_still_be_written_is_never_used_again() {
    let bench = Bench::simple();
    bench.fake.is_holding.set(true);
    let (buf, result, at) = lose(&bench);
    assert_eq!((buf.blocks(), result), (0, Err(DiskError::Timeout)));
    let Bench {
        fake, controller, ..
    } = bench;
    drop(controller);
    // Neither the page nor the queues: the device may complete for ever.
    assert!(is_lent(at, BLOCK_SIZE));
    fake.fault.set(Fault::None);
    fake.release();
}

#[test]
fn a_drive_that_is_pulled_out_is_gone_soon() {
    let bench = Bench::simple();
    let drive = bench.drive();
    bench.fake.is_holding.set(true);
    let mut read = Box::pin(drive.read(0, Buf::from_heap(1)));
    assert!(poll(read.as_mut()).is_pending());
    bench.controller.poll(bench.clock.now());
    bench.fake.fault.set(Fault::Vanished);
    bench.advance(Duration::from_millis(150));
    bench.advance(Duration::from_millis(150));
    let Poll::Ready((buf, result)) = poll(read.as_mut()) else {
        panic!("not noticed")
    };
    assert_eq!(result, Err(DiskError::Gone));
    assert_eq!(buf.blocks(), 0, "nobody can say whether it still writes");
    assert_eq!(bench.run(drive.flush()), Err(DiskError::Gone));
}

#[test]
fn an_idle_drive_that_fails_is_noticed() {
    for fault in [Fault::Vanished, Fault::Fatal] {
        let bench = Bench::simple();
        bench.fake.fault.set(fault);
        bench.advance(Duration::from_secs(2));
        bench.advance(Duration::from_secs(2));
        assert_eq!(bench.controller.failure(), Some(DiskError::Gone));
    }
}

#[test]
fn a_lying_drive_is_stopped() {
    let lies = [
        Fault::WrongId,
        Fault::OldId,
        Fault::Twice,
        Fault::WrongHead,
        Fault::WrongQueue,
        Fault::Garbage,
    ];
    for lie in lies {
        let bench = Bench::simple();
        let drive = bench.drive();
        bench.fake.fault.set(lie);
        let (buf, result) = bench.run(drive.read(0, filled(2, 0)));
        // The first of two equal completions is the right one.
        let expected = if lie == Fault::Twice {
            Ok(())
        } else {
            Err(DiskError::Gone)
        };
        assert_eq!((buf.blocks(), result), (2, expected), "{lie:?}");
        assert!(!bench.fake.is_enabled(), "{lie:?}");
        assert_eq!(bench.run(drive.flush()), Err(DiskError::Gone), "{lie:?}");
    }
}

#[test]
fn dropping_a_request_keeps_its_memory_until_the_drive_is_done() {
    let bench = Bench::simple();
    let drive = bench.drive();
    bench.fake.is_holding.set(true);
    let pool = world::Pool::new(1);
    let buf = pool.try_take(1).unwrap();
    let at = address(&buf);
    let mut read = Box::pin(drive.read(0, buf));
    assert!(poll(read.as_mut()).is_pending());
    drop(read);
    bench.controller.poll(bench.clock.now());
    assert!(is_lent(at, BLOCK_SIZE));
    assert_eq!(pool.available(), 0);
    bench.fake.release();
    bench.controller.poll(bench.clock.now());
    assert!(!is_lent(at, 1));
    assert_eq!(pool.available(), 1);
}

#[test]
fn dropping_the_controller_ends_its_drives() {
    let Bench {
        fake,
        gate,
        clock,
        controller,
    } = Bench::simple();
    let drive = controller.drives()[0].clone();
    fake.fault.set(Fault::Silent);
    let mut read = Box::pin(drive.read(0, Buf::from_heap(1)));
    assert!(poll(read.as_mut()).is_pending());
    controller.poll(clock.now());
    drop(controller);
    assert!(!fake.is_enabled() && gate.is_closed.get());
    let Poll::Ready((buf, result)) = poll(read.as_mut()) else {
        panic!("not answered")
    };
    assert_eq!((buf.blocks(), result), (1, Err(DiskError::Gone)));
}

#[test]
fn shutting_down_tells_the_drive_first() {
    let Bench {
        fake,
        clock,
        controller,
        ..
    } = Bench::simple();
    controller.shut_down(&clock);
    assert!(!fake.is_enabled());
    assert!(clock.nanos.get() < 5_000_000_000, "it did not wait in vain");
}

#[test]
fn a_controller_that_cannot_be_brought_up_says_why() {
    let attempt = |prepare: fn(&FakeController)| {
        let fake = FakeController::new([(1, FakeNamespace::new(1 << 20, 512))]);
        prepare(&fake);
        let gate = FakeGate::default();
        let error = start(&fake, &gate, &Ticking::default()).err();
        assert!(!fake.is_enabled());
        error
    };
    assert_eq!(
        attempt(|fake| fake.fault.set(Fault::Vanished)),
        Some(NvmeError::Gone)
    );
    assert_eq!(
        attempt(|fake| fake.fault.set(Fault::Silent)),
        Some(NvmeError::Timeout)
    );
    assert_eq!(
        attempt(|fake| fake.fault.set(Fault::Fatal)),
        Some(NvmeError::Fatal)
    );
    assert_eq!(
        attempt(|fake| fake.is_lame.set(true)),
        Some(NvmeError::NotReady)
    );
    assert_eq!(
        attempt(|fake| fake.queue_entries.set(1)),
        Some(NvmeError::QueueTooShort)
    );
    let wrong = attempt(|fake| fake.identity.borrow_mut().push((512, 0x77)));
    assert_eq!(wrong, Some(NvmeError::Identity));
    let refused = attempt(|fake| fake.namespaces.borrow_mut().clear());
    assert_eq!(refused, None, "no namespace is no error");
    let status = Status::from_field(0x281);
    let text = NvmeError::Refused(6, status).to_string();
    assert_eq!(
        text,
        "the controller refused command 0x06: Unrecovered Read Error (0x281)"
    );
}
