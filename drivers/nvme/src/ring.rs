//! A submission queue and its completion queue in memory, with their doorbells.
//!
//! ```text
//! submission   head (theirs) ──► entries they have not read ──► tail (ours) ─ announced by the doorbell
//! completion   head (ours) ──► entries of this phase ──► first entry of the other phase
//! ```
//!
//! The phase of completions flips with each turn of the ring, so a new entry is told from an old one by one bit.
//! Whoever pushes makes sure that no more commands are outstanding than fit; then neither ring can overrun.

use hal::dma::{self, DmaBuf, PAGE_SIZE};
use hal::{Reg, Registers, WriteOnly};

use crate::command::{COMPLETION_BYTES, Completion, SUBMISSION_BYTES};
use crate::regs::doorbell;

/// A pair of queues with one number.
pub struct Ring {
    number: u16,
    entries: u16,
    submissions: DmaBuf,
    completions: DmaBuf,
    tail: u16,
    announced_tail: u16,
    head: u16,
    announced_head: u16,
    phase: bool,
    tail_doorbell: Reg<WriteOnly, u32>,
    head_doorbell: Reg<WriteOnly, u32>,
}

/// The controller wrote a completion that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

impl Ring {
    /// Empty queues of `entries` entries each, with doorbells `stride` bytes apart.
    pub fn new(number: u16, entries: u16, stride: usize) -> Self {
        let pages = |bytes: usize| (usize::from(entries) * bytes).div_ceil(PAGE_SIZE);
        Self {
            number,
            entries,
            submissions: DmaBuf::new(pages(SUBMISSION_BYTES)),
            completions: DmaBuf::new(pages(COMPLETION_BYTES)),
            tail: 0,
            announced_tail: 0,
            head: 0,
            announced_head: 0,
            phase: true,
            tail_doorbell: doorbell(number, false, stride),
            head_doorbell: doorbell(number, true, stride),
        }
    }

    /// Entries of each queue.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Addresses of the submission and the completion queue.
    pub fn addresses(&self) -> [u64; 2] {
        [
            self.submissions.device_address(),
            self.completions.device_address(),
        ]
    }

    /// Puts an entry behind the last one; the controller learns of it with the next [`announce`](Self::announce).
    pub fn push(&mut self, entry: &[u8; SUBMISSION_BYTES]) {
        let at = usize::from(self.tail) * SUBMISSION_BYTES;
        self.submissions.write_bytes(at, entry);
        self.tail = self.after(self.tail);
    }

    /// Puts another entry in the place of the last one, which the controller must not have been told of.
    pub fn replace_last(&mut self, entry: &[u8; SUBMISSION_BYTES]) {
        assert!(self.tail != self.announced_tail, "the entry is on its way");
        let last = (self.tail + self.entries - 1) % self.entries;
        self.submissions
            .write_bytes(usize::from(last) * SUBMISSION_BYTES, entry);
    }

    /// Rings the doorbells for everything pushed and taken. Returns whether commands were sent.
    pub fn announce(&mut self, regs: &impl Registers) -> bool {
        if self.announced_head != self.head {
            regs.write(self.head_doorbell, self.head.into());
            self.announced_head = self.head;
        }
        if self.announced_tail == self.tail {
            return false;
        }
        // Entries, PRP lists and data are in memory before the controller hears of them.
        dma::publish();
        regs.write(self.tail_doorbell, self.tail.into());
        self.announced_tail = self.tail;
        true
    }

    /// Takes the next completion, if there is one.
    pub fn take(&mut self) -> Option<Result<Completion, Nonsense>> {
        let at = usize::from(self.head) * COMPLETION_BYTES;
        let end = self.completions.read32(at + 12);
        if (end & 1 << 16 != 0) != self.phase {
            return None;
        }
        // The entry's other words are read after the one that says it is new.
        dma::observe();
        let (result, place) = (self.completions.read32(at), self.completions.read32(at + 8));
        self.head = self.after(self.head);
        self.phase ^= self.head == 0;
        let done = Completion::decode(result, place, end);
        let sensible = done.queue == self.number && done.head < self.entries;
        Some(if sensible { Ok(done) } else { Err(Nonsense) })
    }

    fn after(&self, index: u16) -> u16 {
        (index + 1) % self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use hal::fake::{Access, FakeRegisters, device_write};

    fn complete(ring: &Ring, at: usize, id: u16, phase: bool) {
        let end = u32::from(id) | u32::from(phase) << 16;
        let address = ring.addresses()[1] + (at * COMPLETION_BYTES) as u64;
        device_write(address + 8, &(1_u32 << 16 | 2).to_le_bytes());
        device_write(address + 12, &end.to_le_bytes());
    }

    #[test]
    fn doorbells_are_rung_once_for_many() {
        let regs = FakeRegisters::new(0x1020);
        let mut ring = Ring::new(1, 3, 8);
        let entry = Command::flush(1).encode(0, [0; 2]);
        ring.push(&entry);
        ring.push(&entry);
        assert!(ring.announce(&regs));
        assert!(!ring.announce(&regs));
        ring.push(&entry);
        assert!(ring.announce(&regs));
        let expected = [Access::Write(0x1010, 2), Access::Write(0x1010, 0)];
        assert_eq!(regs.take_log(), expected);
    }

    #[test]
    fn the_phase_flips_with_each_turn() {
        let regs = FakeRegisters::new(0x1020);
        let mut ring = Ring::new(1, 3, 8);
        for turn in 0..4_u16 {
            let phase = turn % 2 == 0;
            for at in 0..3 {
                assert_eq!(ring.take(), None);
                complete(&ring, usize::from(at), turn * 3 + at, phase);
                assert_eq!(ring.take().unwrap().unwrap().id, turn * 3 + at);
            }
        }
        ring.announce(&regs);
        assert_eq!(regs.take_log(), []);
        complete(&ring, 0, 0, true);
        assert!(ring.take().is_some());
        ring.announce(&regs);
        assert_eq!(regs.take_log(), [Access::Write(0x1018, 1)]);
    }

    #[test]
    fn nonsense_is_noticed() {
        let mut ring = Ring::new(2, 3, 4);
        complete(&ring, 0, 0, true);
        assert_eq!(ring.take(), Some(Err(Nonsense)), "of another queue");
        let mut ring = Ring::new(1, 2, 4);
        complete(&ring, 0, 0, true);
        assert_eq!(ring.take(), Some(Err(Nonsense)), "head beyond the queue");
    }
}
