//! Writes the flashable disk image: GPT with GRUB for BIOS and UEFI, without root and without loop devices.
//!
//! ```text
//!   sector 0          GRUB's boot.img (BIOS jumps here) and the protective partition table
//!   1 … 33            partition table
//!   partition 1       "BIOS boot": GRUB's core.img
//!   partition 2       EFI system partition, FAT32:
//!                       /EFI/BOOT/BOOTX64.EFI   GRUB for UEFI
//!                       /boot/grub/grub.cfg     what both run
//!                       /ferrite.elf            the image
//!                       /ferrite.toml           its configuration, optional
//!   last 33 sectors   copy of the partition table
//! ```
//! Neither GRUB searches other drives: both look on the medium that they came from.

use std::fs::{self, File};
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::steps::run;

const SECTOR: u64 = 512;
/// Partitions begin at multiples of 1 MiB, as on every drive today.
const ALIGN: u64 = (1 << 20) / SECTOR;
/// Sectors of the BIOS boot partition, 1 MiB: GRUB's core image has about 100 KiB.
const CORE_SECTORS: u64 = ALIGN;
/// Bytes of the EFI partition: the smallest that is FAT32 by the standard's own rule (65525 clusters), and some.
const ESP_BYTES: u64 = 40 << 20;
/// Room at both ends for the partition table.
const TABLE_SECTORS: u64 = 34;

/// Where GRUB's parts are installed.
const GRUB: &str = "/usr/lib/grub";

/// Modules that both GRUBs carry.
const MODULES: [&str; 9] = [
    "part_gpt",
    "fat",
    "normal",
    "multiboot2",
    "serial",
    "terminal",
    "test",
    "echo",
    "boot",
];

/// Offset in core.img's first sector of the list of the sectors that follow: start (u64), count and segment (u16).
const BLOCK_LIST_AT: usize = 0x1f4;
/// Segment that the rest of core.img is loaded to.
const LOAD_SEGMENT: u16 = 0x820;

const GRUB_CFG: &str = "\
set timeout=0
serial --unit=0 --speed=115200
terminal_output console serial
multiboot2 /ferrite.elf
if [ -f /ferrite.toml ]; then
  module2 /ferrite.toml ferrite.toml
fi
boot
";

/// Writes the disk image to `path`.
///
/// # Errors
/// When GRUB's parts are missing, the image is too large for the partition, or the file system refuses.
pub fn write(path: &Path, elf: &[u8], config: Option<&[u8]>) -> Result<()> {
    let folder = path.with_extension("parts");
    fs::create_dir_all(&folder)?;
    let core = mkimage(
        &folder,
        "i386-pc",
        "core.img",
        "(,gpt2)/boot/grub",
        &["biosdisk"],
    )?;
    let efi = mkimage(&folder, "x86_64-efi", "BOOTX64.EFI", "/boot/grub", &[])?;
    let boot = fs::read(PathBuf::from(GRUB).join("i386-pc").join("boot.img"))
        .context("GRUB for BIOS is missing (Debian package grub-pc-bin)")?;
    fs::remove_dir_all(&folder)?;

    let esp = esp(elf, &efi, config)?;
    let core_lba = ALIGN;
    let esp_lba = core_lba + CORE_SECTORS;
    let sectors = esp_lba + ESP_BYTES / SECTOR + ALIGN;

    let new = path.with_extension("img.new");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new)?;
    file.set_len(sectors * SECTOR)?;
    write_table(
        &file,
        sectors,
        [(core_lba, CORE_SECTORS), (esp_lba, ESP_BYTES / SECTOR)],
    )?;
    write_at(&mut file, 0, &boot_sector(&boot, core_lba)?)?;
    write_at(&mut file, core_lba * SECTOR, &linked_core(core, core_lba)?)?;
    write_sparse(&mut file, esp_lba * SECTOR, &esp)?;
    drop(file);
    fs::rename(&new, path)?;
    Ok(())
}

/// Has GRUB link its modules into one file that finds the rest under `prefix`.
fn mkimage(
    folder: &Path,
    format: &str,
    name: &str,
    prefix: &str,
    more: &[&str],
) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let mut mkimage = Command::new("grub-mkimage");
    mkimage
        .args(["-O", format, "-p", prefix, "-o"])
        .arg(&path)
        .args(MODULES)
        .args(more);
    run(&mut mkimage).with_context(|| {
        format!("GRUB for {format} (Debian packages grub-common, grub-pc-bin, grub-efi-amd64-bin)")
    })?;
    Ok(fs::read(&path)?)
}

/// The EFI partition.
fn esp(elf: &[u8], efi: &[u8], config: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; usize::try_from(ESP_BYTES)?]);
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(512)
        .volume_label(*b"FERRITE    ");
    fatfs::format_volume(&mut disk, options)?;
    {
        let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        let root = fs.root_dir();
        let efi_folder = root.create_dir("EFI")?.create_dir("BOOT")?;
        efi_folder.create_file("BOOTX64.EFI")?.write_all(efi)?;
        let grub = root.create_dir("boot")?.create_dir("grub")?;
        grub.create_file("grub.cfg")?
            .write_all(GRUB_CFG.as_bytes())?;
        root.create_file("ferrite.elf")?
            .write_all(elf)
            .context("the image is too large")?;
        if let Some(config) = config {
            root.create_file("ferrite.toml")?.write_all(config)?;
        }
    }
    Ok(disk.into_inner())
}

fn write_table(file: &File, sectors: u64, partitions: [(u64, u64); 2]) -> Result<()> {
    let mut device = file.try_clone()?;
    let count = u32::try_from(sectors - 1)?;
    gpt::mbr::ProtectiveMBR::with_lb_size(count).overwrite_lba0(&mut device)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(device, None)?;
    let kinds = [
        ("BIOS boot", gpt::partition_types::BIOS),
        ("EFI system", gpt::partition_types::EFI),
    ];
    for (id, ((first, length), (name, kind))) in (1..).zip(partitions.into_iter().zip(kinds)) {
        ensure!(first >= TABLE_SECTORS && first + length + TABLE_SECTORS <= sectors);
        table.add_partition_at(name, id, first, length, kind, 0)?;
    }
    table.write()?;
    Ok(())
}

/// What `grub-bios-setup` does to sector 0: tells boot.img where core.img is, and keeps the drive that the BIOS named.
fn boot_sector(boot: &[u8], core_lba: u64) -> Result<[u8; 440]> {
    let mut code: [u8; 440] = *boot.first_chunk().context("GRUB's boot.img is too short")?;
    code[0x5c..0x64].copy_from_slice(&core_lba.to_le_bytes());
    // Two no-ops in place of the jump over the fix for BIOSes that name a floppy.
    code[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// What it does to core.img: says in its first sector where the others are.
fn linked_core(mut core: Vec<u8>, core_lba: u64) -> Result<Vec<u8>> {
    let sectors = (core.len() as u64).div_ceil(SECTOR);
    ensure!(
        core.len() >= 512 && sectors <= CORE_SECTORS,
        "GRUB's core.img has an odd size"
    );
    let list = &mut core[BLOCK_LIST_AT..BLOCK_LIST_AT + 12];
    list[..8].copy_from_slice(&(core_lba + 1).to_le_bytes());
    list[8..10].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
    list[10..].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());
    Ok(core)
}

fn write_at(file: &mut File, at: u64, bytes: &[u8]) -> Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)?;
    Ok(())
}

/// Writes only what is not zero, so that the file takes no more space than what is in it.
fn write_sparse(file: &mut File, at: u64, bytes: &[u8]) -> Result<()> {
    for (index, chunk) in bytes.chunks(4096).enumerate() {
        if chunk.iter().any(|&byte| byte != 0) {
            write_at(file, at + index as u64 * 4096, chunk)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_core_image_says_where_its_rest_is() {
        let core = linked_core(vec![7; 1300], 2048).unwrap();
        assert_eq!(core[0x1f4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 8]);
        assert_eq!(core.len(), 1300);
        assert!(linked_core(vec![0; 2 << 20], 2048).is_err());
    }

    #[test]
    fn the_partition_holds_what_was_put_in() {
        let esp = esp(b"image", b"loader", Some(b"node.name = \"a\"")).unwrap();
        let fs = fatfs::FileSystem::new(Cursor::new(esp), fatfs::FsOptions::new()).unwrap();
        assert_eq!(fs.fat_type(), fatfs::FatType::Fat32);
        for (name, content) in [
            ("ferrite.elf", "image"),
            ("EFI/BOOT/BOOTX64.EFI", "loader"),
            ("boot/grub/grub.cfg", GRUB_CFG),
        ] {
            let mut text = String::new();
            fs.root_dir()
                .open_file(name)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, content);
        }
    }
}
