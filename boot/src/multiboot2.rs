//! The multiboot2 hand-over (Multiboot2 Specification 2.0, section 3.6): a list of tags.
//!
//! ```text
//!  0 total size   4 reserved   8 tags, each on an 8-byte border: type u32, size u32, contents
//! ```

use arrayvec::ArrayVec;

use crate::handover::{Handover, Physical, Span, find_rsdp, rsdp_at};
use crate::info::{Loader, MemoryRange};
use crate::pvh::kind;

/// What a multiboot2 loader leaves in EAX.
pub const MAGIC: u32 = 0x36d7_6289;

const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_RSDP_OLD: u32 = 14;
const TAG_RSDP_NEW: u32 = 15;

/// Reads the hand-over at `info`, or `None` when it has no map of memory.
pub fn read(memory: &impl Physical, info: u64) -> Option<Handover> {
    let block = Span::at(info, u64::from(memory.u32(info)?));
    let mut told = Handover {
        loader: Loader::Multiboot2,
        ranges: ArrayVec::new(),
        line: Span::default(),
        modules: ArrayVec::new(),
        rsdp: None,
        block,
    };
    let mut at = info + 8;
    while at + 8 <= block.end {
        let (tag, size) = (memory.u32(at)?, u64::from(memory.u32(at + 4)?));
        if tag == TAG_END || size < 8 {
            break;
        }
        match tag {
            TAG_COMMAND_LINE => told.line = memory.text(at + 8),
            TAG_MODULE => {
                let (start, end) = (memory.u32(at + 8)?, memory.u32(at + 12)?);
                let span = Span {
                    start: start.into(),
                    end: end.max(start).into(),
                };
                let _ = told.modules.try_push((span, memory.text(at + 16)));
            }
            TAG_MEMORY_MAP => read_map(memory, Span::at(at, size), &mut told)?,
            TAG_RSDP_NEW => told.rsdp = rsdp_at(memory, at + 8).or(told.rsdp),
            TAG_RSDP_OLD => told.rsdp = told.rsdp.or_else(|| rsdp_at(memory, at + 8)),
            _ => {}
        }
        at += size.next_multiple_of(8);
    }
    told.rsdp = told.rsdp.or_else(|| find_rsdp(memory));
    (!told.ranges.is_empty()).then_some(told)
}

fn read_map(memory: &impl Physical, tag: Span, told: &mut Handover) -> Option<()> {
    let entry_size = u64::from(memory.u32(tag.start + 8)?).max(24);
    let mut entry = tag.start + 16;
    while entry + entry_size <= tag.end {
        let span = Span::at(memory.u64(entry)?, memory.u64(entry + 8)?);
        let kind = kind(memory.u32(entry + 16)?);
        let _ = told.ranges.try_push(MemoryRange {
            start: span.start,
            end: span.end,
            kind,
        });
        entry += entry_size;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::fake::Memory;
    use crate::info::MemoryKind;

    fn block(tags: &[(u32, Vec<u8>)]) -> Memory {
        let mut bytes = vec![0; 8];
        for (tag, contents) in tags {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&(contents.len() as u32 + 8).to_le_bytes());
            bytes.extend_from_slice(contents);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend_from_slice(&[0, 0, 0, 0, 8, 0, 0, 0]);
        let len = (bytes.len() as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&len);
        Memory {
            base: 0x8000,
            bytes,
        }
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn tags_are_read_in_any_order() {
        let mut module = words(&[0x60_0000, 0x60_0010]);
        module.extend_from_slice(b"config\0");
        let memory = block(&[
            (TAG_MODULE, module),
            (TAG_COMMAND_LINE, b"a=1 b\0".to_vec()),
            (99, vec![1, 2, 3]),
            (
                TAG_MEMORY_MAP,
                words(&[
                    24, 0, 0x10_0000, 0, 0x70_0000, 0, 1, 0, 0x80_6000, 0, 0x1000, 0, 4, 0,
                ]),
            ),
        ]);
        let told = read(&memory, 0x8000).unwrap();
        assert_eq!(
            memory.bytes(told.line.start, told.line.len()).unwrap(),
            b"a=1 b"
        );
        assert_eq!(
            told.modules[0].0,
            Span {
                start: 0x60_0000,
                end: 0x60_0010
            }
        );
        assert_eq!(told.ranges.len(), 2);
        assert_eq!(told.ranges[1].kind, MemoryKind::Reserved);
        assert_eq!(told.block.end, 0x8000 + memory.bytes.len() as u64);
    }

    #[test]
    fn a_block_without_a_map_is_refused() {
        assert!(read(&block(&[]), 0x8000).is_none());
    }

    #[test]
    fn a_tag_without_size_ends_the_list() {
        let mut memory = block(&[
            (TAG_MEMORY_MAP, words(&[24, 0, 0, 0, 1, 0, 1, 0])),
            (99, vec![0; 8]),
        ]);
        let at = memory.base + 8 + 40;
        memory.put(at + 4, &[0; 4]);
        assert!(read(&memory, 0x8000).is_some());
    }
}
