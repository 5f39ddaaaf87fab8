//! The configuration's three sources, read in the order in which they overrule each other.

use alloc::string::ToString;
use core::fmt;

use boot::BootInfo;
use config::{Config, ConfigError};

/// The file on the boot medium; GRUB hands it over under this name.
const MODULE: &str = "ferrite.toml";
/// The file that QEMU hands over.
const FW_CFG: &str = "opt/ferrite/config";

/// A source that is wrong.
#[derive(Debug)]
pub struct Wrong {
    source: &'static str,
    error: ConfigError,
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.source, self.error)
    }
}

/// Reads all of them.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(info: &BootInfo) -> Result<Config, Wrong> {
    let mut config = Config::default();
    for module in &info.modules {
        // What else the loader brought along is not ours.
        if module
            .name
            .split_whitespace()
            .any(|word| word.ends_with(MODULE))
        {
            apply(
                &mut config,
                "ferrite.toml on the boot medium",
                &module.bytes,
            )?;
        }
    }
    if let Some(bytes) = hal::fw_cfg::read(FW_CFG) {
        apply(&mut config, "opt/ferrite/config of fw_cfg", &bytes)?;
    }
    config
        .apply_command_line(&info.command_line)
        .map_err(|error| Wrong {
            source: "command line",
            error,
        })?;
    Ok(config)
}

fn apply(config: &mut Config, source: &'static str, bytes: &[u8]) -> Result<(), Wrong> {
    core::str::from_utf8(bytes)
        .map_err(|error| ConfigError::NotToml(error.to_string()))
        .and_then(|text| config.apply_toml(text))
        .map_err(|error| Wrong { source, error })
}
