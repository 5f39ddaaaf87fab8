//! `--drive`: what users write, and the drives that come of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use qemu::instance::{Instance, shown};
use qemu::size::{human, parse};
use qemu::{Bus, Drive, sparse_file};

/// The drive of an appliance that was asked for nothing.
const DEFAULT_BYTES: u64 = 8 << 30;
/// The least that a pool fits on.
const LEAST_BYTES: u64 = 64 << 20;
/// Drives of one machine.
const DRIVES_MAX: usize = 16;

/// Makes the drives that `wanted` describes; those given by size live in the instance's folder from run to run.
///
/// # Errors
/// When a description makes no sense or the file is missing, too small, or of another size than asked for.
pub fn prepare(wanted: &[String], sector_bytes: u32, instance: &Instance) -> Result<Vec<Drive>> {
    if wanted.len() > DRIVES_MAX {
        bail!("at most {DRIVES_MAX} drives, not {}", wanted.len());
    }
    let drives = if wanted.is_empty() {
        kept(instance)?
    } else {
        let each = wanted.iter().enumerate();
        each.map(|(index, text)| prepare_one(index, text, instance))
            .collect::<Result<_>>()?
    };
    let drives: Vec<Drive> = drives
        .into_iter()
        .map(|drive| drive.sectors(sector_bytes))
        .collect();
    drives.iter().try_for_each(Drive::validate)?;
    Ok(drives)
}

/// The drives of earlier runs, or a first one.
fn kept(instance: &Instance) -> Result<Vec<Drive>> {
    let paths = (0..DRIVES_MAX).map(|index| file_of(instance, index));
    let kept: Vec<Drive> = paths
        .take_while(|path| path.exists())
        .map(Drive::new)
        .collect();
    if !kept.is_empty() {
        return Ok(kept);
    }
    Ok(vec![Drive::new(sparse_file(
        file_of(instance, 0),
        DEFAULT_BYTES,
    )?)])
}

fn file_of(instance: &Instance, index: usize) -> std::path::PathBuf {
    instance.folder().join(format!("drive{index}.raw"))
}

fn prepare_one(index: usize, text: &str, instance: &Instance) -> Result<Drive> {
    let (bus, source) = match text.strip_prefix("virtio:") {
        Some(rest) => (Bus::Virtio, rest),
        None => (Bus::Nvme, text),
    };
    if source.contains("://") {
        return Ok(Drive::new(source).on(bus));
    }
    if let Ok(bytes) = parse(source) {
        return Ok(Drive::new(file_of_size(index, bytes, instance)?).on(bus));
    }
    if !Path::new(source).exists() {
        bail!(
            "--drive {text}: there is no file {source}, and it is neither a size (8GiB) nor a URI (nbd://…); \
             `truncate -s 8G {source}` makes an empty drive"
        );
    }
    Ok(Drive::new(source).on(bus))
}

fn file_of_size(index: usize, bytes: u64, instance: &Instance) -> Result<std::path::PathBuf> {
    if bytes < LEAST_BYTES || !bytes.is_multiple_of(4096) {
        bail!(
            "a drive has at least {} and a multiple of 4096 bytes, not {bytes}",
            human(LEAST_BYTES)
        );
    }
    let path = file_of(instance, index);
    if !path.exists() {
        return sparse_file(path, bytes);
    }
    let there = fs::metadata(&path)
        .context("the drive file cannot be read")?
        .len();
    if there != bytes {
        bail!(
            "{} has {} already, not {}; remove it to begin with an empty drive (its contents are lost), or use \
             another --name",
            shown(&path),
            human(there),
            human(bytes)
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str) -> Instance {
        let folder = std::env::temp_dir().join(format!("drives-{name}-{}", std::process::id()));
        let instance = Instance::find("x", Some(&folder)).unwrap();
        instance.create().unwrap();
        instance
    }

    fn words(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_size_makes_a_file_that_is_found_again() {
        let instance = instance("size");
        let drives = prepare(&words(&["1GiB", "virtio:64MiB"]), 512, &instance).unwrap();
        assert_eq!(fs::metadata(&drives[0].source).unwrap().len(), 1 << 30);
        assert_eq!(drives[1].bus, Bus::Virtio);
        // The same again, and by default what is there.
        prepare(&words(&["1GiB"]), 512, &instance).unwrap();
        assert_eq!(prepare(&[], 4096, &instance).unwrap().len(), 2);
        let error = prepare(&words(&["2GiB"]), 512, &instance)
            .unwrap_err()
            .to_string();
        assert!(error.contains("has 1 GiB already, not 2 GiB"), "{error}");
        fs::remove_dir_all(instance.folder()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let instance = instance("wrong");
        let odd = instance.folder().join("odd");
        fs::write(&odd, [0; 1000]).unwrap();
        for (text, part) in [
            ("nosuch.raw", "no file nosuch.raw"),
            ("4096", "at least 64 MiB"),
            (odd.to_str().unwrap(), "no whole number of 512-byte sectors"),
        ] {
            let error = format!(
                "{:#}",
                prepare(&words(&[text]), 512, &instance).unwrap_err()
            );
            assert!(error.contains(part), "{error}");
        }
        assert!(prepare(&words(&["1GiB"]), 520, &instance).is_err());
        let uri = prepare(&words(&["nbd://127.0.0.1:1/x"]), 512, &instance).unwrap();
        assert_eq!(uri[0].file(), None);
        fs::remove_dir_all(instance.folder()).unwrap();
    }
}
