//! Requests that are neighbours on the drive and arrive together.

use super::*;
use crate::fake::Seen;

/// Commands on blocks as the controller saw them: opcode, first block, blocks.
fn commands(bench: &Bench) -> Vec<(u8, u32, u32)> {
    let seen = bench.fake.seen.borrow_mut().split_off(0);
    let command = |seen: &Seen| (seen.1, seen.3[0] / 8, ((seen.3[2] & 0xffff) + 1) / 8);
    seen.iter().map(command).collect()
}

#[test]
fn neighbours_that_arrive_together_are_one_command() {
    let bench = Bench::simple();
    let drive = bench.drive();
    let mut writes: Vec<_> = [
        (10, 1),
        (11, 1),
        (12, 3),
        (15, 12),
        (27, 1),
        (40, 1),
        (30, 2),
    ]
    .into_iter()
    .map(|(at, blocks)| Some(Box::pin(drive.write(at, filled(blocks, at as u8)))))
    .collect();
    poll_all(&mut writes);
    bench.controller.poll(bench.clock.now());
    // The drive takes 16 blocks at a time.
    let expected = [(1, 10, 5), (1, 15, 13), (1, 40, 1), (1, 30, 2)];
    assert_eq!(commands(&bench), expected);
    poll_all(&mut writes);
    assert!(writes.iter().all(Option::is_none));
    // What the controller was told of takes nothing in any more; reads and writes do not mix.
    let mut first = pin!(drive.read(10, Buf::from_heap(1)));
    assert!(poll(first.as_mut()).is_pending());
    bench.controller.poll(bench.clock.now());
    let mut reads: Vec<_> = (11..27)
        .map(|at| Box::pin(drive.read(at, Buf::from_heap(1))))
        .collect();
    for read in &mut reads {
        assert!(poll(read.as_mut()).is_pending());
    }
    let mut write = pin!(drive.write(27, filled(1, 27)));
    assert!(poll(write.as_mut()).is_pending());
    bench.controller.poll(bench.clock.now());
    assert_eq!(commands(&bench), [(2, 10, 1), (2, 11, 16), (1, 27, 1)]);
    for (at, read) in (11..).zip(&mut reads) {
        let Poll::Ready((page, result)) = poll(read.as_mut()) else {
            panic!("not answered");
        };
        assert_eq!((result, page.block(0)[9]), (Ok(()), at));
        assert!(!is_lent(address(&page), 1));
    }
    assert!(poll(first).is_ready() && poll(write).is_ready());
    assert_eq!(bench.controller.next_deadline(), None, "idle");
}

#[test]
fn an_error_of_a_joined_command_is_that_of_one_request_only() {
    let bench = Bench::simple();
    let drive = bench.drive();
    // Refuses all together, and then the second alone.
    bench.fake.answers.borrow_mut().extend([0x281, 0, 0x281, 0]);
    let reads = (0..3).map(|at| Some(Box::pin(drive.read(at, Buf::from_heap(1)))));
    let mut reads: Vec<_> = reads.collect();
    poll_all(&mut reads);
    bench.controller.poll(bench.clock.now());
    let mut answers = Vec::new();
    for _ in 0..4 {
        for read in &mut reads {
            let answer = read.as_mut().map(|read| poll(read.as_mut()));
            if let Some(Poll::Ready((_, result))) = answer {
                answers.push(result);
                *read = None;
            }
        }
        bench.controller.poll(bench.clock.now());
    }
    assert_eq!(answers, [Ok(()), Err(DiskError::Media), Ok(())]);
    let expected = [(2, 0, 3), (2, 0, 1), (2, 1, 1), (2, 2, 1)];
    assert_eq!(commands(&bench), expected);
}

#[test]
fn requests_of_a_joined_command_may_go_away() {
    for gone in 0..3 {
        let bench = Bench::simple();
        let drive = bench.drive();
        bench.fake.is_holding.set(true);
        let mut pages = [Buf::from_heap(1), Buf::from_heap(1), Buf::from_heap(1)];
        let addresses = pages.each_ref().map(address);
        let writes = (0..3).map(|at| {
            let page = core::mem::take(&mut pages[at]);
            Some(Box::pin(drive.write(at as u64, page)))
        });
        let mut writes: Vec<_> = writes.collect();
        poll_all(&mut writes);
        writes[gone] = None;
        bench.controller.poll(bench.clock.now());
        assert!(addresses.iter().all(|at| is_lent(*at, BLOCK_SIZE)));
        bench.fake.release();
        bench.controller.poll(bench.clock.now());
        poll_all(&mut writes);
        assert!(writes.iter().all(Option::is_none), "{gone}");
        assert!(!addresses.iter().any(|at| is_lent(*at, 1)));
        assert_eq!(bench.controller.next_deadline(), None, "idle");
    }
}
