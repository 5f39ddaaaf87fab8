//! What controllers and namespaces say about themselves (NVMe Base 2.0, 5.17; NVM Command Set 1.0, 4.1.5).
//!
//! All of it comes from the device and is checked here, once.

use alloc::string::String;
use core::fmt;

use world::{BLOCK_SIZE, Buf};

fn u16_at(page: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([page[offset], page[offset + 1]])
}

fn u32_at(page: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(page, offset + 2)) << 16 | u32::from(u16_at(page, offset))
}

fn u64_at(page: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(page, offset + 4)) << 32 | u64::from(u32_at(page, offset))
}

/// Printable characters without the padding.
fn text(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|byte| match byte {
        0x20..0x7f => char::from(*byte),
        0 => ' ',
        _ => '?',
    });
    String::from(shown.collect::<String>().trim())
}

/// What matters about a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerIdentity {
    /// Serial number.
    pub serial: String,
    /// Model name.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// The most blocks of one command that carries data, at most what a [`Buf`] holds.
    pub transfer_blocks_max: u32,
    /// Number of namespaces, active or not.
    pub namespaces: u32,
    /// It knows Dataset Management.
    pub has_deallocate: bool,
    /// It knows Write Zeroes.
    pub has_write_zeroes: bool,
    /// It keeps completed writes in a volatile cache until a Flush.
    pub has_volatile_cache: bool,
}

impl ControllerIdentity {
    /// Decodes the answer; `None` when it does not take entries of the sizes every controller must take.
    pub fn decode(page: &[u8; BLOCK_SIZE]) -> Option<Self> {
        let takes = |sizes: u8, wanted: u8| (sizes & 15..=sizes >> 4).contains(&wanted);
        if !takes(page[512], 6) || !takes(page[513], 4) {
            return None;
        }
        let pages_max = Buf::PAGES_MAX as u32;
        let transfer_blocks_max = match page[77] {
            0 => pages_max,
            exponent => 1_u32.checked_shl(exponent.into()).unwrap_or(pages_max),
        };
        let optional = u16_at(page, 520);
        Some(Self {
            serial: text(&page[4..24]),
            model: text(&page[24..64]),
            firmware: text(&page[64..72]),
            transfer_blocks_max: transfer_blocks_max.min(pages_max),
            namespaces: u32_at(page, 516),
            has_deallocate: optional & 1 << 2 != 0,
            has_write_zeroes: optional & 1 << 3 != 0,
            has_volatile_cache: page[525] & 1 != 0,
        })
    }
}

/// Why a namespace cannot be used as a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its blocks carry this many bytes of metadata each; it must be formatted without.
    Metadata(u16),
    /// Its logical blocks are two to this power bytes long, not 512 or 4096.
    BlockSize(u8),
    /// It has no room for even one block of 4096 bytes.
    Empty,
    /// It claims a format that it does not describe, or answered nonsense.
    Nonsense,
    /// Its controller did not describe it; the number is the status code.
    Unidentified(u16),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(bytes) => {
                write!(out, "formatted with {bytes} bytes of metadata per block")
            }
            Self::BlockSize(exponent) => write!(out, "logical blocks of 2^{exponent} bytes"),
            Self::Empty => out.write_str("smaller than one block"),
            Self::Nonsense => out.write_str("inconsistent description"),
            Self::Unidentified(status) => write!(out, "not described, status {status:#05x}"),
        }
    }
}

/// The shape of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceIdentity {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Logical blocks per block of 4096 bytes: 8 or 1.
    pub lbas_per_block: u32,
}

impl NamespaceIdentity {
    /// Decodes the answer.
    pub fn decode(page: &[u8; BLOCK_SIZE]) -> Result<Self, Refusal> {
        let lbas = u64_at(page, 0);
        // The format's number: four bits, and two more since there can be 64 of them.
        let format = page[26] & 0xf | (page[26] & 0x60) >> 1;
        if format > page[25] || format >= 64 {
            return Err(Refusal::Nonsense);
        }
        let described = u32_at(page, 128 + usize::from(format) * 4);
        let metadata = described as u16;
        if metadata != 0 {
            return Err(Refusal::Metadata(metadata));
        }
        let lbas_per_block = match (described >> 16) as u8 {
            9 => 8,
            12 => 1,
            other => return Err(Refusal::BlockSize(other)),
        };
        let blocks = lbas / u64::from(lbas_per_block);
        if blocks == 0 {
            return Err(Refusal::Empty);
        }
        Ok(Self {
            blocks,
            lbas_per_block,
        })
    }
}

/// The namespace numbers of one list; a full list may go on behind its last number.
pub fn namespace_list(page: &[u8; BLOCK_SIZE]) -> impl Iterator<Item = u32> + '_ {
    page.chunks_exact(4)
        .map(|bytes| u32_at(bytes, 0))
        .take_while(|number| *number != 0)
}

/// The SMART / health log of a controller (NVMe Base 2.0, 5.16.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmartLog {
    /// Warnings: spare low (bit 0), temperature (1), degraded (2), read-only (3), backup failed (4).
    pub critical_warning: u8,
    /// Temperature in kelvin.
    pub temperature_kelvin: u16,
    /// Spare capacity left, in percent of what there was.
    pub spare_percent: u8,
    /// The spare capacity below which the controller warns, in percent.
    pub spare_threshold_percent: u8,
    /// Life used, in percent of what the vendor expects; may exceed 100.
    pub used_percent: u8,
    /// Data read, in units of 512,000 bytes.
    pub data_units_read: u128,
    /// Data written, in units of 512,000 bytes.
    pub data_units_written: u128,
    /// Read commands.
    pub reads: u128,
    /// Write commands.
    pub writes: u128,
    /// Minutes with commands outstanding.
    pub busy_minutes: u128,
    /// Times it was switched on.
    pub power_cycles: u128,
    /// Hours switched on.
    pub power_on_hours: u128,
    /// Times power went without notice.
    pub unsafe_shutdowns: u128,
    /// Unrecovered errors of media or integrity.
    pub media_errors: u128,
    /// Entries ever made in the error log.
    pub error_entries: u128,
}

impl SmartLog {
    /// Bytes of the log page.
    pub const BYTES: u32 = 512;
    /// Number of the log page.
    pub const PAGE: u8 = 0x02;

    /// Decodes the log page.
    pub fn decode(page: &[u8; BLOCK_SIZE]) -> Self {
        let long =
            |offset| u128::from(u64_at(page, offset + 8)) << 64 | u128::from(u64_at(page, offset));
        Self {
            critical_warning: page[0],
            temperature_kelvin: u16_at(page, 1),
            spare_percent: page[3],
            spare_threshold_percent: page[4],
            used_percent: page[5],
            data_units_read: long(32),
            data_units_written: long(48),
            reads: long(64),
            writes: long(80),
            busy_minutes: long(96),
            power_cycles: long(112),
            power_on_hours: long(128),
            unsafe_shutdowns: long(144),
            media_errors: long(160),
            error_entries: long(176),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(lbas: u64, formats: u8, chosen: u8, described: u32) -> [u8; BLOCK_SIZE] {
        let mut page = [0; BLOCK_SIZE];
        page[..8].copy_from_slice(&lbas.to_le_bytes());
        (page[25], page[26]) = (formats, chosen);
        let number = chosen & 0xf | (chosen & 0x60) >> 1;
        let at = 128 + usize::from(number) * 4;
        page[at..at + 4].copy_from_slice(&described.to_le_bytes());
        page
    }

    #[test]
    fn namespaces_are_taken_or_refused_with_a_reason() {
        let shape = |blocks, lbas_per_block| {
            Ok(NamespaceIdentity {
                blocks,
                lbas_per_block,
            })
        };
        let cases = [
            (namespace(1007, 0, 0, 9 << 16), shape(125, 8)),
            (namespace(1000, 3, 2, 12 << 16), shape(1000, 1)),
            (namespace(1000, 20, 0x21, 12 << 16), shape(1000, 1)),
            (namespace(u64::MAX, 0, 0, 12 << 16), shape(u64::MAX, 1)),
            (
                namespace(1000, 0, 0, 9 << 16 | 8),
                Err(Refusal::Metadata(8)),
            ),
            (namespace(1000, 0, 0, 13 << 16), Err(Refusal::BlockSize(13))),
            (namespace(7, 0, 0, 9 << 16), Err(Refusal::Empty)),
            (namespace(1000, 1, 2, 9 << 16), Err(Refusal::Nonsense)),
        ];
        for (page, expected) in cases {
            assert_eq!(NamespaceIdentity::decode(&page), expected);
        }
    }

    #[test]
    fn a_controller_is_described() {
        let mut page = [0; BLOCK_SIZE];
        page[4..8].copy_from_slice(b"ab\x80 ");
        page[24..29].copy_from_slice(b"model");
        page[77] = 3;
        (page[512], page[513]) = (0x66, 0x44);
        (page[516], page[520], page[525]) = (2, 0b1100, 1);
        let identity = ControllerIdentity::decode(&page).unwrap();
        assert_eq!((&*identity.serial, &*identity.model), ("ab?", "model"));
        assert_eq!((identity.transfer_blocks_max, identity.namespaces), (8, 2));
        assert!(
            identity.has_deallocate && identity.has_write_zeroes && identity.has_volatile_cache
        );
        for exponent in [0, 6, 200] {
            page[77] = exponent;
            let identity = ControllerIdentity::decode(&page).unwrap();
            assert_eq!(identity.transfer_blocks_max, 32);
        }
        page[512] = 0x77;
        assert_eq!(ControllerIdentity::decode(&page), None);
    }

    #[test]
    fn a_health_log_is_decoded() {
        let mut page = [0; BLOCK_SIZE];
        page[..6].copy_from_slice(&[4, 0x3b, 0x01, 90, 10, 101]);
        page[160] = 7;
        page[48 + 15] = 1;
        let log = SmartLog::decode(&page);
        assert_eq!((log.critical_warning, log.temperature_kelvin), (4, 315));
        assert_eq!((log.media_errors, log.data_units_written), (7, 1 << 120));
        assert_eq!(log.used_percent, 101);
    }
}
