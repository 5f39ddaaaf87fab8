//! Builds the image: the linked program, packed with the table of its functions, and the disk image around it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use qemu::instance::{shown, target_dir};
use qemu::size::human;

use crate::disk_image;
use crate::setup::{self, Need};
use crate::steps::{cargo, run, step};

/// The image's binary, as `kernel/appliance` names it.
const BINARY: &str = "ferrite";

/// Options of `image`.
#[derive(Args)]
pub struct ImageArgs {
    /// Configuration that the disk image carries (TOML); without it fw_cfg or the command line configure the appliance
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `image`.
///
/// # Errors
/// When it does not build.
pub fn command(args: &ImageArgs) -> Result<()> {
    setup::ensure(Need::DiskImage)?;
    let elf = build()?;
    let disk = build_disk(&elf, args.config.as_deref())?;
    for (path, use_) in [
        (elf, "qemu-system-x86_64 -kernel"),
        (disk, "flashable, BIOS + UEFI"),
    ] {
        println!(
            "{} ({}; {use_})",
            shown(&path),
            human(fs::metadata(&path)?.len())
        );
    }
    Ok(())
}

/// Where `ferrite.elf` is once it was built.
#[must_use]
pub fn built() -> PathBuf {
    dist().join("ferrite.elf")
}

/// Builds `ferrite.elf` and returns where it is.
///
/// # Errors
/// When it does not build or is not such an image.
pub fn build() -> Result<PathBuf> {
    step("image", || {
        // A folder of its own: host builds share neither features nor cargo's lock with the image.
        let folder = target_dir().join("image");
        let mut build = cargo();
        build
            .args([
                "build",
                "--release",
                "--package",
                "appliance",
                "--target-dir",
            ])
            .arg(&folder);
        run(&mut build)?;
        let linked = folder.join("release").join(BINARY);
        let bytes = fs::read(&linked)
            .with_context(|| format!("no image at {} after the build", linked.display()))?;
        let packed =
            symbols::pack(&bytes).with_context(|| format!("cannot pack {}", linked.display()))?;
        write_dist("ferrite.elf", &packed)
    })
}

/// Builds `ferrite.img` around `elf` and returns where it is.
///
/// # Errors
/// When GRUB's parts are missing or the configuration is unusable.
pub fn build_disk(elf: &Path, config: Option<&Path>) -> Result<PathBuf> {
    step("disk image", || {
        let config = match config {
            Some(path) => {
                Some(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => None,
        };
        let path = dist().join("ferrite.img");
        disk_image::write(&path, &fs::read(elf)?, config.as_deref())?;
        Ok(path)
    })
}

/// The folder of finished images.
#[must_use]
pub fn dist() -> PathBuf {
    target_dir().join("dist")
}

/// Replaces a file in one step: a machine that boots just now sees the old or the new image, never half of one.
fn write_dist(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(dist())?;
    let path = dist().join(name);
    let new = dist().join(format!("{name}.new"));
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &path)?;
    Ok(path)
}
