//! Drives made by hand with the bytes that each format's document asks for.

use alloc::boxed::Box;
use core::cell::RefCell;
use core::ops::Range;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use world::{DiskInfo, Geometry};

use super::*;

/// The two ends of a drive that is zero but for what a test puts there.
struct Image {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Image {
    fn zero() -> Self {
        let end = vec![0; 4 << 20];
        Self {
            first: end.clone(),
            last: end,
        }
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.first[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn with_end(mut self, back: usize, bytes: &[u8]) -> Self {
        let at = self.last.len() - back;
        self.last[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn name(&self) -> Option<&'static str> {
        identify(&self.first, &self.last)
    }
}

fn start(at: usize, bytes: &[u8]) -> Image {
    Image::zero().with(at, bytes)
}

fn end(back: usize, bytes: &[u8]) -> Image {
    Image::zero().with_end(back, bytes)
}

/// An ext superblock with these features.
fn ext(compatible: u32, incompatible: u32, read_only: u32) -> Image {
    start(1024, &100_u32.to_le_bytes())
        .with(1024 + 4, &400_u32.to_le_bytes())
        .with(1024 + 24, &2_u32.to_le_bytes())
        .with(1024 + 32, &8192_u32.to_le_bytes())
        .with(1024 + 56, &[0x53, 0xef])
        .with(1024 + 76, &1_u32.to_le_bytes())
        .with(1024 + 92, &compatible.to_le_bytes())
        .with(1024 + 96, &incompatible.to_le_bytes())
        .with(1024 + 100, &read_only.to_le_bytes())
}

/// A FAT boot sector of a volume with so many sectors, one per cluster.
fn fat(sectors: u32, table_sectors: u16) -> Image {
    let image = start(0, &[0xeb, 0x3c, 0x90])
        .with(11, &512_u16.to_le_bytes())
        .with(13, &[1])
        .with(14, &1_u16.to_le_bytes())
        .with(16, &[2])
        .with(21, &[0xf8])
        .with(22, &table_sectors.to_le_bytes())
        .with(32, &sectors.to_le_bytes())
        .with(510, &[0x55, 0xaa]);
    if table_sectors == 0 {
        image.with(36, &800_u32.to_le_bytes())
    } else {
        image.with(17, &512_u16.to_le_bytes())
    }
}

/// A partition table with one entry of this kind.
fn mbr(kind: u8) -> Image {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entry[12..].copy_from_slice(&1_000_000_u32.to_le_bytes());
    start(446, &entry).with(510, &[0x55, 0xaa])
}

fn md(version: [u32; 2]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (slot, word) in bytes
        .chunks_mut(4)
        .zip([0xa92b_4efc, version[0], version[1]])
    {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn cases() -> Vec<(Image, &'static str)> {
    let mut md_swapped = md([0, 90]);
    md_swapped.chunks_mut(4).for_each(<[u8]>::reverse);
    let uberblock = |magic: [u8; 8], version: [u8; 8]| [magic, version].concat();
    let zfs_little = uberblock(0x00ba_b10c_u64.to_le_bytes(), 5000_u64.to_le_bytes());
    let zfs_big = uberblock(0x00ba_b10c_u64.to_be_bytes(), 28_u64.to_be_bytes());
    vec![
        (mbr(0xee).with(512, b"EFI PART"), "a GUID partition table"),
        (mbr(0xee).with(4096, b"EFI PART"), "a GUID partition table"),
        (mbr(0xee), "a damaged GUID partition table"),
        (end(512, b"EFI PART"), "a damaged GUID partition table"),
        (end(4096, b"EFI PART"), "a damaged GUID partition table"),
        (mbr(0x83), "an MBR partition table"),
        (ext(0, 0x2, 0x1), "an ext2 file system"),
        (ext(0x4, 0x6, 0x3), "an ext3 file system"),
        (ext(0x4, 0x42, 0x3), "an ext4 file system"),
        (ext(0x4, 0x2, 0x403), "an ext4 file system"),
        (ext(0, 0x8, 0), "the journal of an ext4 file system"),
        (start(0, b"XFSB"), "an XFS file system"),
        (start(0x1_0040, b"_BHRfS_M"), "a Btrfs file system"),
        (
            start(512, b"LABELONE").with(536, b"LVM2 001"),
            "an LVM physical volume",
        ),
        (
            start(1536, b"LABELONE").with(1560, b"LVM2 001"),
            "an LVM physical volume",
        ),
        (start(0, b"LUKS\xba\xbe\0\x01"), "a LUKS 1 encrypted volume"),
        (start(0, b"LUKS\xba\xbe\0\x02"), "a LUKS 2 encrypted volume"),
        (
            start(0x4000, b"SKUL\xba\xbe\0\x02"),
            "a LUKS 2 encrypted volume",
        ),
        (
            start((128 << 10) + 7 * 1024, &zfs_little),
            "a member of a ZFS pool",
        ),
        (
            start((384 << 10) + 4096, &zfs_big),
            "a member of a ZFS pool",
        ),
        (
            end((128 << 10) + 4096, &zfs_little),
            "a member of a ZFS pool",
        ),
        (
            start(131_032, &0x0210_da7a_b10c_7a11_u64.to_le_bytes()),
            "a member of a ZFS pool",
        ),
        (
            start(3, b"NTFS    ").with(510, &[0x55, 0xaa]),
            "an NTFS file system",
        ),
        (
            start(3, b"EXFAT   ").with(510, &[0x55, 0xaa]),
            "an exFAT file system",
        ),
        (start(3, b"ReFS\0\0\0\0"), "a ReFS file system"),
        (start(3, b"-FVE-FS-"), "a BitLocker encrypted volume"),
        (fat(2880, 9), "a FAT12 file system"),
        (fat(65_000, 250), "a FAT16 file system"),
        (fat(100_000, 0), "a FAT32 file system"),
        (start(4086, b"SWAPSPACE2"), "Linux swap space"),
        (start(65_526, b"SWAPSPACE2"), "Linux swap space"),
        (start(4086, b"S1SUSPEND\0"), "a hibernated Linux system"),
        (start(0, &md([1, 0])), "a member of a Linux software RAID"),
        (
            start(4096, &md([1, 0])),
            "a member of a Linux software RAID",
        ),
        (end(8192, &md([1, 0])), "a member of a Linux software RAID"),
        (
            end(65_536, &md([0, 90])),
            "a member of a Linux software RAID",
        ),
        (
            end(65_536 + 8192, &md_swapped),
            "a member of a Linux software RAID",
        ),
        (
            // The file system in a mirror shows through; the mirror is what matters.
            ext(0x4, 0x42, 0x3).with_end(8192, &md([1, 0])),
            "a member of a Linux software RAID",
        ),
        (
            start(
                4120,
                b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
            ),
            "a bcache device",
        ),
        (
            start(
                4120,
                b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
            ),
            "a bcachefs file system",
        ),
        (
            start(1024, &[0x10, 0x20, 0xf5, 0xf2]),
            "an F2FS file system",
        ),
        (start(0, b"QFI\xfb\0\0\0\x03"), "a qcow2 image"),
        (start(0, b"KDMV\x01\0\0\0"), "a VMDK image"),
        (start(0, b"vhdxfile"), "a VHDX image"),
        (end(512, b"conectix"), "a VHD image"),
        (start(0x8001, b"CD001"), "an ISO 9660 file system"),
        (
            start(0x8001, b"BEA01").with(0x8801, b"NSR03"),
            "a UDF file system",
        ),
        (start(0, b"SPDKBLOB"), "an SPDK blobstore"),
        (end(4096 - 60, &[0x83, 0x74, 0x02, 0x6d]), "a DRBD device"),
        (
            start(0, b"bluestore block device\n"),
            "a Ceph BlueStore device",
        ),
        (start(1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]), "a VMFS volume"),
        (start(32, b"NXSB"), "an APFS container"),
        (start(1024, b"H+\0\x04"), "an HFS+ file system"),
        (start(1024, b"HX\0\x05"), "an HFS+ file system"),
        (
            start(0x1_0000 + 1372, &[0x19, 0x01, 0x54, 0x19]),
            "a UFS file system",
        ),
        (start(1024, b"H+\0\x07"), "unknown data"),
        (start(510, &[0x55, 0xaa]), "unknown data"),
        (start(1080, &[0x53, 0xef]), "unknown data"),
        (start(4_000_000, &[1]), "unknown data"),
        (end(1, &[1]), "unknown data"),
    ]
}

#[test]
fn each_signature_is_named() {
    for (image, name) in cases() {
        assert_eq!(image.name(), Some(name));
    }
}

#[test]
fn zeros_are_blank() {
    assert_eq!(Image::zero().name(), None);
    assert_eq!(identify(&[], &[]), None);
    assert_eq!(identify(&[0; 513], &[0; 7]), None);
}

/// Cut off anywhere, nothing may panic, and something stays something.
#[test]
fn short_ends_are_no_trouble() {
    for (image, _) in cases() {
        for keep in [
            0,
            1,
            3,
            13,
            24,
            91,
            509,
            511,
            1025,
            1081,
            4097,
            65_536,
            65_600,
            1 << 20,
        ] {
            let last = &image.last[image.last.len() - keep..];
            let something = image.first[..keep]
                .iter()
                .chain(last)
                .any(|byte| *byte != 0);
            assert_eq!(identify(&image.first[..keep], last).is_some(), something);
        }
    }
}

/// Damaged headers: whatever is in them, there is an answer and no panic.
#[test]
fn random_damage_is_no_trouble() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for (mut image, _) in cases() {
        for _ in 0..300 {
            let near = [512, 1200, 4200, 66_000][random() % 4];
            let at = random() % near;
            image.first[at] = [0, 0xff, random() as u8][random() % 3];
            let back = 1 + random() % near;
            let len = image.last.len();
            image.last[len - back] = random() as u8;
            // Enough of the ends for the damage to matter, so that the loop stays quick.
            let name = identify(&image.first[..70_000], &image.last[len - 140_000..]);
            assert!(name.is_some() || !image.first[..70_000].iter().any(|byte| *byte != 0));
        }
    }
}

/// A drive with a few blocks that are not zero, and a list of what was read.
struct Drive {
    blocks: u64,
    transfer_blocks_max: u32,
    written: Vec<(u64, Box<[u8]>)>,
    bad: Option<u64>,
    reads: RefCell<Vec<(u64, usize)>>,
}

impl Drive {
    fn new(blocks: u64) -> Self {
        Self {
            blocks,
            transfer_blocks_max: 32,
            written: Vec::new(),
            bad: None,
            reads: RefCell::default(),
        }
    }
}

impl Disk for Drive {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks,
            sector_bytes: 512,
            transfer_blocks_max: self.transfer_blocks_max,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: u64, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        let count = into.blocks();
        assert!(count > 0 && count <= self.transfer_blocks_max as usize);
        assert!(at + count as u64 <= self.blocks);
        self.reads.borrow_mut().push((at, count));
        let range = at..at + count as u64;
        if self.bad.is_some_and(|bad| range.contains(&bad)) {
            return (into, Err(DiskError::Media));
        }
        into.zero();
        for (block, bytes) in &self.written {
            if range.contains(block) {
                into.copy_from((block - at) as usize * BLOCK_SIZE, bytes);
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, _: u64, _: Buf) -> (Buf, Result<(), DiskError>) {
        panic!("looking must not write")
    }

    async fn flush(&self) -> Result<(), DiskError> {
        panic!("looking must not flush")
    }

    async fn discard(&self, _: &[Range<u64>]) -> Result<(), DiskError> {
        panic!("looking must not discard")
    }
}

fn look(drive: &Drive) -> Result<Samples, DiskError> {
    let mut future = pin!(read_samples(drive));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the drive answers at once"),
    }
}

#[test]
fn a_blank_drive_of_any_size_is_blank() {
    for blocks in [
        0,
        1,
        7,
        63,
        64,
        65,
        1023,
        1025,
        2048,
        2049,
        100_000,
        1 << 32,
        u64::MAX,
    ] {
        let drive = Drive::new(blocks);
        let samples = look(&drive).unwrap();
        assert!(samples.is_blank() && samples.name().is_none(), "{blocks}");
        assert!(samples.first.capacity() + samples.last.capacity() == 0);
        let read: u64 = drive
            .reads
            .borrow()
            .iter()
            .map(|(_, count)| *count as u64)
            .sum();
        assert!(read <= 2 * 1024 + 64);
    }
}

#[test]
fn data_in_each_place_that_is_looked_at_is_seen() {
    for transfer_blocks_max in [1, 5, 32, 512] {
        let mut drive = Drive::new(1_000_000);
        drive.transfer_blocks_max = transfer_blocks_max;
        let _ = look(&drive).unwrap();
        let reads = drive.reads.take();
        let seen = |block| {
            reads
                .iter()
                .any(|(at, n)| (*at..*at + *n as u64).contains(&block))
        };
        assert!((0..1024).chain(1_000_000 - 1024..1_000_000).all(seen));
        let between: Vec<u64> = reads
            .iter()
            .filter(|(at, _)| (1024..1_000_000 - 1024).contains(at))
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(between.len(), 64);
        assert!(
            between
                .windows(2)
                .all(|pair| (15_000..17_000).contains(&(pair[1] - pair[0])))
        );
        for block in [
            0,
            1,
            31,
            32,
            1023,
            between[0],
            between[63],
            999_000,
            999_999,
        ] {
            drive.written = vec![(block, Box::from([0, 0, 7]))];
            let samples = look(&drive).unwrap();
            assert!(!samples.is_blank());
            assert_eq!(samples.name(), Some("unknown data"), "block {block}");
        }
    }
}

#[test]
fn what_lies_at_the_ends_is_kept_and_named() {
    let mut drive = Drive::new(50_000);
    drive.transfer_blocks_max = 3;
    drive.written.push((16, {
        let mut block = vec![0; 100];
        block[0x40..0x48].copy_from_slice(b"_BHRfS_M");
        block.into()
    }));
    drive.written.push((49_999, Box::from(&b"the end"[..])));
    let samples = look(&drive).unwrap();
    assert_eq!(samples.name(), Some("a Btrfs file system"));
    assert_eq!(
        (samples.first.len(), samples.last.len()),
        (4 << 20, 4 << 20)
    );
    assert_eq!(&samples.first[0x1_0040..][..8], b"_BHRfS_M");
    assert_eq!(&samples.last[(4 << 20) - 4096..][..7], b"the end");
}

#[test]
fn a_drive_that_cannot_be_read_is_an_error() {
    for bad in [0, 800, 49_000, 49_999] {
        let mut drive = Drive::new(50_000);
        drive.bad = Some(bad);
        assert_eq!(look(&drive), Err(DiskError::Media));
    }
}
