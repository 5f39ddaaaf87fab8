//! Which accelerator a machine runs on.

use std::fs;
use std::str::FromStr;

use anyhow::{Error, bail};

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// KVM where it can work, else TCG.
    #[default]
    Auto,
    /// The host's own virtualisation.
    Kvm,
    /// Translation; works everywhere.
    Tcg,
}

impl Accel {
    /// `Kvm` or `Tcg`: what `Auto` means on this host.
    ///
    /// An openable `/dev/kvm` alone proves nothing: inside some virtual machines it opens and the CPU still lacks the
    /// instructions.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if kvm_works() => Self::Kvm,
            Self::Auto => Self::Tcg,
            chosen => chosen,
        }
    }

    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self.resolve() {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            _ => ["-accel", "tcg", "-cpu", "max"],
        }
    }
}

fn kvm_works() -> bool {
    let opens = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    opens && has_virtualisation(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

impl FromStr for Accel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "auto" => Self::Auto,
            "kvm" => Self::Kvm,
            "tcg" => Self::Tcg,
            _ => bail!("`{text}` is not an accelerator; known are auto, kvm and tcg"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_the_flag_as_a_whole_word() {
        assert!(has_virtualisation("flags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm"));
        assert!(!has_virtualisation(
            "flags : fpu vmxless sse\nvmx flags : vnmi\n"
        ));
    }
}
