//! Building the table and putting it into an image.

use core::fmt;

use crate::{ENTRY_BYTES, HEADER_BYTES, MAGIC};

/// Why an image could not be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// It is not a complete little-endian ELF64 executable for x86-64.
    NotAnImage,
    /// It has no symbol table, or none with functions: it was stripped.
    NoSymbols,
    /// No segment begins with section `.symbols`, or it is not the last in memory.
    NoRoom,
}

impl fmt::Display for PackError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NotAnImage => "not an ELF64 executable for x86-64",
            Self::NoSymbols => "no symbol table in it (stripped?)",
            Self::NoRoom => "no segment that begins with section .symbols and is last in memory",
        })
    }
}

impl core::error::Error for PackError {}

/// Makes a table of functions given as (address, size in bytes, demangled name), in any order.
///
/// Of several functions at one address the first by name is kept. Names are cut to 65535 bytes.
#[must_use]
pub fn encode(functions: &[(u64, u64, String)]) -> Vec<u8> {
    let mut sorted: Vec<_> = functions.iter().filter(|(_, size, _)| *size > 0).collect();
    sorted.sort_by_key(|(address, _, name)| (*address, name.as_str()));
    sorted.dedup_by_key(|(address, ..)| *address);
    let base = sorted.first().map_or(0, |(address, ..)| *address);
    sorted.retain(|(address, ..)| address - base <= u64::from(u32::MAX));

    let mut table = vec![0; HEADER_BYTES + ENTRY_BYTES * sorted.len()];
    for (index, (address, size, name)) in sorted.iter().enumerate() {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        let size = u32::try_from(*size).unwrap_or(u32::MAX);
        let position = table.len() as u32;
        table[at..at + 4].copy_from_slice(&((address - base) as u32).to_le_bytes());
        table[at + 4..at + 8].copy_from_slice(&size.to_le_bytes());
        table[at + 8..at + 12].copy_from_slice(&position.to_le_bytes());
        let name = &name[..name.floor_char_boundary(usize::from(u16::MAX))];
        table.extend_from_slice(&(name.len() as u16).to_le_bytes());
        table.extend_from_slice(name.as_bytes());
    }
    let len = table.len() as u32;
    table[..8].copy_from_slice(&MAGIC);
    table[8..12].copy_from_slice(&len.to_le_bytes());
    table[12..16].copy_from_slice(&(sorted.len() as u32).to_le_bytes());
    table[16..24].copy_from_slice(&base.to_le_bytes());
    table
}

const SECTION_SYMTAB: u32 = 2;
const SEGMENT_LOAD: u32 = 1;
const SYMBOL_FUNCTION: u8 = 2;
const FILE_HEADER_BYTES: usize = 64;
const SEGMENT_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;
/// Where segments begin in the packed file, so that their place in a page is the same as in memory.
const PAGE: u64 = 4096;

/// Turns a linked image into the one that is shipped: only what is loaded, and the table of its functions.
///
/// # Errors
/// When `linked` is not such an image; see [`PackError`].
pub fn pack(linked: &[u8]) -> Result<Vec<u8>, PackError> {
    let elf = Elf::open(linked)?;
    let table = encode(&elf.functions()?);
    let room = elf.section(b".symbols").ok_or(PackError::NoRoom)?;
    let segments = elf.segments()?;
    let last = segments
        .iter()
        .filter(|s| s.kind == SEGMENT_LOAD)
        .max_by_key(|s| s.address);
    if last.is_none_or(|segment| segment.address != room.address) {
        return Err(PackError::NoRoom);
    }

    let headers = FILE_HEADER_BYTES + SEGMENT_HEADER_BYTES * segments.len();
    let mut packed = linked
        .get(..FILE_HEADER_BYTES)
        .ok_or(PackError::NotAnImage)?
        .to_vec();
    packed[32..40].copy_from_slice(&(FILE_HEADER_BYTES as u64).to_le_bytes());
    packed[40..48].fill(0); // no section headers …
    packed[58..64].fill(0); // … and none of their sizes and counts
    packed.resize(headers, 0);
    // Segments that are loaded come first, so that the others (the note) can point into them.
    let mut placed: Vec<(Segment, u64)> = Vec::new();
    for segment in segments.iter().filter(|s| s.kind == SEGMENT_LOAD) {
        let bytes = if segment.address == room.address {
            &table[..]
        } else {
            elf.range(segment.offset, segment.file_size)?
        };
        // A file offset equal to the address modulo the page size; the first may share a page with the headers.
        let start = packed.len() as u64;
        let start = start + (segment.address + PAGE - start % PAGE) % PAGE;
        packed.resize(start as usize, 0);
        packed.extend_from_slice(bytes);
        placed.push((*segment, start));
    }
    for (index, segment) in segments.iter().enumerate() {
        let (home, start) = placed
            .iter()
            .find(|(home, _)| {
                segment.address >= home.address
                    && segment.address - home.address < home.memory_size.max(1)
            })
            .ok_or(PackError::NotAnImage)?;
        let at = FILE_HEADER_BYTES + index * SEGMENT_HEADER_BYTES;
        let header = &mut packed[at..at + SEGMENT_HEADER_BYTES];
        header.copy_from_slice(elf.range(segment.header, SEGMENT_HEADER_BYTES as u64)?);
        header[8..16].copy_from_slice(&(start + segment.address - home.address).to_le_bytes());
        if segment.kind == SEGMENT_LOAD && segment.address == room.address {
            header[32..40].copy_from_slice(&(table.len() as u64).to_le_bytes());
            header[40..48].copy_from_slice(&(table.len() as u64).to_le_bytes());
        }
    }
    Ok(packed)
}

struct Elf<'a> {
    bytes: &'a [u8],
}

#[derive(Clone, Copy)]
struct Segment {
    /// Where its header is in the file.
    header: u64,
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

#[derive(Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, PackError> {
        let elf = Self { bytes };
        // Class, byte order and machine (ELF specification, "ELF Header").
        if bytes.get(..6) != Some(b"\x7fELF\x02\x01") || elf.u16(18)? != 62 {
            return Err(PackError::NotAnImage);
        }
        Ok(elf)
    }

    fn range(&self, offset: u64, len: u64) -> Result<&'a [u8], PackError> {
        let start = usize::try_from(offset).map_err(|_| PackError::NotAnImage)?;
        let len = usize::try_from(len).map_err(|_| PackError::NotAnImage)?;
        let end = start.checked_add(len).ok_or(PackError::NotAnImage)?;
        self.bytes.get(start..end).ok_or(PackError::NotAnImage)
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], PackError> {
        self.range(offset, N as u64)?
            .try_into()
            .map_err(|_| PackError::NotAnImage)
    }

    fn u16(&self, offset: u64) -> Result<u16, PackError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Result<u32, PackError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Result<u64, PackError> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn segments(&self) -> Result<Vec<Segment>, PackError> {
        let first = self.u64(32)?;
        (0..u64::from(self.u16(56)?))
            .map(|index| {
                let header = first.saturating_add(index * SEGMENT_HEADER_BYTES as u64);
                self.range(header, SEGMENT_HEADER_BYTES as u64)?;
                Ok(Segment {
                    header,
                    kind: self.u32(header)?,
                    offset: self.u64(header + 8)?,
                    address: self.u64(header + 16)?,
                    file_size: self.u64(header + 32)?,
                    memory_size: self.u64(header + 40)?,
                })
            })
            .collect()
    }

    fn sections(&self) -> Result<Vec<Section>, PackError> {
        let first = self.u64(40)?;
        (0..u64::from(self.u16(60)?))
            .map(|index| {
                let header = first.saturating_add(index * SECTION_HEADER_BYTES as u64);
                self.range(header, SECTION_HEADER_BYTES as u64)?;
                Ok(Section {
                    name: self.u32(header)?,
                    kind: self.u32(header + 4)?,
                    address: self.u64(header + 16)?,
                    offset: self.u64(header + 24)?,
                    size: self.u64(header + 32)?,
                    link: self.u32(header + 40)?,
                })
            })
            .collect()
    }

    fn section(&self, name: &[u8]) -> Option<Section> {
        let sections = self.sections().ok()?;
        let names = sections.get(usize::from(self.u16(62).ok()?))?;
        let names = self.range(names.offset, names.size).ok()?;
        sections
            .into_iter()
            .find(|section| text_at(names, section.name) == name)
    }

    fn functions(&self) -> Result<Vec<(u64, u64, String)>, PackError> {
        let sections = self.sections()?;
        let symtab = sections
            .iter()
            .find(|s| s.kind == SECTION_SYMTAB)
            .ok_or(PackError::NoSymbols)?;
        let names = sections
            .get(symtab.link as usize)
            .ok_or(PackError::NotAnImage)?;
        let names = self.range(names.offset, names.size)?;
        let symbols = self.range(symtab.offset, symtab.size)?.as_chunks::<24>().0;
        let functions: Vec<_> = symbols
            .iter()
            .filter(|symbol| symbol[4] & 0xf == SYMBOL_FUNCTION)
            .map(|symbol| {
                let [n0, n1, n2, n3, ..] = *symbol;
                let name = text_at(names, u32::from_le_bytes([n0, n1, n2, n3]));
                let name = String::from_utf8_lossy(name);
                let address = u64::from_le_bytes(*symbol[8..].first_chunk().unwrap_or(&[0; 8]));
                let size = u64::from_le_bytes(*symbol[16..].first_chunk().unwrap_or(&[0; 8]));
                (
                    address,
                    size,
                    format!("{:#}", rustc_demangle::demangle(&name)),
                )
            })
            .collect();
        if functions.is_empty() {
            Err(PackError::NoSymbols)
        } else {
            Ok(functions)
        }
    }
}

fn text_at(names: &[u8], at: u32) -> &[u8] {
    let rest = names.get(at as usize..).unwrap_or(&[]);
    rest.split(|byte| *byte == 0).next().unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    fn functions(list: &[(u64, u64, &str)]) -> Vec<(u64, u64, String)> {
        list.iter()
            .map(|&(address, size, name)| (address, size, name.into()))
            .collect()
    }

    #[test]
    fn an_address_finds_its_function_and_nothing_between_functions() {
        let table = encode(&functions(&[
            (0x20_0100, 0x10, "b"),
            (0x20_0000, 0x80, "a"),
            (0x20_0000, 0x80, "alias of a"),
            (0x20_0200, 0, "not a function"),
        ]));
        let table = Table::open(&table).unwrap();
        assert_eq!(table.count(), 2);
        let name = |address| table.find(address).map(|s| (s.name, s.start, s.offset));
        assert_eq!(name(0x20_0000), Some(("a", 0x20_0000, 0)));
        assert_eq!(name(0x20_007f), Some(("a", 0x20_0000, 0x7f)));
        assert_eq!(name(0x20_0080), None);
        assert_eq!(name(0x20_010f), Some(("b", 0x20_0100, 0xf)));
        assert_eq!(name(0x20_0200), None);
        assert_eq!(name(0x1f_ffff), None);
        assert_eq!(name(u64::MAX), None);
    }

    #[test]
    fn damage_costs_names_and_never_a_fault() {
        let good = encode(&functions(&[(0x1000, 16, "one"), (0x2000, 16, "two")]));
        assert!(Table::open(&good[..good.len() - 1]).is_none());
        assert!(Table::open(&[0; 24]).is_none());
        for at in 0..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Some(table) = Table::open(&bad) {
                    let _ = (table.find(0x1008), table.find(0x2008));
                }
            }
        }
    }

    /// A linked image with one function, as `pack` sees it: text at 2 MiB, room for the table behind it.
    fn linked() -> Vec<u8> {
        let mut elf = vec![0; 0x3000];
        let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(18, &62_u16.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(40, &0x2000_u64.to_le_bytes());
        put(56, &3_u16.to_le_bytes());
        put(60, &4_u16.to_le_bytes());
        put(62, &3_u16.to_le_bytes());
        // A note inside the text, the text, the room. Fields: type, flags, offset, address, address, sizes, alignment.
        let segments = [
            (4_u32, 4_u32, 0x1010_u64, 0x20_0010_u64, 8_u64),
            (1, 5, 0x1000, 0x20_0000, 0x123),
            (1, 4, 0x1800, 0x20_2000, 16),
        ];
        for (index, (kind, flags, offset, address, size)) in segments.into_iter().enumerate() {
            let at = 64 + index * SEGMENT_HEADER_BYTES;
            put(at, &kind.to_le_bytes());
            put(at + 4, &flags.to_le_bytes());
            for (field, value) in [offset, address, address, size, size, PAGE]
                .iter()
                .enumerate()
            {
                put(at + 8 + field * 8, &value.to_le_bytes());
            }
        }
        put(0x1000, &[0x90; 0x123]);
        // Sections: none, .symbols, the symbol table, its names (also those of sections).
        let sections = [
            (0_u32, 0_u32, 0_u64, 0_u64, 0_u64, 0_u32),
            (1, 1, 0x20_2000, 0x1800, 16, 0),
            (0, 2, 0, 0x2800, 48, 3),
            (0, 3, 0, 0x2900, 32, 0),
        ];
        for (index, (name, kind, address, offset, size, link)) in sections.into_iter().enumerate() {
            let at = 0x2000 + index * SECTION_HEADER_BYTES;
            put(at, &name.to_le_bytes());
            put(at + 4, &kind.to_le_bytes());
            put(at + 16, &address.to_le_bytes());
            put(at + 24, &offset.to_le_bytes());
            put(at + 32, &size.to_le_bytes());
            put(at + 40, &link.to_le_bytes());
        }
        put(0x2900, b"\0.symbols\0_ZN4boot5startE\0");
        put(0x2818, &10_u32.to_le_bytes());
        put(0x281c, &[SYMBOL_FUNCTION]);
        put(0x2820, &0x20_0020_u64.to_le_bytes());
        put(0x2828, &0x40_u64.to_le_bytes());
        elf
    }

    #[test]
    fn a_packed_image_loads_the_same_bytes_and_the_table() {
        let packed = pack(&linked()).unwrap();
        let elf = Elf::open(&packed).unwrap();
        let segments = elf.segments().unwrap();
        let bytes = |segment: &Segment| elf.range(segment.offset, segment.file_size).unwrap();
        assert_eq!(bytes(&segments[1]), [0x90; 0x123]);
        assert_eq!(segments[0].offset, segments[1].offset + 0x10);
        assert_eq!(segments[2].memory_size, segments[2].file_size);
        for segment in &segments {
            assert_eq!(segment.offset % PAGE, segment.address % PAGE);
        }
        let table = Table::open(bytes(&segments[2])).unwrap();
        assert_eq!(table.find(0x20_0021).unwrap().name, "boot::start");
        assert!(elf.sections().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_such_image_is_refused() {
        assert_eq!(pack(b"hello"), Err(PackError::NotAnImage));
        let packed = pack(&linked()).unwrap();
        assert_eq!(pack(&packed), Err(PackError::NoSymbols));
        let mut other = linked();
        other[64 + 2 * SEGMENT_HEADER_BYTES + 16] = 8;
        assert_eq!(pack(&other), Err(PackError::NoRoom));
        let good = linked();
        for len in (0..good.len()).step_by(7) {
            let _ = pack(&good[..len]);
        }
    }
}
