//! `--host`: what a host with hardware virtualisation offers, found out before anything is measured on it.
//!
//! Nothing is changed: drivers are bound and modules loaded by whoever owns the host. Each **finding** is something that was
//! looked for; a run is refused when one that it cannot do without is missing, with the words that put it right.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

/// PCI class of NVMe controllers (PCI Code and ID Assignment, mass storage, non-volatile memory, NVMe I/O).
const NVME_CLASS: &str = "0x010802";
/// The driver that hands a device to a program.
const DRIVER: &str = "vfio-pci";
/// Why nothing can be handed to a guest.
const NO_IOMMU: &str = "no IOMMU group; switch the IOMMU on in the firmware and boot with intel_iommu=on or amd_iommu=on";

/// Something that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    what: &'static str,
    found: Result<String, String>,
    is_needed: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.found, self.is_needed) {
            (Ok(found), _) => write!(out, "found    {}: {found}", self.what),
            (Err(why), true) => write!(out, "MISSING  {}: {why}", self.what),
            (Err(why), false) => write!(out, "absent   {}: {why}", self.what),
        }
    }
}

/// Looks at the host below `root` (`/`, or a copy of what matters in tests); `drive` is the PCI address of an NVMe controller
/// that is to be passed through.
#[must_use]
pub fn look(root: &Path, has_kvm: bool, is_root: bool, drive: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![
        Finding {
            what: "hardware virtualisation",
            found: match has_kvm {
                true => Ok("KVM".into()),
                false => Err(why_no_kvm(root).into()),
            },
            is_needed: true,
        },
        Finding {
            what: "root",
            found: match is_root {
                true => Ok("yes".into()),
                false => Err("taps and devices need it".into()),
            },
            is_needed: true,
        },
        Finding {
            what: "frequency of cores",
            found: governor(root),
            is_needed: false,
        },
    ];
    match drive {
        None => findings.extend([
            Finding {
                what: "a drive",
                found: Err(format!(
                    "none named (--drive ADDRESS), so that an emulated one on a file in memory it is; {}",
                    controllers(root)
                )),
                is_needed: false,
            },
            Finding {
                what: "devices for guests",
                found: iommu(root),
                is_needed: false,
            },
        ]),
        Some(address) => findings.extend(passed_through(root, address)),
    }
    findings
}

/// Prints what was found.
///
/// # Errors
/// When something is missing that a run cannot do without.
pub fn require(findings: &[Finding]) -> Result<()> {
    for finding in findings {
        eprintln!("{finding}");
    }
    let missing: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.is_needed && finding.found.is_err())
        .map(|finding| finding.what)
        .collect();
    if !missing.is_empty() {
        bail!(
            "this host cannot be measured, it lacks: {}",
            missing.join(", ")
        );
    }
    Ok(())
}

fn why_no_kvm(root: &Path) -> &'static str {
    let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let has_flag = cpuinfo
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm");
    match (root.join("dev/kvm").exists(), has_flag) {
        (_, false) => {
            "the processor shows neither vmx nor svm; switch it on in the firmware, or, in a virtual machine, in its host \
             (nested virtualisation)"
        }
        (false, true) => "no /dev/kvm; load kvm_intel or kvm_amd",
        (true, true) => "/dev/kvm cannot be opened for reading and writing",
    }
}

/// Which drives could be named.
fn controllers(root: &Path) -> String {
    let devices = fs::read_dir(root.join("sys/bus/pci/devices"));
    let mut names: Vec<String> = devices
        .into_iter()
        .flatten()
        .flatten()
        .filter(|device| {
            let class = fs::read_to_string(device.path().join("class"));
            class.is_ok_and(|class| class.trim() == NVME_CLASS)
        })
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    match names.is_empty() {
        true => "this host has no NVMe controller".into(),
        false => format!("this host has {}", names.join(", ")),
    }
}

fn iommu(root: &Path) -> Result<String, String> {
    let groups = fs::read_dir(root.join("sys/kernel/iommu_groups"));
    match groups.map_or(0, Iterator::count) {
        0 => Err(NO_IOMMU.into()),
        count => Ok(format!("{count} IOMMU groups")),
    }
}

fn governor(root: &Path) -> Result<String, String> {
    let path = root.join("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let governor = fs::read_to_string(path).map_err(|_| "not under this system's control")?;
    match governor.trim() {
        "performance" => Ok("performance".into()),
        other => Err(format!(
            "{other}; times vary less with the governor `performance`"
        )),
    }
}

fn passed_through(root: &Path, address: &str) -> Vec<Finding> {
    let device = root.join("sys/bus/pci/devices").join(address);
    let needed = |what, found| Finding {
        what,
        found,
        is_needed: true,
    };
    let class = fs::read_to_string(device.join("class")).unwrap_or_default();
    let controller = match class.trim() {
        "" => Err(format!(
            "there is no PCI device {address}; `lspci -D` lists them"
        )),
        NVME_CLASS => Ok(address.to_owned()),
        other => Err(format!("{address} is no NVMe controller (class {other})")),
    };
    if controller.is_err() {
        return vec![needed("NVMe controller", controller)];
    }
    let driver = link_name(&device.join("driver"));
    let driver = match driver.as_deref() {
        Some(DRIVER) => Ok(DRIVER.to_owned()),
        other => Err(format!(
            "{}; if nothing on it is wanted: `echo {DRIVER} > /sys/bus/pci/devices/{address}/driver_override`, write \
             {address} to its driver's `unbind` and then to /sys/bus/pci/drivers_probe",
            other.map_or("no driver".into(), |name| format!("bound to {name}"))
        )),
    };
    vec![
        needed("NVMe controller", controller),
        needed("driver of the controller", driver),
        needed("IOMMU group", group(root, &device)),
    ]
}

/// The group, when all that is in it may be handed over.
fn group(root: &Path, device: &Path) -> Result<String, String> {
    let group = link_name(&device.join("iommu_group")).ok_or(NO_IOMMU)?;
    let members =
        fs::read_dir(device.join("iommu_group/devices")).map_err(|error| error.to_string())?;
    for member in members.flatten() {
        let driver = link_name(&member.path().join("driver"));
        // Bridges stay with the host.
        if !matches!(driver.as_deref(), None | Some(DRIVER | "pcieport")) {
            let name = member.file_name().to_string_lossy().into_owned();
            return Err(format!(
                "{name} in the same group is bound to {}",
                driver.unwrap_or_default()
            ));
        }
    }
    let node = root.join("dev/vfio").join(&group);
    match node.exists() {
        true => Ok(group),
        false => Err(format!(
            "there is no /dev/vfio/{group}; load the module {DRIVER}"
        )),
    }
}

fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use guest::Scratch;

    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    /// A host with one controller that `driver` has.
    fn host(driver: &str) -> Scratch {
        let host = Scratch::new("preflight");
        let device = host.file(&format!("sys/bus/pci/devices/{ADDRESS}"));
        let group = host.file("sys/kernel/iommu_groups/7/devices");
        for folder in [&device, &group, &host.file("dev/vfio")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(device.join("class"), "0x010802\n").unwrap();
        symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
        symlink(
            host.file("sys/kernel/iommu_groups/7"),
            device.join("iommu_group"),
        )
        .unwrap();
        symlink(&device, group.join(ADDRESS)).unwrap();
        fs::write(host.file("dev/vfio/7"), "").unwrap();
        host
    }

    fn verdict(host: &Scratch, drive: Option<&str>) -> Result<()> {
        require(&look(host.path(), true, true, drive))
    }

    #[test]
    fn a_drive_is_taken_only_when_it_was_given_away() {
        verdict(&host("vfio-pci"), Some(ADDRESS)).unwrap();
        let error = verdict(&host("nvme"), Some(ADDRESS)).unwrap_err();
        assert!(
            error.to_string().contains("driver of the controller"),
            "{error}"
        );
        let error = verdict(&host("vfio-pci"), Some("0000:02:00.0")).unwrap_err();
        assert!(error.to_string().contains("NVMe controller"), "{error}");
        let without = host("vfio-pci");
        fs::remove_file(without.file("dev/vfio/7")).unwrap();
        assert!(verdict(&without, Some(ADDRESS)).is_err());
    }

    #[test]
    fn without_virtualisation_nothing_is_measured() {
        let host = host("vfio-pci");
        assert!(require(&look(host.path(), false, true, None)).is_err());
        assert!(require(&look(host.path(), true, false, None)).is_err());
        verdict(&host, None).unwrap();
    }

    #[test]
    fn what_is_lacking_is_named() {
        let host = host("nvme");
        let told = |host: &Scratch| {
            let findings = look(host.path(), false, true, None);
            findings
                .iter()
                .map(|finding| format!("{finding}\n"))
                .collect::<String>()
        };
        let flags = host.file("proc/cpuinfo");
        fs::create_dir_all(flags.parent().unwrap()).unwrap();
        fs::write(&flags, "flags : fpu sse\n").unwrap();
        fs::write(host.file("dev/kvm"), "").unwrap();
        let text = told(&host);
        assert!(text.contains("neither vmx nor svm"), "{text}");
        assert!(text.contains(&format!("this host has {ADDRESS}")), "{text}");
        assert!(text.contains("found    devices for guests: 1"), "{text}");
        fs::write(&flags, "flags : fpu svm\n").unwrap();
        assert!(told(&host).contains("cannot be opened"));
        fs::remove_file(host.file("dev/kvm")).unwrap();
        assert!(told(&host).contains("no /dev/kvm"));
    }
}
