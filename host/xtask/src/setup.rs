//! Host programs that builds, machines and tests need, and how they get installed.
//!
//! What is there is found out by looking for files, not by asking a package manager: programs may come from anywhere.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::steps::run;

/// Options of `setup`.
#[derive(Args)]
pub struct SetupArgs {
    /// Only say what is missing; exits non-zero if anything is
    #[arg(long)]
    dry_run: bool,
}

/// What a command is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Boot the image.
    Machine,
    /// Write the flashable disk image.
    DiskImage,
    /// Run outside clients against it.
    Tests,
    /// Look at its console with a browser.
    Browser,
}

/// A Debian package, what is looked for to see that it is there, and who needs it.
struct Package {
    name: &'static str,
    /// A program in `PATH`, or an absolute path; any one of them will do.
    evidence: &'static [&'static str],
    need: Need,
}

const PACKAGES: [Package; 15] = [
    package("qemu-system-x86", &["qemu-system-x86_64"], Need::Machine),
    package("grub-common", &["grub-mkimage"], Need::DiskImage),
    package(
        "grub-pc-bin",
        &["/usr/lib/grub/i386-pc/boot.img"],
        Need::DiskImage,
    ),
    package(
        "grub-efi-amd64-bin",
        &["/usr/lib/grub/x86_64-efi/multiboot2.mod"],
        Need::DiskImage,
    ),
    package(
        "ovmf",
        &[
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_CODE.fd",
        ],
        Need::Tests,
    ),
    package("qemu-utils", &["qemu-io"], Need::Tests),
    package("libnbd-bin", &["nbdcopy"], Need::Tests),
    package("nbdkit", &["nbdkit"], Need::Tests),
    package("fio", &["fio"], Need::Tests),
    package(
        "busybox-static",
        &["/bin/busybox", "/usr/bin/busybox"],
        Need::Tests,
    ),
    package(
        "nbd-client",
        &["/usr/sbin/nbd-client", "/sbin/nbd-client"],
        Need::Tests,
    ),
    package(
        "e2fsprogs",
        &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"],
        Need::Tests,
    ),
    package("nodejs", &["node"], Need::Browser),
    package("npm", &["npm"], Need::Browser),
    package("chromium", &["/usr/bin/chromium"], Need::Browser),
];

const fn package(name: &'static str, evidence: &'static [&'static str], need: Need) -> Package {
    Package {
        name,
        evidence,
        need,
    }
}

impl Package {
    fn is_there(&self) -> bool {
        self.evidence
            .iter()
            .any(|&thing| match thing.starts_with('/') {
                true => Path::new(thing).exists(),
                false => program_exists(thing),
            })
    }
}

/// Runs `setup`: everything that any command needs.
///
/// # Errors
/// When something is missing and cannot be installed from here.
pub fn command(args: &SetupArgs) -> Result<()> {
    let missing = missing(Need::Browser);
    if missing.is_empty() {
        println!("everything is installed");
        return Ok(());
    }
    if args.dry_run {
        bail!("missing: {}", names(&missing));
    }
    ensure(Need::Browser)
}

/// What `need` takes and is missing, as Debian packages.
#[must_use]
pub fn lacks(need: Need) -> Option<String> {
    let missing = missing(need);
    (!missing.is_empty()).then(|| names(&missing))
}

/// Installs what `need` takes and is missing.
///
/// # Errors
/// When that is not possible from here; the error names the command to type.
pub fn ensure(need: Need) -> Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        return if need >= Need::Tests {
            ensure_package_lists()
        } else {
            Ok(())
        };
    }
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        names(&missing)
    );
    if !program_exists("apt-get") {
        bail!(
            "these host programs are missing, named as Debian packages: {}",
            names(&missing)
        );
    }
    let Some(prefix) = privilege() else {
        bail!("host programs are missing; as root run:\n    {by_hand}");
    };
    eprintln!("==> installing {}", names(&missing));
    apt(prefix, &["update", "-qq"])?;
    // Twice: the first round may remove what is too new to live with QEMU (its own utilities from elsewhere, say).
    for _ in 0..2 {
        install_missing(prefix, need);
    }
    let left = self::missing(need);
    if !left.is_empty() {
        bail!(
            "could not install {}; the messages above say why. By hand: {by_hand}",
            names(&left)
        );
    }
    Ok(())
}

/// The Linux client of the tests is made from a kernel package that is downloaded but never installed, so the lists of
/// packages must be there even when every program is.
fn ensure_package_lists() -> Result<()> {
    let lists = fs::read_dir("/var/lib/apt/lists")
        .into_iter()
        .flatten()
        .flatten();
    let is_list = |name: &str| name.contains("_Packages");
    if lists
        .map(|entry| entry.file_name())
        .any(|name| is_list(&name.to_string_lossy()))
    {
        return Ok(());
    }
    match privilege() {
        Some(prefix) if program_exists("apt-get") => apt(prefix, &["update", "-qq"]),
        _ => bail!("the lists of packages are missing; as root run:\n    apt-get update"),
    }
}

fn missing(need: Need) -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| package.need <= need && !package.is_there())
        .collect()
}

fn names(packages: &[&Package]) -> String {
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name).collect();
    Vec::from_iter(names).join(" ")
}

/// What goes before `apt-get`: nothing as root, `sudo` where it is and can ask or needs not.
fn privilege() -> Option<&'static [&'static str]> {
    if is_root() {
        return Some(&[]);
    }
    if !program_exists("sudo") {
        return None;
    }
    if std::io::stdin().is_terminal() {
        return Some(&["sudo"]);
    }
    let silent = Command::new("sudo").args(["-n", "true"]).output();
    silent
        .is_ok_and(|output| output.status.success())
        .then_some(&["sudo", "-n"])
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// One at a time: where one conflicts with what is already there, the others still get in. What counts is what is
/// there in the end, so a failure is only printed.
fn install_missing(prefix: &[&str], need: Need) {
    for package in missing(need) {
        let arguments = ["install", "-qq", "-y", "--no-install-recommends"];
        if let Err(error) = apt(prefix, &[&arguments[..], &[package.name]].concat()) {
            eprintln!("{error}");
        }
    }
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    // `env` and not our own environment: sudo does not pass that on.
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    run(Command::new(words[0])
        .args(&words[1..])
        .stdout(std::io::stderr()))
}

fn program_exists(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_needs_less_than_the_tests() {
        let needs = |need| PACKAGES.iter().filter(|p| p.need <= need).count();
        assert!(needs(Need::Machine) < needs(Need::DiskImage));
        assert!(needs(Need::DiskImage) < needs(Need::Tests));
        assert_eq!(needs(Need::Browser), PACKAGES.len());
    }

    #[test]
    fn looks_for_programs_and_files() {
        assert!(program_exists("sh"));
        assert!(!program_exists("no-such-program-here"));
        assert!(
            package(
                "x",
                &["no-such-program-here", "/proc/self/status"],
                Need::Machine
            )
            .is_there()
        );
    }
}
