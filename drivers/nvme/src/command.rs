//! Submission and completion entries (NVMe Base 2.0, 3.3.3; NVM Command Set 1.0, 3.2).
//!
//! ```text
//! submission, 64 bytes                      completion, 16 bytes
//!  0 opcode, flags, command id              0 result
//!  4 namespace                              4 -
//! 24 PRP 1                                  8 submission head, submission queue
//! 32 PRP 2                                 12 command id, phase (bit 16), status
//! 40 six doublewords of the command
//! ```

use crate::status::Status;

/// Bytes of a submission entry.
pub const SUBMISSION_BYTES: usize = 64;
/// Bytes of a completion entry.
pub const COMPLETION_BYTES: usize = 16;

/// Identify: what a data structure is about (CNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One namespace.
    Namespace = 0,
    /// The controller.
    Controller = 1,
    /// The numbers of active namespaces above the one given.
    ActiveNamespaces = 2,
}

/// A command without the memory it works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    opcode: u8,
    namespace: u32,
    /// Doublewords 10 to 15.
    words: [u32; 6],
}

impl Command {
    const fn new(opcode: u8, namespace: u32, words: [u32; 6]) -> Self {
        Self {
            opcode,
            namespace,
            words,
        }
    }

    /// Commands on `count` logical blocks from `lba` on.
    fn on_blocks(opcode: u8, namespace: u32, lba: u64, count: u32, flags: u32) -> Self {
        assert!(
            (1..=1 << 16).contains(&count),
            "a command for {count} blocks"
        );
        let words = [lba as u32, (lba >> 32) as u32, flags | (count - 1), 0, 0, 0];
        Self::new(opcode, namespace, words)
    }

    /// Reads `count` logical blocks.
    pub fn read(namespace: u32, lba: u64, count: u32) -> Self {
        Self::on_blocks(0x02, namespace, lba, count, 0)
    }

    /// Writes `count` logical blocks; with `through`, past the volatile cache (FUA).
    pub fn write(namespace: u32, lba: u64, count: u32, through: bool) -> Self {
        Self::on_blocks(0x01, namespace, lba, count, u32::from(through) << 30)
    }

    /// Makes `count` logical blocks read as zeros, without data.
    pub fn write_zeroes(namespace: u32, lba: u64, count: u32) -> Self {
        Self::on_blocks(0x08, namespace, lba, count, 0)
    }

    /// Makes completed writes durable.
    pub fn flush(namespace: u32) -> Self {
        Self::new(0x00, namespace, [0; 6])
    }

    /// Deallocates the `ranges` ranges in memory.
    pub fn deallocate(namespace: u32, ranges: usize) -> Self {
        Self::new(0x09, namespace, [ranges as u32 - 1, 1 << 2, 0, 0, 0, 0])
    }

    /// Fetches 4096 bytes about `subject`.
    pub fn identify(subject: Subject, namespace: u32) -> Self {
        Self::new(0x06, namespace, [subject as u32, 0, 0, 0, 0, 0])
    }

    /// Fetches the first `bytes` bytes of log page `page` about the whole controller.
    pub fn log_page(page: u8, bytes: u32) -> Self {
        let words = (bytes / 4 - 1) << 16 | u32::from(page);
        Self::new(0x02, u32::MAX, [words, 0, 0, 0, 0, 0])
    }

    /// Asks for `pairs` pairs of queues.
    pub fn set_queue_count(pairs: u16) -> Self {
        let pairs = u32::from(pairs - 1);
        Self::new(0x09, 0, [0x07, pairs << 16 | pairs, 0, 0, 0, 0])
    }

    /// Creates completion queue `queue`, with interrupts through entry 0 if they are wanted.
    pub fn create_completion_queue(queue: u16, entries: u16, interrupts: bool) -> Self {
        let size = u32::from(entries - 1) << 16 | u32::from(queue);
        Self::new(0x05, 0, [size, u32::from(interrupts) << 1 | 1, 0, 0, 0, 0])
    }

    /// Creates submission queue `queue`, which completes to the completion queue of the same number.
    pub fn create_submission_queue(queue: u16, entries: u16) -> Self {
        let size = u32::from(entries - 1) << 16 | u32::from(queue);
        Self::new(0x01, 0, [size, u32::from(queue) << 16 | 1, 0, 0, 0, 0])
    }

    /// What the controller calls this kind of command.
    pub fn opcode(&self) -> u8 {
        self.opcode
    }

    /// This read or write and `next` as one command, if `next` is of the same kind and goes on where this one ends.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let first =
            |command: &Self| u64::from(command.words[1]) << 32 | u64::from(command.words[0]);
        let count = |command: &Self| (command.words[2] & 0xffff) + 1;
        let flags = |command: &Self| command.words[2] & !0xffff;
        let fits = matches!(self.opcode, 0x01 | 0x02)
            && (self.opcode, self.namespace) == (next.opcode, next.namespace)
            && flags(self) == flags(next)
            && first(self) + u64::from(count(self)) == first(next)
            && count(self) + count(next) <= 1 << 16;
        let mut command = *self;
        command.words[2] = flags(self) | (count(self) + count(next)).wrapping_sub(1) & 0xffff;
        fits.then_some(command)
    }

    /// The submission entry, working on the memory that the two PRPs describe.
    pub fn encode(&self, id: u16, prp: [u64; 2]) -> [u8; SUBMISSION_BYTES] {
        let mut entry = [0; SUBMISSION_BYTES];
        let first = u32::from(id) << 16 | u32::from(self.opcode);
        entry[..4].copy_from_slice(&first.to_le_bytes());
        entry[4..8].copy_from_slice(&self.namespace.to_le_bytes());
        entry[24..32].copy_from_slice(&prp[0].to_le_bytes());
        entry[32..40].copy_from_slice(&prp[1].to_le_bytes());
        for (bytes, word) in entry[40..].chunks_exact_mut(4).zip(self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        entry
    }
}

/// A completion entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Specific to the command.
    pub result: u32,
    /// How far the controller has read the submission queue.
    pub head: u16,
    /// The submission queue.
    pub queue: u16,
    /// The command's id.
    pub id: u16,
    /// How it went.
    pub status: Status,
}

impl Completion {
    /// From doublewords 0, 2 and 3.
    pub fn decode(result: u32, place: u32, end: u32) -> Self {
        Self {
            result,
            head: place as u16,
            queue: (place >> 16) as u16,
            id: end as u16,
            status: Status::from_field((end >> 17) as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_past_the_cache_is_laid_out_as_specified() {
        let entry = Command::write(3, 0x1_2345_6789, 8, true).encode(0xabcd, [0x1000, 0x2000]);
        assert_eq!(entry[..8], [1, 0, 0xcd, 0xab, 3, 0, 0, 0]);
        assert_eq!(entry[24..34], [0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20]);
        assert_eq!(entry[40..48], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0]);
        assert_eq!(entry[48..52], [7, 0, 0, 0x40]);
    }

    #[test]
    fn only_neighbours_of_one_kind_are_joined() {
        let first = Command::read(1, 0xffff_fff8, 8);
        assert_eq!(
            first.joined(&Command::read(1, 0x1_0000_0000, 4)),
            Some(Command::read(1, 0xffff_fff8, 12))
        );
        for other in [
            Command::read(1, 0x1_0000_0001, 4),
            Command::read(1, 0xffff_fff0, 8),
            Command::read(2, 0x1_0000_0000, 4),
            Command::read(1, 0x1_0000_0000, 0xfff9),
            Command::write(1, 0x1_0000_0000, 4, false),
        ] {
            assert_eq!(first.joined(&other), None);
        }
        let through = Command::write(1, 0, 8, true);
        assert_eq!(through.joined(&Command::write(1, 8, 8, false)), None);
        let zeroes = Command::write_zeroes(1, 0, 8);
        assert_eq!(zeroes.joined(&Command::write_zeroes(1, 8, 8)), None);
    }

    #[test]
    fn a_completion_is_taken_apart() {
        let done = Completion::decode(7, 0x0001_0203, 0x0281 << 17 | 1 << 16 | 0x42);
        assert_eq!((done.result, done.head, done.queue), (7, 0x203, 1));
        assert_eq!((done.id, done.status.code()), (0x42, 0x281));
    }
}
