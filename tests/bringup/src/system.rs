//! The disk that is adopted: a small Linux system with its boot loader, and a GiB of files, as qcow2.
//!
//! ```text
//!   sector 0           GRUB's boot.img and a partition table
//!   1 …                GRUB's core.img
//!   partition 1        ext4: /boot (grub.cfg, kernel, initial file system), busybox with its names, /srv
//!     /srv/data        files of pseudo-random bytes; /srv/data.md5 lists them
//!     /srv/scratch     what the machine writes over
//! ```
//! Made once, without root; kept below the target folder as long as nothing that goes into it changes.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use guest::clients::run;
use guest::initramfs::{Initramfs, Kernel};
use guest::workload::pseudo_random;
use qemu::instance::target_dir;

/// Size of the disk.
pub const SIZE: u64 = 4 << 30;
/// Where its partition begins, and the file system with it.
pub const PARTITION_AT: u64 = 1 << 20;
/// Files of data: a GiB.
pub const FILES: u64 = 256;
/// Files of data of a small disk, which moves often.
pub const FEW_FILES: u64 = 48;
const FILE_BYTES: usize = 4 << 20;
/// The file that is written over.
const SCRATCH_BYTES: usize = 16 << 20;
const SECTOR: u64 = 512;
const GRUB: &str = "/usr/lib/grub/i386-pc/boot.img";
const GRUB_MODULES: [&str; 7] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "serial",
    "terminal",
];
/// Modules of the kernel that find the disk; others follow by themselves.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];
const GRUB_CFG: &str = "\
set timeout=0
serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz console=ttyS0 quiet panic=-1
initrd /boot/initrd
boot
";
/// Texts of the system, where they go, and whether they are run.
const TEXTS: [(&str, &str, bool); 8] = [
    ("boot/grub/grub.cfg", GRUB_CFG, false),
    ("etc/inittab", include_str!("../system/inittab"), false),
    ("etc/init.d/rcS", include_str!("../system/rcS"), true),
    ("usr/sbin/work", include_str!("../system/work"), true),
    ("etc/hostname", "adopted\n", false),
    ("etc/issue", "A disk from elsewhere\n\n", false),
    ("etc/passwd", "root::0:0:root:/root:/bin/sh\n", false),
    ("etc/fstab", "/dev/vda1 / ext4 defaults 0 1\n", false),
];
const INITRD: &[u8] = include_bytes!("../system/initrd");
const FOLDERS: [&str; 16] = [
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "boot/grub",
    "etc/init.d",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
    "mnt",
    "srv/data",
    "var/log",
    "lib",
];

/// A disk image, and what identifies it.
#[derive(Clone, Debug)]
pub struct System {
    /// The qcow2 file.
    pub image: PathBuf,
    /// SHA-256 of the whole disk.
    pub hash: String,
}

impl System {
    /// Makes the disk with so many files, or finds the one that was made.
    ///
    /// # Errors
    /// When a program is missing, the kernel package cannot be downloaded, or there is no room.
    pub fn prepare(files: u64) -> Result<Self> {
        let name = match files {
            FILES => "bring-up",
            _ => "bring-up-small",
        };
        let folder = std::path::absolute(target_dir().join(name))?;
        let (image, note) = (folder.join("disk.qcow2"), folder.join("disk.sha256"));
        let recipe = recipe(files);
        if let Ok(text) = fs::read_to_string(&note)
            && let Some((known, hash)) = text.trim().split_once(' ')
            && known == recipe
            && image.exists()
        {
            let hash = hash.into();
            return Ok(Self { image, hash });
        }
        eprintln!("making the disk");
        fs::create_dir_all(&folder)?;
        let _ = fs::remove_file(&note);
        let hash = make(&folder, &image, files).context("cannot make the disk")?;
        fs::write(&note, format!("{recipe} {hash}\n"))?;
        Ok(Self { image, hash })
    }
}

/// Names what goes into the disk.
fn recipe(files: u64) -> String {
    let mut hasher = DefaultHasher::new();
    (TEXTS, INITRD, MODULES, GRUB_MODULES).hash(&mut hasher);
    (SIZE, files, FILE_BYTES, SCRATCH_BYTES).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn make(folder: &Path, image: &Path, files: u64) -> Result<String> {
    let (tree, raw) = (folder.join("tree"), folder.join("disk.raw"));
    for leftover in [&tree, &raw] {
        if leftover.is_dir() {
            fs::remove_dir_all(leftover)?;
        } else if leftover.exists() {
            fs::remove_file(leftover)?;
        }
    }
    plant(&tree)?;
    add_boot(&tree, folder)?;
    add_data(&tree, files)?;
    let disk = File::create(&raw)?;
    disk.set_len(SIZE)?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-d"])
        .arg(&tree);
    // GRUB does not know what newer ones turn on.
    mke2fs.args(["-O", "^metadata_csum_seed"]);
    mke2fs
        .arg(format!("-Eoffset={PARTITION_AT},root_owner=0:0"))
        .arg(&raw);
    mke2fs.arg(format!("{}k", (SIZE - PARTITION_AT) / 1024));
    run("e2fsprogs", &mut mke2fs)?;
    add_loader(&disk, folder)?;
    let hash = hash(&raw)?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    run("qemu-utils", convert.args([&raw, image]))?;
    fs::remove_file(&raw)?;
    fs::remove_dir_all(&tree)?;
    Ok(hash)
}

/// Folders, busybox with its names, and texts.
fn plant(tree: &Path) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(tree.join(folder))?;
    }
    let busybox = "/bin/busybox";
    fs::copy(busybox, tree.join("bin/busybox"))
        .context("busybox is not installed (Debian package busybox-static)")?;
    let names = run("busybox-static", Command::new(busybox).arg("--list-full"))?;
    for name in names.lines() {
        let link = tree.join(name);
        if let (Some(folder), false) = (link.parent(), link.exists()) {
            fs::create_dir_all(folder)?;
            symlink(busybox, &link)?;
        }
    }
    for (name, text, is_run) in TEXTS {
        let path = tree.join(name);
        fs::write(&path, text)?;
        if is_run {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The kernel and its initial file system.
fn add_boot(tree: &Path, folder: &Path) -> Result<()> {
    let kernel = Kernel::fetch(&std::path::absolute(target_dir().join("linux-client"))?)?;
    fs::copy(&kernel.image, tree.join("boot/vmlinuz"))?;
    let mut system = Initramfs::new(&kernel, INITRD)?;
    system.folder("disk");
    system.program("e2fsck")?;
    for name in MODULES {
        system.module(name)?;
    }
    let initrd = folder.join("initrd");
    system.write(&initrd)?;
    fs::rename(initrd, tree.join("boot/initrd"))?;
    Ok(())
}

fn add_data(tree: &Path, files: u64) -> Result<()> {
    let mut names = Vec::new();
    for number in 0..files {
        let name = format!("data/{number:03}");
        fs::write(
            tree.join("srv").join(&name),
            pseudo_random(number, FILE_BYTES),
        )?;
        names.push(name);
    }
    fs::write(
        tree.join("srv/scratch"),
        pseudo_random(files, SCRATCH_BYTES),
    )?;
    let mut md5sum = Command::new("md5sum");
    let list = run(
        "coreutils",
        md5sum.current_dir(tree.join("srv")).args(names),
    )?;
    fs::write(tree.join("srv/data.md5"), list)?;
    Ok(())
}

/// What `grub-install` writes before the partition. GRUB expects its core right behind sector 0 unless told otherwise.
fn add_loader(disk: &File, folder: &Path) -> Result<()> {
    let path = folder.join("core.img");
    let mut mkimage = Command::new("grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o"]);
    run("grub-common", mkimage.arg(&path).args(GRUB_MODULES))?;
    let core = fs::read(&path)?;
    fs::remove_file(path)?;
    ensure!(
        core.len() as u64 <= PARTITION_AT - SECTOR,
        "GRUB's core.img has {} bytes",
        core.len()
    );
    let boot = fs::read(GRUB).context("GRUB for BIOS is missing (Debian package grub-pc-bin)")?;
    disk.write_all_at(boot.get(..440).context("GRUB's boot.img is too short")?, 0)?;
    disk.write_all_at(&core, SECTOR)?;
    // Active, Linux, without cylinders; and the mark of a partition table.
    let mut entry = [0; 16];
    (entry[0], entry[4]) = (0x80, 0x83);
    entry[8..12].copy_from_slice(&u32::try_from(PARTITION_AT / SECTOR)?.to_le_bytes());
    let sectors = u32::try_from((SIZE - PARTITION_AT) / SECTOR)?;
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    disk.write_all_at(&entry, 446)?;
    disk.write_all_at(&[0x55, 0xaa], 510)?;
    Ok(())
}

/// SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let said = run("coreutils", Command::new("sha256sum").arg(path))?;
    let word = said.split_whitespace().next();
    word.map(Into::into).context("sha256sum says nothing")
}
