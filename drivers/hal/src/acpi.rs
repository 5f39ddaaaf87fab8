//! The few facts this program wants from ACPI tables (ACPI specification 6.5), read by hand.
//!
//! There is no AML interpreter: the one value that only AML knows, how to enter state S5, is found by its pattern.

use alloc::vec::Vec;

use spin::Mutex;

/// Copies memory at a physical address; `None` where there cannot be any.
pub type Reader = fn(physical: u64, len: usize) -> Option<Vec<u8>>;

/// Longest table that is read; DSDTs of servers reach some hundred KiB.
const TABLE_BYTES_MAX: usize = 4 << 20;
/// Tables that are looked at.
const TABLES_MAX: usize = 128;

/// A window of PCI configuration space in memory (MCFG, PCI Firmware Specification 3.3, 4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of bus 0's space, even when the window begins at a later bus.
    pub base: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First bus in the window.
    pub bus_first: u8,
    /// Last bus in the window.
    pub bus_last: u8,
}

/// Where a register is (generic address structure, 5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory(u64),
    /// At an I/O port.
    Port(u16),
    /// In PCI configuration space of bus 0: device, function, offset.
    Config(u8, u8, u8),
}

/// Power management registers (5.2.9); ports are zero where there is no such register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Port that switches the machine to ACPI mode, and the value for it.
    pub enable: (u16, u8),
    /// Status of power events; their enable bits follow after half of `event_bytes`.
    pub event: [u16; 2],
    /// Bytes of an event block.
    pub event_bytes: u8,
    /// Control of sleep states.
    pub control: [u16; 2],
    /// The 3.579545 MHz timer.
    pub timer: u16,
    /// Whether the timer has 32 bits instead of 24.
    pub timer_32_bits: bool,
    /// Index of the century in the real-time clock's memory; zero where there is none.
    pub century: u8,
    /// The reset register and the value to write.
    pub reset: Option<(Place, u8)>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// From the FADT.
    pub fixed: Option<Fixed>,
    /// Sleep type values of state S5 for the two control registers.
    pub soft_off: Option<[u8; 2]>,
    /// Physical address of the HPET.
    pub hpet: Option<u64>,
    /// Physical addresses of I/O APICs.
    pub io_apics: Vec<u64>,
    /// Windows of PCI configuration space.
    pub ecam: Vec<Ecam>,
}

static FACTS: Mutex<Option<Facts>> = Mutex::new(None);

/// Reads the tables. Without a root pointer, or where one is damaged, less is known afterwards; nothing fails.
pub fn init(rsdp: Option<&[u8; 36]>, read: Reader) {
    let facts = rsdp.map_or_else(Facts::default, |rsdp| parse(rsdp, &read));
    *FACTS.lock() = Some(facts);
}

/// What was found; nothing before [`init`].
#[must_use]
pub fn facts() -> Facts {
    FACTS.lock().clone().unwrap_or_default()
}

/// The power management registers, if there are any.
#[must_use]
pub fn fixed() -> Option<Fixed> {
    FACTS.lock().as_ref()?.fixed
}

fn parse(rsdp: &[u8; 36], read: &dyn Fn(u64, usize) -> Option<Vec<u8>>) -> Facts {
    let mut facts = Facts::default();
    for address in root(rsdp, read) {
        let Some(table) = table(address, read) else {
            continue;
        };
        match &table[..4] {
            b"FACP" => {
                facts.fixed = parse_fixed(&table);
                facts.soft_off = dsdt(&table)
                    .and_then(|address| self::table(address, read))
                    .and_then(|table| soft_off(&table));
            }
            b"HPET" => facts.hpet = u64_at(&table, 44),
            b"APIC" => facts.io_apics = io_apics(&table),
            b"MCFG" => facts.ecam = ecam(&table),
            _ => {}
        }
    }
    facts
}

/// Addresses of all tables, from the XSDT or else the RSDT (5.2.7, 5.2.8).
fn root(rsdp: &[u8; 36], read: &dyn Fn(u64, usize) -> Option<Vec<u8>>) -> Vec<u64> {
    if let Some(table) = u64_at(rsdp, 24)
        .filter(|at| *at != 0)
        .and_then(|at| table(at, read))
    {
        let entries = table[36..].as_chunks().0.iter();
        return entries
            .map(|entry| u64::from_le_bytes(*entry))
            .take(TABLES_MAX)
            .collect();
    }
    let Some(table) = u32_at(rsdp, 16).and_then(|at| table(at.into(), read)) else {
        return Vec::new();
    };
    let entries = table[36..].as_chunks().0.iter();
    entries
        .map(|entry| u32::from_le_bytes(*entry).into())
        .take(TABLES_MAX)
        .collect()
}

/// The table at `address`, if its length and checksum are right. It has at least a header of 36 bytes.
fn table(address: u64, read: &dyn Fn(u64, usize) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let len = u32_at(&read(address, 36)?, 4)? as usize;
    if !(36..=TABLE_BYTES_MAX).contains(&len) {
        return None;
    }
    let table = read(address, len)?;
    (table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0).then_some(table)
}

fn parse_fixed(fadt: &[u8]) -> Option<Fixed> {
    let port = |at| u32_at(fadt, at).and_then(|port| u16::try_from(port).ok());
    let byte = |at: usize| fadt.get(at).copied().unwrap_or(0);
    let flags = u32_at(fadt, 112)?;
    let reset = (flags & 1 << 10 != 0)
        .then(|| place(fadt.get(116..128)?))
        .flatten();
    Some(Fixed {
        enable: (port(48)?, byte(52)),
        event: [port(56)?, port(60)?],
        event_bytes: byte(88),
        control: [port(64)?, port(68)?],
        timer: port(76)?,
        timer_32_bits: flags & 1 << 8 != 0,
        century: byte(108),
        reset: reset.map(|place| (place, byte(128))),
    })
}

fn place(address: &[u8]) -> Option<Place> {
    let value = u64_at(address, 4)?;
    match address[0] {
        0 => Some(Place::Memory(value)),
        1 => u16::try_from(value).ok().map(Place::Port),
        2 => Some(Place::Config(
            (value >> 32) as u8 & 31,
            (value >> 16) as u8 & 7,
            value as u8,
        )),
        _ => None,
    }
}

fn dsdt(fadt: &[u8]) -> Option<u64> {
    let long = u64_at(fadt, 140).filter(|address| *address != 0);
    long.or_else(|| u32_at(fadt, 40).map(u64::from))
}

/// Finds `Name (_S5_, Package () {a, b, …})` (7.4.2, 20.2): how to switch off.
fn soft_off(dsdt: &[u8]) -> Option<[u8; 2]> {
    const NAME: u8 = 0x08;
    const PACKAGE: u8 = 0x12;
    let named = dsdt
        .windows(4)
        .enumerate()
        .filter(|(_, name)| *name == b"_S5_");
    named.into_iter().find_map(|(at, _)| {
        // A name operator comes before it, with or without a root sign.
        if !dsdt[..at].ends_with(&[NAME]) && !dsdt[..at].ends_with(&[NAME, b'\\']) {
            return None;
        }
        let rest = dsdt.get(at + 4..)?;
        if *rest.first()? != PACKAGE {
            return None;
        }
        // The length takes one byte and as many more as its top two bits say; the count of elements follows.
        let elements = rest.get(2 + usize::from(rest.get(1)? >> 6) + 1..)?;
        let (first, elements) = small_integer(elements)?;
        let (second, _) = small_integer(elements)?;
        Some([first, second])
    })
}

fn small_integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    match aml {
        [value @ (0 | 1), rest @ ..] => Some((*value, rest)),
        [0x0a, value, rest @ ..] => Some((*value, rest)),
        [0x0b, value, _, rest @ ..] => Some((*value, rest)),
        _ => None,
    }
}

fn io_apics(madt: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut at = 44;
    while let Some(&[kind, len]) = madt.get(at..at + 2) {
        if kind == 1 {
            found.extend(u32_at(madt, at + 4).map(u64::from));
        }
        at += usize::from(len).max(2);
    }
    found
}

fn ecam(mcfg: &[u8]) -> Vec<Ecam> {
    let windows = mcfg.get(44..).unwrap_or(&[]).as_chunks::<16>().0.iter();
    windows
        .filter_map(|entry| {
            Some(Ecam {
                base: u64_at(entry, 0)?,
                segment: u16::from_le_bytes([entry[8], entry[9]]),
                bus_first: entry[10],
                bus_last: entry[11],
            })
        })
        .collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x7fe_0000;

    /// Tables laid out one after another, each with header and checksum.
    #[derive(Default)]
    struct Image(Vec<u8>);

    impl Image {
        fn add(&mut self, signature: &[u8; 4], body: &[u8]) -> u64 {
            let at = self.0.len();
            self.0.extend_from_slice(signature);
            self.0
                .extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
            self.0.extend_from_slice(&[0; 28]);
            self.0.extend_from_slice(body);
            let sum = self.0[at..]
                .iter()
                .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            self.0[at + 9] = 0_u8.wrapping_sub(sum);
            BASE + at as u64
        }

        fn parse(&self, rsdp: &[u8; 36]) -> Facts {
            parse(rsdp, &|address, len| {
                let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
                Some(self.0.get(at..at + len)?.to_vec())
            })
        }
    }

    fn fadt(dsdt: u64) -> Vec<u8> {
        let mut body = alloc::vec![0; 244 - 36];
        let mut put =
            |at: usize, bytes: &[u8]| body[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
        put(40, &(dsdt as u32).to_le_bytes());
        put(48, &0xb2_u32.to_le_bytes());
        put(52, &[2]);
        put(56, &0x600_u32.to_le_bytes());
        put(64, &0x604_u32.to_le_bytes());
        put(76, &0x608_u32.to_le_bytes());
        put(88, &[4]);
        put(108, &[0x32]);
        put(112, &(1_u32 << 10 | 1 << 8).to_le_bytes());
        put(116, &[1, 8, 0, 0]);
        put(120, &0xcf9_u64.to_le_bytes());
        put(128, &[0xf]);
        body
    }

    #[test]
    fn everything_is_found_through_the_long_root_table() {
        let mut image = Image::default();
        let dsdt = image.add(b"DSDT", b"junk_S5_\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00");
        let mut hpet = [0; 20];
        hpet[8..16].copy_from_slice(&0xfed0_0000_u64.to_le_bytes());
        let mut mcfg = [0; 24];
        mcfg[8..16].copy_from_slice(&0xb000_0000_u64.to_le_bytes());
        mcfg[19] = 0xff;
        let madt = [
            0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0,
            0, 0, 0,
        ];
        let tables = [
            image.add(b"FACP", &fadt(dsdt)),
            image.add(b"HPET", &hpet),
            image.add(b"APIC", &madt),
            image.add(b"MCFG", &mcfg),
            BASE + 0x10_0000, // leads nowhere
        ];
        let list: Vec<u8> = tables
            .iter()
            .flat_map(|address| address.to_le_bytes())
            .collect();
        let mut rsdp = [0; 36];
        rsdp[24..32].copy_from_slice(&image.add(b"XSDT", &list).to_le_bytes());
        let facts = image.parse(&rsdp);
        assert_eq!(facts.soft_off, Some([5, 0]));
        assert_eq!(facts.hpet, Some(0xfed0_0000));
        assert_eq!(facts.io_apics, [0xfec0_0000]);
        let window = Ecam {
            base: 0xb000_0000,
            segment: 0,
            bus_first: 0,
            bus_last: 255,
        };
        assert_eq!(facts.ecam, [window]);
        let fixed = facts.fixed.unwrap();
        assert_eq!(
            (fixed.enable, fixed.event[0], fixed.control[0]),
            ((0xb2, 2), 0x600, 0x604)
        );
        assert_eq!(
            (fixed.timer, fixed.timer_32_bits, fixed.century),
            (0x608, true, 0x32)
        );
        assert_eq!(fixed.reset, Some((Place::Port(0xcf9), 0xf)));
    }

    #[test]
    fn an_old_root_table_serves_too_and_damaged_tables_are_skipped() {
        let mut image = Image::default();
        let good = image.add(b"HPET", &[7; 20]);
        let bad = image.add(b"MCFG", &[0; 24]);
        image.0[(bad - BASE) as usize + 40] ^= 1;
        let list: Vec<u8> = [good, bad]
            .iter()
            .flat_map(|at| (*at as u32).to_le_bytes())
            .collect();
        let root = image.add(b"RSDT", &list) as u32;
        let mut rsdp = [0; 36];
        rsdp[16..20].copy_from_slice(&root.to_le_bytes());
        let facts = image.parse(&rsdp);
        assert_eq!(facts.hpet, Some(0x0707_0707_0707_0707));
        assert!(facts.ecam.is_empty() && facts.fixed.is_none());
    }

    #[test]
    fn states_with_other_forms_of_numbers() {
        assert_eq!(
            soft_off(b"\x08\\_S5_\x12\x06\x04\x01\x01\x00"),
            Some([1, 1])
        );
        assert_eq!(
            soft_off(b"\x10_S5_\x12\x06\x04\x01\x01\x00"),
            None,
            "not a name"
        );
        assert_eq!(
            soft_off(b"\x08_S5_\x12\x40\x06\x04\x0b\x07\x00\x0a\x06"),
            Some([7, 6])
        );
        assert_eq!(soft_off(b"\x08_S5_\x12"), None);
        assert_eq!(soft_off(b"_S5_"), None);
    }
}
