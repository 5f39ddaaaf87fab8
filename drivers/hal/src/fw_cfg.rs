//! Files that QEMU hands to firmware (QEMU, docs/specs/fw_cfg.rst), through its two I/O ports.

use alloc::vec::Vec;

use crate::port;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;

const SIGNATURE: u16 = 0x0000;
const DIRECTORY: u16 = 0x0019;

/// Entries of the directory that are looked at.
const FILES_MAX: u32 = 1024;
/// Bytes of the largest file that is read.
const FILE_BYTES_MAX: u32 = 1 << 20;
/// Bytes of a directory entry: size u32, selector u16, reserved u16, name; numbers are big-endian.
const ENTRY_BYTES: usize = 64;

/// The contents of the file called `name`, or `None` when there is none, it is larger than 1 MiB, or this is not QEMU.
#[must_use]
pub fn read(name: &str) -> Option<Vec<u8>> {
    port::write16(SELECTOR, SIGNATURE);
    if bytes::<4>() != *b"QEMU" {
        return None;
    }
    port::write16(SELECTOR, DIRECTORY);
    let count = u32::from_be_bytes(bytes()).min(FILES_MAX);
    // All of the directory is read before a file is selected: there is one selector.
    let (size, selector) = (0..count)
        .map(|_| bytes::<ENTRY_BYTES>())
        .filter_map(|entry| matching(&entry, name))
        .next()?;
    if size > FILE_BYTES_MAX {
        return None;
    }
    port::write16(SELECTOR, selector);
    Some((0..size).map(|_| port::read8(DATA)).collect())
}

fn bytes<const N: usize>() -> [u8; N] {
    core::array::from_fn(|_| port::read8(DATA))
}

/// Size and selector of `entry`, if it is called `name`.
fn matching(entry: &[u8; ENTRY_BYTES], name: &str) -> Option<(u32, u16)> {
    let [s0, s1, s2, s3, k0, k1, _, _, text @ ..] = entry;
    let len = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    (&text[..len] == name.as_bytes()).then(|| {
        (
            u32::from_be_bytes([*s0, *s1, *s2, *s3]),
            u16::from_be_bytes([*k0, *k1]),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_by_their_whole_name() {
        let mut entry = [0; ENTRY_BYTES];
        entry[..8].copy_from_slice(&[0, 0, 1, 2, 0, 0x2a, 0, 0]);
        entry[8..26].copy_from_slice(b"opt/ferrite/config");
        assert_eq!(matching(&entry, "opt/ferrite/config"), Some((0x102, 0x2a)));
        assert_eq!(matching(&entry, "opt/ferrite"), None);
        assert_eq!(matching(&entry, "opt/ferrite/config2"), None);
    }
}
