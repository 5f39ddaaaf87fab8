//! Firmware for machines that boot from a drive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What runs before the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// The traditional BIOS that comes with QEMU.
    SeaBios,
    /// UEFI (package `ovmf`).
    Ovmf,
}

/// Code and variable store of the same build, as distributions name them.
const OVMF: [(&str, &str); 4] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];

impl Firmware {
    /// The options that install it. `folder` gets a fresh variable store: a used one remembers boot entries.
    pub(crate) fn arguments(self, folder: &Path) -> Result<Vec<String>> {
        match self {
            Self::SeaBios => Ok(Vec::new()),
            Self::Ovmf => {
                let (code, template) = ovmf()?;
                let vars = folder.join("uefi-variables.fd");
                fs::copy(&template, &vars)
                    .with_context(|| format!("cannot copy {}", template.display()))?;
                let pflash = |path: &Path, options: &str| {
                    let path = crate::escaped(&path.to_string_lossy());
                    format!("if=pflash,format=raw,file={path}{options}")
                };
                Ok(vec![
                    "-drive".into(),
                    pflash(&code, ",readonly=on"),
                    "-drive".into(),
                    pflash(&vars, ""),
                ])
            }
        }
    }
}

fn ovmf() -> Result<(PathBuf, PathBuf)> {
    for (code, vars) in OVMF {
        if Path::new(code).exists() && Path::new(vars).exists() {
            return Ok((code.into(), vars.into()));
        }
    }
    bail!("no UEFI firmware for virtual machines is installed (Debian package ovmf)")
}
