//! What a command looks like in memory.
//!
//! ```text
//! per command, 64 bytes shared with the device:
//!  0 header: kind u32, reserved u32, sector u64
//! 16 payload of commands without pages (range to discard, or room for the serial number)
//! 40 status u8
//! ```

use alloc::string::String;

use hal::dma::{self, DmaBuf};
use world::Buf;

use crate::queue::Segment;

pub const AREA: usize = 64;
const PAYLOAD: usize = 16;
const STATUS: usize = 40;
const HEADER_BYTES: u32 = 16;
const RANGE_BYTES: u32 = 16;
const SERIAL_BYTES: usize = 20;
/// In a range to be filled with zeros: its space may be freed.
const FLAG_UNMAP: u32 = 1;
const SEGMENTS_MAX: usize = Buf::PAGES_MAX + 2;

pub const STATUS_OK: u8 = 0;
pub const STATUS_IO_ERROR: u8 = 1;
/// Not a status: what is there before the device writes one.
pub const STATUS_NONE: u8 = 0xff;

/// What a command does (5.2.6); the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
    Identify = 8,
    Discard = 11,
    WriteZeroes = 13,
}

/// Writes the header and payload of a command at `area`; its status reads as none.
pub fn write(areas: &DmaBuf, area: usize, kind: Kind, sector: u64, sectors: u32) {
    areas.write32(area, kind as u32);
    areas.write32(area + 4, 0);
    let is_range = matches!(kind, Kind::Discard | Kind::WriteZeroes);
    areas.write64(area + 8, if is_range { 0 } else { sector });
    areas.zero(area + PAYLOAD, SERIAL_BYTES);
    if is_range {
        let flags = if kind == Kind::WriteZeroes {
            FLAG_UNMAP
        } else {
            0
        };
        areas.write64(area + PAYLOAD, sector);
        areas.write32(area + PAYLOAD + 8, sectors);
        areas.write32(area + PAYLOAD + 12, flags);
    }
    areas.write32(area + STATUS, STATUS_NONE.into());
}

/// The status that the device wrote at `area`.
pub fn status(areas: &DmaBuf, area: usize) -> u8 {
    areas.read32(area + STATUS) as u8
}

/// The serial number that the device wrote at `area`, as far as it can be printed.
pub fn serial(areas: &DmaBuf, area: usize) -> String {
    let mut bytes = [0; SERIAL_BYTES];
    areas.read_bytes(area + PAYLOAD, &mut bytes);
    printable(&bytes)
}

/// The segments of one command.
pub struct Segments {
    all: [Segment; SEGMENTS_MAX],
    count: usize,
}

impl Segments {
    /// Lists the segments of a command whose area is at `area`, and lends its pages to the device.
    pub fn of(kind: Kind, area: u64, buf: &mut Buf) -> Self {
        let segment = |address, len, writable| Segment {
            address,
            len,
            writable,
        };
        let header = segment(area, HEADER_BYTES, false);
        let mut segments = Self {
            all: [header; SEGMENTS_MAX],
            count: 1,
        };
        let payload = area + PAYLOAD as u64;
        match kind {
            Kind::Identify => segments.add(segment(payload, SERIAL_BYTES as u32, true)),
            Kind::Discard | Kind::WriteZeroes => {
                segments.add(segment(payload, RANGE_BYTES, false));
            }
            Kind::Read | Kind::Write | Kind::Flush => {}
        }
        for page in buf.pages_mut() {
            let address = dma::lend(&mut page.bytes);
            let len = page.bytes.len() as u32;
            segments.add(segment(address, len, kind == Kind::Read));
        }
        segments.add(segment(area + STATUS as u64, 1, true));
        segments
    }

    fn add(&mut self, segment: Segment) {
        self.all[self.count] = segment;
        self.count += 1;
    }

    pub fn as_slice(&self) -> &[Segment] {
        &self.all[..self.count]
    }
}

/// The serial number up to its first zero, without what cannot be printed.
fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|byte| **byte != 0)
        .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
        .map(|byte| char::from(*byte))
        .collect::<String>()
        .trim()
        .into()
}
