//! The PVH hand-over: `struct hvm_start_info` of the Xen interface (arch-x86/hvm/start_info.h).
//!
//! ```text
//!  0 magic   4 version   8 flags   12 number of modules   16 modules   24 command line   32 RSDP
//! 40 memory map (version 1)        48 its number of entries
//! module:    0 address   8 size   16 command line   24 reserved
//! map entry: 0 address   8 size   16 type (as of E820)   20 reserved
//! ```

use arrayvec::ArrayVec;

use crate::handover::{Handover, MODULES_MAX, Physical, RANGES_MAX, Span, find_rsdp, rsdp_at};
use crate::info::{Loader, MemoryKind, MemoryRange};

const MAGIC: u32 = 0x336e_c578;

/// Reads the hand-over at `info`, or `None` when there is none or it has no map of memory.
pub fn read(memory: &impl Physical, info: u64) -> Option<Handover> {
    if memory.u32(info)? != MAGIC || memory.u32(info + 4)? < 1 {
        return None;
    }
    let map = memory.u64(info + 40)?;
    let ranges: ArrayVec<_, RANGES_MAX> = (0..u64::from(memory.u32(info + 48)?))
        .map_while(|index| {
            let entry = map + index * 24;
            let span = Span::at(memory.u64(entry)?, memory.u64(entry + 8)?);
            let kind = kind(memory.u32(entry + 16)?);
            Some(MemoryRange {
                start: span.start,
                end: span.end,
                kind,
            })
        })
        .take(RANGES_MAX)
        .collect();
    let list = memory.u64(info + 16)?;
    let modules: ArrayVec<_, MODULES_MAX> = (0..u64::from(memory.u32(info + 12)?))
        .map_while(|index| {
            let entry = list + index * 32;
            let span = Span::at(memory.u64(entry)?, memory.u64(entry + 8)?);
            Some((span, memory.text(memory.u64(entry + 16)?)))
        })
        .take(MODULES_MAX)
        .collect();
    let rsdp = match memory.u64(info + 32)? {
        0 => None,
        address => rsdp_at(memory, address),
    };
    Some(Handover {
        loader: Loader::Pvh,
        ranges,
        line: memory.text(memory.u64(info + 24)?),
        modules,
        rsdp: rsdp.or_else(|| find_rsdp(memory)),
        block: Span::at(info, 56),
    })
}

/// The kind of a range by its E820 type (ACPI 6.5, table 15.1).
pub fn kind(e820: u32) -> MemoryKind {
    match e820 {
        1 => MemoryKind::Usable,
        3 => MemoryKind::Acpi,
        _ => MemoryKind::Reserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::fake::Memory;

    #[test]
    fn map_line_and_modules_are_read() {
        let mut memory = Memory {
            base: 0x1000,
            bytes: vec![0; 0x400],
        };
        memory.put(0x1000, &MAGIC.to_le_bytes());
        memory.put(0x1004, &1_u32.to_le_bytes());
        memory.put(0x100c, &1_u32.to_le_bytes());
        memory.put(0x1010, &0x1200_u64.to_le_bytes());
        memory.put(0x1018, &0x1300_u64.to_le_bytes());
        memory.put(0x1028, &0x1100_u64.to_le_bytes());
        memory.put(0x1030, &2_u32.to_le_bytes());
        memory.put(0x1100, &0x10_0000_u64.to_le_bytes());
        memory.put(0x1108, &0x300_0000_u64.to_le_bytes());
        memory.put(0x1110, &1_u32.to_le_bytes());
        memory.put(0x1118, &u64::MAX.to_le_bytes());
        memory.put(0x1120, &8_u64.to_le_bytes());
        memory.put(0x1128, &2_u32.to_le_bytes());
        memory.put(0x1200, &0x50_0000_u64.to_le_bytes());
        memory.put(0x1208, &77_u64.to_le_bytes());
        memory.put(0x1300, b"x=1\0");
        let told = read(&memory, 0x1000).unwrap();
        assert_eq!(
            told.ranges[0],
            MemoryRange {
                start: 0x10_0000,
                end: 0x310_0000,
                kind: MemoryKind::Usable
            }
        );
        assert_eq!(told.ranges[1].end, u64::MAX);
        assert_eq!(told.modules[0].0, Span::at(0x50_0000, 77));
        assert_eq!(
            told.line,
            Span {
                start: 0x1300,
                end: 0x1303
            }
        );
    }

    #[test]
    fn other_magic_is_refused() {
        let memory = Memory {
            base: 0,
            bytes: vec![0; 64],
        };
        assert!(read(&memory, 0).is_none());
    }
}
