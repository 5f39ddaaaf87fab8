//! The signatures that other systems leave on drives.
//!
//! Positions and values are those of the formats' own documents. The order matters where several fit: what lies around
//! other things (arrays, partition tables) comes before what may lie within or have been left behind.

use Place::{FromEnd, FromStart};

/// What is there when nothing fits.
pub const UNKNOWN: &str = "unknown data";

const GPT: &str = "a GUID partition table";
const GPT_DAMAGED: &str = "a damaged GUID partition table";
const MBR: &str = "an MBR partition table";
const MD_RAID: &str = "a member of a Linux software RAID";
const LVM: &str = "an LVM physical volume";
const LUKS1: &str = "a LUKS 1 encrypted volume";
const LUKS2: &str = "a LUKS 2 encrypted volume";
const ZFS: &str = "a member of a ZFS pool";
const SWAP: &str = "Linux swap space";
const HIBERNATED: &str = "a hibernated Linux system";
const UDF: &str = "a UDF file system";
const UFS: &str = "a UFS file system";
const F2FS: &str = "an F2FS file system";
const FAT12: &str = "a FAT12 file system";
const FAT16: &str = "a FAT16 file system";
const FAT32: &str = "a FAT32 file system";
const REISERFS: &str = "a ReiserFS file system";
const BCACHEFS: &str = "a bcachefs file system";
const STRATIS: &str = "a Stratis block device";

/// Names what is on a drive by the bytes at its two ends, with its article: `an ext4 file system`.
///
/// `first` begins at the drive's first byte and `last` ends with its last; 4 MiB each find everything, less is allowed.
/// Returns [`UNKNOWN`] when there is something without a known signature, and `None` when all bytes are zero.
#[must_use]
pub fn identify(first: &[u8], last: &[u8]) -> Option<&'static str> {
    let detectors: [fn(&Ends<'_>) -> Option<&'static str>; 15] = [
        raid, gpt, fixed, luks2, lvm, zfs, swap, udf, ufs, ext, hfs, nilfs, fat, mbr, gpt_backup,
    ];
    let ends = Ends { first, last };
    detectors
        .iter()
        .find_map(|detector| detector(&ends))
        .or_else(|| (!ends.is_zero()).then_some(UNKNOWN))
}

/// Where a signature is, in bytes.
#[derive(Clone, Copy)]
enum Place {
    /// From the drive's first byte on.
    FromStart(usize),
    /// This many bytes before the drive's end.
    FromEnd(usize),
}

/// Both ends of a drive. Every access is checked: what lies outside is `None` and fits nothing.
struct Ends<'a> {
    first: &'a [u8],
    last: &'a [u8],
}

impl Ends<'_> {
    fn bytes<const N: usize>(&self, place: Place) -> Option<[u8; N]> {
        self.slice(place, N)?.try_into().ok()
    }

    fn slice(&self, place: Place, len: usize) -> Option<&[u8]> {
        let (bytes, start) = match place {
            FromStart(start) => (self.first, start),
            FromEnd(back) => (self.last, self.last.len().checked_sub(back)?),
        };
        bytes.get(start..start.checked_add(len)?)
    }

    fn has(&self, place: Place, signature: &[u8]) -> bool {
        self.slice(place, signature.len()) == Some(signature)
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.first.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(FromStart(at)).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(FromStart(at)).map(u32::from_le_bytes)
    }

    fn is_zero(&self) -> bool {
        super::is_zero(self.first) && super::is_zero(self.last)
    }
}

/// Signatures in one place that are long enough to be believed as they are.
const FIXED: &[(Place, &[u8], &str)] = &[
    // Containers and other stores of blocks.
    (FromStart(0), b"SPDKBLOB", "an SPDK blobstore"),
    (FromStart(0), b"SPDKRAID", "a member of an SPDK RAID"),
    (
        FromStart(0),
        b"bluestore block device",
        "a Ceph BlueStore device",
    ),
    (FromStart(0), b"LUKS\xba\xbe\x00\x01", LUKS1),
    (FromStart(0), b"LUKS\xba\xbe\x00\x02", LUKS2),
    (FromStart(3), b"-FVE-FS-", "a BitLocker encrypted volume"),
    (
        FromStart(0x18 + 0x1000),
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device",
    ),
    (
        FromStart(0x18 + 0x1000),
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        BCACHEFS,
    ),
    (FromStart(0x204), b"!Stra0tis\x86\xff\x02^\x41rh", STRATIS),
    (FromStart(0x1204), b"!Stra0tis\x86\xff\x02^\x41rh", STRATIS),
    (FromStart(0), b"dmvdo001", "a VDO volume"),
    (FromStart(0), b"integrt\0", "a dm-integrity volume"),
    (FromStart(32), b"ORCLDISK", "an Oracle ASM disk"),
    (FromStart(3072), b"PRIVHEAD", "a Windows dynamic disk"),
    (
        FromStart(0x1000),
        b"SPACEDB ",
        "a member of a Windows storage pool",
    ),
    (
        FromStart(1 << 20),
        &0xc001_d00d_u32.to_le_bytes(),
        "a VMFS volume",
    ),
    (
        FromStart(2 << 20),
        &0x2fab_f15e_u32.to_le_bytes(),
        "a VMFS volume",
    ),
    // Images of drives, written as they are.
    (FromStart(0), b"QFI\xfb", "a qcow2 image"),
    (FromStart(0), b"KDMV", "a VMDK image"),
    (FromStart(0), b"COWD", "a VMDK image"),
    (FromStart(0), b"# Disk DescriptorFile", "a VMDK image"),
    (FromStart(0), b"vhdxfile", "a VHDX image"),
    (FromStart(0), b"conectix", "a VHD image"),
    (
        FromStart(0x40),
        &0xbeda_107f_u32.to_le_bytes(),
        "a VDI image",
    ),
    // File systems.
    (FromStart(0), b"XFSB", "an XFS file system"),
    (FromStart(0x1_0040), b"_BHRfS_M", "a Btrfs file system"),
    (FromStart(3), b"NTFS    ", "an NTFS file system"),
    (FromStart(3), b"EXFAT   ", "an exFAT file system"),
    (FromStart(3), b"ReFS\0\0\0\0", "a ReFS file system"),
    (FromStart(32), b"NXSB", "an APFS container"),
    (FromStart(0x400), &0xf2f5_2010_u32.to_le_bytes(), F2FS),
    (FromStart(0x1400), &0xf2f5_2010_u32.to_le_bytes(), F2FS),
    (
        FromStart(0x400),
        &0xe0f5_e1e2_u32.to_le_bytes(),
        "an EROFS file system",
    ),
    (FromStart(0x8001), b"CD001", "an ISO 9660 file system"),
    (FromStart(0x8000), b"JFS1", "a JFS file system"),
    (FromStart(0x1_0034), b"ReIsErFs", REISERFS),
    (FromStart(0x1_0034), b"ReIsEr2Fs", REISERFS),
    (FromStart(0x1_0034), b"ReIsEr3Fs", REISERFS),
    (
        FromStart(0x1_0000),
        &0x0116_1970_u32.to_be_bytes(),
        "a GFS2 file system",
    ),
    (FromStart(0x2000), b"OCFSV2", "an OCFS2 file system"),
    (FromStart(0), b"hsqs", "a SquashFS file system"),
    // Other partition tables, and leftovers at the end.
    (FromStart(0x200), b"PM\0\0", "an Apple partition map"),
    (
        FromStart(0x200),
        &0x8256_4557_u32.to_le_bytes(),
        "a BSD disk label",
    ),
    (FromEnd(512), b"conectix", "a VHD image"),
    (FromEnd(512), b"GEOM::", "a FreeBSD GEOM provider"),
];

fn fixed(ends: &Ends<'_>) -> Option<&'static str> {
    FIXED
        .iter()
        .find(|(place, signature, _)| ends.has(*place, signature))
        .map(|(_, _, name)| *name)
}

/// Arrays keep their signature at the end and let their contents show through at the start, so they come first.
fn raid(ends: &Ends<'_>) -> Option<&'static str> {
    const MAGIC: u32 = 0xa92b_4efc;
    let word = |place| ends.bytes(place).map(u32::from_le_bytes);
    // Format 1.x: at the end, the start or behind 4 KiB; version 1 follows.
    for (magic, version) in [
        (FromStart(0), FromStart(4)),
        (FromStart(4096), FromStart(4100)),
        (FromEnd(8192), FromEnd(8188)),
    ] {
        if word(magic) == Some(MAGIC) && word(version) == Some(1) {
            return Some(MD_RAID);
        }
    }
    // Format 0.90: in the last whole 64 KiB of a size that is a multiple of 4 KiB here; version 0.90, either byte order.
    for back in (65_536..=131_072_usize).step_by(4096) {
        let read = |from_bytes: fn([u8; 4]) -> u32, offset| {
            ends.bytes(FromEnd(back - offset)).map(from_bytes)
        };
        for order in [u32::from_le_bytes, u32::from_be_bytes] {
            let fields = [read(order, 0), read(order, 4), read(order, 8)];
            if fields == [Some(MAGIC), Some(0), Some(90)] {
                return Some(MD_RAID);
            }
        }
    }
    if ends.has(FromEnd(1024), b"Intel Raid ISM Cfg Sig. ") {
        return Some("a member of an Intel firmware RAID");
    }
    if ends.has(FromEnd(512), b"\xde\x11\xde\x11") {
        return Some("a member of a firmware RAID (DDF)");
    }
    match ends.bytes(FromEnd(4096 - 60)).map(u32::from_be_bytes) {
        Some(0x8374_026b..=0x8374_026d) => Some("a DRBD device"),
        _ => None,
    }
}

fn gpt(ends: &Ends<'_>) -> Option<&'static str> {
    (ends.has(FromStart(512), b"EFI PART") || ends.has(FromStart(4096), b"EFI PART")).then_some(GPT)
}

/// The copy at the end alone, after everything else: it outlives whatever was written to the start later.
fn gpt_backup(ends: &Ends<'_>) -> Option<&'static str> {
    (ends.has(FromEnd(512), b"EFI PART") || ends.has(FromEnd(4096), b"EFI PART"))
        .then_some(GPT_DAMAGED)
}

/// The second header, where the first one was wiped: on a power of two from 16 KiB to 4 MiB.
fn luks2(ends: &Ends<'_>) -> Option<&'static str> {
    (14..=22)
        .any(|shift| ends.has(FromStart(1 << shift), b"SKUL\xba\xbe\x00\x02"))
        .then_some(LUKS2)
}

/// A label in one of the first four sectors.
fn lvm(ends: &Ends<'_>) -> Option<&'static str> {
    (0..4)
        .map(|sector| sector * 512)
        .any(|at| ends.has(FromStart(at), b"LABELONE") && ends.has(FromStart(at + 24), b"LVM2 001"))
        .then_some(LVM)
}

/// Four labels of 256 KiB, two at either end; in each, from 128 KiB on, a ring of uberblocks of 1 to 8 KiB in the byte
/// order of whoever wrote them. The labels at the end begin on a multiple of 256 KiB, so they are searched for.
fn zfs(ends: &Ends<'_>) -> Option<&'static str> {
    const LABEL: usize = 256 << 10;
    let ring = |label: usize| label * LABEL + LABEL / 2..(label + 1) * LABEL;
    let at_start = [ring(0), ring(1)].into_iter().flatten();
    let uberblock_at = |bytes: &[u8], at: usize| {
        let head = bytes.get(at..at + 16)?;
        let (magic, version) = head.split_at(8);
        let (magic, version) = (magic.try_into().ok()?, version.try_into().ok()?);
        [u64::from_le_bytes, u64::from_be_bytes]
            .into_iter()
            .any(|order| order(magic) == 0x00ba_b10c && matches!(order(version), 1..=28 | 5000))
            .then_some(ZFS)
    };
    let tail = ends.last.len().saturating_sub(3 * LABEL);
    // Each label also ends its list of names and values with a checksum of its own mark.
    let list_end = |at: usize| {
        let mark = ends.bytes(FromStart(at + LABEL / 2 - 40))?;
        let marks = [u64::from_le_bytes(mark), u64::from_be_bytes(mark)];
        marks.contains(&0x0210_da7a_b10c_7a11).then_some(ZFS)
    };
    at_start
        .step_by(1024)
        .find_map(|at| uberblock_at(ends.first, at))
        .or_else(|| {
            (tail..ends.last.len())
                .step_by(1024)
                .find_map(|at| uberblock_at(ends.last, at))
        })
        .or_else(|| [0, LABEL].into_iter().find_map(list_end))
}

/// At the end of the first page, whatever the size of a page is there.
fn swap(ends: &Ends<'_>) -> Option<&'static str> {
    for page in (12..=16).map(|shift| 1 << shift) {
        let has = |signature: &[u8]| ends.has(FromStart(page - 10), signature);
        if has(b"SWAPSPACE2") || has(b"SWAP-SPACE") {
            return Some(SWAP);
        }
        if has(b"S1SUSPEND") || has(b"S2SUSPEND") || has(b"LINHIB0001") {
            return Some(HIBERNATED);
        }
    }
    None
}

/// The volume recognition sequence; UDF beside ISO 9660 is named by the latter.
fn udf(ends: &Ends<'_>) -> Option<&'static str> {
    (1..16)
        .map(|sector| 0x8001 + sector * 2048)
        .any(|at| ends.has(FromStart(at), b"NSR02") || ends.has(FromStart(at), b"NSR03"))
        .then_some(UDF)
}

fn ufs(ends: &Ends<'_>) -> Option<&'static str> {
    [8 << 10, 64 << 10, 256 << 10]
        .into_iter()
        .filter_map(|superblock: usize| ends.bytes(FromStart(superblock + 1372)))
        .any(|magic| {
            let magics = [u32::from_le_bytes(magic), u32::from_be_bytes(magic)];
            magics.contains(&0x0001_1954) || magics.contains(&0x1954_0119)
        })
        .then_some(UFS)
}

/// Two bytes of signature are too little: the fields around them must make sense as well.
fn ext(ends: &Ends<'_>) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    const JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // Features that ext3 knows; with any other it is ext4.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    let field = |offset| ends.u32(SUPERBLOCK + offset);
    let plausible = ends.u16(SUPERBLOCK + 56)? == 0xef53
        && field(4)? != 0
        && field(24)? <= 6
        && field(32)? != 0
        && field(76)? <= 1;
    if !plausible {
        return None;
    }
    let (compatible, incompatible, read_only) = match field(76)? {
        0 => (0, 0, 0),
        _ => (field(92)?, field(96)?, field(100)?),
    };
    Some(if incompatible & JOURNAL_DEVICE != 0 {
        "the journal of an ext4 file system"
    } else if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "an ext4 file system"
    } else if compatible & JOURNAL != 0 {
        "an ext3 file system"
    } else {
        "an ext2 file system"
    })
}

fn hfs(ends: &Ends<'_>) -> Option<&'static str> {
    let be = |at| ends.bytes(FromStart(at)).map(u16::from_be_bytes);
    match (ends.bytes(FromStart(1024))?, be(1026)?) {
        ([b'H', b'+'], 4) | ([b'H', b'X'], 5) => Some("an HFS+ file system"),
        // The size of an allocation block is a multiple of 512, and 512 blocks of volume directory come before.
        ([b'B', b'D'], _) => {
            let size = u32::from_be_bytes(ends.bytes(FromStart(1024 + 20))?);
            (size != 0 && size.is_multiple_of(512)).then_some("an HFS file system")
        }
        _ => None,
    }
}

fn nilfs(ends: &Ends<'_>) -> Option<&'static str> {
    (ends.u16(1024 + 6)? == 0x3434 && ends.u32(1024)? == 2 && ends.u32(1024 + 20)? <= 6)
        .then_some("a NILFS2 file system")
}

/// FAT has no signature of its own. Its kind is decided by the number of clusters, as its specification wants it.
fn fat(ends: &Ends<'_>) -> Option<&'static str> {
    let jump = ends.bytes::<3>(FromStart(0))?;
    let sector_bytes = u32::from(ends.u16(11)?);
    let cluster_sectors = u32::from(ends.u8(13)?);
    let reserved = u32::from(ends.u16(14)?);
    let tables = u32::from(ends.u8(16)?);
    let plausible = matches!(jump, [0xeb, _, 0x90] | [0xe9, _, _])
        && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && cluster_sectors.is_power_of_two()
        && reserved != 0
        && matches!(tables, 1 | 2)
        && matches!(ends.u8(21)?, 0xf0 | 0xf8..)
        && ends.has(FromStart(510), b"\x55\xaa");
    if !plausible {
        return None;
    }
    let or = |short: u16, long: u32| if short == 0 { long } else { u32::from(short) };
    let table_sectors = or(ends.u16(22)?, ends.u32(36)?);
    let sectors = or(ends.u16(19)?, ends.u32(32)?);
    let root_sectors = (u32::from(ends.u16(17)?) * 32).div_ceil(sector_bytes);
    let before_data = reserved
        .checked_add(root_sectors)?
        .checked_add(tables.checked_mul(table_sectors)?)?;
    Some(match sectors.checked_sub(before_data)? / cluster_sectors {
        0..4085 => FAT12,
        4085..65525 if ends.u16(22)? != 0 => FAT16,
        _ => FAT32,
    })
}

/// Four entries of 16 bytes, of which at least one is in use and all that are make sense.
fn mbr(ends: &Ends<'_>) -> Option<&'static str> {
    const PROTECTIVE: u8 = 0xee;
    if !ends.has(FromStart(510), b"\x55\xaa") {
        return None;
    }
    let mut used = 0;
    let mut protective = false;
    for at in (446..510).step_by(16) {
        let kind = ends.u8(at + 4)?;
        if kind == 0 {
            continue;
        }
        let plausible =
            ends.u8(at)? & 0x7f == 0 && ends.u32(at + 8)? != 0 && ends.u32(at + 12)? != 0;
        if !plausible {
            return None;
        }
        used += 1;
        protective |= kind == PROTECTIVE;
    }
    match (used, protective) {
        (0, _) => None,
        (_, true) => Some(GPT_DAMAGED),
        (_, false) => Some(MBR),
    }
}
